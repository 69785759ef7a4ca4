//! Whose turn it is: work that is done once in a while, by whoever comes by first.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Store;
use crate::disk;
use crate::model::id::RunId;
use crate::model::record::SCHEMA;
use crate::model::time::Timestamp;

/// When runs were last removed as the configuration says, and what.
const STAMP: &str = "retention.json";

/// The right to do what is due. While it is there, nobody else gets one.
#[derive(Debug)]
pub struct Turn {
    stamp: File,
    at: Timestamp,
    last: Option<Tally>,
}

/// At most this many ids are kept of what was removed.
pub const MOST_IDS: usize = 100;

/// What was removed by the last turn that removed anything, for those who were not told when it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// When.
    pub at: Timestamp,
    /// Whether only their logs went.
    #[serde(default)]
    pub logs_only: bool,
    /// How many runs.
    pub runs: usize,
    /// Bytes that became free.
    pub bytes: u64,
    /// How many of them by which rule, by its name in the configuration.
    #[serde(default)]
    pub rules: BTreeMap<String, usize>,
    /// Which, the oldest first; at most [`MOST_IDS`].
    #[serde(default)]
    pub run_ids: Vec<RunId>,
}

impl Store {
    /// Takes the turn when it is due; none when somebody else has it, or had it less than `every` ago.
    ///
    /// # Errors
    /// As opening, locking or reading the stamp.
    pub fn take_turn(&self, now: Timestamp, every: Duration) -> io::Result<Option<Turn>> {
        let stamp = disk::open_own_at(self.dir(), STAMP)?;
        if !disk::try_lock(&stamp)? {
            return Ok(None);
        }
        let said = disk::read_whole(&stamp)?;
        let last: Option<Timestamp> = part(&said, "at");
        // A stamp of the future is of a clock that was wrong.
        let is_due = last.is_none_or(|last| last > now || now.since(last) >= every);
        if !is_due {
            return Ok(None);
        }
        crate::failpoint::hit("turn.taken");
        let turn = Turn { stamp, at: now, last: part(&said, "removed") };
        // Before the work: if that breaks, it does not break every run of the day.
        turn.write()?;
        Ok(Some(turn))
    }

    /// What was removed by the last turn that removed anything; none where there was none, or nobody can tell.
    #[must_use]
    pub fn last_tally(&self) -> Option<Tally> {
        part(&disk::read_at(self.dir(), STAMP).ok()?, "removed")
    }
}

impl Turn {
    /// Keeps what was removed; where that was not all, the rest is left to the next one who comes by.
    pub fn finish(mut self, removed: Option<Tally>, is_all: bool) {
        if removed.is_none() && is_all {
            return;
        }
        self.last = removed.or(self.last);
        self.at = if is_all { self.at } else { Timestamp::EPOCH };
        let _ = self.write();
    }

    fn write(&self) -> io::Result<()> {
        let mut said = serde_json::json!({ "schema": SCHEMA, "at": self.at });
        if let Some(last) = &self.last {
            said["removed"] = serde_json::json!(last);
        }
        let line = format!("{said}\n");
        disk::write_all_at(&self.stamp, line.as_bytes(), 0)?;
        disk::set_len(&self.stamp, line.len() as u64)
    }
}

fn part<T: serde::de::DeserializeOwned>(bytes: &[u8], name: &str) -> Option<T> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    serde_json::from_value(value[name].clone()).ok()
}
