//! `bookend watch`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;

use super::error::{FAILED, Failure};
use super::{Done, look, pick, print, say, show};
use crate::guard::reconcile::Reading;
use crate::model::id::RunId;
use crate::model::record::Record;
use crate::store::Store;
use crate::store::watch::Watch;
use crate::terminal;
use crate::view::{frame, quote, words};

/// Arguments of `watch`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend watch                what runs now, live
  bookend watch nightly        one run and the end of its log, until it is over
  bookend watch --json | jq -r .status

Off a terminal each change is one line. Ctrl-C leaves; the runs go on.")]
pub struct WatchArgs {
    /// The run; without one all that live
    pub run: Option<String>,
    /// Print the record at each change as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Even without a sign of a change the runs are looked at this often: times go on, and bookends may have been killed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// After a change the next look waits this long at most for more: a flood of output is not drawn byte by byte.
const CALM: Duration = Duration::from_millis(100);

/// Watches one run until it is over, or all that live until it is told to stop.
///
/// # Errors
/// No such run, or a store that can not be read.
pub fn run(args: &WatchArgs) -> Result<Done, Failure> {
    let (store, only) = match &args.run {
        Some(wanted) => pick::one(wanted).map(|(store, id)| (Some(store), Some(id)))?,
        None => (Store::open_existing()?, None),
    };
    let Some(store) = store else {
        say("nothing runs: there is no store yet");
        return Ok(Done::with(0));
    };
    let draws = !args.json && terminal::draws();
    let mut watching = Watching {
        watch: Watch::none(),
        seen: BTreeMap::new(),
        over: BTreeSet::new(),
        drawn: 0,
        json: args.json,
    };
    loop {
        let records = watching.look(&store, only.as_ref())?;
        if draws {
            watching.draw(&store, only.as_ref(), &records)?;
        } else {
            watching.tell(&records)?;
        }
        if only.is_some() && records.iter().all(|r| r.status.is_terminal()) {
            if draws && let Some(record) = records.first() {
                say(&words::judgement(record));
            }
            return Ok(Done::with(0));
        }
        watching.watch.wait(LOOK_AGAIN);
        if draws {
            std::thread::sleep(CALM);
        }
    }
}

struct Watching {
    watch: Watch,
    /// What was last seen of each run. What is over stays in a drawing; in a list of changes it has been told.
    seen: BTreeMap<RunId, String>,
    /// Runs whose end was told.
    over: BTreeSet<RunId>,
    /// Lines of the last frame.
    drawn: usize,
    json: bool,
}

impl Watching {
    /// Reads the run, or all that live and those that lived at the last look.
    fn look(&mut self, store: &Store, only: Option<&RunId>) -> Result<Vec<Record>, Failure> {
        let unreadable = |e: std::io::Error| {
            Failure::new(FAILED, format!("reading the living runs: {e}"), "check the store")
        };
        self.watch.living(store);
        let mut ids = match only {
            Some(id) => vec![id.clone()],
            None => store.living().map_err(unreadable)?,
        };
        // What is over and was told may still be marked as living for a moment.
        ids.retain(|id| only.is_some() || !self.over.contains(id));
        ids.extend(
            self.seen
                .keys()
                .filter(|id| !ids.contains(id) && !self.over.contains(*id))
                .cloned()
                .collect::<Vec<_>>(),
        );
        let mut records = Vec::new();
        for id in &ids {
            self.watch.run(store, id);
            match pick::read(store, id) {
                Ok(Reading::Unclear(None, why)) if only.is_some() => {
                    return Err(Failure::new(
                        FAILED,
                        format!("watching run {id}: {why}"),
                        "bookend doctor --runs",
                    ));
                }
                Ok(reading) => records.extend(reading.record().cloned()),
                Err(_) if only.is_none() => {
                    self.seen.remove(id);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(records)
    }

    /// Says what has changed, a line each.
    fn tell(&mut self, records: &[Record]) -> Result<(), Failure> {
        for record in records {
            let now = change_of(record);
            if self.seen.get(&record.run_id) == Some(&now) {
                continue;
            }
            self.seen.insert(record.run_id.clone(), now);
            let line = if self.json {
                quote::json(&serde_json::to_string(record).unwrap_or_default())
            } else {
                let look = look();
                let name = record.name.as_deref().map(quote::visible_line).unwrap_or_default();
                format!("{}  {}  {}  {name}", look.now, record.run_id, words::state(record, &look))
                    .trim_end()
                    .into()
            };
            print(format!("{line}\n").as_bytes())?;
        }
        self.over.extend(records.iter().filter(|r| r.status.is_terminal()).map(|r| r.run_id.clone()));
        Ok(())
    }

    /// Draws the next frame over the last one.
    fn draw(&mut self, store: &Store, only: Option<&RunId>, records: &[Record]) -> Result<(), Failure> {
        let look = look();
        let rows = terminal::height().unwrap_or(24).saturating_sub(2).max(4);
        let lines = match (only, records.first()) {
            (Some(id), Some(record)) => {
                let room = rows.saturating_sub(frame::HEAD_LINES);
                frame::of_run(record, &look, &show::tail(store, id, room))
            }
            _ => frame::of_all(records, &look, rows),
        };
        for record in records {
            self.seen.insert(record.run_id.clone(), String::new());
        }
        let text = frame::over(&lines, self.drawn);
        self.drawn = lines.len();
        print(text.as_bytes())
    }
}

/// What makes a difference worth a line.
fn change_of(record: &Record) -> String {
    let reason = record.exit_reason.map_or("", crate::model::outcome::ExitReason::word);
    let paused = record.paused_since.is_some();
    format!("{} {reason} {paused} {:?} {:?}", record.status.word(), record.orphaned, record.name)
}
