//! A disk that is full, gone, read-only or limited, before the start, during the run and at its end: the record is
//! sealed or the start refused, and the command is unharmed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use nix::sys::signal::Signal;

use crate::world::{
    Finished, Invocation, LIMIT, Output, Process, RunDir, Running, Tmpfs, World, artist, assert_follows,
    eventually, go_on_with, have,
};

const MIB: u64 = 1 << 20;
/// Prints, waits for a line of input, prints again and ends with its own code.
const TWO_STEPS: &str = "echo ready; read line; echo more; echo problem >&2; : >$MARK; exit 7";
const CAPTURES: [&str; 2] = ["pipe", "file"];

/// A world whose store is on a small disk, or nothing without root.
fn small_world(inodes: u64) -> Option<(World, Tmpfs)> {
    let mut world = World::new();
    let disk = world.tmpfs(MIB, inodes)?;
    world.set_store(&disk.path.join("store"));
    world.set_env("MARK", world.path("mark"));
    world.set_env("XDG_RUNTIME_DIR", world.path("home"));
    Some((world, disk))
}

fn marked(world: &World) -> bool {
    world.path("mark").exists()
}

/// The command of two steps, which waits between them.
fn two_steps(world: &World, capture: &str) -> Invocation {
    world.bookend(["run", "--stdin", "--capture", capture, "--", "sh", "-c", TWO_STEPS]).open_input()
}

fn go_on(mut running: Running) -> Finished {
    running.send(b"\n");
    running.end_input();
    running.wait()
}

/// The whole and valid record of the only run, which ended by itself with 7.
fn assert_ended_by_itself(world: &World, done: &Finished) -> Value {
    done.assert_code(7);
    assert!(marked(world), "the command did not come to its end");
    let record = checked(world, &world.only_run());
    assert_eq!(
        (&record["exit_reason"], &record["exit"]["code"]),
        (&"exited".into(), &7.into()),
        "{record:#}"
    );
    world.assert_no_process_left();
    record
}

fn checked(world: &World, run: &RunDir) -> Value {
    let record = run.run_json();
    assert_follows(&world.schema("run"), &record);
    let listed = world.bookend(["ps", "-a", "--json"]).run().json();
    assert_eq!(listed["runs"][0]["exit_reason"], record["exit_reason"], "{listed:#}");
    record
}

/// No run was begun: the caller knows why and what to do, and nothing is left behind.
fn assert_refused(world: &World, done: &Finished) {
    done.assert_code(125);
    assert!(!marked(world) && world.runs().is_empty(), "{done:?}");
    let (err, store) = (done.err(), world.store());
    assert!(err.contains("hint:") && err.contains(&*store.to_string_lossy()), "{err}");
    let line = err.lines().find(|line| line.starts_with('{')).expect("a line of JSON");
    let record: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(record["status"], "failed");
    let left: Vec<_> = fs::read_dir(store.join("runs")).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_disk_that_is_full_before_the_start_is_refused_and_nothing_is_left() {
    for prepared in [false, true] {
        for fill in [|disk: &Tmpfs| disk.fill(0), Tmpfs::fill_inodes] {
            let Some((world, disk)) = small_world(64) else { return };
            if prepared {
                world.run_artist(&["--quiet"], &["exit", "0"]).run().assert_code(0);
                fs::remove_dir_all(world.only_run().path).expect("no run");
            }
            fill(&disk);
            let call = world.bookend(["run", "--", "sh", "-c", ": >$MARK"]);
            assert_refused(&world, &call.run());
            disk.relieve();
            call.run().assert_code(0);
            assert_eq!(checked(&world, &world.only_run())["status"], "completed");
        }
    }
}

#[test]
fn with_little_room_a_run_begins_whole_or_not_at_all() {
    for pages in 0..20 {
        let Some((world, disk)) = small_world(64) else { return };
        disk.fill(pages * 4096);
        let done = world.bookend(["run", "--", "sh", "-c", ": >$MARK; exit 7"]).run();
        if world.runs().is_empty() {
            assert_refused(&world, &done);
        } else {
            assert_ended_by_itself(&world, &done);
        }
    }
}

#[test]
fn a_command_that_fills_the_disk_is_unharmed_and_its_output_arrives() {
    const BYTES: u64 = 4 * MIB;
    let Some((world, _disk)) = small_world(64) else { return };
    let done = world.run_artist(&["--capture", "pipe"], &["gen", &BYTES.to_string()]).run();
    done.assert_code(0);
    let expected = world.command(artist(), ["gen", &BYTES.to_string()]).run();
    assert!(done.stdout == expected.stdout, "{} bytes arrived", done.stdout.len());
    let record = checked(&world, &world.only_run());
    let log = world.only_run().log();
    let dropped = record["log"]["dropped_bytes"].as_u64().expect("a number");
    assert_eq!((log.len() as u64 + dropped, &record["log"]["bytes"]), (BYTES, &log.len().into()));
    assert!(dropped > BYTES / 2 && expected.stdout.starts_with(&log), "the log is not the beginning");
    assert!(record["degraded"].to_string().contains("bytes of output are missing"), "{record:#}");
    world.assert_no_process_left();
}

#[test]
fn a_slow_reader_on_a_full_disk_is_waited_for() {
    const BYTES: u64 = 8 * MIB;
    let Some((world, disk)) = small_world(64) else { return };
    let call = world.run_artist(&["--capture", "pipe"], &["gen", &BYTES.to_string()]);
    let mut running = call.output(Output::Unread).spawn();
    let run = world.wait_for_run();
    let full = || fs::write(disk.path.join("probe"), [1; 8192]).is_err().then_some(());
    eventually(LIMIT, "full disk", full);
    let mut pipes = running.take_pipes();
    let (mut out, mut err) = (Vec::new(), pipes.pop().expect("standard error"));
    pipes.pop().expect("standard output").read_to_end(&mut out).expect("all of it");
    err.read_to_end(&mut Vec::new()).expect("its end");
    running.wait().assert_code(0);
    let expected = world.command(artist(), ["gen", &BYTES.to_string()]).run();
    assert!(out == expected.stdout, "{} bytes arrived", out.len());
    let record = checked(&world, &run);
    let dropped = record["log"]["dropped_bytes"].as_u64().expect("a number");
    assert_eq!(run.log().len() as u64 + dropped, BYTES);
}

#[test]
fn a_command_that_writes_the_log_itself_sees_the_full_disk_and_its_end_is_recorded() {
    let Some((world, _disk)) = small_world(64) else { return };
    let done = world.run_artist(&["--capture", "file"], &["gen", &(4 * MIB).to_string()]).run();
    let record = checked(&world, &world.only_run());
    assert_eq!(record["exit_reason"], "exited", "{record:#}");
    assert_eq!(record["exit"]["code"], done.code.expect("a code"), "{record:#}");
    assert_ne!(done.code, Some(0));
}

#[test]
fn a_disk_that_another_fills_takes_no_record_and_harms_no_command() {
    for capture in CAPTURES {
        for fill in [|disk: &Tmpfs| disk.fill(0), Tmpfs::fill_inodes] {
            let Some((world, disk)) = small_world(64) else { return };
            let running = two_steps(&world, capture).spawn();
            running.wait_ready();
            fill(&disk);
            let done = go_on(running);
            let record = assert_ended_by_itself(&world, &done);
            if capture == "pipe" {
                assert_eq!(done.out(), "ready\nmore\n");
                assert!(done.err().contains("problem\n"), "{done:?}");
            }
            let kept = world.only_run().log().len() as u64;
            let dropped = record["log"]["dropped_bytes"].as_u64().expect("a number");
            assert!(capture == "file" || kept + dropped == 19, "{kept} kept, {dropped} dropped");
        }
    }
}

#[test]
fn a_stop_on_a_full_disk_is_recorded_with_its_cause() {
    for fill in [|disk: &Tmpfs| disk.fill(0), Tmpfs::fill_inodes] {
        let Some((world, disk)) = small_world(64) else { return };
        let running = world.run_artist(&[], &["linger", "30"]).spawn();
        running.wait_ready();
        fill(&disk);
        running.signal(Signal::SIGTERM);
        running.wait().assert_signal(Signal::SIGTERM);
        let record = checked(&world, &world.only_run());
        assert_eq!((&record["status"], &record["exit_reason"]), (&"stopped".into(), &"terminated".into()));
        world.assert_no_process_left();
    }
}

#[test]
fn a_reader_seals_on_a_full_disk() {
    for fill in [|disk: &Tmpfs| disk.fill(0), Tmpfs::fill_inodes] {
        let Some((world, disk)) = small_world(64) else { return };
        let running = world.run_artist(&[], &["linger", "30"]).spawn();
        running.wait_ready();
        let run = world.only_run();
        let owner = run.status_json()["owner"].clone();
        fill(&disk);
        let pids = [&owner["pid"], &owner["front_pid"], &run.status_json()["command"]["pid"]];
        let processes = pids.map(|pid| {
            let pid = i32::try_from(pid.as_i64().expect("a process")).expect("a process id");
            Process::read(pid).expect("a living process")
        });
        // Stopped first, the keeper can not act on the death of the front.
        assert!(processes[0].signal(Signal::SIGSTOP));
        for process in [processes[1], processes[0], processes[2]] {
            assert!(process.signal(Signal::SIGKILL));
        }
        for process in processes {
            process.wait_gone(LIMIT);
        }
        drop(running.wait());
        let listed = world.bookend(["ps", "-a", "--json"]).run().json();
        assert_eq!(listed["runs"][0]["status"], "lost", "{listed:#}");
        assert_eq!(checked(&world, &run)["exit_reason"], "lost");
    }
}

#[test]
fn a_limit_on_the_size_of_files_is_like_a_full_disk() {
    const MOST: u64 = 128 * 1024;
    let world = World::new();
    let call = world.run_artist(&["--capture", "pipe"], &["gen", &MIB.to_string()]);
    let done = call.inheriting(&[&format!("fsize={MOST}"), "ignore=XFSZ"]).run();
    done.assert_code(0);
    assert_eq!(done.stdout.len() as u64, MIB);
    let record = checked(&world, &world.only_run());
    assert_eq!(record["log"]["bytes"], MOST);
    assert_eq!(record["log"]["dropped_bytes"], MIB - MOST);
    assert!(!record["degraded"].as_array().expect("a list").is_empty(), "{record:#}");
}

#[test]
fn a_limit_below_what_a_record_needs_is_refused() {
    let mut world = World::new();
    world.set_env("MARK", world.path("mark"));
    let call = world.bookend(["run", "--", "sh", "-c", ": >$MARK"]);
    assert_refused(&world, &call.inheriting(&["fsize=4096"]).run());
}

#[test]
fn few_open_files_are_a_refusal_or_a_whole_run() {
    let mut begun = 0;
    for capture in CAPTURES {
        for limit in 3..=40 {
            let mut world = World::new();
            world.set_env("MARK", world.path("mark"));
            world.set_env("XDG_RUNTIME_DIR", world.path("home"));
            let call = world.bookend(["run", "--capture", capture, "--", "sh", "-c", ": >$MARK; exit 7"]);
            let done = call.inheriting(&[&format!("nofile={limit}")]).run();
            if world.runs().is_empty() {
                assert!(
                    matches!(done.code, Some(125 | 127 | 134)) || done.signal.is_some(),
                    "{limit}: {done:?}"
                );
                assert!(!marked(&world), "{limit}: {done:?}");
                continue;
            }
            let record = checked(&world, &world.only_run());
            let code = i64::from(done.code.expect("a code"));
            assert_eq!(record["wrapper_exit_code"], code, "{limit}: {done:?}");
            match record["exit_reason"].as_str() {
                Some("exited") => assert!(code == 7 && marked(&world), "{limit}: {record:#}"),
                Some("spawn_failed") => assert!(!marked(&world), "{limit}: {record:#}"),
                reason => panic!("{limit}: {reason:?}: {record:#}"),
            }
            begun += usize::from(code == 7);
            world.assert_no_process_left();
        }
    }
    assert!(begun > 10, "only {begun} runs began");
}

/// The record that a bookend saved elsewhere: in the spool, or as its last word.
fn saved_elsewhere(world: &World, done: &Finished) -> Value {
    let spool = world.path("home").join("bookend");
    let spooled: Vec<PathBuf> =
        fs::read_dir(spool).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let line = match spooled.as_slice() {
        [file] => {
            assert!(done.err().contains(&*file.to_string_lossy()), "nobody says where it is: {done:?}");
            fs::read_to_string(file).expect("the spool file")
        }
        [] => done.err().lines().find(|line| line.starts_with('{')).expect("the record").to_owned(),
        many => panic!("{many:?}"),
    };
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn a_run_whose_directory_is_removed_goes_on_and_its_record_is_saved_elsewhere() {
    for capture in CAPTURES {
        for spool in [true, false] {
            for whole_store in [false, true] {
                let mut world = World::new();
                world.set_env("MARK", world.path("mark"));
                let place = world.path(if spool { "home" } else { "nowhere" });
                world.set_env("XDG_RUNTIME_DIR", place);
                let running = two_steps(&world, capture).spawn();
                running.wait_ready();
                let gone = if whole_store { world.store() } else { world.only_run().path };
                fs::remove_dir_all(gone).expect("nothing left");
                let done = go_on(running);
                assert!(marked(&world), "{done:?}");
                done.assert_code(if spool { 7 } else { 125 });
                let (both, out) = ("ready\nmore\nproblem\n", "ready\nmore\n");
                assert_eq!(done.out(), if capture == "file" { both } else { out });
                let record = saved_elsewhere(&world, &done);
                assert_follows(&world.schema("run"), &record);
                assert_eq!((&record["exit_reason"], &record["exit"]["code"]), (&"exited".into(), &7.into()));
                assert!(
                    record["degraded"].to_string().contains("run.json could not be written"),
                    "{record:#}"
                );
                world.assert_no_process_left();
            }
        }
    }
}

/// An ext4 on a loop device that can be made to fail as a broken disk does.
struct Ext4 {
    path: PathBuf,
}

impl Ext4 {
    fn mount(world: &World) -> Option<Self> {
        let able = nix::unistd::geteuid().is_root() && Path::new("/dev/loop-control").exists();
        if !go_on_with("root and loop devices, to mount an ext4", able) || !have("mkfs.ext4") {
            return None;
        }
        let (image, path) = (world.path("image"), world.path("ext4"));
        fs::File::create(&image).and_then(|file| file.set_len(16 * MIB)).expect("an image");
        fs::create_dir(&path).expect("a directory to mount on");
        let quiet = |command: &mut Command| command.output().is_ok_and(|done| done.status.success());
        let made = quiet(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))
            && quiet(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path));
        go_on_with("a loop device that can be mounted", made).then_some(Self { path })
    }

    /// What the kernel does when the disk breaks: read-only from now on, whoever has files open.
    fn abort(&self) {
        let done = Command::new("mount").args(["-o", "remount,abort"]).arg(&self.path).output();
        drop(done.expect("mount starts"));
        assert!(fs::write(self.path.join("probe"), "x").is_err(), "the disk still takes files");
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

#[test]
fn a_disk_that_turns_read_only_takes_no_command_with_it() {
    for capture in CAPTURES {
        let mut world = World::new();
        let Some(disk) = Ext4::mount(&world) else { return };
        world.set_store(&disk.path.join("store"));
        world.set_env("MARK", world.path("mark"));
        world.set_env("XDG_RUNTIME_DIR", world.path("home"));
        let running = two_steps(&world, capture).spawn();
        running.wait_ready();
        disk.abort();
        let done = go_on(running);
        done.assert_code(7);
        assert!(marked(&world), "{done:?}");
        assert!(capture == "file" || done.out() == "ready\nmore\n", "{done:?}");
        let record = saved_elsewhere(&world, &done);
        assert_follows(&world.schema("run"), &record);
        assert_eq!((&record["exit_reason"], &record["exit"]["code"]), (&"exited".into(), &7.into()));
        world.assert_no_process_left();
    }
}
