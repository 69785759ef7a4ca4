//! Removing runs: rm and clean take what they may and nothing else, and are never half done.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::forge::{self, DAY, End, days_ago};
use crate::world::{Finished, Output, PidNamespace, RunDir, Terminal, World};
use nix::sys::signal::Signal;

pub fn ask(world: &World, words: &[&str]) -> Finished {
    world.bookend(words.iter().copied()).run()
}

pub fn ids(world: &World) -> Vec<String> {
    world.runs().iter().map(RunDir::id).collect()
}

fn short(run: &RunDir) -> String {
    run.id()[16..].to_owned()
}

/// Everything in the directory of runs, hidden names too.
pub fn names(world: &World) -> Vec<String> {
    let found = fs::read_dir(world.store().join("runs")).into_iter().flatten().flatten();
    let mut names: Vec<_> = found.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub fn removed(answer: &Finished) -> BTreeSet<String> {
    let list = answer.json()["removed"].as_array().expect("a list").clone();
    list.iter().map(|r| r["run_id"].as_str().expect("an id").to_owned()).collect()
}

pub fn why_stays(answer: &Finished, name: &str) -> String {
    let list = answer.json()["skipped"].as_array().expect("a list").clone();
    let found = list.iter().find(|s| s["run_id"] == name);
    found.map_or(String::new(), |s| s["why"].as_str().expect("a reason").to_owned())
}

/// Bytes that the blocks of a directory take up, each file counted once.
fn occupied(dir: &Path) -> u64 {
    let mut seen = BTreeSet::new();
    let mut sum = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        let found = path.symlink_metadata().expect("a file");
        if seen.insert(found.ino()) {
            sum += found.blocks() * 512;
        }
        if found.is_dir() {
            open.extend(fs::read_dir(&path).expect("a directory").flatten().map(|e| e.path()));
        }
    }
    sum
}

// ---- what goes and what stays ---------------------------------------------------------------------------------------

#[test]
fn rules_choose_and_the_space_is_told() {
    let world = World::new();
    let old: Vec<_> = (1..=4).map(|n| forge::run(&world, n, days_ago(40 + n))).collect();
    let new: Vec<_> = (1..=3).map(|n| forge::run(&world, n, days_ago(n))).collect();
    let failed = forge::run(&world, 9, End { age: DAY * 50, code: 1 });
    let bytes: u64 = old.iter().map(|run| occupied(&run.path)).sum();

    let dry = ask(&world, &["clean", "--older-than", "30d", "--keep-failed", "--dry-run", "--json"]);
    assert_eq!(dry.assert_code(0).json()["dry_run"], true);
    assert_eq!(ids(&world).len(), 8);
    let done = ask(&world, &["clean", "--older-than", "30d", "--keep-failed", "--json"]);
    assert_eq!(removed(done.assert_code(0)), old.iter().map(RunDir::id).collect());
    assert_eq!(removed(&dry), removed(&done));
    assert_eq!((done.json()["bytes"].as_u64(), dry.json()["bytes"].as_u64()), (Some(bytes), Some(bytes)));
    assert_eq!((&done.json()["schema"], &done.json()["dry_run"]), (&1.into(), &false.into()));
    assert_eq!(done.json()["removed"][0]["why"], "older_than");

    let kept = ask(&world, &["clean", "--older-than", "30d", "--keep-last", "4"]);
    assert!(kept.assert_code(0).err().contains("removed 0 runs"), "{kept:?}");
    let by_status = ask(&world, &["clean", "--status", "failed", "--json"]);
    assert_eq!(removed(by_status.assert_code(0)), [failed.id()].into());
    let last = ask(&world, &["clean", "--keep-last", "1"]);
    assert!(last.assert_code(0).err().contains("removed 2 runs, "), "{last:?}");
    assert_eq!(names(&world), [new[0].id()]);
    let size = ask(&world, &["clean", "--max-total-size", "1KiB", "--json"]);
    assert_eq!(size.assert_code(0).json()["removed"][0]["why"], "max_total_size");
    assert_eq!(names(&world), [""; 0]);
}

#[test]
fn filters_narrow_and_mistakes_are_named() {
    let world = World::new();
    world.run_artist(&["-q", "-l", "team=db"], &["exit", "0"]).run().assert_code(0);
    world.run_artist(&["-q", "-l", "team=web"], &["exit", "0"]).run().assert_code(0);
    let done = ask(&world, &["clean", "--filter", "label=team=db"]);
    assert!(done.assert_code(0).err().contains("removed 1 run, "), "{done:?}");
    assert_eq!(world.only_run().run_json()["labels"]["team"], "web");
    for words in [
        &["clean", "--filter", "colour=red"][..],
        &["clean", "--status", "running"],
        &["clean", "--older-than", "soon"],
        &["clean", "--max-total-size", "big"],
        &["rm"],
    ] {
        ask(&world, words).assert_code(2);
    }
    assert_eq!(world.runs().len(), 1);
}

#[test]
fn the_living_and_the_pinned_stay() {
    let world = World::new();
    let pinned = forge::run(&world, 1, days_ago(50));
    ask(&world, &["pin", &pinned.id()]).assert_code(0);
    let running = world.run_artist(&[], &["linger", "60"]).spawn();
    running.wait_ready();
    let living = world.runs().into_iter().find(|run| run.id() != pinned.id()).expect("a living run");

    let told = ask(&world, &["clean", "-y"]);
    assert!(
        told.assert_code(0).err().contains("removed 0 runs, 0 B; 1 living and 1 pinned left alone"),
        "{told:?}"
    );
    let done = ask(&world, &["clean", "-y", "--json"]);
    assert!(why_stays(done.assert_code(0), &living.id()).contains("running"), "{done:?}");
    assert!(why_stays(&done, &pinned.id()).contains("pinned"), "{done:?}");

    for (run, force, hint) in [
        (&living, false, "bookend stop "),
        (&living, true, "bookend stop "),
        (&pinned, false, "bookend unpin "),
    ] {
        let words = ["rm", &run.id(), if force { "--force" } else { "--json" }];
        let refused = ask(&world, &words);
        assert!(refused.assert_code(1).err().contains(hint), "{refused:?}");
        assert!(refused.err().contains(&short(run)), "{refused:?}");
    }
    assert_eq!(ids(&world).len(), 2);
    ask(&world, &["rm", "--force", &pinned.id()]).assert_code(0);
    assert_eq!(names(&world), [living.id()]);
    running.signal(Signal::SIGTERM);
    running.wait().assert_signal(Signal::SIGTERM);
    ask(&world, &["rm", "latest"]).assert_code(0);
    assert_eq!((names(&world), world.live()), (vec![], vec![]));
}

#[test]
fn the_orphaned_stay_until_they_are_stopped() {
    let world = World::new();
    let Some(space) = PidNamespace::open() else { return };
    let within = |words: &[&str]| space.enter(world.bookend(words.iter().copied())).run();
    let run = forge::behead(&world, &space, &["linger", "60"]);
    let done = within(&["clean", "-y", "--json"]);
    assert!(why_stays(done.assert_code(0), &run.id()).contains("orphaned"), "{done:?}");
    for words in [&["rm", "latest"][..], &["rm", "--force", "latest"]] {
        let refused = within(words);
        assert!(refused.assert_code(1).err().contains("orphaned"), "{refused:?}");
    }
    let found = within(&["doctor", "--runs", "--fix", "--json"]);
    assert!(found.assert_code(1).out().contains("run.orphaned"), "{found:?}");
    assert!(run.path.exists() && !run.is_sealed());
    within(&["kill", "--force", "latest"]).assert_code(0);
    within(&["rm", "latest"]).assert_code(0);
    assert_eq!(names(&world), [""; 0]);
}

#[test]
fn without_a_rule_somebody_is_asked() {
    let world = World::new();
    forge::run(&world, 1, days_ago(1));
    let refused = ask(&world, &["clean"]);
    assert!(
        refused.assert_code(2).err().contains("hint: give a rule such as --older-than 30d, or -y"),
        "{refused:?}"
    );
    for (answer, left) in [("\r", 1), ("n\r", 1), ("y\r", 0)] {
        let mut terminal = Terminal::open(&world.bookend(["clean"]));
        let asked = terminal.wait_for("[y/N] ");
        assert!(asked.contains("remove all that can go, 1 run, "), "{asked}");
        terminal.send(answer);
        let done = terminal.wait();
        done.assert_code(left);
        assert_eq!(ids(&world).len(), usize::try_from(left).expect("a number"), "{done:?}");
    }
    assert_eq!(ask(&world, &["clean", "-y", "--json"]).assert_code(0).json()["bytes"], 0);
}

#[test]
fn what_can_not_be_read_is_skipped_with_a_word_and_taken_by_force() {
    let world = World::new();
    let runs: Vec<_> = (1..=6).map(|n| forge::run(&world, n, days_ago(n))).collect();
    forge::write(&runs[0].path.join("run.json"), b"{\"schema\":1,");
    forge::write(
        &runs[1].path.join("run.json"),
        runs[1].text("run.json").replace("\"schema\":1", "\"schema\":2").as_bytes(),
    );
    forge::write(&runs[2].path.join("run.json"), runs[3].text("run.json").as_bytes());
    fs::remove_file(runs[4].path.join("lock")).expect("its lock");
    fs::create_dir(world.store().join("runs/notes of mine")).expect("a foreign directory");
    fs::write(world.store().join("runs/notes of mine/text"), "mine").expect("a foreign file");
    fs::write(world.store().join("runs/20200101-000000-000000"), "a file").expect("a foreign file");
    let outside = world.path("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("precious"), "precious").expect("a file");
    symlink(&outside, world.store().join("runs/20200101-000000-000001")).expect("a link");

    let done = ask(&world, &["clean", "-y", "--json"]);
    let gone: BTreeSet<_> = [3, 4, 5].iter().map(|&n: &usize| runs[n].id()).collect();
    assert_eq!(removed(done.assert_code(0)), gone, "a lock that is missing proves nothing against a record");
    for (name, why) in [
        (runs[0].id(), "run.json can not be read"),
        (runs[1].id(), "newer bookend"),
        (runs[2].id(), "of run "),
        ("notes of mine".to_owned(), "no run"),
        ("20200101-000000-000000".to_owned(), "no directory"),
        ("20200101-000000-000001".to_owned(), "no directory"),
    ] {
        assert!(why_stays(&done, &name).contains(why), "{name}: {done:?}");
    }
    for run in &runs[..3] {
        assert!(ask(&world, &["rm", &run.id()]).assert_code(1).err().contains("--force"));
        ask(&world, &["rm", "--force", &run.id()]).assert_code(0);
    }
    for name in ["20200101-000000-000000", "20200101-000000-000001"] {
        ask(&world, &["rm", "--force", name]).assert_code(3);
    }
    assert_eq!(names(&world), ["20200101-000000-000000", "20200101-000000-000001", "notes of mine"]);
    assert_eq!(fs::read_to_string(outside.join("precious")).expect("still there"), "precious");
    assert!(world.store().join("runs/notes of mine/text").exists());
}

// ---- logs only ------------------------------------------------------------------------------------------------------

#[test]
fn logs_can_go_and_records_stay() {
    let world = World::new();
    let runs: Vec<_> = (1..=3).map(|n| forge::run(&world, n, days_ago(n))).collect();
    forge::write(&runs[2].path.join("harness.log"), &vec![b'x'; 100_000]);
    let before = runs[2].run_json();
    let done = ask(&world, &["clean", "--logs-only", "--older-than", "36h", "--json"]);
    assert_eq!(removed(done.assert_code(0)), [runs[1].id(), runs[2].id()].into());
    assert!((100_000..120_000).contains(&done.json()["bytes"].as_u64().expect("bytes")), "{done:?}");
    assert!(!runs[2].path.join("harness.log").exists() && runs[0].path.join("harness.log").exists());
    assert_eq!(runs[2].run_json(), before);
    let shown = ask(&world, &["show", &runs[2].id(), "--json"]).assert_code(0).json();
    assert!(shown["logs_removed_at"].is_string(), "{shown:#}");
    let again = ask(&world, &["clean", "--logs-only", "--older-than", "36h", "--json"]);
    assert_eq!(removed(again.assert_code(0)), BTreeSet::new(), "what is gone is not removed again");
}

// ---- several at once ------------------------------------------------------------------------------------------------

#[test]
fn two_cleans_at_once_remove_everything_once() {
    let world = World::new();
    for n in 0..120 {
        forge::run(&world, n, days_ago(1));
    }
    let cleans: Vec<_> = (0..3).map(|_| world.bookend(["clean", "-y", "--json"]).spawn()).collect();
    let all: Vec<_> = cleans.into_iter().map(|clean| removed(clean.wait().assert_code(0))).collect();
    let each: usize = all.iter().map(BTreeSet::len).sum();
    let together: BTreeSet<_> = all.into_iter().flatten().collect();
    assert_eq!((each, together.len()), (120, 120));
    assert_eq!(names(&world), [""; 0]);
}

#[test]
fn cleaning_hurts_no_run_and_no_reader() {
    let world = World::new();
    let mut wrong = Vec::new();
    for round in 0..5 {
        let runs: Vec<_> =
            (0..4).map(|_| world.run_artist(&["--print-id"], &["drip", "2", "20"]).spawn()).collect();
        let watchers: Vec<_> =
            [&["clean", "-y"][..], &["ps", "-a"], &["clean", "--keep-last", "0"], &["ps", "-a", "--json"]]
                .iter()
                .map(|words| world.bookend(words.iter().copied()).spawn())
                .collect();
        for run in runs {
            let done = run.wait();
            let whole = ["drip 1\n", "drip 2\n"].iter().all(|line| done.out().contains(line));
            if done.code != Some(0) || !whole {
                wrong.push(format!("{round}: {done:?}"));
            }
        }
        for watcher in watchers {
            let done = watcher.wait();
            if done.code != Some(0) || done.err().contains("note:") && !done.err().contains("still at work") {
                wrong.push(format!("{round}: {done:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for run in world.runs() {
        assert_eq!(run.run_json()["exit"]["code"], 0);
    }
    ask(&world, &["clean", "-y"]).assert_code(0);
    assert_eq!((names(&world), world.live()), (vec![], vec![]));
}

#[test]
fn a_run_is_removed_right_after_it_ended() {
    let world = World::new();
    for _ in 0..10 {
        let id = ask(&world, &["run", "-d", "-q", "--", "true"]).assert_code(0).out().trim().to_owned();
        ask(&world, &["wait", &id]).assert_code(0);
        ask(&world, &["rm", &id]).assert_code(0);
    }
    assert_eq!((names(&world), world.live()), (vec![], vec![]));
}

#[test]
fn a_run_whose_output_is_still_read_stays() {
    let world = World::new();
    let running = world.run_artist(&[], &["gen", "1000000"]).output(Output::Unread).spawn();
    let run = world.wait_for_run();
    run.wait_sealed(Duration::from_secs(20));
    let refused = ask(&world, &["rm", "latest"]);
    assert!(refused.assert_code(1).err().contains("one of its bookends is still at work"), "{refused:?}");
    drop(running);
}

#[test]
fn a_thousand_runs_go_in_reasonable_time() {
    let world = World::new();
    for n in 0..1000 {
        forge::run(&world, n, days_ago(1 + n % 40));
    }
    let begun = Instant::now();
    let done = ask(&world, &["clean", "--max-total-size", "0", "--json"]);
    assert_eq!(removed(done.assert_code(0)).len(), 1000);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    eprintln!("1,000 runs in {:?}", begun.elapsed());
    assert_eq!(names(&world), [""; 0]);
}
