//! `bookend wait`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::duration;
use super::error::{FAILED, Failure, INTERNAL};
use super::{Done, look, pick, print_json, say};
use crate::guard::reconcile::Reading;
use crate::model::id::RunId;
use crate::model::record::{Record, SCHEMA};
use crate::model::time::Timestamp;
use crate::store::Store;
use crate::store::ends::Ends;
use crate::view::words;

/// Arguments of `wait`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend wait latest && echo fine
  bookend wait build test                     all of them; the first failure named is the exit code
  bookend wait --any 4k7 9xw --timeout 10m

Exit code: the run's; of several that of the first, as they are named, that is not 0; with --any that of
the first to end. 124 when the time is over, which stops nothing.")]
pub struct WaitArgs {
    /// The runs
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<String>,
    /// Wait for the first of them to end
    #[arg(long, conflicts_with = "all")]
    pub any: bool,
    /// Wait for all of them (the default)
    #[arg(long)]
    pub all: bool,
    /// Wait no longer than this, e.g. 30s, 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print the record as JSON once the run is over; of several: all records in one document
    #[arg(long)]
    pub json: bool,
}

/// Exit code when the time is over, as of timeout(1).
const TIMED_OUT: u8 = 124;
/// Even without a sign of a change the runs are looked at this often: both bookends of one may have been killed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What can not be told of a run is looked at again for this long: another reader may just be sealing it.
const UNCLEAR: Duration = Duration::from_millis(500);

/// Waits for runs to end and exits as they did.
///
/// # Errors
/// No such run, or one that can not be read.
pub fn run(args: &WaitArgs) -> Result<Done, Failure> {
    let (store, ids) = pick::several(&args.runs)?;
    let mut waiting = Waiting::new(&store, &ids);
    let until = if args.any { Until::Any } else { Until::All };
    let in_time = waiting.wait(until, args.timeout)?;
    if args.json {
        print_document(&waiting, args.any)?;
    }
    if !in_time {
        let limit = words::duration(args.timeout.unwrap_or_default());
        for state in waiting.states.iter().filter(|s| !s.over) {
            let doing = state.record.as_ref().map_or_else(String::new, |r| words::state(r, &look()));
            say(&format!("not over after {limit}: run {} ({doing})", state.id));
        }
        return Ok(Done::with(TIMED_OUT));
    }
    Ok(Done::with(if args.any { waiting.first_code() } else { waiting.code() }))
}

/// One run: its record. Several: all that are known, those that are over where one was enough.
fn print_document(waiting: &Waiting<'_>, any: bool) -> Result<(), Failure> {
    let records: Vec<&Record> = match waiting.states.as_slice() {
        [only] => return print_json(&only.record),
        all => all.iter().filter(|s| s.over || !any).filter_map(|s| s.record.as_deref()).collect(),
    };
    print_json(&Document { schema: SCHEMA, runs: &records })
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    runs: &'a [&'a Record],
}

/// How many are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The first.
    Any,
    /// All.
    All,
}

/// A run that is waited for, as it was when it was last looked at.
#[derive(Debug)]
pub struct State {
    /// The run.
    pub id: RunId,
    /// Its record.
    pub record: Option<Box<Record>>,
    /// Whether it is over.
    pub over: bool,
    unclear_since: Option<Instant>,
}

/// Runs that are waited for.
pub struct Waiting<'a> {
    store: &'a Store,
    /// In the order in which they were named.
    pub states: Vec<State>,
    ends: Ends,
}

impl<'a> Waiting<'a> {
    /// Begins to watch these runs.
    #[must_use]
    pub fn new(store: &'a Store, ids: &[RunId]) -> Self {
        // The watch comes before the first look, so that no end falls between the two.
        let ends = Ends::of(store, ids);
        let state = |id: &RunId| State { id: id.clone(), record: None, over: false, unclear_since: None };
        Self { store, states: ids.iter().map(state).collect(), ends }
    }

    /// Waits; false when `limit` was over before.
    ///
    /// # Errors
    /// A run that is gone or can not be read.
    pub fn wait(&mut self, until: Until, limit: Option<Duration>) -> Result<bool, Failure> {
        let bar = spinner();
        let began = Instant::now();
        let (mut changed, mut looked) = ((0..self.states.len()).collect::<Vec<_>>(), began);
        loop {
            for at in changed {
                self.look(at)?;
            }
            let over = self.states.iter().filter(|s| s.over).count();
            if over == self.states.len() || (until == Until::Any && over > 0) {
                bar.finish_and_clear();
                return Ok(true);
            }
            let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                bar.finish_and_clear();
                return Ok(false);
            }
            self.show(&bar);
            let longest = left.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN.saturating_sub(looked.elapsed()));
            changed = self.ends.wait(longest);
            if looked.elapsed() >= LOOK_AGAIN || (changed.is_empty() && self.any_unclear()) {
                looked = Instant::now();
                changed = (0..self.states.len()).collect();
            }
        }
    }

    fn any_unclear(&self) -> bool {
        self.states.iter().any(|s| s.unclear_since.is_some())
    }

    fn look(&mut self, at: usize) -> Result<(), Failure> {
        let state = &mut self.states[at];
        if state.over {
            return Ok(());
        }
        let id = &state.id;
        match pick::read(self.store, id)? {
            Reading::Final(record) => (state.record, state.over) = (Some(record), true),
            Reading::Living(record) | Reading::Orphaned(record, _) => {
                (state.record, state.unclear_since) = (Some(record), None);
            }
            Reading::Unclear(record, why) => {
                state.record = record;
                if state.unclear_since.get_or_insert_with(Instant::now).elapsed() > UNCLEAR {
                    let hint = format!("bookend show {}", id.short());
                    return Err(Failure::new(FAILED, format!("waiting for run {id}: {why}"), hint));
                }
            }
        }
        Ok(())
    }

    fn show(&self, bar: &ProgressBar) {
        if bar.is_hidden() {
            return;
        }
        let mut open = self.states.iter().filter(|s| !s.over);
        let Some(first) = open.next() else { return };
        let doing = first.record.as_ref().map_or_else(String::new, |r| words::state(r, &look()));
        let more = match open.count() {
            0 => String::new(),
            n => format!(", and {n} more of {}", self.states.len()),
        };
        bar.set_message(format!("{}, {doing}{more}", first.id.short()));
    }

    /// The exit code of the first run, in the order in which they were named, that did not exit with 0.
    fn code(&self) -> u8 {
        self.states.iter().map(code_of).find(|&code| code != 0).unwrap_or(0)
    }

    /// The exit code of the run that ended first.
    fn first_code(&self) -> u8 {
        self.states.iter().filter(|s| s.over).min_by_key(|s| ended_at(s)).map_or(INTERNAL, code_of)
    }
}

fn code_of(state: &State) -> u8 {
    state.record.as_ref().and_then(|r| r.wrapper_exit_code).unwrap_or(INTERNAL)
}

fn ended_at(state: &State) -> Option<Timestamp> {
    let record = state.record.as_ref()?;
    record.completed_at.or_else(|| record.ended_between.map(|between| between[1]))
}

/// Shows that it waits, to a person at a terminal and nobody else.
fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} waiting for {wide_msg}") {
        bar.set_style(style);
    }
    bar
}
