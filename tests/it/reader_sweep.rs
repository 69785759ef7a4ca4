//! SIGKILL in place of every single system call of a command that reads or steers runs: whoever comes next finishes
//! what it began, and no run that lives is harmed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::hostile::{copy, remove};
use crate::tripwire::{Reach, numbers, program, reach, require, spread};
use crate::world::{Finished, Invocation, PidNamespace, RunDir, Running, World, eventually};

/// The time of one scene in the default suite.
const SLICE: Duration = Duration::from_secs(4);
const SOON: Duration = Duration::from_secs(10);
/// Points past the number counted: a life is not always equally long.
const BEYOND: u64 = 3;

/// What is killed again and again, and what must be true after the next one came.
#[derive(Clone, Copy)]
struct Scene {
    name: &'static str,
    words: &'static [&'static str],
    /// What makes the store ready for it once more.
    prepare: fn(&mut Hall) -> Result<(), String>,
    /// What the next ones do, in order.
    next: &'static [&'static [&'static str]],
    judge: fn(&Hall) -> Result<(), String>,
}

/// A reader has two dead runs to seal beside one that lives.
const PS: Scene = Scene {
    name: "ps",
    words: &["ps"],
    prepare: Hall::lay_out_the_dead,
    next: &[&["ps", "-a", "--json"], &["ps"]],
    judge: Hall::the_dead_are_sealed,
};
/// Somebody would end a run that is dead.
const KILL_DEAD: Scene =
    Scene { name: "kill (dead)", words: &["kill", "dead"], next: &[&["kill", "dead"], &["ps"]], ..PS };
/// Somebody would end a run that lives.
const KILL_LIVING: Scene = Scene {
    name: "kill (living)",
    words: &["kill", "living", "--reason", "first"],
    prepare: Hall::start_one,
    next: &[&["kill", "living", "--reason", "second"], &["wait", "living"], &["ps"]],
    judge: Hall::it_was_killed,
};

/// A world in a PID namespace, with one run that always lives and one that can be laid out dead.
struct Hall {
    world: World,
    space: PidNamespace,
    /// Lives from beginning to end.
    witness: Running,
    witness_dir: RunDir,
    /// Copies of runs that were alive then.
    dead: Vec<PathBuf>,
    living: Option<Running>,
    answers: Vec<Finished>,
}

impl Hall {
    fn open() -> Option<Self> {
        let world = World::new();
        let space = PidNamespace::open()?;
        let dead = Self::make_dead(&world, &space);
        let witness = space.enter(world.run_artist(&["--name", "witness"], &["linger", "60"]));
        let witness = witness.env("ARTIST_FUSE", "60").spawn();
        witness.wait_ready();
        let witness_dir = world.only_run();
        witness_dir.wait_status("running");
        Some(Self { world, space, witness, witness_dir, dead, living: None, answers: Vec::new() })
    }

    /// Two runs that are over, as their directories looked while they lived.
    fn make_dead(world: &World, space: &PidNamespace) -> Vec<PathBuf> {
        let mut dead = Vec::new();
        for name in ["dead", "gone"] {
            let running = space.enter(world.run_artist(&["--name", name], &["linger", "60"])).spawn();
            running.wait_ready();
            let run = world.only_run();
            run.wait_status("running");
            let kept = world.path(&format!("{name}.dir")).join(run.id());
            fs::create_dir(kept.parent().expect("a parent")).expect("a directory");
            copy(&run.path, &kept);
            space.enter(world.bookend(["kill", "--force", name])).run().assert_code(0);
            running.wait_within(SOON);
            run.wait_sealed(SOON);
            remove(&run.path);
            dead.push(kept);
        }
        dead
    }

    fn call(&self, words: &[&str]) -> Invocation {
        self.space.enter(self.world.bookend(words.iter().copied()).limit(SOON * 2))
    }

    fn place_of(&self, kept: &Path) -> (PathBuf, PathBuf) {
        let id = kept.file_name().expect("an id");
        (self.world.store().join("runs").join(id), self.world.store().join("live").join(id))
    }

    fn lay_out_the_dead(&mut self) -> Result<(), String> {
        for kept in &self.dead {
            let (dir, marker) = self.place_of(kept);
            remove(&dir);
            remove(&marker);
            copy(kept, &dir);
            fs::hard_link(dir.join("lock"), marker).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn start_one(&mut self) -> Result<(), String> {
        if let Some(running) = self.living.take() {
            running.wait_within(SOON);
        }
        for run in self.world.runs().iter().filter(|run| run.path != self.witness_dir.path) {
            remove(&run.path);
        }
        let call = self.world.run_artist(&["--name", "living"], &["linger", "60"]);
        let running = self.space.enter(call).spawn();
        running.wait_ready();
        self.living = Some(running);
        self.other_run()?.wait_status("running");
        Ok(())
    }

    /// The run that is not the witness.
    fn other_run(&self) -> Result<RunDir, String> {
        let mut others: Vec<_> =
            self.world.runs().into_iter().filter(|r| r.path != self.witness_dir.path).collect();
        require(others.len() == 1, || format!("one other run: {others:?}"))?;
        Ok(others.remove(0))
    }

    /// Plays one scene with a kill at one system call, or none; the calls it made.
    fn play(&mut self, scene: &Scene, at: Option<u64>) -> Result<u64, String> {
        (scene.prepare)(self)?;
        let report = self.world.path("report");
        remove(&report);
        let mut tripwire =
            vec![program().display().to_string(), report.display().to_string(), "0".to_owned()];
        match at {
            Some(at) => tripwire.extend(["kill".to_owned(), at.to_string()]),
            None => tripwire.push("count".to_owned()),
        }
        tripwire.push("--".to_owned());
        let call = self.world.bookend(scene.words.iter().copied()).limit(SOON * 2).under(&tripwire);
        self.answers = vec![self.space.enter(call).run()];
        let sealed: Vec<_> = self.records();
        for words in scene.next {
            let answer = self.call(words).run();
            self.answers.push(answer);
        }
        let said = numbers(&report);
        require(!said.contains_key("hung"), || "it hung".to_owned())?;
        require(self.records().iter().filter(|r| sealed.contains(r)).count() == sealed.len(), || {
            "a record was replaced".to_owned()
        })?;
        self.witness_lives()?;
        (scene.judge)(self)?;
        Ok(said.get("calls").copied().unwrap_or(0).unsigned_abs())
    }

    /// Each record there is: its path, inode and bytes.
    fn records(&self) -> Vec<(PathBuf, u64, Vec<u8>)> {
        let read = |run: &RunDir| {
            let path = run.path.join("run.json");
            Some((path.clone(), path.metadata().ok()?.ino(), fs::read(&path).ok()?))
        };
        self.world.runs().iter().filter_map(read).collect()
    }

    fn witness_lives(&self) -> Result<(), String> {
        let living = self.witness.process().is_alive() && !self.witness_dir.is_sealed();
        let status = self.witness_dir.status_json();
        require(living && status["status"] == "running", || {
            format!("the living run was harmed: {status:#}")
        })?;
        let marked = self.world.live().contains(&self.witness_dir.id());
        require(marked, || "the living run has no marker".to_owned())
    }

    fn the_dead_are_sealed(&self) -> Result<(), String> {
        for kept in &self.dead {
            let (dir, marker) = self.place_of(kept);
            let run = RunDir { path: dir };
            require(run.is_sealed(), || format!("not sealed: {:?}", run.files()))?;
            let record = whole(&run, "run.json")?;
            require(record["status"] == "lost" && record["author"] == "reader", || {
                format!("not lost: {record:#}")
            })?;
            require(!marker.exists(), || "its marker is left".to_owned())?;
            tidy(&run)?;
        }
        Ok(())
    }

    fn it_was_killed(&self) -> Result<(), String> {
        let run = self.other_run()?;
        let record = whole(&run, "run.json")?;
        require(record["exit_reason"] == "killed", || format!("not killed: {record:#}"))?;
        let why = record["ended_by"]["reason"].as_str().unwrap_or_default().to_owned();
        require(why == "first" || why == "second", || format!("not the reason: {record:#}"))?;
        // Its keeper may be about to take the marker away.
        eventually(SOON, "end of the marker", || (!self.world.live().contains(&run.id())).then_some(()));
        tidy(&run)
    }
}

fn whole(run: &RunDir, name: &str) -> Result<Value, String> {
    let bytes = run.read(name).ok_or_else(|| format!("no {name}"))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("{name} is torn: {e}"))
}

/// There is nothing left of what was begun, and both names of the record say the same.
fn tidy(run: &RunDir) -> Result<(), String> {
    let stray: Vec<_> =
        run.files().into_iter().filter(|name| name.starts_with('.') || name == "reserve").collect();
    require(stray.is_empty(), || format!("left behind: {stray:?}"))?;
    require(run.read("status.json") == run.read("run.json"), || {
        format!("status.json says {:#}", run.status_json()["status"])
    })
}

/// Plays a scene with a kill at every call, or at as many as fit into the time.
fn sweep(scene: &Scene, limit: Option<Duration>) {
    let Some(mut hall) = Hall::open() else { return };
    let calls = hall.play(scene, None).unwrap_or_else(|wrong| panic!("{}: {wrong}", scene.name));
    assert!(calls > 50, "{}: {calls} calls", scene.name);
    let (begun, mut opened, mut played, mut wrong) = (Instant::now(), Instant::now(), 0, Vec::new());
    for at in spread((calls + BEYOND) as usize) {
        if limit.is_some_and(|limit| begun.elapsed() > limit) {
            break;
        }
        // The witness's own end comes after a minute.
        if opened.elapsed() > Duration::from_secs(40) {
            (hall, opened) = (Hall::open().expect("another hall"), Instant::now());
        }
        played += 1;
        if let Err(why) = hall.play(scene, Some(at as u64 + 1)) {
            wrong.push(format!("call {}: {why}\n{:?}", at + 1, hall.answers));
        }
    }
    eprintln!(
        "reader sweep, {}: {played} of {calls} calls, {} wrong, {:?}",
        scene.name,
        wrong.len(),
        begun.elapsed()
    );
    assert!(wrong.is_empty(), "{} wrong: {}", wrong.len(), wrong[..wrong.len().min(3)].join("\n====\n"));
}

fn slice(scene: &Scene) {
    sweep(scene, Some(SLICE));
}

fn whole_sweep(scene: &Scene) {
    sweep(scene, (reach() == Reach::Glance).then_some(Duration::from_secs(1)));
}

#[test]
fn a_reader_that_is_killed_leaves_its_work_to_the_next() {
    slice(&PS);
}

#[test]
fn a_kill_of_a_dead_run_that_is_killed_leaves_its_work_to_the_next() {
    slice(&KILL_DEAD);
}

#[test]
fn a_kill_that_is_killed_can_be_asked_for_again() {
    slice(&KILL_LIVING);
}

#[test]
fn campaign_kill_every_syscall_of_a_reader() {
    for scene in [&PS, &KILL_DEAD, &KILL_LIVING] {
        whole_sweep(scene);
    }
}
