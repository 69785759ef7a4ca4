//! Processes, by their identity.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;

use super::{LIMIT, entries, eventually, file_name, find, lossy};

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
pub(super) fn all_processes() -> Vec<Process> {
    entries(Path::new("/proc"))
        .iter()
        .filter_map(|path| Process::read(file_name(path).parse().ok()?))
        .collect()
}

/// Returns the living processes, this one apart, whose environment holds all these variables.
pub(super) fn processes_with(variables: &[&[u8]]) -> Vec<Process> {
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
pub(super) struct PidFd(pub(super) OwnedFd);

impl PidFd {
    /// Opens the process with this id; `None` when there is none, and for ids that no test may touch.
    pub(super) fn open(pid: i32) -> Option<Self> {
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
    pub(super) fn wait(&self, limit: Duration) -> bool {
        readable(&[&self.0], Instant::now() + limit)[0]
    }
}

/// Waits until one of the descriptors is readable or hung up, or until the deadline; says which are.
pub(super) fn readable(fds: &[&dyn AsFd], deadline: Instant) -> Vec<bool> {
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
