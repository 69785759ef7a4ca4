//! The doctor: finds what is wrong with a store, puts right what it safely can, and leaves everything else alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::forge::{self, days_ago};
use crate::world::{Finished, PidNamespace, Process, World, go_on_with};

fn ask(world: &World, words: &[&str]) -> Finished {
    world.bookend(words.iter().copied()).run()
}

fn findings(answer: &Finished) -> Vec<Value> {
    let document = answer.json();
    assert_eq!(document["schema"], 1, "{answer:?}");
    let all = document["findings"].as_array().expect("a list").clone();
    for finding in &all {
        for field in ["id", "level", "what", "evidence"] {
            assert!(finding[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {finding:#}");
        }
        assert!(finding["fix"]["how"].as_str().is_some_and(|how| !how.is_empty()), "{finding:#}");
        assert!(finding["fix"]["done"].is_boolean(), "{finding:#}");
    }
    all.into_iter().filter(|finding| finding["level"] != "note").collect()
}

fn kinds(findings: &[Value]) -> BTreeSet<String> {
    findings.iter().map(|f| f["id"].as_str().expect("an id").to_owned()).collect()
}

/// Finds exactly these things, then puts them right, and then finds nothing.
fn assert_mended(world: &World, expected: &[&str]) {
    let expected: BTreeSet<_> = expected.iter().map(|&id| id.to_owned()).collect();
    let found = ask(world, &["doctor", "--runs", "--json"]);
    assert_eq!(kinds(&findings(found.assert_code(1))), expected, "{found:?}");
    assert!(findings(&found).iter().all(|f| f["fix"]["done"] == false), "nothing is changed by looking");
    let again = ask(world, &["doctor", "--runs", "--json"]);
    assert_eq!(findings(&again), findings(&found), "nothing is changed by looking");
    let mended = ask(world, &["doctor", "--runs", "--fix", "--json"]);
    assert!(kinds(&findings(mended.assert_code(0))).is_subset(&expected), "{mended:?}");
    assert!(findings(&mended).iter().all(|f| f["fix"]["done"] == true), "{mended:?}");
    assert_well(world);
}

fn assert_well(world: &World) {
    let answer = ask(world, &["doctor", "--runs", "--json"]);
    assert_eq!(findings(answer.assert_code(0)), Vec::<Value>::new(), "{answer:?}");
}

/// Everything in a directory: names, kinds, modes, sizes and content.
fn picture(dir: &Path) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        let found = path.symlink_metadata().expect("a file");
        let content = if found.is_file() { format!("{:?}", fs::read(&path).ok()) } else { String::new() };
        lines.insert(format!("{} {:o} {} {content}", path.display(), found.mode(), found.uid()));
        if found.is_dir() {
            open.extend(fs::read_dir(&path).expect("a directory").flatten().map(|e| e.path()));
        }
    }
    lines
}

#[test]
fn a_store_that_is_well_is_said_to_be() {
    let world = World::new();
    let none = ask(&world, &["doctor", "--runs"]);
    assert!(none.assert_code(0).out().contains("not there yet"), "{none:?}");
    assert!(!world.store().exists(), "looking makes no store");
    world.run_artist(&["-q"], &["exit", "3"]).run().assert_code(3);
    forge::run(&world, 1, days_ago(3));
    let running = world.run_artist(&[], &["linger", "60"]).spawn();
    running.wait_ready();
    let told = ask(&world, &["doctor", "--runs", "--fix"]);
    let out = told.assert_code(0).out();
    for text in [
        "3 runs, 1 living",
        "config    none",
        "pidfd, RENAME_NOREPLACE",
        "checked   3 runs",
        "\nall is well\n",
    ] {
        assert!(out.contains(text), "{text:?} is not in\n{out}");
    }
    assert_well(&world);
    running.signal(Signal::SIGTERM);
    running.wait().assert_signal(Signal::SIGTERM);
}

#[test]
fn what_ends_leave_behind_is_put_right() {
    let world = World::new();
    let runs: Vec<_> = (1..=7).map(|n| forge::run(&world, n, days_ago(n))).collect();
    let store = world.store();
    fs::remove_file(runs[0].path.join("status.json")).expect("a status");
    let living = runs[1].text("run.json").replace("\"status\":\"completed\"", "\"status\":\"running\"");
    fs::remove_file(runs[1].path.join("status.json")).expect("a status");
    forge::write(&runs[1].path.join("status.json"), living.as_bytes());
    forge::write(&runs[2].path.join("reserve"), &[0; 16_384]);
    forge::write(&runs[3].path.join("task.json"), b"{\"schema\":");
    fs::remove_file(runs[4].path.join("lock")).expect("a lock");
    forge::write(&store.join("live").join(runs[5].id()), b"");
    forge::write(&store.join("live/20200101-000000-000000"), b"");
    forge::write(
        &runs[6].path.join("notes.jsonl"),
        b"{\"schema\":1,\"at\":\"2026-11-21T13:05:00.007Z\",\"logs_removed\":true}\n",
    );
    fs::create_dir_all(store.join("runs/.trash-20200101-000000-000001/inner")).expect("trash");
    let unpublished = store.join("runs/.new-20200101-000000-000002");
    fs::create_dir(&unpublished).expect("a directory");
    forge::write(&unpublished.join("lock"), b"");
    assert!(
        Command::new("touch")
            .args(["-d", "2 hours ago"])
            .arg(&unpublished)
            .status()
            .expect("touch")
            .success()
    );
    let fresh = store.join("runs/.new-20200101-000000-000003");
    fs::create_dir(&fresh).expect("one that may just be made");
    assert_mended(
        &world,
        &[
            "run.status",
            "run.unfinished",
            "run.task",
            "run.lock",
            "live.stale",
            "live.orphan",
            "run.log",
            "stray.trash",
            "stray.unpublished",
        ],
    );
    assert!(fresh.exists() && !unpublished.exists());
    assert_eq!(world.live(), [""; 0]);
    for run in &runs {
        assert_eq!(run.status_json(), run.run_json());
        assert_eq!(run.task_json()["status"], "completed");
    }
    assert!(!runs[6].path.join("harness.log").exists());
}

#[test]
fn rights_of_others_are_taken_away_and_nothing_that_is_not_ours_is_changed() {
    let world = World::new();
    let runs: Vec<_> = (1..=2).map(|n| forge::run(&world, n, days_ago(n))).collect();
    let mode =
        |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    mode(&world.store(), 0o755);
    mode(&world.store().join("runs"), 0o750);
    mode(&runs[0].path, 0o755);
    mode(&runs[0].path.join("run.json"), 0o644);
    mode(&runs[0].path.join("harness.log"), 0o666);
    assert_mended(&world, &["store.mode", "run.mode"]);
    for (path, wanted) in [("", 0o700), ("runs", 0o700)] {
        assert_eq!(world.store().join(path).metadata().expect("there").mode() & 0o777, wanted);
    }
    assert_eq!(runs[0].path.join("run.json").metadata().expect("there").mode() & 0o777, 0o600);
    // A file that has another name outside of the store keeps its mode.
    let outside = world.path("outside");
    fs::write(&outside, "shared").expect("a file");
    mode(&outside, 0o644);
    fs::hard_link(&outside, runs[1].path.join("linked")).expect("a link");
    let found = ask(&world, &["doctor", "--runs", "--fix", "--json"]);
    assert_eq!(kinds(&findings(found.assert_code(1))), ["run.mode".to_owned()].into());
    assert_eq!(outside.metadata().expect("there").mode() & 0o777, 0o644);
    fs::remove_file(runs[1].path.join("linked")).expect("the link");
    // A store that is open to all is refused by everybody else; the doctor says what to do, or does it.
    mode(&world.store(), 0o777);
    let refused = ask(&world, &["doctor", "--runs"]);
    assert!(refused.assert_code(1).out().contains("chmod go-w"), "{refused:?}");
    ask(&world, &["doctor", "--runs", "--fix"]).assert_code(0);
    assert_well(&world);
}

#[test]
fn what_is_foreign_newer_or_unreadable_is_told_of_and_never_touched() {
    let world = World::new();
    let runs: Vec<_> = (1..=4).map(|n| forge::run(&world, n, days_ago(n))).collect();
    let at = |name: &str| world.store().join(name);
    forge::write(&runs[0].path.join("run.json"), b"{\"schema\":1,");
    forge::write(
        &runs[1].path.join("run.json"),
        runs[1].text("run.json").replace("\"schema\":1", "\"schema\":99").as_bytes(),
    );
    forge::write(&runs[1].path.join("reserve"), b"theirs");
    forge::write(&runs[2].path.join("run.json"), runs[3].text("run.json").as_bytes());
    fs::create_dir(at("runs/mine")).expect("a directory");
    fs::write(at("live/mine"), "").expect("a file");
    symlink("/etc", at("runs/20200101-000000-000000")).expect("a link");
    fs::create_dir(at("runs/20200101-000000-000001")).expect("an empty run");
    fs::set_permissions(at("runs/20200101-000000-000001"), fs::Permissions::from_mode(0o700))
        .expect("its mode");
    fs::create_dir(at("runs/20200101-000000-000002")).expect("a newer run that lives");
    fs::set_permissions(at("runs/20200101-000000-000002"), fs::Permissions::from_mode(0o700))
        .expect("its mode");
    let newer = runs[3].text("run.json").replace("\"schema\":1", "\"schema\":99");
    let newer = newer.replace(&runs[3].id(), "20200101-000000-000002");
    forge::write(&at("runs/20200101-000000-000002/status.json"), newer.as_bytes());
    forge::write(&at("runs/20200101-000000-000002/lock"), b"");
    let strange = at("runs/20200101-000000-000004");
    fs::create_dir(&strange).expect("a newer run of another form");
    fs::set_permissions(&strange, fs::Permissions::from_mode(0o700)).expect("its mode");
    forge::write(&strange.join("run.json"), b"{\"schema\":99,\"ended\":true}");
    if nix::unistd::geteuid().is_root() {
        fs::create_dir(at("runs/20200101-000000-000003")).expect("somebody else's");
        chown(at("runs/20200101-000000-000003"), Some(12_345), None).expect("another owner");
    }
    let before = picture(&world.store());
    let found = ask(&world, &["doctor", "--runs", "--fix", "--json"]);
    let mut expected: BTreeSet<String> =
        ["run.torn", "foreign.name", "foreign.kind"].map(str::to_owned).into();
    if nix::unistd::geteuid().is_root() {
        expected.insert("run.owner".to_owned());
    }
    assert_eq!(kinds(&findings(found.assert_code(1))), expected, "{found:?}");
    assert_eq!(found.out().matches("\"run.newer\"").count(), 3, "{found:?}");
    assert_eq!(picture(&world.store()), before, "nothing is touched");
}

#[test]
fn odd_things_in_the_place_of_files_stop_nobody() {
    let world = World::new();
    let runs: Vec<_> = (1..=4).map(|n| forge::run(&world, n, days_ago(n))).collect();
    for (run, name) in runs.iter().zip(["run.json", "status.json", "task.json", "lock"]) {
        fs::remove_file(run.path.join(name)).expect("a file");
        assert!(Command::new("mkfifo").arg(run.path.join(name)).status().expect("mkfifo").success());
    }
    let found = ask(&world, &["doctor", "--runs", "--json"]);
    let expected = ["run.torn", "run.status", "run.task", "run.lock"].map(str::to_owned);
    assert_eq!(kinds(&findings(found.assert_code(1))), expected.into(), "{found:?}");
    let mended = ask(&world, &["doctor", "--runs", "--fix", "--json"]);
    let left: Vec<_> = findings(&mended).into_iter().filter(|f| f["fix"]["done"] == false).collect();
    assert_eq!(kinds(&left), ["run.torn", "run.lock"].map(str::to_owned).into(), "{mended:?}");
}

// ---- dead runs ------------------------------------------------------------------------------------------------------

#[test]
fn a_dead_run_is_told_of_and_sealed_only_where_that_is_wanted() {
    let world = World::new();
    let Some(space) = PidNamespace::open() else { return };
    let run = forge::behead(&world, &space, &["linger", "60"]);
    let command = run.status_json()["command"].clone();
    let inside = Process {
        pid: i32::try_from(command["pid"].as_i64().expect("a pid")).expect("an id"),
        start_time: command["start_time"].as_u64().expect("a start"),
    };
    let orphan = space.outside(inside).expect("the command");
    let within = |words: &[&str]| space.enter(world.bookend(words.iter().copied())).run();
    let found = within(&["doctor", "--runs", "--json"]);
    assert_eq!(kinds(&findings(found.assert_code(1))), ["run.orphaned".to_owned()].into());
    assert!(orphan.signal(Signal::SIGKILL));
    orphan.wait_gone(Duration::from_secs(10));
    for _ in 0..2 {
        let found = within(&["doctor", "--runs", "--json"]);
        assert_eq!(kinds(&findings(found.assert_code(1))), ["run.unsealed".to_owned()].into());
        assert!(!run.is_sealed(), "looking seals nothing");
    }
    let mended = within(&["doctor", "--runs", "--fix"]);
    assert!(mended.assert_code(0).out().contains("sealed it"), "{mended:?}");
    assert_eq!(run.run_json()["status"], "lost");
    within(&["doctor", "--runs"]).assert_code(0);
}

#[test]
fn processes_of_runs_that_are_over_are_found_and_ended() {
    let world = World::new();
    let Some(space) = PidNamespace::open() else { return };
    let within = |words: &[&str]| space.enter(world.bookend(words.iter().copied())).run();
    space.enter(world.run_artist(&["-q"], &["exit", "0"])).run().assert_code(0);
    let run = world.only_run();
    // One that carries the run's mark, one that carries that of no run here, and one without a mark.
    let linger = |mark: &str| {
        let call = world.command(crate::world::artist(), ["linger", "60"]);
        let call = if mark.is_empty() { call } else { call.env("BOOKEND_RUN_ID", mark) };
        let running = space.enter(call).spawn();
        running.wait_ready();
        running
    };
    let (marked, other, bare) = (linger(&run.id()), linger("20200101-000000-000000"), linger(""));
    let found = within(&["doctor", "--runs", "--json"]);
    assert_eq!(kinds(&findings(found.assert_code(1))), ["run.processes".to_owned()].into(), "{found:?}");
    let mended = within(&["doctor", "--runs", "--fix"]);
    assert!(mended.assert_code(0).out().contains("ended them"), "{mended:?}");
    let ended = marked.wait_within(Duration::from_secs(10));
    assert!(ended.code == Some(143) || ended.signal == Some(libc::SIGTERM), "{ended:?}");
    within(&["doctor", "--runs"]).assert_code(0);
    for spared in [other, bare] {
        assert!(spared.process().is_alive());
    }
    // A run of another boot has no processes any more: whoever carries its mark inherited it.
    let stranger = linger(&run.id());
    let text = run.text("run.json");
    let boot = run.run_json()["owner"]["boot_id"].as_str().expect("a boot").to_owned();
    for name in ["run.json", "status.json"] {
        forge::write(&run.path.join(name), text.replace(&boot, "another").as_bytes());
    }
    within(&["doctor", "--runs", "--fix"]).assert_code(0);
    assert!(stranger.process().is_alive());
}

#[test]
fn root_is_told_and_a_network_or_shared_place_is_warned_of() {
    let mut world = World::new();
    let found = ask(&world, &["doctor", "--json"]).assert_code(0).out();
    assert_eq!(found.contains("\"user.root\""), nix::unistd::geteuid().is_root());
    let shared = world.path("shared");
    fs::create_dir(&shared).expect("a directory");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).expect("its mode");
    world.set_store(&shared.join("store"));
    forge::run(&world, 1, days_ago(1));
    let answer = ask(&world, &["doctor", "--json"]);
    // The directories that the forger makes on the way are private, as the store's own are.
    assert_eq!(kinds(&findings(answer.assert_code(1))), ["store.shared_dir".to_owned()].into(), "{answer:?}");
    if go_on_with("root, to give the store away", nix::unistd::geteuid().is_root()) {
        chown(world.store(), Some(12_345), None).expect("another owner");
        let refused = ask(&world, &["doctor", "--fix"]);
        assert!(refused.assert_code(1).out().contains("belongs to user 12345"), "{refused:?}");
    }
}
