//! `bookend logs`: what of a log is printed, in which order, with which times, and what a terminal is never shown.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use bookend::model::stream::Stream;
use bookend::model::time::Timestamp;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::world::{
    Finished, Invocation, Output, PidNamespace, Process, RunDir, Running, Terminal, World, artist,
    eventually, have,
};

const SOON: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;

/// Asks for logs, the output piped.
fn logs(world: &World, words: &[&str]) -> Finished {
    world.bookend(["logs"]).args(words).limit(SOON * 2).run()
}

/// Runs a command whose log is these bytes.
fn run_with(world: &World, flags: &[&str], bytes: &[u8]) {
    fs::write(world.path("work/printed"), bytes).expect("a file to print");
    let call = world.bookend(["run", "--quiet"]).args(flags).args(&["--", "cat", "printed"]);
    call.run().assert_code(0);
}

/// A run of a shell script whose every `read x` waits for the test.
struct Steps {
    running: Running,
    run: RunDir,
}

impl Steps {
    fn start(world: &World, flags: &[&str], script: &str) -> Self {
        let before: Vec<String> = world.runs().iter().map(RunDir::id).collect();
        let call = world.bookend(["run", "--quiet", "--stdin"]).args(flags).args(&["--", "sh", "-c", script]);
        let running = call.open_input().spawn();
        let new = || world.runs().into_iter().find(|run| !before.contains(&run.id()));
        let run = eventually(SOON, "another run", new);
        run.wait_status("running");
        Self { running, run }
    }

    /// Lets the script go on, and waits for a text in its log.
    fn step(&mut self, text: &str) {
        self.running.send(b"\n");
        self.wait_logged(text);
    }

    fn wait_logged(&self, text: &str) {
        eventually(SOON, text, || String::from_utf8_lossy(&self.run.log()).contains(text).then_some(()));
    }

    fn end(mut self) -> RunDir {
        self.running.end_input();
        self.running.wait().assert_code(0);
        self.run
    }
}

/// Lets so much time pass that what comes now is of another time than what came before.
fn let_time_pass() {
    let from = Instant::now();
    eventually(SOON, "later time", || (from.elapsed() > Duration::from_millis(20)).then_some(()));
}

/// When bytes at an offset of a log came, as its index says.
fn time_at(run: &RunDir, offset: usize) -> Timestamp {
    let record = if run.is_sealed() { run.run_json() } else { run.status_json() };
    let started = Timestamp::parse(record["started_at"].as_str().expect("a start")).expect("a time stamp");
    let marks = run.marks();
    let mark = marks.iter().rfind(|mark| mark.offset <= offset as u64).expect("a mark");
    Timestamp::from_unix_ms(started.unix_ms() + mark.ms.cast_signed())
}

// ---- which part -----------------------------------------------------------------------------------------------------

#[test]
fn the_last_lines_of_odd_logs_are_printed_as_they_are() {
    let long = [vec![b'x'; 3 << 20], b"\nend\n".to_vec()].concat();
    let cases: [(&[u8], &str, &[u8]); 12] = [
        (b"", "3", b""),
        (b"a\nb\nc", "2", b"b\nc"),
        (b"a\nb\nc\n", "2", b"b\nc\n"),
        (b"a\nb\nc\n", "0", b""),
        (b"a\nb\nc\n", "99", b"a\nb\nc\n"),
        (b"a\nb\nc\n", "all", b"a\nb\nc\n"),
        (b"a\r\nb\r\n", "1", b"b\r\n"),
        (b"a\0b\nc\0\n", "1", b"c\0\n"),
        (b"\n\n\n", "2", b"\n\n"),
        (b"\xff\xfe\n\x1b[31m\xe2\x82", "1", b"\x1b[31m\xe2\x82"),
        (&long, "1", b"end\n"),
        (&long, "2", &long),
    ];
    for capture in ["pipe", "file"] {
        let world = World::new();
        for (printed, count, wanted) in cases {
            run_with(&world, &["--capture", capture], printed);
            for words in [&["latest", "-n", count][..], &["-f", "--tail", count, "latest"]] {
                let found = logs(&world, words);
                assert_eq!(found.assert_code(0).err(), "");
                assert!(found.stdout == wanted, "{capture} -n {count}: {found:?}");
            }
        }
    }
    let world = World::new();
    run_with(&world, &[], b"x\n");
    logs(&world, &["latest", "-n", "many"]).assert_code(2);
    logs(&world, &["latest", "--stdout", "--stderr"]).assert_code(2);
    logs(&world, &["latest", "--since", "yesterday"]).assert_code(2);
    logs(&world, &["latest", "nosuch"]).assert_code(3);
}

#[test]
fn a_stream_is_printed_by_itself_and_only_where_it_is_known() {
    let world = World::new();
    world.run_artist(&["--quiet", "--capture", "pipe"], &["gen", "640000", "both"]).run().assert_code(0);
    let lines = |name: &str| -> Vec<u8> {
        (1..=10_000).flat_map(|n| format!("{name} {n:08} abcdefghijklmnopqr\n").into_bytes()).collect()
    };
    for (flag, name) in [("--stdout", "out"), ("--stderr", "err")] {
        assert!(logs(&world, &[flag, "latest"]).assert_code(0).stdout == lines(name), "{flag}");
        let last = logs(&world, &[flag, "-n", "2", "latest"]).assert_code(0).out();
        assert_eq!(last, format!("{name} 00009999 abcdefghijklmnopqr\n{name} 00010000 abcdefghijklmnopqr\n"));
    }
    for (flags, why) in [
        (&["--capture", "file"][..], "wrote its log itself"),
        (&["--tty"], "--tty"),
        (&["-d"], "nobody needed to know"),
    ] {
        world.run_artist(flags, &["exit", "0"]).run().assert_code(0);
        world.bookend(["wait", "latest"]).run().assert_code(0);
        let refused = logs(&world, &["--stderr", "latest"]);
        assert_eq!(refused.assert_code(1).out(), "");
        assert!(refused.err().contains(why) && refused.err().contains("--capture pipe"), "{refused:?}");
    }
}

#[test]
fn times_are_those_of_the_index() {
    let world = World::new();
    let script = "echo one; read x; echo two >&2; read x; printf 'thr'; read x; echo ee; echo four";
    let mut steps = Steps::start(&world, &["--capture", "pipe"], script);
    steps.wait_logged("one\n");
    for text in ["two\n", "thr", "four\n"] {
        let_time_pass();
        steps.step(text);
    }
    let run = steps.end();
    let log = "one\ntwo\nthree\nfour\n";
    let at = |text: &str| time_at(&run, log.find(text).expect("a part of the log")).to_string();
    let (one, two, three, four) = (at("one"), at("two"), at("thr"), at("four"));
    assert!(one < two && two < three && three <= four, "{:?}", run.marks());
    let lines = format!("{one} one\n{two} two\n{three} three\n{four} four\n");
    assert_eq!(logs(&world, &["-t", "latest"]).assert_code(0).out(), lines);
    assert_eq!(logs(&world, &["-t", "-f", "latest"]).assert_code(0).out(), lines);
    let of = |words: &[&str]| logs(&world, &[words, &["latest"]].concat()).assert_code(0).out();
    assert_eq!(of(&["--since", &two]), "two\nthree\nfour\n");
    assert_eq!(of(&["--since", &two, "-n", "1"]), "four\n");
    assert_eq!(of(&["--since", &three, "--stdout"]), "three\nfour\n");
    assert_eq!(of(&["--until", &two]), "one\ntwo\n");
    assert_eq!(of(&["--until", &two, "-n", "1"]), "two\n");
    assert_eq!(of(&["--since", &two, "--until", &two]), "two\n");
    assert_eq!(of(&["--since", "1h"]), log);
    assert_eq!(
        [of(&["--since", "9000-01-01"]), of(&["--until", "1h"]), of(&["--until", "2001-01-01"])],
        [""; 3]
    );
}

#[test]
fn where_no_times_were_kept_that_is_said_once() {
    let world = World::new();
    run_with(&world, &["--capture", "file"], b"a\nb\n");
    for words in [&["-t"][..], &["--since", "1h"], &["--until", "2001-01-01"], &["-t", "--since", "1h"]] {
        let found = logs(&world, &[words, &["latest"]].concat());
        assert_eq!(found.assert_code(0).out(), "a\nb\n");
        assert_eq!(found.err().lines().count(), 1, "{found:?}");
        assert!(found.err().contains("--capture file"), "{found:?}");
    }
    assert_eq!(logs(&world, &["latest"]).err(), "");
    // A log whose index is gone is a log all the same.
    run_with(&world, &["--capture", "pipe"], b"c\n");
    let run = world.runs().pop().expect("a run");
    fs::remove_file(run.path.join("harness.idx")).expect("an index");
    let found = logs(&world, &["-t", "latest"]);
    assert_eq!(found.assert_code(0).out(), "c\n");
    assert!(found.err().contains("harness.idx"), "{found:?}");
    logs(&world, &["--stdout", "latest"]).assert_code(1);
}

#[test]
fn json_is_one_document_or_an_object_a_line() {
    let world = World::new();
    let script = "printf 'a\\n\\n'; read x; printf '\\302\\233\\377\\033[1m' >&2";
    let mut steps = Steps::start(&world, &["--capture", "pipe"], script);
    steps.wait_logged("a\n\n");
    steps.step("[1m");
    let run = steps.end();
    let (first, last) = (time_at(&run, 0).to_string(), time_at(&run, 3).to_string());
    let lines = json!([
        { "at": first, "stream": "stdout", "text": "a" },
        { "at": first, "stream": "stdout", "text": "" },
        { "at": last, "stream": "stderr", "text": "\u{9b}\u{fffd}\u{1b}[1m" },
    ]);
    let id = run.id();
    let document = logs(&world, &["--json", "latest"]);
    assert_eq!(document.assert_code(0).json(), json!({ "schema": 1, "run_id": id, "lines": lines }));
    assert!(document.out().starts_with("{\"schema\":1,"));
    assert!(!document.out().chars().any(|c| c.is_control() && c != '\n'), "{document:?}");
    let followed = logs(&world, &["--json", "-f", "latest"]).assert_code(0).out();
    let objects: Vec<Value> =
        followed.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    for (object, line) in objects.iter().zip(lines.as_array().expect("lines")) {
        assert_eq!((&object["schema"], &object["run_id"]), (&json!(1), &json!(id)));
        assert_eq!((&object["at"], &object["text"]), (&line["at"], &line["text"]));
    }
    assert_eq!(objects.len(), 3);
    // Long lines come in parts; what is not known is null.
    run_with(&world, &["--capture", "file"], "é".repeat(100_000).as_bytes());
    let other = world.runs().pop().expect("a run").id();
    let document = logs(&world, &["--json", "latest"]).assert_code(0).json();
    let parts = document["lines"].as_array().expect("lines");
    let text: String = parts.iter().filter_map(|part| part["text"].as_str()).collect();
    assert!(text == "é".repeat(100_000) && parts.len() == 4, "{}", parts.len());
    let partial: Vec<&Value> = parts.iter().map(|part| &part["partial"]).collect();
    assert_eq!(partial, [&json!(true), &json!(true), &json!(true), &Value::Null]);
    assert_eq!((&parts[0]["at"], &parts[0]["stream"]), (&Value::Null, &Value::Null));
    let both = logs(&world, &["--json", &id, &other]).assert_code(0).json();
    assert_eq!(both["schema"], 1);
    let ids: Vec<&Value> =
        both["lines"].as_array().expect("lines").iter().map(|line| &line["run_id"]).collect();
    assert_eq!((ids.len(), ids[0], ids[6]), (7, &json!(id), &json!(other)));
    run_with(&world, &[], b"");
    let empty = logs(&world, &["--json", "latest"]).assert_code(0).json();
    assert_eq!(empty["lines"], json!([]));
}

// ---- several runs ---------------------------------------------------------------------------------------------------

#[test]
fn several_runs_are_in_the_order_of_time_and_each_line_says_whose_it_is() {
    let world = World::new();
    let script = |name: &str| format!("echo {name} 1; read x; echo {name} 2 >&2; read x; printf '{name} 3'");
    let mut front = Steps::start(&world, &["--capture", "pipe", "--name", "front"], &script("front"));
    front.wait_logged("front 1\n");
    let_time_pass();
    let mut worker = Steps::start(&world, &["--capture", "pipe", "--name", "worker"], &script("worker"));
    worker.wait_logged("worker 1\n");
    let call = world.bookend(["logs", "-f", "-n", "1", "front", "worker"]).limit(SOON);
    let follower = call.spawn();
    follower.wait_stdout("worker | worker 1\n");
    for (name, n) in [("front", 2), ("worker", 2), ("worker", 3), ("front", 3)] {
        let_time_pass();
        let steps = if name == "front" { &mut front } else { &mut worker };
        steps.step(&format!("{name} {n}"));
        if n == 2 {
            follower.wait_stdout(&format!("{name} 2\n"));
        }
    }
    let shorts =
        [front.end(), worker.end()].map(|run| run.id().rsplit('-').next().unwrap_or_default().to_owned());
    let [one, two, three] = [1, 2, 3].map(|n| move |name: &str| format!("{name:<6} | {name} {n}\n"));
    let merged =
        [one("front"), one("worker"), two("front"), two("worker"), three("worker"), three("front")].concat();
    // What was begun and not ended is shown when its run is over.
    let seen = follower.wait();
    let ends = [three("front") + &three("worker"), three("worker") + &three("front")];
    let begins = [one("front"), one("worker"), two("front"), two("worker")].concat();
    let followed = seen.assert_code(0).out();
    assert!(followed.starts_with(&begins) && ends.iter().any(|end| followed.ends_with(end)), "{seen:?}");
    let found = logs(&world, &["worker", "front"]);
    assert_eq!((found.assert_code(0).out(), found.err()), (merged.clone(), String::new()));
    // Two that share a name are told by their ids; a name can break no column and steer nothing.
    run_with(&world, &["--name", "front"], b"again\n");
    run_with(&world, &["--name", "a\nb\t\x1b[31m"], b"odd\n");
    let odd = world.runs().pop().expect("a run").id();
    let found = logs(&world, &[&shorts[0], "latest", &world.runs()[2].id(), "-n", "1"]).assert_code(0).out();
    assert!(found.contains("a\\nb\\t<1b>[31m | odd\n"), "{found} {odd}");
    assert!(found.contains(&format!("{:<14} | front 3\n", shorts[0])), "{found}");
}

#[test]
fn a_line_that_is_longer_than_memory_allows_keeps_its_one_prefix() {
    let world = World::new();
    run_with(
        &world,
        &["--capture", "file", "--name", "long"],
        &[vec![b'x'; 1 << 20], b"\nend".to_vec()].concat(),
    );
    run_with(&world, &["--capture", "file", "--name", "other"], b"y\n");
    let found = logs(&world, &["long", "other"]).assert_code(0).out();
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!((lines.len(), lines[1], lines[2]), (3, "long  | end", "other | y"));
    assert_eq!(lines[0], format!("long  | {}", "x".repeat(1 << 20)));
    assert!(found.ends_with('\n'));
}

// ---- logs that change while they are followed -----------------------------------------------------------------------

/// Bytes that the notes on standard error say were dropped.
fn told_dropped(done: &Finished) -> u64 {
    let number = |line: &str| line.strip_prefix("bookend: note: ")?.split(' ').next()?.parse::<u64>().ok();
    done.err().lines().filter(|line| line.contains("were dropped here")).filter_map(number).sum()
}

#[test]
fn a_log_that_is_trimmed_while_it_is_followed_is_told_to_the_byte() {
    for capture in ["pipe", "file"] {
        let world = World::new();
        let script = format!("echo ready; read x; exec {} gen {}", artist().display(), 96 * MIB);
        let flags = ["--log-max", "256KiB", "--capture", capture];
        let mut steps = Steps::start(&world, &flags, &script);
        steps.wait_logged("ready");
        // One that is read at once, and one that is not read before all is over.
        let quick = world.bookend(["logs", "-f", "latest"]).limit(SOON * 2).spawn();
        let call = world.bookend(["logs", "-f", "latest"]).output(Output::Unread).limit(SOON * 2);
        let mut slow = call.spawn();
        quick.wait_ready();
        steps.running.send(b"\n");
        let run = steps.end();
        let [stdout, stderr] = [0, 1].map({
            let pipes = slow.take_pipes();
            move |at: usize| {
                let mut bytes = Vec::new();
                (&pipes[at]).read_to_end(&mut bytes).expect("what it printed");
                bytes
            }
        });
        let slow = Finished { stdout, stderr, ..slow.wait() };
        for (who, seen) in [("quick", &quick.wait()), ("slow", &slow), ("late", &logs(&world, &["latest"]))] {
            assert!(
                !seen.assert_code(0).stdout.contains(&0),
                "{capture} {who}: the hole was printed as zeros"
            );
            // A line that is cut by a gap is ended there.
            let gaps = seen.err().lines().filter(|line| line.contains("were dropped here")).count() as u64;
            let all = seen.stdout.len() as u64 + told_dropped(seen);
            let size = run.log().len() as u64;
            assert!((size..=size + gaps).contains(&all), "{capture} {who}: {all} of {size}: {}", seen.err());
            assert!(told_dropped(seen) > 0 || who == "quick", "{capture} {who}: {}", seen.err());
        }
    }
}

/// No form joins what is left of two lines into one that was never printed.
#[test]
fn the_lines_beside_a_gap_are_not_joined() {
    for capture in ["pipe", "file"] {
        let world = World::new();
        let call = world.bookend(["run", "--quiet", "--log-max", "64KiB", "--capture", capture]);
        call.args(&["--", "seq", "10001", "99999"]).run().assert_code(0);
        let id = world.only_run().id();
        let check = |text: &str, what: &str| {
            let lines: Vec<&str> = text.lines().collect();
            let number = |line: &str| line.len() == 5 && line.parse::<u32>().is_ok();
            let odd: Vec<usize> = (0..lines.len()).filter(|&at| !number(lines[at])).collect();
            // Only the last line of the head may have lost its end.
            assert!(odd.len() <= 1, "{capture} {what}: {odd:?}");
            for &at in &odd {
                let whole = (lines[at - 1].parse::<u32>().expect("a number") + 1).to_string();
                assert!(whole.starts_with(lines[at]), "{capture} {what}: {}", lines[at]);
            }
            assert!(lines.ends_with(&["99998", "99999"]), "{capture} {what}");
        };
        for words in [&[][..], &["-f"], &["-n", "11200"]] {
            let found = logs(&world, &[words, &["latest"]].concat());
            assert!(told_dropped(&found) > 400_000, "{found:?}");
            check(&found.assert_code(0).out(), &words.join(" "));
        }
        let document = logs(&world, &["--json", "latest"]).assert_code(0).json();
        let lines = document["lines"].as_array().expect("lines");
        let texts: Vec<&str> = lines.iter().filter_map(|line| line["text"].as_str()).collect();
        check(&texts.join("\n"), "--json");
        let gaps: Vec<&Value> = lines.iter().filter(|line| line.get("gap_bytes").is_some()).collect();
        assert_eq!((gaps.len(), texts.len() + 1), (1, lines.len()));
        assert!(gaps[0]["gap_bytes"].as_u64() > Some(400_000), "{gaps:?}");
        let followed = logs(&world, &["--json", "-f", "latest"]).assert_code(0).out();
        let gap = format!("{{\"schema\":1,\"run_id\":\"{id}\",\"gap_bytes\":{}}}", gaps[0]["gap_bytes"]);
        assert!(followed.lines().any(|line| line == gap), "{gap}");
    }
}

#[test]
fn a_log_that_its_command_truncates_is_followed_on() {
    let world = World::new();
    let script = "echo a first line; read x; echo two > /dev/stderr; read x; echo three";
    let mut steps = Steps::start(&world, &["--capture", "file"], script);
    steps.wait_logged("line\n");
    let follower = world.bookend(["logs", "-f", "latest"]).limit(SOON).spawn();
    follower.wait_stdout("line\n");
    steps.step("two\n");
    follower.wait_stdout("two\n");
    steps.step("three\n");
    steps.end();
    let seen = follower.wait();
    assert_eq!(seen.assert_code(0).out(), "a first line\ntwo\nthree\n");
    assert_eq!(seen.err().lines().count(), 1, "{seen:?}");
    assert!(seen.err().contains("truncated"), "{seen:?}");
    assert_eq!(logs(&world, &["latest"]).assert_code(0).out(), "two\nthree\n");
}

#[test]
fn a_log_that_is_removed_is_said_to_be() {
    let world = World::new();
    run_with(&world, &[], b"kept\n");
    let steps = Steps::start(&world, &["--capture", "pipe"], "echo ready; read x; echo more; read x; true");
    steps.wait_logged("ready\n");
    let follower = world.bookend(["logs", "-f", "latest"]).limit(SOON).spawn();
    follower.wait_ready();
    for name in ["harness.log", "harness.idx"] {
        fs::remove_file(steps.run.path.join(name)).expect("a file of the run");
    }
    let seen = follower.wait();
    assert!(seen.assert_code(1).err().contains("the log was removed"), "{seen:?}");
    let refused = logs(&world, &["latest"]);
    assert!(refused.assert_code(1).err().contains("nothing says who removed it"), "{refused:?}");
    // The others are printed all the same.
    let kept = world.runs()[0].id();
    let found = logs(&world, &["latest", &kept]);
    assert_eq!(found.assert_code(1).out().split_once(" | ").map(|line| line.1), Some("kept\n"));
    steps.end();
    let mut steps =
        Steps::start(&world, &["--capture", "pipe"], "echo ready; read x; echo more; read x; true");
    steps.wait_logged("ready\n");
    let follower = world.bookend(["logs", "-f", "latest"]).limit(SOON).spawn();
    follower.wait_ready();
    fs::remove_dir_all(&steps.run.path).expect("a run directory");
    let seen = follower.wait();
    assert!(seen.assert_code(1).err().contains("the run was removed"), "{seen:?}");
    steps.running.end_input();
    steps.running.wait();
}

#[test]
fn a_follower_ends_when_nobody_reads_it() {
    let world = World::new();
    let steps = Steps::start(&world, &[], "echo ready; read x; true");
    let mut follower = world.bookend(["logs", "-f", "latest"]).output(Output::Unread).limit(SOON).spawn();
    let pipes = follower.take_pipes();
    let mut ready = [0; 6];
    (&pipes[0]).read_exact(&mut ready).expect("the first line");
    drop(pipes);
    assert!(follower.wait_within(SOON).code == Some(0));
    steps.end();
}

// ---- killed bookends ------------------------------------------------------------------------------------------------

/// A detached run in a PID namespace, and the call of bookend in there.
struct Doomed {
    world: World,
    space: PidNamespace,
    run: RunDir,
}

impl Doomed {
    fn start(flags: &[&str], script: &str) -> Option<Self> {
        if !have("nsenter") {
            return None;
        }
        let world = World::new();
        let space = PidNamespace::open()?;
        let call = world.bookend(["run", "-d"]).args(flags).args(&["--", "sh", "-c", script]);
        space.enter(call).run().assert_code(0);
        let run = world.only_run();
        Some(Self { world, space, run })
    }

    fn call(&self, words: &[&str]) -> Invocation {
        self.space.enter(self.world.bookend(["logs"]).args(words)).limit(SOON)
    }

    /// Both bookends, and with `all` everything else in the namespace.
    fn doomed(&self, all: bool) -> Vec<Process> {
        let record = self.run.status_json();
        let owners = ["pid", "front_pid"].map(|pid| record["owner"][pid].as_i64());
        let mut doomed = self.space.processes();
        doomed.retain(|(inside, _)| all || owners.contains(&Some(inside.pid.into())));
        doomed.into_iter().map(|(_, process)| process).collect()
    }
}

/// Kills processes as if at one moment.
fn kill(doomed: &[Process]) {
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for process in doomed {
            process.signal(signal);
        }
    }
    for process in doomed {
        process.wait_gone(SOON);
    }
}

#[test]
fn both_bookends_killed_the_last_part_keeps_its_stream() {
    let Some(run) = Doomed::start(&["--capture", "pipe"], "echo out; echo err >&2; exec sleep 60") else {
        return;
    };
    eventually(SOON, "both lines", || (run.run.log().len() == 8).then_some(()));
    let follower = run.call(&["-f", "latest"]).spawn();
    follower.wait_stdout("err\n");
    kill(&run.doomed(false));
    let marks: Vec<_> = run.run.marks().iter().map(|mark| (mark.stream, mark.offset)).collect();
    let log = String::from_utf8(run.run.log()).expect("text");
    let err_at = log.find("err").expect("a line") as u64;
    assert!(marks.contains(&(Stream::Err, err_at)), "{marks:?} {log}");
    // It is orphaned: it can be read by stream and is followed on.
    assert_eq!(run.call(&["--stderr", "latest"]).run().assert_code(0).out(), "err\n");
    assert_eq!(run.call(&["--stdout", "latest"]).run().assert_code(0).out(), "out\n");
    assert!(!run.run.is_sealed());
    run.space.enter(run.world.bookend(["kill", "latest"])).run().assert_code(0);
    assert_eq!(follower.wait().assert_code(0).out(), log);
    assert_eq!(run.call(&["--stderr", "latest"]).run().assert_code(0).out(), "err\n");
}

#[test]
fn a_lost_run_says_what_was_dropped_from_its_log() {
    let script = format!("exec {} gen {}", artist().display(), MIB << 20);
    let Some(run) = Doomed::start(&["--log-max", "256KiB", "--capture", "pipe"], &script) else { return };
    let log = run.run.path.join("harness.log");
    // All are killed in the midst of it, when nobody had the time to say what was dropped last.
    eventually(SOON, "flood", || (fs::metadata(&log).ok()?.len() > 64 * MIB).then_some(()));
    let doomed = run.doomed(true);
    let follower = run.call(&["-f", "-n", "5", "latest"]).spawn();
    kill(&doomed);
    let seen = follower.wait();
    assert!(!seen.assert_code(0).stdout.contains(&0), "the hole was printed as zeros");
    let size = fs::metadata(&log).expect("a log").len();
    let record = run.run.run_json();
    assert_eq!((&record["status"], &record["log"]["bytes"]), (&"lost".into(), &size.into()));
    let gap = record["log"]["gap"]["bytes"].as_u64().expect("a gap");
    assert!(size - gap < 4 * MIB && record["log"]["dropped_bytes"] == gap, "{record:#}");
    let seen = run.call(&["latest"]).run();
    assert!(!seen.assert_code(0).stdout.contains(&0), "the hole was printed as zeros");
    // What is left of the line after the gap is missing too, and the one before it is ended.
    let (printed, told) = (seen.stdout.len() as u64, told_dropped(&seen));
    assert!((gap..gap + 200).contains(&told), "{told} of {gap}: {}", seen.err());
    assert!((size - told..=size - told + 1).contains(&printed), "{printed} of {size}: {}", seen.err());
}

// ---- terminals ------------------------------------------------------------------------------------------------------

/// What a terminal was made to do beside showing text.
#[derive(Debug, Default, PartialEq)]
struct Deeds(Vec<String>);

impl vt100::Callbacks for Deeds {
    fn audible_bell(&mut self, _: &mut vt100::Screen) {
        self.0.push("bell".to_owned());
    }
    fn set_window_title(&mut self, _: &mut vt100::Screen, title: &[u8]) {
        self.0.push(format!("title {}", String::from_utf8_lossy(title)));
    }
    fn set_window_icon_name(&mut self, _: &mut vt100::Screen, name: &[u8]) {
        self.0.push(format!("icon {}", String::from_utf8_lossy(name)));
    }
    fn copy_to_clipboard(&mut self, _: &mut vt100::Screen, _: &[u8], data: &[u8]) {
        self.0.push(format!("clipboard {}", String::from_utf8_lossy(data)));
    }
    fn unhandled_control(&mut self, _: &mut vt100::Screen, byte: u8) {
        self.0.push(format!("control {byte:#x}"));
    }
    fn unhandled_char(&mut self, _: &mut vt100::Screen, c: char) {
        // It is told of a replacement character as well, which it shows like any other.
        if c != '\u{fffd}' {
            self.0.push(format!("character {c:?}"));
        }
    }
    fn unhandled_escape(&mut self, _: &mut vt100::Screen, _: Option<u8>, _: Option<u8>, byte: u8) {
        self.0.push(format!("escape {byte:#x}"));
    }
    fn unhandled_csi(&mut self, _: &mut vt100::Screen, _: Option<u8>, _: Option<u8>, _: &[&[u16]], c: char) {
        self.0.push(format!("sequence {c}"));
    }
    fn unhandled_osc(&mut self, _: &mut vt100::Screen, _: &[&[u8]]) {
        self.0.push("command".to_owned());
    }
}

/// A terminal that was shown these bytes: its text, its state, and what else it did.
fn shown(bytes: &[u8]) -> (String, String, Vec<String>) {
    let size = |n: u16| std::num::NonZeroU16::new(n).expect("a size");
    let mut terminal = vt100::Parser::new_with_callbacks(size(24), size(80), 0, Deeds::default());
    terminal.process(bytes);
    let screen = terminal.screen();
    let state = format!(
        "{} {} {} {} {:?}",
        screen.attributes_formatted(),
        screen.input_mode_formatted(),
        screen.alternate_screen(),
        screen.hide_cursor(),
        screen.cursor_style()
    );
    (screen.contents(), state, terminal.callbacks().0.clone())
}

/// What a program can print to take over a terminal, a line each.
const HOSTILE: &[u8] = b"title \x1b]0;owned\x07end\n\
    clipboard \x1b]52;c;ZXZpbA==\x1b\\end\n\
    colours \x1b[41;5;8mend\n\
    screen \x1b[?1049h\x1b[2J\x1b[H\x1b[?25l\x1b[?2004h\x1b[?1000h\x1b=end\n\
    answers \x1b[c\x1b[6n\x05\x1bP$qm\x1b\\end\n\
    c1 \xc2\x9b31m\xc2\x9d0;owned\xc2\x9cend \x9b5mend\n\
    bell \x07\x07 back \x08\x08\x08 end\x7f\n\
    bidi \xe2\x80\xaeend\xe2\x81\xa6\n\
    shift \x0e\x1b(0end\n\
    size \x1b[8;10;10tend\n\
    half \xe2\x82 end\n\
    done 1%\rdone 100%\r\n\
    open \x1b]0;hides all that follows\n\
    open \x1bPhides all that follows\n\
    the end\n";

#[test]
fn hostile_bytes_leave_a_terminal_as_it_was_and_pipes_get_them_all() {
    let world = World::new();
    run_with(&world, &["--capture", "pipe", "--name", "left"], HOSTILE);
    run_with(&world, &["--name", "right"], b"");
    assert!(logs(&world, &["left"]).assert_code(0).stdout == HOSTILE);
    assert!(logs(&world, &["--raw", "left"]).assert_code(0).stdout == HOSTILE);
    let text = "title end\nclipboard end\ncolours end\nscreen end\nanswers end\nc1 end 5mend\nbell  back  end\n\
        bidi end\nshift end\nsize end\nhalf \u{fffd} end\ndone 1%\ndone 100%\nopen \nopen \nthe end\n";
    let on_terminal = |words: &[&str]| {
        let call = world.bookend(["logs"]).args(words).env("TERM", "xterm-256color").env("NO_COLOR", "1");
        Terminal::open(&call).wait().assert_code(0).out()
    };
    for words in [&["left"][..], &["-f", "left"], &["-n", "99", "left"]] {
        let seen = on_terminal(words);
        assert_eq!(seen, text.replace('\n', "\r\n"), "{words:?}");
        let (_, state, deeds) = shown(seen.as_bytes());
        assert_eq!((state, deeds), (shown(b"").1, Vec::new()), "{words:?}");
    }
    let prefixed: String = text.lines().flat_map(|line| ["left  | ", line, "\r\n"]).collect();
    assert_eq!(on_terminal(&["left", "right"]), prefixed);
    // The same bytes would have done a lot.
    let raw = on_terminal(&["--raw", "left"]);
    let (_, state, deeds) = shown(raw.as_bytes());
    assert!(state != shown(b"").1 && deeds.len() > 5, "{state:?} {deeds:?}");
    for words in [&["show", "left"][..], &["ps", "-a"]] {
        let call = world.bookend(words.iter().copied()).env("NO_COLOR", "1");
        let (_, state, deeds) = shown(&Terminal::open(&call).wait().assert_code(0).stdout);
        assert_eq!((state, deeds), (shown(b"").1, Vec::new()), "{words:?}");
    }
}

#[test]
fn on_a_terminal_a_progress_bar_is_not_run_into_by_the_other_stream() {
    let world = World::new();
    let script =
        "printf 'at 1%%\\r' >&2; read x; echo a line; read x; printf 'at 2%%\\r' >&2; read x; echo over";
    let mut steps = Steps::start(&world, &["--capture", "pipe", "--name", "left"], script);
    steps.wait_logged("1%\r");
    for text in ["a line\n", "2%\r", "over\n"] {
        steps.step(text);
    }
    steps.end();
    let seen = Terminal::open(&world.bookend(["logs", "left"])).wait().out();
    assert_eq!(seen, "at 1%\r\na line\r\nat 2%\r\nover\r\n");
}

#[test]
fn runs_have_colours_on_a_terminal_that_wants_them() {
    let world = World::new();
    run_with(&world, &["--name", "left"], b"x\n");
    run_with(&world, &["--name", "right"], b"y\n");
    let call = || world.bookend(["logs", "left", "right"]).env("TERM", "xterm");
    let seen = Terminal::open(&call()).wait().out();
    assert_eq!(seen, "\x1b[36mleft  |\x1b[0m x\r\n\x1b[33mright |\x1b[0m y\r\n");
    assert_eq!(shown(seen.as_bytes()).1, shown(b"").1, "every colour is ended");
    let plain = "left  | x\r\nright | y\r\n";
    assert_eq!(Terminal::open(&call().env("NO_COLOR", "1")).wait().out(), plain);
    assert_eq!(Terminal::open(&call().env("TERM", "dumb")).wait().out(), plain);
    assert_eq!(logs(&world, &["left", "right"]).out(), "left  | x\nright | y\n");
}
