//! Arguments as they are meant: what was typed, what is around, and the defaults, made into a plan.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use super::args::{CaptureArg, RunArgs};
use super::ask::Asked;
use super::error::{Failure, USAGE};
use crate::harness::PromptBy;
use crate::model::plan::{Capture, CommandSpec, Limits, Mode, Plan, Stdin};

/// Time between the stop signal and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);
/// The same under CI, where a cancelled job has ten seconds in all.
const GRACE_IN_CI: Duration = Duration::from_secs(5);
/// A harness may say the same error, or do nothing, this often in a row.
const MAX_REPEATS: u32 = 20;
/// The log keeps at least this much.
const LEAST_LOG: u64 = 64 * 1024;

/// What is around bookend that a plan depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    /// Whether standard output and error are the same place.
    pub one_output: bool,
    /// Whether standard input is a terminal whose keys go to us.
    pub keyboard: bool,
    /// Whether this is a CI job.
    pub ci: bool,
    /// Whether the store's disk is so full that the command could run into its end.
    pub tight_disk: bool,
}

/// Checks what can be told from the arguments alone, before anything is made.
///
/// # Errors
/// What is missing or contradictory, as a usage failure.
pub fn check(args: &RunArgs) -> Result<(), Failure> {
    // Whoever forgets the dashes means a command and not an agent.
    if let (Some(word), None) = (&args.words, &args.harness) {
        return Err(Failure::new(
            USAGE,
            format!("{word:?} stands where only the prompt of an agent can"),
            "put a command after two dashes: bookend run -- make test; name an agent: --harness claude",
        ));
    }
    if args.command.is_empty() && !super::ask::has_prompt(args) {
        return Err(Failure::new(
            USAGE,
            "nothing to run: no command was given",
            "put the command after two dashes: bookend run -- make test",
        ));
    }
    if args.detach && args.stdin {
        return Err(Failure::new(USAGE, "--detach and --stdin contradict each other", "drop one of the two"));
    }
    Ok(())
}

/// Makes the plan.
///
/// # Errors
/// What is wrong with the arguments, as a usage failure.
pub fn plan(args: &RunArgs, asked: Option<&Asked>, around: Surroundings) -> Result<Plan, Failure> {
    let default_grace = if around.ci { GRACE_IN_CI } else { GRACE };
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    Ok(Plan {
        command: CommandSpec {
            argv: argv(args, asked),
            cwd: directory(args)?,
            env: environment(&args.env)?,
            stdin: stdin(args, asked, around),
        },
        name: args.name.clone().filter(|name| !name.is_empty()),
        labels: args.label.iter().cloned().collect(),
        mode: if super::ask::has_prompt(args) { Mode::Prompt } else { Mode::Command },
        harness: asked.map(|asked| asked.plan.clone()),
        prompt: asked.and_then(|asked| asked.prompt.clone()),
        slots: 1,
        limits: Limits {
            timeout_ms: args.timeout.map(ms),
            idle_timeout_ms: args.idle_timeout.map(ms),
            max_cost_micro_usd: args.max_cost,
            max_tokens: args.max_tokens,
            max_turns: args.max_turns,
            max_repeats: asked.map(|_| MAX_REPEATS),
        },
        grace_ms: ms(args.grace.unwrap_or(default_grace)),
        stop_signal: args.stop_signal,
        capture: capture(args, around),
        one_stream: args.tty || args.capture == CaptureArg::File || !wanted_apart(args, around),
        log_max_bytes: args.log_max.max(LEAST_LOG),
        durability: args.durability,
        detach: args.detach,
    })
}

/// Whether somebody needs to know the command's two streams apart. Where nobody does they are one, in exact order.
fn wanted_apart(args: &RunArgs, around: Surroundings) -> bool {
    let shown_apart = !(args.quiet || args.detach || args.json || around.one_output);
    // What a harness says of itself is on its standard output alone.
    args.capture == CaptureArg::Pipe || shown_apart || args.harness.is_some() || super::ask::has_prompt(args)
}

/// The log is handed to the command only where nobody watches and nothing is said against it. A command that opens
/// its own output anew (`echo x > /dev/stderr`) truncates a file, which a pipe can not suffer; and on a disk that is
/// nearly full, the end of the disk should be bookend's trouble and not the command's.
fn capture(args: &RunArgs, around: Surroundings) -> Capture {
    match args.capture {
        _ if args.tty => Capture::Tty,
        CaptureArg::Pipe => Capture::Pipe,
        CaptureArg::File => Capture::File,
        CaptureArg::Auto if !wanted_apart(args, around) && args.quiet && !around.tight_disk => Capture::File,
        CaptureArg::Auto => Capture::Pipe,
    }
}

/// The command line: the user's own, with what it lacks to be understood, or the harness's for what it is asked.
fn argv(args: &RunArgs, asked: Option<&Asked>) -> Vec<OsString> {
    let Some(asked) = asked else { return args.command.clone() };
    if let Some(call) = &asked.call {
        return call.argv.iter().map(OsString::from).collect();
    }
    // They come before a `--` of the command's own, where they would be words and no flags.
    let at = args.command.iter().position(|arg| arg == "--").unwrap_or(args.command.len());
    let (flags, words) = args.command.split_at(at);
    let added = asked.added.iter().map(OsString::from);
    flags.iter().cloned().chain(added).chain(words.iter().cloned()).collect()
}

fn stdin(args: &RunArgs, asked: Option<&Asked>, around: Surroundings) -> Stdin {
    if args.tty {
        Stdin::Tty
    } else if let Some(call) = asked.and_then(|asked| asked.call.as_ref()) {
        if call.prompt_by == PromptBy::Stdin { Stdin::Prompt } else { Stdin::Null }
    } else if args.stdin || (around.keyboard && !args.detach) {
        Stdin::Inherit
    } else {
        Stdin::Null
    }
}

/// The command's directory, absolute: bookend's own unless another is given.
fn directory(args: &RunArgs) -> Result<PathBuf, Failure> {
    let here = env::current_dir();
    match (&args.directory, here) {
        (Some(dir), _) if dir.is_absolute() => Ok(dir.clone()),
        (Some(dir), Ok(here)) => Ok(here.join(dir)),
        (None, Ok(here)) => Ok(here),
        // The directory was removed under the caller: the command is started in it all the same, as a shell would.
        (None, Err(_)) => Ok(PathBuf::from(".")),
        (Some(dir), Err(e)) => Err(Failure::new(
            USAGE,
            format!("finding directory {}: the current directory: {e}", dir.display()),
            "give an absolute directory with -C",
        )),
    }
}

fn environment(entries: &[OsString]) -> Result<Vec<(OsString, OsString)>, Failure> {
    let split = |entry: &OsString| {
        let bytes = entry.as_bytes();
        let at = bytes.iter().position(|&b| b == b'=').filter(|&at| at > 0)?;
        let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((part(&bytes[..at]), part(&bytes[at + 1..])))
    };
    entries
        .iter()
        .map(|entry| {
            split(entry).ok_or_else(|| {
                Failure::new(
                    USAGE,
                    // The entry is not repeated: it may be a secret whose `=` was forgotten.
                    "an --env is not of the form KEY=VALUE",
                    "write e.g. --env RUST_LOG=debug",
                )
            })
        })
        .collect()
}
