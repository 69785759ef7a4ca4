//! The ground that every test stands on.
//!
//! A [`World`] is a temporary directory with a store, a home and an environment of its own; nothing of the developer's
//! machine reaches the commands that are started in it, and dropping it ends whatever they left behind. What is started
//! is described by an [`Invocation`], is alive as [`Running`] or as a [`Terminal`], and is over as [`Finished`].
//!
//! Nothing here sleeps for luck: tests wait for a printed `ready`, for a descriptor, or through [`eventually`].

mod invocation;
mod place;
mod process;
mod run_dir;
mod terminal;
mod tests;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

pub use invocation::{Finished, Invocation, Output, Running};
pub use place::{PidNamespace, Tmpfs};
pub use process::{Process, assert_gone};
pub use run_dir::RunDir;
pub use terminal::Terminal;

use invocation::Input;
use process::processes_with;

/// The time that a command or a wait may take unless a test says otherwise.
pub const LIMIT: Duration = Duration::from_secs(60);
/// The time that processes may take to leave the process table after the last answer.
const SETTLE: Duration = Duration::from_secs(3);
/// The pause between two looks of [`eventually`].
const PAUSE: Duration = Duration::from_millis(2);
/// The variable that marks every process of a world, whatever run it belongs to.
const MARK: &str = "BOOKEND_TEST_WORLD";

/// Looks again and again until `look` finds something, and returns it.
///
/// # Panics
/// When `limit` is over; `what` says what was awaited.
#[track_caller]
pub fn eventually<T>(limit: Duration, what: &str, look: impl FnMut() -> Option<T>) -> T {
    look_for(limit, look).unwrap_or_else(|| panic!("after {limit:?} still no {what}"))
}

/// Looks again and again until `look` finds something or `limit` is over. This is the only place that sleeps.
fn look_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let late = Instant::now() >= deadline;
        let found = look();
        if found.is_some() || late {
            return found;
        }
        thread::sleep(PAUSE);
    }
}

/// Says whether a test may go on that needs `what`, which is `present` or not.
///
/// # Panics
/// When it is absent and `BOOKEND_REQUIRE_ALL` is set: where everything is installed, no test may be skipped.
pub fn go_on_with(what: &str, present: bool) -> bool {
    let strict = std::env::var_os("BOOKEND_REQUIRE_ALL").is_some_and(|value| value != "0");
    assert!(present || !strict, "{what} is absent, and BOOKEND_REQUIRE_ALL forbids to skip");
    if !present {
        eprintln!("skipped: {what} is absent");
    }
    present
}

/// Says whether `program` is installed, and skips or fails as [`go_on_with`] does.
pub fn have(program: &str) -> bool {
    let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    go_on_with(program, places.iter().any(|place| Path::new(place).join(program).exists()))
}

/// Returns the program that the tests are of: `BOOKEND_UNDER_TEST`, to see them fail against another one, or cargo's.
pub fn under_test() -> OsString {
    std::env::var_os("BOOKEND_UNDER_TEST").unwrap_or_else(|| env!("CARGO_BIN_EXE_bookend").into())
}

/// Returns the compiled fixture `artist`; the comment on top of its source lists what it can do.
pub fn artist() -> &'static Path {
    static ARTIST: OnceLock<PathBuf> = OnceLock::new();
    ARTIST.get_or_init(|| compile("artist", include_str!("../../fixtures/harness/artist.c")))
}

/// Compiles a fixture under a name made of its source, so that test processes need no lock among them.
pub fn compile(name: &str, source: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = home.join(format!("{name}-{:016x}", hasher.finish()));
    if program.exists() {
        return program;
    }
    let scratch = tempfile::tempdir_in(home).expect("a scratch directory for the fixture");
    let (text, fresh) = (scratch.path().join(format!("{name}.c")), scratch.path().join(name));
    fs::write(&text, source).expect("the fixture's source");
    let compiled = ["-static", "-O1"].iter().any(|link| {
        let mut cc = Command::new("cc");
        cc.args(["-O1", link, "-o"]).arg(&fresh).arg(&text).stderr(Stdio::null());
        cc.status().expect("cc starts").success()
    });
    assert!(compiled, "cc does not compile fixtures/harness/{name}.c");
    fs::rename(&fresh, &program).expect("the fixture in its place");
    program
}

/// A hermetic place for runs: its directory, its store, its environment, and an end for all that it started.
pub struct World {
    dir: TempDir,
    env: BTreeMap<OsString, OsString>,
}

impl World {
    /// Makes an empty world; its store does not exist yet.
    ///
    /// It lies in cargo's directory for tests, or where `BOOKEND_TEST_DIR` says (a tmpfs is quicker for long campaigns).
    pub fn new() -> Self {
        let base = std::env::var_os("BOOKEND_TEST_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
        let dir =
            tempfile::Builder::new().prefix("world-").tempdir_in(base).expect("a directory for the world");
        for sub in ["home", "work"] {
            fs::create_dir(dir.path().join(sub)).expect("a directory in the world");
        }
        let mut env = BTreeMap::new();
        for (name, value) in [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8")] {
            env.insert(name.into(), value.into());
        }
        for (name, place) in
            [("HOME", "home"), ("BOOKEND_STORE", "store"), ("ARTIST_PIDS", "pids"), (MARK, "")]
        {
            env.insert(name.into(), dir.path().join(place).into());
        }
        Self { dir, env }
    }

    /// Returns the path of `name` in the world's directory, which holds `home`, `work` (where commands start) and `store`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the store's directory, wherever the environment says it is.
    pub fn store(&self) -> PathBuf {
        PathBuf::from(&self.env[OsStr::new("BOOKEND_STORE")])
    }

    /// Moves the store, for instance onto a [`Tmpfs`].
    pub fn set_store(&mut self, place: &Path) {
        self.set_env("BOOKEND_STORE", place);
    }

    /// Sets a variable for every later command of this world.
    pub fn set_env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.env.insert(name.into(), value.into());
    }

    /// Describes a call of the bookend under test: the one just built, or the program that `BOOKEND_UNDER_TEST` names
    /// (a stub that writes nothing shows which tests can fail).
    pub fn bookend<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        self.command(under_test(), args)
    }

    /// Describes `bookend run FLAGS -- artist ARGS`.
    pub fn run_artist(&self, flags: &[&str], args: &[&str]) -> Invocation {
        self.bookend(["run"]).args(flags).arg("--").arg(artist()).args(args)
    }

    /// Describes a call of any program.
    pub fn command<A: Into<OsString>>(
        &self,
        program: impl Into<OsString>,
        args: impl IntoIterator<Item = A>,
    ) -> Invocation {
        Invocation {
            prefix: Vec::new(),
            argv: std::iter::once(program.into()).chain(args.into_iter().map(Into::into)).collect(),
            env: self.env.clone(),
            cwd: self.path("work"),
            input: Input::Null,
            output: Output::Pipes,
            limit: LIMIT,
        }
    }

    /// Returns all runs of the store, oldest id first.
    pub fn runs(&self) -> Vec<RunDir> {
        let mut runs: Vec<_> = entries(&self.store().join("runs"))
            .into_iter()
            .filter(|path| !file_name(path).starts_with('.'))
            .map(|path| RunDir { path })
            .collect();
        runs.sort_by_key(RunDir::id);
        runs
    }

    /// Returns the one run of the store.
    ///
    /// # Panics
    /// When there is none, or more than one.
    pub fn only_run(&self) -> RunDir {
        let mut runs = self.runs();
        assert_eq!(runs.len(), 1, "exactly one run in {}: {runs:?}", self.store().display());
        runs.remove(0)
    }

    /// Waits until the store holds a run, and returns the only one.
    pub fn wait_for_run(&self) -> RunDir {
        eventually(LIMIT, "run in the store", || (!self.runs().is_empty()).then(|| self.only_run()))
    }

    /// Returns the names of the live markers.
    pub fn live(&self) -> Vec<String> {
        entries(&self.store().join("live")).iter().map(|path| file_name(path)).collect()
    }

    /// Returns the lines of `attempts.jsonl`; none when it does not exist.
    pub fn attempts(&self) -> Vec<Value> {
        json_lines(&self.store().join("attempts.jsonl"))
    }

    /// Asks bookend for one of its schemas: `status`, `run` or `task`.
    pub fn schema(&self, kind: &str) -> Value {
        let answer = self.bookend(["schema", kind]).run();
        answer.assert_code(0);
        answer.json()
    }

    /// Returns the living processes that were started in this world, and those that its artists noted.
    pub fn processes(&self) -> Vec<Process> {
        let mark = self.mark();
        let mut found = processes_with(&[&mark]);
        found.extend(self.noted().into_iter().filter(Process::is_alive));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Returns the living processes of this world that carry the id of a run.
    pub fn processes_of_run(&self, id: &str) -> Vec<Process> {
        processes_with(&[&self.mark(), &variable("BOOKEND_RUN_ID", id.as_ref())])
    }

    /// Returns every process that an artist of this world ever noted, dead ones too.
    pub fn noted(&self) -> Vec<Process> {
        let text = fs::read_to_string(self.path("pids")).unwrap_or_default();
        let fields = |line: &str| {
            let (pid, start_time) = line.split_once(' ')?;
            Some(Process { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
        };
        text.lines().filter_map(fields).collect()
    }

    /// Asserts that nothing is alive of all that was started in this world.
    ///
    /// # Panics
    /// When something still is after [`SETTLE`]; the message lists it.
    pub fn assert_no_process_left(&self) {
        look_for(SETTLE, || self.processes().is_empty().then_some(()));
        let left: Vec<_> = self.processes().iter().map(Process::describe).collect();
        assert!(left.is_empty(), "still alive: {left:#?}");
    }

    /// Mounts a small tmpfs in this world; `None` (or a failure, see [`go_on_with`]) without root.
    pub fn tmpfs(&self, size_bytes: u64, inodes: u64) -> Option<Tmpfs> {
        go_on_with("root, to mount a tmpfs", nix::unistd::geteuid().is_root())
            .then(|| Tmpfs::mount(self.path("tmpfs"), size_bytes, inodes))
    }

    fn mark(&self) -> Vec<u8> {
        variable(MARK, &self.env[OsStr::new(MARK)])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Again and again, because what forks may slip through one look.
        look_for(SETTLE, || {
            let left = self.processes();
            for process in &left {
                process.signal(Signal::SIGKILL);
            }
            left.is_empty().then_some(())
        });
    }
}

/// Returns one variable as it stands in `/proc/PID/environ`.
fn variable(name: &str, value: &OsStr) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat()
}

/// Returns the paths in a directory, sorted; none when it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(found) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = found.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns the place of `needle` in `hay`.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Parses a file of JSON lines; none when it does not exist.
fn json_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let parse =
        |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display()));
    text.lines().map(parse).collect()
}

/// Asserts that a value follows a JSON Schema, and lists every violation if not.
pub fn assert_follows(schema: &Value, value: &Value) {
    let validator = jsonschema::validator_for(schema).expect("a schema that is one itself");
    let wrong: Vec<_> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path)).collect();
    assert!(wrong.is_empty(), "against the schema: {wrong:#?}\n{value:#}");
}
