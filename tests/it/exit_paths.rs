//! A row for every exit path that a plain command can take; the ids are those of `exit-paths.md`.
//!
//! Each row says how the run should have ended, and [`Expect::check`] looks at everything that this means. Each was
//! seen to fail against a wrapper that writes nothing (`BOOKEND_UNDER_TEST`).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::expect::{Expect, Points, Seen, keeper, send, start_ready, wait_command};
use crate::world::{
    Finished, LIMIT, Output, Process, RunDir, Terminal, World, artist, eventually, go_on_with, have,
};

const SECOND: Duration = Duration::from_secs(1);

/// Writes a file with a mode.
fn write_with_mode(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
}

// ---- the command's own ends -----------------------------------------------------------------------------------

#[test]
fn e24_a_command_that_can_not_be_invoked() {
    let world = World::new();
    let odd = world.path("odd");
    write_with_mode(&odd, "no program at all\n", 0o755);
    let done = world.bookend(["run", "--"]).arg(odd).run();
    let record = Expect::failed("spawn_failed", 126).check(&world, &done);
    assert_eq!(record["error"]["errno"], libc::ENOEXEC);
    assert_eq!(record["error"]["diagnostics"], "diagnostics.md");
    assert!(done.err().contains("could not be started"), "{done:?}");
}

#[test]
fn e25_success() {
    let world = World::new();
    let done = world.run_artist(&[], &["gen", "64", "both"]).run();
    let record = Expect::exited(0).check(&world, &done);
    assert_eq!(done.out(), "out 00000001 abcdefghijklmnopqr\n");
    let id = record["run_id"].as_str().expect("an id");
    let lines: Vec<_> = done.err().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], format!("bookend: run {id}"), "{done:?}");
    assert!(lines.iter().any(|line| line.starts_with("bookend: completed: exited with code 0")), "{done:?}");
    assert!(lines.last().is_some_and(|line| line.starts_with("bookend: next: bookend logs ")), "{done:?}");
    world.bookend(["wait", id]).run().assert_code(0);
}

#[test]
fn e26_failure_leaves_diagnostics() {
    let world = World::new();
    let done = world.bookend(["run", "--", "sh", "-c", "echo the last words >&2; exit 3"]).run();
    let record = Expect::exited(3).check(&world, &done);
    let text = world.only_run().text("diagnostics.md");
    assert!(text.contains("the last words") && text.contains("code 3"), "{text}");
    let id = record["run_id"].as_str().expect("an id");
    world.bookend(["wait", id]).run().assert_code(3);
    let shown = world.bookend(["show", "--json", id]).run();
    assert_eq!(shown.json(), record);
}

#[test]
fn e82_a_command_that_can_not_be_executed() {
    let world = World::new();
    let [plain, dir, ends, looped] = ["plain", "dir", "ends", "looped"].map(|name| world.path(name));
    write_with_mode(&plain, "#!/bin/sh\n", 0o644);
    fs::create_dir(&dir).expect("a directory");
    write_with_mode(&ends, "#!/no/such/interpreter\n", 0o755);
    symlink(&looped, &looped).expect("a loop");
    let rows: [(&OsStr, i32, i32); 6] = [
        ("no-such-command".as_ref(), 127, libc::ENOENT),
        (world.path("plain/x").leak_into(), 127, libc::ENOTDIR),
        (plain.as_ref(), 126, libc::EACCES),
        (dir.as_ref(), 126, libc::EACCES),
        (ends.as_ref(), 127, libc::ENOENT),
        (looped.as_ref(), 126, libc::ELOOP),
    ];
    for (program, code, errno) in rows {
        let world = World::new();
        let done = world.bookend(["run", "--"]).arg(program).run();
        let record = Expect::failed("spawn_failed", code).check(&world, &done);
        assert_eq!(record["error"]["errno"], errno, "{program:?}: {record:#}");
    }
}

/// A path that lives as long as the test process: rows of a table borrow it.
trait LeakInto {
    fn leak_into(self) -> &'static OsStr;
}

impl LeakInto for PathBuf {
    fn leak_into(self) -> &'static OsStr {
        Box::leak(self.into_os_string().into_boxed_os_str())
    }
}

// ---- stops ----------------------------------------------------------------------------------------------------

/// Starts a command that lives on, sends one signal to bookend, and checks the end.
fn stop_by(signal: Signal) {
    let world = World::new();
    let running = start_ready(&world, &[], &["linger", "60"]);
    running.signal(signal);
    let done = running.wait();
    let record = Expect::stopped_by(signal as i32).check(&world, &done);
    let by = &record["ended_by"];
    assert_eq!((&by["signal"], &by["pid"]), (&signal.as_str().into(), &std::process::id().into()));
    let says = |text: &str| assert!(done.err().contains(text), "no {text:?} in {done:?}");
    says("a second signal kills it now");
    says("bookend: stopped: ");
    let id = record["run_id"].as_str().expect("an id");
    world.bookend(["wait", id]).run().assert_code(128 + signal as i32);
}

#[test]
fn e36_interrupt() {
    stop_by(Signal::SIGINT);
}

#[test]
fn e58_terminate() {
    stop_by(Signal::SIGTERM);
}

#[test]
fn e59_hang_up_and_quit() {
    stop_by(Signal::SIGHUP);
    stop_by(Signal::SIGQUIT);
}

#[test]
fn e36_a_command_that_handles_the_interrupt_is_stopped_all_the_same() {
    let world = World::new();
    let counts = world.path("counts");
    let file = counts.to_string_lossy().into_owned();
    let running = start_ready(&world, &[], &["count-signals", &file, "int=7"]);
    running.signal(Signal::SIGINT);
    Expect::stopped_by(libc::SIGINT).exit(Seen::Code(7)).check(&world, &running.wait());
    assert_eq!(fs::read_to_string(counts).expect("counts"), "SIGINT\n", "exactly one reached it");
}

#[test]
fn e57_a_second_interrupt_forces_the_end() {
    let world = World::new();
    let counts = world.path("counts");
    let file = counts.to_string_lossy().into_owned();
    let running = start_ready(&world, &[], &["count-signals", &file]);
    running.signal(Signal::SIGINT);
    eventually(LIMIT, "first interrupt", || (fs::read_to_string(&counts).ok()? == "SIGINT\n").then_some(()));
    let run = world.only_run();
    run.wait_status("stopping");
    let second = Instant::now();
    running.signal(Signal::SIGINT);
    run.wait_sealed(LIMIT);
    let took = second.elapsed();
    let expected = Expect::stopped_by(libc::SIGINT).exit(Seen::Signal(libc::SIGKILL)).forced();
    expected.check(&world, &running.wait());
    assert_eq!(fs::read_to_string(counts).expect("counts"), "SIGINT\n", "exactly one reached it");
    assert!(took < Duration::from_millis(250), "the second interrupt took {took:?}");
}

#[test]
fn e58_a_tree_that_ignores_the_signal_is_killed_after_the_grace() {
    let world = World::new();
    let running = start_ready(&world, &["--grace", "300ms"], &["escape", "term-proof"]);
    let asked = Instant::now();
    running.signal(Signal::SIGTERM);
    let done = running.wait();
    let took = asked.elapsed();
    Expect::stopped_by(libc::SIGTERM).exit(Seen::Signal(libc::SIGKILL)).check(&world, &done);
    assert!(took >= Duration::from_millis(300) && took < 3 * SECOND, "{took:?}");
}

#[test]
fn e66_wall_time_and_silence() {
    let world = World::new();
    let done = world.run_artist(&["--timeout", "300ms"], &["linger", "60"]).run();
    let record = Expect::stopped("timed_out", 124, "bookend").within(5 * SECOND).check(&world, &done);
    assert!(record["duration_seconds"].as_f64().expect("a duration") >= 0.3, "{record:#}");
    assert!(record["ended_by"]["reason"].as_str().is_some_and(|why| why.contains("300ms")), "{record:#}");
    for capture in ["pipe", "file"] {
        let world = World::new();
        let done =
            world.run_artist(&["--idle-timeout", "300ms", "--capture", capture], &["linger", "60"]).run();
        Expect::stopped("stalled", 124, "bookend").within(5 * SECOND).check(&world, &done);
        // Output now and then is a sign of life, however slow.
        let world = World::new();
        let drip = ["drip", "12", "100"];
        let done = world.run_artist(&["--idle-timeout", "600ms", "--capture", capture], &drip).run();
        Expect::exited(0).check(&world, &done);
    }
}

#[test]
fn e66_a_stop_that_is_ignored_still_ends_in_time() {
    let world = World::new();
    let flags = ["--timeout", "200ms", "--grace", "200ms"];
    let done = world.run_artist(&flags, &["escape", "signal-proof"]).run();
    let expected = Expect::stopped("timed_out", 124, "bookend").exit(Seen::Signal(libc::SIGKILL));
    expected.within(5 * SECOND).check(&world, &done);
}

// ---- failures of bookend itself -------------------------------------------------------------------------------

/// What is left when the keeper breaks down at a site: the run failed, by a fault of bookend's own.
fn keeper_breaks_down(site: &str, action: &str, args: &[&str], exits: &[Seen]) {
    let mut world = World::new();
    Points::set(&mut world, &format!("{site}={action}"));
    let done = world.run_artist(&[], args).run();
    let expected = Expect::failed("internal_error", 125).exit(Seen::Any).any_author();
    let expected = if action == "panic" { expected.actor_of_fault() } else { expected.actor("bookend") };
    let record = expected.check(&world, &done);
    let known = |seen: &Seen| match *seen {
        Seen::Code(code) => record["exit"]["code"] == code,
        Seen::Signal(signal) => record["exit"]["signal"] == signal,
        Seen::Nothing | Seen::Any => record["exit"].is_null(),
    };
    assert!(exits.iter().any(known), "{site}={action}: an exit other than {exits:?}: {record:#}");
    if action == "panic" {
        let message = record["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(&format!("failpoint {site}")), "{record:#}");
    }
}

const BREAKDOWNS: [&str; 4] = ["panic", "abort", "overflow", "exit"];

#[test]
fn e47_the_keeper_breaks_down_before_the_command() {
    for action in BREAKDOWNS {
        for site in ["keeper.start", "keeper.published", "keeper.before_spawn"] {
            keeper_breaks_down(site, action, &["linger", "60"], &[Seen::Nothing]);
        }
    }
}

#[test]
fn e47_the_keeper_breaks_down_while_the_command_runs() {
    let ends = [Seen::Signal(libc::SIGTERM), Seen::Signal(libc::SIGKILL), Seen::Nothing];
    for action in BREAKDOWNS {
        for site in ["keeper.spawned", "keeper.running"] {
            keeper_breaks_down(site, action, &["linger", "60"], &ends);
        }
    }
}

/// A command that had ended by itself did so, whatever happened to bookend afterwards; the evidence tells of it.
#[test]
fn e47_the_keeper_breaks_down_after_the_command() {
    for action in BREAKDOWNS {
        for site in ["keeper.exited", "keeper.draining", "keeper.sealing"] {
            let mut world = World::new();
            Points::set(&mut world, &format!("{site}={action}"));
            let done = world.run_artist(&[], &["exit", "3"]).run();
            let record = Expect::exited(3).any_author().check(&world, &done);
            let told = match action {
                "panic" => format!("failpoint {site}"),
                "exit" => "code 77".to_owned(),
                _ => "SIGABRT".to_owned(),
            };
            assert!(action == "panic" || record["author"] == "front", "{record:#}");
            let evidence = record["evidence"].to_string();
            assert!(evidence.contains(&told), "{site}={action}: {record:#}");
        }
    }
}

#[test]
fn e47_the_keeper_breaks_down_once_the_record_is_written() {
    for action in BREAKDOWNS {
        let mut world = World::new();
        Points::set(&mut world, &format!("keeper.sealed={action}"));
        Expect::exited(3).check(&world, &world.run_artist(&[], &["exit", "3"]).run());
    }
}

#[test]
fn e47_the_front_breaks_down() {
    let mut world = World::new();
    Points::set(&mut world, "front.vigil=panic");
    let done = world.run_artist(&[], &["linger", "60"]).run();
    let expected = Expect::failed("internal_error", 125).exit(Seen::Any).actor("bookend");
    let record = expected.check(&world, &done);
    assert!(record["error"]["message"].as_str().is_some_and(|m| m.contains("front")), "{record:#}");
    // Where nobody can say that it was a panic, the other bookend says what it saw: its partner died.
    for (action, end) in
        [("abort", (None, Some(6))), ("overflow", (None, Some(6))), ("exit", (Some(77), None))]
    {
        let mut world = World::new();
        Points::set(&mut world, &format!("front.vigil={action}"));
        let done = world.run_artist(&[], &["linger", "60"]).run();
        assert_eq!((done.code, done.signal), end, "{done:?}");
        world.wait_for_run().wait_sealed(LIMIT);
        Expect::wrapper_died("keeper").exit(Seen::Any).check_unfinished(&world);
    }
}

#[test]
fn e47_the_front_breaks_down_before_there_is_a_run() {
    for action in BREAKDOWNS {
        let mut world = World::new();
        Points::set(&mut world, &format!("front.start={action}"));
        let done = world.run_artist(&[], &["linger", "60"]).run();
        assert_ne!(done.code, Some(0), "{done:?}");
        assert!(world.runs().is_empty() && world.live().is_empty(), "nothing was promised yet");
        world.assert_no_process_left();
        assert!(action == "exit" || done.err().contains("front.start") || action != "panic", "{done:?}");
    }
}

#[test]
fn e70_trouble_in_the_clean_up_does_not_cost_the_record() {
    let mut world = World::new();
    let points = Points::set(&mut world, "keeper.draining=pause");
    let running = world.run_artist(&["--quiet"], &["exit", "3"]).spawn();
    points.reached("keeper.draining");
    let run = world.only_run();
    for name in ["diagnostics.md", "task.json"] {
        fs::create_dir(run.path.join(name)).expect("a directory in the way");
        fs::write(run.path.join(name).join("x"), "x").expect("a file in it");
    }
    fs::remove_dir_all(world.store().join("live")).expect("no place for markers");
    points.go("keeper.draining");
    let record = Expect::exited(3).degraded().check(&world, &running.wait());
    let said = record["degraded"].to_string();
    assert!(said.contains("diagnostics.md") && said.contains("task.json"), "{said}");
}

// ---- one or both bookends are killed --------------------------------------------------------------------------

#[test]
fn e60_the_front_is_killed() {
    let world = World::new();
    let running = start_ready(&world, &[], &["linger", "60"]);
    let run = world.only_run();
    wait_command(&run);
    let killed = Instant::now();
    running.signal(Signal::SIGKILL);
    run.wait_sealed(SECOND);
    assert!(killed.elapsed() < SECOND);
    Expect::wrapper_died("keeper").front_killed(libc::SIGKILL).check(&world, &running.wait());
}

#[test]
fn e60_the_keeper_is_killed() {
    let world = World::new();
    let running = start_ready(&world, &[], &["linger", "60"]);
    let run = world.only_run();
    wait_command(&run);
    let killed = Instant::now();
    assert!(keeper(&run).signal(Signal::SIGKILL));
    run.wait_sealed(SECOND);
    assert!(killed.elapsed() < SECOND);
    let record = Expect::wrapper_died("front").check(&world, &running.wait());
    assert!(record["ended_by"]["reason"].as_str().is_some_and(|why| why.contains("SIGKILL")), "{record:#}");
}

/// A command that ended by itself did so, whoever writes it down.
#[test]
fn e60_the_keeper_is_killed_after_the_command_ended() {
    for site in ["keeper.exited", "keeper.draining", "keeper.sealing"] {
        let mut world = World::new();
        let points = Points::set(&mut world, &format!("{site}=pause"));
        let running = world.run_artist(&[], &["exit", "3"]).spawn();
        assert!(points.reached(site).signal(Signal::SIGKILL));
        Expect::exited(3).author("front").check(&world, &running.wait());
    }
}

/// A stop that was under way when the keeper was killed is still the first cause.
#[test]
fn e60_the_keeper_is_killed_while_it_stops_the_command() {
    for site in ["keeper.stopping", "keeper.exited", "keeper.sealing"] {
        let mut world = World::new();
        let points = Points::set(&mut world, &format!("{site}=pause"));
        let running = start_ready(&world, &[], &["linger", "60"]);
        running.signal(Signal::SIGINT);
        assert!(points.reached(site).signal(Signal::SIGKILL));
        Expect::stopped_by(libc::SIGINT).author("front").check(&world, &running.wait());
    }
}

/// Kills both bookends so that neither can do anything about the other.
fn kill_both(front: Process, run: &RunDir) {
    let both = [front, keeper(run)];
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for process in both {
            assert!(process.signal(signal), "{}", process.describe());
            if signal == Signal::SIGSTOP {
                process.wait_state('T');
            }
        }
    }
    for process in both {
        process.wait_gone(LIMIT);
    }
}

#[test]
fn e60_both_are_killed_and_the_command_too() {
    let world = World::new();
    let running = start_ready(&world, &[], &["linger", "60"]);
    let run = world.only_run();
    let command = wait_command(&run);
    kill_both(running.process(), &run);
    assert!(command.signal(Signal::SIGKILL));
    command.wait_gone(LIMIT);
    let id = run.id();
    world.bookend(["wait", &id]).run().assert_code(125);
    let record = Expect::lost().front_killed(libc::SIGKILL).check(&world, &running.wait());
    assert!(record["reconciled"]["evidence"].as_array().is_some_and(|e| !e.is_empty()), "{record:#}");
    let listed = world.bookend(["ps", "-a", "--json"]).run().json();
    assert_eq!(listed["runs"][0]["status"], "lost");
}

#[test]
fn e60_both_are_killed_while_the_command_lives() {
    let world = World::new();
    let running = start_ready(&world, &[], &["linger", "60"]);
    let run = world.only_run();
    let command = wait_command(&run);
    kill_both(running.process(), &run);
    let listed = world.bookend(["ps", "--json"]).run().json();
    assert_eq!(
        (&listed["runs"][0]["orphaned"], &listed["runs"][0]["status"]),
        (&true.into(), &"running".into())
    );
    assert!(!run.is_sealed(), "no record calls a living run finished");
    assert!(command.is_alive());
    let id = run.id();
    world.bookend(["kill", "--reason", "nobody minds it", &id]).run().assert_code(0);
    let expected = Expect::stopped("killed", 137, "user").author("reader").exit(Seen::Nothing);
    let record = expected.front_killed(libc::SIGKILL).check(&world, &running.wait());
    assert_eq!(record["ended_by"]["reason"], "nobody minds it");
    assert_eq!(record["leftovers"][0]["fate"], "killed", "{record:#}");
    world.bookend(["wait", &id]).run().assert_code(137);
}

// ---- streams --------------------------------------------------------------------------------------------------

#[test]
fn e61_closed_streams() {
    for closed in [vec!["close=1"], vec!["close=2"], vec!["close=0", "close=1", "close=2"]] {
        let world = World::new();
        let done = world.run_artist(&[], &["gen", "64", "both"]).inheriting(&closed).run();
        Expect::exited(0).check(&world, &done);
        assert_eq!(world.only_run().log().len(), 64, "{closed:?}");
    }
}

#[test]
fn e61_a_reader_that_went_away() {
    for capture in ["pipe", "file"] {
        let world = World::new();
        let flags = ["--capture", capture, "--stdin"];
        let call = world.bookend(["run"]).args(&flags).args(&["--", "sh", "-c"]);
        let script = format!("read go; exec {} gen 3000000 both", artist().display());
        let mut running = call.arg(script).open_input().output(Output::Unread).spawn();
        world.wait_for_run().wait_status("running");
        drop(running.take_pipes());
        running.send(b"go\n");
        Expect::exited(0).check(&world, &running.wait());
        assert_eq!(world.only_run().log().len(), 3_000_000 / 64 * 64, "{capture}");
    }
}

#[test]
fn e67_a_descendant_holds_the_output() {
    let world = World::new();
    let done = world.run_artist(&[], &["escape", "holder", "leave"]).run();
    let record = Expect::exited(0).within(6 * SECOND).check(&world, &done);
    let left = record["leftovers"].as_array().expect("a list");
    assert_eq!(left.len(), 1, "{record:#}");
    assert!(matches!(left[0]["fate"].as_str(), Some("terminated" | "killed")), "{record:#}");
}

#[test]
fn e67_a_stranger_holds_the_output() {
    let world = World::new();
    let flags = ["--capture", "pipe", "--stdin"];
    let mut running = world.run_artist(&flags, &["echo-stdin"]).open_input().spawn();
    running.send(b"ready\n");
    running.wait_ready();
    let command = wait_command(&world.only_run());
    let grab = format!("exec 3>/proc/{}/fd/1; echo ready; exec sleep 50", command.pid);
    let stranger = world.command("sh", ["-c", &grab]).spawn();
    stranger.wait_ready();
    running.end_input();
    let done = running.wait();
    let record = Expect::exited(0).within(6 * SECOND).check_run(&world.only_run());
    Expect::exited(0).check_end(&done);
    let left = &record["leftovers"][0];
    assert_eq!(
        (&left["pid"], &left["fate"]),
        (&stranger.process().pid.into(), &"alive".into()),
        "{record:#}"
    );
    assert_eq!(left["holds_output"], true);
    assert!(stranger.process().is_alive(), "what is not ours is never signalled");
}

#[test]
fn e68_much_on_one_stream_while_the_other_waits() {
    let world = World::new();
    let script = format!("{} gen 200000 stderr; echo done", artist().display());
    let done = world.bookend(["run", "--", "sh", "-c", &script]).run();
    Expect::exited(0).check(&world, &done);
    assert_eq!(done.out(), "done\n");
    assert_eq!(world.only_run().log().len(), 200_000 / 64 * 64 + 5);
}

/// Runs a command that writes `bytes` to its standard error while nobody reads, and returns how much memory each
/// bookend took at most, in KiB: the keeper, then the front.
fn memory_of_unread(bytes: u64) -> [u64; 2] {
    let mut world = World::new();
    let points = Points::set(&mut world, "keeper.sealed=pause");
    let count = bytes.to_string();
    let call = world.run_artist(&["--log-max", "8MiB"], &["gen", &count, "stderr"]);
    let mut running = call.output(Output::Unread).limit(10 * LIMIT).spawn();
    let run = world.wait_for_run();
    let record = run.wait_sealed(10 * LIMIT);
    let kept = points.reached("keeper.sealed");
    let peaks = [kept, running.process()].map(peak_kib);
    let (log, dropped) = (record["log"]["bytes"].as_u64(), record["log"]["dropped_bytes"].as_u64());
    assert_eq!(log, Some(bytes / 64 * 64), "offsets stay true: {record:#}");
    assert!(dropped.is_some_and(|n| n >= bytes.saturating_sub(12 << 20)), "{record:#}");
    points.go("keeper.sealed");
    drop(running.take_pipes());
    running.wait().assert_code(0);
    world.assert_no_process_left();
    peaks
}

/// The most memory that a process ever had resident.
fn peak_kib(process: Process) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("a living process");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn e68_an_unread_flood_takes_no_memory() {
    for peak in memory_of_unread(64 << 20) {
        assert!(peak < 32 << 10, "{peak} KiB");
    }
}

#[test]
fn campaign_e68_a_gigabyte_takes_no_more_memory() {
    let bytes = if std::env::var_os("BOOKEND_CAMPAIGN").is_some() { 1 << 30 } else { 128 << 20 };
    for peak in memory_of_unread(bytes) {
        assert!(peak < 32 << 10, "{peak} KiB");
    }
}

// ---- the store ------------------------------------------------------------------------------------------------

/// Every path below a directory with its size, to see that nothing was touched.
fn census(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for path in entries.flatten().map(|entry| entry.path()) {
        let known = path.symlink_metadata().expect("an entry");
        found.push((path.clone(), if known.is_dir() { 0 } else { known.len() }));
        if known.is_dir() {
            found.extend(census(&path));
        }
    }
    found.sort();
    found
}

/// A refusal: 125, an error that names the path and says what to do, one line of JSON, the command not started.
#[track_caller]
fn assert_refused(done: &Finished, names: &Path) {
    done.assert_code(125);
    let err = done.err();
    assert!(err.contains("bookend: error: ") && err.contains("hint: "), "{done:?}");
    assert!(err.contains(&*names.to_string_lossy()), "{} is not named: {done:?}", names.display());
    let records: Vec<Value> = err.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(records.len(), 1, "one line of JSON: {done:?}");
    assert_eq!((&records[0]["schema"], &records[0]["wrapper_exit_code"]), (&1.into(), &125.into()));
    assert_eq!(records[0]["status"], "failed");
    assert!(!records[0]["command"]["argv"].as_array().expect("a command").is_empty());
    assert!(done.stdout.is_empty(), "{done:?}");
    assert!(done.elapsed < 5 * SECOND, "{done:?}");
}

/// Runs a command that would leave a mark, and checks that it is refused and that nothing was touched.
#[track_caller]
fn assert_store_refused(world: &World, launcher: &[&str]) {
    let before = census(&world.path(""));
    let done = world.bookend(["run", "--", "touch", "the-command-ran"]).under(launcher).run();
    assert_refused(&done, &world.store());
    assert_eq!(census(&world.path("")), before, "something was touched");
    world.assert_no_process_left();
}

#[test]
fn e62_a_store_that_is_a_file() {
    let mut world = World::new();
    let place = world.path("file");
    fs::write(&place, "precious").expect("a file");
    world.set_store(&place);
    assert_store_refused(&world, &[]);
    world.set_store(&place.join("below"));
    assert_store_refused(&world, &[]);
}

#[test]
fn e62_a_store_with_a_file_in_the_way() {
    for part in ["runs", "live"] {
        let world = World::new();
        fs::create_dir(world.store()).expect("a store");
        fs::set_permissions(world.store(), fs::Permissions::from_mode(0o700)).expect("its mode");
        fs::write(world.store().join(part), "precious").expect("a file");
        let other = if part == "runs" { "live" } else { "runs" };
        fs::create_dir(world.store().join(other)).expect("the other part");
        let done = world.bookend(["run", "--", "touch", "the-command-ran"]).run();
        done.assert_code(125);
        assert!(done.err().contains("bookend: error: "), "{done:?}");
        assert_eq!(fs::read_to_string(world.store().join(part)).expect("the file"), "precious");
        assert!(!world.path("work/the-command-ran").exists());
        assert_eq!(world.runs().len(), 0);
    }
}

#[test]
fn e62_a_store_that_is_read_only() {
    let mut world = World::new();
    let Some(small) = world.tmpfs(1 << 20, 64) else { return };
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&small.path).status();
    assert!(remounted.expect("mount starts").success());
    world.set_store(&small.path);
    let done = world.bookend(["run", "--", "touch", "the-command-ran"]).run();
    assert_refused(&done, &small.path);
    world.set_store(&small.path.join("missing/parent"));
    assert_store_refused(&world, &[]);
}

#[test]
fn e62_a_store_that_may_not_be_written() {
    let world = World::new();
    if !go_on_with("root, to be somebody else", nix::unistd::geteuid().is_root()) || !have("setpriv") {
        return;
    }
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).expect("a way in");
    let reaches = world.command("true", [""; 0]).under(&nobody).run().code == Some(0)
        && world.bookend(["--version"]).under(&nobody).run().code == Some(0);
    if !go_on_with("a build directory that others may enter", reaches) {
        return;
    }
    assert_store_refused(&world, &nobody);
}

#[test]
fn e62_a_store_of_somebody_else_or_open_to_all() {
    let world = World::new();
    fs::create_dir(world.store()).expect("a store");
    fs::set_permissions(world.store(), fs::Permissions::from_mode(0o770)).expect("its mode");
    assert_store_refused(&world, &[]);
    fs::set_permissions(world.store(), fs::Permissions::from_mode(0o700)).expect("its mode");
    if go_on_with("root, to give the store away", nix::unistd::geteuid().is_root()) {
        chown(world.store(), Some(12_345), None).expect("another owner");
        assert_store_refused(&world, &[]);
    }
}

#[test]
fn e62_a_store_whose_parents_are_missing_is_made() {
    let mut world = World::new();
    let place = world.path("a/b/c/store");
    world.set_store(&place);
    Expect::exited(0).check(&world, &world.run_artist(&[], &["exit", "0"]).run());
    assert_eq!(fs::metadata(&place).expect("a store").permissions().mode() & 0o777, 0o700);
}

// ---- a full disk ----------------------------------------------------------------------------------------------

#[test]
fn e63_a_disk_that_is_full_before() {
    let mut world = World::new();
    let Some(small) = world.tmpfs(1 << 20, 64) else { return };
    world.set_store(&small.path.join("store"));
    small.fill(0);
    let done = world.bookend(["run", "--", "touch", "the-command-ran"]).run();
    assert_refused(&done, &small.path);
    assert!(done.err().contains("free some space"), "{done:?}");
    assert!(!world.path("work/the-command-ran").exists());
    small.relieve();
    small.fill_inodes();
    let done = world.bookend(["run", "--", "touch", "the-command-ran"]).run();
    assert_refused(&done, &small.path);
    small.relieve();
    Expect::exited(0).check(&world, &world.run_artist(&[], &["exit", "0"]).run());
}

#[test]
fn e63_a_disk_that_fills_up_during_the_run_hurts_no_command_behind_pipes() {
    let mut world = World::new();
    let Some(small) = world.tmpfs(2 << 20, 64) else { return };
    world.set_store(&small.path.join("store"));
    let bytes = 8_000_000 / 64 * 64;
    let done = world.run_artist(&["--capture", "pipe"], &["gen", "8000000"]).run();
    let record = Expect::exited(0).degraded().check(&world, &done);
    let (kept, dropped) = (&record["log"]["bytes"], &record["log"]["dropped_bytes"]);
    let sum = kept.as_u64().zip(dropped.as_u64()).map(|(kept, dropped)| kept + dropped);
    assert_eq!(sum, Some(bytes), "{record:#}");
    assert!(dropped.as_u64() > Some(4_000_000), "{record:#}");
    let log = world.only_run().log();
    assert_eq!(log[..], done.stdout[..log.len()], "the log is the beginning of what was said");
    assert!(done.err().contains("note: "), "{done:?}");
}

#[test]
fn e63_a_disk_that_fills_up_under_the_commands_own_log() {
    let mut world = World::new();
    let Some(small) = world.tmpfs(2 << 20, 64) else { return };
    world.set_store(&small.path.join("store"));
    let done = world.run_artist(&["--capture", "file"], &["gen", "8000000"]).run();
    let run = world.only_run();
    let record = run.run_json();
    assert!(matches!(record["status"].as_str(), Some("failed" | "completed")), "{record:#}");
    assert_eq!(Some(record["wrapper_exit_code"].as_i64().expect("a code") as i32), done.code);
    assert_eq!(record["log"]["bytes"], run.log().len());
    world.assert_no_process_left();
}

#[test]
fn e63_a_disk_that_is_full_at_the_end() {
    for inodes in [false, true] {
        let mut world = World::new();
        let Some(small) = world.tmpfs(2 << 20, 64) else { return };
        world.set_store(&small.path.join("store"));
        let points = Points::set(&mut world, "keeper.draining=pause");
        let running = world.run_artist(&["--quiet"], &["exit", "3"]).spawn();
        points.reached("keeper.draining");
        if inodes {
            small.fill_inodes();
        } else {
            small.fill(0);
        }
        points.go("keeper.draining");
        let record = Expect::exited(3).degraded().check(&world, &running.wait());
        let shown = world.bookend(["show", "--json", "latest"]).run().json();
        assert_eq!(shown, record, "a reader sees the record, whatever status.json says");
    }
}

#[test]
fn e64_an_environment_without_a_home() {
    let mut world = World::new();
    let state = world.path("state");
    let call = world.run_artist(&[], &["exit", "0"]);
    call.clone().without_env("HOME").run().assert_code(0);
    call.clone().env("HOME", "/no/such/home").env("XDG_RUNTIME_DIR", "relative").run().assert_code(0);
    call.clone().without_env("PATH").without_env("LANG").run().assert_code(0);
    assert_eq!(world.runs().len(), 3);
    call.clone()
        .without_env("BOOKEND_STORE")
        .without_env("HOME")
        .env("XDG_STATE_HOME", &state)
        .run()
        .assert_code(0);
    world.set_store(&state.join("bookend"));
    assert_eq!(world.runs().len(), 1);
    call.clone().env("BOOKEND_STORE", "").run().assert_code(0);
    world.set_store(&world.path("home/.local/state/bookend"));
    assert_eq!(world.runs().len(), 1, "an empty BOOKEND_STORE is none");
    if !go_on_with("root, to be somebody else", nix::unistd::geteuid().is_root()) || !have("setpriv") {
        return;
    }
    let unknown = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--"];
    if world.bookend(["--version"]).under(&unknown).run().code == Some(0) {
        let done = call.under(&unknown).without_env("BOOKEND_STORE").without_env("HOME").run();
        done.assert_code(125);
        assert!(done.err().contains("BOOKEND_STORE") && done.err().contains("hint: "), "{done:?}");
    }
}

// ---- twice, and all at once -----------------------------------------------------------------------------------

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

// ---- identity and time ----------------------------------------------------------------------------------------

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

#[test]
fn e61_output_into_a_full_device() {
    let world = World::new();
    let full = PathBuf::from("/dev/full");
    if go_on_with("/dev/full", File::options().write(true).open(&full).is_ok()) {
        let done = world.run_artist(&[], &["gen", "640000", "both"]).output(Output::File(full)).run();
        Expect::exited(0).check(&world, &done);
        assert_eq!(world.only_run().log().len(), 640_000);
    }
}
