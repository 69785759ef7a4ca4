//! The command line: arguments in, exit code out.

pub mod args;
pub mod error;
pub mod kill;
pub mod logs;
pub mod plan;
pub mod ps;
pub mod quick;
pub mod run;
pub mod schema;
pub mod show;
pub mod wait;

use std::ffi::OsString;

use clap::Parser;

use crate::clock;
use crate::store::Store;
use args::{Cli, Command};

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
        Command::Kill(args) => kill::run(&args),
        Command::Schema(args) => schema::run(&args),
    };
    result.unwrap_or_else(|failure| failure.report())
}

/// Prints help, or why the arguments are refused; a refused `run` is noted in the store.
fn refuse(argv: &[OsString], error: &clap::Error) -> Done {
    let _ = error.print();
    if !error.use_stderr() {
        return Done::with(0);
    }
    if argv.get(1).is_some_and(|word| word == "run") {
        note_attempt(argv, &error.to_string());
    }
    Done::with(error::USAGE)
}

/// Notes a refused command line in the store, so that "why did cron do nothing" has an answer.
pub fn note_attempt(argv: &[OsString], error: &str) {
    let first = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
    if let Ok(store) = Store::open_or_create() {
        store.note_attempt(clock::now(), argv, first);
    }
}
