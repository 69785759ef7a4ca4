//! The store, and a full disk below it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::SECOND;
use crate::expect::{Expect, Points};
use crate::world::{Finished, World, go_on_with, have};

// ---- the store ------------------------------------------------------------------------------------------------

/// Every path below a directory with its size, to see that nothing was touched.
fn census(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for path in entries.flatten().map(|entry| entry.path()) {
        let known = path.symlink_metadata().expect("an entry");
        found.push((path.clone(), if known.is_dir() { 0 } else { known.len() }));
        if known.is_dir() {
            found.extend(census(&path));
        }
    }
    found.sort();
    found
}

/// A refusal: 125, an error that names the path and says what to do, one line of JSON, the command not started.
#[track_caller]
fn assert_refused(done: &Finished, names: &Path) {
    done.assert_code(125);
    let err = done.err();
    assert!(err.contains("bookend: error: ") && err.contains("hint: "), "{done:?}");
    assert!(err.contains(&*names.to_string_lossy()), "{} is not named: {done:?}", names.display());
    let records: Vec<Value> = err.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(records.len(), 1, "one line of JSON: {done:?}");
    assert_eq!((&records[0]["schema"], &records[0]["wrapper_exit_code"]), (&1.into(), &125.into()));
    assert_eq!(records[0]["status"], "failed");
    assert!(!records[0]["command"]["argv"].as_array().expect("a command").is_empty());
    assert!(done.stdout.is_empty(), "{done:?}");
    assert!(done.elapsed < 5 * SECOND, "{done:?}");
}

/// Runs a command that would leave a mark, and checks that it is refused and that nothing was touched.
#[track_caller]
fn assert_store_refused(world: &World, launcher: &[&str]) {
    let before = census(&world.path(""));
    let done = world.bookend(["run", "--", "touch", "the-command-ran"]).under(launcher).run();
    assert_refused(&done, &world.store());
    assert_eq!(census(&world.path("")), before, "something was touched");
    world.assert_no_process_left();
}

#[test]
fn e62_a_store_that_is_a_file() {
    let mut world = World::new();
    let place = world.path("file");
    fs::write(&place, "precious").expect("a file");
    world.set_store(&place);
    assert_store_refused(&world, &[]);
    world.set_store(&place.join("below"));
    assert_store_refused(&world, &[]);
}

#[test]
fn e62_a_store_with_a_file_in_the_way() {
    for part in ["runs", "live"] {
        let world = World::new();
        fs::create_dir(world.store()).expect("a store");
        fs::set_permissions(world.store(), fs::Permissions::from_mode(0o700)).expect("its mode");
        fs::write(world.store().join(part), "precious").expect("a file");
        let other = if part == "runs" { "live" } else { "runs" };
        fs::create_dir(world.store().join(other)).expect("the other part");
        let done = world.bookend(["run", "--", "touch", "the-command-ran"]).run();
        done.assert_code(125);
        assert!(done.err().contains("bookend: error: "), "{done:?}");
        assert_eq!(fs::read_to_string(world.store().join(part)).expect("the file"), "precious");
        assert!(!world.path("work/the-command-ran").exists());
        assert_eq!(world.runs().len(), 0);
    }
}

#[test]
fn e62_a_store_that_is_read_only() {
    let mut world = World::new();
    let Some(small) = world.tmpfs(1 << 20, 64) else { return };
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&small.path).status();
    assert!(remounted.expect("mount starts").success());
    world.set_store(&small.path);
    let done = world.bookend(["run", "--", "touch", "the-command-ran"]).run();
    assert_refused(&done, &small.path);
    world.set_store(&small.path.join("missing/parent"));
    assert_store_refused(&world, &[]);
}

#[test]
fn e62_a_store_that_may_not_be_written() {
    let world = World::new();
    if !go_on_with("root, to be somebody else", nix::unistd::geteuid().is_root()) || !have("setpriv") {
        return;
    }
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).expect("a way in");
    let reaches = world.command("true", [""; 0]).under(&nobody).run().code == Some(0)
        && world.bookend(["--version"]).under(&nobody).run().code == Some(0);
    if !go_on_with("a build directory that others may enter", reaches) {
        return;
    }
    assert_store_refused(&world, &nobody);
}

#[test]
fn e62_a_store_of_somebody_else_or_open_to_all() {
    let world = World::new();
    fs::create_dir(world.store()).expect("a store");
    fs::set_permissions(world.store(), fs::Permissions::from_mode(0o770)).expect("its mode");
    assert_store_refused(&world, &[]);
    fs::set_permissions(world.store(), fs::Permissions::from_mode(0o700)).expect("its mode");
    if go_on_with("root, to give the store away", nix::unistd::geteuid().is_root()) {
        chown(world.store(), Some(12_345), None).expect("another owner");
        assert_store_refused(&world, &[]);
    }
}

#[test]
fn e62_a_store_whose_parents_are_missing_is_made() {
    let mut world = World::new();
    let place = world.path("a/b/c/store");
    world.set_store(&place);
    Expect::exited(0).check(&world, &world.run_artist(&[], &["exit", "0"]).run());
    assert_eq!(fs::metadata(&place).expect("a store").permissions().mode() & 0o777, 0o700);
}

// ---- a full disk ----------------------------------------------------------------------------------------------

#[test]
fn e63_a_disk_that_is_full_before() {
    let mut world = World::new();
    let Some(small) = world.tmpfs(1 << 20, 64) else { return };
    world.set_store(&small.path.join("store"));
    small.fill(0);
    let done = world.bookend(["run", "--", "touch", "the-command-ran"]).run();
    assert_refused(&done, &small.path);
    assert!(done.err().contains("free some space"), "{done:?}");
    assert!(!world.path("work/the-command-ran").exists());
    small.relieve();
    small.fill_inodes();
    let done = world.bookend(["run", "--", "touch", "the-command-ran"]).run();
    assert_refused(&done, &small.path);
    small.relieve();
    Expect::exited(0).check(&world, &world.run_artist(&[], &["exit", "0"]).run());
}

#[test]
fn e63_a_disk_that_fills_up_during_the_run_hurts_no_command_behind_pipes() {
    let mut world = World::new();
    let Some(small) = world.tmpfs(2 << 20, 64) else { return };
    world.set_store(&small.path.join("store"));
    let bytes = 8_000_000 / 64 * 64;
    let done = world.run_artist(&["--capture", "pipe"], &["gen", "8000000"]).run();
    let record = Expect::exited(0).degraded().check(&world, &done);
    let (kept, dropped) = (&record["log"]["bytes"], &record["log"]["dropped_bytes"]);
    let sum = kept.as_u64().zip(dropped.as_u64()).map(|(kept, dropped)| kept + dropped);
    assert_eq!(sum, Some(bytes), "{record:#}");
    assert!(dropped.as_u64() > Some(4_000_000), "{record:#}");
    let log = world.only_run().log();
    assert_eq!(log[..], done.stdout[..log.len()], "the log is the beginning of what was said");
    assert!(done.err().contains("note: "), "{done:?}");
}

#[test]
fn e63_a_disk_that_fills_up_under_the_commands_own_log() {
    let mut world = World::new();
    let Some(small) = world.tmpfs(2 << 20, 64) else { return };
    world.set_store(&small.path.join("store"));
    let done = world.run_artist(&["--capture", "file"], &["gen", "8000000"]).run();
    let run = world.only_run();
    let record = run.run_json();
    assert!(matches!(record["status"].as_str(), Some("failed" | "completed")), "{record:#}");
    assert_eq!(Some(record["wrapper_exit_code"].as_i64().expect("a code") as i32), done.code);
    assert_eq!(record["log"]["bytes"], run.log().len());
    world.assert_no_process_left();
}

#[test]
fn e63_a_disk_that_is_full_at_the_end() {
    for inodes in [false, true] {
        let mut world = World::new();
        let Some(small) = world.tmpfs(2 << 20, 64) else { return };
        world.set_store(&small.path.join("store"));
        let points = Points::set(&mut world, "keeper.draining=pause");
        let running = world.run_artist(&["--quiet"], &["exit", "3"]).spawn();
        points.reached("keeper.draining");
        if inodes {
            small.fill_inodes();
        } else {
            small.fill(0);
        }
        points.go("keeper.draining");
        let record = Expect::exited(3).degraded().check(&world, &running.wait());
        let shown = world.bookend(["show", "--json", "latest"]).run().json();
        assert_eq!(shown, record, "a reader sees the record, whatever status.json says");
    }
}

#[test]
fn e64_an_environment_without_a_home() {
    let mut world = World::new();
    let state = world.path("state");
    let call = world.run_artist(&[], &["exit", "0"]);
    call.clone().without_env("HOME").run().assert_code(0);
    call.clone().env("HOME", "/no/such/home").env("XDG_RUNTIME_DIR", "relative").run().assert_code(0);
    call.clone().without_env("PATH").without_env("LANG").run().assert_code(0);
    assert_eq!(world.runs().len(), 3);
    call.clone()
        .without_env("BOOKEND_STORE")
        .without_env("HOME")
        .env("XDG_STATE_HOME", &state)
        .run()
        .assert_code(0);
    world.set_store(&state.join("bookend"));
    assert_eq!(world.runs().len(), 1);
    call.clone().env("BOOKEND_STORE", "").run().assert_code(0);
    world.set_store(&world.path("home/.local/state/bookend"));
    assert_eq!(world.runs().len(), 1, "an empty BOOKEND_STORE is none");
    if !go_on_with("root, to be somebody else", nix::unistd::geteuid().is_root()) || !have("setpriv") {
        return;
    }
    let unknown = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--"];
    if world.bookend(["--version"]).under(&unknown).run().code == Some(0) {
        let done = call.under(&unknown).without_env("BOOKEND_STORE").without_env("HOME").run();
        done.assert_code(125);
        assert!(done.err().contains("BOOKEND_STORE") && done.err().contains("hint: "), "{done:?}");
    }
}
