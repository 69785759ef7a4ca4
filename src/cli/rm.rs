//! `bookend rm`.

use clap::Args;

use super::error::{FAILED, Failure};
use super::{Done, pick, print_json, say, tidy};
use crate::clock;
use crate::model::id::RunId;
use crate::model::record::SCHEMA;
use crate::sweep::{self, PATIENCE, Refusal, What};
use crate::view::sweep as words;

/// Arguments of `rm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend rm 4k7
  bookend rm --force 4k7             a pinned run, or one whose record is torn

A run that lives is never removed: bookend stop ends it. bookend clean removes many at once.")]
pub struct RmArgs {
    /// The runs: ids or their beginnings, their last parts, names, `latest`, or run directories
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<String>,
    /// Also those that are pinned, and those whose record can not be read
    #[arg(short, long)]
    pub force: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Removes runs.
///
/// # Errors
/// No such run; then nothing is removed. What can not be removed is told of, and the others go.
pub fn run(args: &RmArgs) -> Result<Done, Failure> {
    let (store, ids) = pick::several(&args.runs)?;
    let mut removed: Vec<(RunId, u64)> = Vec::new();
    let mut refused: Vec<(RunId, Refusal)> = Vec::new();
    for id in ids {
        let until = clock::moment().plus_ms(PATIENCE.as_millis() as u64);
        match sweep::remove_one(&store, &id, What::Runs, args.force, until) {
            Ok(bytes) => removed.push((id, bytes)),
            Err(why) => refused.push((id, why)),
        }
    }
    let emptied = if removed.is_empty() { None } else { Some(store.empty_trash(|| true)) };
    let bytes: u64 = removed.iter().map(|(_, bytes)| bytes).sum();
    if args.json {
        let gone = removed
            .iter()
            .map(|(id, bytes)| serde_json::json!({ "run_id": id, "bytes": bytes, "why": "asked" }));
        let stay =
            refused.iter().map(|(id, why)| serde_json::json!({ "run_id": id, "why": why.to_string() }));
        let document = serde_json::json!({
            "schema": SCHEMA, "removed": gone.collect::<Vec<_>>(), "skipped": stay.collect::<Vec<_>>(),
            "bytes": bytes, "dry_run": false
        });
        print_json(&document)?;
    }
    if !removed.is_empty() {
        let names: Vec<&str> = removed.iter().map(|(id, _)| id.as_str()).collect();
        say(&format!("removed {}; {} freed", names.join(", "), words::size(bytes)));
    }
    let trouble = tidy::tell_stayed(emptied);
    for (id, why) in &refused {
        let message = format!("removing run {id}: {why}");
        Failure::new(FAILED, message, why.hint(id)).report();
    }
    Ok(Done::with(if refused.is_empty() && !trouble { 0 } else { FAILED }))
}
