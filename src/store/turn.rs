//! Whose turn it is: work that is done once in a while, by whoever comes by first.

use std::fs::File;
use std::io;
use std::time::Duration;

use super::Store;
use crate::disk;
use crate::model::record::SCHEMA;
use crate::model::time::Timestamp;

/// When runs were last removed as the configuration says.
const STAMP: &str = "retention.json";

/// The right to do what is due. While it is there, nobody else gets one.
#[derive(Debug)]
pub struct Turn {
    stamp: File,
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
        let last = stamped(&disk::read_whole(&stamp)?);
        // A stamp of the future is of a clock that was wrong.
        let is_due = last.is_none_or(|last| last > now || now.since(last) >= every);
        if !is_due {
            return Ok(None);
        }
        crate::failpoint::hit("turn.taken");
        let turn = Turn { stamp };
        // Before the work: if that breaks, it does not break every run of the day.
        turn.write(now)?;
        Ok(Some(turn))
    }
}

impl Turn {
    /// Leaves the rest of the work to the next one who comes by.
    pub fn leave_unfinished(self) {
        let _ = self.write(Timestamp::EPOCH);
    }

    fn write(&self, at: Timestamp) -> io::Result<()> {
        let line = format!("{}\n", serde_json::json!({ "schema": SCHEMA, "at": at }));
        disk::write_all_at(&self.stamp, line.as_bytes(), 0)?;
        disk::set_len(&self.stamp, line.len() as u64)
    }
}

fn stamped(bytes: &[u8]) -> Option<Timestamp> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    serde_json::from_value(value["at"].clone()).ok()
}
