//! diagnostics.md: for every end that is not `completed`, what a person would look for first.

use std::fmt::Write as _;
use std::fs::File;

use super::RunGuard;
use crate::model::record::Record;
use crate::model::status::Status;
use crate::store::log;
use crate::store::run_dir::DIAGNOSTICS;
use crate::view::plain;

/// How much of the log's end is shown.
const TAIL_BYTES: u64 = 8 * 1024;

/// Writes the diagnostics of a run that did not complete. Best effort: it can never keep the record from being
/// written, and what fails is noted.
pub fn write(guard: &mut RunGuard) {
    if guard.record.status == Status::Completed {
        return;
    }
    let text = of(&guard.record, &guard.dir.log);
    match guard.dir.write_over(DIAGNOSTICS, text.as_bytes(), false) {
        Ok(()) => {
            if let Some(error) = &mut guard.record.error {
                error.diagnostics = Some(DIAGNOSTICS.to_owned());
            }
        }
        Err(e) => guard.degrade(format!("{DIAGNOSTICS} could not be written: {e}")),
    }
}

/// The text for a record and its log.
#[must_use]
pub fn of(record: &Record, log: &File) -> String {
    let tail = log::tail(log, usize::MAX, TAIL_BYTES);
    compose(record, &plain::text(&tail))
}

fn compose(record: &Record, tail: &str) -> String {
    let mut text = String::new();
    let reason = record.exit_reason.map_or("unknown", |r| r.row().meaning);
    let _ = writeln!(text, "# {}: {reason}\n", record.status.word());
    let _ = writeln!(text, "- run: {}", record.run_id);
    let _ = writeln!(text, "- command: {}", crate::view::quote::command(&record.command.argv));
    let _ = writeln!(text, "- directory: {}", record.command.cwd);
    if let Some(exit) = &record.exit {
        let _ = writeln!(text, "- exit: {}", crate::view::words::exit(exit));
    }
    if let Some(by) = &record.ended_by {
        let _ = writeln!(text, "- ended by: {}", crate::view::words::ended_by(by));
    }
    if let Some(error) = &record.error {
        let _ = writeln!(text, "- error: {}", error.message);
    }
    for step in record.preflight.iter().filter(|s| s.detail.is_some()) {
        let _ = writeln!(text, "- check {}: {}", step.id, step.detail.as_deref().unwrap_or_default());
    }
    for left in &record.leftovers {
        let _ = writeln!(text, "- left behind: {}", crate::view::words::leftover(left));
    }
    for entry in record.evidence.iter().chain(&record.degraded) {
        let _ = writeln!(text, "- {entry}");
    }
    let _ = writeln!(text, "\n## The end of the log\n");
    if tail.is_empty() {
        let _ = writeln!(text, "The command printed nothing.");
    } else {
        let fence = "`".repeat(longest_run_of_backticks(tail).max(2) + 1);
        let _ = writeln!(text, "{fence}text\n{}\n{fence}", tail.trim_end_matches('\n'));
    }
    let _ = writeln!(text, "\nThe whole log: `bookend logs {}`", record.run_id);
    text
}

fn longest_run_of_backticks(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}
