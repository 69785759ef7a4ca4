//! What is wrong with a store and with the place it is in, and putting right what can safely be.
//!
//! What can not be read, what a newer bookend wrote and what is not ours is told of and never touched.

mod markers;
mod place;
mod processes;
mod runs;
mod strays;

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::model::id::RunId;
use crate::store::{Store, StoreError};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something is not as bookend leaves it.
    Problem,
    /// It works, with a risk.
    Warning,
    /// Worth knowing; nothing has to be done.
    Note,
}

/// What is done about a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// Whether it is done already.
    pub done: bool,
    /// What was done, or what to type.
    pub how: String,
}

impl Fix {
    fn by_hand(how: impl Into<String>) -> Self {
        Self { done: false, how: how.into() }
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing it is, such as `run.unsealed`.
    pub id: &'static str,
    /// How much it matters.
    pub level: Level,
    /// The run it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// What is wrong, with what.
    pub what: String,
    /// What shows it.
    pub evidence: String,
    /// What is done about it, or can be.
    pub fix: Fix,
}

impl Finding {
    /// Whether somebody still has to do something about it.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.level != Level::Note && !self.fix.done
    }
}

/// What a check-up found.
#[derive(Debug, Default)]
pub struct Checkup {
    /// What was looked at, with how it is: `store`, `config`, ...
    pub facts: Vec<(&'static str, String)>,
    /// What is to be said about it.
    pub findings: Vec<Finding>,
    fixes: bool,
}

/// What to type for what `--fix` puts right.
const FIX: &str = "bookend doctor --runs --fix";

impl Checkup {
    fn fact(&mut self, name: &'static str, how: impl Into<String>) {
        self.facts.push((name, how.into()));
    }

    fn find(
        &mut self,
        id: &'static str,
        level: Level,
        what: impl Into<String>,
        evidence: impl Into<String>,
        fix: Fix,
    ) {
        let (what, evidence) = (what.into(), evidence.into());
        self.findings.push(Finding { id, level, run_id: None, what, evidence, fix });
    }

    /// Puts something right, where that is wanted, and says what became of it.
    fn mend(&self, done: &str, mend: impl FnOnce() -> io::Result<()>) -> Fix {
        if !self.fixes {
            return Fix::by_hand(FIX);
        }
        match mend() {
            Ok(()) => Fix { done: true, how: done.to_owned() },
            Err(e) => Fix::by_hand(format!("it could not be put right: {e}")),
        }
    }
}

/// Looks at the place, and with `runs` at every run of the store; with `fixes` what can safely be put right is.
#[must_use]
pub fn examine(runs: bool, fixes: bool) -> Checkup {
    let mut checkup = Checkup { fixes, ..Checkup::default() };
    let store = open(&mut checkup);
    if let Some(store) = &store {
        place::store(&mut checkup, store);
        place::config(&mut checkup, store);
    }
    place::system(&mut checkup);
    if let (Some(store), true) = (&store, runs) {
        strays::all(&mut checkup, store);
        runs::all(&mut checkup, store);
        markers::all(&mut checkup, store);
        processes::all(&mut checkup, store);
    }
    checkup
}

/// Opens the store; one that is refused, for itself or for a part of it, is a finding.
fn open(checkup: &mut Checkup) -> Option<Store> {
    const PARTS: usize = 3;
    for _ in 0..=PARTS {
        let refused = match Store::open_existing() {
            Ok(Some(store)) => return Some(store),
            Ok(None) => {
                let path = crate::store::locate().unwrap_or_default();
                checkup.fact("store", format!("{} (not there yet: bookend run makes it)", path.display()));
                return None;
            }
            Err(e) => e,
        };
        let fix = match &refused {
            StoreError::Shared { path } if checkup.fixes => {
                checkup.mend("took the others' rights away", || close_to_others(path))
            }
            other => Fix::by_hand(other.hint()),
        };
        let done = fix.done;
        checkup.find("store.refused", Level::Problem, "the store can not be used", refused.to_string(), fix);
        if !done {
            break;
        }
    }
    None
}

fn close_to_others(path: &Path) -> io::Result<()> {
    crate::disk::tree::set_mode(crate::disk::open_dir(path)?, 0o700)
}
