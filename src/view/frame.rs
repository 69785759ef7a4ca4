//! Frames of `watch`: what is drawn over itself on a terminal.

use std::fmt::Write as _;

use anstyle::Style;

use super::{Look, quote, table, words};
use crate::model::record::Record;

/// Lines above the log in the frame of one run.
pub const HEAD_LINES: usize = 4;

/// The runs that live, and those that lived when the watch began, in at most so many rows.
#[must_use]
pub fn of_all(records: &[Record], look: &Look, rows: usize) -> Vec<String> {
    let living = records.iter().filter(|r| !r.status.is_terminal()).count();
    let over = records.len() - living;
    let mut title = format!("{}  {living} running", words::clock_seconds(look.now, look));
    if over > 0 {
        let _ = write!(title, ", {over} over");
    }
    let mut lines = vec![title, String::new()];
    if records.is_empty() {
        lines.push("nothing runs; bookend run -- COMMAND starts something".to_owned());
        return lines;
    }
    let mut newest_first: Vec<Record> = records.to_vec();
    // What lives comes first: there may be no room for more.
    newest_first.sort_by(|a, b| {
        let over = |r: &Record| r.status.is_terminal();
        over(a).cmp(&over(b)).then_with(|| b.run_id.cmp(&a.run_id))
    });
    let table = table::runs(&newest_first, look, false);
    let room = rows.saturating_sub(lines.len() + 1).max(1);
    let count = table.lines().count();
    lines.extend(table.lines().take(room).map(str::to_owned));
    if count > room {
        lines.push(format!("and {} more", count - room));
    }
    lines
}

/// One run with the end of its log.
#[must_use]
pub fn of_run(record: &Record, look: &Look, tail: &str) -> Vec<String> {
    let style = if look.colour { table::style(record) } else { Style::new() };
    let name = record.name.as_deref().map(|n| format!("  {}", quote::visible_line(n))).unwrap_or_default();
    let quiet = record.last_output_at.filter(|_| !record.status.is_terminal());
    let quiet = quiet.map(|at| format!(", last output {}", words::ago(at, look).to_lowercase()));
    let cut = |text: String| look.width.map_or(text.clone(), |width| quote::shortened(&text, width));
    let mut lines = vec![
        format!("{style}{}{style:#}", cut(words::state(record, look) + &quiet.unwrap_or_default())),
        cut(format!("{}{name}", record.run_id)),
        cut(quote::command(&record.command.argv)),
        String::new(),
    ];
    lines.extend(tail.lines().map(str::to_owned));
    lines
}

/// The bytes that draw a frame over the last one, which had so many lines. Long lines are cut by the terminal.
#[must_use]
pub fn over(lines: &[String], last: usize) -> String {
    let mut text = String::from("\x1b[?7l");
    if last > 0 {
        let _ = write!(text, "\x1b[{last}A");
    }
    text.push('\r');
    for line in lines {
        text.push_str(line);
        text.push_str("\x1b[K\n");
    }
    text.push_str("\x1b[J\x1b[?7h");
    text
}
