//! `bookend rename`, `label`, `pin`, `unpin` and `note`: what people add to a run, whether it lives or is over.

use std::collections::BTreeMap;

use clap::Args;

use super::error::{FAILED, Failure};
use super::{Done, pick, print_json, say};
use crate::clock;
use crate::model::id::RunId;
use crate::model::notes::{Change, Entry};
use crate::model::record::SCHEMA;
use crate::process::identity;
use crate::store::Store;
use crate::view::quote;

/// Arguments of `rename`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend rename latest nightly
  bookend rename nightly ''          take the name away")]
pub struct RenameArgs {
    /// The run: an id or its beginning, its last part, its name, `latest`, or a run directory
    pub run: String,
    /// Its new name; empty: none
    #[arg(value_parser = new_name)]
    pub name: String,
    /// Print what the run has now as one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `label`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend label latest team=db reviewed=yes
  bookend label latest reviewed-     take a label away")]
pub struct LabelArgs {
    /// The run
    pub run: String,
    /// Labels to set (KEY=VALUE) or to take away (KEY-)
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = label_change)]
    pub labels: Vec<(String, Option<String>)>,
    /// Print what the run has now as one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `pin` and `unpin`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend pin latest                 bookend clean and bookend rm leave it alone
  bookend unpin latest")]
pub struct PinArgs {
    /// The runs
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<String>,
    /// Print what the runs have now as one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `note`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend note latest 'the flaky test again, see issue 12'")]
pub struct NoteArgs {
    /// The run
    pub run: String,
    /// What to note; `bookend show` shows it
    pub text: String,
    /// Print what the run has now as one JSON document
    #[arg(long)]
    pub json: bool,
}

fn new_name(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { super::args::name(text) }
}

fn label_change(text: &str) -> Result<(String, Option<String>), String> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((key, value)), _) if !key.is_empty() => Ok((key.to_owned(), Some(value.to_owned()))),
        (None, Some(key)) if !key.is_empty() => Ok((key.to_owned(), None)),
        _ => Err("write KEY=VALUE to set a label, or KEY- to take it away".to_owned()),
    }
}

/// Gives a run another name.
///
/// # Errors
/// No such run, or one that can not be written to.
pub fn rename(args: &RenameArgs) -> Result<Done, Failure> {
    let (store, id) = pick::one(&args.run)?;
    let change = Change { name: Some(args.name.clone()), ..Change::default() };
    let what = match args.name.as_str() {
        "" => format!("run {id} has no name now"),
        name => format!("run {id} is called {} now", quote::visible(name)),
    };
    annotate(&store, &[id], &change, args.json, &what)
}

/// Sets labels of a run and takes others away.
///
/// # Errors
/// As [`rename`].
pub fn label(args: &LabelArgs) -> Result<Done, Failure> {
    let (store, id) = pick::one(&args.run)?;
    let labels: BTreeMap<_, _> = args.labels.iter().cloned().collect();
    let what = format!("run {id} is labelled");
    annotate(&store, &[id], &Change { labels, ..Change::default() }, args.json, &what)
}

/// Keeps runs from being cleaned, or no longer.
///
/// # Errors
/// As [`rename`].
pub fn pin(args: &PinArgs, pinned: bool) -> Result<Done, Failure> {
    let (store, ids) = pick::several(&args.runs)?;
    let names = ids.iter().map(RunId::as_str).collect::<Vec<_>>().join(", ");
    let what = format!("{} {names}", if pinned { "pinned" } else { "no longer pinned:" });
    annotate(&store, &ids, &Change { pinned: Some(pinned), ..Change::default() }, args.json, &what)
}

/// Puts a note on a run.
///
/// # Errors
/// As [`rename`].
pub fn note(args: &NoteArgs) -> Result<Done, Failure> {
    let (store, id) = pick::one(&args.run)?;
    let what = format!("noted on run {id}");
    annotate(&store, &[id], &Change { note: Some(args.text.clone()), ..Change::default() }, args.json, &what)
}

fn annotate(store: &Store, ids: &[RunId], change: &Change, json: bool, what: &str) -> Result<Done, Failure> {
    let user = identity::login_name().or_else(|| Some(format!("user {}", identity::own_uid())));
    for id in ids {
        let entry = Entry { schema: SCHEMA, at: clock::now(), user: user.clone(), change: change.clone() };
        store.note(id, &entry).map_err(|e| {
            let path = store.path.display();
            Failure::new(
                FAILED,
                format!("noting that on run {id}: {e}"),
                format!("check that you may write to {path}"),
            )
        })?;
    }
    say(what);
    if json {
        let all: Result<Vec<_>, Failure> = ids.iter().map(|id| had_now(store, id)).collect();
        print_json(&serde_json::json!({ "schema": SCHEMA, "runs": all? }))?;
    }
    Ok(Done::with(0))
}

/// What people have given a run so far.
fn had_now(store: &Store, id: &RunId) -> Result<serde_json::Value, Failure> {
    let reading = pick::read(store, id)?;
    let Some(record) = reading.record() else { return Ok(serde_json::json!({ "run_id": id })) };
    Ok(serde_json::json!({
        "run_id": id, "name": record.name, "labels": record.labels,
        "pinned": record.pinned.unwrap_or(false), "notes": record.notes
    }))
}
