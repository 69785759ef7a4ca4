//! Trash: run directories that are on their way out. Whoever comes by next finishes what was begun.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use super::Store;
use super::held::gone;
use super::run_dir::{LOCK, UNPUBLISHED};
use crate::disk::{self, tree};
use crate::failpoint;
use crate::model::id::RunId;
use crate::model::time::Timestamp;

/// Prefix of directories that are being removed.
pub const TRASH: &str = ".trash-";
/// A directory that is not published yet and younger than this may belong to a front that has not come to lock it.
const YOUNG_MS: i64 = 60_000;

/// What emptying the trash came to.
#[derive(Debug, Default)]
pub struct Emptied {
    /// Directories that are gone now.
    pub removed: usize,
    /// Those of which something stayed, and why.
    pub stayed: Vec<(String, io::Error)>,
}

/// What became of a directory that was never published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// A front may still be at work in it.
    InUse,
    /// Nobody will ever publish it.
    Dead,
}

impl Store {
    /// Names in the directory of runs that are trash.
    ///
    /// # Errors
    /// As opening or reading the directory of runs.
    pub fn trash(&self) -> io::Result<Vec<OsString>> {
        self.hidden(TRASH)
    }

    /// Names in the directory of runs that are not published, whether or not somebody still works on them.
    ///
    /// # Errors
    /// As opening or reading the directory of runs.
    pub fn unpublished(&self) -> io::Result<Vec<OsString>> {
        self.hidden(UNPUBLISHED)
    }

    fn hidden(&self, prefix: &str) -> io::Result<Vec<OsString>> {
        let runs = match self.runs() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = tree::names(&runs)?;
        found.retain(|name| name.as_bytes().starts_with(prefix.as_bytes()));
        found.sort_unstable();
        Ok(found)
    }

    /// Removes all trash: what this process put there, and what one that was killed left. `go_on` is asked before each.
    ///
    /// # Errors
    /// As opening or reading the directory of runs; what stays of single directories is in the result.
    pub fn empty_trash(&self, mut go_on: impl FnMut() -> bool) -> io::Result<Emptied> {
        let mut emptied = Emptied::default();
        let trash = self.trash()?;
        if trash.is_empty() {
            return Ok(emptied);
        }
        let runs = self.runs()?;
        // That they have left comes before that their files go, for whoever looks after a power cut.
        let _ = disk::sync(&runs);
        for name in trash {
            if !go_on() {
                break;
            }
            match self.remove_trash(&runs, &name) {
                Ok(()) => emptied.removed += 1,
                Err(e) => emptied.stayed.push((name.to_string_lossy().into_owned(), e)),
            }
        }
        Ok(emptied)
    }

    fn remove_trash(&self, runs: &OwnedFd, name: &OsString) -> io::Result<()> {
        failpoint::hit("clean.emptying");
        let found = match tree::look_at(runs, name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if found.uid != self.uid {
            return Err(io::Error::other(format!("it belongs to user {}", found.uid)));
        }
        if let Some(id) = name.to_str().and_then(id_of_trash) {
            let taken = tree::look_at(runs, id.as_str()).is_ok();
            if !taken {
                self.unmark(&id);
            }
        }
        gone(tree::remove_at(runs, name))
    }

    /// Whether anybody may still be at work in a directory that is not published. One that is so young that its lock
    /// may not be there yet is taken for one in use.
    ///
    /// # Errors
    /// What keeps it from being looked at.
    pub fn judge_unpublished(&self, name: &OsString, now: Timestamp) -> io::Result<Stray> {
        let dir = tree::enter_at(self.runs()?, name)?;
        let found = tree::look(&dir)?;
        if found.uid != self.uid {
            return Err(io::Error::other(format!("it belongs to user {}", found.uid)));
        }
        let age_ms = now.unix_ms().saturating_sub(found.changed_ms);
        let free = match disk::open_at(&dir, LOCK) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => true,
            other => disk::try_lock(&other?)?,
        };
        // A clock that was set back says nothing of its age.
        Ok(if free && !(-YOUNG_MS..=YOUNG_MS).contains(&age_ms) { Stray::Dead } else { Stray::InUse })
    }

    /// Makes trash of a directory that nobody will publish.
    ///
    /// # Errors
    /// As [`Self::judge_unpublished`] and renameat(2); `WouldBlock` when somebody is at work in it.
    pub fn throw_away_unpublished(&self, name: &OsString, now: Timestamp) -> io::Result<()> {
        if self.judge_unpublished(name, now)? == Stray::InUse {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        let text = name.to_str().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let runs = self.runs()?;
        let trash = format!("{TRASH}{}", text.trim_start_matches(UNPUBLISHED));
        disk::rename_new_at(&runs, text, &runs, &trash)
    }
}

/// The run that a directory in the trash was.
fn id_of_trash(name: &str) -> Option<RunId> {
    RunId::parse(name.strip_prefix(TRASH)?.get(..RunId::LEN)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trash_has_the_name_of_its_run() {
        let id = RunId::parse("20261121-130500-07zzzz");
        assert_eq!(id_of_trash(".trash-20261121-130500-07zzzz"), id);
        assert_eq!(id_of_trash(".trash-20261121-130500-07zzzz.3"), id);
        assert_eq!(id_of_trash(".trash-notes"), None);
        assert_eq!(id_of_trash(".trash-ööööööööööööööööööööö"), None);
    }
}
