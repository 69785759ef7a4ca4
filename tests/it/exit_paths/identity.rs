//! Identity and time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{SECOND, kill_both};
use crate::expect::{Expect, start_ready, wait_command};
use crate::world::{LIMIT, Process, RunDir, Terminal, World, artist, eventually, go_on_with};

/// Rewrites the state of a dead run as if its ids were other processes' by now.
fn forge(run: &RunDir, forge: impl FnOnce(&mut Value)) {
    let mut state = run.status_json();
    forge(&mut state);
    fs::write(run.path.join("status.json"), format!("{state}\n")).expect("a forged state");
}

#[test]
fn e76_ids_that_others_have_by_now() {
    let world = World::new();
    let running = start_ready(&world, &[], &["linger", "60"]);
    let run = world.only_run();
    let command = wait_command(&run);
    kill_both(running.process(), &run);
    command.signal(Signal::SIGKILL);
    command.wait_gone(LIMIT);
    running.wait().assert_signal(Signal::SIGKILL);
    // Two strangers have the ids now: one of them even leads a session whose id was the keeper's.
    let plain = world.command(artist(), ["linger", "50"]).spawn();
    let leader = world.command(artist(), ["linger", "50"]).inheriting(&["setsid"]).spawn();
    let strangers = [plain.process(), leader.process()];
    for stranger in &strangers {
        eventually(LIMIT, "strangers", || world.noted().contains(stranger).then_some(()));
    }
    forge(&run, |state| {
        for (at, stranger) in [("owner", leader.process()), ("command", plain.process())] {
            state[at]["pid"] = stranger.pid.into();
            state[at]["start_time"] = (stranger.start_time - 1).into();
        }
        state["owner"]["front_pid"] = plain.process().pid.into();
        state["owner"]["front_start_time"] = (plain.process().start_time - 1).into();
    });
    let id = run.id();
    world.bookend(["kill", "--force", &id]).run();
    world.bookend(["wait", &id]).run().assert_code(125);
    Expect::lost().check_run(&run);
    assert!(strangers.iter().all(Process::is_alive), "a stranger was signalled");
}

#[test]
fn e77_the_wall_clock_jumps() {
    let world = World::new();
    let library = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib/faketime",
        "/usr/lib64/faketime",
    ]
    .iter()
    .flat_map(|dir| [format!("{dir}/faketime/libfaketime.so.1"), format!("{dir}/libfaketime.so.1")])
    .find(|path| Path::new(path).exists());
    if !go_on_with("libfaketime", library.is_some()) {
        return;
    }
    for jump in ["-365d", "+365d"] {
        let world = World::new();
        let offset = world.path("offset");
        fs::write(&offset, "+0").expect("no offset");
        let call = world.run_artist(&["--timeout", "1h"], &["drip", "8", "50"]);
        let call = call.env("LD_PRELOAD", library.clone().unwrap_or_default()).env("FAKETIME_NO_CACHE", "1");
        let call = call.env("FAKETIME_TIMESTAMP_FILE", &offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let began = Instant::now();
        let running = call.spawn();
        running.wait_stdout("drip 2\n");
        fs::write(&offset, jump).expect("an offset");
        let done = running.wait();
        done.assert_code(0);
        let record = world.only_run().run_json();
        assert_eq!((&record["status"], &record["exit_reason"]), (&"completed".into(), &"exited".into()));
        let took = record["duration_seconds"].as_f64().expect("a duration");
        assert!(took >= 0.3 && took <= began.elapsed().as_secs_f64(), "{took} s: {record:#}");
        let elapsed: Vec<u64> = record["phases"]
            .as_array()
            .expect("phases")
            .iter()
            .filter_map(|p| p["elapsed_ms"].as_u64())
            .collect();
        assert!(elapsed.is_sorted() && elapsed.len() >= 3, "{record:#}");
        let year = |field: &str| record[field].as_str().expect("a time")[..4].parse::<i32>().expect("a year");
        assert_eq!(
            year("started_at") - year("completed_at"),
            if jump == "-365d" { 1 } else { -1 },
            "{record:#}"
        );
        world.bookend(["show", "latest"]).run().assert_code(0);
        world.bookend(["ps", "-a"]).run().assert_code(0);
    }
    drop(world);
}

#[test]
fn e81_a_stopped_command_stops_the_clocks() {
    for flag in ["--timeout", "--idle-timeout"] {
        let world = World::new();
        let running = start_ready(&world, &[flag, "1s"], &["linger", "60"]);
        let run = world.only_run();
        let command = wait_command(&run);
        assert!(command.signal(Signal::SIGSTOP));
        eventually(LIMIT, "pause in status.json", || run.status_json()["paused_since"].as_str().map(drop));
        let paused = Instant::now();
        let listed = world.bookend(["ps"]).run();
        assert!(listed.out().contains("Paused"), "{listed:?}");
        eventually(LIMIT, "time enough", || (paused.elapsed() > 2 * SECOND).then_some(()));
        assert!(!run.is_sealed(), "the limit counted while the command was stopped");
        assert!(command.signal(Signal::SIGCONT));
        eventually(LIMIT, "end of the pause", || {
            (run.is_sealed() || run.status_json()["paused_since"].is_null()).then_some(())
        });
        let reason = if flag == "--timeout" { "timed_out" } else { "stalled" };
        let record = Expect::stopped(reason, 124, "bookend").check(&world, &running.wait());
        let took = record["duration_seconds"].as_f64().expect("a duration");
        assert!(took >= 2.9, "{took}");
    }
}

#[test]
fn e81_a_stopped_command_is_stopped_for_good() {
    let world = World::new();
    let running = start_ready(&world, &[], &["linger", "60"]);
    let command = wait_command(&world.only_run());
    assert!(command.signal(Signal::SIGSTOP));
    command.wait_state('T');
    running.signal(Signal::SIGTERM);
    Expect::stopped_by(libc::SIGTERM).within(5 * SECOND).check(&world, &running.wait());
}

#[test]
fn e81_ctrl_z_and_fg() {
    let world = World::new();
    let mut shell = Terminal::shell(&world);
    let program = world.path("bookend");
    symlink(crate::world::under_test(), &program).expect("a short name");
    shell.send(format!("{} run -- {} linger 60\n", program.display(), artist().display()));
    shell.wait_for("ready");
    let run = world.wait_for_run();
    let command = wait_command(&run);
    shell.send("\x1a");
    shell.wait_for("prompt> ");
    command.wait_state('T');
    eventually(LIMIT, "pause in status.json", || run.status_json()["paused_since"].as_str().map(drop));
    shell.send("fg\n");
    eventually(LIMIT, "end of the pause", || run.status_json()["paused_since"].is_null().then_some(()));
    eventually(LIMIT, "command that goes on", || (command.state() != Some('T')).then_some(()));
    shell.send("\x03");
    shell.wait_for("prompt> ");
    let record = run.wait_sealed(LIMIT);
    shell.send("exit $?\n");
    shell.wait().assert_code(130);
    Expect::stopped_by(libc::SIGINT).actor("terminal").check_unfinished(&world);
    assert_eq!(record["ended_by"]["signal"], "SIGINT");
}
