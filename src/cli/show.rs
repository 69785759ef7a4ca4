//! `bookend show`.

use std::io::{self, IsTerminal};
use std::os::unix::fs::FileExt;

use clap::Args;
use serde_json::Value;

use super::error::{FAILED, Failure};
use super::{Done, look, pick, print, print_json, say};
use crate::disk;
use crate::guard::reconcile::Reading;
use crate::model::id::RunId;
use crate::model::record::{EndedBy, Record};
use crate::process::identity::{self, Place};
use crate::store::log;
use crate::store::run_dir::{EVENTS, LOG};
use crate::store::{RUNS, Store};
use crate::view::plain::{self, Plain};
use crate::view::show::{self, Files};

/// Arguments of `show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend show latest
  bookend show nightly --json | jq .exit_reason
  bookend show latest --file diagnostics.md")]
pub struct ShowArgs {
    /// The run: an id or its beginning, its last part, its name, `latest`, or a run directory
    pub run: String,
    /// Print the record as JSON
    #[arg(long)]
    pub json: bool,
    /// Print one of the run's files
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    pub file: Option<String>,
}

/// The most of the log's end that is looked at.
const TAIL_BYTES: u64 = 4096;
/// Bytes that are copied at a time.
const PIECE: usize = 64 * 1024;

/// Shows one run.
///
/// # Errors
/// No such run, or one that can not be read.
pub fn run(args: &ShowArgs) -> Result<Done, Failure> {
    let (store, id) = pick::one(&args.run)?;
    if let Some(name) = &args.file {
        return print_file(&store, &id, name);
    }
    let reading = pick::read(&store, &id)?;
    let Some(record) = reading.record() else {
        let Reading::Unclear(_, why) = &reading else { return Ok(Done::with(0)) };
        let hint = format!("look at its files in {}, or type bookend doctor --runs", path(&store, &id));
        return Err(Failure::new(FAILED, format!("reading run {id}: {why}"), hint));
    };
    if args.json {
        print_json(record)?;
    } else {
        let files = Files { is_alive: is_alive(record), ..all_files(&store, &id, record) };
        print(show::run(record, &look(), &files).as_bytes())?;
    }
    say_if_newer(record);
    if let Reading::Unclear(_, why) = &reading {
        say(&format!("note: {why}"));
    }
    Ok(Done::with(0))
}

/// Whether the command of a run is alive, by its process id and its start time.
fn is_alive(record: &Record) -> bool {
    let is_here = record.owner.pid_namespace == Place::here().pid_namespace;
    let command =
        record.command.pid.zip(record.command.start_time).filter(|&(pid, start)| pid > 1 && start > 0);
    is_here && command.is_some_and(|(pid, start)| identity::is_alive(pid, start))
}

/// A record of a later version may say things that this one does not know.
pub(super) fn say_if_newer(record: &Record) {
    if record.is_of_later_version() {
        let (id, schema) = (&record.run_id, record.schema);
        say(&format!(
            "note: run {id}: a later version of bookend wrote its record (schema {schema}); not all is shown"
        ));
    }
}

fn path(store: &Store, id: &RunId) -> String {
    store.path.join(RUNS).join(id.as_str()).to_string_lossy().into_owned()
}

/// Lines of the log's end that are shown.
const TAIL_LINES: usize = 10;

fn files(store: &Store, id: &RunId) -> Files {
    let names = store.open_run(id).and_then(disk::names).unwrap_or_default();
    let mut names: Vec<String> = names.into_iter().filter(|name| !name.starts_with('.')).collect();
    names.sort_unstable();
    Files { dir: path(store, id), names, tail: tail(store, id, TAIL_LINES), forced_by: None, is_alive: false }
}

fn all_files(store: &Store, id: &RunId, record: &Record) -> Files {
    let forced_by = record.forced.then(|| forced_by(store, id, record)).flatten();
    Files { forced_by, ..files(store, id) }
}

/// Whose request forced the end: the record has the first one, which counts, and the events have this one too.
fn forced_by(store: &Store, id: &RunId, record: &Record) -> Option<EndedBy> {
    let bytes = store.open_run(id).and_then(|dir| disk::read_at(dir, EVENTS)).ok()?;
    let lines = bytes.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let mut asked = lines.filter(|event: &Value| event["event"] == "stop_requested");
    let first = asked.next()?;
    let by = |event: &Value| serde_json::from_value::<EndedBy>(event["by"].clone()).ok();
    match by(&first) {
        first_by if first_by != record.ended_by => first_by,
        _ if first["force"] == true => None,
        _ => by(&asked.next()?),
    }
}

/// Prints one of the run's files as it is.
fn print_file(store: &Store, id: &RunId, name: &str) -> Result<Done, Failure> {
    let failed = |e: io::Error| {
        let names = files(store, id).names.join(", ");
        let why = match e.kind() {
            io::ErrorKind::NotFound => "there is no such file".to_owned(),
            _ => e.to_string(),
        };
        Failure::new(FAILED, format!("reading {name} of run {id}: {why}"), format!("it has {names}"))
    };
    if name.contains('/') || name.starts_with('.') {
        let message =
            format!("reading {name:?} of run {id}: --file takes the name of a file in the run's directory");
        let names = files(store, id).names.join(", ");
        return Err(Failure::new(FAILED, message, format!("it has {names}")));
    }
    let file = store.open_run(id).and_then(|dir| disk::open_at(dir, name)).map_err(failed)?;
    let mut plain = io::stdout().is_terminal().then(Plain::default);
    let (mut buffer, mut offset) = (vec![0; PIECE], 0);
    loop {
        let read = file.read_at(&mut buffer, offset).map_err(failed)?;
        if read == 0 {
            return Ok(Done::with(0));
        }
        offset += read as u64;
        match &mut plain {
            Some(plain) => print(&plain.filter(&buffer[..read]))?,
            None => print(&buffer[..read])?,
        }
    }
}

/// The last lines of the log, made safe for a terminal.
pub(super) fn tail(store: &Store, id: &RunId, most: usize) -> String {
    let Ok(log) = store.open_run(id).and_then(|dir| disk::open_at(dir, LOG)) else { return String::new() };
    let text = plain::text(&log::tail(&log, most, TAIL_BYTES));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(most)..].join("\n")
}
