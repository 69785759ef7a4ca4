//! One run in full: the verdict first, then the evidence.

use std::fmt::Write as _;

use super::{quote, words};
use crate::model::record::Record;
use crate::model::time::Timestamp;

/// Lines of the log's end that are shown.
pub const TAIL_LINES: usize = 10;

/// A run for people; `tail` is the end of its log.
#[must_use]
pub fn run(record: &Record, now: Timestamp, dir: &str, tail: &str) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{label:<10} {value}");
    };
    line("run", record.run_id.to_string());
    line("status", words::state(record, now));
    if let Some(reason) = record.exit_reason {
        line("reason", format!("{}: {}", reason.word(), reason.row().meaning));
    }
    if let Some(name) = &record.name {
        line("name", quote::visible(name));
    }
    for (key, value) in &record.labels {
        line("label", quote::visible(&format!("{key}={value}")));
    }
    line("command", quote::command(&record.command.argv));
    line("directory", quote::visible(record.command.cwd.as_str()));
    line("started", record.started_at.to_string());
    if let Some(at) = record.completed_at {
        line("ended", at.to_string());
    }
    if let Some(exit) = &record.exit {
        line("exit", words::exit(exit));
    }
    if let Some(by) = &record.ended_by {
        line("ended by", words::ended_by(by));
    }
    if let Some(error) = &record.error {
        line("error", quote::visible(&error.message));
        if let Some(hint) = &error.detail {
            line("hint", quote::visible(hint));
        }
    }
    for step in &record.preflight {
        let detail = step.detail.as_deref().unwrap_or("ok");
        line("check", quote::visible(&format!("{}: {detail}", step.id)));
    }
    for left in &record.leftovers {
        line("left", words::leftover(left));
    }
    for what in &record.evidence {
        line("evidence", quote::visible(what));
    }
    for what in &record.degraded {
        line("degraded", quote::visible(what));
    }
    let dropped = match record.log.dropped_bytes {
        0 => String::new(),
        n => format!(", {n} of them dropped"),
    };
    line("log", format!("{} bytes{dropped}", record.log.bytes));
    line("files", quote::visible(dir));
    if !tail.is_empty() {
        let _ = writeln!(text, "\n{}", quote::visible(tail.trim_end_matches('\n')));
    }
    let next = if record.status.is_terminal() { "logs" } else { "logs -f" };
    let _ = writeln!(text, "\nnext: bookend {next} {}", record.run_id.short());
    text
}
