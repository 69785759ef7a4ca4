//! One command: described, started, and over.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::place::{may_unshare, unshare_words};
use super::process::{PidFd, Process};
use super::{artist, eventually, find, go_on_with, lossy};

/// The time that output may stay open after its command ended before it counts as held by somebody else.
const HELD_AFTER: Duration = Duration::from_secs(1);

/// What a command reads.
#[derive(Clone, Debug)]
pub(super) enum Input {
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
    pub(super) prefix: Vec<OsString>,
    pub(super) argv: Vec<OsString>,
    pub(super) env: BTreeMap<OsString, OsString>,
    pub(super) cwd: PathBuf,
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) limit: Duration,
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

    pub(super) fn build(&self) -> Command {
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
    pub(super) fn new(
        status: ExitStatus,
        stdout: Vec<u8>,
        stderr: Vec<u8>,
        elapsed: Duration,
        held: bool,
    ) -> Self {
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
