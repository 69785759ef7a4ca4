//! Listening to a harness: its standard output, read from the log behind its back, where nobody can be in its way.
//!
//! The log is all that is needed, so whoever takes over a run hears the whole of it again, and so can a reader of a run
//! whose bookends were both killed.

use crate::harness::{Ear, Harness, Heard};
use crate::machine::Used;
use crate::model::outcome::Outcome;
use crate::model::plan::HarnessPlan;
use crate::model::record::{DeclaredInfo, HarnessInfo, Record};
use crate::model::stream::Stream;
use crate::model::usage::Usage;
use crate::store::log::{Log, Step};

/// An ear at a run's log.
pub struct Listener {
    log: Log,
    ear: Ear,
    program: String,
}

impl Listener {
    /// An ear for `harness` at a log, from its beginning.
    #[must_use]
    pub fn new(log: Log, harness: Harness, program: String) -> Self {
        Self { log, ear: Ear::new(harness), program }
    }

    /// Hears what is new; whether it says anything that was not known.
    pub fn listen(&mut self) -> bool {
        let lines = self.ear.heard.lines;
        // What can not be read now is heard the next time, or never.
        while let Ok(step) = self.log.step() {
            match step {
                Step::Bytes(piece) if piece.stream != Some(Stream::Err) => self.ear.feed(piece.bytes),
                Step::Bytes(_) => {}
                Step::Gap(_) | Step::Cut => self.ear.gap(),
                Step::End => break,
            }
        }
        self.ear.heard.lines != lines
    }

    /// Hears the rest, once no more will come.
    pub fn finish(&mut self) {
        self.listen();
        self.ear.finish();
    }

    /// What was said so far.
    #[must_use]
    pub fn heard(&self) -> &Heard {
        &self.ear.heard
    }

    /// What was used so far, for the limits.
    #[must_use]
    pub fn used(&self) -> Used {
        let heard = self.heard();
        Used {
            cost_micro_usd: heard.usage.cost_usd.map(|dollars| (dollars * 1e6).round() as u64),
            tokens: heard.usage.total_tokens,
            turns: heard.usage.turns,
            same_error: heard.same_error,
            empty_steps: heard.empty_steps,
        }
    }

    /// Puts what was said into the record; `over` once the harness has ended.
    pub fn note(&self, plan: &HarnessPlan, record: &mut Record, over: bool) {
        let heard = self.heard();
        let used =
            Usage { source: None, scope: None, complete: None, ..heard.usage.clone() } != Usage::default();
        record.usage = used.then(|| Usage {
            source: Some("stream".to_owned()),
            scope: Some(if plan.name == "codex" { "thread" } else { "run" }.to_owned()),
            complete: over.then_some(heard.declared.is_some()),
            ..heard.usage.clone()
        });
        let session_id = heard.session_id.clone().or_else(|| plan.session_id.clone());
        let response = record.harness.take().and_then(|before| before.response);
        record.harness = Some(HarnessInfo {
            name: plan.name.clone(),
            version: heard.version.clone(),
            model: heard.model.clone().or_else(|| plan.model.clone()),
            resume: session_id.as_deref().and_then(|id| resume_line(plan, &self.program, id)),
            session_id,
            declared: heard.declared.as_ref().map(|(outcome, event)| declared(outcome, event)),
            response,
            not_understood: heard.not_understood,
        });
    }
}

fn declared(outcome: &Outcome, event: &str) -> DeclaredInfo {
    let (outcome, message) = match outcome {
        Outcome::Success => ("success", None),
        Outcome::Error(why) => ("error", Some(why.clone())),
    };
    DeclaredInfo { outcome: outcome.to_owned(), message, event: event.to_owned() }
}

/// The command line with which a person goes on with a session.
fn resume_line(plan: &HarnessPlan, program: &str, session: &str) -> Option<String> {
    let words: &[&str] = match plan.name.as_str() {
        "claude" => &["--resume"],
        "codex" => &["resume"],
        "gemini" => &["-r"],
        "opencode" => &["-s"],
        _ => return None,
    };
    let argv: Vec<String> =
        std::iter::once(program).chain(words.iter().copied()).chain([session]).map(str::to_owned).collect();
    Some(crate::view::quote::command(&argv))
}
