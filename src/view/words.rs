//! Short phrases for parts of a record.

use std::time::Duration;

use super::{Look, quote};
use crate::model::outcome::ExitReason;
use crate::model::record::{Actor, EndedBy, Exit, Fate, Leftover, Record};
use crate::model::status::Status;
use crate::model::time::Timestamp;
use crate::model::usage::Usage;

/// An exit, e.g. `code 3` or `SIGKILL (9)`.
#[must_use]
pub fn exit(exit: &Exit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => {
            let name = exit.signal_name.clone().unwrap_or_else(|| crate::model::signal::name(signal));
            let core = if exit.core_dumped { ", core dumped" } else { "" };
            format!("{} ({signal}){core}", quote::visible_line(&name))
        }
        (None, None) => "not seen".to_owned(),
    }
}

/// Who ended a run, e.g. `SIGTERM from kill (pid 4711) of user 1000`, `alice with bookend kill from bash (pid 12): too slow`.
#[must_use]
pub fn ended_by(by: &EndedBy) -> String {
    let process = match (&by.command, by.pid) {
        (Some(name), Some(pid)) => format!("{} (pid {pid})", quote::visible_line(name)),
        (None, Some(pid)) => format!("pid {pid}"),
        _ => "another process".to_owned(),
    };
    let user = by.user.as_ref().map(|name| format!(" of user {}", quote::visible_line(name)));
    let user = user.or_else(|| Some(format!(" of user {}", by.uid?))).unwrap_or_default();
    let signal = quote::visible_line(by.signal.as_deref().unwrap_or("a signal"));
    let asked = by.signal.as_ref().map(|_| format!(" -s {signal}")).unwrap_or_default();
    let who = match by.actor {
        Actor::Terminal => format!("{signal} from the terminal"),
        Actor::Process => format!("{signal} from {process}{user}"),
        Actor::User => format!("{} with bookend kill{asked} from {process}", person(by)),
        Actor::Bookend => "bookend".to_owned(),
        Actor::System => "the system".to_owned(),
        Actor::Unknown => "somebody".to_owned(),
    };
    match &by.reason {
        Some(reason) => format!("{who}: {}", quote::visible_line(reason)),
        None => who,
    }
}

/// The login name of a person, or the number.
fn person(by: &EndedBy) -> String {
    match (&by.user, by.uid) {
        (Some(user), _) => quote::visible_line(user),
        (None, Some(uid)) => format!("user {uid}"),
        (None, None) => "somebody".to_owned(),
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

/// What was used, e.g. `2742 tokens (2700 in, 42 out, 1000 cached), $0.0070, 2 turns`.
#[must_use]
pub fn usage(usage: &Usage) -> String {
    let parts = [(usage.input_tokens, "in"), (usage.output_tokens, "out"), (usage.cached_tokens, "cached")];
    let parts: Vec<String> = parts.iter().filter_map(|(n, what)| n.map(|n| format!("{n} {what}"))).collect();
    let tokens = usage.total_tokens.map(|n| format!("{n} tokens ({})", parts.join(", ")));
    let cost = usage.cost_usd.map(|dollars| format!("${dollars:.4}"));
    let turns = usage.turns.map(|n| if n == 1 { "1 turn".to_owned() } else { format!("{n} turns") });
    let open = (usage.complete == Some(false)).then(|| "not complete".to_owned());
    [tokens, cost, turns, open].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How long something is or was, as people say it, e.g. `2 hours`, `About a minute`.
#[must_use]
pub fn roughly(d: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let some = |n: u64, unit: &str| if n == 1 { format!("1 {unit}") } else { format!("{n} {unit}s") };
    match d.as_secs() {
        0 => "Less than a second".to_owned(),
        s if s < MINUTE => some(s, "second"),
        s if s < 2 * MINUTE => "About a minute".to_owned(),
        s if s < HOUR => some(s / MINUTE, "minute"),
        s if s < 2 * HOUR => "About an hour".to_owned(),
        s if s < 2 * DAY => some(s / HOUR, "hour"),
        s if s < 14 * DAY => some(s / DAY, "day"),
        s if s < 60 * DAY => some(s / (7 * DAY), "week"),
        s if s < 2 * 365 * DAY => some(s / (30 * DAY), "month"),
        s => some(s / (365 * DAY), "year"),
    }
}

/// How long ago something was, e.g. `2 hours ago`.
#[must_use]
pub fn ago(at: Timestamp, look: &Look) -> String {
    format!("{} ago", roughly(look.now.since(at)))
}

/// A point in time on the clock of whoever looks: `10:02` today, `20 Nov 10:02` on another day.
#[must_use]
pub fn clock(at: Timestamp, look: &Look) -> String {
    let (then, today) = (at.local(look.offset_seconds), look.now.local(look.offset_seconds));
    let hour = format!("{:02}:{:02}", then.hour(), then.minute());
    match (then.date() == today.date(), then.year() == today.year()) {
        (true, _) => hour,
        (false, true) => format!("{} {} {hour}", then.day(), month(then)),
        (false, false) => format!("{} {} {} {hour}", then.day(), month(then), then.year()),
    }
}

/// The time of day on the clock of whoever looks, e.g. `10:02:31`.
#[must_use]
pub fn clock_seconds(at: Timestamp, look: &Look) -> String {
    let then = at.local(look.offset_seconds);
    format!("{:02}:{:02}:{:02}", then.hour(), then.minute(), then.second())
}

fn month(at: time::OffsetDateTime) -> String {
    at.month().to_string().chars().take(3).collect()
}

/// What a run is or was, in a few words, e.g. `Up 3 minutes`, `Exited (3) 2 hours ago`.
#[must_use]
pub fn state(record: &Record, look: &Look) -> String {
    let up = || format!("Up {}", roughly(look.now.since(record.started_at)).to_lowercase());
    if record.orphaned == Some(true) {
        return format!(
            "Orphaned{}",
            alive(record).map(|pid| format!(", pid {pid} alive")).unwrap_or_default()
        );
    }
    match record.status {
        Status::Initializing => "Starting".to_owned(),
        Status::Running if record.paused_since.is_some() => format!("{} (Paused)", up()),
        Status::Running => up(),
        Status::Stopping => "Stopping".to_owned(),
        Status::Lost => match record.ended_between {
            Some([from, to]) => format!("Lost between {} and {}", clock(from, look), clock(to, look)),
            None => "Lost".to_owned(),
        },
        Status::Unknown => "Unknown".to_owned(),
        // Who and why say more than when.
        Status::Stopped if record.exit_reason == Some(ExitReason::Killed) => end(record),
        Status::Completed | Status::Failed | Status::Stopped => match record.completed_at {
            Some(at) => format!("{} {}", end(record), ago(at, look)),
            None => end(record),
        },
    }
}

/// A process of an orphaned run that is alive: its command, or else the first that it left.
fn alive(record: &Record) -> Option<i32> {
    let mut pids = record.leftovers.iter().map(|left| left.pid);
    let command =
        record.command.pid.filter(|&pid| record.leftovers.is_empty() || pids.any(|other| other == pid));
    command.or_else(|| record.leftovers.first().map(|left| left.pid))
}

/// How a finished run ended, in a few words.
#[must_use]
pub fn end(record: &Record) -> String {
    let code = record.wrapper_exit_code.map(|c| format!(" ({c})")).unwrap_or_default();
    match record.exit_reason {
        Some(ExitReason::Exited) => format!("Exited{code}"),
        Some(ExitReason::Signaled) => {
            let name = record.exit.as_ref().and_then(|e| e.signal_name.clone()).unwrap_or_default();
            format!("Died of {}", quote::visible_line(&name))
        }
        Some(ExitReason::Killed) => killed(record.ended_by.as_ref()),
        Some(reason) => {
            let word = reason.word().replace('_', " ");
            let mut letters = word.chars();
            let first = letters.next().map(|c| c.to_ascii_uppercase());
            format!("{}{}{code}", first.map(String::from).unwrap_or_default(), letters.as_str())
        }
        None => "Ended".to_owned(),
    }
}

/// By whom a run was killed, and why, e.g. `Killed by alice: too slow`.
fn killed(by: Option<&EndedBy>) -> String {
    let Some(by) = by else { return "Killed".to_owned() };
    let why = by.reason.as_ref().map(|why| format!(": {}", quote::visible_line(why))).unwrap_or_default();
    format!("Killed by {}{why}", person(by))
}

/// The verdict that `run` ends with: how it ended, how long it took, and what to type next.
#[must_use]
pub fn verdict(record: &Record) -> String {
    let mut text = format!("bookend: {}", judgement(record));
    let alive = record.leftovers.iter().filter(|l| l.fate == Fate::Alive).count();
    if alive > 0 {
        text += &format!("\nbookend: {alive} process(es) could not be ended; `bookend show` lists them");
    }
    if let Some(hint) = record.error.as_ref().and_then(|e| e.detail.as_ref()) {
        text += &format!("\nbookend: hint: {}", quote::visible_line(hint));
    }
    for what in &record.degraded {
        text += &format!("\nbookend: note: {}", quote::visible_line(what));
    }
    let command = if record.status == Status::Completed { "logs" } else { "show" };
    text + &format!("\nbookend: next: bookend {command} {}", record.run_id.short())
}

/// How a run ended and how long it took, e.g. `failed: exited with code 2 after 41.3s`.
#[must_use]
pub fn judgement(record: &Record) -> String {
    let took = record.duration_seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    let detail = detail(record);
    let comma = if detail.contains(": ") { "," } else { "" };
    let took = took.map(|took| format!("{comma} after {}", duration(took))).unwrap_or_default();
    format!("{}: {detail}{took}", record.status.word())
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
        (_, Some(error), _, _) => format!("{meaning}: {}", quote::visible_line(&error.message)),
        (Some(ExitReason::Killed), _, Some(by), _) => {
            let forced = if record.forced { ", forced" } else { "" };
            format!("killed by {}{forced}", ended_by(by))
        }
        (_, _, Some(by), _) => {
            let forced = if record.forced { ", forced" } else { "" };
            format!("{meaning} ({}){forced}", ended_by(by))
        }
        _ => meaning.to_owned(),
    }
}
