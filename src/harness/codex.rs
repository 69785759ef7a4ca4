//! Codex: `codex exec --json`, one event a line.
//!
//! An item of type `error` may be a mere warning; how a turn went is said by `turn.completed` and `turn.failed`. Usage is
//! that of the whole thread, so a resumed one begins with what was used before; there is never a cost.

use serde_json::Value;

use super::call::{Ask, Call, PromptBy, has_flag, option};
use super::heard::Heard;
use crate::model::outcome::Outcome;

/// Called with the prompt on standard input, which it would read to its end anyway.
#[must_use]
pub fn call(ask: &Ask) -> Call {
    let mut argv = ask.program("codex", &["exec"]);
    if let Some(session) = &ask.resume {
        argv.extend(["resume".to_owned(), session.clone()]);
    }
    argv.push("--json".to_owned());
    option(&mut argv, "--model", ask.model.as_ref());
    argv.extend(ask.extra.iter().cloned());
    argv.push("-".to_owned());
    Call { argv, prompt_by: PromptBy::Stdin, session: None }
}

/// `codex exec` without `--json` speaks only its answer.
#[must_use]
pub fn flags_to_hear(argv: &[String]) -> Vec<String> {
    let executes = argv.get(1).is_some_and(|word| word == "exec" || word == "e");
    if executes && !has_flag(argv, &["--json", "--experimental-json"]) {
        vec!["--json".to_owned()]
    } else {
        Vec::new()
    }
}

/// Takes one event; false where it says nothing that is known.
pub fn hear(event: &Value, line: &str, heard: &mut Heard) -> bool {
    match event["type"].as_str() {
        Some("thread.started") => heard.session_id = event["thread_id"].as_str().map(str::to_owned),
        Some("turn.started") => {}
        Some("item.completed") => item(&event["item"], heard),
        Some(kind) if kind.starts_with("item.") => {}
        Some("turn.completed") => {
            let n = |key: &str| event["usage"][key].as_u64();
            heard.set_tokens(n("input_tokens"), n("output_tokens"), n("cached_input_tokens"));
            heard.step(heard.usage.total_tokens.unwrap_or(0));
            heard.declare(Outcome::Success, line);
        }
        Some("turn.failed") => {
            let why = event["error"]["message"].as_str().unwrap_or("the turn failed");
            heard.error(why);
            heard.declare(Outcome::Error(why.to_owned()), line);
        }
        Some("error") => heard.error(event["message"].as_str().unwrap_or("error")),
        _ => return false,
    }
    true
}

fn item(item: &Value, heard: &mut Heard) {
    match item["type"].as_str() {
        Some("agent_message") => heard.answer(item["text"].as_str().unwrap_or_default()),
        Some("command_execution" | "file_change" | "mcp_tool_call" | "web_search") => heard.tool_call(),
        _ => {}
    }
}
