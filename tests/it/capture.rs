//! The command's output and what it inherits: every byte, on its stream, live; nothing that is bookend's own.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::world::{Finished, Invocation, Output, RunDir, Terminal, World, artist, eventually};

const SOON: Duration = Duration::from_secs(10);
/// The time in which a line that the command printed is shown while it goes on.
const LIVE: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

/// The text of `artist gen`, from one byte to another.
fn generated(from: u64, to: u64) -> Vec<u8> {
    let line = |n: u64| format!("{n:08} the quick brown fox jumps over the lazy dog 0123456789\n");
    let block: Vec<u8> = (0..1024).flat_map(|n| line(n).into_bytes()).collect();
    let first = (from % block.len() as u64) as usize;
    block.iter().copied().cycle().skip(first).take((to - from) as usize).collect()
}

/// Splits the log into the two streams as the marks of its index say; the first one must be at its beginning.
fn split(run: &RunDir) -> [Vec<u8>; 2] {
    let (log, marks) = (run.log(), run.marks());
    let mut streams = [Vec::new(), Vec::new()];
    assert_eq!(marks.first().map(|mark| mark.offset), Some(0), "the index covers the log");
    for (at, mark) in marks.iter().enumerate() {
        let end = marks.get(at + 1).map_or(log.len() as u64, |next| next.offset);
        assert!(marks.get(at + 1).is_none_or(|next| next.ms >= mark.ms), "times go back: {marks:?}");
        assert!(end > mark.offset, "a mark of no bytes: {mark:?}");
        streams[mark.stream.place()].extend_from_slice(&log[mark.offset as usize..end as usize]);
    }
    streams
}

/// Asserts that two byte strings are the same, without printing megabytes.
#[track_caller]
fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(
        found.len() == expected.len() && differs.is_none(),
        "{what}: {} bytes of {}, first difference at {differs:?}",
        found.len(),
        expected.len()
    );
}

/// Both ways to capture: through pipes, and in a file where the two streams are one.
fn both_ways(call: &Invocation) -> [Invocation; 2] {
    [call.clone().output(Output::Pipes), call.clone().output(Output::OnePipe)]
}

fn capture_of(record: &Value) -> &str {
    record["log"]["capture"].as_str().expect("a way of capture")
}

// ---- byte for byte ------------------------------------------------------------------------------------------------

#[test]
fn two_streams_stay_apart_and_the_index_tells_them_in_the_log() {
    let world = World::new();
    let done = world.run_artist(&["--quiet"], &["gen", "6400000", "both"]).run();
    done.assert_code(0);
    let world = World::new();
    let done = world.run_artist(&[], &["gen", "6400000", "both"]).run();
    done.assert_code(0);
    let run = world.only_run();
    assert_eq!(capture_of(&run.run_json()), "pipe");
    let lines = |name: &str| -> Vec<u8> {
        (1..=100_000).flat_map(|n| format!("{name} {n:08} abcdefghijklmnopqr\n").into_bytes()).collect()
    };
    assert_same(&done.stdout, &lines("out"), "standard output");
    assert_same(command_part(&done.stderr), &lines("err"), "standard error");
    let [out, err] = split(&run);
    assert_same(&out, &lines("out"), "standard output in the log");
    assert_same(&err, &lines("err"), "standard error in the log");
}

/// What the command said on standard error, between bookend's first line and its verdict.
fn command_part(stderr: &[u8]) -> &[u8] {
    let first = stderr.iter().position(|&b| b == b'\n').expect("a line with the run's id") + 1;
    let verdict = stderr.windows(9).rposition(|w| w == b"\nbookend:").expect("a verdict");
    let before = stderr[..verdict].windows(9).rposition(|w| w == b"\nbookend:");
    &stderr[first..before.map_or(verdict, |at| at + 1).max(first)]
}

#[test]
fn streams_in_turn_are_in_the_log_in_the_order_they_came() {
    let world = World::new();
    let script = "for i in 1 2 3 4 5; do echo out $i; read x; echo err $i >&2; read x; done";
    let mut running = world.bookend(["run", "--stdin", "--", "sh", "-c", script]).open_input().spawn();
    let mut expected = String::new();
    for i in 1..=5 {
        running.wait_stdout(&format!("out {i}\n"));
        running.send(b"\n");
        running.wait_stderr(&format!("err {i}\n"));
        running.send(b"\n");
        expected += &format!("out {i}\nerr {i}\n");
    }
    running.wait().assert_code(0);
    let run = world.only_run();
    assert_same(&run.log(), expected.as_bytes(), "the log");
    let [out, err] = split(&run);
    assert_eq!(String::from_utf8_lossy(&out), "out 1\nout 2\nout 3\nout 4\nout 5\n");
    assert_eq!(String::from_utf8_lossy(&err), "err 1\nerr 2\nerr 3\nerr 4\nerr 5\n");
    let times: Vec<u64> = run.marks().iter().map(|mark| mark.ms).collect();
    assert!((10..=12).contains(&times.len()), "{times:?}");
}

#[test]
fn the_index_says_when_output_came() {
    for flags in [&["--capture", "pipe"][..], &["--tty"], &[]] {
        let world = World::new();
        let call = world.run_artist(flags, &["drip", "12", "30"]).output(Output::OnePipe);
        call.run().assert_code(0);
        let run = world.only_run();
        assert_eq!(run.run_json()["log"]["index"], "harness.idx");
        let marks = run.marks();
        let steps: Vec<u64> = marks.windows(2).map(|pair| pair[1].ms - pair[0].ms).collect();
        // Eleven pauses of 30 ms, and a new mark with the fourth line after the last one, or with an earlier one where
        // the machine is slow.
        assert!((1..=11).contains(&steps.len()) && steps.iter().all(|&ms| ms >= 100), "{flags:?} {marks:?}");
        let log = run.log();
        for mark in &marks {
            let begins = mark.offset == 0 || log[mark.offset as usize - 1] == b'\n';
            assert!(begins && (mark.offset as usize) < log.len(), "{flags:?} {marks:?}");
        }
        split(&run);
    }
    let world = World::new();
    world.run_artist(&["--capture", "file"], &["drip", "1", "1"]).run().assert_code(0);
    let run = world.only_run();
    assert!(run.read("harness.idx").is_none() && run.run_json()["log"].get("index").is_none());
}

#[test]
fn one_stream_is_captured_in_its_order() {
    let world = World::new();
    let done = world.run_artist(&[], &["gen", "3200000", "both"]).output(Output::OnePipe).run();
    done.assert_code(0);
    let run = world.only_run();
    assert_eq!(capture_of(&run.run_json()), "pipe");
    assert_eq!(run.run_json()["plan"]["one_stream"], true);
    let line = |n: u32, name| format!("{name} {n:08} abcdefghijklmnopqr\n");
    let expected: Vec<u8> =
        (1..=50_000).flat_map(|n| (line(n, "out") + &line(n, "err")).into_bytes()).collect();
    assert_same(&run.log(), &expected, "the log");
    assert_same(command_part(&done.stdout), &expected, "the output");
}

#[test]
fn binary_data_and_a_very_long_line_are_kept() {
    let binary: Vec<u8> = (0..=255).chain([0; 256]).collect();
    let long = vec![b'x'; 64 << 20];
    for (args, expected) in [(&["binary"][..], &binary), (&["line", "67108864"][..], &long)] {
        for pipes in [true, false] {
            let world = World::new();
            let capture = if pipes { "pipe" } else { "file" };
            let done = world.run_artist(&["--capture", capture], args).run();
            done.assert_code(0);
            let run = world.only_run();
            assert_same(&done.stdout, expected, "standard output");
            assert_same(&run.log(), expected, "the log");
            let record = run.run_json();
            assert_eq!(capture_of(&record), capture);
            let told = (&record["log"]["bytes"], &record["log"]["dropped_bytes"]);
            assert_eq!(told, (&expected.len().into(), &0.into()), "{record:#}");
        }
    }
}

#[test]
fn a_script_that_reopens_its_streams_loses_nothing() {
    // `> /dev/stderr` truncates what it opens, which does no harm to a pipe.
    let world = World::new();
    let script = "echo one; echo two > /dev/stderr; echo three; echo four >> /dev/stdout; echo five";
    let done = world.bookend(["run", "--", "sh", "-c", script]).run();
    assert_eq!(done.assert_code(0).out(), "one\nthree\nfour\nfive\n");
    assert_eq!(command_part(&done.stderr), b"two\n");
    assert_eq!(world.only_run().log().len(), 24);
}

// ---- live -----------------------------------------------------------------------------------------------------------

/// Many at once, because what wakes the echo and what it then sees are two things.
#[test]
fn a_line_is_shown_while_the_command_goes_on() {
    thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                for round in 0..6 {
                    let world = World::new();
                    let call =
                        world.bookend(["run", "--stdin", "--", "sh", "-c", "echo ready; read x; echo over"]);
                    let [pipes, file] = both_ways(&call.open_input().limit(LIVE + SOON));
                    let mut running = if (worker + round) % 2 == 0 { pipes } else { file }.spawn();
                    let run = world.wait_for_run();
                    eventually(SOON, "line in the log", || (run.log() == b"ready\n").then_some(()));
                    eventually(LIVE, "line on the stream", || {
                        String::from_utf8_lossy(&running.stdout()).contains("ready\n").then_some(())
                    });
                    running.send(b"\n");
                    running.wait_stdout("over\n");
                    running.wait().assert_code(0);
                }
            });
        }
    });
}

#[test]
fn a_line_is_shown_on_a_terminal_while_the_command_goes_on() {
    let world = World::new();
    let mut shown = Terminal::open(&world.run_artist(&[], &["drip", "100", "50"]));
    for n in 1..=3 {
        shown.wait_for_within(&format!("drip {n}\r\n"), LIVE * 5);
    }
    assert!(!world.only_run().is_sealed());
    shown.send("\x03");
    shown.wait().assert_signal(Signal::SIGINT);
}

#[test]
fn a_reader_that_does_not_read_slows_nothing_down_and_gets_everything() {
    for capture in ["pipe", "file"] {
        let world = World::new();
        let call = world.run_artist(&["--capture", capture], &["gen", "50000000"]).output(Output::Unread);
        let mut running = call.spawn();
        // The command has ended and its record is whole before a single byte is read.
        let record = world.wait_for_run().wait_sealed(SOON);
        assert_eq!((&record["status"], &record["log"]["bytes"]), (&"completed".into(), &50_000_000.into()));
        let mut pipes = running.take_pipes();
        let mut stderr = pipes.pop().expect("standard error");
        let errors = thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
        let mut seen = Vec::new();
        pipes.pop().expect("standard output").read_to_end(&mut seen).expect("the output");
        running.wait().assert_code(0);
        errors.join().expect("a reader of standard error").expect("standard error");
        assert_same(&seen, &generated(0, 50_000_000), capture);
    }
}

#[test]
fn a_signal_is_obeyed_while_nobody_reads() {
    for capture in ["pipe", "file"] {
        let world = World::new();
        let script = format!("{} gen 5000000; exec sleep 60", artist().display());
        let call =
            world.bookend(["run", "--capture", capture, "--", "sh", "-c", &script]).output(Output::Unread);
        let running = call.spawn();
        let run = world.wait_for_run();
        eventually(SOON, "output in the log", || (run.log().len() == 5_000_000).then_some(()));
        running.signal(Signal::SIGTERM);
        let record = run.wait_sealed(LIVE * 2);
        assert_eq!(record["exit_reason"], "terminated", "{record:#}");
        // Whoever does not read must not keep a bookend alive that was told to end.
        running.wait_within(LIVE * 3).assert_signal(Signal::SIGTERM);
    }
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_run() {
    for capture in ["pipe", "file"] {
        let world = World::new();
        let call = world.run_artist(&["--capture", capture], &["drip", "20", "10"]).output(Output::Unread);
        let mut running = call.spawn();
        drop(running.take_pipes());
        running.wait().assert_code(0);
        let run = world.only_run();
        assert_eq!(run.run_json()["status"], "completed");
        assert!(run.log().ends_with(b"drip 20\n"));
    }
}

// ---- what the command inherits --------------------------------------------------------------------------------------

#[test]
fn standard_input_is_nothing_unless_it_is_asked_for() {
    let world = World::new();
    let done = world.run_artist(&[], &["echo-stdin"]).input("unwanted").run();
    assert_eq!(done.assert_code(0).out(), "");
    assert_eq!(world.only_run().run_json()["command"]["stdin"], "null");
}

#[test]
fn a_pipe_is_passed_byte_for_byte() {
    let world = World::new();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let done = world.run_artist(&["--stdin"], &["echo-stdin"]).input(bytes.clone()).run();
    done.assert_code(0);
    assert_same(&done.stdout, &bytes, "what went through");
    assert_eq!(world.only_run().run_json()["command"]["stdin"], "inherit");
}

#[test]
fn the_command_inherits_three_descriptors_whatever_leaked_into_bookend() {
    for flags in [&["--capture", "pipe"][..], &["--capture", "file"], &["--tty"]] {
        let world = World::new();
        let leaks = ["open=3", "open=9", "open=200"];
        let done = world.run_artist(flags, &["fds"]).inheriting(&leaks).run();
        let out = done.assert_code(0).out();
        let numbers: Vec<_> = out.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(numbers, ["0", "1", "2"], "{flags:?}: {out}");
    }
}

#[test]
fn closed_standard_streams_are_no_trouble() {
    for closed in [&["close=0"][..], &["close=1"], &["close=2"], &["close=0", "close=1", "close=2"]] {
        let world = World::new();
        world.run_artist(&["--stdin"], &["fds"]).inheriting(closed).run().assert_code(0);
        let log = String::from_utf8_lossy(&world.only_run().log()).into_owned();
        let numbers: Vec<_> = log.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(numbers, ["0", "1", "2"], "{closed:?}: {log}");
    }
}

#[test]
fn the_environment_has_the_runs_id_and_what_was_set() {
    let world = World::new();
    let odd = OsString::from_vec(b"ODD=\xff\xfe".to_vec());
    let call = world.bookend(["run", "-e", "A=b=c", "--env", "LANG=", "-e", "BOOKEND_RUN_ID=forged", "-e"]);
    let done = call.arg(odd).arg("--").arg(artist()).arg("env").env("KEPT", "yes").run();
    done.assert_code(0);
    let run = world.only_run();
    let has = |line: &[u8]| done.stdout.split(|&b| b == b'\n').filter(|l| *l == line).count();
    for line in [&b"A=b=c"[..], b"LANG=", b"ODD=\xff\xfe", b"KEPT=yes"] {
        assert_eq!(has(line), 1, "{:?} in {done:?}", String::from_utf8_lossy(line));
    }
    assert_eq!(has(format!("BOOKEND_RUN_ID={}", run.id()).as_bytes()), 1, "{done:?}");
    assert_eq!(done.out().matches("BOOKEND_RUN_ID=").count(), 1);
    let names: Vec<_> = run.run_json()["command"]["env_names"].as_array().expect("names").clone();
    assert!(names.contains(&"A".into()), "{names:?}");
    assert!(!run.text("run.json").contains("b=c"), "values are never stored");
}

#[test]
fn masks_and_dispositions_are_the_usual_ones() {
    let world = World::new();
    let odd = ["umask=027", "ignore=CHLD", "ignore=PIPE", "block=TERM", "block=USR1"];
    let done = world.run_artist(&[], &["mask"]).inheriting(&odd).run();
    let out = done.assert_code(0).out();
    for (name, value) in [("SigBlk", "0"), ("SigIgn", "0"), ("SigCgt", "0"), ("Umask", "27")] {
        let line = out.lines().find(|line| line.starts_with(name)).expect("a line of the status");
        let found = line.split(':').nth(1).expect("a value").trim().trim_start_matches('0');
        assert_eq!(found, value.trim_start_matches('0'), "{line}");
    }
    let run = world.only_run();
    for file in run.files() {
        let mode = fs::metadata(run.path.join(&file)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{file}");
    }
    // What the caller ignores on purpose stays ignored, as under nohup.
    let world = World::new();
    let out = world.run_artist(&[], &["mask"]).inheriting(&["ignore=HUP"]).run().out();
    assert!(out.contains("SigIgn:\t0000000000000001"), "{out}");
}

// ---- the limit of the log -------------------------------------------------------------------------------------------

/// The most disk blocks that the log had while the command ran, in bytes.
fn watch_blocks(run: &RunDir) -> u64 {
    let mut most = 0;
    eventually(SOON * 3, "record", || {
        let blocks = fs::metadata(run.path.join("harness.log")).map_or(0, |found| found.blocks() * 512);
        most = most.max(blocks);
        run.is_sealed().then_some(())
    });
    most
}

/// Asserts that what was kept and what was dropped are all that was written, and that the kept parts are right.
fn assert_trimmed(run: &RunDir, written: u64, limit: u64) -> (u64, u64) {
    let record = run.run_json();
    let log = &record["log"];
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("a number: {record:#}"));
    let (offset, bytes) = (number(&log["gap"]["offset"]), number(&log["gap"]["bytes"]));
    assert_eq!((number(&log["bytes"]), number(&log["dropped_bytes"])), (written, bytes), "{record:#}");
    assert!(written - bytes <= limit + MIB / 4, "kept {} of at most {limit}", written - bytes);
    assert!(offset > 0 && offset + bytes < written, "head and tail are kept: {record:#}");
    let kept = run.log();
    assert_eq!(kept.len() as u64, written);
    assert_same(&kept[..offset as usize], &generated(0, offset), "the head");
    let end = offset + bytes;
    assert_same(&kept[end as usize..], &generated(end, written), "the tail");
    let blocks = fs::metadata(run.path.join("harness.log")).expect("the log").blocks() * 512;
    assert!(blocks <= limit + MIB / 2, "{blocks} bytes of disk for a limit of {limit}");
    (offset, end)
}

#[test]
fn a_log_keeps_its_head_and_tail_and_the_disk_stays_bounded() {
    const WRITTEN: u64 = 768 * MIB;
    for capture in ["pipe", "file"] {
        let mut world = World::new();
        let Some(disk) = world.tmpfs(192 * MIB, 1000) else { return };
        world.set_store(&disk.path.join("store"));
        let flags = ["--quiet", "--log-max", "2MiB", "--capture", capture];
        let running = world.run_artist(&flags, &["gen", &WRITTEN.to_string()]).spawn();
        let run = world.wait_for_run();
        let most = watch_blocks(&run);
        running.wait().assert_code(0);
        let (head, tail) = assert_trimmed(&run, WRITTEN, 2 * MIB);
        assert!(most < 96 * MIB, "{capture}: the log had {most} bytes on disk for a while");
        assert_logs(&world, head, tail, WRITTEN);
        assert_eq!(run.run_json()["degraded"], Value::Null);
    }
}

/// Asserts that `logs` prints the two parts, and says what is missing between them.
fn assert_logs(world: &World, head: u64, tail: u64, written: u64) {
    let printed: Finished = world.bookend(["logs", "latest"]).run();
    // The cut line of the head is ended, and what is left of the tail's first line is passed over.
    let (mut before, after) = (generated(0, head), generated(tail, written));
    if before.last() != Some(&b'\n') {
        before.push(b'\n');
    }
    let cut = after.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1);
    let expected = [before, after[cut..].to_vec()].concat();
    assert_same(&printed.assert_code(0).stdout, &expected, "logs");
    let missing = tail - head + cut as u64;
    assert!(printed.err().contains(&format!("{missing} bytes")), "{printed:?}");
}

#[test]
fn a_living_log_that_was_trimmed_is_printed_without_its_hole() {
    for capture in ["pipe", "file"] {
        let world = World::new();
        let script = format!("{} gen {}; echo ready; read x", artist().display(), 64 * MIB);
        let flags = [
            "run",
            "--quiet",
            "--stdin",
            "--log-max",
            "1MiB",
            "--capture",
            capture,
            "--",
            "sh",
            "-c",
            &script,
        ];
        let mut running = world.bookend(flags).open_input().spawn();
        let run = world.wait_for_run();
        let log = run.path.join("harness.log");
        eventually(SOON, "hole in the log", || {
            let found = fs::metadata(&log).ok()?;
            (found.len() == 64 * MIB + 6 && found.blocks() * 512 < 2 * MIB).then_some(())
        });
        let printed = world.bookend(["logs", "latest"]).run();
        printed.assert_code(0);
        assert!(!printed.stdout.contains(&0), "{capture}: the hole was printed as zeros");
        assert!(printed.stdout.starts_with(&generated(0, 4096)) && printed.stdout.ends_with(b"ready\n"));
        assert!(printed.err().contains("dropped"), "{printed:?}");
        running.send(b"\n");
        running.wait().assert_code(0);
    }
}

#[test]
fn a_log_within_its_limit_has_no_gap() {
    let world = World::new();
    world.run_artist(&["--quiet", "--log-max", "1MiB"], &["gen", "1048576"]).run().assert_code(0);
    let record = world.only_run().run_json();
    assert_eq!(
        (&record["log"]["gap"], &record["log"]["dropped_bytes"]),
        (&Value::Null, &0.into()),
        "{record:#}"
    );
}
