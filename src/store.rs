//! The store: where all runs of a user are kept, and how a run is found in it.

pub mod door;
pub mod ends;
pub mod held;
pub mod intents;
pub mod list;
pub mod log;
pub mod marks;
pub mod notes;
pub mod run_dir;
pub mod trash;
pub mod turn;
pub mod watch;

use std::env::{self, VarError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use thiserror::Error;

use crate::disk;

/// Directory of run directories.
pub const RUNS: &str = "runs";
/// Directory of markers, one for each run that has no final record yet.
pub const LIVE: &str = "live";
/// Where refused command lines are noted.
pub const ATTEMPTS: &str = "attempts.jsonl";

/// Why a store can not be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Nothing says where it is.
    #[error("finding the store: neither BOOKEND_STORE, XDG_STATE_HOME nor HOME is set")]
    Nowhere,
    /// It can not be opened or made.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It belongs to somebody else.
    #[error("opening store {path}: it belongs to user {owner}, not to you (user {me})")]
    Foreign {
        /// Where it is.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// This process's user.
        me: u32,
    },
    /// Others may write to it.
    #[error("opening store {path}: other users may write to it")]
    Shared {
        /// Where it is.
        path: PathBuf,
    },
}

impl StoreError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Nowhere => "set BOOKEND_STORE to a directory of yours".to_owned(),
            Self::Io { path, source, .. } => match source.raw_os_error() {
                Some(libc::ENOTDIR | libc::EEXIST) => {
                    format!("{} is in the way: move it, or set BOOKEND_STORE to a directory", path.display())
                }
                Some(libc::ENOSPC | libc::EDQUOT) => {
                    "free some space there, or set BOOKEND_STORE to another disk".to_owned()
                }
                Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
                    "make it writable for you, or set BOOKEND_STORE to a directory that is".to_owned()
                }
                _ => "check that path, or set BOOKEND_STORE to another directory".to_owned(),
            },
            Self::Foreign { owner, me: 0, .. } => {
                format!("become that user: setpriv --reuid={owner} --clear-groups bookend ...")
            }
            Self::Foreign { .. } => "set BOOKEND_STORE to a directory of your own".to_owned(),
            Self::Shared { path } => format!("chmod go-w {}", path.display()),
        }
    }
}

/// Where the store is: `$BOOKEND_STORE`, else the nearest `.bookend` upward that this user owns, else
/// `$XDG_STATE_HOME/bookend`, else `~/.local/state/bookend`.
///
/// # Errors
/// [`StoreError::Nowhere`].
pub fn locate() -> Result<PathBuf, StoreError> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = set("BOOKEND_STORE") {
        return Ok(if path.is_absolute() { path } else { env::current_dir().unwrap_or_default().join(path) });
    }
    if let Some(found) = nearest() {
        return Ok(found);
    }
    if let Some(state) = set("XDG_STATE_HOME").filter(|p| p.is_absolute()) {
        return Ok(state.join("bookend"));
    }
    let home = set("HOME").or_else(home_of_user).ok_or(StoreError::Nowhere)?;
    Ok(home.join(".local/state/bookend"))
}

fn home_of_user() -> Option<PathBuf> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??;
    Some(user.dir).filter(|dir| dir.is_dir())
}

fn nearest() -> Option<PathBuf> {
    let me = nix::unistd::geteuid().as_raw();
    let here = env::current_dir().ok()?;
    here.ancestors().map(|dir| dir.join(".bookend")).find(|dir| {
        dir.symlink_metadata().is_ok_and(|m| m.is_dir() && m.uid() == me && m.mode() & 0o022 == 0)
    })
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// The user it belongs to, who is the one that this process acts for.
    pub uid: u32,
    dir: Rc<OwnedFd>,
}

impl Store {
    /// Opens the store, making it where it is absent.
    ///
    /// # Errors
    /// See [`StoreError`]; a store of another user, or one that others may write to, is refused.
    pub fn open_or_create() -> Result<Self, StoreError> {
        let path = locate()?;
        match Self::open_at(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                create(&path).map_err(|source| StoreError::Io {
                    doing: "making store",
                    path: path.clone(),
                    source,
                })?;
                Self::open_at(&path)
            }
            other => other,
        }
    }

    /// Opens the store; none where it is absent.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open_existing() -> Result<Option<Self>, StoreError> {
        match Self::open_at(&locate()?) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    fn open_at(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { doing: "opening store", path: path.to_owned(), source };
        let dir = disk::open_dir(path).map_err(failed)?;
        let me = nix::unistd::geteuid().as_raw();
        check_owner(path, me, disk::ownership(&dir).map_err(failed)?)?;
        for part in [RUNS, LIVE] {
            let path = path.join(part);
            match disk::ownership_at(&dir, part) {
                Ok(found) => check_owner(&path, me, found)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(StoreError::Io { doing: "opening store", path, source }),
            }
        }
        Ok(Self { path: path.to_owned(), uid: me, dir: Rc::new(dir) })
    }

    /// The handle of the store's directory.
    #[must_use]
    pub fn dir(&self) -> &Rc<OwnedFd> {
        &self.dir
    }

    /// The handle of the directory of runs.
    ///
    /// # Errors
    /// As openat(2).
    pub fn runs(&self) -> io::Result<OwnedFd> {
        disk::open_dir_at(&self.dir, RUNS)
    }

    /// The handle of the directory of live markers.
    ///
    /// # Errors
    /// As openat(2).
    pub fn live(&self) -> io::Result<OwnedFd> {
        disk::open_dir_at(&self.dir, LIVE)
    }

    /// Notes a command line that was refused, with why; what can not be noted is let go.
    pub fn note_attempt(&self, at: crate::model::time::Timestamp, argv: &[String], error: &str) {
        use std::io::Write;
        let cwd = env::current_dir().unwrap_or_default();
        let line = serde_json::json!({
            "schema": crate::model::record::SCHEMA, "at": at, "argv": argv, "cwd": cwd.to_string_lossy(), "error": error
        });
        if let Ok(mut file) = disk::append_at(&self.dir, ATTEMPTS) {
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// Refuses a directory that is not this user's alone. That goes for root as well: whoever reads a store writes to it
/// too, and what root leaves there its owner can not use.
fn check_owner(path: &Path, me: u32, found: disk::Ownership) -> Result<(), StoreError> {
    match found {
        disk::Ownership { uid, .. } if uid != me => {
            Err(StoreError::Foreign { path: path.to_owned(), owner: uid, me })
        }
        disk::Ownership { shared: true, .. } => Err(StoreError::Shared { path: path.to_owned() }),
        disk::Ownership { .. } => Ok(()),
    }
}

/// Makes a store with its directories; each is the owner's alone.
fn create(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let dir = disk::open_dir(path)?;
    make_parts(&dir)
}

/// Makes the directories inside a store that are not there.
///
/// # Errors
/// As mkdirat(2).
pub fn make_parts(dir: &OwnedFd) -> io::Result<()> {
    for part in [RUNS, LIVE] {
        match disk::make_dir_at(dir, part) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    disk::sync(dir)
}

/// Whether an environment variable says yes.
#[must_use]
pub fn is_set(name: &str) -> bool {
    !matches!(env::var(name), Err(VarError::NotPresent)) && env::var(name).as_deref() != Ok("")
}
