//! `bookend ps`.

use std::io::Write;

use clap::Args;

use super::Done;
use super::error::{FAILED, Failure};
use crate::clock;
use crate::guard::reconcile::{self, Reading};
use crate::model::record::{Record, SCHEMA};
use crate::store::Store;
use crate::view::table;

/// Arguments of `ps`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend ps                 the living
  bookend ps -a              all
  bookend ps -a --json | jq -r '.runs[] | select(.status == \"failed\") | .run_id'")]
pub struct PsArgs {
    /// List finished runs too
    #[arg(short, long)]
    pub all: bool,
    /// At most this many, the newest
    #[arg(short = 'n', long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Lists runs, newest first.
///
/// # Errors
/// A store that can not be read; a single run that can not be read is told of and passed over.
pub fn run(args: &PsArgs) -> Result<Done, Failure> {
    let mut records = Vec::new();
    let mut hidden = 0;
    if let Some(store) = Store::open_existing()? {
        let unreadable = |e: std::io::Error| {
            let message = format!("reading store {}: {e}", store.path.display());
            Failure::new(FAILED, message, "check that path, or set BOOKEND_STORE to another directory")
        };
        let all = store.all().map_err(unreadable)?;
        let ids = if args.all { all.clone() } else { store.living().map_err(unreadable)? };
        hidden = if args.all { 0 } else { all.len().saturating_sub(ids.len()) };
        for id in ids.iter().take(args.limit.unwrap_or(usize::MAX)) {
            match reconcile::read(&store, id) {
                Ok(reading) => {
                    if matches!(reading, Reading::Final(_)) && !args.all {
                        store.unmark(id);
                    }
                    records.extend(listed(args.all, &reading, id.as_str()));
                }
                Err(e) => note(id.as_str(), &e.to_string()),
            }
        }
    }
    print(args, &records, hidden)?;
    Ok(Done::with(0))
}

fn listed(all: bool, reading: &Reading, id: &str) -> Option<Record> {
    if let Reading::Unclear(_, why) = reading {
        note(id, why);
    }
    let record = reading.record()?;
    (all || !record.status.is_terminal()).then(|| record.clone())
}

fn note(id: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "bookend: note: run {id}: {why}");
}

fn print(args: &PsArgs, records: &[Record], hidden: usize) -> Result<(), Failure> {
    let text = if args.json {
        format!("{}\n", serde_json::json!({ "schema": SCHEMA, "runs": records }))
    } else {
        table::runs(records, clock::now())
    };
    super::print(text.as_bytes())?;
    if hidden > 0 && !args.json {
        let _ = writeln!(std::io::stderr(), "{hidden} finished; bookend ps -a lists them");
    }
    Ok(())
}
