//! Which runs the arguments of a command name.

use super::error::{Failure, NO_SUCH_RUN};
use crate::model::id::RunId;
use crate::store::Store;

/// The run that an argument names, and the store it is in.
///
/// # Errors
/// No such run, several that fit, or a store that can not be read.
pub fn one(wanted: &str) -> Result<(Store, RunId), Failure> {
    let store = store(wanted)?;
    let id = store.find(wanted)?;
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
        let id = store.find(name)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok((store, ids))
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
