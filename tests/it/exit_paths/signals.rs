//! Stops: by a signal, by a limit.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::SECOND;
use crate::expect::{Expect, Seen, start_ready};
use crate::world::{LIMIT, World, eventually, have};

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

#[test]
fn e58_as_the_first_process_of_a_namespace() {
    let world = World::new();
    if !have("unshare") {
        return;
    }
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let script = format!("kill -{signal} 1; exec sleep 5");
        let namespace = ["-r", "-pf", "--kill-child", "--mount-proc", env!("CARGO_BIN_EXE_bookend")];
        let words = ["run", "--", "sh", "-c", &script];
        // No signal with its default disposition ends such a process: the code has to say it.
        world.command("unshare", namespace.iter().chain(&words)).run().assert_code(code);
    }
    let ends: Vec<_> = world.runs().iter().map(|run| run.run_json()["wrapper_exit_code"].clone()).collect();
    assert_eq!(ends, [143, 130]);
}
