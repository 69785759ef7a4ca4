//! Twice, and all at once.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::{SECOND, kill_both};
use crate::expect::{Expect, Points, send, start_ready, wait_command};
use crate::world::{LIMIT, RunDir, World, eventually};

#[test]
fn e69_the_same_name_in_the_same_second() {
    let world = World::new();
    let call = world.run_artist(&["--name", "nightly", "--quiet", "--durability", "process"], &["exit", "0"]);
    let running: Vec<_> = (0..8).map(|_| call.spawn()).collect();
    for one in running {
        one.wait().assert_code(0);
    }
    let runs = world.runs();
    assert_eq!(runs.len(), 8);
    for run in &runs {
        let record = Expect::exited(0).check_run(run);
        assert_eq!(record["name"], "nightly");
        assert_eq!(record["run_id"], run.id());
    }
    world.assert_no_process_left();
}

#[test]
fn e71_signals_while_the_record_is_being_written() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut world = World::new();
        let points = Points::set(&mut world, "keeper.sealing=pause");
        let running = world.run_artist(&[], &["exit", "3"]).spawn();
        let keeper = points.reached("keeper.sealing");
        running.signal(signal);
        send(keeper, signal as i32);
        points.go("keeper.sealing");
        Expect::exited(3).check(&world, &running.wait());
    }
}

#[test]
fn e71_a_keeper_that_is_stuck_while_sealing_is_replaced() {
    let mut world = World::new();
    let points = Points::set(&mut world, "keeper.sealing=pause");
    let running = world.run_artist(&[], &["exit", "3"]).spawn();
    points.reached("keeper.sealing");
    running.signal(Signal::SIGINT);
    eventually(LIMIT, "first signal taken", || {
        (!crate::expect::is_pending(running.process(), libc::SIGINT)).then_some(())
    });
    let second = Instant::now();
    running.signal(Signal::SIGINT);
    let done = running.wait();
    assert!(second.elapsed() < 3 * SECOND, "{:?}", second.elapsed());
    Expect::exited(3).author("front").check(&world, &done);
}

/// Reads runs over and over until told to stop; every reading must be of a whole record.
fn read_until(world: &World, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let listed = world.bookend(["ps", "-a", "--json"]).run();
        for run in listed.assert_code(0).json()["runs"].as_array().expect("runs") {
            assert!(run["status"].is_string(), "{run:#}");
        }
        let shown = world.bookend(["show", "--json", "latest"]).run();
        assert!(matches!(shown.code, Some(0 | 3)), "{shown:?}");
    }
}

/// Tells the readers to stop even where a check failed.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn e75_front_keeper_and_readers_at_once() {
    let world = World::new();
    let over = AtomicBool::new(false);
    let mut truths = Vec::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| read_until(&world, &over));
        }
        let _ended = SetOnDrop(&over);
        for round in 0..9 {
            truths.push(one_race(&world, round));
        }
    });
    for (run, first) in truths {
        assert_eq!(run.read("run.json"), Some(first), "a record never changes");
        assert_eq!(run.files().iter().filter(|name| name.contains("run.json")).count(), 1);
    }
    assert!(world.live().is_empty(), "{:?}", world.live());
    world.assert_no_process_left();
}

/// A run whose front, keeper or both are killed, or neither; returns it with its record.
fn one_race(world: &World, round: u32) -> (RunDir, Vec<u8>) {
    let id_file = world.path(&format!("id-{round}"));
    let flags = ["--durability", "process", "--id-file", &id_file.to_string_lossy()].map(str::to_owned);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let running = start_ready(world, &flags, &["linger", "60"]);
    let id = fs::read_to_string(&id_file).expect("an id");
    let run = RunDir { path: world.store().join("runs").join(id.trim()) };
    let command = wait_command(&run);
    let front = running.process();
    match round % 3 {
        0 => running.signal(Signal::SIGTERM),
        1 => assert!(front.signal(Signal::SIGKILL)),
        _ => {
            kill_both(front, &run);
            command.signal(Signal::SIGKILL);
        }
    }
    let record = run.wait_sealed(LIMIT);
    let expected = match round % 3 {
        0 => Expect::stopped_by(libc::SIGTERM),
        1 => Expect::wrapper_died("keeper"),
        _ => Expect::lost(),
    };
    assert_eq!(record["run_id"], run.id());
    eventually(LIMIT, "end of the sealing", || {
        (run.events().last()?["event"] == "sealed" && !world.live().contains(&run.id())).then_some(())
    });
    expected.check_run(&run);
    running.wait();
    let bytes = run.read("run.json").expect("a record");
    (run, bytes)
}
