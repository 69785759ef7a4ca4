//! Every directory of the store, looked at file by file.

use std::io;
use std::os::fd::OwnedFd;

use super::place::text;
use super::{Checkup, Finding, Fix, Level, strays};
use crate::disk::{self, tree};
use crate::guard::reconcile::{self, Reading, Standing};
use crate::model::id::RunId;
use crate::model::notes;
use crate::model::record::{Record, SCHEMA};
use crate::store::held::{Held, HoldError};
use crate::store::list::{Found, read_record};
use crate::store::run_dir::{EVENTS, LOCK, LOG, NOTES, RECORD, RESERVE, STATUS, TASK, UNPUBLISHED};
use crate::store::trash::TRASH;
use crate::store::{LIVE, RUNS, Store};

/// Looks at everything in the directory of runs.
pub fn all(checkup: &mut Checkup, store: &Store) {
    let names = store.runs().and_then(tree::names);
    let names = match names {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => {
            let what = format!("{} can not be read", store.path.join(RUNS).display());
            let fix = Fix::by_hand("check its owner and its modes");
            return checkup.find("store.unreadable", Level::Problem, what, e.to_string(), fix);
        }
        Ok(names) => names,
    };
    let mut ids = Vec::new();
    for name in names {
        let known = name.to_str().is_some_and(|n| n.starts_with(TRASH) || n.starts_with(UNPUBLISHED));
        match name.to_str().and_then(RunId::parse) {
            Some(id) => ids.push(id),
            None if known => {}
            None => strays::foreign(checkup, store, RUNS, &name),
        }
    }
    ids.sort_unstable();
    checkup.fact("checked", crate::view::sweep::count(ids.len(), "run"));
    for id in ids {
        Patient { checkup, store, id }.examine();
    }
}

/// One run and what is found of it.
struct Patient<'a> {
    checkup: &'a mut Checkup,
    store: &'a Store,
    id: RunId,
}

impl Patient<'_> {
    fn find(&mut self, id: &'static str, level: Level, what: &str, evidence: impl Into<String>, fix: Fix) {
        let what = format!("run {}: {what}", self.id);
        let evidence = evidence.into();
        let run_id = Some(self.id.clone());
        self.checkup.findings.push(Finding { id, level, run_id, what, evidence, fix });
    }

    fn path(&self) -> String {
        self.store.path.join(RUNS).join(self.id.as_str()).display().to_string()
    }

    fn by_force(&self) -> Fix {
        Fix::by_hand(format!("bookend show {0}; bookend rm --force {0}", self.id.short()))
    }

    fn examine(&mut self) {
        let dir = match self.store.runs().and_then(|runs| tree::enter_at(runs, self.id.as_str())) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => return self.closed(&e),
            Ok(dir) => dir,
        };
        let Ok(found) = tree::look(&dir) else { return };
        if found.uid != self.store.uid {
            let fix = Fix::by_hand(format!("chown -R it, or move it out: {}", self.path()));
            return self.find(
                "run.owner",
                Level::Problem,
                "it is not yours",
                format!("user {}", found.uid),
                fix,
            );
        }
        if found.is_open_to_others() {
            let fix = self.checkup.mend("took the others' rights away", || tree::set_mode(&dir, 0o700));
            self.find(
                "run.mode",
                Level::Problem,
                "others may look into it",
                format!("mode {:04o}", found.mode),
                fix,
            );
        }
        match read_record(&dir, &self.id, RECORD) {
            Found::Torn(why) if is_newer(&dir, RECORD) => self.newer(why),
            Found::Torn(why) => {
                let fix = self.by_force();
                self.find(
                    "run.torn",
                    Level::Problem,
                    "its record can not be read",
                    format!("run.json: {why}"),
                    fix,
                );
            }
            Found::Whole(record) if self.is_newer(&record) => {}
            Found::Whole(mut record) => {
                notes::apply(&disk::read_at(&dir, NOTES).unwrap_or_default(), &mut record);
                self.sealed(&dir, &record);
            }
            Found::Absent => self.unsealed(&dir),
        }
    }

    /// What can not be entered.
    fn closed(&mut self, e: &io::Error) {
        let path = self.path();
        let (id, what, hint) = match e.raw_os_error() {
            Some(libc::ENOTDIR | libc::ELOOP) => {
                ("foreign.kind", "it is no directory", "look at it, and move it out")
            }
            Some(libc::EXDEV) => ("foreign.mount", "it is a mount", "umount it"),
            _ => ("run.unreadable", "it can not be opened", "check its owner and its modes"),
        };
        self.find(id, Level::Problem, what, e.to_string(), Fix::by_hand(format!("{hint}: {path}")));
    }

    /// Whether a record is of a newer bookend; then nothing else is asked.
    fn is_newer(&mut self, record: &Record) -> bool {
        if record.is_of_later_version() {
            self.newer(format!("its schema is {}, this bookend knows {SCHEMA}", record.schema));
        }
        record.is_of_later_version()
    }

    fn newer(&mut self, evidence: String) {
        let fix = Fix::by_hand("read it with that version");
        self.find("run.newer", Level::Note, "a newer bookend wrote it", evidence, fix);
    }

    /// A run without a final record.
    fn unsealed(&mut self, dir: &OwnedFd) {
        let status = read_record(dir, &self.id, STATUS);
        if let Found::Whole(record) = &status
            && self.is_newer(record)
        {
            return;
        }
        // It is let go of at once: whoever seals needs it for himself.
        let free = disk::open_at(dir, LOCK).map(|lock| disk::try_lock_shared(&lock).unwrap_or(false));
        let has_lock = free.is_ok();
        if free.is_ok_and(|free| !free) {
            return self.living(dir);
        }
        // Asked after the lock: it may have been sealed since.
        let standing = reconcile::standing(dir, &self.id);
        if !matches!(read_record(dir, &self.id, RECORD), Found::Absent) {
            return;
        }
        match standing {
            Standing::Living if has_lock => self.living(dir),
            Standing::Living => {
                let fix = Fix::by_hand(format!("bookend wait {0}; bookend doctor --runs", self.id.short()));
                self.find("run.lock", Level::Problem, "its lock is missing", "it still runs", fix);
            }
            Standing::Orphaned(alive) => {
                let evidence = format!("{} still alive", pids(&alive));
                let fix = Fix::by_hand(format!("bookend stop {}", self.id.short()));
                self.find(
                    "run.orphaned",
                    Level::Warning,
                    "its bookends are gone, its command is not",
                    evidence,
                    fix,
                );
            }
            Standing::Unsure(why) => {
                let fix = Fix::by_hand("bookend doctor --runs there");
                self.find("run.elsewhere", Level::Note, "it can not be judged from here", why, fix);
            }
            Standing::Gone => match &status {
                Found::Whole(record) if has_lock => self.dead(record),
                Found::Whole(_) => {
                    let fix = self.by_force();
                    self.find("run.lock", Level::Problem, "it can not be sealed", "its lock is missing", fix);
                }
                Found::Absent => self.unsealable("status.json is missing"),
                Found::Torn(why) if is_newer(dir, STATUS) => self.newer(why.clone()),
                Found::Torn(why) => self.unsealable(&format!("status.json: {why}")),
            },
        }
    }

    fn unsealable(&mut self, why: &str) {
        let fix = self.by_force();
        self.find("run.torn", Level::Problem, "it is over, and nothing can be said of it", why, fix);
    }

    /// One that nobody sealed.
    fn dead(&mut self, status: &Record) {
        let owner = &status.owner;
        let front = owner.front_pid.map(|pid| format!(" nor pid {pid}")).unwrap_or_default();
        let evidence =
            format!("its lock is free, and neither pid {}{front} is one of its bookends", owner.pid);
        let (store, id) = (self.store, &self.id);
        let fix = self.checkup.mend("sealed it", || match reconcile::read(store, id)? {
            Reading::Final(_) => Ok(()),
            other => Err(io::Error::other(format!("{other:?}").chars().take(200).collect::<String>())),
        });
        self.find("run.unsealed", Level::Problem, "its bookends died and nobody sealed it", evidence, fix);
    }

    /// A living run is among the living.
    fn living(&mut self, dir: &OwnedFd) {
        let Ok(live) = self.store.live() else { return };
        let is_marked = tree::look_at(&live, self.id.as_str()).is_ok();
        if is_marked || !matches!(read_record(dir, &self.id, RECORD), Found::Absent) {
            return;
        }
        let fix = self.checkup.mend("marked it", || disk::link_at(dir, LOCK, &live, self.id.as_str()));
        self.find(
            "live.missing",
            Level::Problem,
            "it lives, and bookend ps does not list it",
            "no marker in live",
            fix,
        );
    }

    /// A run that is over: everything is as its end leaves it.
    fn sealed(&mut self, dir: &OwnedFd, record: &Record) {
        let held = match self.store.hold(&self.id) {
            Ok(held) => held,
            // A bookend is still at work, or somebody removes it.
            Err(HoldError::Busy | HoldError::Gone) => return,
            Err(e) => {
                return self.find(
                    "run.lock",
                    Level::Problem,
                    "its lock is of no use",
                    e.to_string(),
                    self.by_force(),
                );
            }
        };
        if let Ok(live) = self.store.live()
            && tree::look_at(&live, self.id.as_str()).is_ok()
        {
            let marker = format!("{LIVE}/{}", self.id);
            let fix = self.checkup.mend("took the marker away", || disk::remove_at(&live, self.id.as_str()));
            self.find("live.stale", Level::Problem, "it is over, and marked as living", marker, fix);
        }
        if let Some(evidence) = unsettled(dir) {
            let fix = self.checkup.mend("made it say what run.json says", || held.settle_status());
            self.find("run.status", Level::Problem, "status.json is not what run.json says", evidence, fix);
        }
        if let Some(evidence) = torn(dir, TASK) {
            let fix = self.checkup.mend("wrote it from the record", || held.write_task());
            self.find("run.task", Level::Problem, "task.json can not be read", evidence, fix);
        }
        let unfinished = unfinished(dir);
        if !unfinished.is_empty() {
            let fix = self.checkup.mend("removed it", || held.tidy());
            self.find(
                "run.unfinished",
                Level::Problem,
                "what only a living run has is there",
                unfinished,
                fix,
            );
        }
        if !held.has_lock() {
            let fix = self.checkup.mend("made one", || held.make_lock());
            self.find("run.lock", Level::Problem, "its lock is missing", "no file lock", fix);
        }
        self.log(&held, record);
        if let Some(evidence) = broken_lines(dir) {
            let fix = Fix::by_hand("nothing: readers pass over them");
            self.find("run.events", Level::Note, "events.jsonl is not whole", evidence, fix);
        }
        self.modes(dir);
    }

    fn log(&mut self, held: &Held, record: &Record) {
        let there = tree::look_at(held.dir(), LOG).is_ok();
        match record.logs_removed_at {
            // What was pinned since then is not removed any further.
            Some(_) if record.pinned == Some(true) => {}
            Some(at) if there => {
                let fix = self.checkup.mend("removed the rest", || held.drop_log(None).map(drop));
                let evidence = format!("its removal began at {at}");
                self.find("run.log", Level::Problem, "its log is half removed", evidence, fix);
            }
            None if !there => {
                let fix = Fix::by_hand("nothing brings it back");
                self.find("run.log", Level::Note, "its log is missing", "no file harness.log", fix);
            }
            _ => {}
        }
    }

    /// Files that others may read. One that has names elsewhere is not changed: those may be somebody else's.
    fn modes(&mut self, dir: &OwnedFd) {
        for name in tree::names(dir).unwrap_or_default() {
            let Ok(found) = tree::look_at(dir, &name) else { continue };
            if !found.is_file() || !found.is_open_to_others() {
                continue;
            }
            let names = if [RECORD, STATUS].iter().any(|known| name == *known) { 2 } else { 1 };
            let what = format!("others may read {}", text(&name));
            let fix = if found.uid == self.store.uid && found.names <= names {
                let mend = || tree::set_mode(disk::open_at(dir, &name.to_string_lossy())?, 0o600);
                self.checkup.mend("took the others' rights away", mend)
            } else {
                Fix::by_hand(format!("it is not this run's alone; look at it in {}", self.path()))
            };
            self.find("run.mode", Level::Problem, &what, format!("mode {:04o}", found.mode), fix);
        }
    }
}

/// Process ids in words.
pub fn pids(processes: &[crate::process::identity::Stat]) -> String {
    let ids: Vec<String> = processes.iter().map(|p| p.pid.to_string()).collect();
    format!("pid {}", ids.join(", "))
}

/// Why status.json does not say what run.json says.
fn unsettled(dir: &OwnedFd) -> Option<String> {
    let place = |name: &str| tree::look_at(dir, name).ok().map(|found| found.place);
    if place(STATUS) == place(RECORD) {
        return None;
    }
    match (disk::read_at(dir, STATUS), disk::read_at(dir, RECORD)) {
        (Ok(status), Ok(record)) if status == record => None,
        (Ok(_), Ok(_)) => Some("they differ".to_owned()),
        (Err(e), _) | (_, Err(e)) => Some(e.to_string()),
    }
}

/// What a run has while it lives: space set aside for its record, and files that are being made.
fn unfinished(dir: &OwnedFd) -> String {
    let mut names = disk::names(dir).unwrap_or_default();
    names.retain(|name| name == RESERVE || name.starts_with('.'));
    names.sort_unstable();
    names.join(", ")
}

/// Whether a newer bookend wrote a file that this one does not understand at all.
fn is_newer(dir: &OwnedFd, name: &str) -> bool {
    let value =
        disk::read_at(dir, name).ok().and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
    value.and_then(|v| v["schema"].as_u64()).is_some_and(|schema| schema > u64::from(SCHEMA))
}

/// Why a JSON file can not be read.
fn torn(dir: &OwnedFd, name: &str) -> Option<String> {
    let read = disk::read_at(dir, name).map_err(|e| e.to_string());
    let parsed =
        read.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).map_err(|e| e.to_string()));
    parsed.err()
}

/// What is wrong with the lines of the events.
fn broken_lines(dir: &OwnedFd) -> Option<String> {
    let bytes = match disk::read_at(dir, EVENTS) {
        Err(e) => return Some(e.to_string()),
        Ok(bytes) => bytes,
    };
    let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    let broken = lines.filter(|line| serde_json::from_slice::<serde_json::Value>(line).is_err()).count();
    (broken > 0).then(|| format!("{} that can not be read", crate::view::sweep::count(broken, "line")))
}
