//! The place: the store's directory and file system, the configuration, the kernel.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Checkup, Fix, Level};
use crate::config;
use crate::disk::{self, Access, probe, tree};
use crate::process::{identity, tree as processes};
use crate::store::turn::Tally;
use crate::store::{LIVE, RUNS, Store};
use crate::view::sweep as words;

/// With less space than this a run soon has none.
const TIGHT_BYTES: u64 = 64 << 20;

/// Looks at the store's directory.
pub fn store(checkup: &mut Checkup, store: &Store) {
    let count = |ids: io::Result<Vec<_>>| ids.map_or(0, |ids: Vec<crate::model::id::RunId>| ids.len());
    let free = disk::free_space(store.dir());
    let room = free.as_ref().map_or("?".to_owned(), |bytes| words::size(*bytes));
    let runs = words::count(count(store.all()), "run");
    let path = store.path.display();
    checkup.fact("store", format!("{path} ({runs}, {} living; {room} free)", count(store.living())));
    if free.is_ok_and(|bytes| bytes < TIGHT_BYTES) {
        let fix = Fix::by_hand("bookend clean --older-than 30d, or set BOOKEND_STORE to another disk");
        checkup.find("store.full", Level::Problem, format!("there is little space for {path}"), room, fix);
    }
    if let Some(last) = store.last_tally() {
        checkup.fact("removed", removed(&last));
    }
    modes(checkup, store);
    surroundings(checkup, store);
    abilities(checkup, store);
}

/// The store and its two directories are for their owner alone.
fn modes(checkup: &mut Checkup, store: &Store) {
    for part in [".", RUNS, LIVE] {
        let path = store.path.join(part);
        let path = path.components().collect::<std::path::PathBuf>().display().to_string();
        let dir = match disk::open_dir_at(store.dir(), part) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let fix = checkup.mend("made it", || crate::store::make_parts(store.dir()));
                checkup.find("store.part", Level::Problem, format!("{path} is missing"), e.to_string(), fix);
                continue;
            }
            Err(e) => {
                let fix = Fix::by_hand("look at what is there, and move it away");
                let what = format!("{path} can not be opened as a directory");
                checkup.find("store.part", Level::Problem, what, e.to_string(), fix);
                continue;
            }
        };
        let Ok(found) = tree::look(&dir) else { continue };
        if found.uid != store.uid {
            let (what, evidence) =
                (format!("{path} is not yours"), format!("it belongs to user {}", found.uid));
            let fix = Fix::by_hand(format!("chown {path}, or set BOOKEND_STORE to a directory of your own"));
            checkup.find("store.owner", Level::Problem, what, evidence, fix);
        } else if found.is_open_to_others() {
            let fix = checkup.mend("took the others' rights away", || tree::set_mode(&dir, 0o700));
            let evidence = format!("its mode is {:04o}", found.mode);
            checkup.find("store.mode", Level::Problem, format!("others may look into {path}"), evidence, fix);
        }
    }
}

/// Where the store lies can make it less safe than it looks.
fn surroundings(checkup: &mut Checkup, store: &Store) {
    let path = store.path.display();
    // Whoever may write to the directory around it can put another one in its place before it is made.
    let shared = |dir: &&Path| dir.metadata().is_ok_and(|found| found.mode() & 0o002 != 0);
    if let Some(dir) = store.path.parent().filter(shared) {
        let evidence = format!("everybody may write to {}", dir.display());
        let fix =
            Fix::by_hand("set BOOKEND_STORE to a directory of your own, such as ~/.local/state/bookend");
        let what = format!("{path} lies in a shared directory");
        checkup.find("store.shared_dir", Level::Warning, what, evidence, fix);
    }
    if let Some(name) = probe::network_file_system(store.dir()) {
        let evidence =
            format!("its file system is {name}; locks and flushes may not mean there what they mean here");
        let fix = Fix::by_hand("set BOOKEND_STORE to a directory on a disk of this machine");
        checkup.find("store.network", Level::Warning, format!("{path} lies on a network"), evidence, fix);
    }
}

/// What the store's file system must be able to do, tried out.
fn abilities(checkup: &mut Checkup, store: &Store) {
    if let Err(e) = try_out(store) {
        let what = format!("{} is not a place where runs can be kept", store.path.display());
        let hint = crate::store::StoreError::Io { doing: "trying", path: store.path.clone(), source: e };
        let fix = Fix::by_hand(hint.hint());
        checkup.find("store.ability", Level::Problem, what, hint.to_string(), fix);
    }
}

/// Makes a file, locks it twice, renames it, and takes it away again.
fn try_out(store: &Store) -> io::Result<()> {
    let (name, other) =
        (format!(".probe-{}", identity::own_pid()), format!(".probe-{}.2", identity::own_pid()));
    let dir = store.dir();
    let tried = disk::create_at(dir, &name, Access::Write).and_then(|file| {
        let second = disk::open_at(dir, &name)?;
        let locks = disk::try_lock(&file)? && !disk::try_lock(&second)?;
        disk::rename_new_at(dir, &name, dir, &other)?;
        if locks { Ok(()) } else { Err(io::Error::other("two processes can hold one lock there")) }
    });
    let _ = disk::remove_at(dir, &name);
    let _ = disk::remove_at(dir, &other);
    tried
}

/// Looks at the configuration.
pub fn config(checkup: &mut Checkup, store: &Store) {
    let (path, config) = match config::read(store) {
        Ok(None) => return checkup.fact("config", "none"),
        Ok(Some(found)) => found,
        Err(e) => {
            checkup.fact("config", "not used");
            let fix = Fix::by_hand(e.hint());
            return checkup.find(
                "config.refused",
                Level::Problem,
                "the configuration is not used",
                e.to_string(),
                fix,
            );
        }
    };
    let retention = config.retention.as_ref();
    let says = retention.map(|r| words::rules(&r.rules, r.logs_only)).filter(|said| !said.is_empty());
    let said = says.map_or(String::new(), |said| format!(" (retention: {said})"));
    checkup.fact("config", format!("{}{said}", path.display()));
    for key in &config.unknown {
        let fix = Fix::by_hand(format!("correct it in {}, or take it away", path.display()));
        let evidence = "it is ignored".to_owned();
        checkup.find("config.unknown", Level::Warning, format!("{key} is unknown"), evidence, fix);
    }
    if retention.is_some_and(|r| !r.rules.say_what_goes()) {
        let fix = Fix::by_hand("add older_than, keep_last or max_total_size");
        let what = "[retention] does not say what goes";
        checkup.find("config.retention", Level::Warning, what, "so nothing is removed by itself", fix);
    }
}

/// What retention removed last: it may have happened where nobody read along.
fn removed(last: &Tally) -> String {
    const SHOWN: usize = 5;
    let rules: Vec<_> = last.rules.iter().map(|(rule, runs)| format!("{rule} {runs}")).collect();
    let ids: Vec<_> = last.run_ids.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = last.runs.saturating_sub(ids.len());
    let more = if more > 0 { format!(" and {more} more (retention.json)") } else { String::new() };
    let sum = words::sum(last.runs, last.bytes, last.logs_only);
    format!("{sum}, by retention at {} ({}): {}{more}", last.at, rules.join(", "), ids.join(", "))
}

/// Looks at the kernel, and at who this is.
pub fn system(checkup: &mut Checkup) {
    let (mut able, mut missing) = (Vec::new(), Vec::new());
    for (name, works, means) in [
        (
            "pidfd",
            processes::pidfd(identity::own_pid()).is_ok(),
            "processes are told apart by id and start time",
        ),
        ("RENAME_NOREPLACE", probe::can_rename_new(), "two that seal at once are kept apart by hard links"),
        ("openat2", probe::can_open_beneath(), "mounts inside of a run are told by their device alone"),
        ("signalfd", probe::can_read_signals(), "bookend run can not work"),
        ("subreaper", probe::can_be_subreaper(), "what a command leaves behind can get away"),
    ] {
        if works { able.push(name) } else { missing.push((name, means)) }
    }
    checkup.fact("kernel", able.join(", "));
    for (name, means) in missing {
        let fix = Fix::by_hand("a kernel of 5.6 or later, or a sandbox that allows it");
        checkup.find("kernel.feature", Level::Warning, format!("the kernel has no {name}"), means, fix);
    }
    if nix::unistd::geteuid().is_root() {
        let fix = Fix::by_hand("run bookend as the user whose work it is");
        let evidence = "what runs as root can do anything to this machine";
        checkup.find("user.root", Level::Note, "you are root", evidence, fix);
    }
    if nix::unistd::geteuid() != nix::unistd::getuid() {
        let fix = Fix::by_hand("chmod u-s the program");
        checkup.find(
            "user.setuid",
            Level::Problem,
            "bookend is set-uid",
            "whoever starts it acts as its owner",
            fix,
        );
    }
}

/// A thing that was found next to what belongs there.
pub fn text(name: &OsStr) -> String {
    crate::view::quote::visible_line(&name.to_string_lossy())
}
