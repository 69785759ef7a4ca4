//! Which runs the arguments of a command name.

use std::io;

use super::error::{AMBIGUOUS, FAILED, Failure, NO_SUCH_RUN};
use super::look;
use crate::guard::reconcile::{self, Reading};
use crate::model::id::RunId;
use crate::store::Store;
use crate::store::list::FindError;
use crate::view::table;

/// How many candidates an ambiguous name lists.
const CANDIDATES: usize = 10;

/// The run that an argument names, and the store it is in.
///
/// # Errors
/// No such run, several that fit, or a store that can not be read.
pub fn one(wanted: &str) -> Result<(Store, RunId), Failure> {
    let store = store(wanted)?;
    let id = find(&store, wanted)?;
    Ok((store, id))
}

/// The runs that several arguments name, each once, in the order in which they were named.
///
/// # Errors
/// As [`one`]; then nothing has been done to any of them.
pub fn several(wanted: &[String]) -> Result<(Store, Vec<RunId>), Failure> {
    let store = store(wanted.first().map_or("", String::as_str))?;
    let mut ids = Vec::new();
    for name in wanted {
        let id = find(&store, name)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok((store, ids))
}

/// Reads a run that was found.
///
/// # Errors
/// What keeps its directory from being opened; it may have been removed meanwhile.
pub fn read(store: &Store, id: &RunId) -> Result<Reading, Failure> {
    reconcile::read(store, id).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => removed(id),
        _ => {
            Failure::new(FAILED, format!("reading run {id}: {e}"), format!("check {}", store.path.display()))
        }
    })
}

/// That a run was there, and is no more.
fn removed(id: &RunId) -> Failure {
    let message = format!("reading run {id}: it has been removed");
    Failure::new(NO_SUCH_RUN, message, "bookend ps -a lists all runs")
}

fn find(store: &Store, wanted: &str) -> Result<RunId, Failure> {
    store.find(wanted).map_err(|e| match e {
        FindError::Ambiguous(_, ids) => ambiguous(store, wanted, &ids),
        other => other.into(),
    })
}

/// Lists the runs that a word could mean, as `ps` would.
fn ambiguous(store: &Store, wanted: &str, ids: &[RunId]) -> Failure {
    let read = |id| reconcile::read(store, id).ok()?.record().cloned();
    let records: Vec<_> = ids.iter().take(CANDIDATES).filter_map(read).collect();
    let mut list = table::candidates(&records, &look());
    if ids.len() > CANDIDATES {
        list += &format!("\n  and {} more", ids.len() - CANDIDATES);
    }
    let example = ids.first().map_or("", RunId::short);
    Failure::new(
        AMBIGUOUS,
        format!("{wanted:?} could be any of {} runs:\n{list}", ids.len()),
        format!("name one by its id or the last part of it, e.g. {example}"),
    )
}

/// The store, or the failure that there is no such run where there is none.
fn store(wanted: &str) -> Result<Store, Failure> {
    Store::open_existing()?.ok_or_else(|| {
        Failure::new(
            NO_SUCH_RUN,
            format!("no run is called {wanted:?}: there is no store yet"),
            "bookend run makes one",
        )
    })
}
