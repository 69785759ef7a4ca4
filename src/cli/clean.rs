//! `bookend clean`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::args::{duration, size};
use super::error::{FAILED, Failure, USAGE};
use super::tidy::{Gauge, failed};
use super::{Done, look, print, print_json, say};
use crate::clock;
use crate::model::record::SCHEMA;
use crate::model::status::Status;
use crate::query::Filter;
use crate::retention::{self, Removal, Rules};
use crate::store::Store;
use crate::sweep::{self, PATIENCE, Refusal, Skipped, Survey, Swept, What};
use crate::view::{quote, sweep as words};

/// Arguments of `clean`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend clean --older-than 30d --keep-last 100     the newest 100 stay, however old
  bookend clean --max-total-size 10GiB --dry-run     what would go, the oldest first
  bookend clean --status failed --filter label=team=db
  bookend clean --logs-only --older-than 7d          the records stay

Runs that live, are orphaned or pinned are never removed. What keeps wins over what removes. The same rules in the
configuration, under [retention], are applied once a day by bookend run.")]
pub struct CleanArgs {
    /// Remove what ended longer ago than this, e.g. 30d, 12h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub older_than: Option<Duration>,
    /// Keep the newest N of those that match; without another rule all others go
    #[arg(long, value_name = "N")]
    pub keep_last: Option<usize>,
    /// Remove the oldest until those that match take up no more than this, e.g. 10GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_total_size: Option<u64>,
    /// Only runs that ended so: completed, failed, stopped, lost; may be given several times
    #[arg(long, value_name = "STATUS", value_parser = ending)]
    pub status: Vec<Status>,
    /// Keep what is not completed
    #[arg(long)]
    pub keep_failed: bool,
    /// Only runs that fit KEY=VALUE, as in bookend ps; different keys must all fit, of one key any value
    #[arg(long, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    pub filter: Vec<Filter>,
    /// Remove the logs and keep the records
    #[arg(long)]
    pub logs_only: bool,
    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

fn ending(text: &str) -> Result<Status, String> {
    let endings = [Status::Completed, Status::Failed, Status::Stopped, Status::Lost];
    let found = endings.into_iter().find(|status| status.word() == text);
    found.ok_or_else(|| "write completed, failed, stopped or lost".to_owned())
}

impl CleanArgs {
    fn rules(&self) -> Rules {
        Rules {
            older_than: self.older_than,
            keep_last: self.keep_last,
            max_total_bytes: self.max_total_size,
            statuses: self.status.clone(),
            keep_failed: self.keep_failed,
        }
    }

    fn what(&self) -> What {
        if self.logs_only { What::Logs } else { What::Runs }
    }

    /// Whether nothing says what goes, so that somebody has to be asked.
    fn must_ask(&self) -> bool {
        !(self.rules().say_what_goes() || !self.filter.is_empty() || self.yes || self.dry_run)
    }
}

/// Removes finished runs, or their logs, by rules.
///
/// # Errors
/// A store that can not be read or written to; nothing that says what goes, and nobody to be asked.
pub fn run(args: &CleanArgs) -> Result<Done, Failure> {
    if args.must_ask() && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        let hint = "give a rule such as --older-than 30d, or -y to remove all that are not pinned";
        return Err(Failure::new(
            USAGE,
            "removing all finished runs: nothing says which, and nobody can be asked",
            hint,
        ));
    }
    let Some(store) = Store::open_existing()? else {
        report(args, &Swept::default(), &[], &Survey::default())?;
        return Ok(Done::with(0));
    };
    let survey = look_around(args, &store).map_err(|e| failed(&store, "reading store", &e))?;
    let chosen = retention::choose(&survey.runs, &args.rules(), clock::now());
    if args.dry_run {
        report(args, &Swept::default(), &chosen, &survey)?;
        return Ok(Done::with(0));
    }
    if args.must_ask() && !chosen.is_empty() && !confirmed(args, &chosen) {
        say("nothing is removed");
        return Ok(Done::with(FAILED));
    }
    let swept =
        carry_out(args, &store, &survey, &chosen).map_err(|e| failed(&store, "removing runs from", &e))?;
    report(args, &swept, &chosen, &survey)?;
    Ok(Done::with(if swept.skipped.iter().any(is_failure) { FAILED } else { 0 }))
}

/// A run that began to live, was pinned or removed by somebody else meanwhile stays rightly.
fn is_failure(skipped: &Skipped) -> bool {
    !matches!(
        skipped.why,
        Refusal::Living | Refusal::Ending | Refusal::Orphaned | Refusal::Pinned | Refusal::Gone
    )
}

fn look_around(args: &CleanArgs, store: &Store) -> io::Result<Survey> {
    let mut gauge = Gauge::new("looking at runs");
    // What somebody is asked about, or shown, has its size said.
    let sizes = args.rules().need_sizes() || args.must_ask() || args.dry_run;
    sweep::survey(store, &args.filter, args.what(), sizes, &mut |done, total| {
        gauge.note(done, total);
        true
    })
}

fn carry_out(args: &CleanArgs, store: &Store, survey: &Survey, chosen: &[Removal]) -> io::Result<Swept> {
    for id in &survey.half {
        // What can not be finished now is found again by the next one, and by doctor.
        let _ = sweep::finish_log(store, id);
    }
    let mut gauge = Gauge::new("removing runs");
    sweep::remove(store, chosen, args.what(), PATIENCE, &mut |done, total| {
        gauge.note(done, total);
        true
    })
}

/// Asks the person at the terminal; anything but a yes is a no.
fn confirmed(args: &CleanArgs, chosen: &[Removal]) -> bool {
    let bytes = chosen.iter().map(|removal| removal.bytes).sum();
    let sum = words::sum(chosen.len(), bytes, args.logs_only);
    let _ = write!(io::stderr(), "bookend: remove all that can go, {sum}? [y/N] ");
    let mut answer = String::new();
    let heard = io::stdin().lock().read_line(&mut answer).is_ok();
    heard && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

fn report(args: &CleanArgs, swept: &Swept, chosen: &[Removal], survey: &Survey) -> Result<(), Failure> {
    if args.json {
        let document = document(args, swept, chosen, survey);
        return print_json(&document);
    }
    if args.dry_run && !chosen.is_empty() {
        print(words::table(chosen, &look()).as_bytes())?;
    }
    let (done, number, bytes) = if args.dry_run {
        ("would remove", chosen.len(), chosen.iter().map(|removal| removal.bytes).sum())
    } else {
        ("removed", swept.removed.len(), swept.bytes())
    };
    for skipped in survey.skipped.iter().chain(&swept.skipped).filter(|skipped| !is_expected(skipped)) {
        say(&format!(
            "note: {} stays: {}",
            quote::visible_line(&skipped.name),
            quote::visible_line(&skipped.why.to_string())
        ));
    }
    let living = survey.skipped.iter().filter(|s| matches!(s.why, Refusal::Living)).count();
    let pinned = survey.runs.iter().filter(|run| run.pinned && run.matches).count();
    let mut stay = Vec::new();
    stay.extend((living > 0).then(|| format!("{living} living")));
    stay.extend((pinned > 0).then(|| format!("{pinned} pinned")));
    let stay = if stay.is_empty() { String::new() } else { format!("; {} left alone", stay.join(" and ")) };
    say(&format!("{done} {}{stay}", words::sum(number, bytes, args.logs_only)));
    Ok(())
}

/// Living runs stay as everybody expects: they are counted and not listed.
fn is_expected(skipped: &Skipped) -> bool {
    matches!(skipped.why, Refusal::Living)
}

fn document(args: &CleanArgs, swept: &Swept, chosen: &[Removal], survey: &Survey) -> Value {
    let would = chosen.iter().map(|r| json!({ "run_id": r.id, "bytes": r.bytes, "why": r.why.word() }));
    let did = swept.removed.iter().map(|r| json!({ "run_id": r.id, "bytes": r.bytes, "why": r.why.word() }));
    let removed: Vec<Value> = if args.dry_run { would.collect() } else { did.collect() };
    let bytes: u64 = removed.iter().filter_map(|r| r["bytes"].as_u64()).sum();
    let pinned = survey.runs.iter().filter(|run| run.pinned && run.matches);
    let skipped = survey.skipped.iter().chain(&swept.skipped);
    let skipped = skipped.map(|s| json!({ "run_id": s.name, "why": s.why.to_string() }));
    let skipped =
        skipped.chain(pinned.map(|run| json!({ "run_id": run.id, "why": Refusal::Pinned.to_string() })));
    json!({
        "schema": SCHEMA, "removed": removed, "skipped": skipped.collect::<Vec<_>>(), "bytes": bytes,
        "dry_run": args.dry_run
    })
}
