//! Steering runs from outside: waiting for several, stopping several, signals, grace periods, and kills that race with
//! each other and with the end.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::world::{
    Finished, LIMIT, Process, RunDir, Running, Terminal, World, artist, assert_follows, eventually,
};

const SOON: Duration = Duration::from_secs(10);

/// How many rounds a campaign has: few in the default suite.
fn rounds(few: u32) -> u32 {
    match std::env::var("BOOKEND_CAMPAIGN").as_deref() {
        Ok("full") => few * 500,
        Ok(_) => few * 40,
        Err(_) => few,
    }
}

fn ask(world: &World, args: &[&str]) -> Finished {
    world.bookend([""; 0]).args(args).limit(LIMIT).run()
}

/// Starts a detached run and returns its directory.
fn detach(world: &World, flags: &[&str], command: &[&str]) -> RunDir {
    let call = world.bookend(["run", "-d", "-q"]).args(flags).arg("--").args(command);
    let id = call.run().assert_code(0).out().trim().to_owned();
    RunDir { path: world.store().join("runs").join(id) }
}

fn detach_artist(world: &World, flags: &[&str], args: &[&str]) -> RunDir {
    let artist = artist().to_string_lossy().into_owned();
    let run = detach(world, flags, &[&[artist.as_str()], args].concat());
    eventually(SOON, "ready", || run.log().starts_with(b"ready").then_some(()));
    run
}

/// A run that ends with `code` once its gate is there.
fn gated(world: &World, name: &str, code: u8) -> RunDir {
    let gate = world.path(name);
    let script = format!("until [ -e {} ]; do sleep 0.01; done; exit {code}", gate.display());
    detach(world, &["--name", name], &["sh", "-c", &script])
}

fn open_gate(world: &World, name: &str) {
    fs::write(world.path(name), "").expect("an open gate");
}

fn owner(run: &RunDir, pid: &str, start_time: &str) -> Process {
    let owner = &run.status_json()["owner"];
    let pid = i32::try_from(owner[pid].as_i64().expect("a pid")).expect("a pid");
    Process { pid, start_time: owner[start_time].as_u64().expect("a start time") }
}

fn keeper(run: &RunDir) -> Process {
    owner(run, "pid", "start_time")
}

fn intents(run: &RunDir) -> Vec<Value> {
    let text = run.text("kill.jsonl");
    text.lines().filter(|line| !line.is_empty()).map(|l| serde_json::from_str(l).expect("a line")).collect()
}

fn is_paused(run: &RunDir) -> bool {
    run.status_json()["paused_since"].is_string()
}

// ---- wait -----------------------------------------------------------------------------------------------------------

#[test]
fn wait_for_several_ends_with_the_first_failure_as_they_are_named() {
    let world = World::new();
    for (name, code) in [("three", "3"), ("zero", "0"), ("five", "5")] {
        world.run_artist(&["-q", "--name", name], &["exit", code]).run();
    }
    for (names, code) in [
        (&["zero", "five", "three"][..], 5),
        (&["three", "five"], 3),
        (&["zero", "latest", "zero"], 5),
        (&["--all", "zero"], 0),
        (&["--any", "five", "zero", "three"], 3),
    ] {
        ask(&world, &[&["wait"], names].concat()).assert_code(code);
    }
    let answer = ask(&world, &["wait", "--json", "five", "zero"]).assert_code(5).out();
    assert!(answer.starts_with("{\"schema\":1,"), "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("one document");
    let names: Vec<_> = answer["runs"].as_array().expect("runs").iter().map(|r| &r["name"]).collect();
    assert_eq!(names, ["five", "zero"]);
    ask(&world, &["wait", "five", "nobody"]).assert_code(3);
    ask(&world, &["wait"]).assert_code(2);
    ask(&world, &["wait", "--any", "--all", "five"]).assert_code(2);
}

#[test]
fn wait_for_any_ends_with_the_first_and_wait_for_all_with_the_last() {
    let world = World::new();
    let (slow, quick) = (gated(&world, "slow", 7), gated(&world, "quick", 9));
    let any = world.bookend(["wait", "--any", "--json", "slow", "quick"]).spawn();
    let all = world.bookend(["wait", "slow", "quick"]).spawn();
    open_gate(&world, "quick");
    let answer = any.wait_within(SOON);
    assert_eq!(answer.assert_code(9).json()["runs"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer.json()["runs"][0]["run_id"], quick.id());
    assert!(all.process().is_alive() && !slow.is_sealed());
    open_gate(&world, "slow");
    all.wait_within(SOON).assert_code(7);
}

#[test]
fn wait_gives_up_in_time_and_stops_nothing() {
    let world = World::new();
    let run = gated(&world, "long", 0);
    world.run_artist(&["-q", "--name", "short"], &["exit", "4"]).run();
    let answer = ask(&world, &["wait", "--timeout", "200ms", "--json", "short", "long"]);
    let text = answer.assert_code(124).err();
    assert!(text.contains(&format!("not over after 200ms: run {} (Up ", run.id())), "{text}");
    assert!(!text.contains("short"), "{text}");
    let states: Vec<_> =
        answer.json()["runs"].as_array().expect("runs").iter().map(|r| r["status"].clone()).collect();
    assert_eq!(states, ["failed", "running"]);
    let alone = ask(&world, &["wait", "--timeout", "0", "--json", "long"]);
    assert_eq!(alone.assert_code(124).json()["status"], "running");
    ask(&world, &["wait", "--timeout", "1ms", "--any", "short", "long"]).assert_code(4);
    open_gate(&world, "long");
    ask(&world, &["wait", "--timeout", "1m", "long"]).assert_code(0);
}

#[test]
fn wait_sleeps_through_a_flood_of_output() {
    let world = World::new();
    let run = detach(&world, &["--log-max", "1MiB"], &["sh", "-c", "while :; do echo flood; done"]);
    let waiting = world.bookend(["wait", &run.id()]).spawn();
    let process = waiting.process();
    process.wait_state('S');
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).expect("a process");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        fields[11].parse::<u64>().expect("user time") + fields[12].parse::<u64>().expect("system time")
    };
    let (began, before) = (Instant::now(), ticks());
    eventually(SOON, "second", || (began.elapsed() > Duration::from_secs(1)).then_some(()));
    let used = ticks() - before;
    assert!(used <= 5, "{used} hundredths of a second");
    ask(&world, &["stop", "--force", &run.id()]).assert_code(0);
    waiting.wait_within(SOON).assert_code(137);
}

#[test]
fn wait_tells_of_an_end_that_no_bookend_saw() {
    let world = World::new();
    let run = detach_artist(&world, &[], &["linger", "60"]);
    let waiting = world.bookend(["wait", &run.id()]).spawn();
    waiting.process().wait_state('S');
    for process in [keeper(&run), owner(&run, "front_pid", "front_start_time")] {
        process.signal(Signal::SIGSTOP);
    }
    for process in [keeper(&run), owner(&run, "front_pid", "front_start_time")] {
        process.signal(Signal::SIGKILL);
    }
    ask(&world, &["kill", "--force", &run.id()]).assert_code(0);
    waiting.wait_within(SOON).assert_code(137);
}

// ---- kill -----------------------------------------------------------------------------------------------------------

#[test]
fn kill_by_another_signal_than_the_plans() {
    let world = World::new();
    let file = world.path("counts");
    let args = ["count-signals", &file.to_string_lossy(), "int=5"];
    let run = detach_artist(&world, &["--stop-signal", "HUP"], &args);
    let killed = ask(&world, &["kill", "-s", "INT", "--reason", "too slow", &run.id()]);
    assert!(killed.assert_code(0).err().contains("stopping run"), "{killed:?}");
    let record = run.wait_sealed(SOON);
    assert_follows(&world.schema("run"), &record);
    assert_eq!(fs::read_to_string(file).expect("counts"), "SIGINT\n");
    assert_eq!(
        (&record["exit_reason"], &record["exit"]["code"]),
        (&"killed".into(), &5.into()),
        "{record:#}"
    );
    let by = &record["ended_by"];
    assert_eq!((&by["actor"], &by["signal"]), (&"user".into(), &"SIGINT".into()), "{record:#}");
    assert_eq!((&by["reason"], &by["pid"]), (&"too slow".into(), &std::process::id().into()), "{record:#}");
    let me = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    assert_eq!(by["user"].as_str(), me.as_deref(), "{record:#}");
}

#[test]
fn other_signals_are_passed_on_and_stop_nothing() {
    let world = World::new();
    let file = world.path("counts");
    let run = detach_artist(&world, &[], &["count-signals", &file.to_string_lossy()]);
    for name in ["USR1", "SIGUSR2"] {
        let answer = ask(&world, &["kill", "--json", "-s", name, "--reason", "rotate", &run.id()]);
        let done = &answer.assert_code(0).json()["runs"][0];
        assert_eq!((&done["action"], &done["run_id"]), (&"delivered".into(), &run.id().into()), "{answer:?}");
    }
    eventually(SOON, "both", || (fs::read_to_string(&file).ok()? == "SIGUSR1\nSIGUSR2\n").then_some(()));
    assert_eq!(run.status_json()["status"], "running");
    let told: Vec<_> = run.events().into_iter().filter(|e| e["event"] == "signal_delivered").collect();
    assert_eq!(
        (told.len(), &told[0]["signal"], &told[0]["by"]["reason"]),
        (2, &"SIGUSR1".into(), &"rotate".into())
    );
    ask(&world, &["stop", "-s", "USR1", "-t", "100ms", &run.id()]).assert_code(0);
    let record = run.run_json();
    assert_eq!(
        (&record["exit_reason"], &record["exit"]["signal"]),
        (&"killed".into(), &9.into()),
        "{record:#}"
    );
    assert!(
        fs::read_to_string(&file).expect("counts").ends_with("SIGUSR2\nSIGUSR1\n"),
        "asked by its own signal"
    );
}

#[test]
fn a_run_is_paused_and_continued_from_outside() {
    for flags in [&[][..], &["--tty"]] {
        let world = World::new();
        let run = detach_artist(&world, flags, &["linger", "60"]);
        let command = eventually(SOON, "command", || run.process("/command"));
        for _ in 0..3 {
            ask(&world, &["kill", "-s", "STOP", &run.id()]).assert_code(0);
            command.wait_state('T');
            eventually(SOON, "pause", || is_paused(&run).then_some(()));
            assert!(ask(&world, &["ps"]).out().contains("Paused"), "{flags:?}");
            ask(&world, &["kill", "-s", "CONT", &run.id()]).assert_code(0);
            eventually(SOON, "end of the pause", || (!is_paused(&run)).then_some(()));
            assert_ne!(command.state(), Some('T'));
        }
        // A run that is paused can be stopped as any other.
        ask(&world, &["kill", "-s", "STOP", &run.id()]).assert_code(0);
        eventually(SOON, "pause", || is_paused(&run).then_some(()));
        ask(&world, &["stop", &run.id()]).assert_code(0);
        assert_eq!(run.run_json()["exit"]["signal"], 15, "{:#}", run.run_json());
    }
}

#[test]
fn a_run_with_a_terminal_at_which_somebody_sits_is_paused_too() {
    let world = World::new();
    let mut shown = Terminal::open(&world.run_artist(&["--tty"], &["linger", "60"]));
    shown.wait_for("ready");
    let run = world.only_run();
    ask(&world, &["kill", "-s", "STOP", "latest"]).assert_code(0);
    eventually(SOON, "pause", || is_paused(&run).then_some(()));
    assert!(shown.process().state() != Some('T'));
    ask(&world, &["kill", "-s", "CONT", "latest"]).assert_code(0);
    eventually(SOON, "end of the pause", || (!is_paused(&run)).then_some(()));
    ask(&world, &["kill", "--force", "latest"]).assert_code(0);
    shown.wait().assert_code(137);
}

#[test]
fn the_grace_that_is_asked_for_counts() {
    let world = World::new();
    let run = detach_artist(&world, &["--grace", "60s"], &["escape", "signal-proof"]);
    let began = Instant::now();
    ask(&world, &["kill", "-t", "300ms", "--wait", &run.id()]).assert_code(0);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < SOON, "{took:?}");
    let record = run.run_json();
    assert_eq!((&record["exit"]["signal"], &record["forced"]), (&9.into(), &false.into()), "{record:#}");

    let run = detach_artist(&world, &["--grace", "1ms"], &["count-signals", "/dev/null", "term=stay"]);
    ask(&world, &["kill", "-t", "60s", &run.id()]).assert_code(0);
    run.wait_status("stopping");
    let asked = Instant::now();
    eventually(SOON, "while", || (asked.elapsed() > Duration::from_millis(500)).then_some(()));
    assert!(!run.is_sealed(), "it was killed after the grace of its plan");
    ask(&world, &["kill", "--wait", &run.id()]).assert_code(0);
    assert_eq!(run.run_json()["forced"], true);
}

#[test]
fn stop_returns_when_they_are_over() {
    let world = World::new();
    let runs = [(); 3].map(|()| detach_artist(&world, &[], &["linger", "60"]));
    let ids: Vec<String> = runs.iter().map(RunDir::id).collect();
    let call = world.bookend(["stop", "--json", "--reason", "enough"]).args(&ids);
    let answer = call.run();
    answer.assert_code(0);
    assert!(runs.iter().all(RunDir::is_sealed));
    let document = answer.json();
    for (run, told) in runs.iter().zip(document["runs"].as_array().expect("runs")) {
        assert_eq!((&told["run_id"], &told["action"]), (&run.id().into(), &"killed".into()), "{document:#}");
        assert_eq!(run.run_json()["ended_by"]["reason"], "enough");
    }
    let again = call.run();
    assert!(again.assert_code(0).err().matches("is over already").count() == 3, "{again:?}");
    assert!(again.json()["runs"].as_array().expect("runs").iter().all(|told| told["action"] == "over"));
    world.assert_no_process_left();
}

#[test]
fn each_run_is_handled_whatever_happens_to_the_others() {
    let world = World::new();
    let first = detach_artist(&world, &[], &["linger", "60"]);
    let unclear = detach_artist(&world, &[], &["linger", "60"]);
    let last = detach_artist(&world, &[], &["linger", "60"]);
    // Its bookends are said to live in another boot.
    let mut status = unclear.status_json();
    status["owner"]["boot_id"] = "elsewhere".into();
    fs::write(unclear.path.join("status.json"), status.to_string()).expect("a state");
    let answer = ask(&world, &["kill", "--json", &first.id(), &unclear.id(), &last.id()]);
    let actions: Vec<_> = answer.assert_code(1).json()["runs"]
        .as_array()
        .expect("runs")
        .iter()
        .map(|told| told["action"].clone())
        .collect();
    assert_eq!(actions, ["stopping", "failed", "stopping"], "{answer:?}");
    assert!(answer.err().contains("another pid namespace or boot"), "{answer:?}");
    for run in [first, last] {
        assert_eq!(run.wait_sealed(SOON)["exit_reason"], "killed");
    }
    assert!(!unclear.is_sealed() && unclear.read("kill.jsonl").is_none());
}

#[test]
fn who_forced_an_end_is_told_beside_who_asked_for_it() {
    let world = World::new();
    let run = detach_artist(&world, &["--grace", "60s"], &["count-signals", "/dev/null", "term=stay"]);
    let first = ask(&world, &["kill", "--reason", "too slow", &run.id()]);
    assert!(first.assert_code(0).err().contains(&format!("stopping run {}", run.id())), "{first:?}");
    let second = ask(&world, &["kill", "--reason", "no time", &run.id()]);
    assert!(second.assert_code(0).err().contains(&format!("killing run {} now", run.id())), "{second:?}");
    assert_eq!(run.wait_sealed(SOON)["ended_by"]["reason"], "too slow");
    let shown = ask(&world, &["show", &run.id()]).assert_code(0).out();
    let line =
        |label: &str| shown.lines().find(|line| line.starts_with(label)).unwrap_or_default().to_owned();
    assert!(line("ended by").ends_with(": too slow") && line("forced by").ends_with(": no time"), "{shown}");
    assert!(run.text("kill.jsonl").lines().all(|line| !line.is_empty()));

    let at_once = detach_artist(&world, &[], &["linger", "60"]);
    let told = ask(&world, &["kill", "--force", "--wait", &at_once.id()]);
    assert!(told.assert_code(0).err().contains(&format!("killing run {} now", at_once.id())), "{told:?}");
    assert!(!ask(&world, &["show", &at_once.id()]).out().contains("forced by"), "it is the same request");
}

#[test]
fn the_help_of_stop_is_its_own() {
    let world = World::new();
    let help = ask(&world, &["stop", "--help"]).assert_code(0).out();
    assert!(!help.contains("stops nothing") && !help.contains("--wait"), "{help}");
    let run = detach_artist(&world, &["-l", "team=db"], &["linger", "60"]);
    ask(&world, &["stop", "--wait", "-f", "label=team=web"]).assert_code(0);
    assert!(!run.is_sealed());
    ask(&world, &["kill", "-f", "label=team=db"]).assert_code(0);
    run.wait_sealed(SOON);
}

#[test]
fn all_or_some_of_the_living_are_stopped() {
    let world = World::new();
    let kept = detach_artist(&world, &["-l", "team=web"], &["linger", "60"]);
    let runs = [(); 2].map(|()| detach_artist(&world, &["-l", "team=db"], &["linger", "60"]));
    let nobody = ask(&world, &["kill", "--filter", "label=team=ops", "--json"]);
    assert_eq!(nobody.assert_code(0).out(), "{\"schema\":1,\"runs\":[]}\n", "{nobody:?}");
    assert!(nobody.err().contains("nothing was stopped"), "{nobody:?}");
    ask(&world, &["stop", "--filter", "label=team=db", "--filter", "status=running"]).assert_code(0);
    assert!(runs.iter().all(RunDir::is_sealed) && !kept.is_sealed());
    ask(&world, &["stop", "-a"]).assert_code(0);
    assert!(kept.is_sealed());
    for wrong in [
        &["kill"][..],
        &["kill", "-a", "latest"],
        &["kill", "--filter", "colour=red"],
        &["kill", "latest", "-s", "NOPE"],
        &["kill", "latest", "--reason", &"x".repeat(1001)],
    ] {
        ask(&world, wrong).assert_code(2);
    }
    let empty = World::new();
    ask(&empty, &["kill", "--all"]).assert_code(0);
    ask(&empty, &["kill", "latest"]).assert_code(3);
}

#[test]
fn a_long_reason_in_odd_characters_is_kept_whole() {
    let world = World::new();
    let run = detach_artist(&world, &[], &["linger", "60"]);
    let reason = "\u{1}\u{1b}\"\\é".repeat(160);
    ask(&world, &["kill", "--reason", &reason, &run.id()]).assert_code(0);
    let record = run.wait_sealed(SOON);
    assert_eq!(record["ended_by"]["reason"], reason.as_str());
}

// ---- kills and bookends that are gone ---------------------------------------------------------------------------------

/// What was asked of a keeper that never came to do it is done by the one who follows it.
#[test]
fn an_intent_outlives_the_keeper_it_was_for() {
    for (detached, force) in [(true, false), (false, false), (true, true)] {
        let world = World::new();
        let (run, shown): (RunDir, Option<Running>) = if detached {
            (detach_artist(&world, &[], &["linger", "60"]), None)
        } else {
            let shown = world.run_artist(&[], &["linger", "60"]).spawn();
            shown.wait_ready();
            (world.only_run(), Some(shown))
        };
        run.wait_status("running");
        let keeper = keeper(&run);
        keeper.signal(Signal::SIGSTOP);
        keeper.wait_state('T');
        let flags: &[&str] = if force { &["--force"] } else { &[] };
        ask(&world, &[&["kill", "--reason", "asked in time", "latest"], flags].concat()).assert_code(0);
        keeper.signal(Signal::SIGKILL);
        let record = run.wait_sealed(SOON);
        assert_eq!(
            (&record["exit_reason"], &record["forced"]),
            (&"killed".into(), &force.into()),
            "{record:#}"
        );
        assert_eq!(record["ended_by"]["reason"], "asked in time", "{record:#}");
        assert_eq!(record["author"], "front", "{record:#}");
        if let Some(shown) = shown {
            shown.wait_within(SOON).assert_code(137);
        }
        world.assert_no_process_left();
    }
}

#[test]
fn campaign_two_kills_that_race_leave_one_record_with_the_first_cause() {
    let world = World::new();
    for round in 0..rounds(10) {
        let run = detach_artist(&world, &[], &["linger", "60"]);
        let id = run.id();
        let kills = ["a", "b", "c"].map(|why| world.bookend(["kill", "--reason", why, &id]).spawn());
        for kill in kills {
            kill.wait_within(SOON).assert_code(0);
        }
        let record = run.wait_sealed(SOON);
        let asked = intents(&run);
        assert!(!asked.is_empty() && asked.len() <= 3, "{asked:?}");
        assert_eq!(record["exit_reason"], "killed", "round {round}: {record:#}");
        assert_eq!(
            record["ended_by"]["reason"], asked[0]["by"]["reason"],
            "round {round}: {asked:#?}\n{record:#}"
        );
        assert_eq!(run.files().iter().filter(|name| name.contains("run.json")).count(), 1);
    }
    world.assert_no_process_left();
}

#[test]
fn campaign_a_kill_that_races_with_the_end_is_no_error() {
    let world = World::new();
    let (mut killed, mut over) = (0, 0);
    for round in 0..rounds(15) {
        let seconds = format!("0.0{}", round % 7);
        let run = detach(&world, &[], &["sh", "-c", &format!("sleep {seconds}; exit 6")]);
        let answer = ask(&world, &["kill", "--wait", "--json", &run.id()]);
        let action = answer.assert_code(0).json()["runs"][0]["action"].clone();
        let record = run.run_json();
        match record["exit_reason"].as_str() {
            Some("killed") => killed += 1,
            Some("exited") => {
                over += 1;
                assert_eq!(
                    (&record["exit"]["code"], &record["ended_by"]),
                    (&6.into(), &Value::Null),
                    "{record:#}"
                );
            }
            _ => panic!("round {round}: {record:#}"),
        }
        assert!(action == "over" || action == "killed", "{answer:?}");
        assert!(action != "over" || record["exit_reason"] == "exited", "{answer:?}\n{record:#}");
    }
    eprintln!("{killed} were killed, {over} ended before");
    world.assert_no_process_left();
}
