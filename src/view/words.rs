//! Short phrases for parts of a record.

use std::time::Duration;

use super::quote;
use crate::model::outcome::ExitReason;
use crate::model::record::{Actor, EndedBy, Exit, Fate, Leftover, Record};
use crate::model::status::Status;
use crate::model::time::Timestamp;

/// An exit, e.g. `code 3` or `SIGKILL (9)`.
#[must_use]
pub fn exit(exit: &Exit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => {
            let name = exit.signal_name.clone().unwrap_or_else(|| crate::model::signal::name(signal));
            let core = if exit.core_dumped { ", core dumped" } else { "" };
            format!("{name} ({signal}){core}")
        }
        (None, None) => "not seen".to_owned(),
    }
}

/// Who ended a run, e.g. `SIGTERM from kill (pid 4711) of user 1000`, `bookend kill by bash (pid 12): too slow`.
#[must_use]
pub fn ended_by(by: &EndedBy) -> String {
    let process = match (&by.command, by.pid) {
        (Some(name), Some(pid)) => format!("{} (pid {pid})", quote::visible(name)),
        (None, Some(pid)) => format!("pid {pid}"),
        _ => "another process".to_owned(),
    };
    let user = by.uid.map(|uid| format!(" of user {uid}")).unwrap_or_default();
    let signal = by.signal.as_deref().unwrap_or("a signal");
    let who = match by.actor {
        Actor::Terminal => format!("{signal} from the terminal"),
        Actor::Process => format!("{signal} from {process}{user}"),
        Actor::User => format!("bookend kill by {process}{user}"),
        Actor::Bookend => "bookend".to_owned(),
        Actor::System => "the system".to_owned(),
        Actor::Unknown => "somebody".to_owned(),
    };
    match &by.reason {
        Some(reason) => format!("{who}: {}", quote::visible(reason)),
        None => who,
    }
}

/// A process that was left behind, e.g. `pid 12 sleep 100, killed`.
#[must_use]
pub fn leftover(left: &Leftover) -> String {
    let fate = match left.fate {
        Fate::Ended => "ended by itself",
        Fate::Terminated => "terminated",
        Fate::Killed => "killed",
        Fate::Alive => "still alive",
        Fate::Unknown => "fate unknown",
    };
    let holds = if left.holds_output { ", holds the output open" } else { "" };
    format!("pid {} {}, {fate}{holds}", left.pid, quote::command(&left.argv))
}

/// A duration in at most two units, e.g. `1h 5m`, `3.2s`, `40ms`.
#[must_use]
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 if d.as_millis() < 1000 => format!("{}ms", d.as_millis()),
        0..=59 => format!("{}.{}s", s, d.subsec_millis() / 100),
        60..=3599 => format!("{}m {}s", s / 60, s % 60),
        3600..=86_399 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// What a run is or was, in a few words, e.g. `Exited (3) 2m 1s ago`.
#[must_use]
pub fn state(record: &Record, now: Timestamp) -> String {
    let ago = |at: Timestamp| format!("{} ago", duration(now.since(at)));
    let since = record.completed_at.map(ago).unwrap_or_default();
    if record.orphaned == Some(true) {
        let pid = record.command.pid.map(|p| format!(", pid {p} alive")).unwrap_or_default();
        return format!("Orphaned{pid}");
    }
    match record.status {
        Status::Initializing => "Starting".to_owned(),
        Status::Running if record.paused_since.is_some() => "Paused".to_owned(),
        Status::Running => format!("Up {}", duration(now.since(record.started_at))),
        Status::Stopping => "Stopping".to_owned(),
        Status::Lost => match record.ended_between {
            Some([from, to]) => format!("Lost between {from} and {to}"),
            None => "Lost".to_owned(),
        },
        Status::Unknown => "Unknown".to_owned(),
        Status::Completed | Status::Failed | Status::Stopped => format!("{} {since}", end(record)),
    }
}

/// How a finished run ended, in a few words.
#[must_use]
pub fn end(record: &Record) -> String {
    let code = record.wrapper_exit_code.map(|c| format!(" ({c})")).unwrap_or_default();
    match record.exit_reason {
        Some(ExitReason::Exited) => format!("Exited{code}"),
        Some(ExitReason::Signaled) => {
            format!(
                "Died of {}",
                record.exit.as_ref().and_then(|e| e.signal_name.clone()).unwrap_or_default()
            )
        }
        Some(ExitReason::Killed) => {
            let why = record.ended_by.as_ref().and_then(|b| b.reason.clone());
            why.map_or("Killed".to_owned(), |w| format!("Killed: {}", quote::visible(&w)))
        }
        Some(reason) => {
            let word = reason.word().replace('_', " ");
            let mut letters = word.chars();
            let first = letters.next().map(|c| c.to_ascii_uppercase());
            format!("{}{}{code}", first.map(String::from).unwrap_or_default(), letters.as_str())
        }
        None => "Ended".to_owned(),
    }
}

/// The verdict that `run` ends with: how it ended, how long it took, and what to type next.
#[must_use]
pub fn verdict(record: &Record) -> String {
    let took = record
        .duration_seconds
        .map(|s| format!(" after {}", duration(Duration::from_millis((s * 1000.0) as u64))))
        .unwrap_or_default();
    let mut text = format!("bookend: {}: {}{took}", record.status.word(), detail(record));
    let alive = record.leftovers.iter().filter(|l| l.fate == Fate::Alive).count();
    if alive > 0 {
        text += &format!("\nbookend: {alive} process(es) could not be ended; `bookend show` lists them");
    }
    if let Some(hint) = record.error.as_ref().and_then(|e| e.detail.as_ref()) {
        text += &format!("\nbookend: hint: {}", quote::visible(hint));
    }
    for what in &record.degraded {
        text += &format!("\nbookend: note: {}", quote::visible(what));
    }
    let command = if record.status == Status::Completed { "logs" } else { "show" };
    text + &format!("\nbookend: next: bookend {command} {}", record.run_id.short())
}

/// Whether a run ended by something other than what its command did or a person wanted.
#[must_use]
pub fn is_trouble(record: &Record) -> bool {
    use ExitReason::{InternalError, PreflightFailed, SpawnFailed};
    matches!(record.exit_reason, Some(InternalError | PreflightFailed | SpawnFailed))
}

/// What `verdict` says between the status and the duration.
fn detail(record: &Record) -> String {
    let meaning = record.exit_reason.map_or("it ended", |r| r.row().meaning);
    match (&record.exit_reason, &record.error, &record.ended_by, &record.exit) {
        (Some(ExitReason::Exited), _, _, Some(e)) => format!("exited with {}", exit(e)),
        (Some(ExitReason::Signaled), _, _, Some(e)) => format!("died of {}", exit(e)),
        (_, Some(error), _, _) => format!("{meaning}: {}", quote::visible(&error.message)),
        (_, _, Some(by), _) => {
            let forced = if record.forced { ", forced" } else { "" };
            format!("{meaning} ({}){forced}", ended_by(by))
        }
        _ => meaning.to_owned(),
    }
}
