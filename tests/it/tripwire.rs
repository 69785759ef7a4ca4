//! A tripwire: hits one bookend of a run at one chosen moment, and judges what became of the run.
//!
//! A [`Lab`] is a world in a PID namespace in which one [`Scene`] after the other is played; each play is a [`Trial`]
//! with a store of its own. The tripwire itself is `fixtures/harness/tripwire.c`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use jsonschema::Validator;
use serde_json::Value;

use crate::world::{Finished, Invocation, PidNamespace, RunDir, World, compile, go_on_with};

/// Workers of a campaign.
const WORKERS: usize = 2;
/// The time that one trial may take, the tripwire's own limit and a little more.
const TRIAL_LIMIT: Duration = Duration::from_secs(40);

/// The compiled tripwire.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("tripwire", include_str!("../../fixtures/harness/tripwire.c")))
}

/// How far a campaign goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Glance,
    Ci,
    Full,
}

/// What `BOOKEND_CAMPAIGN` asks for.
pub fn reach() -> Reach {
    match std::env::var("BOOKEND_CAMPAIGN").as_deref() {
        Ok("ci") => Reach::Ci,
        Ok("full") => Reach::Full,
        _ => Reach::Glance,
    }
}

/// Which process is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// What the shell started, of a detached run.
    Visible,
    Front,
    Keeper,
    Both,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    Nothing,
    /// SIGKILL in place of this system call, counted from 1.
    Kill(u64),
    /// This error number for this system call.
    Fail(i32, u64),
    /// SIGKILL so many microseconds after the start.
    After(u64),
}

/// A short run and what is true of it when nothing hinders it.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub name: &'static str,
    pub flags: &'static [&'static str],
    /// Run by `sh -c`; it makes the file `$MARK` right before its end.
    pub script: &'static str,
    pub code: i64,
    pub out: &'static str,
    pub err: &'static str,
    pub detached: bool,
}

const SCRIPT: &str = "echo out; echo err >&2; : >$MARK; exit 7";

/// Both streams straight into the log.
pub const FILE: Scene = Scene {
    name: "file",
    flags: &["--capture", "file"],
    script: SCRIPT,
    code: 7,
    out: "out\n",
    err: "err\n",
    detached: false,
};
/// Each stream through a pipe.
pub const PIPE: Scene = Scene { name: "pipe", flags: &["--capture", "pipe"], ..FILE };
/// A run that goes on without its caller.
pub const DETACHED: Scene = Scene { name: "detached", flags: &["-d"], detached: true, ..FILE };

impl Scene {
    fn depth(&self, who: Who) -> String {
        let front = usize::from(self.detached);
        match who {
            Who::Visible => "0".to_owned(),
            Who::Front => front.to_string(),
            Who::Keeper => (front + 1).to_string(),
            Who::Both => format!("both:{}", front + 1),
        }
    }
}

/// A world in a PID namespace for trials, one after the other.
pub struct Lab {
    world: World,
    space: PidNamespace,
    played: usize,
}

impl Lab {
    /// Opens a lab; none where PID namespaces are not allowed.
    pub fn open() -> Option<Self> {
        let able = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
        let space = go_on_with("a tripwire for this machine", able).then(PidNamespace::open)??;
        Some(Self { world: World::new(), space, played: 0 })
    }

    /// Plays a scene once.
    pub fn play(&mut self, scene: Scene, who: Who, hit: Hit) -> Trial {
        self.played += 1;
        let place = self.world.path(&format!("trial-{}", self.played));
        fs::create_dir(&place).expect("a directory for the trial");
        let report = place.join("report");
        let number = |n: &dyn fmt::Display| n.to_string();
        let action = match hit {
            Hit::Nothing => vec!["count".to_owned()],
            Hit::Kill(at) => vec!["kill".to_owned(), number(&at)],
            Hit::Fail(errno, at) => vec!["error".to_owned(), number(&errno), number(&at)],
            Hit::After(micros) => vec!["after".to_owned(), number(&micros)],
        };
        let mut words = vec![program().display().to_string(), report.display().to_string(), scene.depth(who)];
        words.extend(action);
        words.push("--".to_owned());
        let run = self.world.bookend(["run"]).args(scene.flags).args(&["--", "sh", "-c", scene.script]);
        let done = self.within(&place, run.under(&words)).run();
        let sealed = identity(&place);
        let listing = self.within(&place, self.world.bookend(["ps", "-a", "--json"])).run();
        if fs::read_dir(place.join("store/live")).is_ok_and(|mut found| found.next().is_some()) {
            let _ = self.within(&place, self.world.bookend(["ps"])).run(); // clears markers of the sealed
        }
        Trial { scene, who, hit, report: numbers(&report), done, listing, place, sealed }
    }

    /// A call in the namespace, with the store and everything else of one trial.
    fn within(&self, place: &Path, call: Invocation) -> Invocation {
        let call = call
            .env("BOOKEND_STORE", place.join("store"))
            .env("XDG_RUNTIME_DIR", place)
            .env("MARK", place.join("mark"))
            .limit(TRIAL_LIMIT);
        self.space.enter(call)
    }
}

/// Inode and time of change of the only record in a trial's store.
fn identity(place: &Path) -> Option<(u64, SystemTime)> {
    let mut runs = fs::read_dir(place.join("store/runs")).ok()?.flatten();
    let found = runs.find_map(|run| run.path().join("run.json").metadata().ok())?;
    Some((found.ino(), found.modified().ok()?))
}

/// The words and numbers of a tripwire's report.
pub fn numbers(report: &Path) -> BTreeMap<String, i64> {
    let text = fs::read_to_string(report).unwrap_or_default();
    let pair = |line: &str| {
        let (word, number) = line.split_once(' ')?;
        Some((word.to_owned(), number.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// What became of a trial, where nothing is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// No run was begun, and the caller was told so.
    NoRun,
    /// The one record has this reason.
    Sealed(String),
}

/// One play of a scene.
pub struct Trial {
    pub scene: Scene,
    pub who: Who,
    pub hit: Hit,
    report: BTreeMap<String, i64>,
    pub done: Finished,
    listing: Finished,
    place: PathBuf,
    /// Inode and change of the record's content, if the run was sealed before anybody read it.
    sealed: Option<(u64, SystemTime)>,
}

impl Trial {
    /// The system calls of the chosen process.
    pub fn calls(&self) -> u64 {
        self.report.get("calls").copied().unwrap_or(0).unsigned_abs()
    }

    /// Whether the chosen process lived long enough to be hit.
    pub fn was_hit(&self) -> bool {
        self.report.contains_key("hit") && !self.report.contains_key("spared")
    }

    /// Milliseconds until nobody was left.
    pub fn millis(&self) -> u64 {
        self.report.get("millis").copied().unwrap_or(0).unsigned_abs()
    }

    /// Exit code of what the shell started; 128 + n for a signal.
    pub fn code(&self) -> i64 {
        self.report.get("code").copied().unwrap_or(-1)
    }

    /// Whether the command came to its end.
    pub fn marked(&self) -> bool {
        self.place.join("mark").exists()
    }

    /// The published runs.
    fn runs(&self) -> Vec<RunDir> {
        let found = fs::read_dir(self.place.join("store/runs")).into_iter().flatten().flatten();
        let published = found.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
        published.map(|entry| RunDir { path: entry.path() }).collect()
    }

    /// The id that was told to the caller.
    fn told_id(&self) -> Option<String> {
        let text = if self.scene.detached { self.done.out() } else { self.done.err() };
        let line = if self.scene.detached {
            text.lines().next()
        } else {
            text.lines().find_map(|line| line.strip_prefix("bookend: run "))
        };
        line.map(str::to_owned)
    }

    /// Judges the trial: what must hold whatever was hit, and then what `truth` asks of the record.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn judge(&self, truth: impl Fn(&Self, &Value) -> Result<(), String>) -> Result<Verdict, String> {
        self.judge_inner(truth).map_err(|wrong| format!("{wrong}\n{self:?}"))
    }

    fn judge_inner(&self, truth: impl Fn(&Self, &Value) -> Result<(), String>) -> Result<Verdict, String> {
        require(self.report.contains_key("code"), || format!("no report: {:?}", self.done))?;
        require(!self.report.contains_key("hung"), || "somebody was left after 20 s".to_owned())?;
        require(self.listing.code == Some(0), || format!("ps failed: {:?}", self.listing))?;
        let runs = self.runs();
        if let Some(id) = self.told_id() {
            let found: Vec<_> = runs.iter().map(RunDir::id).collect();
            require(found == [id.clone()], || format!("{id} was told, {found:?} found"))?;
        }
        let [run] = runs.as_slice() else {
            require(runs.is_empty(), || format!("several runs: {runs:?}"))?;
            require(!self.marked(), || "the command ran, and there is no run".to_owned())?;
            require(self.code() != 0 && self.code() != self.scene.code, || {
                format!("no run, yet code {}", self.code())
            })?;
            return Ok(Verdict::NoRun);
        };
        let record = sealed_record(run)?;
        self.check_listing(&record)?;
        self.check_truth(&record)?;
        self.check_sealed_once()?;
        truth(self, &record)?;
        let live = fs::read_dir(self.place.join("store/live")).into_iter().flatten().count();
        require(live == 0, || "a sealed run is still marked as living".to_owned())?;
        Ok(Verdict::Sealed(word(&record, "exit_reason")))
    }

    /// ps says what the record says.
    fn check_listing(&self, record: &Value) -> Result<(), String> {
        let listed = self.listing.json()["runs"].clone();
        require(listed.as_array().is_some_and(|runs| runs.len() == 1), || format!("ps lists {listed}"))?;
        for field in ["run_id", "status", "exit_reason", "exit"] {
            require(listed[0][field] == record[field], || format!("ps says another {field}: {listed}"))?;
        }
        Ok(())
    }

    /// What no record may say, however it came about.
    fn check_truth(&self, record: &Value) -> Result<(), String> {
        let (code, signal) = (record["exit"]["code"].as_i64(), record["exit"]["signal"].as_i64());
        let started = record["command"]["pid"].is_i64();
        let reason = word(record, "exit_reason");
        require(code.is_none_or(|code| code == self.scene.code && self.marked()), || {
            format!("it exited with {}, and the record says {code:?}", self.scene.code)
        })?;
        require(!self.marked() || started, || "the command ran and is called unstarted".to_owned())?;
        if reason == "exited" {
            require(code == Some(self.scene.code), || "an end without its code".to_owned())?;
            self.check_output(record)?;
        }
        let stopped = !matches!(reason.as_str(), "exited" | "spawn_failed" | "preflight_failed");
        require(signal.is_none() || stopped, || format!("a signal in an end by {reason}"))?;
        require(reason != "signaled", || "the command did not die of a signal by itself".to_owned())?;
        require(!matches!(reason.as_str(), "spawn_failed" | "preflight_failed") || !self.marked(), || {
            format!("{reason}, and the command ran to its end")
        })?;
        require(reason != "nothing_to_do", || "there was something to do".to_owned())
    }

    /// A command that came to its end by itself has all its output in the log.
    fn check_output(&self, record: &Value) -> Result<(), String> {
        let log = self.runs()[0].log();
        let text = String::from_utf8_lossy(&log);
        let dropped = record["log"]["dropped_bytes"].as_u64().unwrap_or(0);
        let whole = [self.scene.out, self.scene.err].iter().all(|part| text.contains(part));
        let length = self.scene.out.len() + self.scene.err.len();
        // What was in a pipe when both ends of the reading side died cannot be counted, but it can be said.
        let said = record["author"] == "reader" && record["evidence"].to_string().contains("may be missing");
        if said && log.len() < length {
            return Ok(());
        }
        require(
            whole && log.len() == length || log.len() as u64 + dropped == length as u64 && dropped > 0,
            || format!("the log says {text:?}, and the record that {dropped} bytes are missing"),
        )
    }

    /// The code that the caller saw is the record's; a caller that was hit itself saw a death.
    pub fn check_code(&self, record: &Value, own_death: &[i64]) -> Result<(), String> {
        let code = self.code();
        if own_death.contains(&code) {
            return Ok(());
        }
        let expected = if self.scene.detached { Some(0) } else { record["wrapper_exit_code"].as_i64() };
        require(Some(code) == expected, || {
            format!("the caller saw code {code}, the record says {expected:?}")
        })
    }

    /// No reader replaced a record that was there.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn check_sealed_once(&self) -> Result<(), String> {
        let kept = self.sealed.is_none() || self.sealed == identity(&self.place);
        require(kept, || "the record was replaced".to_owned())
    }

    /// Removes what the trial left; only for one that is judged well.
    pub fn forget(&self) {
        let _ = fs::remove_dir_all(&self.place);
    }
}

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- {} {:?} {:?}: {:?}", self.scene.name, self.who, self.hit, self.report)?;
        writeln!(f, "{:?}\n--- ps\n{}", self.done, self.listing.err())?;
        for run in self.runs() {
            writeln!(f, "--- {} {:?}", run.path.display(), run.files())?;
            for name in ["run.json", "status.json", "events.jsonl", "harness.log"] {
                if let Some(bytes) = run.read(name) {
                    writeln!(f, "--- {name}\n{}", String::from_utf8_lossy(&bytes))?;
                }
            }
        }
        write!(f, "--- marked {}", self.marked())
    }
}

/// The one final record of a run, whole and as the schema wants it.
fn sealed_record(run: &RunDir) -> Result<Value, String> {
    static SCHEMA: OnceLock<Validator> = OnceLock::new();
    let schema = SCHEMA.get_or_init(|| {
        jsonschema::validator_for(&World::new().schema("run")).expect("a schema that is one itself")
    });
    let bytes = run.read("run.json").ok_or("no run.json")?;
    let record: Value = serde_json::from_slice(&bytes).map_err(|e| format!("run.json is torn: {e}"))?;
    let wrong: Vec<_> = schema.iter_errors(&record).map(|e| format!("{}: {e}", e.instance_path)).collect();
    require(wrong.is_empty(), || format!("against the schema: {wrong:?}"))?;
    let status = word(&record, "status");
    require(matches!(status.as_str(), "completed" | "failed" | "stopped" | "lost"), || {
        format!("status {status}")
    })?;
    Ok(record)
}

/// A field that is a word.
pub fn word(record: &Value, field: &str) -> String {
    record[field].as_str().unwrap_or_default().to_owned()
}

/// An error unless something holds.
pub fn require(holds: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(wrong()) }
}

/// The figures of a campaign.
#[derive(Default)]
pub struct Tally {
    pub played: usize,
    pub missed: usize,
    pub slowest_ms: u64,
    pub verdicts: BTreeMap<Verdict, usize>,
    pub wrong: Vec<String>,
}

impl Tally {
    /// Takes in one judged trial.
    pub fn add(&mut self, trial: &Trial, verdict: Result<Verdict, String>) {
        self.played += 1;
        self.missed += usize::from(!trial.was_hit());
        self.slowest_ms = self.slowest_ms.max(trial.millis());
        match verdict {
            Ok(verdict) => {
                *self.verdicts.entry(verdict).or_default() += 1;
                trial.forget();
            }
            Err(wrong) => self.wrong.push(wrong),
        }
    }

    /// Trials in which the kill or failure came in time.
    pub fn landed(&self) -> usize {
        self.played - self.missed
    }

    /// Adds what another worker found.
    pub fn merge(&mut self, other: Self) {
        self.played += other.played;
        self.missed += other.missed;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
        self.wrong.extend(other.wrong);
        for (verdict, count) in other.verdicts {
            *self.verdicts.entry(verdict).or_default() += count;
        }
    }

    /// Prints the figures and fails when anything was wrong.
    pub fn conclude(&self, name: &str) {
        const SHOWN: usize = 5;
        eprintln!(
            "{name}: {} trials, {} wrong, {} without a hit, slowest {} ms, {:?}",
            self.played,
            self.wrong.len(),
            self.missed,
            self.slowest_ms,
            self.verdicts
        );
        let shown: Vec<_> = self.wrong.iter().take(SHOWN).map(String::as_str).collect();
        assert!(self.wrong.is_empty(), "{name}: {} wrong:\n{}", self.wrong.len(), shown.join("\n=====\n"));
    }
}

/// Plays every trial of a list with a few workers, or as many as fit into `limit`, spread evenly over the list.
pub fn campaign<T: Sync + Copy>(
    trials: &[T],
    limit: Option<Duration>,
    play: impl Fn(&mut Lab, T) -> (Trial, Result<Verdict, String>) + Sync,
) -> Option<Tally> {
    drop(Lab::open()?);
    let order = spread(trials.len());
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    let work = || {
        let (mut lab, mut tally) = (Lab::open().expect("a lab"), Tally::default());
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= order.len() || limit.is_some_and(|limit| begun.elapsed() > limit) {
                return tally;
            }
            let (trial, verdict) = play(&mut lab, trials[order[at]]);
            tally.add(&trial, verdict);
        }
    };
    let mut total = Tally::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            total.merge(worker.join().expect("a worker"));
        }
    });
    Some(total)
}

/// The numbers below `count` in an order whose every beginning is spread evenly: by their reversed bits.
pub fn spread(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|n| n.reverse_bits());
    order
}
