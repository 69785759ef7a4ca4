//! `bookend ps`.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::args::json_fields;
use super::error::{FAILED, Failure};
use super::{Done, look, print, say, show};
use crate::clock;
use crate::guard::reconcile::{self, Reading};
use crate::model::id::RunId;
use crate::model::record::{Record, SCHEMA};
use crate::query::{self, Filter, Sort};
use crate::store::Store;
use crate::view::{quote, table};

/// Arguments of `ps`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend ps                                  what runs now
  bookend ps -a --filter status=failed --filter since=24h
  bookend ps -l                               the last run
  bookend stop $(bookend ps -q --filter label=team=db)
  bookend ps -a --json=run_id,exit_reason,exit.code
  bookend ps -a --format csv > runs.csv

Filters: status, reason, name, label, mode, harness, exit, since, before, parent. Those of one kind add up, those of
different kinds must all fit; * stands for anything. Filters on reason, exit or a final status imply -a.")]
pub struct PsArgs {
    /// List finished runs too
    #[arg(short, long)]
    pub all: bool,
    /// List the N newest runs, finished ones too
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// List the newest run, finished or not
    #[arg(short, long)]
    pub latest: bool,
    /// Print ids only
    #[arg(short, long, conflicts_with_all = ["json", "format"])]
    pub quiet: bool,
    /// Print whole ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// List only runs for which this holds; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    pub filter: Vec<Filter>,
    /// Sort by created, name, status, exit, mode, duration or cost; -KEY for the other direction [default: -created]
    #[arg(long, value_name = "KEY", allow_hyphen_values = true, value_parser = Sort::parse)]
    pub sort: Option<Sort>,
    /// How to print: a table, one JSON document, one JSON document a line, or CSV
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Print one JSON document, with these fields of each record or all of it
    #[arg(long, value_name = "FIELDS", num_args = 0..=1, require_equals = true, default_missing_value = "",
          conflicts_with = "format", value_parser = json_fields)]
    pub json: Option<Fields>,
}

/// Fields of a record, each a path such as `exit.code`; none means all.
pub type Fields = std::sync::Arc<[String]>;

/// How runs are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One document
    Json,
    /// One document a line
    Jsonl,
    /// For spreadsheets
    Csv,
}

/// Lists runs.
///
/// # Errors
/// A store that can not be read; a single run that can not be read is told of and passed over.
pub fn run(args: &PsArgs) -> Result<Done, Failure> {
    let mut listing = Listing::default();
    if let Some(store) = Store::open_existing()? {
        listing.fill(&store, args).map_err(|e| {
            let message = format!("reading store {}: {e}", store.path.display());
            Failure::new(FAILED, message, "check that path, or set BOOKEND_STORE to another directory")
        })?;
    }
    print(listing.text(args).as_bytes())?;
    if listing.hidden > 0 && !args.quiet && format(args) == Format::Table {
        say(&format!("{} finished; bookend ps -a lists them", listing.hidden));
    }
    Ok(Done::with(0))
}

fn format(args: &PsArgs) -> Format {
    match (&args.json, args.format) {
        (Some(_), _) => Format::Json,
        (None, format) => format.unwrap_or(Format::Table),
    }
}

/// Whether finished runs are listed too.
fn wants_all(args: &PsArgs) -> bool {
    let asks_for_dead = args.filter.iter().any(Filter::is_of_finished);
    args.all || args.latest || args.last.is_some() || asks_for_dead
}

#[derive(Default)]
struct Listing {
    records: Vec<Record>,
    /// Finished runs that are not listed.
    hidden: usize,
}

impl Listing {
    fn fill(&mut self, store: &Store, args: &PsArgs) -> io::Result<()> {
        let all = wants_all(args);
        let ids = if all { store.all()? } else { store.living()? };
        let most = if args.latest { 1 } else { args.last.unwrap_or(usize::MAX) };
        let now = clock::now();
        let mut living = 0;
        for id in ids {
            if self.records.len() >= most {
                break;
            }
            let Some(record) = read(store, &id, all) else { continue };
            living += 1;
            if query::fits(&args.filter, &record, now) {
                show::say_if_newer(&record);
                self.records.push(record);
            }
        }
        // With a filter nobody knows how many of the others it would let through.
        if !all && args.filter.is_empty() {
            self.hidden = store.all()?.len().saturating_sub(living);
        }
        let sort = args.sort.unwrap_or_default();
        self.records.sort_by(|a, b| sort.compare(a, b, now));
        Ok(())
    }

    fn text(&self, args: &PsArgs) -> String {
        if args.quiet {
            return self.records.iter().flat_map(|r| [r.run_id.as_str(), "\n"]).collect();
        }
        let line = |value: &Record| {
            serde_json::to_string(value).map(|text| quote::json(&text) + "\n").unwrap_or_default()
        };
        match format(args) {
            Format::Table => table::runs(&self.records, &look(), args.no_trunc),
            Format::Jsonl => self.records.iter().map(line).collect(),
            Format::Csv => self.csv(),
            Format::Json => {
                let fields = args.json.as_deref().unwrap_or_default();
                let runs: Vec<Value> = self.records.iter().map(|r| select(r, fields)).collect();
                format!("{}\n", quote::json(&json!({ "schema": SCHEMA, "runs": runs }).to_string()))
            }
        }
    }

    fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        // Writing to memory can not fail.
        let _ = writer.write_record(table::CSV_TITLES);
        for record in &self.records {
            let _ = writer.write_record(table::csv(record));
        }
        let text = String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default();
        // A spreadsheet gets the texts as they are, a terminal what it can show.
        if io::stdout().is_terminal() { quote::visible(&text) } else { text }
    }
}

/// Reads a run for the list; what can not be read is told of.
fn read(store: &Store, id: &RunId, all: bool) -> Option<Record> {
    let note = |why: &str| say(&format!("note: run {id}: {why}"));
    let reading = match reconcile::read(store, id) {
        Ok(reading) => reading,
        // It was removed between the two looks.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            note(&e.to_string());
            return None;
        }
    };
    if let Reading::Unclear(_, why) = &reading {
        note(why);
    }
    let record = reading.record()?;
    if record.status.is_terminal() && !all {
        if matches!(reading, Reading::Final(_)) {
            reconcile::finish_sealed(store, id);
        }
        return None;
    }
    Some(record.clone())
}

/// The wanted fields of a record, or all of it; what it does not have is null.
fn select(record: &Record, fields: &[String]) -> Value {
    let whole = serde_json::to_value(record).unwrap_or_default();
    if fields.is_empty() {
        return whole;
    }
    let value = |path: &String| whole.pointer(&format!("/{}", path.replace('.', "/"))).cloned();
    fields.iter().map(|path| (path.clone(), value(path).unwrap_or(Value::Null))).collect()
}
