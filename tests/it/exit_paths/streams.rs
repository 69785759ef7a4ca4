//! Streams: closed, held, unread, full.

use std::fs::{self, File};
use std::path::PathBuf;

use super::SECOND;
use crate::expect::{Expect, Points, wait_command};
use crate::world::{LIMIT, Output, Process, World, artist, go_on_with};

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
