//! What a harness has said of itself so far.

use std::collections::VecDeque;

use crate::model::outcome::Outcome;
use crate::model::usage::Usage;

/// An answer is kept up to this many bytes.
pub const ANSWER_BYTES: usize = 1 << 20;
/// The line of a terminal event is kept up to this many bytes.
pub const EVENT_BYTES: usize = 64 << 10;
/// Messages whose usage was counted already are remembered up to this many.
const MESSAGES: usize = 64;

/// The sum of all lines so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// Its session, with which one can go on.
    pub session_id: Option<String>,
    /// The model it says it uses.
    pub model: Option<String>,
    /// Its version, where it says it.
    pub version: Option<String>,
    /// What it used so far; what it did not say is absent.
    pub usage: Usage,
    /// Its final answer, as far as there is one.
    pub answer: Option<String>,
    /// How it says that it went, and the line that said so.
    pub declared: Option<(Outcome, String)>,
    /// The last error it spoke of, which need not be the end.
    pub last_error: Option<String>,
    /// How often in a row it spoke of that same error.
    pub same_error: u32,
    /// Steps in a row that used no tokens and did nothing.
    pub empty_steps: u32,
    /// Tool calls.
    pub tool_calls: u64,
    /// Lines.
    pub lines: u64,
    /// Lines that were not understood.
    pub not_understood: u64,
    /// Messages whose usage was counted.
    counted: VecDeque<String>,
    /// Whether the last piece of an answer goes on.
    answer_is_open: bool,
}

impl Heard {
    /// Notes an error, in the middle of things.
    pub fn error(&mut self, message: &str) {
        let message: String = message.chars().take(2000).collect();
        self.same_error = if self.last_error.as_ref() == Some(&message) { self.same_error + 1 } else { 1 };
        self.last_error = Some(message);
    }

    /// Notes the harness's own word on how it went.
    pub fn declare(&mut self, outcome: Outcome, line: &str) {
        self.declared = Some((outcome, cut(line, EVENT_BYTES).to_owned()));
    }

    /// Notes a whole answer, in the place of an earlier one.
    pub fn answer(&mut self, text: &str) {
        self.answer = Some(cut(text, ANSWER_BYTES).to_owned());
        self.answer_is_open = false;
        self.progress();
    }

    /// Notes a piece of an answer, which goes on with the last piece unless something came in between.
    pub fn answer_piece(&mut self, text: &str) {
        if !std::mem::replace(&mut self.answer_is_open, true) {
            self.answer = Some(String::new());
        }
        let answer = self.answer.get_or_insert_default();
        let room = ANSWER_BYTES.saturating_sub(answer.len());
        answer.push_str(cut(text, room));
        self.progress();
    }

    /// Notes the answer of a step, which may be no progress: a broken stream says the same again and again.
    pub fn answer_of_step(&mut self, text: &str) {
        let empty_steps = self.empty_steps;
        self.answer(text);
        self.empty_steps = empty_steps;
    }

    /// Notes that it used a tool: what it said before was no final answer.
    pub fn tool_call(&mut self) {
        self.tool_calls += 1;
        self.answer_is_open = false;
        self.progress();
        self.same_error = 0;
    }

    fn progress(&mut self) {
        self.empty_steps = 0;
    }

    /// Notes a step that ended, and whether it used anything.
    pub fn step(&mut self, tokens: u64) {
        self.usage.turns = Some(self.usage.turns.unwrap_or(0) + 1);
        if tokens == 0 {
            self.empty_steps += 1;
        } else {
            self.empty_steps = 0;
            self.same_error = 0;
        }
    }

    /// Whether the usage of a message has not been counted yet: some harnesses say it with every piece.
    pub fn is_new_message(&mut self, id: &str) -> bool {
        if self.counted.iter().any(|known| known == id) {
            return false;
        }
        self.counted.push_back(id.to_owned());
        if self.counted.len() > MESSAGES {
            self.counted.pop_front();
        }
        true
    }

    /// Adds tokens of one step.
    pub fn add_tokens(&mut self, input: u64, output: u64, cached: u64) {
        let add = |sum: &mut Option<u64>, more: u64| *sum = Some(sum.unwrap_or(0).saturating_add(more));
        add(&mut self.usage.input_tokens, input);
        add(&mut self.usage.output_tokens, output);
        add(&mut self.usage.cached_tokens, cached);
        add(&mut self.usage.total_tokens, input.saturating_add(output));
    }

    /// Sets the tokens to what the harness says they are in all.
    pub fn set_tokens(&mut self, input: Option<u64>, output: Option<u64>, cached: Option<u64>) {
        let usage = &mut self.usage;
        usage.input_tokens = input.or(usage.input_tokens);
        usage.output_tokens = output.or(usage.output_tokens);
        usage.cached_tokens = cached.or(usage.cached_tokens);
        usage.total_tokens = match (usage.input_tokens, usage.output_tokens) {
            (None, None) => None,
            (input, output) => Some(input.unwrap_or(0).saturating_add(output.unwrap_or(0))),
        };
    }

    /// Adds money, in US dollars; nonsense is passed over.
    pub fn add_cost(&mut self, dollars: Option<f64>) {
        if let Some(dollars) = dollars.filter(|d| d.is_finite() && *d >= 0.0) {
            self.usage.cost_usd = Some(self.usage.cost_usd.unwrap_or(0.0) + dollars);
        }
    }

    /// Sets the money to what the harness says it is in all.
    pub fn set_cost(&mut self, dollars: Option<f64>) {
        if let Some(dollars) = dollars.filter(|d| d.is_finite() && *d >= 0.0) {
            self.usage.cost_usd = Some(dollars);
        }
    }
}

/// The beginning of a text, at most so many bytes of it.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}
