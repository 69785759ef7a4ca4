//! Whose a store is, and who may write to it: every command refuses one that is not its user's alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::unistd::{Gid, Uid, chown};

use super::commands::ROWS;
use super::malformed::copy;
use crate::world::{Finished, World, go_on_with, have};

/// A store with one good run; its id.
fn with_a_run(world: &World) -> String {
    world.bookend(["run", "--quiet", "--name", "good", "--", "true"]).run().assert_code(0);
    world.only_run().id()
}

/// Every command, `run` among them, refuses the store with these words and leaves all of it as it is.
#[track_caller]
fn assert_all_refuse(world: &World, says: &[&str], launcher: &[&str]) {
    // The doctor looks at what others refuse, and says what to do.
    let sick = world.bookend(["doctor"]).under(launcher).run();
    assert!(!sick.assert_code(1).out().is_empty(), "{sick:?}");
    let rows = ROWS.iter().filter(|row| row.words[0] != "doctor").map(|row| row.words_for("latest"));
    let run = ["run", "--quiet", "--", "touch", "ran"].map(str::to_owned).to_vec();
    for words in rows.chain([run]) {
        let code = if words[0] == "run" { 125 } else { 1 };
        let done = world.bookend(words.iter().cloned()).under(launcher).run();
        let err = done.assert_code(code).err();
        assert!(says.iter().all(|part| err.contains(part)), "{words:?}: no {says:?}: {err}");
        assert!(err.contains("hint: "), "{words:?}: {err}");
        assert_eq!(done.out(), "", "{words:?}");
    }
    assert!(!world.path("work/ran").exists(), "the command ran all the same");
}

/// Names and bytes of all files in a tree.
fn files(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap_or_default()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_store_that_others_may_write_to_is_refused() {
    for (part, mode) in [("", 0o770), ("", 0o702), ("runs", 0o720), ("runs", 0o777), ("live", 0o770)] {
        let world = World::new();
        with_a_run(&world);
        let before = files(&world.store());
        let path = world.store().join(part);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        let path = path.display().to_string();
        let path = path.trim_end_matches('/');
        assert_all_refuse(
            &world,
            &[&format!("opening store {path}"), "other users may write", "chmod go-w"],
            &[],
        );
        assert_eq!(files(&world.store()), before);
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("a mode");
        world.bookend(["show", "good"]).run().assert_code(0);
    }
}

#[test]
fn parts_of_a_store_that_are_links_or_files_are_refused() {
    for part in ["runs", "live"] {
        for as_link in [true, false] {
            let world = World::new();
            let id = with_a_run(&world);
            let (inside, elsewhere) = (world.store().join(part), world.path("elsewhere"));
            fs::rename(&inside, &elsewhere).expect("a part");
            if as_link {
                // What a marker of the run would be taken for.
                fs::write(elsewhere.join(&id), "victim").unwrap_or_default();
                symlink(&elsewhere, &inside).expect("a link");
            } else {
                fs::write(&inside, "a file").expect("a file");
            }
            let before = files(&elsewhere);
            let path = inside.display().to_string();
            assert_all_refuse(&world, &["opening store", &path, "is in the way"], &[]);
            assert_eq!(files(&elsewhere), before, "{part} elsewhere was changed");
        }
    }
}

/// The store itself may be a link: people keep their state on other disks.
#[test]
fn a_link_to_a_store_leads_there() {
    let mut world = World::new();
    with_a_run(&world);
    symlink(world.store(), world.path("link")).expect("a link");
    world.set_store(&world.path("link"));
    world.bookend(["show", "good"]).run().assert_code(0);
    world.bookend(["run", "--quiet", "--", "true"]).run().assert_code(0);
    assert_eq!(world.runs().len(), 2);
}

/// Every part of a store that bookend makes is its user's alone.
#[test]
fn what_is_made_is_private() {
    let world = World::new();
    let call = world.bookend(["run", "--capture", "pipe", "--", "sh", "-c", "umask; exit 3"]);
    let done = call.inheriting(&["umask=0"]).run();
    assert_eq!(done.assert_code(3).out(), "0000\n", "the command has the caller's umask");
    world.bookend(["note", "latest", "a note"]).run().assert_code(0);
    world.bookend(["run", "--oops", "--", "true"]).run().assert_code(2);
    let mut seen = 0;
    let mut look = vec![world.store()];
    while let Some(path) = look.pop() {
        let found = path.symlink_metadata().expect("a file");
        let wanted = if found.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(found.permissions().mode() & 0o7777, wanted, "{}", path.display());
        seen += 1;
        look.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    assert!(seen > 12, "{seen}");
}

// ---- two users ------------------------------------------------------------------------------------------------------

const ALICE: u32 = 54_321;

fn as_user(uid: u32) -> Vec<String> {
    let words = [
        "setpriv".to_owned(),
        format!("--reuid={uid}"),
        format!("--regid={uid}"),
        "--clear-groups".to_owned(),
    ];
    words.to_vec()
}

/// A world whose store is Alice's, who has one run in it; none where this user can not become her.
fn of_alice() -> Option<World> {
    if !go_on_with("root, to be two users", Uid::effective().is_root()) || !have("setpriv") {
        return None;
    }
    let mut world = World::new();
    let home = world.path("alice");
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::create_dir(&home).expect("a home");
    chown(&home, Some(Uid::from_raw(ALICE)), Some(Gid::from_raw(ALICE))).expect("an owner");
    world.set_store(&home.join("store"));
    let first = ask_as(&world, ALICE, &["run", "--quiet", "--name", "hers", "--", "true"]);
    let reached = go_on_with("a way to the world for other users", first.code == Some(0));
    reached.then_some(world)
}

fn ask_as(world: &World, uid: u32, words: &[&str]) -> Finished {
    world.bookend(words.iter().copied()).under(&as_user(uid)).cwd("/").run()
}

#[test]
fn a_store_of_another_user_is_refused() {
    let Some(world) = of_alice() else { return };
    ask_as(&world, ALICE, &["show", "hers"]).assert_code(0);
    let before = files(&world.store());
    // Bob may not even enter it; then he may, which changes nothing.
    let bob = as_user(ALICE + 1);
    let bob: Vec<&str> = bob.iter().map(String::as_str).collect();
    for mode in [0o700, 0o755] {
        fs::set_permissions(world.store(), fs::Permissions::from_mode(mode)).expect("a mode");
        let says = if mode == 0o700 {
            "Permission denied"
        } else {
            "it belongs to user 54321, not to you (user 54322)"
        };
        assert_all_refuse(&world, &["opening store", says], &bob);
    }
    // So is root: whoever reads a store writes to it too, and Alice could not use what root would leave there.
    assert_all_refuse(
        &world,
        &["it belongs to user 54321, not to you (user 0)", "setpriv --reuid=54321"],
        &[],
    );
    assert_eq!(files(&world.store()), before);
    ask_as(&world, ALICE, &["run", "--quiet", "--", "true"]).assert_code(0);
    assert_eq!(world.runs().len(), 2);
}

#[test]
fn a_part_of_another_user_is_refused() {
    let Some(world) = of_alice() else { return };
    let alice = as_user(ALICE);
    let alice: Vec<&str> = alice.iter().map(String::as_str).collect();
    for part in ["runs", "live"] {
        let path = world.store().join(part);
        chown(&path, Some(Uid::from_raw(ALICE + 1)), None).expect("an owner");
        let says = format!("opening store {}: it belongs to user 54322", path.display());
        assert_all_refuse(&world, &[&says], &alice);
        chown(&path, Some(Uid::from_raw(ALICE)), None).expect("an owner");
    }
    ask_as(&world, ALICE, &["show", "hers"]).assert_code(0);
}

/// A `.bookend` of somebody else in a directory above is no store of ours.
#[test]
fn a_store_above_that_is_not_ours_is_passed_over() {
    let Some(world) = of_alice() else { return };
    let place = world.path("work/.bookend");
    copy(&world.store(), &place);
    let run = || world.bookend(["run", "--quiet", "--", "true"]).without_env("BOOKEND_STORE");
    run().run().assert_code(0);
    assert!(world.path("home/.local/state/bookend/runs").is_dir());
    chown(&place, Some(Uid::effective()), None).expect("an owner");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).expect("a mode");
    run().run().assert_code(0);
    assert_eq!(fs::read_dir(world.path("home/.local/state/bookend/runs")).expect("runs").count(), 2);
}
