//! Processes of runs that are over and still alive, by the variable that every process of a run starts with.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::runs::pids;
use super::{Checkup, Finding, Fix, Level};
use crate::clock;
use crate::model::id::RunId;
use crate::model::record::{Owner, Record};
use crate::process::identity::{self, Place, Stat};
use crate::process::tree;
use crate::store::Store;
use crate::store::list::{Found, read_any, read_record};
use crate::store::run_dir::RECORD;

/// What was asked to end is killed after this.
const GRACE: Duration = Duration::from_secs(2);
/// What was asked to end is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks at every process that was started in a run of this store.
pub fn all(checkup: &mut Checkup, store: &Store) {
    let spared = spared(store);
    let mut of_runs: BTreeMap<RunId, Vec<Stat>> = BTreeMap::new();
    for (mark, process) in tree::marked() {
        if let Some(id) = RunId::parse(&mark).filter(|_| !spared.contains(&process.pid)) {
            of_runs.entry(id).or_default().push(process);
        }
    }
    for (id, mut processes) in of_runs {
        let Ok(dir) = store.open_run(&id) else { continue };
        let Found::Whole(record) = read_record(&dir, &id, RECORD) else { continue };
        processes.retain(|process| was_started_in(process, &record));
        if !processes.is_empty() {
            left_behind(checkup, id, &processes);
        }
    }
}

/// This process and those above it, and the bookends of living runs: a run may have been started inside another.
fn spared(store: &Store) -> Vec<i32> {
    let mut spared = tree::ancestors();
    for id in store.living().unwrap_or_default() {
        let Ok(dir) = store.open_run(&id) else { continue };
        if let Found::Whole(Record { owner: Owner { pid, front_pid, .. }, .. }) = read_any(&dir, &id) {
            spared.push(pid);
            spared.extend(front_pid);
        }
    }
    spared
}

/// Whether a process can be of a run: it was started in the same boot, and not before the run.
fn was_started_in(process: &Stat, record: &Record) -> bool {
    let owner = &record.owner;
    let began = if owner.start_time > 0 { owner.start_time } else { return false };
    let here = Place::here();
    let same_place = owner.boot_id == here.boot_id && owner.pid_namespace == here.pid_namespace;
    process.pid > 1 && same_place && process.start_time >= began
}

fn left_behind(checkup: &mut Checkup, id: RunId, processes: &[Stat]) {
    let mut fix = checkup.mend("ended them", || end(processes));
    if !checkup.fixes {
        let ids: Vec<String> = processes.iter().map(|p| p.pid.to_string()).collect();
        fix = Fix::by_hand(format!("{}, or kill {}", super::FIX, ids.join(" ")));
    }
    let commands: Vec<String> = processes.iter().filter_map(|p| identity::command_name(p.pid)).collect();
    let evidence =
        format!("{} ({})", pids(processes), crate::view::quote::visible_line(&commands.join(", ")));
    let what = format!("run {id}: it is over, and processes of it are alive");
    let level = Level::Problem;
    checkup.findings.push(Finding { id: "run.processes", level, run_id: Some(id), what, evidence, fix });
}

/// Asks processes to end, and kills those that do not. Each is verified when it is signalled.
fn end(processes: &[Stat]) -> io::Result<()> {
    let alive = || -> Vec<Stat> {
        processes.iter().filter(|p| identity::is_alive(p.pid, p.start_time)).copied().collect()
    };
    tree::signal_all(None, processes, libc::SIGTERM);
    let until = clock::moment().plus_ms(GRACE.as_millis() as u64);
    while !alive().is_empty() && clock::moment() < until {
        std::thread::sleep(LOOK_AGAIN);
    }
    tree::kill_all(alive);
    let until = clock::moment().plus_ms(GRACE.as_millis() as u64);
    while !alive().is_empty() && clock::moment() < until {
        std::thread::sleep(LOOK_AGAIN);
    }
    match alive().as_slice() {
        [] => Ok(()),
        left => Err(io::Error::other(format!("{} can not be ended", pids(left)))),
    }
}
