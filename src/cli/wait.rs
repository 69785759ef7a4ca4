//! `bookend wait`.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::error::{FAILED, Failure};
use super::pick;
use super::{Done, print_json};
use crate::guard::reconcile::Reading;
use crate::model::record::Record;
use crate::store::watch::Watch;
use crate::view::words;

/// Arguments of `wait`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend wait latest && echo fine")]
pub struct WaitArgs {
    /// The run
    pub run: String,
    /// Print the record as JSON once it is over
    #[arg(long)]
    pub json: bool,
}

/// Even without a sign of a change the run is looked at this often: both its bookends may have been killed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Waits for a run to end and exits as it did.
///
/// # Errors
/// No such run, or one that can not be read.
pub fn run(args: &WaitArgs) -> Result<Done, Failure> {
    let (store, id) = pick::one(&args.run)?;
    let watch = Watch::of_run(&store, &id);
    let bar = spinner();
    loop {
        match pick::read(&store, &id)? {
            Reading::Final(record) => {
                bar.finish_and_clear();
                return finish(args, &record);
            }
            Reading::Unclear(_, why) => {
                let hint = format!("bookend show {}", id.short());
                return Err(Failure::new(FAILED, format!("waiting for run {id}: {why}"), hint));
            }
            Reading::Living(record) | Reading::Orphaned(record, _) => {
                bar.set_message(format!("{id} {}", words::state(&record, &super::look())));
                watch.wait(LOOK_AGAIN);
            }
        }
    }
}

/// Shows that it waits, to a person at a terminal and nobody else.
fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} waiting for {msg}") {
        bar.set_style(style);
    }
    bar
}

fn finish(args: &WaitArgs, record: &Record) -> Result<Done, Failure> {
    if args.json {
        print_json(record)?;
    }
    Ok(Done::with(record.wrapper_exit_code.unwrap_or(super::error::INTERNAL)))
}
