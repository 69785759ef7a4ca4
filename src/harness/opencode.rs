//! opencode: `opencode run --format json`, one event a line.
//!
//! There is no final event: it went well when the last step ended with the reason `stop`. A model stream that breaks
//! makes it begin step after step, each without a single token.

use serde_json::Value;

use super::call::{Ask, Call, PromptBy, has_flag, option};
use super::heard::Heard;
use crate::model::outcome::Outcome;

/// Called with the prompt on the command line.
#[must_use]
pub fn call(ask: &Ask) -> Call {
    let mut argv = ask.program("opencode", &["run", "--format", "json"]);
    option(&mut argv, "-m", ask.model.as_ref());
    option(&mut argv, "-s", ask.resume.as_ref());
    argv.extend(ask.extra.iter().cloned());
    argv.extend(["--".to_owned(), ask.prompt.clone()]);
    Call { argv, prompt_by: PromptBy::Argument, session: None }
}

/// `opencode run` without a format speaks for people.
#[must_use]
pub fn flags_to_hear(argv: &[String]) -> Vec<String> {
    let runs = argv.get(1).is_some_and(|word| word == "run");
    if runs && !has_flag(argv, &["--format"]) {
        ["--format", "json"].map(str::to_owned).to_vec()
    } else {
        Vec::new()
    }
}

/// Takes one event; false where it says nothing that is known.
pub fn hear(event: &Value, line: &str, heard: &mut Heard) -> bool {
    if let Some(session) = event["sessionID"].as_str() {
        heard.session_id = Some(session.to_owned());
    }
    let part = &event["part"];
    match event["type"].as_str() {
        // What was declared was the end of a step, and there is another one.
        Some("step_start") => heard.declared = None,
        Some("text") => heard.answer_of_step(part["text"].as_str().unwrap_or_default()),
        Some("tool_use") => heard.tool_call(),
        Some("step_finish") => step(part, line, heard),
        Some("error") => {
            let error = &event["error"];
            let said = error["data"]["message"].as_str().or(error["name"].as_str());
            let why = said.unwrap_or("error").to_owned();
            heard.error(&why);
            heard.declare(Outcome::Error(why), line);
        }
        Some("reasoning") => {}
        _ => return false,
    }
    true
}

fn step(part: &Value, line: &str, heard: &mut Heard) {
    let tokens = &part["tokens"];
    let n = |value: &Value| value.as_u64().unwrap_or(0);
    let (cached, written) = (n(&tokens["cache"]["read"]), n(&tokens["cache"]["write"]));
    let (input, output) =
        (n(&tokens["input"]) + cached + written, n(&tokens["output"]) + n(&tokens["reasoning"]));
    if tokens.is_object() {
        heard.add_tokens(input, output, cached);
    }
    heard.add_cost(part["cost"].as_f64());
    heard.step(input + output);
    match part["reason"].as_str() {
        Some("stop") => heard.declare(Outcome::Success, line),
        Some("length" | "error" | "content-filter") => {
            let why = format!("the last step ended with {}", part["reason"]);
            heard.declare(Outcome::Error(why), line);
        }
        _ => {}
    }
}
