//! The markers of the living: each stands for a run that is there and not over.

use std::io;

use super::strays::foreign;
use super::{Checkup, Level};
use crate::disk::{self, tree};
use crate::model::id::RunId;
use crate::store::run_dir::UNPUBLISHED;
use crate::store::{LIVE, Store};

/// Looks at every marker.
pub fn all(checkup: &mut Checkup, store: &Store) {
    let names = store.live().and_then(tree::names).unwrap_or_default();
    for name in names {
        match name.to_str().and_then(RunId::parse) {
            Some(id) => marker(checkup, store, &id),
            None => foreign(checkup, store, LIVE, &name),
        }
    }
}

/// A marker without a run is of one that was removed, or that was never published.
fn marker(checkup: &mut Checkup, store: &Store, id: &RunId) {
    let Ok(runs) = store.runs() else { return };
    // In this order: a run that is being published is first the one, then the other.
    let is_coming = tree::look_at(&runs, format!("{UNPUBLISHED}{id}")).is_ok();
    let is_there = tree::look_at(&runs, id.as_str()).is_ok();
    if is_coming || is_there {
        return;
    }
    let marker = format!("{LIVE}/{id}");
    let fix = checkup.mend("took it away", || {
        match store.live().and_then(|live| disk::remove_at(live, id.as_str())) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    });
    let what = format!("{marker} stands for no run");
    checkup.find("live.orphan", Level::Problem, what, "there is no such directory in runs", fix);
}
