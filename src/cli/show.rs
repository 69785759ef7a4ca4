//! `bookend show`.

use std::io::Write;
use std::os::unix::fs::FileExt;

use clap::Args;

use super::error::{FAILED, Failure};
use super::pick;
use super::{Done, print};
use crate::clock;
use crate::disk;
use crate::guard::reconcile::{self, Reading};
use crate::model::id::RunId;
use crate::store::Store;
use crate::store::run_dir::LOG;
use crate::view::show;

/// Arguments of `show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend show latest
  bookend show nightly --json | jq .exit_reason")]
pub struct ShowArgs {
    /// The run: an id or its beginning, its last part, its name, `latest`, or a run directory
    pub run: String,
    /// Print the record as JSON
    #[arg(long)]
    pub json: bool,
}

/// The most of the log's end that is looked at.
const TAIL_BYTES: u64 = 4096;

/// Shows one run.
///
/// # Errors
/// No such run, or one that can not be read.
pub fn run(args: &ShowArgs) -> Result<Done, Failure> {
    let (store, id) = pick::one(&args.run)?;
    let reading = reconcile::read(&store, &id)?;
    let Some(record) = reading.record() else {
        let Reading::Unclear(_, why) = &reading else { return Ok(Done::with(0)) };
        return Err(Failure::new(FAILED, format!("reading run {id}: {why}"), "look at its files by hand"));
    };
    if args.json {
        print(format!("{}\n", serde_json::to_string(record).unwrap_or_default()).as_bytes())?;
        return Ok(Done::with(0));
    }
    let dir = store.path.join("runs").join(id.as_str());
    let text = show::run(record, clock::now(), &dir.to_string_lossy(), &tail(&store, &id));
    print(text.as_bytes())?;
    if let Reading::Unclear(_, why) = &reading {
        let _ = writeln!(std::io::stderr(), "bookend: note: {why}");
    }
    Ok(Done::with(0))
}

/// The last lines of the log.
fn tail(store: &Store, id: &RunId) -> String {
    let Ok(log) = store.open_run(id).and_then(|dir| disk::open_at(dir, LOG)) else { return String::new() };
    let size = log.metadata().map_or(0, |m| m.len());
    let from = size.saturating_sub(TAIL_BYTES);
    let mut bytes = vec![0; usize::try_from(size - from).unwrap_or(0)];
    let read = log.read_at(&mut bytes, from).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(show::TAIL_LINES)..].join("\n")
}
