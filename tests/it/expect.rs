//! What a run must leave: one expectation, one checker, used by every test of the promise.
//!
//! [`Expect`] says how a run should have ended. [`Expect::check`] looks at all of it: the files of the run's directory
//! and what is not there, each record against its schema, the words and figures, how `bookend run` itself ended and
//! how fast, and that nothing is left alive.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::world::{Finished, LIMIT, Process, RunDir, Running, World, eventually};

/// What should be known of the command's own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// That it exited with this code.
    Code(i32),
    /// That it died of this signal.
    Signal(i32),
    /// Nothing: it never ran, or nobody saw it.
    Nothing,
    /// Whatever is true: the row is about something else.
    Any,
}

/// How a run should have ended.
#[derive(Clone, Debug)]
pub struct Expect {
    status: &'static str,
    reason: &'static str,
    code: i32,
    dies_of: Option<i32>,
    front_killed: Option<i32>,
    exit: Seen,
    forced: Option<bool>,
    actor: Option<&'static str>,
    any_actor: bool,
    authors: Vec<&'static str>,
    degraded: bool,
    within: Duration,
}

impl Expect {
    fn new(status: &'static str, reason: &'static str, code: i32, exit: Seen) -> Self {
        Self {
            status,
            reason,
            code,
            dies_of: None,
            front_killed: None,
            exit,
            forced: Some(false),
            actor: None,
            any_actor: false,
            authors: vec!["keeper"],
            degraded: false,
            within: Duration::from_secs(10),
        }
    }

    /// A command that exited with `code`.
    pub fn exited(code: i32) -> Self {
        let status = if code == 0 { "completed" } else { "failed" };
        Self::new(status, "exited", code, Seen::Code(code))
    }

    /// A command that died of a signal which was not bookend's doing.
    pub fn signaled(signal: i32) -> Self {
        Self::new("failed", "signaled", 128 + signal, Seen::Signal(signal))
    }

    /// A failure of another kind, before or beside the command.
    pub fn failed(reason: &'static str, code: i32) -> Self {
        Self::new("failed", reason, code, Seen::Nothing)
    }

    /// A stop by a signal that came to bookend, which then dies of it too; the command died of the same.
    pub fn stopped_by(signal: i32) -> Self {
        let reason = match signal {
            libc::SIGINT => "interrupted",
            libc::SIGQUIT => "quit",
            libc::SIGTERM => "terminated",
            libc::SIGHUP => "hung_up",
            other => panic!("{other} is no stop signal"),
        };
        let stopped = Self::stopped(reason, 128 + signal, "process").exit(Seen::Signal(signal));
        Self { dies_of: Some(signal), ..stopped }
    }

    /// A stop for another reason.
    pub fn stopped(reason: &'static str, code: i32, actor: &'static str) -> Self {
        Self { actor: Some(actor), ..Self::new("stopped", reason, code, Seen::Signal(libc::SIGTERM)) }
    }

    /// The stop of a command whose one bookend was killed by a signal; the other one is the author.
    pub fn wrapper_died(author: &'static str) -> Self {
        Self::stopped("wrapper_died", 137, "system").author(author)
    }

    /// A run whose end nobody saw.
    pub fn lost() -> Self {
        Self::new("lost", "lost", 125, Seen::Nothing).author("reader")
    }

    /// Another end of the command.
    pub fn exit(self, exit: Seen) -> Self {
        Self { exit, ..self }
    }

    /// A second stop signal forced it.
    pub fn forced(self) -> Self {
        Self { forced: Some(true), ..self }
    }

    /// Whether it was forced depends on which of two happenings came first.
    pub fn perhaps_forced(self) -> Self {
        Self { forced: None, ..self }
    }

    /// Another author than the keeper.
    pub fn author(self, author: &'static str) -> Self {
        Self { authors: vec![author], ..self }
    }

    /// Either bookend may have written it.
    pub fn any_author(self) -> Self {
        Self { authors: vec!["keeper", "front"], ..self }
    }

    /// Another actor, e.g. the terminal.
    pub fn actor(self, actor: &'static str) -> Self {
        Self { actor: Some(actor), ..self }
    }

    /// A fault of bookend's: the one who sealed may or may not have been told who is to blame.
    pub fn actor_of_fault(self) -> Self {
        Self { any_actor: true, ..self }
    }

    /// bookend could not do everything as promised and says so; files other than the record may be missing.
    pub fn degraded(self) -> Self {
        Self { degraded: true, ..self }
    }

    /// `bookend run` itself was ended by this signal, whatever the record says.
    pub fn front_killed(self, signal: i32) -> Self {
        Self { front_killed: Some(signal), ..self }
    }

    /// The time from start to end.
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// Checks the only run of a world, and that nothing is left alive in it. Returns the record.
    #[track_caller]
    pub fn check(&self, world: &World, done: &Finished) -> Value {
        let record = self.check_unfinished(world);
        self.check_end(done);
        record
    }

    /// The same, where `bookend run` is not looked at.
    #[track_caller]
    pub fn check_unfinished(&self, world: &World) -> Value {
        let run = world.only_run();
        let record = self.check_run(&run);
        assert_eq!(world.live(), Vec::<String>::new(), "a live marker is left of {}", run.id());
        world.assert_no_process_left();
        record
    }

    /// Checks one run's directory. Returns the record.
    #[track_caller]
    pub fn check_run(&self, run: &RunDir) -> Value {
        assert!(run.is_sealed(), "no run.json among {:?}", run.files());
        let record = run.run_json();
        validate("run", &record);
        self.check_words(&record);
        check_times(&record);
        if !self.degraded {
            check_files(run, &record);
        }
        record
    }

    #[track_caller]
    fn check_words(&self, record: &Value) {
        let said = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        let words = (said("status"), said("exit_reason"), record["wrapper_exit_code"].as_i64());
        let expected = (self.status.to_owned(), self.reason.to_owned(), Some(i64::from(self.code)));
        assert_eq!(words, expected, "{record:#}");
        if let Some(forced) = self.forced {
            assert_eq!(record["forced"], forced, "forced? {record:#}");
        }
        let actor = record["ended_by"]["actor"].as_str();
        let actor = if self.any_actor { self.actor } else { actor };
        assert_eq!(actor, self.actor, "ended by whom? {record:#}");
        assert!(self.authors.contains(&said("author").as_str()), "not {:?}: {record:#}", self.authors);
        let exit = &record["exit"];
        let (code, signal) = (exit["code"].as_i64(), exit["signal"].as_i64());
        let both = (code.map(|n| n as i32), signal.map(|n| n as i32));
        match self.exit {
            Seen::Code(code) => assert_eq!(both, (Some(code), None), "{record:#}"),
            Seen::Signal(signal) => assert_eq!(both, (None, Some(signal)), "{record:#}"),
            Seen::Nothing => assert!(exit.is_null(), "an invented exit: {record:#}"),
            Seen::Any => assert!(code.is_none() || signal.is_none(), "code and signal: {record:#}"),
        }
        assert_eq!(!record["degraded"].is_null(), self.degraded, "degraded? {record:#}");
        if matches!(self.reason, "internal_error" | "spawn_failed" | "preflight_failed") {
            assert!(record["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{record:#}");
        }
    }

    /// Checks how `bookend run` itself ended, and how fast.
    #[track_caller]
    pub fn check_end(&self, done: &Finished) {
        let expected = match self.front_killed.or(self.dies_of) {
            Some(signal) => (None, Some(signal)),
            None => (Some(self.code), None),
        };
        assert_eq!((done.code, done.signal), expected, "{done:?}");
        assert!(done.elapsed <= self.within, "took {:?}, longer than {:?}", done.elapsed, self.within);
        assert!(!done.held, "somebody still holds an output stream open");
    }
}

/// Checks a value against the schema that bookend prints for `kind`; compiled once, as thousands are checked.
#[track_caller]
pub fn validate(kind: &'static str, value: &Value) {
    static KNOWN: [OnceLock<jsonschema::Validator>; 3] = [const { OnceLock::new() }; 3];
    let at = ["run", "status", "task"].iter().position(|known| *known == kind).expect("a kind of record");
    let validator = KNOWN[at].get_or_init(|| {
        jsonschema::validator_for(&World::new().schema(kind)).expect("a schema that is one itself")
    });
    let wrong: Vec<_> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path)).collect();
    assert!(wrong.is_empty(), "against the schema of {kind}: {wrong:#?}\n{value:#}");
    assert_eq!(value["schema"], 1);
}

/// Times are whole, in order, and never invented.
#[track_caller]
fn check_times(record: &Value) {
    let started = record["started_at"].as_str().expect("a start");
    if record["status"] == "lost" {
        assert!(record["completed_at"].is_null(), "an invented end: {record:#}");
        let [from, to] = [0, 1].map(|at| record["ended_between"][at].as_str().expect("an interval"));
        assert!(started <= from && from <= to, "{record:#}");
    } else if record["author"] != "reader" {
        assert!(record["completed_at"].as_str().expect("an end") >= started, "{record:#}");
        assert!(record["duration_seconds"].as_f64().expect("a duration") >= 0.0, "{record:#}");
    }
}

/// The files of a sealed run: all that must be there, nothing else, and none that says otherwise than the record.
#[track_caller]
fn check_files(run: &RunDir, record: &Value) {
    let mut expected = vec!["events.jsonl", "harness.log", "lock", "prompt.md", "run.json", "status.json"];
    expected.push("task.json");
    if record["log"]["capture"] != "file" {
        expected.push("harness.idx");
    }
    if record["status"] != "completed" {
        expected.push("diagnostics.md");
    }
    expected.sort_unstable();
    let mut files = run.files();
    files.retain(|name| name != "kill.jsonl");
    assert_eq!(files, expected, "{record:#}");
    for name in &files {
        let mode = fs::metadata(run.path.join(name)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "mode of {name}");
    }
    assert_eq!(run.read("status.json"), run.read("run.json"), "status.json is another name of run.json");
    check_task(run, record);
    check_events(run);
    let prompt = run.text("prompt.md");
    assert!(prompt.contains("# A command, no prompt"), "{prompt}");
    assert_eq!(record["prompt"]["bytes"], prompt.len(), "{record:#}");
    assert_eq!(record["log"]["bytes"], run.log().len(), "{record:#}");
    if record["status"] != "completed" {
        let text = run.text("diagnostics.md");
        assert!(text.contains(&run.id()) && text.contains("The end of the log"), "{text}");
    }
}

#[track_caller]
fn check_task(run: &RunDir, record: &Value) {
    let task = run.task_json();
    validate("task", &task);
    for field in ["status", "exit_reason", "exit"] {
        assert_eq!(task[field], record[field], "{field} of task.json and run.json");
    }
}

/// One beginning, at most one command, one end, and nothing after it.
#[track_caller]
fn check_events(run: &RunDir) {
    let events = run.events();
    let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((count("spawned").max(1), count("sealed")), (1, 1), "{events:#?}");
    assert_eq!(events.last().expect("events")["event"], "sealed", "{events:#?}");
}

/// Places in bookend where a run is made to wait, see `src/failpoint.rs`.
pub struct Points {
    dir: PathBuf,
}

impl Points {
    /// Makes bookend act on `plan` (`SITE=ACTION,...`) in every later run of this world.
    pub fn set(world: &mut World, plan: &str) -> Self {
        let dir = world.path("points");
        fs::create_dir_all(&dir).expect("a directory for failpoints");
        world.set_env("BOOKEND_FAILPOINT", plan);
        world.set_env("BOOKEND_FAILPOINT_DIR", dir.clone());
        Self { dir }
    }

    /// Waits until a process is paused at a site, and returns it.
    #[track_caller]
    pub fn reached(&self, site: &str) -> Process {
        let file = self.dir.join(format!("{site}.reached"));
        eventually(LIMIT, &format!("pause at {site}"), || {
            Process::read(fs::read_to_string(&file).ok()?.trim().parse().ok()?)
        })
    }

    /// Lets whoever is or will be paused at a site go on.
    pub fn go(&self, site: &str) {
        fs::write(self.dir.join(format!("{site}.go")), "").expect("leave to go on");
    }
}

/// Sends a signal by its number, real-time ones included, to a process that this test started.
pub fn send(process: Process, signal: i32) {
    assert!(process.pid > 1 && process.is_alive(), "{} cannot be signalled", process.describe());
    // SAFETY: a plain system call; the id is above 1 and belongs to a process that was just seen alive.
    unsafe { libc::kill(process.pid, signal) };
}

/// Whether a signal waits for a process to take it.
pub fn is_pending(process: Process, signal: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
    let sets =
        text.lines().filter_map(|line| line.split_once(":\t")).filter(|(name, _)| name.ends_with("Pnd"));
    sets.filter_map(|(_, set)| u64::from_str_radix(set, 16).ok()).any(|set| set >> (signal - 1) & 1 == 1)
}

/// The keeper of a run that is under way.
pub fn keeper(run: &RunDir) -> Process {
    run.process("/owner").expect("a keeper in status.json")
}

/// Waits until a run's command was started, and returns the command.
pub fn wait_command(run: &RunDir) -> Process {
    run.wait_status("running");
    run.process("/command").expect("a command in status.json")
}

/// Starts `bookend run FLAGS -- artist ARGS` and waits until the command says `ready`.
pub fn start_ready(world: &World, flags: &[&str], args: &[&str]) -> Running {
    let running = world.run_artist(flags, args).spawn();
    running.wait_ready();
    running
}
