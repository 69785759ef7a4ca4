//! The commands that read runs and steer them: ps, show, logs, wait, kill; and runs that go on by themselves.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::world::{
    Finished, Output, PidNamespace, Process, RunDir, Running, World, artist, assert_follows, eventually, have,
};

const SOON: Duration = Duration::from_secs(10);

/// A run that lives until it is told to end, and says `over` then.
fn lingering(world: &World, flags: &[&str]) -> Running {
    let words = ["--", "sh", "-c", "echo ready; read x; echo over"];
    let call = world.bookend(["run", "--stdin"]).args(flags).args(&words).open_input();
    let running = call.spawn();
    running.wait_ready();
    running
}

/// A run that stays until somebody ends it.
fn staying(world: &World) -> Running {
    let running = world.run_artist(&[], &["linger", "60"]).spawn();
    running.wait_ready();
    running
}

fn short(run: &RunDir) -> String {
    run.id()[16..].to_owned()
}

fn ask(world: &World, words: &[&str]) -> Finished {
    world.bookend(words.iter().copied()).limit(SOON * 2).run()
}

/// Ids that `ps --json` lists.
fn listed(world: &World, words: &[&str]) -> Vec<String> {
    let answer = ask(world, words);
    let runs = answer.assert_code(0).json()["runs"].clone();
    let id = |run: &Value| run["run_id"].as_str().expect("an id").to_owned();
    runs.as_array().expect("a list").iter().map(id).collect()
}

// ---- ps and show ----------------------------------------------------------------------------------------------------

#[test]
fn ps_lists_the_living_and_with_a_all() {
    let world = World::new();
    assert_eq!(ask(&world, &["ps"]).assert_code(0).out().lines().count(), 1, "a heading and nothing else");
    assert_eq!(listed(&world, &["ps", "-a", "--json"]), [""; 0]);
    world.run_artist(&["--quiet"], &["exit", "3"]).run().assert_code(3);
    let over = world.only_run().id();
    let running = lingering(&world, &["--name", "nightly"]);
    let living = world.runs().into_iter().map(|run| run.id()).find(|id| *id != over).expect("a second run");

    assert_eq!(listed(&world, &["ps", "--json"]), [&*living]);
    assert_eq!(listed(&world, &["ps", "-a", "--json"]), [&*living, &*over]);
    assert_eq!(listed(&world, &["ps", "-a", "-n", "1", "--json"]), [&*living]);
    let table = ask(&world, &["ps", "-a"]).assert_code(0).out();
    let rows: Vec<_> = table.lines().skip(1).collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert!(
        rows[0].contains(&living[16..]) && rows[0].contains("Up ") && rows[0].contains("nightly"),
        "{table}"
    );
    assert!(rows[1].contains(&over[16..]) && rows[1].contains("Exited (3)"), "{table}");
    let hint = ask(&world, &["ps"]);
    assert!(hint.assert_code(0).err().contains("1 finished; bookend ps -a"), "{hint:?}");

    drop_input(running).assert_code(0);
    assert_eq!(listed(&world, &["ps", "--json"]), [""; 0]);
}

fn drop_input(mut running: Running) -> Finished {
    running.end_input();
    running.wait()
}

#[test]
fn show_tells_the_same_as_the_record() {
    let world = World::new();
    let running = lingering(&world, &["-l", "team=db"]);
    let run = world.only_run();
    let living = ask(&world, &["show", "latest", "--json"]).assert_code(0).json();
    assert_eq!((&living["status"], &living["labels"]["team"]), (&"running".into(), &"db".into()));
    assert_follows(&world.schema("status"), &living);
    assert!(ask(&world, &["show", "latest"]).assert_code(0).out().contains(&run.id()));
    drop_input(running).assert_code(0);
    assert_eq!(ask(&world, &["show", "latest", "--json"]).assert_code(0).json(), run.run_json());
    let shown = ask(&world, &["show", &short(&run)]);
    let out = shown.assert_code(0).out();
    for text in [&run.id(), "Completed: exited with code 0", "echo ready", "over"] {
        assert!(out.contains(text), "{text:?} is not in\n{out}");
    }
}

// ---- naming a run ---------------------------------------------------------------------------------------------------

#[test]
fn a_run_is_named_in_every_form() {
    let world = World::new();
    world.run_artist(&["--quiet", "--name", "nightly"], &["exit", "7"]).run().assert_code(7);
    let run = world.only_run();
    let (id, path) = (run.id(), run.path.to_string_lossy().into_owned());
    let slashed = format!("{path}/");
    for form in [&*id, &id[..18], &id[..8], &id[16..], &id[16..19], "latest", "nightly", &path, &slashed] {
        ask(&world, &["wait", form]).assert_code(7);
        assert_eq!(ask(&world, &["show", form, "--json"]).assert_code(0).json()["run_id"], id, "{form}");
    }
    for form in ["nothing", "zzzzzz", "../..", "", "/nowhere/else", "20200101"] {
        for command in ["wait", "show", "logs", "kill"] {
            let answer = ask(&world, &[command, form]);
            let told = answer.assert_code(3).err();
            assert!(told.contains("no run is called") && told.contains("hint:"), "{told}");
        }
    }
}

#[test]
fn a_name_for_several_runs_is_refused_with_the_candidates() {
    let world = World::new();
    for _ in 0..2 {
        world.run_artist(&["--quiet", "--name", "twin"], &["exit", "0"]).run().assert_code(0);
    }
    let ids: Vec<_> = world.runs().iter().map(RunDir::id).collect();
    for form in ["twin", "2"] {
        for command in ["wait", "show", "logs", "kill"] {
            let told = ask(&world, &[command, form]).assert_code(4).err();
            assert!(ids.iter().all(|id| told.contains(id.as_str())), "{told}");
        }
    }
}

#[test]
fn without_a_store_there_is_no_run() {
    let world = World::new();
    for command in ["wait", "show", "logs", "kill"] {
        ask(&world, &[command, "latest"]).assert_code(3);
    }
    assert!(!world.store().exists(), "a reader makes no store");
}

// ---- the id where it is wanted --------------------------------------------------------------------------------------

#[test]
fn the_id_is_told_wherever_it_is_asked_for() {
    let world = World::new();
    let file = world.path("id");
    let flags = ["--print-id", "--id-file", &*file.to_string_lossy()];
    let done = world.run_artist(&flags, &["drip", "1", "0"]).run();
    let id = world.only_run().id();
    assert_eq!(done.assert_code(0).out(), format!("{id}\ndrip 1\n"));
    assert_eq!(std::fs::read_to_string(&file).expect("the id's file"), format!("{id}\n"));
    let err = done.err();
    assert!(err.starts_with(&format!("bookend: run {id}\n")) && err.contains("bookend: next: "), "{err}");
}

#[test]
fn json_prints_the_record_in_the_place_of_the_output() {
    let world = World::new();
    let done = world.run_artist(&["--json"], &["drip", "3", "0"]).run();
    assert_eq!(done.assert_code(0).json(), world.only_run().run_json());
    assert!(!done.out().contains("drip 3"));
    assert_eq!(world.only_run().log(), b"drip 1\ndrip 2\ndrip 3\n");
    let failed = world.run_artist(&["--json", "--quiet"], &["exit", "9"]).run();
    assert_eq!(failed.assert_code(9).json()["wrapper_exit_code"], 9);
    assert_eq!(failed.err(), "");
}

// ---- logs -----------------------------------------------------------------------------------------------------------

#[test]
fn logs_prints_what_there_is_and_follows_to_the_last_byte() {
    let world = World::new();
    let running = lingering(&world, &[]);
    assert_eq!(ask(&world, &["logs", "latest"]).assert_code(0).stdout, b"ready\n");
    let followers: Vec<_> =
        (0..4).map(|_| world.bookend(["logs", "-f", "latest"]).limit(SOON).spawn()).collect();
    for follower in &followers {
        follower.wait_ready();
    }
    drop_input(running).assert_code(0);
    for follower in followers {
        assert_eq!(follower.wait().assert_code(0).out(), "ready\nover\n");
    }
    assert_eq!(ask(&world, &["logs", "-f", "latest"]).assert_code(0).stdout, b"ready\nover\n");
}

#[test]
fn logs_follows_a_flood_whole() {
    let world = World::new();
    let script = format!("echo ready; read x; exec {} gen 20000000", artist().display());
    let call = world.bookend(["run", "--quiet", "--stdin", "--", "sh", "-c", &script]).open_input();
    let mut running = call.spawn();
    let run = world.wait_for_run();
    eventually(SOON, "first line", || (run.log() == b"ready\n").then_some(()));
    let follower = world.bookend(["logs", "-f", "latest"]).limit(SOON * 2).spawn();
    follower.wait_ready();
    running.send(b"\n");
    let seen = follower.wait();
    assert!(
        seen.assert_code(0).stdout == run.log() && seen.stdout.len() == 20_000_006,
        "{}",
        seen.stdout.len()
    );
    running.wait().assert_code(0);
}

// ---- wait -----------------------------------------------------------------------------------------------------------

#[test]
fn wait_ends_as_the_run_did() {
    let world = World::new();
    for (args, code) in
        [(["exit", "0"], 0), (["exit", "42"], 42), (["die", "TERM"], 143), (["die", "KILL"], 137)]
    {
        world.run_artist(&["--quiet"], &args).run().assert_code(code);
        ask(&world, &["wait", "latest"]).assert_code(code);
    }
    let running = staying(&world);
    let waiting: Vec<_> = (0..3).map(|_| world.bookend(["wait", "latest", "--json"]).spawn()).collect();
    assert!(waiting.iter().all(|wait| wait.process().is_alive()));
    running.signal(Signal::SIGTERM);
    running.wait().assert_signal(Signal::SIGTERM);
    for wait in waiting {
        let answer = wait.wait_within(SOON);
        assert_eq!(answer.assert_code(143).json()["exit_reason"], "terminated");
    }
}

// ---- kill -----------------------------------------------------------------------------------------------------------

#[test]
fn kill_is_recorded_with_by_whom_and_why() {
    let world = World::new();
    let running = staying(&world);
    let killed = ask(&world, &["kill", "latest", "--reason", "wrong branch"]);
    assert!(killed.assert_code(0).err().contains("stopping run"), "{killed:?}");
    let done = running.wait();
    assert!(done.assert_code(137).err().contains("wrong branch"), "{done:?}");
    let record = world.only_run().run_json();
    assert_eq!(
        (&record["status"], &record["exit_reason"]),
        (&"stopped".into(), &"killed".into()),
        "{record:#}"
    );
    let by = &record["ended_by"];
    assert_eq!((&by["actor"], &by["reason"]), (&"user".into(), &"wrong branch".into()), "{record:#}");
    assert_eq!(by["pid"], std::process::id(), "who called kill: {record:#}");
    assert_eq!(record["forced"], false, "{record:#}");
    // It is over: that is said, and nothing is changed.
    let again = ask(&world, &["kill", "latest"]);
    assert!(again.assert_code(0).err().contains("over already"), "{again:?}");
    assert_eq!(world.only_run().run_json(), record);
    let shown = ask(&world, &["show", "latest"]).assert_code(0).out();
    assert!(shown.contains("wrong branch"), "{shown}");
}

#[test]
fn a_second_kill_forces() {
    let world = World::new();
    let running = world.run_artist(&["--grace", "60s"], &["escape", "signal-proof"]).spawn();
    running.wait_ready();
    ask(&world, &["kill", "latest", "--reason", "first"]).assert_code(0);
    world.only_run().wait_status("stopping");
    ask(&world, &["kill", "latest", "--reason", "second"]).assert_code(0);
    running.wait_within(SOON).assert_code(137);
    let record = world.only_run().run_json();
    assert_eq!((&record["exit_reason"], &record["forced"]), (&"killed".into(), &true.into()), "{record:#}");
    assert_eq!(record["ended_by"]["reason"], "first", "the first cause wins: {record:#}");
    world.assert_no_process_left();
}

#[test]
fn kill_with_force_does_not_wait_for_the_grace() {
    let world = World::new();
    let running = world.run_artist(&["--grace", "60s"], &["escape", "signal-proof"]).spawn();
    running.wait_ready();
    ask(&world, &["kill", "--force", "latest"]).assert_code(0);
    running.wait_within(SOON).assert_code(137);
    let record = world.only_run().run_json();
    assert_eq!((&record["exit_reason"], &record["forced"]), (&"killed".into(), &true.into()), "{record:#}");
    world.assert_no_process_left();
}

#[test]
fn a_signal_without_a_kill_is_nobodys_kill() {
    let world = World::new();
    let running = staying(&world);
    running.signal(Signal::SIGTERM);
    running.wait().assert_signal(Signal::SIGTERM);
    assert_eq!(world.only_run().run_json()["exit_reason"], "terminated");
}

// ---- detached runs --------------------------------------------------------------------------------------------------

/// A run that goes on by itself in a namespace of its own.
struct Detached {
    world: World,
    space: PidNamespace,
    run: RunDir,
}

impl Detached {
    fn start(args: &[&str]) -> Option<Self> {
        if !have("nsenter") {
            return None;
        }
        let world = World::new();
        let space = PidNamespace::open()?;
        let started = space.enter(world.run_artist(&["-d", "--grace", "300ms"], args)).run();
        let run = world.only_run();
        assert_eq!(started.assert_code(0).out(), format!("{}\n", run.id()));
        assert!(!started.held, "the caller's streams are let go");
        run.wait_status("running");
        Some(Self { world, space, run })
    }

    fn ask(&self, words: &[&str]) -> Finished {
        self.space.enter(self.world.bookend(words.iter().copied())).limit(SOON * 2).run()
    }

    fn bookend(&self, pid: &str, start_time: &str) -> Option<Process> {
        let owner = self.run.status_json()["owner"].clone();
        let pid = i32::try_from(owner[pid].as_i64()?).ok()?;
        self.space.outside(Process { pid, start_time: owner[start_time].as_u64()? })
    }

    fn keeper(&self) -> Option<Process> {
        self.bookend("pid", "start_time")
    }

    fn front(&self) -> Option<Process> {
        self.bookend("front_pid", "front_start_time")
    }

    /// Kills one bookend and waits until there are two again.
    fn kill_one(&self, which: Process) {
        assert!(which.signal(Signal::SIGKILL));
        which.wait_gone(SOON);
        eventually(SOON, "two bookends again", || {
            let (keeper, front) = (self.keeper()?, self.front()?);
            (keeper != which && front != which).then_some(())
        });
        assert!(!self.run.is_sealed(), "the run goes on");
    }
}

#[test]
fn a_detached_run_is_told_by_its_id_and_runs_to_its_end() {
    let world = World::new();
    let started = world.run_artist(&["-d"], &["drip", "3", "10"]).run();
    let run = world.only_run();
    assert_eq!(started.assert_code(0).out(), format!("{}\n", run.id()));
    assert!(started.err().contains("bookend: next: bookend logs -f"), "{started:?}");
    ask(&world, &["wait", "latest"]).assert_code(0);
    let record = run.run_json();
    assert_eq!((&record["status"], &record["author"]), (&"completed".into(), &"keeper".into()));
    assert_eq!(run.log(), b"drip 1\ndrip 2\ndrip 3\n");
    world.assert_no_process_left();
}

#[test]
fn a_detached_run_outlives_either_bookend_again_and_again() {
    for first_front in [true, false] {
        let file = "counts";
        let Some(run) = Detached::start(&["count-signals", file, "int=9"]) else { return };
        for round in 0..4 {
            let front = (round % 2 == 0) == first_front;
            run.kill_one(if front { run.front() } else { run.keeper() }.expect("a bookend that lives"));
        }
        assert_eq!(run.run.status_json()["status"], "running");
        let listed = run.ask(&["ps", "--json"]).assert_code(0).json();
        assert_eq!(
            (&listed["runs"][0]["status"], &listed["runs"][0]["orphaned"]),
            (&"running".into(), &Value::Null)
        );
        run.ask(&["kill", "latest", "--reason", "enough"]).assert_code(0);
        let record = run.run.wait_sealed(SOON);
        assert_eq!(
            (&record["exit_reason"], &record["ended_by"]["reason"]),
            (&"killed".into(), &"enough".into())
        );
        run.ask(&["wait", "latest"]).assert_code(137);
        for (_, process) in run.space.processes() {
            process.wait_gone(SOON);
        }
        let counted = std::fs::read_to_string(run.world.path("work").join(file)).expect("the signals");
        assert_eq!(counted, "SIGTERM\n", "the death of a bookend is no signal for the command");
    }
}

#[test]
fn a_detached_run_whose_bookend_was_replaced_tells_its_own_end() {
    for front in [true, false] {
        let Some(run) = Detached::start(&["drip", "4", "400"]) else { return };
        run.kill_one(if front { run.front() } else { run.keeper() }.expect("a bookend that lives"));
        let record = run.run.wait_sealed(SOON);
        let told = (&record["status"], &record["exit_reason"], &record["exit"]["code"]);
        assert_eq!(
            told,
            (&"completed".into(), &"exited".into(), &0.into()),
            "front killed: {front}\n{record:#}"
        );
        assert_eq!(run.run.log(), b"drip 1\ndrip 2\ndrip 3\ndrip 4\n");
        assert_follows(&run.world.schema("run"), &record);
    }
}

#[test]
fn a_detached_run_without_bookends_is_orphaned_until_it_is_killed() {
    let Some(run) = Detached::start(&["linger", "60"]) else { return };
    let bookends = [run.keeper(), run.front()].map(|bookend| bookend.expect("a bookend that lives"));
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        assert!(bookends.iter().all(|bookend| bookend.signal(signal)));
    }
    for bookend in &bookends {
        bookend.wait_gone(SOON);
    }
    let listed = run.ask(&["ps", "--json"]).assert_code(0).json();
    assert_eq!(listed["runs"][0]["orphaned"], true, "{listed:#}");
    assert!(run.ask(&["ps"]).assert_code(0).out().contains("Orphaned"));
    run.ask(&["kill", "latest"]).assert_code(0);
    let record = run.run.run_json();
    assert_eq!(
        (&record["exit_reason"], &record["author"]),
        (&"killed".into(), &"reader".into()),
        "{record:#}"
    );
    run.ask(&["wait", "latest"]).assert_code(137);
    assert!(run.space.processes().is_empty(), "{:?}", run.space.processes());
}

// ---- readers that are not read --------------------------------------------------------------------------------------

#[test]
fn a_closed_pipe_ends_a_reader_quietly() {
    let world = World::new();
    world.run_artist(&["--quiet"], &["gen", "1000000"]).run().assert_code(0);
    for words in [
        &["ps", "-a"][..],
        &["ps", "--json"],
        &["show", "latest"],
        &["show", "latest", "--json"],
        &["logs", "latest"],
        &["logs", "-f", "latest"],
        &["wait", "--json", "latest"],
        &["schema"],
        &["--help"],
    ] {
        let mut reader = world.bookend(words.iter().copied()).output(Output::Unread).spawn();
        let mut pipes = reader.take_pipes();
        let mut errors = pipes.pop().expect("standard error");
        drop(pipes);
        let mut told = String::new();
        std::io::Read::read_to_string(&mut errors, &mut told).expect("standard error");
        let done = reader.wait_within(SOON);
        assert!(done.code == Some(0) || done.signal == Some(Signal::SIGPIPE as i32), "{words:?}: {done:?}");
        assert!(!told.contains("panicked") && !told.contains("error"), "{words:?}: {told}");
    }
}

#[test]
fn a_path_names_the_run_it_leads_to_and_no_other() {
    let world = World::new();
    world.bookend(["run", "--quiet", "--", "true"]).run().assert_code(0);
    let run = world.only_run();
    let path = run.path.to_string_lossy().into_owned();
    ask(&world, &["show", &path]).assert_code(0);
    ask(&world, &["show", "."]).assert_code(3);
    world.bookend(["show", "."]).cwd(&run.path).run().assert_code(0);
    let elsewhere = format!("/nonexistent/{}", run.id());
    ask(&world, &["kill", &elsewhere]).assert_code(3);
    ask(&world, &["show", "/nonexistent/2"]).assert_code(3);
}

#[test]
fn what_can_not_be_printed_is_a_failure() {
    let world = World::new();
    world.bookend(["run", "--quiet", "--", "true"]).run().assert_code(0);
    for words in ["ps -a", "ps -a --json", "show latest", "schema", "wait --json latest"] {
        let line = format!("exec {} {words} >/dev/full", env!("CARGO_BIN_EXE_bookend"));
        let done = world.command("/bin/sh", ["-c", &line]).run();
        done.assert_code(1);
        assert!(done.err().contains("writing to standard output"), "{words}: {done:?}");
    }
}
