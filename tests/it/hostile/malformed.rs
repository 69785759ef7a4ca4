//! Stores made of good runs and of everything else, shown to every command.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::commands::{Of, ROWS, Row, steering};
use super::mutation::{ALL, Ground, NASTY, remove};
use crate::random::{Random, seed};
use crate::tripwire::{Reach, reach};
use crate::world::{
    Finished, Invocation, PidNamespace, Process, RunDir, Running, Terminal, World, artist, have,
};

/// Memory that a reader may take, whatever lies in the store.
const MEMORY: &str = "as=1073741824";
/// The time that it may take.
const BOUND: Duration = Duration::from_secs(20);
/// So many of the odd runs are asked for by name; all of them are listed.
const NAMED: usize = 2;
/// A user that nobody else is.
const SOMEBODY: [&str; 3] = ["--reuid=54321", "--regid=54321", "--clear-groups"];

/// A world with good runs to copy, a directory that nothing may touch, and a process that nothing may signal.
pub(super) struct Yard {
    pub(super) world: World,
    space: PidNamespace,
    pub(super) ground: Ground,
    canary: Process,
    _canary: Running,
    good: Vec<String>,
    /// A run that lived when it was copied, and is over since.
    pub(super) unsealed: String,
    made: u64,
    pub(super) before: u64,
    has_somebody: bool,
}

impl Yard {
    pub(super) fn open() -> Option<Self> {
        if !have("nsenter") || !have("setpriv") {
            return None;
        }
        let world = World::new();
        let space = PidNamespace::open()?;
        let signals = world.path("signals");
        let canary = space.enter(world.command(artist(), ["count-signals", "../signals", "for=60"]));
        let canary = canary.env("ARTIST_FUSE", "60").without_env("BOOKEND_TEST_WORLD").spawn();
        canary.wait_ready();
        let known = space.processes();
        let [(inside, outside)] = known.as_slice() else { panic!("one canary: {known:?}") };
        let ground = Ground {
            outside: world.path("outside"),
            canary: (inside.pid, inside.start_time),
            other_run: String::new(),
        };
        assert!(signals.exists());
        let canary_process = *outside;
        let mut yard = Self {
            world,
            space,
            ground,
            canary: canary_process,
            _canary: canary,
            good: Vec::new(),
            unsealed: String::new(),
            made: 0,
            before: 0,
            has_somebody: false,
        };
        yard.make_runs();
        yard.make_outside();
        yard.open_way();
        Some(yard)
    }

    /// Good runs of several ends, and one that is not sealed.
    fn make_runs(&mut self) {
        let rows: [&[&str]; 6] = [
            &["--", "true"],
            &[
                "--capture",
                "pipe",
                "--name",
                "good one",
                "-l",
                "a=b",
                "--",
                "sh",
                "-c",
                "echo out; echo err >&2; exit 3",
            ],
            &["--", "sh", "-c", "kill -9 $$"],
            &["--timeout", "20ms", "--", "sleep", "5"],
            &["--", "/nonexistent/program"],
            &["--log-max", "4096", "--", "seq", "3000"],
        ];
        for row in rows {
            self.space.enter(self.world.bookend(["run", "--quiet"]).args(row)).run();
        }
        let living = self.space.enter(self.world.run_artist(&[], &["linger", "60"])).spawn();
        living.wait_ready();
        let sealed: Vec<_> = self.world.runs().into_iter().filter(RunDir::is_sealed).collect();
        self.good = sealed.iter().map(RunDir::id).collect();
        assert_eq!(self.good.len(), rows.len());
        let run = self.world.runs().into_iter().find(|run| !run.is_sealed()).expect("a run that lives");
        run.wait_status("running");
        self.unsealed = run.id();
        self.ground.other_run = self.good[0].clone();
        copy(&self.world.store(), &self.world.path("template"));
        self.space.enter(self.world.bookend(["kill", "--force", "latest"])).run().assert_code(0);
        living.wait();
        remove(&self.world.store());
        remove(&self.world.path("template/live").join(&self.unsealed));
    }

    /// A directory beside the store, in which one finds a run, too.
    fn make_outside(&mut self) {
        let outside = &self.ground.outside;
        fs::create_dir(outside).expect("a directory");
        fs::write(outside.join("victim"), "do not touch").expect("a file");
        copy(&self.world.path("template/runs").join(&self.good[1]), &outside.join(&self.good[1]));
        copy(&self.world.path("template/runs").join(&self.unsealed), &outside.join("unsealed"));
        fs::copy(outside.join(&self.good[1]).join("run.json"), outside.join("run.json")).expect("a record");
    }

    /// Makes a store, shows it to every command, and says what was not as it should be.
    fn play(&mut self, seed: u64) -> Result<(), String> {
        self.made += 1;
        let mut random = Random::new(seed);
        let store = self.world.path(&format!("store-{}", self.made));
        copy(&self.world.path("template"), &store);
        remove(&store.join("runs").join(&self.unsealed));
        let mut done = Vec::new();
        let bad: Vec<String> =
            (0..=random.below(3)).map(|_| self.make_bad(&mut random, &store, &mut done)).collect();
        let odd = litter(&mut random, &self.ground.outside, &store, &self.good);
        done.push(format!("litter {odd:?}"));
        // Somebody who is not root meets other errors.
        let somebody = self.has_somebody && random.once_in(2);
        if somebody {
            let chown = Command::new("chown").args(["-hR", "54321:54321"]).arg(&store).status();
            assert!(chown.is_ok_and(|status| status.success()));
        }
        self.before = hash_of(&self.ground.outside);
        let as_they_were = self.good_files(&store);
        let names: Vec<String> = bad.into_iter().chain(odd).take(NAMED).collect();
        let result = self.ask_all(&store, &names, somebody).and_then(|()| self.check(&store, &as_they_were));
        match result {
            Ok(()) => {
                remove_store(&store);
                Ok(())
            }
            Err(wrong) => Err(format!(
                "BOOKEND_SEED={seed}{} {done:?}: {wrong}",
                if somebody { " as somebody else" } else { "" }
            )),
        }
    }

    /// Lets another user reach the stores, if this user may become that one and the directories above allow it.
    fn open_way(&mut self) {
        let at = self.world.path("");
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).expect("a mode");
        let program = crate::world::under_test();
        let test =
            [std::ffi::OsString::from("test"), "-x".into(), at.into(), "-a".into(), "-x".into(), program];
        let trial = self.world.command("setpriv", SOMEBODY).args(&test).run();
        self.has_somebody = nix::unistd::geteuid().is_root() && trial.code == Some(0);
    }

    /// A copy of a run with things done to it.
    fn make_bad(&self, random: &mut Random, store: &Path, done: &mut Vec<String>) -> String {
        let from = match random.below(3) {
            0 => random.pick(&self.good).clone(),
            _ => self.unsealed.clone(),
        };
        let id = odd_id(random);
        let dir = self.copy_run(store, &from, &id);
        if random.once_in(2) {
            let _ = fs::hard_link(dir.join("lock"), store.join("live").join(&id));
        }
        for _ in 0..=random.below(3) {
            let (name, mutation) = random.pick(&ALL);
            mutation(random, &self.ground, &dir);
            done.push(format!("{id} {name}"));
        }
        id
    }

    /// Copies a run under another id, which all its files have.
    pub(super) fn copy_run(&self, store: &Path, from: &str, id: &str) -> PathBuf {
        let dir = store.join("runs").join(id);
        copy(&self.world.path("template/runs").join(from), &dir);
        for name in ["run.json", "status.json"] {
            if let Ok(text) = fs::read_to_string(dir.join(name)) {
                remove(&dir.join(name));
                fs::write(dir.join(name), text.replace(from, id)).expect("a record");
            }
        }
        dir
    }

    pub(super) fn call(&self, store: &Path, words: &[String], somebody: bool) -> Invocation {
        let call = self.world.bookend(words.iter().cloned()).env("BOOKEND_STORE", store).limit(BOUND);
        let call = call.env("NO_COLOR", "1").inheriting(&[MEMORY]);
        let call = if somebody { call.under(&SOMEBODY).under(&["setpriv"]) } else { call };
        self.space.enter(call)
    }

    fn ask_all(&self, store: &Path, names: &[String], somebody: bool) -> Result<(), String> {
        for row in ROWS {
            let runs: &[String] = if row.of == Of::Run { names } else { &[String::new()] };
            for run in runs {
                if row.waits && self.lives(store, run, somebody) {
                    continue;
                }
                let words = row.words_for(run);
                let mut call = self.call(store, &words, somebody);
                if row.words[0] == "logs" {
                    call = call.output(crate::world::Output::Null); // they may be much
                }
                // One that does not end is killed, with a panic.
                let done = std::panic::catch_unwind(|| call.run()).map_err(|_| {
                    let kept = self.world.path(&format!("kept-{}", self.made));
                    copy(store, &kept);
                    format!("{words:?}: it did not end")
                })?;
                self.judge(*row, &done).map_err(|wrong| format!("{words:?}: {wrong}\n{done:?}"))?;
            }
        }
        self.show_on_terminal(store, names, somebody)
    }

    fn judge(&self, row: Row, done: &Finished) -> Result<(), String> {
        let silent = row.words[0] == "logs";
        if let Some(wrong) = row.broken(done).filter(|wrong| !silent || !wrong.contains("without a word")) {
            return Err(wrong);
        }
        let out = done.out();
        let missing: Vec<_> = self.good.iter().filter(|id| row.lists && !out.contains(id.as_str())).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("good runs are not listed: {missing:?}")) }
    }

    /// Whether a run is said to live, so that to wait for it would be right.
    fn lives(&self, store: &Path, run: &str, somebody: bool) -> bool {
        let words = ["show".to_owned(), run.to_owned(), "--json".to_owned()];
        let shown = self.call(store, &words, somebody).run();
        let record: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        matches!(record["status"].as_str(), Some("initializing" | "running" | "stopping" | "unknown"))
    }

    /// What a terminal gets to see does nothing to it.
    fn show_on_terminal(&self, store: &Path, names: &[String], somebody: bool) -> Result<(), String> {
        let run = names[0].clone();
        let files = ["show", &run, "--file", "prompt.md"].map(str::to_owned).to_vec();
        let page = ["show", &run, "--json"].map(str::to_owned).to_vec();
        let csv = ["ps", "-a", "--format", "csv"].map(str::to_owned).to_vec();
        for words in [vec!["ps".to_owned(), "-a".to_owned()], csv, files, page] {
            let shown =
                Terminal::open(&self.call(store, &words, somebody)).wait().out().replace("\r\n", "\n");
            if let Some(c) = steering(&shown) {
                return Err(format!("{words:?}: {c:?} on a terminal: {shown:?}"));
            }
        }
        Ok(())
    }

    /// The files of the good runs, byte for byte.
    pub(super) fn good_files(&self, store: &Path) -> BTreeMap<String, u64> {
        self.good.iter().map(|id| (id.clone(), hash_of_files(&store.join("runs").join(id)))).collect()
    }

    pub(super) fn check(&self, store: &Path, as_they_were: &BTreeMap<String, u64>) -> Result<(), String> {
        if self.good_files(store) != *as_they_were {
            return Err("a good run was changed".to_owned());
        }
        if hash_of(&self.ground.outside) != self.before {
            return Err("something outside the store was changed".to_owned());
        }
        let signals = fs::read_to_string(self.world.path("signals")).unwrap_or_default();
        if !self.canary.is_alive() || !signals.is_empty() || self.canary.state() == Some('T') {
            return Err(format!("somebody else's process was signalled: {:?} {signals}", self.canary));
        }
        Ok(())
    }
}

/// Copies a tree as it is.
pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp -a {} {}", from.display(), to.display());
}

/// Removes a store, whatever modes it has.
fn remove_store(store: &Path) {
    let _ =
        Command::new("chmod").args(["-R", "u+rwX"]).arg(store).stderr(std::process::Stdio::null()).status();
    remove(store);
}

/// An id that nobody had, of a time near or far.
fn odd_id(random: &mut Random) -> String {
    let letters = b"0123456789abcdefghjkmnpqrstvwxyz";
    let last: String = (0..6).map(|_| char::from(*random.pick(letters))).collect();
    let date = *random.pick(&["20260101-000000", "99999999-999999", "00000000-000000", "20261121-235960"]);
    format!("{date}-{last}")
}

/// Puts things into the store that are no runs; gives the names that one could mean them by.
fn litter(random: &mut Random, outside: &Path, store: &Path, good: &[String]) -> Vec<String> {
    let (runs, live) = (store.join("runs"), store.join("live"));
    let long = "x".repeat(255);
    let mut names = Vec::new();
    for _ in 0..random.below(6) {
        let id = odd_id(random);
        let upper = id.to_uppercase();
        let fresh = format!(".new-{id}");
        let odd: [&[u8]; 10] = [
            b"...",
            b" .. ",
            long.as_bytes(),
            b"a\nb",
            "\u{202e}gpj".as_bytes(),
            b"\xff\xfe",
            upper.as_bytes(),
            fresh.as_bytes(),
            NASTY.trim_end_matches('\0').as_bytes(),
            b"-rf",
        ];
        match random.below(12) {
            0..=3 => {
                let name = *random.pick(&odd);
                let _ = fs::create_dir(runs.join(std::ffi::OsStr::from_bytes(name)));
                names.push(String::from_utf8_lossy(name).replace('\0', ""));
                continue;
            }
            4 => drop(fs::create_dir(runs.join(&id))),
            5 => drop(fs::write(runs.join(&id), "a file")),
            6 => drop(symlink(outside.join(random.pick(&[good[1].as_str(), "unsealed"])), runs.join(&id))),
            7 => drop(symlink(&id, runs.join(&id))),
            8 => drop(fs::write(live.join(&id), "")),
            9 => drop(symlink(outside.join("victim"), live.join(&id))),
            10 => drop(fs::create_dir(live.join(&id))),
            _ => drop(fs::hard_link(outside.join("victim"), live.join(random.pick(good)))),
        }
        names.push(id);
    }
    // A word that begins with a dash is an option.
    names.retain(|name| !name.starts_with('-'));
    names
}

/// A number for all that is in a tree: names, kinds, modes, owners, times and bytes.
pub(super) fn hash_of(root: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    walk(root, &mut |path, found| {
        (path, found.mode(), found.uid(), found.mtime(), found.mtime_nsec()).hash(&mut hasher);
        fs::read(path).unwrap_or_default().hash(&mut hasher);
    });
    hasher.finish()
}

/// A number for the names and bytes of a run's files.
fn hash_of_files(dir: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    walk(dir, &mut |path, found| {
        (path.file_name(), found.is_file()).hash(&mut hasher);
        fs::read(path).unwrap_or_default().hash(&mut hasher);
    });
    hasher.finish()
}

fn walk(root: &Path, see: &mut impl FnMut(&Path, &fs::Metadata)) {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let found = path.symlink_metadata().expect("a file that stays");
        see(&path, &found);
        if found.is_dir() {
            walk(&path, see);
        }
    }
}

/// Plays stores of consecutive seeds with two workers, for a while or until they are enough.
fn campaign(count: u64, limit: Duration) {
    let first = seed();
    eprintln!("malformed stores: BOOKEND_SEED={first}");
    let begun = Instant::now();
    let work = |worker: u64| {
        let Some(mut yard) = Yard::open() else { return (0, Vec::new()) };
        let (mut played, mut wrong, mut opened) = (0, Vec::new(), Instant::now());
        for number in (0..count).filter(|number| number % 2 == worker) {
            if begun.elapsed() > limit {
                break;
            }
            // The canary's own end comes after a minute.
            if opened.elapsed() > Duration::from_secs(35) {
                (yard, opened) = (Yard::open().expect("another yard"), Instant::now());
            }
            played += 1;
            wrong.extend(yard.play(first.wrapping_add(number)).err());
        }
        (played, wrong)
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker")).collect()
    });
    let played: u64 = results.iter().map(|(played, _)| played).sum();
    let wrong: Vec<_> = results.into_iter().flat_map(|(_, wrong)| wrong).collect();
    eprintln!("malformed stores: {played} in {:?}, {} wrong", begun.elapsed(), wrong.len());
    let shown = wrong.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("\n=====\n");
    assert!(wrong.is_empty(), "{} wrong:\n{shown}", wrong.len());
}

#[test]
fn malformed_stores_are_read_and_nothing_else() {
    campaign(36, Duration::from_secs(12));
}

#[test]
fn campaign_malformed_stores() {
    match reach() {
        Reach::Glance => campaign(6, Duration::from_secs(3)),
        Reach::Ci => campaign(500, Duration::from_secs(600)),
        Reach::Full => campaign(5_000, Duration::from_secs(7_200)),
    }
}
