//! What is asked of a harness: its name, its prompt, and the command line that comes of both.

use std::io::Read;
use std::path::Path;

use super::args::RunArgs;
use super::error::{Failure, USAGE};
use crate::clock;
use crate::harness::{Ask, Call, Harness, KNOWN, PromptBy};
use crate::model::plan::HarnessPlan;

/// A prompt is read up to this size.
const PROMPT_BYTES: u64 = 16 << 20;
/// The system takes no longer argument than this.
const ARGUMENT_BYTES: usize = 128 * 1024 - 1;
/// Stands for the run's prompt.md until the run has a directory.
pub const PROMPT_FILE: &str = "{prompt_file}";

/// A harness with what it is asked.
#[derive(Debug)]
pub struct Asked {
    /// How it speaks.
    pub harness: Harness,
    /// What is recorded of it.
    pub plan: HarnessPlan,
    /// The command line; none for a plain command of the user's that is only listened to.
    pub call: Option<Call>,
    /// The prompt, or why there is none.
    pub prompt: Option<Result<String, String>>,
    /// Flags that were added to the user's own command line.
    pub added: Vec<String>,
}

/// Whether a prompt is given, in one way or another.
#[must_use]
pub fn has_prompt(args: &RunArgs) -> bool {
    args.prompt.is_some() || args.words.is_some()
}

/// What the arguments ask of a harness; none where they name none.
///
/// # Errors
/// A harness that is not known, or contradictions, as usage failures.
pub fn asked(args: &RunArgs) -> Result<Option<Asked>, Failure> {
    if !has_prompt(args) {
        return listening(args);
    }
    let (name, harness) = chosen(args.harness.as_deref().unwrap_or("auto"))?;
    let prompt = read_prompt(args);
    let text = prompt.clone().unwrap_or_default();
    let system = args.system.as_deref().map(read_system).transpose()?;
    let prompt_text = match &system {
        Some(system) if !harness.takes_system() => format!("{system}\n\n{text}"),
        _ => text,
    };
    let ask = Ask {
        prompt: prompt_text.clone(),
        prompt_file: PROMPT_FILE.to_owned(),
        model: args.model.clone(),
        system,
        new_session: Some(uuid()),
        extra: args.command.iter().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        ..Ask::default()
    };
    let call = harness.call(&ask);
    let too_long = call.prompt_by == PromptBy::Argument && prompt_text.len() > ARGUMENT_BYTES;
    let prompt = prompt.and_then(|_| {
        let size = prompt_text.len();
        if too_long {
            Err(format!("it has {size} bytes, and {name} takes at most {ARGUMENT_BYTES}"))
        } else {
            Ok(prompt_text)
        }
    });
    let plan = HarnessPlan {
        name: name.to_owned(),
        model: args.model.clone(),
        session_id: call.session.clone(),
        declares: harness.declares(),
        trust_exit_code: args.trust_exit_code,
    };
    Ok(Some(Asked { harness, plan, call: Some(call), prompt: Some(prompt), added: Vec::new() }))
}

/// A plain command line of a harness, which is listened to where that is asked for.
fn listening(args: &RunArgs) -> Result<Option<Asked>, Failure> {
    let Some(wanted) = &args.harness else { return Ok(None) };
    let argv: Vec<String> = args.command.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let program = argv.first().map_or("", String::as_str);
    let (name, harness) = match Harness::of_program(program) {
        Some(found) if wanted == "auto" => found,
        None if wanted == "auto" => {
            let hint = format!("name one: --harness {}", names("|"));
            return Err(Failure::new(USAGE, format!("{program:?} is no harness that bookend knows"), hint));
        }
        _ => chosen(wanted)?,
    };
    let added = harness.flags_to_hear(&argv);
    let declares = harness.declares() && (!added.is_empty() || harness.is_heard(&argv));
    let plan = HarnessPlan {
        name: name.to_owned(),
        declares,
        trust_exit_code: args.trust_exit_code,
        ..HarnessPlan::default()
    };
    Ok(Some(Asked { harness, plan, call: None, prompt: None, added }))
}

fn names(between: &str) -> String {
    KNOWN.map(|(name, _)| name).join(between)
}

/// The harness of a name; `auto` is the first one that is installed.
fn chosen(wanted: &str) -> Result<(&'static str, Harness), Failure> {
    let named = |name: &str| KNOWN.into_iter().find(|(known, _)| *known == name);
    if wanted != "auto" {
        let hint = format!("there are {}, and auto", names(", "));
        return named(wanted)
            .ok_or_else(|| Failure::new(USAGE, format!("there is no harness {wanted:?}"), hint));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    KNOWN.into_iter().find(|(name, _)| installed(name)).ok_or_else(|| {
        Failure::new(USAGE, "no harness is installed", format!("install one of {}, or name one", names(", ")))
    })
}

/// The prompt as it is given: a text, `@FILE`, or `-` for standard input. What can not be read, or is empty, is found
/// out by a check inside the run.
fn read_prompt(args: &RunArgs) -> Result<String, String> {
    let given = args.prompt.as_deref().or(args.words.as_deref()).unwrap_or_default();
    let text = match given.strip_prefix('@') {
        Some(path) => read(std::fs::File::open(path), path)?,
        None if given == "-" => read(Ok(std::io::stdin()), "standard input")?,
        None => given.to_owned(),
    };
    if text.trim().is_empty() { Err("it is empty".to_owned()) } else { Ok(text) }
}

fn read(source: std::io::Result<impl Read>, name: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let done = source.and_then(|source| source.take(PROMPT_BYTES + 1).read_to_end(&mut bytes));
    done.map_err(|e| format!("reading it from {name}: {e}"))?;
    if bytes.len() as u64 > PROMPT_BYTES {
        return Err(format!("{name} has more than {PROMPT_BYTES} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| format!("{name} is not UTF-8"))
}

/// Added instructions: a text, or the name of a file that holds it.
fn read_system(given: &str) -> Result<String, Failure> {
    let path = given.strip_prefix('@').unwrap_or(given);
    if given.starts_with('@') || Path::new(path).is_file() {
        let hint = "give a file of text, or the text itself";
        return read(std::fs::File::open(path), path)
            .map_err(|e| Failure::new(USAGE, format!("--system: {e}"), hint));
    }
    Ok(given.to_owned())
}

/// A random UUID of version 4.
fn uuid() -> String {
    let [a, b, c, d] = std::array::from_fn(|_| clock::random());
    let (b, c) = (b & 0xffff_0fff | 0x4000, c & 0x3fff_ffff | 0x8000_0000);
    format!("{a:08x}-{:04x}-{:04x}-{:04x}-{:04x}{d:08x}", b >> 16, b & 0xffff, c >> 16, c & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_their_form() {
        let id = uuid();
        let parts: Vec<&str> = id.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(parts[2].starts_with('4') && "89ab".contains(&parts[3][..1]), "{id}");
        assert_ne!(id, uuid());
    }
}
