//! A finished run that this process alone may change: its lock is held exclusively, so no bookend of it lives.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use thiserror::Error;

use super::list::{Found, read_record};
use super::run_dir::{self, INDEX, LOCK, LOG, RECORD, TASK, json_line};
use super::trash::TRASH;
use super::{Store, notes};
use crate::disk::{self, Access, tree};
use crate::failpoint;
use crate::model::id::RunId;
use crate::model::notes::Entry;

/// Trash of one id that could not be removed before is passed over this often.
const TRIES: u32 = 100;

/// Why a run could not be held, or no longer.
#[derive(Debug, Error)]
pub enum HoldError {
    /// There is no such run any more.
    #[error("it is gone")]
    Gone,
    /// Its lock is held: a bookend of it lives, or somebody else is at it.
    #[error("its lock is held")]
    Busy,
    /// What has its name is not a run of ours.
    #[error("{0}")]
    Foreign(String),
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A run directory under its exclusive lock.
#[derive(Debug)]
pub struct Held {
    /// The run.
    pub id: RunId,
    runs: OwnedFd,
    live: Option<OwnedFd>,
    dir: OwnedFd,
    /// None where the lock is missing; only its record says then that it is over.
    lock: Option<File>,
}

impl Store {
    /// Takes a run's lock without waiting.
    ///
    /// # Errors
    /// [`HoldError`].
    pub fn hold(&self, id: &RunId) -> Result<Held, HoldError> {
        let runs = self.runs()?;
        let dir = enter(&runs, id.as_str())?;
        let owner = tree::look(&dir)?.uid;
        if owner != self.uid {
            return Err(HoldError::Foreign(format!("it belongs to user {owner}")));
        }
        let lock = match disk::open_at(&dir, LOCK) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            other => Some(other?),
        };
        if let Some(lock) = &lock
            && !disk::try_lock(lock)?
        {
            return Err(HoldError::Busy);
        }
        Ok(Held { id: id.clone(), runs, live: self.live().ok(), dir, lock })
    }
}

/// Opens a run directory; what is no directory, or a mount, is none of ours.
fn enter(runs: &OwnedFd, name: &str) -> Result<OwnedFd, HoldError> {
    tree::enter_at(runs, name).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT) => HoldError::Gone,
        Some(libc::ENOTDIR | libc::ELOOP) => HoldError::Foreign("it is no directory".to_owned()),
        Some(libc::EXDEV) => HoldError::Foreign("it is a mount".to_owned()),
        _ => HoldError::Io(e),
    })
}

impl Held {
    /// The handle of the directory.
    #[must_use]
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Whether there is a lock to hold.
    #[must_use]
    pub fn has_lock(&self) -> bool {
        self.lock.is_some()
    }

    /// Takes the run out of the store by one rename: from here on it is trash, whatever happens to this process.
    /// Gives back how many bytes removing it will free.
    ///
    /// # Errors
    /// [`HoldError`]; the run is where it was then.
    pub fn throw_away(self) -> Result<u64, HoldError> {
        failpoint::hit("clean.held");
        let bytes = tree::occupied(&self.dir);
        let name = self.move_to_trash(self.id.as_str())?;
        // Somebody may have put another thing in its place since it was locked.
        let moved = enter(&self.runs, &name).is_ok_and(|dir| disk::same_place(dir.as_fd(), self.dir.as_fd()));
        if !moved {
            disk::rename_new_at(&self.runs, &name, &self.runs, self.id.as_str())?;
            return Err(HoldError::Foreign("another directory was put in its place".to_owned()));
        }
        failpoint::hit("clean.thrown");
        let _ = self.live.as_ref().map(|live| disk::remove_at(live, self.id.as_str()));
        Ok(bytes)
    }

    fn move_to_trash(&self, from: &str) -> Result<String, HoldError> {
        let mut name = format!("{TRASH}{}", self.id);
        for tries in 1..=TRIES {
            match disk::rename_new_at(&self.runs, from, &self.runs, &name) {
                Ok(()) => return Ok(name),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(HoldError::Gone),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {
                    name = format!("{TRASH}{}.{tries}", self.id);
                }
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                    return Err(HoldError::Foreign("it is a mount".to_owned()));
                }
                Err(e) => return Err(HoldError::Io(e)),
            }
        }
        Err(HoldError::Io(io::Error::from(io::ErrorKind::AlreadyExists)))
    }

    /// Removes the log and its index. That it was done is noted first, unless it is noted already, so that whoever
    /// misses them finds why. Gives back how many bytes that frees.
    ///
    /// # Errors
    /// What the failing step said.
    pub fn drop_log(&self, noted: Option<&Entry>) -> io::Result<u64> {
        let bytes = log_bytes(&self.dir);
        noted.map_or(Ok(()), |entry| notes::append(&self.dir, entry))?;
        failpoint::hit("clean.noted");
        for name in [LOG, INDEX] {
            gone(disk::remove_at(&self.dir, name))?;
        }
        Ok(bytes)
    }

    /// Makes status.json another name of run.json, as it is after every undisturbed end.
    ///
    /// # Errors
    /// What the failing step said.
    pub fn settle_status(&self) -> io::Result<()> {
        run_dir::settle_status(&self.dir)
    }

    /// Writes task.json anew from the record, which holds all that it says.
    ///
    /// # Errors
    /// What the failing step said; `InvalidData` where there is no whole record.
    pub fn write_task(&self) -> io::Result<()> {
        let Found::Whole(record) = read_record(&self.dir, &self.id, RECORD) else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        gone(disk::remove_at(&self.dir, TASK))?;
        let file = disk::create_at(&self.dir, TASK, Access::Write)?;
        disk::write_all_at(&file, &json_line(&record.only_task()), 0)
    }

    /// Removes what only a run that is not sealed has: the space for its record, and files that were being made.
    ///
    /// # Errors
    /// As reading the directory; what can not be removed stays.
    pub fn tidy(&self) -> io::Result<()> {
        run_dir::tidy(&self.dir)
    }

    /// Makes a lock where it is missing.
    ///
    /// # Errors
    /// As openat(2).
    pub fn make_lock(&self) -> io::Result<()> {
        disk::create_at(&self.dir, LOCK, Access::Write).map(drop)
    }
}

/// Bytes that the log of a run and the log's index take up.
#[must_use]
pub fn log_bytes(dir: &OwnedFd) -> u64 {
    let of = |name: &str| tree::look_at(dir, name).ok().filter(|f| f.is_file() && f.names == 1);
    [LOG, INDEX].iter().filter_map(|name| of(name)).map(|found| found.occupied).sum()
}

/// What is gone already needs no removal.
pub(super) fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
