//! Starting a command: like vfork, never by a copy of this process, never through a shell.
//!
//! The child shares this process's memory until it executes the command, while this process waits. Before that it
//! writes its own process id to the run's events and to the ledger, so there is no instant in which the command
//! runs and nobody knows it.

use std::ffi::{CString, OsStr, OsString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use thiserror::Error;

use crate::model::plan::CommandSpec;

/// Stack of the child until it executes the command; it calls little more than system calls.
const STACK_BYTES: usize = 16 * 1024;
/// Searched when the command's environment has no PATH, as the C library does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Why a command could not be started.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{doing}: {}", .errno.desc())]
pub struct SpawnError {
    /// What was being done, and to what.
    pub doing: String,
    /// What the system said.
    pub errno: Errno,
}

/// What the child's first three descriptors are, and where it announces itself.
pub struct Wiring<'a> {
    /// Standard input.
    pub stdin: BorrowedFd<'a>,
    /// Standard output.
    pub stdout: BorrowedFd<'a>,
    /// Standard error.
    pub stderr: BorrowedFd<'a>,
    /// Whether standard input is the terminal whose foreground group the command becomes.
    pub foreground: bool,
    /// Where the line that announces the command goes; its process id replaces the first `@` in it.
    pub events: BorrowedFd<'a>,
    /// That line.
    pub announcement: &'a [u8],
    /// Where the process id goes.
    pub pid: &'a AtomicI32,
    /// The file mode mask the command gets.
    pub umask: u32,
}

/// A command with everything that is needed to start it, so that the child need not allocate.
pub struct Prepared {
    argv: Vec<CString>,
    envp: Vec<CString>,
    candidates: Vec<CString>,
    cwd: CString,
}

fn c_string(bytes: &[u8], what: &str) -> Result<CString, SpawnError> {
    CString::new(bytes)
        .map_err(|_| SpawnError { doing: format!("{what} holds a NUL byte"), errno: Errno::EINVAL })
}

impl Prepared {
    /// Makes a command ready; `base` is the environment it starts from, and `marks` are set last.
    ///
    /// # Errors
    /// `EINVAL` for a NUL byte in any part, `ENOENT` for an empty command.
    pub fn new(
        spec: &CommandSpec,
        base: impl Iterator<Item = (OsString, OsString)>,
        marks: &[(&str, &str)],
    ) -> Result<Self, SpawnError> {
        let is_set_later = |name: &OsStr| {
            spec.env.iter().any(|(n, _)| n == name) || marks.iter().any(|(n, _)| OsStr::new(n) == name)
        };
        let mut envp = Vec::new();
        let mut path = None;
        let is_marked = |name: &OsStr| marks.iter().any(|(n, _)| OsStr::new(n) == name);
        let is_last = |at: usize| !spec.env[at + 1..].iter().any(|(n, _)| *n == spec.env[at].0);
        let set = spec.env.iter().enumerate().filter(|(at, (n, _))| is_last(*at) && !is_marked(n));
        let set = set.map(|(_, (n, v))| (n.clone(), v.clone()));
        let marked = marks.iter().map(|(n, v)| (OsString::from(n), OsString::from(v)));
        for (name, value) in base.filter(|(name, _)| !is_set_later(name)).chain(set).chain(marked) {
            if name == "PATH" {
                path = Some(value.clone());
            }
            let mut entry = name.into_vec();
            entry.push(b'=');
            entry.extend_from_slice(value.as_bytes());
            envp.push(c_string(&entry, "an environment variable")?);
        }
        let argv = spec
            .argv
            .iter()
            .map(|arg| c_string(arg.as_bytes(), "an argument"))
            .collect::<Result<Vec<_>, _>>()?;
        let program = spec.argv.first().map_or(&b""[..], |p| p.as_bytes());
        let candidates = candidates(program, path.as_deref().unwrap_or(OsStr::new(DEFAULT_PATH)))?;
        let cwd = c_string(spec.cwd.as_os_str().as_bytes(), "the working directory")?;
        Ok(Self { argv, envp, candidates, cwd })
    }

    /// Starts the command and returns its process id. Returns once the command is executed.
    ///
    /// # Errors
    /// What the failing call said: of clone, of the preparations, or of execve for the most telling candidate.
    pub fn spawn(&self, wiring: &Wiring<'_>) -> Result<i32, SpawnError> {
        let pointers = |list: &[CString]| {
            list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<*const c_char>>()
        };
        let (argv, envp) = (pointers(&self.argv), pointers(&self.envp));
        let failure = AtomicI32::new(0);
        let mut child = Child {
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            candidates: &self.candidates,
            cwd: &self.cwd,
            fds: [wiring.stdin.as_raw_fd(), wiring.stdout.as_raw_fd(), wiring.stderr.as_raw_fd()],
            wiring,
            failure: &failure,
        };
        let mut stack: Vec<u8> = Vec::with_capacity(STACK_BYTES);
        // SAFETY: the end of the stack is one past its allocation.
        let top = unsafe { stack.as_mut_ptr().add(STACK_BYTES) };
        let top = top.wrapping_sub(top as usize % 16);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: with CLONE_VFORK this thread waits until the child has executed or exited, so `stack` and
        // `child` outlive its use of them; the child makes system calls and writes atomics only.
        let pid =
            unsafe { libc::clone(run_child, top.cast::<c_void>(), flags, (&raw mut child).cast::<c_void>()) };
        if pid < 0 {
            return Err(SpawnError { doing: "creating a process".to_owned(), errno: Errno::last() });
        }
        match failure.load(Ordering::SeqCst) {
            0 => Ok(pid),
            packed => {
                wiring.pid.store(0, Ordering::SeqCst);
                super::wait::reap(pid);
                Err(self.describe(packed))
            }
        }
    }

    fn describe(&self, packed: i32) -> SpawnError {
        let errno = Errno::from_raw(packed & 0xffff);
        let doing = match packed >> 16 {
            step::CHDIR => format!("changing to directory {}", self.cwd.to_string_lossy()),
            step::EXEC => {
                format!("executing {}", self.argv.first().map_or("".into(), |a| a.to_string_lossy()))
            }
            step::DUP => "connecting the command's standard streams".to_owned(),
            _ => "making the command a process group".to_owned(),
        };
        SpawnError { doing, errno }
    }
}

/// Paths to try for a program: itself when it holds a slash, else one for each directory of PATH.
fn candidates(program: &[u8], path: &OsStr) -> Result<Vec<CString>, SpawnError> {
    if program.is_empty() {
        return Err(SpawnError {
            doing: "starting a command without a name".to_owned(),
            errno: Errno::ENOENT,
        });
    }
    if program.contains(&b'/') {
        return Ok(vec![c_string(program, "the program's path")?]);
    }
    path.as_bytes()
        .split(|&b| b == b':')
        .map(|dir| {
            let mut full = if dir.is_empty() { b".".to_vec() } else { dir.to_vec() };
            full.push(b'/');
            full.extend_from_slice(program);
            c_string(&full, "PATH")
        })
        .collect()
}

/// Which step of the child failed.
mod step {
    pub const GROUP: i32 = 1;
    pub const DUP: i32 = 2;
    pub const CHDIR: i32 = 3;
    pub const EXEC: i32 = 4;
}

struct Child<'a> {
    argv: *const *const c_char,
    envp: *const *const c_char,
    candidates: &'a [CString],
    cwd: &'a CString,
    fds: [c_int; 3],
    wiring: &'a Wiring<'a>,
    failure: &'a AtomicI32,
}

extern "C" fn run_child(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a pointer to its own `Child`, which outlives this function.
    let child = unsafe { &*argument.cast::<Child<'_>>() };
    let (step, errno) = child.run();
    child.failure.store(step << 16 | errno, Ordering::SeqCst);
    127
}

impl Child<'_> {
    /// Turns this process into the command; returns only when that failed. Makes system calls only.
    fn run(&self) -> (i32, i32) {
        // SAFETY: all of these are plain system calls on values that live in the waiting parent.
        unsafe {
            let pid = libc::getpid();
            if libc::setpgid(0, 0) < 0 {
                return (step::GROUP, errno());
            }
            if self.wiring.foreground && libc::tcsetpgrp(self.fds[0], pid) < 0 {
                return (step::GROUP, errno());
            }
            for (target, &source) in (0..).zip(&self.fds) {
                if libc::dup2(source, target) < 0 {
                    return (step::DUP, errno());
                }
            }
            if libc::chdir(self.cwd.as_ptr()) < 0 {
                return (step::CHDIR, errno());
            }
            libc::umask(self.wiring.umask as libc::mode_t);
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            self.wiring.pid.store(pid, Ordering::SeqCst);
            self.announce(pid);
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        }
        (step::EXEC, self.execute())
    }

    /// Writes the announcement with this process id in it, in one write.
    fn announce(&self, pid: i32) {
        const LONGEST: usize = 256;
        let mut line = [0_u8; LONGEST];
        let mut length = 0;
        let mut digits = [0_u8; 12];
        for &byte in self.wiring.announcement {
            let text: &[u8] =
                if byte == b'@' { decimal(pid, &mut digits) } else { std::slice::from_ref(&byte) };
            for &b in text {
                if length < LONGEST {
                    line[length] = b;
                    length += 1;
                }
            }
        }
        // SAFETY: the buffer holds `length` bytes. A failure leaves the ledger, which has the id too.
        unsafe { libc::write(self.wiring.events.as_raw_fd(), line.as_ptr().cast(), length) };
    }

    /// Tries every candidate; the most telling error is returned, as the shell would have it.
    fn execute(&self) -> i32 {
        let mut worst = libc::ENOENT;
        for candidate in self.candidates {
            // SAFETY: the three are NUL-terminated and null-terminated as execve wants them.
            unsafe { libc::execve(candidate.as_ptr(), self.argv, self.envp) };
            match errno() {
                only if self.candidates.len() == 1 => return only,
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => worst = libc::EACCES,
                other => return other,
            }
        }
        worst
    }
}

fn errno() -> i32 {
    Errno::last_raw()
}

fn decimal(number: i32, digits: &mut [u8; 12]) -> &[u8] {
    let mut rest = number.unsigned_abs();
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 || at == 0 {
            return &digits[at..];
        }
    }
}
