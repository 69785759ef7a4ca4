//! `bookend stop`: `bookend kill` that waits, and whose every signal stops.

use std::time::Duration;

use clap::Args;

use super::Done;
use super::args::{duration, signal as signal_value};
use super::error::Failure;
use super::kill::{self, KillArgs, Manner, reason};
use crate::query::Filter;

/// Arguments of `stop`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend stop latest                         asks it to end, kills it after its grace period, waits for its end
  bookend stop -t 2s --reason 'too slow' 4k7 nightly
  bookend stop -s USR1 4k7                    asks with USR1, for a command that ends cleanly on it
  bookend stop -a

bookend kill -s SIGNAL passes a signal on without stopping.")]
pub struct StopArgs {
    /// The runs
    #[arg(value_name = "RUN")]
    pub runs: Vec<String>,
    /// The signal that asks the command to end; whichever it is, the run is stopped with it [default: the run's own]
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal_value)]
    pub signal: Option<i32>,
    /// Time between the stop signal and SIGKILL [default: the run's own]
    #[arg(short = 't', long, visible_alias = "timeout", value_name = "DURATION", value_parser = duration)]
    pub grace: Option<Duration>,
    /// Kill at once, without a grace period
    #[arg(long)]
    pub force: bool,
    /// Why; it goes into the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// All living runs that fit KEY=VALUE, as with ps; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = Filter::parse, conflicts_with = "runs")]
    pub filter: Vec<Filter>,
    /// All living runs
    #[arg(short, long, conflicts_with = "runs")]
    pub all: bool,
    /// It always waits; whoever says so may.
    #[arg(long, hide = true)]
    pub wait: bool,
    /// Print what was done with each run as one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Stops runs and waits for their end.
///
/// # Errors
/// As [`kill::run`].
pub fn run(args: StopArgs) -> Result<Done, Failure> {
    let StopArgs { runs, signal, grace, force, reason, filter, all, wait: _, json } = args;
    let args = KillArgs { runs, signal, grace, force, reason, filter, all, wait: true, json };
    kill::run(&args, Manner::Stop)
}
