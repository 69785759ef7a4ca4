//! Twelve commands that try to get away from their supervisor, against every way in which a run can be ended.
//!
//! Each cell of the matrix has a PID namespace of its own, so that what is left there after bookend is seen whole:
//! nothing but its init may be alive, or the record lists it as alive. No cell depends on what an artist says of itself.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::world::{Output, PidNamespace, Process, RunDir, World, assert_follows, eventually, have};

/// The kinds of `artist escape` but `plain`, which is no escape.
const ARTISTS: [&str; 12] = [
    "setsid",
    "daemon",
    "cleared-env",
    "term-proof",
    "signal-proof",
    "storm",
    "holder",
    "self-stop",
    "group-killer",
    "chain",
    "reparent",
    "detached",
];
/// The time from the blow (or the start, where there is none) to the record, beyond the grace that the runs are given:
/// twice what bookend may take to give up on a process, for two loaded cores.
const BOUND: Duration = Duration::from_secs(8);
/// Cells at a time: they mostly wait.
const AT_ONCE: usize = 4;

/// How a run is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// Not at all: the main process of the artist exits as soon as it stands.
    None,
    Term,
    DoubleInt,
    Kill,
    KeeperKilled,
    FrontKilled,
}

/// How the output is captured; the caller's streams decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capture {
    Pipe,
    File,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    artist: &'static str,
    blow: Blow,
    capture: Capture,
}

/// A run of an artist that stands.
struct Stage {
    world: World,
    space: PidNamespace,
    running: crate::world::Running,
    run: RunDir,
}

impl Cell {
    /// Starts the run and waits until the artist stands; `None` where there are no PID namespaces.
    fn stage(self) -> Option<Stage> {
        let world = World::new();
        let space = PidNamespace::open()?;
        let mode = if self.blow == Blow::None { "leave" } else { "stay" };
        let call = world.run_artist(&["--grace", "300ms"], &["escape", self.artist, mode]);
        let output = if self.capture == Capture::File { Output::OnePipe } else { Output::Pipes };
        let running = space.enter(call).output(output).spawn();
        running.wait_ready();
        let run = world.only_run();
        Some(Stage { world, space, running, run })
    }

    fn play(self) {
        let Some(stage) = self.stage() else { return };
        let bookends = stage.bookends();
        let struck = Instant::now();
        self.strike(&stage, &bookends);
        let record = stage.run.wait_sealed(BOUND * 2);
        let took = struck.elapsed();
        for bookend in bookends.into_iter().flatten() {
            bookend.wait_gone(BOUND);
        }
        stage.assert_none_left(&record);
        self.assert_true(&record);
        assert_follows(&stage.world.schema("run"), &record);
        assert!(took < BOUND, "the record took {took:?}");
        assert!(stage.world.live().is_empty(), "still marked as living: {:?}", stage.world.live());
        stage.running.wait();
    }

    fn strike(self, stage: &Stage, [keeper, front]: &[Option<Process>; 2]) {
        // A group-killer is soon over by itself: then there is nobody left to strike.
        let send = |to: &Option<Process>, signal| to.is_some_and(|process| process.signal(signal));
        match self.blow {
            Blow::None => {}
            Blow::Term => drop(send(front, Signal::SIGTERM)),
            Blow::DoubleInt => {
                send(front, Signal::SIGINT);
                eventually(BOUND, "stop that began", || stage.is_stopping().then_some(()));
                send(front, Signal::SIGINT);
            }
            Blow::Kill => {
                let kill = stage.world.bookend(["kill", "latest", "--reason", "the show is over"]);
                stage.space.enter(kill).run().assert_code(0);
            }
            Blow::KeeperKilled => drop(send(keeper, Signal::SIGKILL)),
            Blow::FrontKilled => drop(send(front, Signal::SIGKILL)),
        }
    }

    /// Asserts that the record names the true cause.
    fn assert_true(self, record: &Value) {
        let (status, reason) = match self.blow {
            Blow::None => ("completed", "exited"),
            Blow::Term => ("stopped", "terminated"),
            Blow::DoubleInt => ("stopped", "interrupted"),
            Blow::Kill => ("stopped", "killed"),
            Blow::KeeperKilled | Blow::FrontKilled => ("stopped", "wrapper_died"),
        };
        let ended_itself = record["exit_reason"] == "signaled" && record["exit"]["signal"] == 9;
        if self.artist == "group-killer" && ended_itself && record["status"] == "failed" {
            return;
        }
        assert_eq!(
            (&record["status"], &record["exit_reason"]),
            (&status.into(), &reason.into()),
            "{record:#}"
        );
        match self.blow {
            Blow::None => assert_eq!(record["exit"]["code"], 0),
            Blow::Kill => assert_eq!(record["ended_by"]["reason"], "the show is over", "{record:#}"),
            Blow::KeeperKilled => assert_eq!(record["author"], "front", "{record:#}"),
            Blow::FrontKilled => assert_eq!(record["author"], "keeper", "{record:#}"),
            Blow::DoubleInt if self.artist == "signal-proof" => {
                assert_eq!(record["forced"], true, "{record:#}");
            }
            Blow::Term | Blow::DoubleInt => {}
        }
    }
}

impl Stage {
    /// Returns keeper and front as they are seen from here, those that live.
    fn bookends(&self) -> [Option<Process>; 2] {
        let owner = self.run.status_json()["owner"].clone();
        let named = |pid: &str, start: &str| {
            let pid = i32::try_from(owner[pid].as_i64()?).ok()?;
            self.space.outside(Process { pid, start_time: owner[start].as_u64()? })
        };
        [named("pid", "start_time"), named("front_pid", "front_start_time")]
    }

    fn is_stopping(&self) -> bool {
        self.run.is_sealed() || self.run.status_json()["status"] == "stopping"
    }

    /// Asserts that every process that is alive in the namespace is listed as such.
    fn assert_none_left(&self, record: &Value) {
        let listed = |process: &Process| {
            let named = |left: &Value| {
                left["pid"] == process.pid
                    && left["start_time"] == process.start_time
                    && left["fate"] == "alive"
            };
            record["leftovers"].as_array().is_some_and(|all| all.iter().any(named))
        };
        let left: Vec<_> = self.space.processes().into_iter().filter(|(inside, _)| !listed(inside)).collect();
        let left: Vec<_> = left.iter().map(|(_, outside)| outside.describe()).collect();
        assert!(left.is_empty(), "alive and not listed: {left:#?}\n{record:#}");
    }
}

/// Plays all cells, several at a time, and fails with the list of those that failed.
fn play_all(cells: &[Cell], play: impl Fn(Cell) + Sync) {
    if !have("nsenter") {
        return;
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        while let Some(&cell) = cells.get(next.fetch_add(1, Ordering::SeqCst)) {
            let Err(panic) = catch_unwind(AssertUnwindSafe(|| play(cell))) else { continue };
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            failed.lock().expect("the list").insert(format!("{cell:?}"), text.unwrap_or_default());
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().expect("the list");
    let told: String = failed.iter().flat_map(|(cell, text)| [cell, "\n", text, "\n"]).collect();
    assert!(failed.is_empty(), "{} of {} cells failed:\n{told}", failed.len(), cells.len());
}

/// All artists under one blow: captured through pipes, and every third one in a file.
fn row(blow: Blow) {
    let cell = |capture| move |artist: &&'static str| Cell { artist, blow, capture };
    let in_files = ARTISTS.iter().skip(blow as usize % 3).step_by(3).map(cell(Capture::File));
    let cells: Vec<_> = ARTISTS.iter().map(cell(Capture::Pipe)).chain(in_files).collect();
    play_all(&cells, Cell::play);
}

#[test]
fn none_outlives_the_natural_end_of_the_main_command() {
    row(Blow::None);
}

#[test]
fn none_outlives_one_sigterm() {
    row(Blow::Term);
}

#[test]
fn none_outlives_two_sigints() {
    row(Blow::DoubleInt);
}

#[test]
fn none_outlives_bookend_kill() {
    row(Blow::Kill);
}

#[test]
fn none_outlives_the_death_of_the_keeper() {
    row(Blow::KeeperKilled);
}

#[test]
fn none_outlives_the_death_of_the_front() {
    row(Blow::FrontKilled);
}

/// Both bookends die at once: nobody is left to end the artist, until a person asks for it.
#[test]
fn what_both_bookends_left_alive_is_orphaned_until_it_is_killed() {
    let cells: Vec<_> = ARTISTS
        .into_iter()
        // A group-killer ends by itself, so that whether both bookends see it is a matter of luck.
        // The kernel itself hangs up a stopped group that nobody is left to continue.
        .filter(|artist| !["group-killer", "self-stop"].contains(artist))
        .map(|artist| Cell { artist, blow: Blow::Kill, capture: Capture::Pipe })
        .chain(["daemon", "cleared-env", "detached"].map(|artist| Cell {
            artist,
            blow: Blow::Kill,
            capture: Capture::File,
        }))
        .collect();
    play_all(&cells, |cell| {
        let Some(stage) = cell.stage() else { return };
        let bookends = stage.bookends().map(|bookend| bookend.expect("a bookend that lives"));
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for bookend in &bookends {
                assert!(bookend.signal(signal));
            }
        }
        for bookend in &bookends {
            bookend.wait_gone(BOUND);
        }
        let listed = stage.space.enter(stage.world.bookend(["ps", "--json"])).run().assert_code(0).json();
        assert_eq!(listed["runs"][0]["orphaned"], true, "{listed:#}");
        assert!(!stage.run.is_sealed(), "a record calls a living run finished");

        let kill = stage.world.bookend(["kill", "latest", "--reason", "the show is over"]);
        stage.space.enter(kill).run().assert_code(0);
        let record = stage.run.run_json();
        stage.assert_none_left(&record);
        cell.assert_true(&record);
        assert_eq!(record["author"], "reader", "{record:#}");
        let listed = stage.space.enter(stage.world.bookend(["ps", "--json"])).run().assert_code(0).json();
        assert_eq!(listed["runs"], serde_json::json!([]), "{listed:#}");
    });
}
