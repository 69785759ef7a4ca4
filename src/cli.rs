//! The command line: arguments in, exit code out.

pub mod annotate;
pub mod args;
pub mod ask;
pub mod attach;
pub mod clean;
pub mod doctor;
pub mod error;
pub mod kill;
pub mod logs;
pub mod pick;
pub mod plan;
pub mod ps;
pub mod quick;
pub mod retain;
pub mod rm;
pub mod run;
pub mod schema;
pub mod show;
pub mod stop;
mod tidy;
pub mod wait;
pub mod watch;

use std::ffi::OsString;
use std::io::Write;

use clap::Parser;

use crate::clock;
use crate::redact;
use crate::store::Store;
use crate::terminal;
use crate::view::{Look, quote};
use args::{Cli, Command};
use error::Failure;

/// How the program ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Exit code.
    pub code: u8,
    /// Signal to die of instead, so that the caller sees why.
    pub die_of: Option<i32>,
}

impl Done {
    /// An end with an exit code.
    #[must_use]
    pub fn with(code: u8) -> Self {
        Self { code, die_of: None }
    }
}

/// Does what the arguments say.
pub fn main(argv: impl Iterator<Item = OsString>) -> Done {
    let argv: Vec<OsString> = argv.collect();
    if let Some(args) = quick::run_args(&argv) {
        return run::run(args, &argv).unwrap_or_else(|failure| failure.report());
    }
    let cli = match Cli::try_parse_from(&argv) {
        Ok(cli) => cli,
        Err(e) => return refuse(&argv, &e),
    };
    let result = match cli.command {
        Command::Run(args) => run::run(*args, &argv),
        Command::Ps(args) => ps::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Wait(args) => wait::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Kill(args) => kill::run(&args, kill::Manner::Kill),
        Command::Stop(args) => stop::run(args),
        Command::Attach(args) => attach::run(&args),
        Command::Rename(args) => annotate::rename(&args),
        Command::Label(args) => annotate::label(&args),
        Command::Pin(args) => annotate::pin(&args, true),
        Command::Unpin(args) => annotate::pin(&args, false),
        Command::Note(args) => annotate::note(&args),
        Command::Rm(args) => rm::run(&args),
        Command::Clean(args) => clean::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Schema(args) => schema::run(&args),
    };
    result.unwrap_or_else(|failure| failure.report())
}

/// How things are shown to whoever reads our standard output now.
#[must_use]
pub fn look() -> Look {
    Look {
        now: clock::now(),
        offset_seconds: clock::local_offset_seconds(),
        width: terminal::width(),
        colour: terminal::wants_colour(),
    }
}

/// Says something to the person, on standard error; whatever the text is made of, it does not steer a terminal.
pub fn say(text: &str) {
    terminal::say(&format!("bookend: {}\n", quote::visible(text)));
}

/// Prints one JSON document as a line.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).unwrap_or_default();
    print(format!("{}\n", quote::json(&text)).as_bytes())
}

/// Prints what a command is asked for on standard output. A reader that went away has seen what it wanted.
///
/// # Errors
/// What else keeps it from being written, such as a full disk.
pub fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            let message = format!("writing to standard output: {e}");
            Err(Failure::new(error::FAILED, message, "check where it goes"))
        }
        _ => Ok(()),
    }
}

/// Prints help, or why the arguments are refused; a refused `run` is noted in the store.
fn refuse(argv: &[OsString], error: &clap::Error) -> Done {
    let _ = error.print();
    if !error.use_stderr() {
        return Done::with(0);
    }
    if argv.get(1).is_some_and(|word| word == "run") {
        let asks = |arg: &OsString| {
            let arg = arg.to_string_lossy();
            ["--harness", "--prompt", "--direct"].iter().any(|flag| arg.starts_with(flag))
        };
        if !argv.iter().any(|arg| arg == "--" || asks(arg)) {
            let _ = writeln!(
                std::io::stderr(),
                "\n  hint: put the command after two dashes: bookend run -- make test"
            );
        }
        note_attempt(argv, &error.to_string());
    }
    Done::with(error::USAGE)
}

/// Notes a refused command line in the store, so that "why did cron do nothing" has an answer.
pub fn note_attempt(argv: &[OsString], error: &str) {
    let first = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
    if let Ok(store) = Store::open_or_create() {
        store.note_attempt(clock::now(), &without_values(argv), &redact::text(first));
    }
}

/// A command line without the values of `--env`, of which only the names are ever stored, and without what looks like a
/// secret elsewhere.
fn without_values(argv: &[OsString]) -> Vec<String> {
    let name = |entry: &str| format!("{}=...", entry.split_once('=').map_or("", |(name, _)| name));
    let mut masked = Vec::with_capacity(argv.len());
    let (mut is_value, mut is_command) = (false, false);
    for arg in argv {
        let text = arg.to_string_lossy();
        let hidden = match &*text {
            _ if is_command => None,
            entry if is_value => Some(name(entry)),
            long if long.starts_with("--env=") => Some(format!("--env={}", name(&long[6..]))),
            short if short.starts_with("-e") && short.len() > 2 => Some(format!("-e{}", name(&short[2..]))),
            _ => None,
        };
        is_command |= text == "--";
        is_value = !is_command && (text == "-e" || text == "--env");
        masked.push(hidden.unwrap_or_else(|| text.clone().into_owned()));
    }
    redact::argv(&masked).0
}
