//! Retention by the configuration: applied once a day by `run`, said, and never in the way of the run itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::forge::{self, days_ago};
use crate::world::{Finished, PidNamespace, RunDir, Running, World, eventually, go_on_with};

const RULES: &str = "[retention]\nolder_than = \"30d\"\n";
const SAID: &str = "bookend: removed ";

/// A world with a configuration in its store and two runs, of 40 days and of one.
fn world(config: &str) -> (World, RunDir, RunDir) {
    let world = World::new();
    let (old, new) = (forge::run(&world, 1, days_ago(40)), forge::run(&world, 2, days_ago(1)));
    forge::write(&world.store().join("config.toml"), config.as_bytes());
    (world, old, new)
}

fn run(world: &World, flags: &[&str]) -> Finished {
    world.run_artist(flags, &["exit", "7"]).run()
}

/// The run did its work: its code, its record, and its verdict before anything else is said.
fn assert_own_work_done(world: &World, done: &Finished) {
    done.assert_code(7);
    let records = world.runs().into_iter().filter(|run| run.run_json()["exit"]["code"] == 7);
    assert!(records.count() > 0, "{done:?}");
}

fn due_again(world: &World) {
    fs::remove_file(world.store().join("retention.json")).expect("a stamp");
}

#[test]
fn the_first_run_of_the_day_removes_and_says_so() {
    let (world, old, new) = world(RULES);
    let done = run(&world, &[]);
    assert_own_work_done(&world, &done);
    let (verdict, said) = (done.err().find("bookend: failed: "), done.err().find(SAID));
    assert!(verdict.is_some() && verdict < said, "{done:?}");
    let config = world.store().join("config.toml");
    assert!(done.err().contains("removed 1 old run, "), "{done:?}");
    assert!(done.err().contains(&format!(", as [retention] in {} says\n", config.display())), "{done:?}");
    assert!(!old.path.exists() && new.path.exists());

    let late = forge::run(&world, 3, days_ago(50));
    assert!(!run(&world, &[]).err().contains(SAID), "once a day");
    assert!(late.path.exists());
    let stamp: Value =
        serde_json::from_slice(&fs::read(world.store().join("retention.json")).expect("a stamp"))
            .expect("JSON");
    for (at, due) in [("2020-01-01T00:00:00.000Z", true), ("2999-01-01T00:00:00.000Z", true), ("torn", true)]
    {
        let late = forge::run(&world, 3, days_ago(50));
        let text = json!({ "schema": 1, "at": at }).to_string();
        forge::write(
            &world.store().join("retention.json"),
            &text.as_bytes()[..text.len() - usize::from(at == "torn")],
        );
        assert_eq!(run(&world, &[]).err().contains(SAID), due, "{at}");
        assert_eq!(late.path.exists(), !due, "{at}");
    }
    assert_eq!(stamp["schema"], 1);
}

#[test]
fn what_is_removed_is_told_even_where_quiet_was_asked_for() {
    let (world, old, _) = world(&format!("colour = 1\n{RULES}"));
    let done = run(&world, &["--quiet"]);
    assert_own_work_done(&world, &done);
    assert_eq!((done.out(), done.err().lines().count()), (String::new(), 1), "{done:?}");
    assert!(done.err().starts_with("bookend: removed 1 old run, "), "{done:?}");
    assert!(!old.path.exists());
    due_again(&world);
    assert_eq!(run(&world, &["--quiet"]).assert_code(7).err(), "", "nothing was removed");
}

#[test]
fn what_a_detached_run_removes_is_kept_for_doctor() {
    let (world, old, _) = world(RULES);
    let done = run(&world, &["-d"]);
    assert!(!done.assert_code(0).err().contains(SAID), "{done:?}");
    let stamp = || -> Option<Value> {
        let bytes = fs::read(world.store().join("retention.json")).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|stamp: &Value| stamp["removed"].is_object())
    };
    let removed = eventually(Duration::from_secs(10), "removal in the background", stamp)["removed"].clone();
    assert!(!old.path.exists());
    assert_eq!(
        (&removed["runs"], &removed["rules"], &removed["run_ids"]),
        (&json!(1), &json!({ "older_than": 1 }), &json!([old.id()])),
        "{removed}"
    );
    assert!(removed["bytes"].as_u64() > Some(0) && removed["at"].is_string(), "{removed}");
    let told = || world.bookend(["doctor"]).run().out();
    assert!(told().contains(&format!("(older_than 1): {}\n", old.id())), "{}", told());

    // What the next turn, which removes nothing, leaves in place.
    let mut again = stamp().expect("a stamp");
    again["at"] = json!("2020-01-01T00:00:00.000Z");
    forge::write(&world.store().join("retention.json"), again.to_string().as_bytes());
    run(&world, &[]).assert_code(7);
    let after = stamp().expect("a stamp");
    assert_eq!(after["removed"], removed);
    assert_ne!(after["at"], again["at"]);
}

#[test]
fn json_on_standard_output_stays_one_document() {
    let (world, old, _) = world(RULES);
    let done = run(&world, &["--json"]);
    assert_eq!(done.assert_code(7).json()["exit"]["code"], 7);
    assert!(!old.path.exists());
}

#[test]
fn two_runs_at_once_do_it_once() {
    let (world, _, _) = world("[retention]\nkeep_last = 3\n");
    for n in 0..40 {
        forge::run(&world, n, days_ago(2));
    }
    let runs: Vec<_> = (0..4).map(|_| world.run_artist(&[], &["drip", "1", "50"]).spawn()).collect();
    let done: Vec<_> = runs.into_iter().map(Running::wait).collect();
    let said = done.iter().filter(|done| done.assert_code(0).err().contains(SAID)).count();
    assert_eq!(said, 1, "{done:?}");
    let left: BTreeSet<_> = world.runs().iter().map(RunDir::id).collect();
    assert!((3..=7).contains(&left.len()), "{left:?}");
}

#[test]
fn whoever_comes_while_it_is_done_leaves_it_alone() {
    let (world, old, _) = world(RULES);
    let signs = world.path("signs");
    fs::create_dir(&signs).expect("a directory");
    let call = world.run_artist(&[], &["exit", "7"]).env("BOOKEND_FAILPOINT", "turn.taken=pause");
    let first = call.env("BOOKEND_FAILPOINT_DIR", &signs).spawn();
    first.wait_for_file(&signs.join("turn.taken.reached"));
    let second = run(&world, &[]);
    assert!(!second.assert_code(7).err().contains(SAID) && old.path.exists(), "{second:?}");
    fs::write(signs.join("turn.taken.go"), "").expect("a sign");
    assert!(first.wait().assert_code(7).err().contains("removed 1 old run, "));
    assert!(!old.path.exists());
}

#[test]
fn logs_alone_can_go() {
    let (world, old, new) = world("[retention]\nolder_than = \"30d\"\nlogs_only = true\n");
    let done = run(&world, &[]);
    assert!(done.err().contains("removed 1 log, "), "{done:?}");
    assert!(old.path.join("run.json").exists() && !old.path.join("harness.log").exists());
    assert!(new.path.join("harness.log").exists());
}

#[test]
fn the_configuration_is_found_where_it_is_said_to_be() {
    let (world, ..) = world("");
    fs::remove_file(world.store().join("config.toml")).expect("the configuration");
    let home = world.path("home/.config/bookend/config.toml");
    let xdg = world.path("xdg/bookend/config.toml");
    let named = world.path("named.toml");
    let write = |path: &Path, days: &str| {
        fs::create_dir_all(path.parent().expect("a parent")).expect("its directory");
        forge::write(path, format!("[retention]\nolder_than = \"{days}d\"\n").as_bytes());
    };
    let says = |xdg: bool, named_too: bool| {
        let old = forge::run(&world, 9, days_ago(300));
        let mut call = world.run_artist(&[], &["exit", "7"]);
        if xdg {
            call = call.env("XDG_CONFIG_HOME", world.path("xdg"));
        }
        if named_too {
            call = call.env("BOOKEND_CONFIG", &named);
        }
        let done = call.run();
        let _ = fs::remove_file(world.store().join("retention.json"));
        let _ = fs::remove_dir_all(&old.path);
        done.assert_code(7)
            .err()
            .lines()
            .find_map(|line| Some(line.split_once("[retention] in ")?.1.to_owned()))
    };
    assert_eq!(says(true, false), None);
    write(&home, "1");
    assert_eq!(says(false, false), Some(format!("{} says", home.display())));
    write(&xdg, "1");
    assert_eq!(says(true, false), Some(format!("{} says", xdg.display())));
    write(&world.store().join("config.toml"), "1");
    assert_eq!(says(true, false), Some(format!("{}/config.toml says", world.store().display())));
    write(&named, "1");
    assert_eq!(says(true, true), Some(format!("{} says", named.display())));
}

#[test]
fn a_configuration_that_can_not_be_used_hurts_no_run() {
    let (world, old, _) = world(RULES);
    let config = world.store().join("config.toml");
    let check = |why: &str| {
        let done = run(&world, &[]);
        assert_own_work_done(&world, &done);
        assert!(done.err().contains(why) && done.err().contains("bookend: note: "), "{why}: {done:?}");
        assert!(old.path.exists(), "{why}");
        let found = world.bookend(["doctor", "--json"]).run();
        assert!(found.assert_code(1).out().contains("\"config."), "{why}: {found:?}");
    };
    for (text, why) in [
        ("[retention", "line 1"),
        ("[retention]\nolder_than = 30", "retention.older_than: write e.g."),
        ("retention = 1", "write [retention]"),
    ] {
        forge::write(&config, text.as_bytes());
        check(why);
    }
    forge::write(&config, b"\xff\xfe");
    check("UTF-8");
    forge::write(&config, RULES.as_bytes());
    fs::set_permissions(&config, fs::Permissions::from_mode(0o620)).expect("its mode");
    check("other users may write to it");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("its mode");
    if go_on_with("root, to give the file away", nix::unistd::geteuid().is_root()) {
        chown(&config, Some(12_345), None).expect("another owner");
        check("it belongs to user 12345");
    }
    fs::remove_file(&config).expect("the configuration");
    fs::create_dir(&config).expect("a directory in its place");
    check("not a regular file");
    fs::remove_dir(&config).expect("the directory");
    assert!(std::process::Command::new("mkfifo").arg(&config).status().expect("mkfifo").success());
    check("not a regular file");
    fs::remove_file(&config).expect("the FIFO");
    let missing = world.run_artist(&[], &["exit", "7"]).env("BOOKEND_CONFIG", "/nowhere/config.toml").run();
    assert!(missing.assert_code(7).err().contains("/nowhere/config.toml"), "{missing:?}");
    let none = world.run_artist(&[], &["exit", "7"]).env("BOOKEND_CONFIG", "/dev/null").run();
    assert!(!none.assert_code(7).err().contains("note"), "{none:?}");
}

#[test]
fn what_is_unknown_is_warned_of_and_the_rest_applies() {
    let (world, old, _) = world(&format!("colour = 1\n{RULES}keep_lats = 7\n[hooks]\nafter = 'x'\n"));
    let done = run(&world, &[]);
    assert_own_work_done(&world, &done);
    for key in ["colour", "retention.keep_lats", "hooks"] {
        assert!(done.err().contains(&format!("note: {key} in ")), "{done:?}");
    }
    assert!(done.err().contains("removed 1 old run") && !old.path.exists(), "{done:?}");
    let quiet = run(&world, &["--quiet"]);
    assert_eq!(quiet.assert_code(7).err(), "");
}

#[test]
fn what_only_keeps_removes_nothing() {
    let (world, old, _) = world("[retention]\nkeep_failed = true\n");
    assert!(!run(&world, &[]).assert_code(7).err().contains(SAID));
    assert!(old.path.exists());
    let found = world.bookend(["doctor"]).run();
    assert!(found.assert_code(1).out().contains("[retention] does not say what goes"), "{found:?}");
}

#[test]
fn a_front_that_is_killed_while_it_removes_leaves_it_to_the_next() {
    let (world, old, new) = world(RULES);
    let Some(space) = PidNamespace::open() else { return };
    let signs = world.path("signs");
    fs::create_dir(&signs).expect("a directory");
    let call = world.run_artist(&[], &["exit", "7"]).env("BOOKEND_FAILPOINT", "clean.emptying=abort");
    let broken = space.enter(call.env("BOOKEND_FAILPOINT_DIR", &signs)).run();
    assert!(broken.code == Some(134) || broken.signal == Some(libc::SIGABRT), "{broken:?}");
    let mut runs = world.runs();
    runs.retain(|run| run.path != new.path);
    assert_eq!((runs.len(), &runs[0].run_json()["exit"]["code"]), (1, &7.into()), "its record is there");
    assert!(!old.path.exists(), "out of the store by one rename");
    let trash = world.store().join(format!("runs/.trash-{}", old.id()));
    assert!(trash.exists());
    let done = world.bookend(["clean", "--older-than", "900d"]).run();
    assert!(done.assert_code(0).err().contains("removed 0 runs"), "{done:?}");
    assert!(!trash.exists());
}

#[test]
fn a_store_that_can_not_be_changed_hurts_no_run() {
    let (world, old, _) = world(RULES);
    // What can not be stamped is not begun.
    fs::create_dir(world.store().join("retention.json")).expect("a directory in the stamp's place");
    let done = run(&world, &[]);
    assert_own_work_done(&world, &done);
    assert!(!done.err().contains(SAID) && old.path.exists(), "{done:?}");
}
