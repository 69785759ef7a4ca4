//! aider: `aider --message-file`, which speaks text for people.
//!
//! It exits 0 even where its key was refused, so lines that name an error of the model's API are taken for its word.

use super::call::{Ask, Call, PromptBy, option};
use super::heard::Heard;
use crate::model::outcome::Outcome;

/// Called with the prompt in a file, and with everything off that waits for a person or the network.
#[must_use]
pub fn call(ask: &Ask) -> Call {
    const FIXED: [&str; 7] = [
        "--no-pretty",
        "--no-stream",
        "--no-check-update",
        "--no-show-release-notes",
        "--no-fancy-input",
        "--analytics-disable",
        "--message-file",
    ];
    let mut argv = ask.program("aider", &FIXED);
    argv.push(ask.prompt_file.clone());
    option(&mut argv, "--model", ask.model.as_ref());
    if ask.resume.is_some() {
        argv.push("--restore-chat-history".to_owned());
    }
    argv.extend(ask.extra.iter().cloned());
    Call { argv, prompt_by: PromptBy::File, session: None }
}

/// Takes one line; false where it says nothing that is known.
pub fn hear(line: &str, heard: &mut Heard) -> bool {
    if let Some(version) = line.strip_prefix("Aider v") {
        heard.version = Some(version.trim().to_owned());
    } else if let Some(model) = line.strip_prefix("Model: ").or(line.strip_prefix("Main model: ")) {
        heard.model = model.split_whitespace().next().map(str::to_owned);
    } else if let Some(rest) = line.strip_prefix("Tokens: ") {
        tokens(rest, heard);
    } else if let Some(error) = api_error(line) {
        heard.error(error);
        heard.declare(Outcome::Error(error.to_owned()), line);
    } else if line.starts_with("Applied edit to ") {
        heard.tool_call();
    } else {
        return false;
    }
    true
}

/// An error of the model's API, such as `litellm.AuthenticationError: ...`.
fn api_error(line: &str) -> Option<&str> {
    let name = line.strip_prefix("litellm.")?.split(':').next()?;
    (name.ends_with("Error") && name.chars().all(char::is_alphanumeric)).then_some(line)
}

/// `1.2k sent, 300 cache hit, 30 received. Cost: $0.0040 message, $0.0081 session.`
fn tokens(rest: &str, heard: &mut Heard) {
    let (counts, money) = rest.split_once("Cost:").unwrap_or((rest, ""));
    let mut found = [None; 3];
    for part in counts.split(',') {
        let part = part.trim().trim_end_matches('.');
        let Some((number, what)) = part.split_once(' ') else { continue };
        match what {
            "sent" => found[0] = count(number),
            "received" => found[1] = count(number),
            "cache hit" => found[2] = count(number),
            _ => {}
        }
    }
    let [sent, received, cached] = found;
    if sent.is_some() || received.is_some() {
        heard.add_tokens(sent.unwrap_or(0), received.unwrap_or(0), cached.unwrap_or(0));
        heard.step(sent.unwrap_or(0) + received.unwrap_or(0));
        // It went on: an error before was not the end.
        heard.declared = None;
    }
    let session =
        money.split(',').find_map(|part| part.trim().trim_end_matches('.').strip_suffix(" session"));
    heard.set_cost(session.and_then(|text| text.trim().trim_start_matches('$').parse().ok()));
}

/// `30`, `1.2k`, `3M`; rounded as aider prints it.
fn count(text: &str) -> Option<u64> {
    let (number, factor) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => text.strip_suffix('M').map_or((text, 1.0), |number| (number, 1e6)),
    };
    let number: f64 = number.replace(',', "").parse().ok()?;
    (number.is_finite() && number >= 0.0).then(|| (number * factor).round() as u64)
}
