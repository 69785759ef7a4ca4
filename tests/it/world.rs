//! The ground that every test stands on.
//!
//! A [`World`] is a temporary directory with a store, a home and an environment of its own; nothing of the developer's
//! machine reaches the commands that are started in it, and dropping it ends whatever they left behind. What is started
//! is described by an [`Invocation`], is alive as [`Running`] or as a [`Terminal`], and is over as [`Finished`].
//!
//! Nothing here sleeps for luck: tests wait for a printed `ready`, for a descriptor, or through [`eventually`].

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::pty::Winsize;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// The time that a command or a wait may take unless a test says otherwise.
pub const LIMIT: Duration = Duration::from_secs(60);
/// The time that output may stay open after its command ended before it counts as held by somebody else.
const HELD_AFTER: Duration = Duration::from_secs(1);
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

// ---- the world --------------------------------------------------------------------------------------------------

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

// ---- one command --------------------------------------------------------------------------------------------------

/// What a command reads.
#[derive(Clone, Debug)]
enum Input {
    Null,
    Bytes(Vec<u8>),
    Open,
}

/// Where a command's two streams go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Each into a pipe of its own, as in CI.
    Pipes,
    /// Both into one pipe, as after `2>&1 |`; all of it is in [`Finished::stdout`].
    OnePipe,
    /// Both into one file, opened for appending.
    File(PathBuf),
    /// Both into the null device.
    Null,
    /// Each into a pipe that nobody reads, until a test takes it with [`Running::take_pipes`].
    Unread,
}

/// A command that is described and not yet started.
#[derive(Clone, Debug)]
pub struct Invocation {
    prefix: Vec<OsString>,
    argv: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    cwd: PathBuf,
    input: Input,
    output: Output,
    limit: Duration,
}

impl Invocation {
    /// Returns the program's path.
    pub fn program(&self) -> PathBuf {
        PathBuf::from(&self.argv[0])
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: &[impl AsRef<OsStr>]) -> Self {
        self.argv.extend(args.iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Takes a variable away.
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.remove(OsStr::new(name));
        self
    }

    /// Sets the directory to start in.
    pub fn cwd(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = dir.into();
        self
    }

    /// Feeds these bytes to standard input, then ends it.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// Keeps standard input open as a pipe, see [`Running::send`] and [`Running::end_input`].
    pub fn open_input(mut self) -> Self {
        self.input = Input::Open;
        self
    }

    /// Says where the streams go.
    pub fn output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// Sets the time after which the command is killed and the test fails.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Puts a launcher before the command, outside of earlier ones: `strace -f -o FILE`, say.
    pub fn under(mut self, launcher: &[impl AsRef<OsStr>]) -> Self {
        self.prefix.splice(0..0, launcher.iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Starts the command with an odd inheritance, such as `ignore=CHLD` or `nofile=8`: the options of `artist with`.
    pub fn inheriting(self, options: &[&str]) -> Self {
        let mut launcher = vec![artist().as_os_str(), OsStr::new("with")];
        launcher.extend(options.iter().map(OsStr::new));
        launcher.push(OsStr::new("--"));
        self.under(&launcher)
    }

    /// Runs the command in a PID namespace of its own, below an init; `None` where that is not allowed.
    ///
    /// A death by a signal is then seen as the code 128 + n, and [`Running::process`] is the launcher.
    pub fn in_pid_namespace(self) -> Option<Self> {
        go_on_with("unshare --pid", may_unshare()).then(|| {
            let launcher = [unshare_words(), vec![artist().into(), "init".into(), "--".into()]].concat();
            self.under(&launcher)
        })
    }

    /// Runs the command to its end.
    pub fn run(&self) -> Finished {
        self.spawn().wait()
    }

    /// Starts the command and lets it run.
    pub fn spawn(&self) -> Running {
        let mut command = self.build();
        let mut readers = self.connect(&mut command);
        command.stdin(if matches!(self.input, Input::Null) { Stdio::null() } else { Stdio::piped() });
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {:?}: {e}", self.argv));
        drop(command); // closes this side's copies of what the child writes into
        let mut stdin = child.stdin.take();
        if let Input::Bytes(bytes) = &self.input {
            feed(stdin.take(), bytes.clone());
        }
        let pipes = if self.output == Output::Unread { std::mem::take(&mut readers) } else { Vec::new() };
        let mut streams = readers.into_iter().map(Stream::collect);
        let (out, err) = (streams.next().unwrap_or_default(), streams.next().unwrap_or_default());
        Running { child: Some(child), stdin, pipes, out, err, started, limit: self.limit }
    }

    fn build(&self) -> Command {
        let mut words = self.prefix.iter().chain(&self.argv);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).env_clear().envs(&self.env).current_dir(&self.cwd);
        // SAFETY: the closure makes system calls only; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(shed_inheritance) };
        command
    }

    /// Gives the command its two streams and returns the ends to read.
    fn connect(&self, command: &mut Command) -> Vec<PipeReader> {
        match &self.output {
            Output::Null => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
                Vec::new()
            }
            Output::File(path) => {
                let file =
                    File::options().create(true).append(true).open(path).expect("a file for the output");
                command.stdout(file.try_clone().expect("a second handle")).stderr(file);
                Vec::new()
            }
            Output::OnePipe => {
                let (reader, writer) = pipe();
                command.stdout(writer.try_clone().expect("a second writer")).stderr(writer);
                vec![reader]
            }
            Output::Pipes | Output::Unread => {
                let ((out, to_out), (err, to_err)) = (pipe(), pipe());
                command.stdout(to_out).stderr(to_err);
                vec![out, err]
            }
        }
    }
}

/// Sheds what the test process itself inherited: open descriptors above 2 and ignored signals.
fn shed_inheritance() -> io::Result<()> {
    // SAFETY: the call takes three integers; the flag only marks descriptors, so that exec closes them.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let standard = [0_u64; 8]; // the kernel's own structure, all zero: libc's call refuses 32 and 33
    for number in 1..=64 {
        let before = std::ptr::null_mut::<u64>();
        // SAFETY: the kernel reads less than this array holds, and refuses what cannot be changed.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, standard.as_ptr(), before, 8) };
    }
    Ok(())
}

fn pipe() -> (PipeReader, PipeWriter) {
    io::pipe().expect("a pipe")
}

/// Writes the input from a thread, because the command may not read it all.
fn feed(stdin: Option<impl Write + Send + 'static>, bytes: Vec<u8>) {
    let mut stdin = stdin.expect("a pipe to standard input");
    thread::spawn(move || stdin.write_all(&bytes));
}

/// What a stream has said so far, and whether it is over.
struct Said {
    bytes: Vec<u8>,
    over: bool,
}

/// A stream that a thread collects.
struct Stream(Arc<(Mutex<Said>, Condvar)>);

impl Default for Stream {
    /// A stream that nobody collects is over from the start.
    fn default() -> Self {
        Self(Arc::new((Mutex::new(Said { bytes: Vec::new(), over: true }), Condvar::new())))
    }
}

impl Stream {
    fn collect(mut source: PipeReader) -> Self {
        let shared = Arc::new((Mutex::new(Said { bytes: Vec::new(), over: false }), Condvar::new()));
        let stream = Self(Arc::clone(&shared));
        thread::spawn(move || {
            let mut block = vec![0; 1 << 16];
            while !stream_in(&shared, &mut source, &mut block) {}
        });
        stream
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).bytes.clone()
    }

    /// Waits until `enough` holds; says whether it did in time.
    fn wait(&self, limit: Duration, enough: impl Fn(&Said) -> bool) -> bool {
        let said = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(said, limit, |said| !enough(said) && !said.over);
        enough(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// Takes in one read; says whether the stream is over.
fn stream_in(shared: &(Mutex<Said>, Condvar), source: &mut PipeReader, block: &mut [u8]) -> bool {
    let size = source.read(block).unwrap_or(0);
    let mut said = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    said.bytes.extend_from_slice(&block[..size]);
    said.over = size == 0;
    shared.1.notify_all();
    said.over
}

/// A command that has been started.
pub struct Running {
    child: Option<Child>,
    stdin: Option<std::process::ChildStdin>,
    pipes: Vec<PipeReader>,
    out: Stream,
    err: Stream,
    started: Instant,
    limit: Duration,
}

impl Running {
    /// Returns the process that was started: the launcher, where [`Invocation::under`] put one.
    pub fn process(&self) -> Process {
        let child = self.child.as_ref().expect("a child that was not waited for");
        Process::read(child.id().cast_signed()).expect("a child that is not reaped has an entry in /proc")
    }

    /// Sends a signal to this one process.
    pub fn signal(&self, signal: Signal) {
        assert!(self.process().signal(signal), "cannot send {signal}");
    }

    /// Returns what standard output said so far.
    pub fn stdout(&self) -> Vec<u8> {
        self.out.bytes()
    }

    /// Returns what standard error said so far.
    pub fn stderr(&self) -> Vec<u8> {
        self.err.bytes()
    }

    /// Waits until standard output holds `text`.
    pub fn wait_stdout(&self, text: &str) {
        self.wait_stream(&self.out, text);
    }

    /// Waits until standard error holds `text`.
    pub fn wait_stderr(&self, text: &str) {
        self.wait_stream(&self.err, text);
    }

    /// Waits for the line `ready` on standard output.
    pub fn wait_ready(&self) {
        self.wait_stdout("ready\n");
    }

    /// Waits until a file exists.
    pub fn wait_for_file(&self, path: &Path) {
        eventually(self.limit, &path.display().to_string(), || path.exists().then_some(()));
    }

    /// Writes to the standard input that [`Invocation::open_input`] kept open.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("open input").write_all(bytes).expect("a reader of the input");
    }

    /// Ends standard input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Hands over the two pipes of [`Output::Unread`], standard output first; dropping one breaks it.
    pub fn take_pipes(&mut self) -> Vec<PipeReader> {
        std::mem::take(&mut self.pipes)
    }

    /// Waits for the end within the invocation's limit.
    pub fn wait(self) -> Finished {
        let limit = self.limit;
        self.wait_within(limit)
    }

    /// Waits for the end within a limit counted from now.
    ///
    /// # Panics
    /// When the command goes on; it is killed then.
    pub fn wait_within(mut self, limit: Duration) -> Finished {
        let mut child = self.child.take().expect("a child that was not waited for");
        self.stdin = None;
        if !PidFd::open(child.id().cast_signed()).is_none_or(|pidfd| pidfd.wait(limit)) {
            child.kill().expect("a child that can be killed");
            child.wait().expect("a child that can be reaped");
            let (out, err) = (self.out.bytes(), self.err.bytes());
            panic!("still running after {limit:?}\nstdout: {}\nstderr: {}", lossy(&out), lossy(&err));
        }
        let status = child.wait().expect("an exit status");
        let elapsed = self.started.elapsed();
        let held = [&self.out, &self.err].iter().any(|stream| !stream.wait(HELD_AFTER, |said| said.over));
        Finished::new(status, self.out.bytes(), self.err.bytes(), elapsed, held)
    }

    fn wait_stream(&self, stream: &Stream, text: &str) {
        let has = |said: &Said| find(&said.bytes, text.as_bytes()).is_some();
        if !stream.wait(self.limit, has) {
            let (out, err) = (self.out.bytes(), self.err.bytes());
            panic!("no {text:?} in\nstdout: {}\nstderr: {}", lossy(&out), lossy(&err));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill(); // it may be gone already
            let _ = child.wait();
        }
    }
}

/// Returns the place of `needle` in `hay`.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How a command ended and what it said.
pub struct Finished {
    /// The exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Standard error, byte for byte.
    pub stderr: Vec<u8>,
    /// The time from start to end.
    pub elapsed: Duration,
    /// Whether somebody else still held an output stream open a second after the end.
    pub held: bool,
}

impl Finished {
    fn new(status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8>, elapsed: Duration, held: bool) -> Self {
        Self { code: status.code(), signal: status.signal(), stdout, stderr, elapsed, held }
    }

    /// Returns standard output as text.
    pub fn out(&self) -> String {
        lossy(&self.stdout)
    }

    /// Returns standard error as text.
    pub fn err(&self) -> String {
        lossy(&self.stderr)
    }

    /// Parses standard output as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("stdout is not JSON: {e}\n{self:?}"))
    }

    /// Asserts that the command exited with `code`.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!((self.code, self.signal), (Some(code), None), "{self:?}");
        self
    }

    /// Asserts that the command was ended by `signal`.
    #[track_caller]
    pub fn assert_signal(&self, signal: Signal) -> &Self {
        assert_eq!((self.code, self.signal), (None, Some(signal as i32)), "{self:?}");
        self
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |bytes: &[u8]| lossy(&bytes[..bytes.len().min(4096)]);
        writeln!(
            f,
            "code {:?}, signal {:?}, {:?}, held {}",
            self.code, self.signal, self.elapsed, self.held
        )?;
        write!(f, "--- stdout\n{}\n--- stderr\n{}", short(&self.stdout), short(&self.stderr))
    }
}

// ---- one run ------------------------------------------------------------------------------------------------------

/// The directory of one run.
#[derive(Clone, Debug)]
pub struct RunDir {
    /// Where it is.
    pub path: PathBuf,
}

impl RunDir {
    /// Returns the run's id.
    pub fn id(&self) -> String {
        file_name(&self.path)
    }

    /// Returns the names of the files in the directory, sorted.
    pub fn files(&self) -> Vec<String> {
        entries(&self.path).iter().map(|path| file_name(path)).collect()
    }

    /// Reads one file; `None` when it does not exist.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => panic!("{name}: {e}"),
        }
    }

    /// Reads one file as text.
    ///
    /// # Panics
    /// When it does not exist.
    pub fn text(&self, name: &str) -> String {
        lossy(&self.read(name).unwrap_or_else(|| panic!("no {name} among {:?}", self.files())))
    }

    /// Says whether the final record exists.
    pub fn is_sealed(&self) -> bool {
        self.path.join("run.json").exists()
    }

    /// Waits for the final record, and returns it.
    pub fn wait_sealed(&self, limit: Duration) -> Value {
        eventually(limit, "run.json", || self.is_sealed().then(|| self.run_json()))
    }

    /// Waits until the living state has this `status`, and returns it.
    pub fn wait_status(&self, status: &str) -> Value {
        eventually(LIMIT, &format!("status {status}"), || {
            let state =
                self.read("status.json").and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())?;
            (state["status"] == status).then_some(state)
        })
    }

    /// Returns the final record.
    pub fn run_json(&self) -> Value {
        self.json("run.json")
    }

    /// Returns the living state.
    pub fn status_json(&self) -> Value {
        self.json("status.json")
    }

    /// Returns the task's record.
    pub fn task_json(&self) -> Value {
        self.json("task.json")
    }

    /// Returns the events, in order.
    pub fn events(&self) -> Vec<Value> {
        json_lines(&self.path.join("events.jsonl"))
    }

    /// Returns the log, byte for byte.
    pub fn log(&self) -> Vec<u8> {
        self.read("harness.log").unwrap_or_default()
    }

    /// Returns the process that the living state or the final record names under `pointer` (`/owner` or `/command`).
    pub fn process(&self, pointer: &str) -> Option<Process> {
        let state = if self.is_sealed() { self.run_json() } else { self.status_json() };
        let named = state.pointer(pointer)?;
        let pid = i32::try_from(named["pid"].as_i64()?).ok()?;
        Some(Process { pid, start_time: named["start_time"].as_u64()? })
    }

    fn json(&self, name: &str) -> Value {
        let text = self.text(name);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}\n{text}"))
    }
}

// ---- processes ----------------------------------------------------------------------------------------------------

/// A process by its identity: the id alone is given to others later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// The process id.
    pub pid: i32,
    /// Field 22 of its `stat`: clock ticks since boot.
    pub start_time: u64,
}

impl Process {
    /// Reads the identity of the process that has this id now.
    pub fn read(pid: i32) -> Option<Self> {
        let start_time = stat_fields(pid)?.get(19)?.parse().ok()?;
        Some(Self { pid, start_time })
    }

    /// Returns the state letter of `/proc/PID/stat`, if this very process still has an entry there.
    pub fn state(&self) -> Option<char> {
        let fields = stat_fields(self.pid)?;
        (fields.get(19)?.parse() == Ok(self.start_time)).then(|| fields[0].chars().next())?
    }

    /// Returns the parent's id.
    pub fn parent(&self) -> Option<i32> {
        stat_fields(self.pid)?.get(1)?.parse().ok()
    }

    /// Says whether the process lives; a zombie does not.
    pub fn is_alive(&self) -> bool {
        self.state().is_some_and(|state| !matches!(state, 'Z' | 'X'))
    }

    /// Waits until the process has this state letter: `T` is stopped, `S` sleeping.
    pub fn wait_state(&self, state: char) {
        eventually(LIMIT, &format!("state {state} of {}", self.describe()), || {
            (self.state() == Some(state)).then_some(())
        });
    }

    /// Waits until the process is gone.
    pub fn wait_gone(&self, limit: Duration) {
        eventually(limit, &format!("end of {}", self.describe()), || (!self.is_alive()).then_some(()));
    }

    /// Sends a signal to this very process, never to a later one with its id; says whether it could.
    pub fn signal(&self, signal: Signal) -> bool {
        let Some(pidfd) = PidFd::open(self.pid) else { return false };
        self.is_alive() && pidfd.send(signal)
    }

    /// Returns id, state and command line in one line.
    pub fn describe(&self) -> String {
        let words = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        format!("{} {:?} {}", self.pid, self.state(), lossy(&words).replace('\0', " "))
    }
}

/// Asserts that the process with this id and start time is gone; a zombie counts as gone.
#[track_caller]
pub fn assert_gone(pid: i32, start_time: u64) {
    let process = Process { pid, start_time };
    assert!(!process.is_alive(), "still alive: {}", process.describe());
}

/// Returns the fields of `/proc/PID/stat` from the state letter (the third) on.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = lossy(&text);
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Returns every process that has an entry in `/proc`.
fn all_processes() -> Vec<Process> {
    entries(Path::new("/proc"))
        .iter()
        .filter_map(|path| Process::read(file_name(path).parse().ok()?))
        .collect()
}

/// Returns the living processes, this one apart, whose environment holds all these variables.
fn processes_with(variables: &[&[u8]]) -> Vec<Process> {
    let has_all = |process: &Process| {
        let environ = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        variables.iter().all(|variable| find(&environ, variable).is_some())
    };
    let this = std::process::id().cast_signed();
    let mut found = all_processes();
    found.retain(|process| process.pid != this && has_all(process) && process.is_alive());
    found
}

/// A descriptor that stays with one process.
struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process with this id; `None` when there is none, and for ids that no test may touch.
    fn open(pid: i32) -> Option<Self> {
        if pid <= 1 {
            return None;
        }
        // SAFETY: the call takes two integers and touches no memory of this process.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
        Some(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn send(&self, signal: Signal) -> bool {
        let (fd, number) = (self.0.as_raw_fd(), signal as i32);
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and a null pointer asks the kernel to fill in the details itself.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, info, 0) == 0 }
    }

    /// Waits for the end of the process; says whether it came in time.
    fn wait(&self, limit: Duration) -> bool {
        readable(&[&self.0], Instant::now() + limit)[0]
    }
}

/// Waits until one of the descriptors is readable or hung up, or until the deadline; says which are.
fn readable(fds: &[&dyn AsFd], deadline: Instant) -> Vec<bool> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut polled, timeout) {
            Err(nix::Error::EINTR) => {}
            Err(e) => panic!("poll: {e}"),
            Ok(0) if !left.is_zero() => {}
            Ok(_) => return polled.iter().map(|fd| fd.any().unwrap_or(false)).collect(),
        }
    }
}

// ---- places -------------------------------------------------------------------------------------------------------

/// A small file system of its own, unmounted when dropped.
pub struct Tmpfs {
    /// Where it is mounted.
    pub path: PathBuf,
}

impl Tmpfs {
    fn mount(path: PathBuf, size_bytes: u64, inodes: u64) -> Self {
        fs::create_dir_all(&path).expect("a directory to mount on");
        let options = format!("size={size_bytes},nr_inodes={inodes},mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path);
        assert!(
            mount.status().expect("mount starts").success(),
            "cannot mount a tmpfs on {}",
            path.display()
        );
        Self { path }
    }

    /// Fills all its blocks but about `free_bytes` with one file.
    pub fn fill(&self, free_bytes: u64) {
        let mut file = File::create(self.path.join("ballast")).expect("a file on the tmpfs");
        let block = [b'x'; 4096];
        while file.write_all(&block).is_ok() {}
        let size = file.metadata().expect("its size").len();
        file.set_len(size.saturating_sub(free_bytes)).expect("a shorter file");
    }

    /// Uses up all its inodes with empty files.
    pub fn fill_inodes(&self) {
        let dir = self.path.join("inodes");
        fs::create_dir(&dir).expect("a directory on the tmpfs");
        let mut number = 0;
        while File::create(dir.join(number.to_string())).is_ok() {
            number += 1;
        }
    }

    /// Takes away what [`Tmpfs::fill`] and [`Tmpfs::fill_inodes`] put there.
    pub fn relieve(&self) {
        // Emptied before it is removed: a child that another test is just forking may hold it for a moment.
        let _ = File::create(self.path.join("ballast"));
        let _ = fs::remove_file(self.path.join("ballast"));
        let _ = fs::remove_dir_all(self.path.join("inodes"));
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

/// Returns the id that a process has in its own PID namespace.
fn innermost_pid(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().last()?.parse().ok()
}

/// Says whether this user may make PID namespaces; tried once.
fn may_unshare() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let words = unshare_words();
        let mut trial = Command::new(&words[0]);
        trial.args(&words[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        trial.status().is_ok_and(|status| status.success())
    })
}

/// Returns the launcher that makes a PID namespace with a `/proc` of its own.
fn unshare_words() -> Vec<OsString> {
    let mut words = vec!["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"];
    if !nix::unistd::geteuid().is_root() {
        words.extend(["--user", "--map-root-user"]);
    }
    words.push("--");
    words.into_iter().map(OsString::from).collect()
}

/// A PID namespace that lives until it is dropped, and all processes in it with it.
pub struct PidNamespace {
    holder: Child,
    init: Process,
}

impl PidNamespace {
    /// Opens a namespace that several commands can enter one after another; `None` where that is not allowed.
    ///
    /// What is mounted later is not seen in it: mount a [`Tmpfs`] first.
    pub fn open() -> Option<Self> {
        go_on_with("unshare --pid", may_unshare()).then(Self::start)
    }

    fn start() -> Self {
        let words = unshare_words();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(artist())
            .arg("init")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()); // it complains when its child is killed, as is meant
        let mut holder = command.spawn().expect("unshare starts");
        let mut ready = [0; 6];
        holder.stdout.take().expect("its output").read_exact(&mut ready).expect("an init that is ready");
        let parent = Some(holder.id().cast_signed());
        let init = all_processes().into_iter().find(|process| process.parent() == parent);
        Self { holder, init: init.expect("an init below unshare") }
    }

    /// Returns the living processes in the namespace, its init apart: each as it is known in there, and as it is here.
    pub fn processes(&self) -> Vec<(Process, Process)> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let home = namespace(self.init.pid);
        let mut found = all_processes();
        found.retain(|p| *p != self.init && p.is_alive() && namespace(p.pid) == home);
        let inside = |p: &Process| Some(Process { pid: innermost_pid(p.pid)?, start_time: p.start_time });
        found.into_iter().filter_map(|p| Some((inside(&p)?, p))).collect()
    }

    /// Returns a process that is named as it is known in the namespace, as it is here.
    pub fn outside(&self, inside: Process) -> Option<Process> {
        self.processes().into_iter().find(|known| known.0 == inside).map(|known| known.1)
    }

    /// Puts a command into the namespace; [`Running::process`] is then the launcher that waits outside.
    pub fn enter(&self, call: Invocation) -> Invocation {
        let mut words: Vec<OsString> = vec!["nsenter".into(), format!("--target={}", self.init.pid).into()];
        words.extend(["--pid".into(), "--mount".into()]);
        if !nix::unistd::geteuid().is_root() {
            words.extend(["--user".into(), "--preserve-credentials".into()]);
        }
        let mut cd = OsString::from("cd=");
        cd.push(&call.cwd);
        words.extend(["--".into(), artist().into(), "with".into(), cd, "--".into()]);
        call.under(&words)
    }
}

impl Drop for PidNamespace {
    fn drop(&mut self) {
        self.init.signal(Signal::SIGKILL);
        let _ = self.holder.wait();
    }
}

// ---- terminals ----------------------------------------------------------------------------------------------------

/// A session on a pseudo-terminal whose other side the test holds.
pub struct Terminal {
    master: Option<File>,
    child: Child,
    seen: Vec<u8>,
    taken: usize,
    started: Instant,
    limit: Duration,
}

impl Terminal {
    /// Starts a command as the leader of a session on a new terminal of 24 rows and 80 columns.
    pub fn open(call: &Invocation) -> Self {
        Self::open_with(call, true)
    }

    /// Starts an interactive shell with job control and no echo, and waits for its first prompt, `prompt> `.
    pub fn shell(world: &World) -> Self {
        let bash = ["--norc", "--noprofile", "--noediting", "-i"];
        let call = if Path::new("/bin/bash").exists() {
            world.command("/bin/bash", bash)
        } else {
            world.command("/bin/sh", ["-i"])
        };
        let mut shell = Self::open_with(&call.env("PS1", "prompt> ").env("TERM", "dumb"), false);
        shell.wait_for("prompt> ");
        shell
    }

    fn open_with(call: &Invocation, echo: bool) -> Self {
        let (master, slave) = open_terminal(echo);
        let mut command = call.build();
        let copy = || slave.try_clone().expect("a second handle of the terminal");
        command.stdin(copy()).stdout(copy()).stderr(copy());
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(lead_session) };
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {:?}: {e}", call.argv));
        let started = Instant::now();
        Self { master: Some(master), child, seen: Vec::new(), taken: 0, started, limit: call.limit }
    }

    /// Returns the process that leads the session.
    pub fn process(&self) -> Process {
        Process::read(self.child.id().cast_signed())
            .expect("a child that is not reaped has an entry in /proc")
    }

    /// Types something; `\x03` is Ctrl-C, `\x1a` Ctrl-Z, `\x1c` Ctrl-\.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.master
            .as_mut()
            .expect("a line that is not hung up")
            .write_all(bytes.as_ref())
            .expect("a terminal to type on");
    }

    /// Waits for a text after the last one that was waited for, and returns all up to its end.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.wait_for_within(text, self.limit)
    }

    /// Waits for a text within a limit.
    ///
    /// # Panics
    /// When it does not come, or the terminal is closed before.
    pub fn wait_for_within(&mut self, text: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(place) = find(&self.seen[self.taken..], text.as_bytes()) {
                let end = self.taken + place + text.len();
                let passage = lossy(&self.seen[self.taken..end]);
                self.taken = end;
                return passage;
            }
            let more = Instant::now() < deadline && self.pump(deadline);
            assert!(more, "no {text:?} on the terminal:\n{}", lossy(&self.seen[self.taken..]));
        }
    }

    /// Returns everything that the terminal showed so far.
    pub fn seen(&self) -> String {
        lossy(&self.seen)
    }

    /// Changes the window's size, which sends SIGWINCH to the foreground.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = winsize(rows, columns);
        let master = self.master.as_ref().expect("a line that is not hung up");
        // SAFETY: the descriptor is open, and the call only reads a structure that outlives it.
        let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0, "TIOCSWINSZ: {}", io::Error::last_os_error());
    }

    /// Returns the id of the foreground process group.
    pub fn foreground(&self) -> i32 {
        let master = self.master.as_ref().expect("a line that is not hung up");
        nix::unistd::tcgetpgrp(master).expect("a foreground group").as_raw()
    }

    /// Closes the test's side: the session leader gets SIGHUP, and later writes fail with EIO.
    pub fn hang_up(&mut self) {
        self.master = None;
    }

    /// Waits for the end of the session leader; all output is in [`Finished::stdout`].
    pub fn wait(mut self) -> Finished {
        let deadline = Instant::now() + self.limit;
        let pidfd = PidFd::open(self.child.id().cast_signed()).expect("a child that is not reaped");
        loop {
            let over = readable(&[&pidfd.0], Instant::now())[0];
            if over {
                while self.pump(Instant::now()) {}
                break;
            }
            let Some(master) = &self.master else {
                assert!(pidfd.wait(self.limit), "still running after {:?}", self.limit);
                continue;
            };
            let [_, more] = readable(&[&pidfd.0, master], deadline)[..] else {
                unreachable!("two were asked for")
            };
            if more && !self.pump(deadline) {
                self.master = None;
            }
            assert!(Instant::now() < deadline, "still running after {:?}:\n{}", self.limit, self.seen());
        }
        let status = self.child.wait().expect("an exit status");
        Finished::new(status, std::mem::take(&mut self.seen), Vec::new(), self.started.elapsed(), false)
    }

    /// Reads once what the terminal shows; says whether there was something before the deadline.
    fn pump(&mut self, deadline: Instant) -> bool {
        let Some(master) = &mut self.master else { return false };
        let mut block = [0; 4096];
        if !readable(&[master], deadline)[0] {
            return false;
        }
        let size = master.read(&mut block).unwrap_or(0); // EIO: nobody has the other side open
        self.seen.extend_from_slice(&block[..size]);
        size > 0
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be gone already
        let _ = self.child.wait();
    }
}

fn winsize(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Makes the calling process the leader of a session with standard input as its terminal.
fn lead_session() -> io::Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: the descriptor is the terminal, and the call takes an integer.
    if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Opens both sides of a terminal, neither of which another test's child can inherit.
fn open_terminal(echo: bool) -> (File, File) {
    use nix::fcntl::OFlag;
    use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = nix::pty::posix_openpt(flags).expect("a pseudo-terminal");
    nix::pty::grantpt(&master).expect("its rights");
    nix::pty::unlockpt(&master).expect("its lock");
    let name = nix::pty::ptsname_r(&master).expect("its name");
    let slave =
        nix::fcntl::open(name.as_str(), flags, nix::sys::stat::Mode::empty()).expect("its other side");
    let mut settings = tcgetattr(&slave).expect("its settings");
    settings.local_flags.set(LocalFlags::ECHO, echo);
    tcsetattr(&slave, SetArg::TCSANOW, &settings).expect("its settings");
    let size = winsize(24, 80);
    // SAFETY: the descriptor is open, and the call only reads a structure that outlives it.
    let done = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(done, 0, "TIOCSWINSZ: {}", io::Error::last_os_error());
    // SAFETY: the descriptor was just taken out of its owner, so that nothing else closes it.
    let master = unsafe { OwnedFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(master)) };
    (File::from(master), File::from(slave))
}

// ---- the ground is tested too -------------------------------------------------------------------------------------

mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn nothing_of_the_machine_leaks_in() {
        let world = World::new();
        let done = world.command(artist(), ["env"]).env("A", "1").without_env("LANG").run();
        let out = done.assert_code(0).out();
        let mut names: Vec<_> = out.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.sort_unstable();
        assert_eq!(names, ["A", "ARTIST_PIDS", "BOOKEND_STORE", MARK, "HOME", "PATH"]);
        let fds = world.command(artist(), ["fds"]).run().out();
        assert_eq!(fds.lines().count(), 3, "{fds}");
    }

    #[test]
    fn codes_signals_streams_and_input_are_exact() {
        let world = World::new();
        world.command(artist(), ["exit", "77"]).run().assert_code(77);
        world.command(artist(), ["die", "TERM"]).run().assert_signal(Signal::SIGTERM);
        let both = world.command(artist(), ["gen", "64", "both"]).run();
        assert_eq!(both.out(), "out 00000001 abcdefghijklmnopqr\n");
        assert_eq!(both.err(), "err 00000001 abcdefghijklmnopqr\n");
        let one = world.command(artist(), ["gen", "64", "both"]).output(Output::OnePipe).run();
        assert_eq!((one.stdout.len(), one.stderr.len(), one.held), (64, 0, false));
        let echoed = world.command(artist(), ["echo-stdin"]).input(*b"a\0\xff").run();
        assert_eq!(echoed.stdout, b"a\0\xff");
        let file = world.path("both");
        world
            .command(artist(), ["gen", "64", "both"])
            .output(Output::File(file.clone()))
            .run()
            .assert_code(0);
        assert_eq!(fs::read(file).expect("the file").len(), 64);
        world.command(artist(), ["exit", "0"]).output(Output::Null).run().assert_code(0);
    }

    #[test]
    fn an_odd_inheritance_and_a_launcher_arrive() {
        let world = World::new();
        let call = world.command(artist(), ["mask"]).inheriting(&["ignore=USR1", "umask=027"]);
        let out = call.under(&["env", "B=1"]).cwd(world.path("home")).run().out();
        assert!(out.contains("SigIgn:\t0000000000000200") && out.contains("0027"), "{out}");
    }

    #[test]
    fn a_running_command_is_talked_to_and_signalled() {
        let world = World::new();
        let mut echo = world.command(artist(), ["echo-stdin"]).open_input().spawn();
        echo.send(b"ready\n");
        echo.wait_ready();
        assert_eq!((echo.stdout(), echo.stderr()), (b"ready\n".to_vec(), Vec::new()));
        echo.end_input();
        echo.wait_within(SOON).assert_code(0);

        let file = world.path("counts");
        let counter =
            world.command(artist(), ["count-signals".into(), file.clone().into_os_string()]).spawn();
        counter.wait_for_file(&file);
        counter.wait_ready();
        counter.signal(Signal::SIGUSR1);
        eventually(SOON, "count", || (fs::read_to_string(&file).ok()? == "SIGUSR1\n").then_some(()));
        let process = counter.process();
        counter.signal(Signal::SIGTERM);
        counter.wait().assert_code(0);
        assert_gone(process.pid, process.start_time);

        let stopped = world.command(artist(), ["stop"]).spawn();
        stopped.process().wait_state('T');
        stopped.signal(Signal::SIGCONT);
        stopped.wait().assert_code(0);

        let mut unread = world.command(artist(), ["gen", "1000000"]).output(Output::Unread).spawn();
        drop(unread.take_pipes());
        unread.wait().assert_signal(Signal::SIGPIPE);
    }

    #[test]
    fn held_output_is_noticed_and_leftovers_are_listed_and_ended() {
        let world = World::new();
        let escaped =
            world.command(artist(), ["escape", "cleared-env", "leave"]).env("BOOKEND_RUN_ID", "x").run();
        assert!(escaped.assert_code(0).held);
        assert_eq!((world.processes().len(), world.noted().len()), (1, 2));
        let marked = world.command(artist(), ["escape", "setsid", "leave"]).env("BOOKEND_RUN_ID", "x").run();
        assert!(marked.held);
        assert_eq!(world.processes_of_run("x").len(), 1, "the cleared environment is found by its note only");
        let left = world.processes();
        assert_eq!(left.len(), 2);
        drop(world);
        for process in left {
            process.wait_gone(SOON);
        }
    }

    #[test]
    fn a_clean_world_has_no_process_left() {
        let world = World::new();
        let running = world.command("sh", ["-c", "echo problem >&2; exec sleep 60"]).limit(SOON).spawn();
        running.wait_stderr("problem\n");
        drop(running);
        world.assert_no_process_left();
    }

    #[test]
    fn a_run_directory_is_read() {
        let mut world = World::new();
        let place = world.path("elsewhere");
        world.set_store(&place);
        world.set_env("LANG", "C");
        let run = place.join("runs/20260101-000000-aaaaaa");
        fs::create_dir_all(&run).expect("a run");
        fs::create_dir_all(place.join("live/20260101-000000-aaaaaa")).expect("a marker");
        fs::write(place.join("attempts.jsonl"), "{\"error\":\"x\"}\n").expect("attempts");
        fs::write(run.join("status.json"), r#"{"status":"running","owner":{"pid":7,"start_time":8}}"#)
            .expect("a state");
        fs::write(run.join("task.json"), "{}").expect("a task");
        fs::write(run.join("events.jsonl"), "{\"a\":1}\n{\"a\":2}\n").expect("events");
        fs::write(run.join("harness.log"), "log").expect("a log");
        assert_eq!(world.wait_for_run().id(), "20260101-000000-aaaaaa");
        assert_eq!((world.live().len(), world.attempts().len()), (1, 1));
        let run = world.only_run();
        assert_eq!(run.process("/owner"), Some(Process { pid: 7, start_time: 8 }));
        assert_eq!(run.wait_status("running"), run.status_json());
        assert_eq!(
            (run.events().len(), run.log(), run.task_json()),
            (2, b"log".to_vec(), serde_json::json!({}))
        );
        assert!(!run.is_sealed() && run.read("run.json").is_none() && run.files().len() == 4);
        fs::write(run.path.join("run.json"), r#"{"schema":1}"#).expect("a record");
        assert_follows(&serde_json::json!({"required": ["schema"]}), &run.wait_sealed(SOON));
    }

    #[test]
    fn bookend_itself_starts() {
        let world = World::new();
        assert!(world.schema("run").is_object());
        world.run_artist(&["--quiet"], &["exit", "0"]).run().assert_code(0);
    }

    #[test]
    fn a_pid_namespace_is_entered_twice_and_ends_as_a_whole() {
        let world = World::new();
        let Some(once) = world.command("sh", ["-c", "echo $$; exit 7"]).in_pid_namespace() else { return };
        assert_eq!(once.run().assert_code(7).out(), "2\n");
        assert!(have("nsenter"));
        let Some(space) = PidNamespace::open() else { return };
        space
            .enter(world.command(artist(), ["escape", "setsid", "leave"]))
            .output(Output::Null)
            .run()
            .assert_code(0);
        let seen = space.enter(world.command("sh", ["-c", "pwd; ls /proc | grep -c '^[0-9]'"])).run();
        assert!(seen.assert_code(0).out().starts_with(&*world.path("work").to_string_lossy()), "{seen:?}");
        assert_eq!(world.processes().len(), 1);
        drop(space);
        world.assert_no_process_left();
    }

    #[test]
    fn a_small_file_system_fills_up_and_is_relieved() {
        let world = World::new();
        let Some(small) = world.tmpfs(1 << 20, 64) else { return };
        small.fill(0);
        assert!(fs::write(small.path.join("more"), [1; 8192]).is_err());
        small.relieve();
        small.fill_inodes();
        assert!(File::create(small.path.join("one-more")).is_err());
        small.relieve();
        fs::write(small.path.join("more"), [1; 8192]).expect("room again");
    }

    #[test]
    fn a_terminal_shows_resizes_and_hangs_up() {
        let world = World::new();
        let info = Terminal::open(&world.command(artist(), ["tty-info"])).wait();
        let expected = "isatty 1 1 1\r\nsize 24 80\r\ndevtty yes\r\nforeground yes\r\n";
        assert_eq!(info.assert_code(0).out(), expected);
        let mut winch = Terminal::open(&world.command(artist(), ["winch"]));
        winch.wait_for("ready");
        winch.resize(50, 132);
        winch.wait_for("size 50 132");
        let process = winch.process();
        winch.hang_up();
        process.wait_gone(SOON);
        winch.wait().assert_code(0);
    }

    #[test]
    fn a_shell_stops_and_resumes_its_job() {
        let world = World::new();
        let mut shell = Terminal::shell(&world);
        let prompt_group = shell.foreground();
        shell.send(format!("{} linger 60\n", artist().display()));
        shell.wait_for("ready");
        assert_ne!(shell.foreground(), prompt_group);
        shell.send("\x1a");
        shell.wait_for_within("prompt> ", SOON);
        shell.send("fg\n");
        shell.wait_for("linger 60");
        eventually(SOON, "job in the foreground", || (shell.foreground() != prompt_group).then_some(()));
        shell.send("\x03");
        shell.wait_for("prompt> ");
        shell.send("exit 3\n");
        assert!(shell.seen().contains("ready"));
        shell.wait().assert_code(3);
    }
}
