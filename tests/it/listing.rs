//! `ps`, `show`, `watch` and what people add to a run: the real program on real runs.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::world::{Finished, RunDir, World, assert_follows};

const SOON: Duration = Duration::from_secs(15);

fn ask(world: &World, words: &[&str]) -> Finished {
    world.bookend(words.iter().copied()).limit(SOON).run()
}

/// A store with one run of each of a few ends, and one that lives.
fn mixed() -> (World, crate::world::Running) {
    let world = World::new();
    world.run_artist(&["-q", "--name", "good", "-l", "team=db"], &["exit", "0"]).run().assert_code(0);
    world.run_artist(&["-q", "--name", "bad", "-l", "team=web"], &["exit", "3"]).run().assert_code(3);
    world
        .run_artist(&["-q", "--timeout", "100ms", "--grace", "1s"], &["linger", "60"])
        .run()
        .assert_code(124);
    world.bookend(["run", "-q", "--", "/nonexistent/program"]).run().assert_code(127);
    let living = world.run_artist(&["--name", "alive"], &["linger", "60"]).spawn();
    living.wait_ready();
    world.runs().last().expect("the living").wait_status("running");
    (world, living)
}

fn names(world: &World, words: &[&str]) -> Vec<String> {
    let listed = ask(world, &[&["ps", "--json=name"], words].concat()).assert_code(0).json();
    assert_eq!(listed["schema"], 1);
    let runs = listed["runs"].as_array().expect("a list").clone();
    runs.iter().map(|run| run["name"].as_str().unwrap_or("-").to_owned()).collect()
}

fn end(living: crate::world::Running) {
    living.signal(Signal::SIGTERM);
    living.wait().assert_signal(Signal::SIGTERM);
}

#[test]
fn ps_lists_what_the_filters_say() {
    let (world, living) = mixed();
    for (words, expected) in [
        (&[][..], &["alive"][..]),
        (&["-a"], &["alive", "-", "-", "bad", "good"]),
        (&["-l"], &["alive"]),
        (&["-n", "2"], &["alive", "-"]),
        (&["-a", "--filter", "status=running"], &["alive"]),
        (&["--filter", "status=failed"], &["-", "bad"]),
        (&["--filter", "status=failed", "--filter", "status=completed"], &["-", "bad", "good"]),
        (&["--filter", "reason=timed_out"], &["-"]),
        (&["--filter", "exit=127"], &["-"]),
        (&["-a", "--filter", "label=team"], &["bad", "good"]),
        (&["-a", "--filter", "label=team=web"], &["bad"]),
        (&["-a", "--filter", "name=*a*"], &["alive", "bad"]),
        (&["-a", "--filter", "harness=program"], &["-"]),
        (&["-a", "--filter", "mode=command", "--filter", "since=1h"], &["alive", "-", "-", "bad", "good"]),
        (&["-a", "--filter", "before=1h"], &[]),
        (&["-a", "--sort", "name"], &["alive", "bad", "good", "-", "-"]),
        (&["-a", "--sort", "created"], &["good", "bad", "-", "-", "alive"]),
        (&["-a", "--sort", "-exit", "-n", "3"], &["-", "-", "alive"]),
    ] {
        assert_eq!(names(&world, words), expected, "{words:?}");
    }
    end(living);
}

#[test]
fn ps_prints_in_every_format() {
    let (world, living) = mixed();
    let ids: Vec<String> = world.runs().iter().rev().map(RunDir::id).collect();
    let quiet = ask(&world, &["ps", "-aq"]).assert_code(0).out();
    assert_eq!(quiet.lines().collect::<Vec<_>>(), ids);
    let jsonl = ask(&world, &["ps", "-a", "--format", "jsonl"]).assert_code(0).out();
    let records: Vec<Value> = jsonl.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let status = world.schema("status");
    for record in &records {
        assert_follows(&status, record);
    }
    assert!(jsonl.lines().all(|line| line.starts_with("{\"schema\":1,")), "{jsonl}");
    let csv = ask(&world, &["ps", "-a", "--format", "csv"]).assert_code(0).out();
    assert_eq!(csv.lines().count(), 6, "{csv}");
    assert!(csv.starts_with("run_id,name,status,"), "{csv}");
    assert_eq!(
        ask(&world, &["ps", "-a", "--format", "json"]).json(),
        ask(&world, &["ps", "-a", "--json"]).json()
    );
    let picked = ask(&world, &["ps", "--filter", "name=bad", "-a", "--json=run_id,exit.code,pinned"]).json();
    assert_eq!(picked["runs"][0], serde_json::json!({ "run_id": ids[3], "exit.code": 3, "pinned": null }));
    let table = ask(&world, &["ps"]);
    let printed = table.out();
    let titles: Vec<&str> = printed.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(titles, ["ID", "NAME", "STATUS", "EXIT", "MODE", "CREATED", "DURATION", "COST", "COMMAND"]);
    assert!(table.err().contains("4 finished; bookend ps -a lists them"), "{table:?}");
    let whole = ask(&world, &["ps", "-a", "--no-trunc"]).assert_code(0).out();
    assert!(ids.iter().all(|id| whole.contains(id)), "{whole}");
    end(living);
}

#[test]
fn mistakes_say_what_there_is() {
    let world = World::new();
    for (words, told) in [
        (&["ps", "--filter", "colour=red"][..], "status, reason, name"),
        (&["ps", "--filter", "status=fine"], "completed"),
        (&["ps", "--filter", "since=soon"], "2h"),
        (&["ps", "--sort", "taste"], "duration"),
        (&["ps", "--json=taste"], "wrapper_exit_code"),
        (&["ps", "--format", "xml"], "jsonl"),
        (&["label", "latest", "nothing"], "KEY=VALUE"),
        (&["show"], "<RUN>"),
        (&["pin"], "<RUN>"),
    ] {
        let answer = ask(&world, words);
        assert!(answer.assert_code(2).err().contains(told), "{words:?}: {answer:?}");
    }
    let empty = ask(&world, &["ps", "-a", "--json"]);
    assert_eq!(empty.assert_code(0).out(), "{\"schema\":1,\"runs\":[]}\n");
    assert_eq!(ask(&world, &["watch"]).assert_code(0).out(), "");
    assert!(!world.store().exists(), "a reader makes no store");
}

#[test]
fn what_people_add_stays_beside_the_record() {
    let world = World::new();
    world
        .run_artist(&["-q", "--name", "first", "-l", "a=1", "-l", "b=2"], &["exit", "0"])
        .run()
        .assert_code(0);
    let run = world.only_run();
    let before = std::fs::read(run.path.join("run.json")).expect("run.json");
    ask(&world, &["rename", "first", "second"]).assert_code(0);
    ask(&world, &["label", "second", "a=9", "b-", "c=x=y"]).assert_code(0);
    ask(&world, &["note", "second", "see issue 12"]).assert_code(0);
    let pinned = ask(&world, &["pin", "second", "--json"]).assert_code(0).json();
    let now = ask(&world, &["show", "second", "--json"]).assert_code(0).json();
    assert_eq!(now["name"], "second");
    assert_eq!(now["labels"], serde_json::json!({ "a": "9", "c": "x=y" }));
    assert_eq!(now["pinned"], true);
    assert_eq!(now["notes"][0]["text"], "see issue 12");
    assert_eq!(pinned["runs"][0]["notes"], now["notes"]);
    assert_follows(&world.schema("run"), &now);
    ask(&world, &["show", "first"]).assert_code(3);
    let shown = ask(&world, &["show", "second"]).assert_code(0).out();
    assert!(shown.contains("see issue 12") && shown.contains("never cleaned"), "{shown}");
    assert!(ask(&world, &["ps", "-a"]).out().contains("second (pinned)"));
    ask(&world, &["unpin", "second"]).assert_code(0);
    ask(&world, &["rename", "second", ""]).assert_code(0);
    let last = ask(&world, &["show", "latest", "--json"]).json();
    assert_eq!((&last["name"], &last["pinned"]), (&Value::Null, &false.into()));
    assert_eq!(
        std::fs::read(run.path.join("run.json")).expect("run.json"),
        before,
        "the record never changes"
    );
    // Lines that make no sense take nothing with them.
    std::fs::write(
        run.path.join("notes.jsonl"),
        "{\"schema\":1,\"at\":\"2026-11-21T00:00:00.000Z\",\"name\":\"x\"}\n{torn\n\u{0}\n",
    )
    .expect("notes");
    ask(&world, &["note", "x", "more"]).assert_code(0);
    assert_eq!(ask(&world, &["show", "x", "--json"]).json()["notes"][0]["text"], "more");
}

#[test]
fn twenty_notes_at_once_are_twenty_notes() {
    let world = World::new();
    world.run_artist(&["-q"], &["exit", "0"]).run().assert_code(0);
    let texts: Vec<String> = (0..20).map(|n| format!("note {n}")).collect();
    let all: Vec<_> = texts.iter().map(|text| world.bookend(["note", "latest", text]).spawn()).collect();
    for one in all {
        one.wait().assert_code(0);
    }
    let shown = ask(&world, &["show", "latest", "--json"]).json();
    let mut noted: Vec<String> = shown["notes"]
        .as_array()
        .expect("notes")
        .iter()
        .map(|n| n["text"].as_str().expect("text").to_owned())
        .collect();
    noted.sort();
    let mut wanted = texts;
    wanted.sort();
    assert_eq!(noted, wanted);
}

#[test]
fn a_living_run_of_a_name_is_meant_before_those_that_are_over() {
    let world = World::new();
    for _ in 0..2 {
        world.run_artist(&["-q", "--name", "nightly"], &["exit", "0"]).run().assert_code(0);
    }
    let told = ask(&world, &["show", "nightly"]).assert_code(4).err();
    assert!(told.contains("could be any of 2 runs") && told.contains("Exited (0)"), "{told}");
    let living = world.run_artist(&["--name", "nightly"], &["linger", "60"]).spawn();
    living.wait_ready();
    let shown = ask(&world, &["show", "nightly", "--json"]).assert_code(0).json();
    assert_eq!(shown["status"], "running");
    end(living);
}

#[test]
fn show_prints_a_file_of_the_run() {
    let world = World::new();
    world.run_artist(&["-q"], &["drip", "2", "0"]).run().assert_code(0);
    let run = world.only_run();
    for name in ["run.json", "harness.log", "prompt.md"] {
        let printed = ask(&world, &["show", "latest", "--file", name]).assert_code(0).stdout.clone();
        assert_eq!(printed, std::fs::read(run.path.join(name)).expect("the file"), "{name}");
    }
    for name in ["nothing.md", "../../secret", "/etc/passwd", ".", ""] {
        let told = ask(&world, &["show", "latest", "--file", name]).assert_code(1).err();
        assert!(told.contains("it has ") && told.contains("harness.log"), "{name}: {told}");
    }
}

#[test]
fn secrets_of_the_command_line_reach_no_file() {
    let world = World::new();
    let secret = "hunter2hunter2";
    let script = format!("DB_PASSWORD={secret} true --api-key {secret}; exit 3");
    let done = world
        .bookend([
            "run",
            "--",
            "sh",
            "-c",
            &script,
            "x",
            "--token",
            secret,
            "https://me:hunter2hunter2@localhost/",
        ])
        .run();
    done.assert_code(3);
    world.bookend(["run", "--token", secret, "--", "true"]).run().assert_code(2);
    assert!(!done.err().contains(secret));
    let found = world.command("grep", ["-rl".as_ref(), secret.as_ref(), world.store().as_os_str()]).run();
    assert_eq!(found.out(), "", "{found:?}");
    let record = world.only_run().run_json();
    assert_eq!(record["command"]["redacted"], 4, "{record:#}");
    let shown = ask(&world, &["show", "latest"]).assert_code(0).out();
    assert!(shown.contains("[redacted]") && !shown.contains(secret), "{shown}");
    assert_eq!(world.attempts().len(), 1);
}

// ---- watch ----------------------------------------------------------------------------------------------------------

#[test]
fn watch_tells_each_change_in_a_line() {
    let world = World::new();
    let living = world.run_artist(&["--name", "slow"], &["linger", "60"]).spawn();
    living.wait_ready();
    let watch = world.bookend(["watch", "slow"]).spawn();
    watch.wait_stdout("Up ");
    end(living);
    let told = watch.wait_within(SOON).assert_code(0).out();
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].contains("Up ") && lines[0].contains("slow"), "{told}");
    assert!(lines[lines.len() - 1].contains("Terminated (143)"), "{told}");
    assert!(lines.len() <= 4, "{told}");
    let json = ask(&world, &["watch", "slow", "--json"]).assert_code(0).json();
    assert_eq!(json["exit_reason"], "terminated");
}

#[test]
fn watch_sees_runs_come_and_go() {
    let world = World::new();
    world.run_artist(&["-q"], &["exit", "0"]).run().assert_code(0);
    let watch = world.bookend(["watch"]).spawn();
    let living = world.run_artist(&["--name", "guest"], &["linger", "60"]).spawn();
    living.wait_ready();
    watch.wait_stdout("Up ");
    end(living);
    watch.wait_stdout("Terminated");
    assert!(
        !String::from_utf8_lossy(&watch.stdout()).contains("Exited (0)"),
        "what was over before is not told"
    );
    watch.signal(Signal::SIGINT);
    watch.wait();
}

// ---- what a word means ------------------------------------------------------------------------------------------------

#[test]
fn a_name_goes_before_the_beginning_of_an_id() {
    let world = World::new();
    world.run_artist(&["-q"], &["exit", "5"]).run().assert_code(5);
    let other = world.only_run().id();
    // The name is the beginning of another run's id, and of its last part.
    for name in [&other[16..18], &other[..4]] {
        world.run_artist(&["-q", "--name", name], &["exit", "0"]).run().assert_code(0);
        assert_eq!(ask(&world, &["show", name, "--json"]).assert_code(0).json()["name"], name);
        ask(&world, &["rm", name]).assert_code(0);
    }
    assert_eq!(ask(&world, &["show", &other[16..18], "--json"]).json()["run_id"], other);
}

#[test]
fn names_that_mean_something_else_are_refused() {
    let world = World::new();
    world.run_artist(&["-q", "--name", "fine"], &["exit", "0"]).run().assert_code(0);
    let id = world.only_run().id();
    for name in ["latest", ".", "..", "/tmp", " ", "a\nb", "\u{1b}[2J", &id] {
        ask(&world, &["rename", "fine", name]).assert_code(2);
    }
    world.bookend(["run", "-q", "--name", "", "--", "true"]).run().assert_code(0);
    assert_eq!(
        ask(&world, &["show", "latest", "--json"]).json()["name"],
        Value::Null,
        "an empty name is none"
    );
}

#[test]
fn a_run_inside_a_run_names_its_parent() {
    let world = World::new();
    let inner = format!("exec {} run -q --name inner -- true", crate::world::under_test().to_string_lossy());
    world.bookend(["run", "-q", "--name", "outer", "--", "sh", "-c", &inner]).run().assert_code(0);
    let outer = ask(&world, &["show", "outer", "--json"]).json()["run_id"].clone();
    assert_eq!(ask(&world, &["show", "inner", "--json"]).json()["parent_run_id"], outer);
    let filter = format!("parent={}", outer.as_str().expect("an id"));
    assert_eq!(names(&world, &["-a", "--filter", &filter]), ["inner"]);
}

#[test]
fn the_footer_counts_what_is_over_and_nothing_else() {
    let (world, living) = mixed();
    assert!(ask(&world, &["ps"]).err().contains("4 finished"));
    assert_eq!(
        ask(&world, &["ps", "--filter", "name=alive"]).err(),
        "",
        "a filter lets nobody count the rest"
    );
    assert_eq!(names(&world, &["-n", "0"]), [""; 0]);
    ask(&world, &["ps", "-q", "--json"]).assert_code(2);
    end(living);
}

/// run.json and status.json are two names of one record once a run is over; what ruins one need not ruin both.
#[test]
fn what_one_record_file_can_not_say_the_other_does() {
    let world = World::new();
    world.run_artist(&["-q", "--name", "torn"], &["exit", "3"]).run().assert_code(3);
    let run = world.only_run();
    let record = std::fs::read(run.path.join("run.json")).expect("a record");
    std::fs::remove_file(run.path.join("run.json")).expect("a record");
    std::fs::write(run.path.join("run.json"), &record[..20]).expect("half a record");
    assert_eq!(names(&world, &["-a"]), ["torn"]);
    let shown = ask(&world, &["show", "torn"]);
    assert!(shown.assert_code(0).out().starts_with("Failed: exited with code 3"), "{shown:?}");
    assert!(shown.err().contains("this is what status.json says"), "{shown:?}");
    assert_eq!(
        std::fs::read(run.path.join("run.json")).expect("it"),
        &record[..20],
        "it is not written anew"
    );
    std::fs::remove_file(run.path.join("run.json")).expect("half a record");
    std::os::unix::fs::symlink("status.json", run.path.join("run.json")).expect("a link");
    let shown = ask(&world, &["show", "torn"]);
    assert!(shown.assert_code(0).err().contains("it is a symbolic link"), "{shown:?}");
}

#[test]
fn show_says_plainly_what_is_there() {
    let (world, living) = mixed();
    let shown = ask(&world, &["show", "alive"]).assert_code(0).out();
    assert!(shown.contains("child      alive (pid "), "{shown}");
    let run = world.runs().pop().expect("the living");
    let size = run.log().len();
    let bytes = ask(&world, &["show", "alive", "--json"]).json()["log"]["bytes"].clone();
    assert!(size > 0 && bytes == size, "{size} {bytes}");
    assert!(shown.contains(&format!("log        {size} bytes, ")), "{shown}");
    let refused = ask(&world, &["show", "bad", "--file", "../../x"]);
    assert!(refused.assert_code(1).err().contains("takes the name of a file"), "{refused:?}");
    let refused = ask(&world, &["show", "bad", "--file", "nope"]);
    assert!(refused.assert_code(1).err().contains("there is no such file"), "{refused:?}");
    end(living);
}
