//! Each file of a dead run as each thing that it should not be: the run is sealed all the same, where anything is known
//! of it, and nothing is done to what hides behind the file's name.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::Value;

use super::malformed::{Yard, copy, hash_of};
use super::mutation::{FILES, Ground, remove};

/// Puts something in the place of a file that is not there any more.
type Kind = (&'static str, fn(&Ground, &Path));

const KINDS: [Kind; 8] = [
    ("a link out", |ground, path| symlink(ground.outside.join("victim"), path).expect("a link")),
    ("a dangling link", |ground, path| symlink(ground.outside.join("absent"), path).expect("a link")),
    ("a hard link", |ground, path| fs::hard_link(ground.outside.join("victim"), path).expect("a hard link")),
    ("a FIFO", |_, path| nix::unistd::mkfifo(path, Mode::S_IRWXU).expect("a FIFO")),
    ("a device", |_, path| {
        let _ = mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5));
    }),
    ("a directory", |_, path| fs::create_dir_all(path.join("more")).expect("a directory")),
    ("four gigabytes", |_, path| File::create(path).and_then(|f| f.set_len(4 << 30)).expect("a sparse file")),
    ("nothing", |_, _| {}),
];

#[test]
fn every_file_as_everything_that_it_is_not() {
    let Some(mut yard) = Yard::open() else { return };
    for (kind, put) in KINDS {
        let store = yard.world.path(&format!("grid {kind}"));
        copy(&yard.world.path("template"), &store);
        remove(&store.join("runs").join(&yard.unsealed));
        let ids: Vec<String> = (0..FILES.len()).map(|at| format!("20260101-000000-0000{at:02}")).collect();
        for (name, id) in FILES.iter().zip(&ids) {
            let dir = yard.copy_run(&store, &yard.unsealed, id);
            remove(&dir.join(name));
            put(&yard.ground, &dir.join(name));
        }
        yard.before = hash_of(&yard.ground.outside);
        let good = yard.good_files(&store);
        let ask = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let done = yard.call(&store, &words, false).run();
            assert!(matches!(done.code, Some(0 | 1)) && !done.err().contains("panicked"), "{kind}: {done:?}");
        };
        ask(&["ps", "-a"]);
        for id in &ids {
            ask(&["kill", id]);
            ask(&["note", id, "a note"]);
        }
        for (name, id) in FILES.iter().zip(&ids) {
            let known = !matches!(*name, "run.json" | "status.json" | "lock")
                || *name == "run.json" && kind == "nothing";
            if known {
                let record = fs::read(store.join("runs").join(id).join("run.json")).unwrap_or_default();
                let record: Value = serde_json::from_slice(&record).unwrap_or_default();
                assert_eq!(record["status"], "lost", "{kind} for {name}: {record:#}");
            }
        }
        yard.check(&store, &good).unwrap_or_else(|wrong| panic!("{kind}: {wrong}"));
        remove(&store);
    }
}
