//! Adding to `notes.jsonl`: what people say of a run afterwards.

use std::io;
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
    let line = json_line(entry);
    if line.len() > LINE_LIMIT {
        let why = format!("it is longer than {LINE_LIMIT} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    disk::append_line_at(dir, NOTES, &line)
}
