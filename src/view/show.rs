//! One run in full: the verdict first, then the evidence, then what to type next.

use std::fmt::Write as _;

use anstyle::Style;
use bytesize::ByteSize;

use super::{Look, quote, table, words};
use crate::model::outcome::ExitReason;
use crate::model::plan::Capture;
use crate::model::record::{Author, DeclaredInfo, EndedBy, Record, StepStatus};
use crate::model::status::Status;
use crate::model::time::Timestamp;

/// Width of the labels.
const LABEL_WIDTH: usize = 10;

/// What a run's directory holds besides its record.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Where it is.
    pub dir: String,
    /// Names of its files.
    pub names: Vec<String>,
    /// The end of its log, made safe for a terminal.
    pub tail: String,
    /// Whether its command was just seen to live: its process id and its start time are the ones in the record.
    pub is_alive: bool,
    /// Who forced its end, where that is another request than the one that is in the record.
    pub forced_by: Option<EndedBy>,
}

/// A run for people.
#[must_use]
pub fn run(record: &Record, look: &Look, files: &Files) -> String {
    let style = if look.colour { table::style(record) } else { Style::new() };
    let mut page = Page { text: format!("{style}{}{style:#}\n\n", verdict(record, look)) };
    page.asked(record);
    page.ended(record, look, files);
    page.child(record, files.is_alive);
    page.harness(record);
    page.evidence(record);
    page.people(record, look);
    page.files(record, files);
    if !files.tail.is_empty() {
        page.text.push_str("\nlast lines of the log\n");
        for line in files.tail.lines() {
            let _ = writeln!(page.text, "  {line}");
        }
    }
    let _ = writeln!(page.text, "\nnext: bookend {}", next(record));
    page.text
}

/// The verdict in one line.
fn verdict(record: &Record, look: &Look) -> String {
    if !record.status.is_terminal() || record.status == Status::Lost {
        return words::state(record, look);
    }
    let ago = record.completed_at.map(|at| format!(", {}", words::ago(at, look).to_lowercase()));
    let mut sentence = words::judgement(record) + &ago.unwrap_or_default();
    if let Some(first) = sentence.get(..1).map(str::to_uppercase) {
        sentence.replace_range(..1, &first);
    }
    sentence
}

/// What to type next.
fn next(record: &Record) -> String {
    let id = record.run_id.short();
    match (record.status, record.exit_reason) {
        _ if record.orphaned == Some(true) => format!("kill {id}"),
        (Status::Initializing | Status::Running | Status::Stopping, _) => format!("logs -f {id}"),
        _ if record.logs_removed_at.is_some() => format!("show {id} --json"),
        (_, Some(ExitReason::SpawnFailed | ExitReason::PreflightFailed | ExitReason::InternalError)) => {
            format!("show {id} --file diagnostics.md")
        }
        _ if record.log.bytes == 0 => format!("show {id} --json"),
        _ => format!("logs {id}"),
    }
}

struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, label: &str, value: impl AsRef<str>) {
        let line = format!("{label:<LABEL_WIDTH$} {}", value.as_ref());
        let _ = writeln!(self.text, "{}", line.trim_end());
    }

    fn said(&mut self, label: &str, value: &str) {
        self.line(label, quote::visible_line(value));
    }

    /// What was asked.
    fn asked(&mut self, record: &Record) {
        self.line("run", record.run_id.as_str());
        if let Some(name) = &record.name {
            self.said("name", name);
        }
        for (key, value) in &record.labels {
            self.said("label", &format!("{key}={value}"));
        }
        self.line("command", quote::command(&record.command.argv));
        self.said("directory", record.command.cwd.as_str());
        if !record.command.env_names.is_empty() {
            self.said("with", &format!("{} set", record.command.env_names.join(", ")));
        }
        for limit in limits(record) {
            self.line("limit", limit);
        }
    }

    /// When it began, how and when it ended, and who ended it.
    fn ended(&mut self, record: &Record, look: &Look, files: &Files) {
        let both = |at: Timestamp| format!("{} ({})", at, words::ago(at, look).to_lowercase());
        self.line("started", both(record.started_at));
        if let Some(at) = record.completed_at {
            self.line("ended", both(at));
        }
        if let Some([from, to]) = record.ended_between {
            self.line("ended", format!("between {from} and {to}"));
        }
        if let Some(reason) = record.exit_reason {
            let forced = if record.forced { ", forced" } else { "" };
            self.line("reason", format!("{}: {}{forced}", reason.word(), reason.row().meaning));
        }
        if let Some(by) = &record.ended_by {
            self.line("ended by", words::ended_by(by));
        }
        if let Some(by) = &files.forced_by {
            self.line("forced by", words::ended_by(by));
        }
        if let Some(error) = &record.error {
            self.said("error", &error.message);
            if let Some(hint) = &error.detail {
                self.said("hint", hint);
            }
        }
    }

    /// What the command did and used, and what it left.
    fn child(&mut self, record: &Record, is_alive: bool) {
        let pid = record.command.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        match &record.exit {
            Some(exit) => self.line("child", format!("ended with {}{pid}", words::exit(exit))),
            None if record.status.is_terminal() && !pid.is_empty() => {
                self.line("child", format!("nobody saw how it ended{pid}"));
            }
            None if pid.is_empty() => self.line("child", "not started"),
            None if is_alive => self.line("child", format!("alive{pid}")),
            None => self.line("child", format!("alive, as far as is known{pid}")),
        }
        if let Some(used) = &record.resources {
            let memory = ByteSize(used.max_rss_bytes).display().iec();
            self.line(
                "used",
                format!(
                    "{:.2} s user, {:.2} s system, at most {memory}",
                    used.user_seconds, used.system_seconds
                ),
            );
        }
        for left in &record.leftovers {
            self.line("left", words::leftover(left));
        }
    }

    /// What an agent said of itself, and what it used.
    fn harness(&mut self, record: &Record) {
        if let Some(harness) = &record.harness {
            let parts = [Some(&harness.name), harness.version.as_ref(), harness.model.as_ref()];
            self.said(
                "agent",
                &parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", "),
            );
            match &harness.declared {
                Some(DeclaredInfo { outcome, message: Some(why), .. }) => {
                    self.said("declared", &format!("{outcome}: {why}"));
                }
                Some(declared) => self.said("declared", &declared.outcome),
                None => self.line("declared", "nothing"),
            }
            if let Some(line) = &harness.resume {
                self.said("go on with", line);
            }
        }
        if let Some(what) = &record.mismatch {
            self.said("mismatch", what);
        }
        if let Some(usage) = &record.usage {
            self.line("usage", words::usage(usage));
        }
    }

    /// What the verdict rests on, and what could not be done as promised.
    fn evidence(&mut self, record: &Record) {
        for step in record.preflight.iter().filter(|step| step.status != StepStatus::Pass) {
            self.said("check", &format!("{}: {}", step.id, step.detail.as_deref().unwrap_or_default()));
        }
        for what in &record.evidence {
            self.said("evidence", what);
        }
        if record.author == Some(Author::Reader) {
            let by = record.reconciled.as_ref().map_or("a reader", |r| r.by.as_str());
            self.said("sealed by", by);
        }
        for what in &record.degraded {
            self.said("degraded", what);
        }
    }

    /// What people said of it.
    fn people(&mut self, record: &Record, look: &Look) {
        if record.pinned == Some(true) {
            self.line("pinned", "yes: it is never cleaned");
        }
        for note in &record.notes {
            let by = note.user.as_ref().map(|user| format!(" {user}")).unwrap_or_default();
            self.said("note", &format!("{}{by}: {}", words::clock(note.at, look), note.text));
        }
    }

    fn files(&mut self, record: &Record, files: &Files) {
        let log = &record.log;
        let how = match log.capture {
            Capture::File => "written by the command itself",
            Capture::Tty => "from a terminal of its own",
            Capture::Pipe if record.plan.one_stream => "through one pipe",
            Capture::Pipe => "through two pipes",
        };
        let dropped = match log.dropped_bytes {
            0 => String::new(),
            n => format!(", {n} bytes of output are missing"),
        };
        let known = record.status.is_terminal() || log.bytes > 0;
        let size = if known { format!("{} bytes, ", log.bytes) } else { String::new() };
        match record.logs_removed_at {
            Some(at) => self.line("log", format!("removed at {at} to save space")),
            None => self.line("log", format!("{size}{how}{dropped}")),
        }
        self.said("files", &files.dir);
        if !files.names.is_empty() {
            self.said("", &files.names.join(" "));
        }
    }
}

/// The limits that were set for a run, in words.
fn limits(record: &Record) -> Vec<String> {
    let set = |ms: Option<u64>, what: &str| {
        ms.map(|ms| format!("{what} {}", words::duration(std::time::Duration::from_millis(ms))))
    };
    let limits = &record.plan.limits;
    set(limits.timeout_ms, "at most")
        .into_iter()
        .chain(set(limits.idle_timeout_ms, "without output"))
        .collect()
}
