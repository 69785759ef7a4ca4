//! Claude Code: `claude -p`, whose output is one JSON event a line.
//!
//! Usage comes with every assistant message (several lines may carry the same message: each is counted once) and again
//! as a whole in the last event, which also has the cost. That event can say `success` and `is_error` at once.

use serde_json::Value;

use super::call::{Ask, Call, PromptBy, has_flag, option};
use super::heard::Heard;
use crate::model::outcome::Outcome;

/// Called with the prompt on standard input: a command line has an end.
#[must_use]
pub fn call(ask: &Ask) -> Call {
    let mut argv = ask.program("claude", &["-p", "--output-format", "stream-json", "--verbose"]);
    option(&mut argv, "--model", ask.model.as_ref());
    option(&mut argv, "--append-system-prompt", ask.system.as_ref());
    option(&mut argv, "--resume", ask.resume.as_ref());
    let session = ask.new_session.clone().filter(|_| ask.resume.is_none());
    option(&mut argv, "--session-id", session.as_ref());
    argv.extend(ask.extra.iter().cloned());
    Call { argv, prompt_by: PromptBy::Stdin, session }
}

/// `claude -p` without a format speaks only its answer.
#[must_use]
pub fn flags_to_hear(argv: &[String]) -> Vec<String> {
    if !has_flag(argv, &["-p", "--print"]) || has_flag(argv, &["--output-format"]) {
        return Vec::new();
    }
    ["--output-format", "stream-json", "--verbose"].map(str::to_owned).to_vec()
}

/// Takes one event; false where it says nothing that is known.
pub fn hear(event: &Value, line: &str, heard: &mut Heard) -> bool {
    if let Some(session) = event["session_id"].as_str() {
        heard.session_id = Some(session.to_owned());
    }
    match event["type"].as_str() {
        Some("system") => {
            let text = |key: &str| event[key].as_str().map(str::to_owned);
            heard.model = text("model").or(heard.model.take());
            heard.version = text("claude_code_version").or(heard.version.take());
        }
        Some("assistant") => assistant(&event["message"], heard),
        Some("user") => {}
        Some("result") => result(event, line, heard),
        _ => return false,
    }
    true
}

fn assistant(message: &Value, heard: &mut Heard) {
    for part in message["content"].as_array().into_iter().flatten() {
        match part["type"].as_str() {
            Some("text") => heard.answer(part["text"].as_str().unwrap_or_default()),
            Some("tool_use") => heard.tool_call(),
            _ => {}
        }
    }
    let usage = &message["usage"];
    let is_new = message["id"].as_str().is_none_or(|id| heard.is_new_message(id));
    if usage.is_object() && is_new {
        let (input, output, cached) = tokens(usage);
        heard.add_tokens(input.unwrap_or(0), output.unwrap_or(0), cached.unwrap_or(0));
        heard.step(input.unwrap_or(0) + output.unwrap_or(0));
    }
}

/// Tokens read (those of the cache included), written, and read from the cache.
fn tokens(usage: &Value) -> (Option<u64>, Option<u64>, Option<u64>) {
    let n = |key: &str| usage[key].as_u64();
    let cached = n("cache_read_input_tokens");
    let read = [n("input_tokens"), n("cache_creation_input_tokens"), cached];
    let input = read.iter().any(Option::is_some).then(|| read.iter().flatten().sum());
    (input, n("output_tokens"), cached)
}

fn result(event: &Value, line: &str, heard: &mut Heard) {
    let (input, output, cached) = tokens(&event["usage"]);
    heard.set_tokens(input, output, cached);
    heard.set_cost(event["total_cost_usd"].as_f64().or(event["cost_usd"].as_f64()));
    heard.usage.turns = event["num_turns"].as_u64().or(heard.usage.turns);
    let said = event["result"].as_str();
    if let Some(answer) = said {
        heard.answer(answer);
    }
    let subtype = event["subtype"].as_str().unwrap_or_default();
    let fine = subtype == "success" && event["is_error"].as_bool() != Some(true);
    let outcome = if fine {
        Outcome::Success
    } else {
        let first = event["errors"].as_array().and_then(|errors| errors.first()).and_then(Value::as_str);
        let why = first.or(said.filter(|text| !text.is_empty())).unwrap_or(subtype);
        heard.error(why);
        Outcome::Error(why.to_owned())
    };
    heard.declare(outcome, line);
}
