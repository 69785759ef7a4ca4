//! Tables for people.

use super::{quote, words};
use crate::model::record::Record;
use crate::model::time::Timestamp;
use std::time::Duration;

/// Columns a command line is cut to.
const COMMAND_WIDTH: usize = 48;

/// The table of `ps`, header included.
#[must_use]
pub fn runs(records: &[Record], now: Timestamp) -> String {
    let head = ["ID", "NAME", "STATUS", "EXIT", "DURATION", "COMMAND"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(records.iter().map(|r| row(r, now))).collect();
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

fn row(record: &Record, now: Timestamp) -> [String; 6] {
    let took = match record.duration_seconds {
        Some(s) => Some(Duration::from_millis((s * 1000.0) as u64)),
        None if record.status.is_terminal() => None,
        None => Some(now.since(record.started_at)),
    };
    [
        record.run_id.to_string(),
        quote::visible(record.name.as_deref().unwrap_or("-")),
        words::state(record, now),
        record.wrapper_exit_code.map_or("-".to_owned(), |c| c.to_string()),
        took.map_or("-".to_owned(), words::duration),
        quote::shortened(&quote::command(&record.command.argv), COMMAND_WIDTH),
    ]
}
