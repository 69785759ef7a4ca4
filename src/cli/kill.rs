//! `bookend kill`, and what `bookend stop` has in common with it.

use std::io;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::args::{duration, signal as signal_value};
use super::error::{FAILED, Failure, USAGE};
use super::wait::{Until, Waiting};
use super::{Done, pick, print_json, say};
use crate::clock;
use crate::guard::ask::{self, Asked};
use crate::guard::reconcile::{self, Asking, Reading};
use crate::model::id::RunId;
use crate::model::intent::{Intent, Wish};
use crate::model::record::{Actor, EndedBy, Record, SCHEMA};
use crate::model::signal;
use crate::model::status::Status;
use crate::process::identity::{self, Stat};
use crate::process::tree;
use crate::query::{self, Filter};
use crate::store::Store;
use crate::store::intents;
use crate::store::watch::Watch;
use crate::view::words;

/// Arguments of `kill`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend kill --reason 'wrong branch' latest
  bookend kill 4k7; bookend kill 4k7          the second one forces
  bookend kill -s INT -t 30s nightly          Ctrl-C, and SIGKILL half a minute later
  bookend kill -s USR1 4k7                    passes the signal on and stops nothing
  bookend kill -s STOP 4k7                    pauses it; -s CONT lets it go on
  bookend kill -f label=team=db --reason 'database is down'")]
pub struct KillArgs {
    /// The runs
    #[arg(value_name = "RUN")]
    pub runs: Vec<String>,
    /// INT, QUIT, TERM, HUP: stop with it; KILL: as --force; any other is passed on to the command and stops nothing
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal_value)]
    pub signal: Option<i32>,
    /// Time between the stop signal and SIGKILL [default: the run's own]
    #[arg(short = 't', long, visible_alias = "timeout", value_name = "DURATION", value_parser = duration)]
    pub grace: Option<Duration>,
    /// Kill at once, without a grace period
    #[arg(long)]
    pub force: bool,
    /// Why; it goes into the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// All living runs that fit KEY=VALUE, as with ps; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = Filter::parse, conflicts_with = "runs")]
    pub filter: Vec<Filter>,
    /// All living runs
    #[arg(short, long, conflicts_with = "runs")]
    pub all: bool,
    /// Wait until they are over
    #[arg(long)]
    pub wait: bool,
    /// Print what was done with each run as one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Whether the command waits for the end, whatever its arguments say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// `kill`: it asks and returns.
    Kill,
    /// `stop`: it waits, and whatever signal is named stops the run.
    Stop,
}

/// The longest reason, in bytes: it has to fit, escaped, into what both bookends share.
const LONGEST_REASON: usize = 1000;
/// A run whose bookends are not to be found is looked at again this often...
const AGAIN: Duration = Duration::from_millis(50);
/// ...and so many times: it is just ending, or a bookend takes over.
const TRIES: u32 = 60;

/// What was done with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It was asked to end.
    Stopping,
    /// It was over already.
    Over,
    /// It has ended because of this.
    Killed,
    /// It was passed a signal.
    Delivered,
    /// Nothing could be done.
    Failed,
}

#[derive(Debug, Serialize)]
struct Handled {
    run_id: RunId,
    action: Action,
    message: String,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    runs: &'a [Handled],
}

/// Reads a reason.
pub(super) fn reason(text: &str) -> Result<String, String> {
    let fits = text.len() <= LONGEST_REASON;
    fits.then(|| text.to_owned())
        .ok_or_else(|| format!("longer than {LONGEST_REASON} bytes; bookend note has room for longer texts"))
}

/// Stops runs, or passes them a signal: the intent first, so that who and why are in the record, then the rest.
///
/// # Errors
/// Nothing to stop was named, or there is no such run; then nothing has been done.
pub fn run(args: &KillArgs, manner: Manner) -> Result<Done, Failure> {
    if args.runs.is_empty() && args.filter.is_empty() && !args.all {
        let hint = "name runs, or say --all or --filter KEY=VALUE; bookend ps lists the living";
        return Err(Failure::new(USAGE, "nothing to stop: no run was named", hint));
    }
    let intent = intent(args, manner);
    let Some((store, ids)) = pick(args)? else {
        return report(args, &[]);
    };
    let mut handled: Vec<Handled> = Vec::new();
    for id in &ids {
        let (action, message) = ask_for(&store, id, &intent);
        let waits = args.wait || manner == Manner::Stop;
        match action {
            Action::Stopping if !waits => {
                say(&format!("{message}; bookend wait {} waits for its end", id.short()));
            }
            Action::Failed => {
                let hint = format!("bookend show {} says how it is doing", id.short());
                say(&format!("error: {message}\n  hint: {hint}"));
            }
            _ => say(&message),
        }
        handled.push(Handled { run_id: id.clone(), action, message });
    }
    if args.wait || manner == Manner::Stop {
        wait_for(&store, &mut handled)?;
    }
    report(args, &handled)
}

/// The runs that are meant; none where there is no store.
fn pick(args: &KillArgs) -> Result<Option<(Store, Vec<RunId>)>, Failure> {
    if !args.runs.is_empty() {
        return pick::several(&args.runs).map(Some);
    }
    let Some(store) = Store::open_existing()? else { return Ok(None) };
    let now = clock::now();
    let is_meant = |id: &RunId| match reconcile::read(&store, id) {
        Ok(Reading::Living(record) | Reading::Orphaned(record, _)) => query::fits(&args.filter, &record, now),
        Ok(Reading::Unclear(Some(record), _)) => query::fits(&args.filter, &record, now),
        Ok(Reading::Unclear(None, _)) => args.filter.is_empty(),
        Ok(Reading::Final(_)) | Err(_) => false,
    };
    let ids = store.living()?.into_iter().filter(is_meant).collect();
    Ok(Some((store, ids)))
}

fn intent(args: &KillArgs, manner: Manner) -> Intent {
    let grace_ms = args.grace.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    let wish = match (manner, args.signal) {
        (Manner::Stop, Some(number)) if number != libc::SIGKILL => {
            Wish::Stop { signal: Some(number), grace_ms, force: args.force }
        }
        (_, signal) => Wish::of_signal(signal, grace_ms, args.force),
    };
    new_intent(wish, args.signal, args.reason.clone())
}

/// An intent of whoever calls this program.
pub(super) fn new_intent(wish: Wish, number: Option<i32>, reason: Option<String>) -> Intent {
    let parent = nix::unistd::getppid().as_raw();
    let by = EndedBy {
        actor: Actor::User,
        signal: number.map(signal::name),
        pid: Some(parent),
        uid: Some(nix::unistd::getuid().as_raw()),
        user: identity::login_name(),
        command: identity::command_name(parent),
        reason,
    };
    Intent { schema: SCHEMA, at: clock::now(), by, wish }
}

/// Asks one run for something; what was done, and how to say it.
pub(super) fn ask_for(store: &Store, id: &RunId, intent: &Intent) -> (Action, String) {
    let watch = Watch::of_run(store, id);
    let mut left = None;
    for _ in 0..TRIES {
        match try_to_ask(store, id, intent, &mut left) {
            Ok(Some(answer)) => return answer,
            Ok(None) => watch.wait(AGAIN),
            Err(e) => return (Action::Failed, failed(id, &e.to_string())),
        }
    }
    (Action::Failed, failed(id, "neither of its bookends could be signalled"))
}

fn failed(id: &RunId, why: &str) -> String {
    format!("stopping run {id}: {why}")
}

/// One try; none when the run is between two states. `left` is what was asked for once that is in its directory.
fn try_to_ask(
    store: &Store,
    id: &RunId,
    intent: &Intent,
    left: &mut Option<Wish>,
) -> io::Result<Option<(Action, String)>> {
    let reading = match reconcile::read(store, id) {
        // It ended, and somebody was quick to remove it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok(Some((Action::Over, format!("run {id} is over and gone"))));
        }
        other => other?,
    };
    Ok(match reading {
        Reading::Final(record) => {
            Some((Action::Over, format!("run {id} is over already: {}", words::end(&record))))
        }
        Reading::Living(record) if !ask::is_within_reach(&record) => {
            let why = format!("it runs on {} in another pid namespace or boot", record.host);
            Some((Action::Failed, failed(id, &why)))
        }
        Reading::Living(record) => {
            let wish = left.unwrap_or_else(|| effective(store, &record, intent.wish));
            if left.replace(wish).is_none() {
                ask::leave(store, id, intent).map_err(|e| {
                    io::Error::new(e.kind(), format!("noting who asks, and why, in its directory: {e}"))
                })?;
            }
            (ask::wake(store, id, &record)? == Asked::Yes).then(|| told(id, wish))
        }
        Reading::Orphaned(record, alive) => ask_orphan(store, id, intent, &record, &alive)?,
        Reading::Unclear(..) if left.is_some() => None,
        Reading::Unclear(_, why) => Some((Action::Failed, failed(id, &why))),
    })
}

/// What a wish comes to: the second stop is by force, whether it says so or not.
fn effective(store: &Store, record: &Record, wish: Wish) -> Wish {
    let Wish::Stop { signal, grace_ms, force } = wish else { return wish };
    let asked = || {
        let asked = store.open_run(&record.run_id).and_then(|dir| intents::read_from(&dir, 0));
        asked.is_ok_and(|(asked, _)| asked.iter().any(|intent| matches!(intent.wish, Wish::Stop { .. })))
    };
    Wish::Stop { signal, grace_ms, force: force || record.status == Status::Stopping || asked() }
}

fn told(id: &RunId, wish: Wish) -> (Action, String) {
    match wish {
        Wish::Deliver(number) => {
            (Action::Delivered, format!("{} is passed on to run {id}", signal::name(number)))
        }
        Wish::Stop { force: true, .. } => (Action::Stopping, format!("killing run {id} now")),
        Wish::Stop { .. } => (Action::Stopping, format!("stopping run {id}")),
    }
}

/// What is left of a run without bookends is asked by this process itself.
fn ask_orphan(
    store: &Store,
    id: &RunId,
    intent: &Intent,
    record: &Record,
    alive: &[Stat],
) -> io::Result<Option<(Action, String)>> {
    match intent.wish {
        Wish::Deliver(number) => {
            let reached = record.command.pid.is_some_and(|pid| tree::signal_members(pid, alive, number));
            let answer = (Action::Delivered, format!("{} was sent to run {id}", signal::name(number)));
            let nobody = (Action::Failed, failed(id, "its command is gone"));
            Ok(Some(if reached { answer } else { nobody }))
        }
        Wish::Stop { signal, grace_ms, force } => {
            let asking = Asking { signal, grace_ms, force };
            match reconcile::kill_orphan(store, id, intent.by.clone(), asking) {
                // Somebody else is at it.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(e) => Err(e),
                Ok(_) => {
                    let message = format!("run {id} had lost its bookends; what was left of it is ended");
                    Ok(Some((Action::Killed, message)))
                }
            }
        }
    }
}

/// Waits for the runs that are stopping.
fn wait_for(store: &Store, handled: &mut [Handled]) -> Result<(), Failure> {
    let stopping = |h: &&mut Handled| h.action == Action::Stopping;
    let ids: Vec<RunId> = handled.iter_mut().filter(stopping).map(|h| h.run_id.clone()).collect();
    let mut waiting = Waiting::new(store, &ids);
    waiting.wait(Until::All, None)?;
    for (one, state) in handled.iter_mut().filter(stopping).zip(&waiting.states) {
        let end = state.record.as_ref().map_or_else(String::new, |record| words::end(record));
        one.action = Action::Killed;
        one.message = format!("run {} is over: {end}", one.run_id);
        say(&one.message);
    }
    Ok(())
}

fn report(args: &KillArgs, handled: &[Handled]) -> Result<Done, Failure> {
    if handled.is_empty() {
        say("no living run fits; nothing was stopped");
    }
    if args.json {
        print_json(&Document { schema: SCHEMA, runs: handled })?;
    }
    let failed = handled.iter().any(|h| h.action == Action::Failed);
    Ok(Done::with(if failed { FAILED } else { 0 }))
}
