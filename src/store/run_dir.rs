//! One run's directory: made under a temporary name, published by a rename, sealed by a rename.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use serde::Serialize;
use thiserror::Error;

use super::door::DOOR;
use super::{LIVE, RUNS, Store};
use crate::disk::{self, Access};
use crate::model::id::RunId;
use crate::model::plan::{Capture, Durability};
use crate::model::record::Record;

/// The living state.
pub const STATUS: &str = "status.json";
/// The next living state, while it is written.
const FRESH_STATUS: &str = ".status.json.new";
/// The final record.
pub const RECORD: &str = "run.json";
/// The log.
pub const LOG: &str = "harness.log";
/// Which part of the log came from which stream, and when: a line for each [`crate::model::stream::Mark`].
pub const INDEX: &str = "harness.idx";
/// What happened.
pub const EVENTS: &str = "events.jsonl";
/// What was asked.
pub const PROMPT: &str = "prompt.md";
/// The harness's final answer.
pub const RESPONSE: &str = "response.md";
/// What went wrong.
pub const DIAGNOSTICS: &str = "diagnostics.md";
/// The record of the only task.
pub const TASK: &str = "task.json";
/// Proof of life.
pub const LOCK: &str = "lock";
/// What others want of the run, for its keeper to read: one line each, the first one first.
pub const INTENTS: &str = "kill.jsonl";
/// What people noted on it afterwards.
pub const NOTES: &str = "notes.jsonl";
/// Disk space set aside for the record.
pub const RESERVE: &str = "reserve";
/// Prefix of directories that are not published yet.
pub const UNPUBLISHED: &str = ".new-";
/// Space that is set aside for the index.
const INDEX_AHEAD_BYTES: u64 = 4 * 1024;
/// Size of the reserve.
pub const RESERVE_BYTES: u64 = 16 * 1024;

/// Why a run directory could not be made or read.
#[derive(Debug, Error)]
#[error("{doing}: {source}")]
pub struct RunDirError {
    /// What was being done, to what.
    pub doing: String,
    /// What the system said.
    pub source: io::Error,
}

fn failed(doing: impl Into<String>) -> impl FnOnce(io::Error) -> RunDirError {
    let doing = doing.into();
    move |source| RunDirError { doing, source }
}

/// A run directory with everything open that its end will need.
#[derive(Debug)]
pub struct RunDir {
    /// The run.
    pub id: RunId,
    store: Rc<OwnedFd>,
    runs: OwnedFd,
    live: OnceCell<OwnedFd>,
    dir: OwnedFd,
    /// Locked while a bookend of the run lives.
    pub lock: File,
    /// The log.
    pub log: Rc<File>,
    /// Its index, where the output goes through bookend.
    pub index: Option<Rc<File>>,
    events: File,
    reserve: File,
    /// Whether files are flushed.
    pub durability: Durability,
}

/// The handles that a run directory consists of.
struct Parts {
    dir: OwnedFd,
    lock: File,
    log: File,
    index: Option<File>,
    events: File,
    reserve: File,
}

impl RunDir {
    /// Makes a directory for a new run, locked and not yet published.
    ///
    /// # Errors
    /// What the failing step said; nothing is left behind then.
    pub fn create(
        store: &Store,
        id: RunId,
        capture: Capture,
        durability: Durability,
    ) -> Result<Self, RunDirError> {
        let runs_path = store.path.join(RUNS);
        let name = format!("{UNPUBLISHED}{id}");
        let made = Self::runs_of(store).and_then(|runs| match disk::make_dir_at(&runs, &name) {
            Ok(()) => Ok(runs),
            Err(e) => Err(e),
        });
        let runs = made.map_err(failed(format!("making a run directory in {}", runs_path.display())))?;
        match Self::fill(&runs, &name, capture) {
            Ok(parts) => Ok(Self::of_parts(parts, store, runs, id, durability)),
            Err(e) => {
                let _ = disk::remove_flat_dir_at(&runs, &name);
                let path = runs_path.join(&name);
                let doing = format!("preparing run directory {}: {}", path.display(), e.doing);
                Err(RunDirError { doing, source: e.source })
            }
        }
    }

    fn runs_of(store: &Store) -> io::Result<OwnedFd> {
        match store.runs() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                super::make_parts(store.dir())?;
                store.runs()
            }
            other => other,
        }
    }

    /// Makes the files that a run needs from its beginning, the lock first.
    fn fill(runs: &OwnedFd, name: &str, capture: Capture) -> Result<Parts, RunDirError> {
        let dir = disk::open_dir_at(runs, name).map_err(failed("opening it"))?;
        let lock = disk::create_at(&dir, LOCK, Access::Write).map_err(failed("making its lock"))?;
        if !disk::try_lock(&lock).map_err(failed("locking it"))? {
            return Err(failed("locking it")(io::Error::from(io::ErrorKind::WouldBlock)));
        }
        let reserve = disk::create_at(&dir, RESERVE, Access::Write).map_err(failed("making its reserve"))?;
        disk::reserve(&reserve, RESERVE_BYTES).map_err(failed("reserving space for its record"))?;
        let access = if capture == Capture::File { Access::Append } else { Access::Write };
        let log = disk::create_at(&dir, LOG, access).map_err(failed("making its log"))?;
        let index = (capture != Capture::File)
            .then(|| disk::create_at(&dir, INDEX, Access::Append))
            .transpose()
            .map_err(failed("making the index of its log"))?;
        if let Some(index) = &index {
            // The last page of a log on a full disk still takes output; which stream that is must be known as well.
            let _ = disk::reserve_ahead(index, INDEX_AHEAD_BYTES);
        }
        let events = disk::create_at(&dir, EVENTS, Access::Append).map_err(failed("making its events"))?;
        Ok(Parts { dir, lock, log, index, events, reserve })
    }

    fn of_parts(parts: Parts, store: &Store, runs: OwnedFd, id: RunId, durability: Durability) -> Self {
        Self {
            id,
            store: Rc::clone(store.dir()),
            runs,
            live: OnceCell::new(),
            dir: parts.dir,
            lock: parts.lock,
            log: Rc::new(parts.log),
            index: parts.index.map(Rc::new),
            events: parts.events,
            reserve: parts.reserve,
            durability,
        }
    }

    /// Opens a published run to seal it in the place of its dead bookends; `lock` must be held exclusively.
    ///
    /// # Errors
    /// What the failing step said.
    pub fn adopt(store: &Store, id: &RunId, dir: OwnedFd, lock: File) -> Result<Self, RunDirError> {
        let events = or_nothing(disk::append_at(&dir, EVENTS)).map_err(failed("opening its events"))?;
        let log = disk::open_at(&dir, LOG);
        let log = log.or_else(|_| disk::append_at(&dir, LOG));
        let log = or_nothing(log).map_err(failed("opening its log"))?;
        // The space that was set aside is what a full disk has left for the record.
        let reserve = or_nothing(disk::open_own_at(&dir, RESERVE)).map_err(failed("opening its reserve"))?;
        let runs = store.runs().map_err(failed("opening the directory of runs"))?;
        let parts = Parts { dir, lock, log, index: None, events, reserve };
        Ok(Self::of_parts(parts, store, runs, id.clone(), Durability::Full))
    }

    /// The handle of the directory.
    #[must_use]
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Gives the directory its final name, with a marker among the living. From here on the run exists.
    ///
    /// # Errors
    /// What the failing step said.
    pub fn publish(&self) -> io::Result<()> {
        self.give_name()?;
        self.flush_name()
    }

    /// Publishes the run unless that is done: for a bookend that does not know how far the other one came.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn ensure_published(&self) -> io::Result<()> {
        if !self.is_published() {
            self.give_name()?;
        }
        self.flush_name()
    }

    fn give_name(&self) -> io::Result<()> {
        let name = format!("{UNPUBLISHED}{}", self.id);
        let live = match self.live() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                super::make_parts(&self.store)?;
                self.live()
            }
            other => other,
        }?;
        match disk::link_at(&self.dir, LOCK, live, self.id.as_str()) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        disk::rename_new_at(&self.runs, &name, &self.runs, self.id.as_str())
    }

    /// The directory of markers, opened once.
    fn live(&self) -> io::Result<&OwnedFd> {
        match self.live.get() {
            Some(live) => Ok(live),
            None => disk::open_dir_at(&self.store, LIVE).map(|opened| self.live.get_or_init(|| opened)),
        }
    }

    fn flush_name(&self) -> io::Result<()> {
        if self.durability == Durability::Full {
            disk::sync(&self.dir)?;
            disk::sync(&self.runs)?;
        }
        Ok(())
    }

    fn is_published(&self) -> bool {
        disk::open_dir_at(&self.runs, self.id.as_str())
            .is_ok_and(|d| disk::same_place(d.as_fd(), self.dir.as_fd()))
    }

    /// Takes back a run that nobody was told of, whether or not it got its name already.
    pub fn discard(&self) {
        if self.is_published() {
            let name = format!("{UNPUBLISHED}{}", self.id);
            let _ = disk::rename_new_at(&self.runs, self.id.as_str(), &self.runs, &name);
        }
        self.unmark();
        let _ = disk::remove_flat_dir_at(&self.runs, &format!("{UNPUBLISHED}{}", self.id));
    }

    /// Takes the run from the living.
    pub fn unmark(&self) {
        let _ = self.live().and_then(|live| disk::remove_at(live, self.id.as_str()));
    }

    /// Does what was left to do of a sealed run, whose sealer was killed, and takes it from the living.
    pub fn clear_up(&self) {
        let _ = tidy(&self.dir);
        self.unmark();
    }

    /// Writes status.json for the first time.
    ///
    /// # Errors
    /// As [`Self::write_new`].
    pub fn first_status(&self, record: &Record) -> io::Result<()> {
        self.write_new(STATUS, &json_line(record), true)
    }

    /// Replaces status.json, whole or not at all.
    ///
    /// # Errors
    /// What the failing step said; the old file is untouched then.
    pub fn save_status(&self, record: &Record, durable: bool) -> io::Result<()> {
        // One bookend at a time writes here, so what stands under this name is of one that was killed.
        let written = self.write_over(FRESH_STATUS, &json_line(record), durable);
        let done = written.and_then(|()| disk::replace_at(&self.dir, FRESH_STATUS, &self.dir, STATUS));
        if done.is_err() {
            let _ = disk::remove_at(&self.dir, FRESH_STATUS);
        }
        done
    }

    /// Writes a file that must not exist yet.
    ///
    /// # Errors
    /// What the failing step said.
    pub fn write_new(&self, name: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
        let file = disk::create_at(&self.dir, name, Access::Write)?;
        disk::write_all_at(&file, bytes, 0)?;
        if durable && self.durability == Durability::Full {
            disk::sync_data(&file)?;
        }
        Ok(())
    }

    /// Writes a file, in place of one that a bookend which died may have begun.
    ///
    /// # Errors
    /// What the failing step said.
    pub fn write_over(&self, name: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
        match self.write_new(name, bytes, durable) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                disk::remove_at(&self.dir, name)?;
                self.write_new(name, bytes, durable)
            }
            other => other,
        }
    }

    /// Appends one event; what can not be written is let go, as the record does not depend on it.
    pub fn append_event(&self, line: &[u8]) {
        let _ = (&self.events).write_all(line);
    }

    /// The handle of the events, for the command to announce itself.
    #[must_use]
    pub fn events(&self) -> &File {
        &self.events
    }

    /// Creates run.json from the reserve: the space is there already, and the first one to do it wins.
    ///
    /// # Errors
    /// `AlreadyExists` when the run is sealed; else what the failing step said. `synced` tells whether the bytes
    /// were flushed when that was asked for.
    pub fn seal_from_reserve(&self, bytes: &[u8], synced: &mut bool) -> io::Result<()> {
        disk::write_all_at(&self.reserve, bytes, 0)?;
        disk::set_len(&self.reserve, bytes.len() as u64)?;
        *synced = self.flush(&self.reserve);
        disk::rename_new_at(&self.dir, RESERVE, &self.dir, RECORD)?;
        *synced &= self.flush(&self.dir);
        Ok(())
    }

    /// Creates run.json from a new file, for when the reserve is of no use; its space is given back first.
    ///
    /// # Errors
    /// As [`Self::seal_from_reserve`].
    pub fn seal_from_new(&self, bytes: &[u8], synced: &mut bool) -> io::Result<()> {
        let name = format!(".{RECORD}.new");
        let _ = disk::set_len(&self.reserve, 0);
        let _ = disk::remove_at(&self.dir, &name);
        let file = disk::create_at(&self.dir, &name, Access::Write)?;
        let sealed = disk::write_all_at(&file, bytes, 0).and_then(|()| {
            *synced = self.flush(&file);
            disk::rename_new_at(&self.dir, &name, &self.dir, RECORD)
        });
        if sealed.is_err() {
            let _ = disk::remove_at(&self.dir, &name);
        }
        let _ = disk::remove_at(&self.dir, RESERVE);
        *synced &= self.flush(&self.dir);
        sealed
    }

    fn flush(&self, handle: impl AsFd) -> bool {
        self.durability == Durability::Process || disk::sync(handle).is_ok()
    }

    /// Makes status.json another name of run.json: the living state now says what the record says.
    ///
    /// # Errors
    /// As linkat(2) and renameat(2).
    pub fn settle_status(&self) -> io::Result<()> {
        settle_status(&self.dir)
    }

    /// Reads one of the run's small files.
    ///
    /// # Errors
    /// As [`disk::read_at`].
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        disk::read_at(&self.dir, name)
    }
}

pub(super) fn settle_status(dir: &OwnedFd) -> io::Result<()> {
    if let Err(e) = disk::link_at(dir, RECORD, dir, FRESH_STATUS) {
        if e.kind() != io::ErrorKind::AlreadyExists {
            return Err(e);
        }
        disk::remove_at(dir, FRESH_STATUS)?;
        disk::link_at(dir, RECORD, dir, FRESH_STATUS)?;
    }
    disk::replace_at(dir, FRESH_STATUS, dir, STATUS)
}

/// Does what was left to do in the directory of a sealed run whose sealer was killed: status.json says what run.json
/// says, and there are no temporary files. The lock must be held exclusively.
///
/// # Errors
/// As reading the directory; what can not be removed stays.
pub fn tidy(dir: &OwnedFd) -> io::Result<()> {
    // Once more would leave the new name behind: a rename to another name of the same file does nothing.
    if !is_settled(dir) {
        let _ = settle_status(dir);
    }
    for name in
        disk::names(dir)?.iter().filter(|name| name.starts_with('.') || *name == RESERVE || *name == DOOR)
    {
        let _ = disk::remove_at(dir, name);
    }
    Ok(())
}

fn is_settled(dir: &OwnedFd) -> bool {
    let named = [RECORD, STATUS].map(|name| disk::open_at(dir, name));
    matches!(named, [Ok(record), Ok(status)] if disk::same_place(record.as_fd(), status.as_fd()))
}

/// A file that could be opened, or one with nothing in it in the place of something that is no file of ours: a run
/// with a FIFO for a log has an end too.
fn or_nothing(opened: io::Result<File>) -> io::Result<File> {
    match opened {
        Err(e)
            if e.kind() == io::ErrorKind::InvalidData
                || matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENXIO | libc::EISDIR)) =>
        {
            disk::open_null().map(File::from)
        }
        other => other,
    }
}

/// A value as one line of JSON.
#[must_use]
pub fn json_line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2048);
    // Records hold no map with keys that JSON can not have, so this can not fail; an empty file is seen as torn.
    let _ = serde_json::to_writer(&mut bytes, value);
    bytes.push(b'\n');
    bytes
}
