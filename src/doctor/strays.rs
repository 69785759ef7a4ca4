//! What lies in the store and is no run: directories on their way in or out that nobody works on, and foreign things.

use std::ffi::OsStr;
use std::io;

use super::place::text;
use super::{Checkup, Fix, Level};
use crate::clock;
use crate::store::Store;
use crate::store::trash::Stray;

/// Says that something does not belong where it is.
pub fn foreign(checkup: &mut Checkup, store: &Store, part: &str, name: &OsStr) {
    let what = format!("{} in {part} is not bookend's", text(name));
    let evidence = "its name is no run id".to_owned();
    let fix = Fix::by_hand(format!("move it out of {}", store.path.join(part).display()));
    checkup.find("foreign.name", Level::Warning, what, evidence, fix);
}

/// Directories on their way in or out that nobody works on.
pub fn all(checkup: &mut Checkup, store: &Store) {
    let now = clock::now();
    let trash = store.trash().unwrap_or_default();
    for name in store.unpublished().unwrap_or_default() {
        let what = format!("{} was never made a run", text(&name));
        match store.judge_unpublished(&name, now) {
            Ok(Stray::InUse) => {}
            Ok(Stray::Dead) => {
                let fix = checkup.mend("removed it", || store.throw_away_unpublished(&name, now));
                let evidence = "its lock is free, and it is older than a minute".to_owned();
                checkup.find("stray.unpublished", Level::Problem, what, evidence, fix);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                let fix = Fix::by_hand("look at it, and remove it by hand");
                checkup.find("stray.unreadable", Level::Problem, what, e.to_string(), fix);
            }
        }
    }
    let emptied = if checkup.fixes { store.empty_trash(|| true).ok() } else { None };
    let stayed = emptied.map(|emptied| emptied.stayed).unwrap_or_default();
    for name in trash {
        let name = name.to_string_lossy().into_owned();
        let why = stayed.iter().find(|(stayed, _)| *stayed == name).map(|(_, why)| why.to_string());
        let fix = match &why {
            Some(why) => Fix::by_hand(format!("it could not be removed: {why}; remove it by hand")),
            None => checkup.mend("removed the rest", || Ok(())),
        };
        let evidence = "whoever removed it did not come to the end".to_owned();
        let what = format!("{} is half removed", text(OsStr::new(&name)));
        checkup.find("stray.trash", Level::Problem, what, evidence, fix);
    }
}
