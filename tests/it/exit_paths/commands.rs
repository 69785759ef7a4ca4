//! The command's own ends.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::expect::Expect;
use crate::world::World;

/// Writes a file with a mode.
fn write_with_mode(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
}

#[test]
fn e24_a_command_that_can_not_be_invoked() {
    let world = World::new();
    let odd = world.path("odd");
    write_with_mode(&odd, "no program at all\n", 0o755);
    let done = world.bookend(["run", "--"]).arg(odd).run();
    let record = Expect::failed("spawn_failed", 126).check(&world, &done);
    assert_eq!(record["error"]["errno"], libc::ENOEXEC);
    assert_eq!(record["error"]["diagnostics"], "diagnostics.md");
    assert!(done.err().contains("could not be started"), "{done:?}");
}

#[test]
fn e25_success() {
    let world = World::new();
    let done = world.run_artist(&[], &["gen", "64", "both"]).run();
    let record = Expect::exited(0).check(&world, &done);
    assert_eq!(done.out(), "out 00000001 abcdefghijklmnopqr\n");
    let id = record["run_id"].as_str().expect("an id");
    let lines: Vec<_> = done.err().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], format!("bookend: run {id}"), "{done:?}");
    assert!(lines.iter().any(|line| line.starts_with("bookend: completed: exited with code 0")), "{done:?}");
    assert!(lines.last().is_some_and(|line| line.starts_with("bookend: next: bookend logs ")), "{done:?}");
    world.bookend(["wait", id]).run().assert_code(0);
}

#[test]
fn e26_failure_leaves_diagnostics() {
    let world = World::new();
    let done = world.bookend(["run", "--", "sh", "-c", "echo the last words >&2; exit 3"]).run();
    let record = Expect::exited(3).check(&world, &done);
    let text = world.only_run().text("diagnostics.md");
    assert!(text.contains("the last words") && text.contains("code 3"), "{text}");
    let id = record["run_id"].as_str().expect("an id");
    world.bookend(["wait", id]).run().assert_code(3);
    let shown = world.bookend(["show", "--json", id]).run();
    assert_eq!(shown.json(), record);
}

#[test]
fn e82_a_command_that_can_not_be_executed() {
    let world = World::new();
    let [plain, dir, ends, looped] = ["plain", "dir", "ends", "looped"].map(|name| world.path(name));
    write_with_mode(&plain, "#!/bin/sh\n", 0o644);
    fs::create_dir(&dir).expect("a directory");
    write_with_mode(&ends, "#!/no/such/interpreter\n", 0o755);
    symlink(&looped, &looped).expect("a loop");
    let rows: [(&OsStr, i32, i32); 6] = [
        ("no-such-command".as_ref(), 127, libc::ENOENT),
        (world.path("plain/x").leak_into(), 127, libc::ENOTDIR),
        (plain.as_ref(), 126, libc::EACCES),
        (dir.as_ref(), 126, libc::EACCES),
        (ends.as_ref(), 127, libc::ENOENT),
        (looped.as_ref(), 126, libc::ELOOP),
    ];
    for (program, code, errno) in rows {
        let world = World::new();
        let done = world.bookend(["run", "--"]).arg(program).run();
        let record = Expect::failed("spawn_failed", code).check(&world, &done);
        assert_eq!(record["error"]["errno"], errno, "{program:?}: {record:#}");
    }
}

/// A path that lives as long as the test process: rows of a table borrow it.
trait LeakInto {
    fn leak_into(self) -> &'static OsStr;
}

impl LeakInto for PathBuf {
    fn leak_into(self) -> &'static OsStr {
        Box::leak(self.into_os_string().into_boxed_os_str())
    }
}
