//! What is removed, in words.

use super::{Look, words};
use crate::retention::{Removal, Rules, Why};

/// Bytes for people, e.g. `3.4 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).to_string()
}

/// A number of things, e.g. `1 run`, `12 runs`.
#[must_use]
pub fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// How many runs, or logs of runs, and how much they take up, e.g. `12 runs, 3.4 GiB`.
#[must_use]
pub fn sum(number: usize, bytes: u64, logs_only: bool) -> String {
    let what = if logs_only { "log" } else { "run" };
    format!("{}, {}", count(number, what), size(bytes))
}

/// The table of what would go, the oldest first, header included.
#[must_use]
pub fn table(removals: &[Removal], look: &Look) -> String {
    let head = ["ID", "ENDED", "SIZE", "WHY"].map(str::to_owned);
    let row = |removal: &Removal| {
        [
            removal.id.to_string(),
            words::ago(removal.ended_at, look),
            size(removal.bytes),
            why(removal.why).to_owned(),
        ]
    };
    let rows: Vec<[String; 4]> = std::iter::once(head).chain(removals.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 4] = std::array::from_fn(width);
    let line = |row: &[String; 4]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn why(why: Why) -> &'static str {
    match why {
        Why::Old => "it ended too long ago",
        Why::Size => "the total is above the limit",
        Why::Surplus => "it is not among the newest",
        Why::Asked => "asked for",
    }
}

/// Rules in words, as the configuration names them, e.g. `older_than 30d, keep_last 100`.
#[must_use]
pub fn rules(rules: &Rules, logs_only: bool) -> String {
    let age = rules.older_than.map(|age| format!("older_than {}", humantime::format_duration(age)));
    let last = rules.keep_last.map(|number| format!("keep_last {number}"));
    let total = rules.max_total_bytes.map(|bytes| format!("max_total_size {}", size(bytes)));
    let failed = rules.keep_failed.then(|| "keep_failed".to_owned());
    let logs = logs_only.then(|| "logs_only".to_owned());
    [age, last, total, failed, logs].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
