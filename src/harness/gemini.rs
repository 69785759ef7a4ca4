//! Gemini CLI: `gemini -o stream-json`, one event a line.
//!
//! The last event says how it went; exit codes do not (0 with an error, or an HTTP status cut to eight bits).

use serde_json::Value;

use super::call::{Ask, Call, PromptBy, has_flag, option};
use super::heard::Heard;
use crate::model::outcome::Outcome;

/// Called with the prompt on the command line: what is on standard input would be added to it.
#[must_use]
pub fn call(ask: &Ask) -> Call {
    let mut argv = ask.program("gemini", &["-o", "stream-json"]);
    option(&mut argv, "-m", ask.model.as_ref());
    option(&mut argv, "-r", ask.resume.as_ref());
    let session = ask.new_session.clone().filter(|_| ask.resume.is_none());
    option(&mut argv, "--session-id", session.as_ref());
    argv.extend(ask.extra.iter().cloned());
    argv.push(format!("--prompt={}", ask.prompt));
    Call { argv, prompt_by: PromptBy::Argument, session }
}

/// `gemini -p` without a format speaks only its answer.
#[must_use]
pub fn flags_to_hear(argv: &[String]) -> Vec<String> {
    let asks = has_flag(argv, &["-p", "--prompt"]);
    if asks && !has_flag(argv, &["-o", "--output-format"]) {
        ["-o", "stream-json"].map(str::to_owned).to_vec()
    } else {
        Vec::new()
    }
}

/// Takes one event; false where it says nothing that is known.
pub fn hear(event: &Value, line: &str, heard: &mut Heard) -> bool {
    match event["type"].as_str() {
        Some("init") => {
            heard.session_id = event["session_id"].as_str().map(str::to_owned);
            heard.model = event["model"].as_str().map(str::to_owned);
        }
        Some("message") if event["role"] == "assistant" => {
            let text = event["content"].as_str().unwrap_or_default();
            if event["delta"].as_bool() == Some(true) { heard.answer_piece(text) } else { heard.answer(text) }
        }
        Some("message" | "tool_result") => {}
        Some("tool_use") => heard.tool_call(),
        Some("error") => heard.error(event["message"].as_str().unwrap_or("error")),
        Some("result") => result(event, line, heard),
        _ => return false,
    }
    true
}

fn result(event: &Value, line: &str, heard: &mut Heard) {
    let stats = &event["stats"];
    let n = |key: &str| stats[key].as_u64();
    heard.set_tokens(n("input_tokens"), n("output_tokens"), n("cached"));
    // The total counts thinking too, which is in neither of the two.
    heard.usage.total_tokens = n("total_tokens").or(heard.usage.total_tokens);
    if event["status"] == "success" {
        return heard.declare(Outcome::Success, line);
    }
    let said = event["error"]["message"].as_str().map(str::to_owned);
    let why = said.or(heard.last_error.clone()).unwrap_or_else(|| "the result is an error".to_owned());
    heard.error(&why);
    heard.declare(Outcome::Error(why), line);
}
