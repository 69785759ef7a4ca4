//! Asking a run's bookends for something, from outside: the wish is on disk first, then one of them is woken.

use std::io;

use super::reconcile;
use crate::model::id::RunId;
use crate::model::intent::Intent;
use crate::model::record::Record;
use crate::process::identity::Place;
use crate::process::tree;
use crate::store::{Store, intents};

/// The signal that tells a bookend to look at the intents. It is one that no process dies of and no command is sent.
pub const WAKE: i32 = libc::SIGURG;

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// One of the bookends has been woken and will do it.
    Yes,
    /// Neither is to be found: the run is just ending, or going from one to another.
    NobodyThere,
    /// They live in another boot or pid namespace, where no signal from here reaches them.
    Elsewhere,
}

/// Leaves an intent where the run's bookends look.
///
/// # Errors
/// As opening the run's directory and appending to a file in it.
pub fn leave(store: &Store, id: &RunId, intent: &Intent) -> io::Result<()> {
    intents::append(store.open_run(id)?, intent)
}

/// Whether a run's bookends can be signalled from here.
#[must_use]
pub fn is_within_reach(record: &Record) -> bool {
    let here = Place::here();
    (&record.owner.boot_id, record.owner.pid_namespace) == (&here.boot_id, here.pid_namespace)
}

/// Wakes the keeper, or the front where the keeper is gone; nobody else, whoever has their ids by now.
///
/// # Errors
/// As opening the run's directory and its lock.
pub fn wake(store: &Store, id: &RunId, record: &Record) -> io::Result<Asked> {
    if !is_within_reach(record) {
        return Ok(Asked::Elsewhere);
    }
    let bookends = reconcile::bookends(store, id, record)?;
    let woken = bookends.iter().any(|bookend| tree::signal(bookend, WAKE));
    Ok(if woken { Asked::Yes } else { Asked::NobodyThere })
}
