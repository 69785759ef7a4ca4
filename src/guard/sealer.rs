//! The ladder of sealing: each rung is tried when the one before it failed.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::model::record::Record;
use crate::model::status::Status;
use crate::store::run_dir::{RECORD, RunDir, json_line};

/// Which rung held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rung {
    /// run.json is in place and as durable as was asked.
    Written,
    /// run.json is in place, not flushed.
    NotFlushed,
    /// Somebody else had sealed the run before.
    Already,
    /// The record waits in a spool file outside the store, for a reader to merge.
    Spooled(PathBuf),
    /// Nothing could be written; the record is only in memory.
    Unwritten,
}

impl Rung {
    /// Whether run.json is there.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        matches!(self, Self::Written | Self::NotFlushed | Self::Already)
    }
}

/// A sealed run.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Exit code of `run` and `wait`.
    pub code: u8,
    /// How the run ended.
    pub status: Status,
    /// Which rung held.
    pub rung: Rung,
    /// The record as it was written.
    pub line: Vec<u8>,
}

impl Sealed {
    /// Says on standard error where the record is when it is not in the run's directory; on the last rung it is
    /// the record itself, as one line of JSON.
    pub fn report_if_elsewhere(&self) {
        let mut text = match &self.rung {
            Rung::Written | Rung::NotFlushed | Rung::Already => return,
            Rung::Spooled(path) => format!(
                "bookend: note: the final record could not be written to the run's directory; it is in {}\n",
                path.display()
            )
            .into_bytes(),
            Rung::Unwritten => b"bookend: the final record could not be written; here it is:\n".to_vec(),
        };
        if self.rung == Rung::Unwritten {
            text.extend_from_slice(&self.line);
        }
        let _ = io::stderr().write_all(&text);
    }
}

/// Seals a run: from the reserve, from a new file, into the spool, or not at all.
pub fn seal(dir: &RunDir, record: &mut Record) -> Sealed {
    let mut synced = false;
    let mut line = json_line(record);
    let first = dir.seal_from_reserve(&line, &mut synced);
    let result = match first {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            record.degraded.push(format!("the reserve could not be used: {e}"));
            line = json_line(record);
            dir.seal_from_new(&line, &mut synced)
        }
        other => other,
    };
    let rung = match result {
        Ok(()) if synced => Rung::Written,
        Ok(()) => Rung::NotFlushed,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Rung::Already,
        Err(e) => {
            record.degraded.push(format!("run.json could not be written: {e}"));
            line = json_line(record);
            spool(record, &line).map_or(Rung::Unwritten, Rung::Spooled)
        }
    };
    if rung == Rung::Already
        && let Ok(bytes) = dir.read(RECORD)
        && let Ok(theirs) = Record::parse(&bytes)
    {
        *record = theirs;
        line = bytes;
    }
    let code = if rung == Rung::Unwritten { 125 } else { record.wrapper_exit_code.unwrap_or(125) };
    Sealed { code, status: record.status, rung, line }
}

/// The spool: a directory of the user's own outside the store, on what is often another disk.
fn spool_dir() -> PathBuf {
    let uid = nix::unistd::geteuid();
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute()) {
        Some(dir) => dir.join("bookend"),
        None => std::env::temp_dir().join(format!("bookend-{uid}")),
    }
}

/// Path of a run's spool file, where its directory is there and only ours.
pub(super) fn spool_file(run_id: &str) -> Option<PathBuf> {
    let dir = spool_dir();
    let found = dir.symlink_metadata().ok()?;
    let private = found.mode() & 0o7777 == 0o700;
    let ours = private && found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
    ours.then(|| dir.join(format!("{run_id}.json")))
}

fn spool(record: &Record, line: &[u8]) -> Option<PathBuf> {
    let _ = std::fs::DirBuilder::new().mode(0o700).create(spool_dir());
    let path = spool_file(record.run_id.as_str())?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(&path).ok()?;
    file.write_all(line).and_then(|()| file.sync_all()).ok()?;
    Some(path)
}
