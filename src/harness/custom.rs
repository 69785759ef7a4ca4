//! Any other command: called as the configuration says, and read as it says.

use serde_json::Value;

use super::call::{Ask, Call, PromptBy};
use super::heard::Heard;
use crate::model::outcome::Outcome;

/// Stands for the prompt in a template, and for the file that holds it.
const PROMPT: &str = "{prompt}";
const PROMPT_FILE: &str = "{prompt_file}";
const MODEL: &str = "{model}";
const SYSTEM: &str = "{system}";
const SESSION: &str = "{session}";

/// How a command is called and read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Program and arguments, with places such as `{prompt}`.
    pub argv: Vec<String>,
    /// Whether the prompt goes to its standard input.
    pub prompt_on_stdin: bool,
    /// How its answer is read.
    pub answer: Answer,
}

/// How the answer of a command is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// All that it prints.
    #[default]
    Text,
    /// Nothing of it.
    None,
    /// As this harness speaks.
    Like(&'static str),
    /// A field of the last JSON line that has it, as a JSON pointer.
    Field(String),
}

impl Template {
    /// Checks a template.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self) -> Result<(), String> {
        let has = |place: &str| self.argv.iter().any(|arg| arg.contains(place));
        if self.argv.is_empty() {
            return Err("its command is empty".to_owned());
        }
        if !self.prompt_on_stdin && !has(PROMPT) && !has(PROMPT_FILE) {
            return Err(
                "its command has no place for the prompt: write {prompt} or {prompt_file}, or stdin = true"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Whether it has a place for added instructions.
    #[must_use]
    pub fn takes_system(&self) -> bool {
        self.argv.iter().any(|arg| arg.contains(SYSTEM))
    }

    /// Whether its output ends with a word on how it went.
    #[must_use]
    pub fn declares(&self) -> bool {
        matches!(self.answer, Answer::Like(name) if name != "aider")
    }
}

/// The command line with its places filled in. An argument whose only place has nothing to put there is left out, and
/// so is a flag before it.
#[must_use]
pub fn call(template: &Template, ask: &Ask) -> Call {
    let mut argv: Vec<String> = Vec::new();
    for arg in &template.argv {
        let places = [
            (MODEL, ask.model.as_deref()),
            (SYSTEM, ask.system.as_deref()),
            (SESSION, ask.resume.as_deref().or(ask.new_session.as_deref())),
        ];
        if places.iter().any(|(place, value)| arg.as_str() == *place && value.is_none()) {
            if argv.len() > 1 && argv.last().is_some_and(|flag| flag.starts_with('-')) {
                argv.pop();
            }
            continue;
        }
        let mut filled = arg.clone();
        for (place, value) in places {
            filled = filled.replace(place, value.unwrap_or_default());
        }
        // The prompt comes last: what it says is never taken for a place.
        let filled = filled.replace(PROMPT_FILE, &ask.prompt_file).replace(PROMPT, &ask.prompt);
        argv.push(filled);
    }
    if let (Some(program), Some(first)) = (&ask.program, argv.first_mut()) {
        first.clone_from(program);
    }
    argv.extend(ask.extra.iter().cloned());
    let by_file = template.argv.iter().any(|arg| arg.contains(PROMPT_FILE));
    let prompt_by = match (template.prompt_on_stdin, by_file) {
        (true, _) => PromptBy::Stdin,
        (false, true) => PromptBy::File,
        (false, false) => PromptBy::Argument,
    };
    Call { argv, prompt_by, session: None }
}

/// Takes one line; false where it says nothing that is known.
pub fn hear(template: &Template, event: Option<&Value>, line: &str, heard: &mut Heard) -> bool {
    match &template.answer {
        Answer::None => {}
        Answer::Text => {
            heard.answer_piece(line);
            heard.answer_piece("\n");
        }
        Answer::Like(name) => {
            return super::Harness::known(name).is_some_and(|harness| {
                let before = heard.not_understood;
                harness.hear(line, heard);
                // The line is counted once, by the caller.
                heard.lines -= 1;
                let understood = heard.not_understood == before;
                heard.not_understood = before;
                understood
            });
        }
        Answer::Field(pointer) => {
            let Some(value) = event.and_then(|event| event.pointer(pointer)) else { return false };
            heard.answer(value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str());
            heard.declare(Outcome::Success, line);
        }
    }
    true
}
