//! SIGKILL in place of every single system call of `clean`: nothing is half gone, and the next one finishes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clean::{ask, names};
use crate::forge::{self, days_ago};
use crate::tripwire::{Reach, program, reach};
use crate::world::{PidNamespace, RunDir, World};

/// The time of the default suite's slice of a sweep.
const SLICE: Duration = Duration::from_secs(4);

/// A store with three finished runs: one is pinned, one has a directory inside, one a marker of the living that nobody took
/// away; and trash of an earlier clean.
fn scene(world: &World) -> PathBuf {
    for n in 1..=3 {
        forge::run(world, n, days_ago(n));
    }
    let runs = world.runs();
    forge::write(
        &runs[0].path.join("notes.jsonl"),
        b"{\"schema\":1,\"at\":\"2026-11-21T13:05:00.007Z\",\"pinned\":true}\n",
    );
    fs::create_dir_all(runs[1].path.join("tasks/one/inner")).expect("directories");
    forge::write(&world.store().join("live").join(runs[2].id()), b"");
    fs::create_dir_all(world.store().join("runs/.trash-20200101-000000-000000/x")).expect("trash");
    world.store()
}

/// SIGKILL in place of every system call of a command, each in a fresh copy of the scene; what is left is whole, and the
/// next one finishes the work.
fn kill_sweep(words: &[&str], judge: impl Fn(&World, u64)) {
    let Some(space) = PidNamespace::open() else { return };
    let mut world = World::new();
    let template = scene(&world);
    let copy = world.path("copy");
    world.set_store(&copy);
    let play = |action: &[&str]| -> u64 {
        let _ = fs::remove_dir_all(&copy);
        assert!(Command::new("cp").arg("-a").arg(&template).arg(&copy).status().expect("cp").success());
        let report = world.path("report");
        let mut launcher =
            vec![program().display().to_string(), report.display().to_string(), "0".to_owned()];
        launcher.extend(action.iter().map(|&word| word.to_owned()));
        launcher.push("--".to_owned());
        space.enter(world.bookend(words.iter().copied()).under(&launcher)).run();
        let text = fs::read_to_string(&report).expect("a report");
        let calls = text.lines().find_map(|line| line.strip_prefix("calls ")).expect("calls");
        calls.parse().expect("a number")
    };
    let calls = play(&["count"]);
    assert!(calls > 60, "{calls} calls");
    judge(&world, 0);
    let (begun, mut played) = (Instant::now(), 0);
    let limit = (reach() == Reach::Glance).then_some(SLICE);
    let mut order: Vec<u64> = (1..=calls + 2).collect();
    order.sort_by_key(|n| n.reverse_bits());
    for at in order {
        if limit.is_some_and(|limit| begun.elapsed() > limit) {
            break;
        }
        play(&["kill", &at.to_string()]);
        judge(&world, at);
        played += 1;
    }
    eprintln!("{words:?}: {calls} system calls, killed at {played} of them");
}

/// A run that is listed is as whole as it was.
fn assert_whole(run: &RunDir, at: u64) {
    let record = run.run_json();
    assert_eq!((&record["run_id"], &record["exit"]["code"]), (&run.id().into(), &0.into()), "killed at {at}");
    for name in ["status.json", "task.json", "events.jsonl", "lock", "prompt.md"] {
        assert!(run.path.join(name).exists(), "killed at {at}: no {name}");
    }
    run.events();
}

#[test]
fn campaign_clean_killed_at_any_system_call_leaves_nothing_half() {
    kill_sweep(&["clean", "-y"], |world, at| {
        let runs = world.runs();
        for run in &runs {
            assert_whole(run, at);
        }
        assert!(
            runs.iter().any(|run| run.path.join("notes.jsonl").exists()),
            "killed at {at}: the pinned one"
        );
        let finish = if at % 2 == 0 { &["clean", "-y"][..] } else { &["doctor", "--runs", "--fix"] };
        ask(world, finish).assert_code(0);
        let left = names(world);
        assert!(left.iter().all(|name| !name.starts_with('.')), "killed at {at}: {left:?}");
        ask(world, &["clean", "-y"]).assert_code(0);
        assert_eq!((world.runs().len(), world.live()), (1, vec![]), "killed at {at}");
    });
}

#[test]
fn campaign_clean_of_logs_killed_at_any_system_call_is_finished_by_the_next() {
    kill_sweep(&["clean", "-y", "--logs-only"], |world, at| {
        assert_eq!(world.runs().len(), 3);
        for run in world.runs() {
            assert_whole(&run, at);
            let noted =
                run.read("notes.jsonl").is_some_and(|notes| notes.windows(12).any(|w| w == b"logs_removed"));
            assert!(
                noted || run.path.join("harness.log").exists(),
                "killed at {at}: a log is gone without a word"
            );
        }
        ask(world, &["clean", "--logs-only", "--older-than", "100d"]).assert_code(0);
        for run in world.runs() {
            let shown: Value = ask(world, &["show", &run.id(), "--json"]).assert_code(0).json();
            let there = run.path.join("harness.log").exists();
            assert_eq!(there, shown["logs_removed_at"].is_null(), "killed at {at}: half a removal");
        }
    });
}
