//! Adding to `notes.jsonl`: what people say of a run afterwards.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use super::Store;
use super::run_dir::{NOTES, json_line};
use crate::disk;
use crate::model::id::RunId;
use crate::model::notes::Entry;
use crate::model::record::LINE_LIMIT;

impl Store {
    /// Notes a change on a run.
    ///
    /// # Errors
    /// `InvalidInput` for what is too long to be read again; as opening or writing the file. One write takes the whole line,
    /// so that two that come at once stay apart.
    pub fn note(&self, id: &RunId, entry: &Entry) -> io::Result<()> {
        append(&self.open_run(id)?, entry)
    }
}

/// Notes a change in a run's directory.
pub(super) fn append(dir: &OwnedFd, entry: &Entry) -> io::Result<()> {
    // A line that was cut short by a full disk must not take this one with it; readers pass over empty lines.
    let line = [b"\n", json_line(entry).as_slice()].concat();
    if line.len() > LINE_LIMIT {
        let why = format!("it is longer than {LINE_LIMIT} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    match disk::append_at(dir, NOTES)?.write(&line)? {
        n if n == line.len() => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::StorageFull)),
    }
}
