//! What can lie in a store, and what becomes of it when runs are removed: nothing outside is ever touched.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Command;

use crate::clean::{ask, ids, names, removed, why_stays};
use crate::forge::{self, days_ago};
use crate::world::{World, go_on_with, have};

#[test]
fn nothing_outside_is_touched_whatever_lies_in_a_run() {
    let world = World::new();
    let run = forge::run(&world, 1, days_ago(1));
    let outside = world.path("outside");
    fs::create_dir_all(outside.join("inner")).expect("directories");
    fs::write(outside.join("inner/precious"), "precious").expect("a file");
    fs::write(outside.join("linked"), vec![b'x'; 100_000]).expect("a file");
    let inside = |name: &str| run.path.join(name);
    fs::hard_link(outside.join("linked"), inside("hard")).expect("a hard link");
    symlink(&outside, inside("to-dir")).expect("a link");
    symlink(outside.join("inner/precious"), inside("to-file")).expect("a link");
    symlink("nowhere", inside("dangling")).expect("a link");
    symlink("..", inside("up")).expect("a link");
    assert!(Command::new("mkfifo").arg(inside("fifo")).status().expect("mkfifo").success());
    drop(std::os::unix::net::UnixListener::bind(inside("socket")).expect("a socket"));
    for name in [&[b'n'; 255][..], b"two\nlines", b"\xff\xfe", b" ", b"-rf", "\u{202e}evil".as_bytes()] {
        fs::write(run.path.join(OsStr::from_bytes(name)), "odd").expect("an odd name");
        fs::create_dir(run.path.join(OsStr::from_bytes(&[b"d", &name[1..]].concat()))).ok();
    }
    let tasks = inside("tasks/one");
    fs::create_dir_all(&tasks).expect("directories");
    symlink(&outside, tasks.join("away")).expect("a link");
    fs::write(tasks.join("sealed"), "x").expect("a file");
    fs::set_permissions(&tasks, fs::Permissions::from_mode(0o500)).expect("its mode");
    let mut deep = inside("deep");
    for _ in 0..700 {
        deep.push("deep");
    }
    fs::create_dir_all(&deep).expect("a deep directory");

    let done = ask(&world, &["rm", "latest", "--json"]);
    let bytes = done.assert_code(0).json()["bytes"].as_u64().expect("bytes");
    assert!(bytes < 1_000_000, "{bytes}: what has another name elsewhere is not freed");
    assert_eq!(names(&world), [""; 0]);
    assert_eq!(fs::read_to_string(outside.join("inner/precious")).expect("still there"), "precious");
    assert_eq!(outside.join("linked").metadata().expect("still there").len(), 100_000);
}

#[test]
fn a_run_that_is_replaced_while_it_is_removed_stays() {
    let world = World::new();
    let (run, other) = (forge::run(&world, 1, days_ago(1)), forge::run(&world, 2, days_ago(2)));
    let (outside, signs) = (world.path("outside"), world.path("signs"));
    fs::create_dir(&outside).expect("a directory");
    fs::create_dir(&signs).expect("a directory");
    fs::write(outside.join("precious"), "precious").expect("a file");
    for link in [true, false] {
        let call = world.bookend(["rm", &run.id()]).env("BOOKEND_FAILPOINT", "clean.held=pause");
        let running = call.env("BOOKEND_FAILPOINT_DIR", &signs).spawn();
        running.wait_for_file(&signs.join("clean.held.reached"));
        fs::rename(&run.path, world.path("moved")).expect("moved away");
        if link {
            symlink(&outside, &run.path).expect("a link in its place");
        } else {
            fs::rename(&other.path, &run.path).expect("another run in its place");
        }
        fs::write(signs.join("clean.held.go"), "").expect("a sign");
        let refused = running.wait();
        assert!(
            refused.assert_code(1).err().contains("another directory was put in its place"),
            "{refused:?}"
        );
        assert_eq!(run.path.symlink_metadata().expect("still there").is_symlink(), link);
        assert!(outside.join("precious").exists());
        if link {
            fs::remove_file(&run.path).expect("the link");
        } else {
            assert!(run.path.join("run.json").exists(), "nothing of the other one went");
            fs::rename(&run.path, &other.path).expect("back again");
        }
        fs::rename(world.path("moved"), &run.path).expect("back again");
        for sign in ["clean.held.reached", "clean.held.go"] {
            fs::remove_file(signs.join(sign)).expect("a sign");
        }
    }
    ask(&world, &["clean", "-y"]).assert_code(0);
    assert_eq!(names(&world), [""; 0]);
}

#[test]
fn a_mount_inside_is_no_reason_to_stop_and_nothing_of_it_goes() {
    let world = World::new();
    if !go_on_with("root, to mount", nix::unistd::geteuid().is_root()) {
        return;
    }
    let runs: Vec<_> = (1..=3).map(|n| forge::run(&world, n, days_ago(n))).collect();
    let mount =
        |args: &[&OsStr]| assert!(Command::new("mount").args(args).status().expect("mount").success());
    let outside = world.path("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("precious"), "precious").expect("a file");
    let points = [runs[0].path.join("a/bound"), runs[1].path.join("mounted")];
    for point in &points {
        fs::create_dir_all(point).expect("a place to mount on");
    }
    // The one is of the same file system, so that its device tells nothing.
    mount(&["--bind".as_ref(), outside.as_os_str(), points[0].as_os_str()]);
    mount(&["-t".as_ref(), "tmpfs".as_ref(), "tmpfs".as_ref(), points[1].as_os_str()]);
    fs::write(points[1].join("precious"), "precious").expect("a file");

    let done = ask(&world, &["clean", "-y", "--json"]);
    let (code, trash) = (done.code, names(&world));
    let find =
        |name: &str| trash.iter().map(|t| world.store().join("runs").join(t)).find(|t| t.join(name).exists());
    let (bound, mounted) = (find("a/bound/precious"), find("mounted/precious"));
    for point in [&bound, &mounted].into_iter().flatten() {
        let place = if point.join("a").exists() { "a/bound" } else { "mounted" };
        assert!(Command::new("umount").arg(point.join(place)).status().expect("umount").success());
    }
    assert_eq!((code, trash.len()), (Some(1), 2), "{done:?} {trash:?}");
    assert!(bound.is_some() && mounted.is_some(), "{trash:?}");
    assert!(outside.join("precious").exists(), "nothing of what is mounted went");
    assert_eq!(removed(&done).len(), 3, "they are out of the store all the same");
    assert_eq!(world.runs().len(), 0);
    ask(&world, &["clean", "-y"]).assert_code(0);
    assert_eq!(names(&world), [""; 0]);
}

/// Gives a world to an unprivileged user; the words under which commands are then started.
fn as_nobody(world: &World) -> Option<[&'static str; 5]> {
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    if !go_on_with("root, to be somebody else", nix::unistd::geteuid().is_root()) || !have("setpriv") {
        return None;
    }
    let given = Command::new("chown").args(["-R", "65534:65534"]).arg(world.path("")).status();
    assert!(given.expect("chown").success());
    let reaches = world.bookend(["--version"]).under(&nobody).run().code == Some(0);
    go_on_with("a build directory that others may enter", reaches).then_some(nobody)
}

#[test]
fn what_an_ordinary_user_can_not_open_stays() {
    let world = World::new();
    let runs: Vec<_> = (1..=4).map(|n| forge::run(&world, n, days_ago(n))).collect();
    fs::create_dir_all(runs[2].path.join("closed/inner")).expect("directories");
    let Some(nobody) = as_nobody(&world) else { return };
    let closed = fs::Permissions::from_mode(0o000);
    fs::set_permissions(&runs[0].path, closed.clone()).expect("its mode");
    fs::set_permissions(runs[2].path.join("closed"), closed).expect("its mode");
    chown(&runs[1].path, Some(12_345), Some(12_345)).expect("another owner");
    fs::set_permissions(&runs[1].path, fs::Permissions::from_mode(0o755)).expect("its mode");

    let done = world.bookend(["clean", "-y", "--json"]).under(&nobody).run();
    assert_eq!(removed(done.assert_code(1)), [runs[2].id(), runs[3].id()].into(), "{done:?}");
    assert!(why_stays(&done, &runs[0].id()).contains("Permission denied"), "{done:?}");
    assert!(why_stays(&done, &runs[1].id()).contains("belongs to user 12345"), "{done:?}");
    assert_eq!(names(&world), [runs[1].id(), runs[0].id()]);
    let told = world.bookend(["clean", "-y"]).under(&nobody).run();
    assert!(told.err().contains(&format!("note: {} stays: Permission denied", runs[0].id())), "{told:?}");
}

#[test]
fn a_read_only_store_says_so_once() {
    let mut world = World::new();
    let Some(small) = world.tmpfs(64 << 20, 4096) else { return };
    world.set_store(&small.path.join("store"));
    for n in 1..=3 {
        forge::run(&world, n, days_ago(n));
    }
    let remount = |how: &str| {
        let mut mount = Command::new("mount");
        assert!(
            mount.args(["-o", &format!("remount,{how}")]).arg(&small.path).status().expect("mount").success()
        );
    };
    remount("ro");
    let answers = [
        ask(&world, &["clean", "-y"]),
        ask(&world, &["clean", "-y", "--logs-only"]),
        ask(&world, &["rm", "latest"]),
        ask(&world, &["doctor", "--runs", "--fix"]),
        ask(&world, &["clean", "-y", "--dry-run"]),
    ];
    remount("rw");
    for answer in &answers[..4] {
        answer.assert_code(1);
        let said = format!("{}{}", answer.out(), answer.err());
        assert_eq!(said.matches("Read-only file system").count(), 1, "{answer:?}");
    }
    answers[4].assert_code(0);
    assert_eq!(ids(&world).len(), 3);
}
