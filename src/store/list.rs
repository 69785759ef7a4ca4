//! Finding runs: all, the living, or the one a person means.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use thiserror::Error;

use super::Store;
use super::run_dir::{NOTES, RECORD, STATUS};
use crate::disk;
use crate::model::id::RunId;
use crate::model::notes;
use crate::model::record::Record;

/// Why a name does not stand for one run.
#[derive(Debug, Error)]
pub enum FindError {
    /// There is no such run.
    #[error("no run is called {0:?} in {1}")]
    Nothing(String, String),
    /// Several fit.
    #[error("{0:?} could be any of {count} runs", count = .1.len())]
    Ambiguous(String, Vec<RunId>),
    /// The store can not be read.
    #[error("reading {0}: {1}")]
    Io(String, io::Error),
}

/// A file of a run as a reader finds it.
#[derive(Debug)]
pub enum Found<T> {
    /// Not there.
    Absent,
    /// There, but not whole JSON, or not readable as a file.
    Torn(String),
    /// Whole.
    Whole(T),
}

/// Reads a record file of a run, telling absent from torn. A record of another run is torn, as is a run.json that
/// says the run lives.
pub fn read_record(dir: &OwnedFd, id: &RunId, name: &str) -> Found<Record> {
    let bytes = match disk::read_at(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Found::Absent,
        Err(e) => return Found::Torn(not_a_file(&e)),
        Ok(bytes) => bytes,
    };
    match Record::parse(&bytes) {
        Err(why) => Found::Torn(why),
        Ok(record) if record.run_id != *id => Found::Torn(format!("it is of run {}", record.run_id)),
        Ok(record) if name == RECORD && record.status.is_living() => {
            Found::Torn(format!("it says {}", record.status.word()))
        }
        Ok(record) => Found::Whole(record),
    }
}

/// Why a file can not be read, said so that people see what stands in its place.
fn not_a_file(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ELOOP) => "it is a symbolic link, which is not followed".to_owned(),
        Some(libc::ENXIO) => "it is no regular file".to_owned(),
        _ => error.to_string(),
    }
}

/// What is known of a run without asking whether it lives: its final record, else its living state.
pub fn read_any(dir: &OwnedFd, id: &RunId) -> Found<Record> {
    match read_record(dir, id, RECORD) {
        Found::Absent => read_record(dir, id, STATUS),
        // Its second name may still be whole. A living state says nothing about a run that is over.
        torn @ Found::Torn(_) => match read_record(dir, id, STATUS) {
            Found::Whole(record) if record.status.is_terminal() => Found::Whole(record),
            _ => torn,
        },
        whole @ Found::Whole(_) => whole,
    }
}

impl Store {
    /// Ids of all published runs, newest first.
    ///
    /// # Errors
    /// As opening or reading the directory of runs.
    pub fn all(&self) -> io::Result<Vec<RunId>> {
        ids(self.runs(), disk::dir_names)
    }

    /// Ids of the runs that have no final record yet, newest first.
    ///
    /// # Errors
    /// As opening or reading the directory of markers.
    pub fn living(&self) -> io::Result<Vec<RunId>> {
        ids(self.live(), disk::names)
    }

    /// Takes a sealed run from the living, where a bookend was killed before it could.
    pub fn unmark(&self, id: &RunId) {
        let _ = self.live().and_then(|live| disk::remove_at(live, id.as_str()));
    }

    /// Opens the directory of a run.
    ///
    /// # Errors
    /// As openat(2).
    pub fn open_run(&self, id: &RunId) -> io::Result<OwnedFd> {
        disk::open_dir_at(self.runs()?, id.as_str())
    }

    /// The run a person means: `latest`, the path of a run directory in this store, a whole id or its whole last part, a
    /// name, or else the beginning of an id or of its last part. A name goes before a beginning: who gave it meant it.
    ///
    /// # Errors
    /// [`FindError`].
    pub fn find(&self, wanted: &str) -> Result<RunId, FindError> {
        let all = self.all().map_err(|e| FindError::Io(self.path.display().to_string(), e))?;
        let nothing = || FindError::Nothing(wanted.to_owned(), self.path.display().to_string());
        if wanted == "latest" {
            return all.first().cloned().ok_or_else(nothing);
        }
        if let Some(id) = self.by_path(wanted).or_else(|| RunId::parse(wanted)).filter(|id| all.contains(id))
        {
            return Ok(id);
        }
        let fit = |fits: &dyn Fn(&RunId) -> bool| -> Vec<RunId> {
            all.iter().filter(|id| !wanted.is_empty() && fits(id)).cloned().collect()
        };
        let mut fitting = fit(&|id| id.short() == wanted);
        if fitting.is_empty() {
            fitting = self.only_living(self.named(&all, wanted));
        }
        if fitting.is_empty() {
            fitting = fit(&|id| id.as_str().starts_with(wanted) || id.short().starts_with(wanted));
        }
        match fitting.as_slice() {
            [] => Err(nothing()),
            [one] => Ok(one.clone()),
            _ => Err(FindError::Ambiguous(wanted.to_owned(), fitting)),
        }
    }

    /// The run whose directory a path leads to, if it is one of this store.
    fn by_path(&self, wanted: &str) -> Option<RunId> {
        if !wanted.contains('/') && wanted != "." {
            return None;
        }
        let path = Path::new(wanted).canonicalize().ok()?;
        let runs = self.path.join(super::RUNS).canonicalize().ok()?;
        let inside = path.parent() == Some(runs.as_path());
        RunId::parse(path.file_name()?.to_str()?).filter(|_| inside)
    }

    /// Of several runs of a name the one that lives, where only one does: it is the one that can be steered.
    fn only_living(&self, named: Vec<RunId>) -> Vec<RunId> {
        let living = self.living().unwrap_or_default();
        let mut alive: Vec<RunId> = named.iter().filter(|id| living.contains(id)).cloned().collect();
        if alive.len() == 1 { alive.split_off(0) } else { named }
    }

    fn named(&self, all: &[RunId], name: &str) -> Vec<RunId> {
        if name.is_empty() {
            return Vec::new();
        }
        let is_named = |id: &&RunId| {
            let Ok(dir) = self.open_run(id) else { return false };
            let Found::Whole(mut record) = read_any(&dir, id) else { return false };
            notes::apply(&disk::read_at(&dir, NOTES).unwrap_or_default(), &mut record);
            record.name.as_deref() == Some(name)
        };
        all.iter().filter(is_named).cloned().collect()
    }
}

fn ids(
    dir: io::Result<OwnedFd>,
    names: impl Fn(OwnedFd) -> io::Result<Vec<String>>,
) -> io::Result<Vec<RunId>> {
    let dir = match dir {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut ids: Vec<RunId> = names(dir)?.iter().filter_map(|name| RunId::parse(name)).collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    Ok(ids)
}
