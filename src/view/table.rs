//! The table of runs for people, and the same as CSV for spreadsheets.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

use super::{Look, quote, words};
use crate::model::record::Record;
use crate::model::status::Status;
use crate::query;

/// Columns between two cells.
const GAP: usize = 3;
/// A command line is cut to this where nothing says how wide the terminal is.
const COMMAND_WIDTH: usize = 60;
/// No terminal is so narrow that less than this is left for a command line.
const LEAST_COMMAND: usize = 12;
/// A name is cut to a fifth of the terminal, within these bounds.
const NAME_WIDTH: (usize, usize) = (8, 24);
/// A state is cut to this.
const STATE_WIDTH: usize = 48;

/// One column: its title, and how much it matters. The least one goes first where the terminal is narrow.
struct Column {
    title: &'static str,
    matters: u32,
    cell: fn(&Record, &Look) -> String,
}

const COLUMNS: [Column; 9] = [
    Column { title: "ID", matters: 9, cell: |r, _| r.run_id.to_string() },
    Column { title: "NAME", matters: 7, cell: |r, _| name(r) },
    Column { title: "STATUS", matters: 8, cell: words::state },
    Column { title: "EXIT", matters: 3, cell: |r, _| dash(r.wrapper_exit_code) },
    Column { title: "MODE", matters: 1, cell: |r, _| r.mode.word().to_owned() },
    Column { title: "CREATED", matters: 4, cell: |r, look| words::ago(r.started_at, look) },
    Column { title: "DURATION", matters: 5, cell: |r, look| dash(took(r, look).map(words::duration)) },
    Column { title: "COST", matters: 2, cell: |r, _| dash(cost(r)) },
    Column { title: "COMMAND", matters: 6, cell: |r, _| quote::command(&r.command.argv) },
];
const ID: usize = 0;
const NAME: usize = 1;
const STATE: usize = 2;
const COMMAND: usize = 8;

/// The table of `ps`, header included. Ids are short and cells are cut unless all of it is wanted.
#[must_use]
pub fn runs(records: &[Record], look: &Look, whole: bool) -> String {
    let mut rows: Vec<Vec<String>> =
        records.iter().map(|r| COLUMNS.iter().map(|c| (c.cell)(r, look)).collect()).collect();
    if !whole {
        shorten_ids(&mut rows, records);
        let name_width = look.width.map_or(NAME_WIDTH.1, |w| (w / 5).clamp(NAME_WIDTH.0, NAME_WIDTH.1));
        for row in &mut rows {
            row[NAME] = shortened(&row[NAME], name_width);
            row[STATE] = shortened(&row[STATE], STATE_WIDTH);
        }
    }
    for (row, _) in rows.iter_mut().zip(records).filter(|(_, r)| r.pinned == Some(true)) {
        row[NAME] += " (pinned)";
    }
    let mut widths: Vec<usize> = COLUMNS.iter().map(|c| c.title.len()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let shown = if whole { (0..COLUMNS.len()).collect() } else { fitting(&widths, look.width) };
    if !whole {
        let others: usize = shown.iter().filter(|&&at| at != COMMAND).map(|&at| widths[at] + GAP).sum();
        let left = look.width.map_or(COMMAND_WIDTH, |width| width.saturating_sub(others).max(LEAST_COMMAND));
        for row in &mut rows {
            row[COMMAND] = shortened(&row[COMMAND], left);
        }
    }
    let head: Vec<String> = COLUMNS.iter().map(|c| c.title.to_owned()).collect();
    let mut text = line(&head, &shown, &widths, None);
    for (row, record) in rows.iter().zip(records) {
        text += &line(row, &shown, &widths, look.colour.then(|| style(record)));
    }
    text
}

/// One line for each of the runs that a word could mean: id, state, command.
#[must_use]
pub fn candidates(records: &[Record], look: &Look) -> String {
    let line = |r: &Record| {
        let command = quote::shortened(&quote::command(&r.command.argv), COMMAND_WIDTH);
        format!("  {}   {}   {command}", r.run_id, shortened(&words::state(r, look), STATE_WIDTH))
    };
    records.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Which columns there is room for: those that matter most first, each that still fits.
fn fitting(widths: &[usize], room: Option<usize>) -> Vec<usize> {
    let mut by_weight: Vec<usize> = (0..COLUMNS.len()).collect();
    by_weight.sort_by_key(|&at| std::cmp::Reverse(COLUMNS[at].matters));
    let mut left = room.unwrap_or(usize::MAX);
    let mut shown = Vec::new();
    for at in by_weight {
        let needs = if at == COMMAND { LEAST_COMMAND } else { widths[at] } + GAP;
        // Without an id and a state a table would say nothing.
        if needs <= left.saturating_add(GAP) || shown.len() < 2 {
            left = left.saturating_sub(needs);
            shown.push(at);
        }
    }
    shown.sort_unstable();
    shown
}

fn line(cells: &[String], shown: &[usize], widths: &[usize], state: Option<Style>) -> String {
    let mut text = String::new();
    for (place, &at) in shown.iter().enumerate() {
        let is_last = place + 1 == shown.len();
        let pad = if is_last { 0 } else { widths[at] + GAP - cells[at].width() };
        match state.filter(|_| at == STATE) {
            Some(style) => text += &format!("{style}{}{style:#}", cells[at]),
            None => text += &cells[at],
        }
        text.push_str(&" ".repeat(pad));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Shows the last part of an id, which is what people type, where no other run of the list has the same.
fn shorten_ids(rows: &mut [Vec<String>], records: &[Record]) {
    let mut seen = std::collections::HashMap::new();
    for record in records {
        *seen.entry(record.run_id.short()).or_insert(0) += 1;
    }
    for (row, record) in rows.iter_mut().zip(records) {
        if seen.get(record.run_id.short()) == Some(&1) {
            record.run_id.short().clone_into(&mut row[ID]);
        }
    }
}

fn shortened(cell: &str, width: usize) -> String {
    quote::shortened(cell, width)
}

fn name(record: &Record) -> String {
    record.name.as_deref().map_or("-".to_owned(), quote::visible_line)
}

fn dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// How long a run took, or takes so far.
fn took(record: &Record, look: &Look) -> Option<Duration> {
    match record.duration_seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None if record.status.is_terminal() => None,
        None => Some(look.now.since(record.started_at)),
    }
}

fn cost(record: &Record) -> Option<String> {
    let cost = record.usage.as_ref()?.cost_usd?;
    Some(format!("${cost:.2}"))
}

/// The colour of a run's state.
#[must_use]
pub fn style(record: &Record) -> Style {
    let colour = match record.status {
        _ if record.orphaned == Some(true) => AnsiColor::Magenta,
        Status::Completed => AnsiColor::Green,
        Status::Failed | Status::Lost => AnsiColor::Red,
        Status::Stopped | Status::Stopping | Status::Unknown => AnsiColor::Yellow,
        Status::Initializing | Status::Running => AnsiColor::Cyan,
    };
    colour.on_default()
}

/// Titles of the columns of [`csv`].
pub const CSV_TITLES: [&str; 13] = [
    "run_id",
    "name",
    "status",
    "exit_reason",
    "exit_code",
    "signal",
    "wrapper_exit_code",
    "mode",
    "harness",
    "started_at",
    "completed_at",
    "duration_seconds",
    "command",
];

/// The cells of a run for a spreadsheet, under [`CSV_TITLES`]; what is not known is empty.
#[must_use]
pub fn csv(record: &Record) -> [String; 13] {
    fn text(value: Option<impl ToString>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    let exit = record.exit.as_ref();
    [
        record.run_id.to_string(),
        text(record.name.as_ref()),
        record.status.word().to_owned(),
        text(record.exit_reason.map(crate::model::outcome::ExitReason::word)),
        text(exit.and_then(|e| e.code)),
        text(exit.and_then(|e| e.signal_name.as_ref())),
        text(record.wrapper_exit_code),
        record.mode.word().to_owned(),
        query::harness(record).to_owned(),
        record.started_at.to_string(),
        text(record.completed_at),
        text(record.duration_seconds),
        quote::command(&record.command.argv),
    ]
}
