//! Signals to bookend itself: the only module that touches masks and dispositions.
//!
//! No handler is ever installed. Every signal that can be is blocked from the first moment and read from a
//! descriptor, with who sent it; so a signal can never end bookend between two steps.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::c_int;
use nix::errno::Errno;

use crate::disk::retry;

/// Signals that mean a fault of this very thread, and the two that nobody can block.
const UNBLOCKED: [c_int; 9] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGABRT,
    libc::SIGKILL,
    libc::SIGSTOP,
];
/// Stop signals that a caller may have chosen to ignore for us (nohup, a shell's background jobs).
const IGNORABLE: [c_int; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];

/// A signal, and who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: c_int,
    /// Process and user that sent it; none where the kernel did (a key of the terminal, a child's end). The process
    /// is 0 where it can not be seen from this pid namespace.
    pub sender: Option<(i32, u32)>,
}

/// All signals, blocked and waiting to be read.
pub struct Signals {
    handle: OwnedFd,
    ignored: [bool; IGNORABLE.len()],
}

impl Signals {
    /// Blocks all signals and resets what was inherited; those the caller ignored on purpose stay ignored.
    ///
    /// # Errors
    /// As signalfd(2).
    pub fn block() -> io::Result<Self> {
        let mut mask = full_mask();
        retry(|| {
            // SAFETY: `mask` is a valid set; the old mask is not wanted.
            Errno::result(unsafe {
                libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut())
            })
        })?;
        // SAFETY: setting a default disposition runs no code of ours. A parent that ignores SIGCHLD would make
        // the kernel forget how the command ended.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: a plain system call; `mask` is valid.
        let open = || Errno::result(unsafe { libc::signalfd(-1, &raw mut mask, flags) });
        let raw = retry(open)?;
        // SAFETY: the kernel has just given us this descriptor.
        let handle = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { handle, ignored: IGNORABLE.map(is_ignored) })
    }

    /// Takes some of the signals that wait; what is left is there at the next look.
    pub fn take(&self) -> Vec<Received> {
        const MOST: usize = 8;
        // SAFETY: signalfd_siginfo is plain data for which all zeros is a value.
        let mut infos: [libc::signalfd_siginfo; MOST] = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes at most the size of `infos` to it.
        let read =
            unsafe { libc::read(self.handle.as_raw_fd(), infos.as_mut_ptr().cast(), size_of_val(&infos)) };
        let count = usize::try_from(read).unwrap_or(0) / size_of::<libc::signalfd_siginfo>();
        infos[..count].iter().map(received).collect()
    }

    /// Whether the caller had this signal ignored when bookend started.
    #[must_use]
    pub fn was_ignored(&self, signal: c_int) -> bool {
        IGNORABLE.iter().zip(self.ignored).any(|(&known, ignored)| known == signal && ignored)
    }

    /// Stops this process as Ctrl-Z does, and returns when it goes on. In an orphaned group nothing happens.
    pub fn suspend_self(&self) {
        let mut only = empty_mask();
        // SAFETY: the sets are valid; SIGTSTP has its default disposition, which runs no code of ours.
        unsafe {
            libc::sigaddset(&raw mut only, libc::SIGTSTP);
            libc::raise(libc::SIGTSTP);
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const only, std::ptr::null_mut());
            libc::sigprocmask(libc::SIG_BLOCK, &raw const only, std::ptr::null_mut());
        }
    }

    /// The handle to poll.
    #[must_use]
    pub fn handle(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.handle.as_fd()
    }
}

/// Whether a signal waits that asks this process to stop.
#[must_use]
pub fn stop_is_pending() -> bool {
    let mut waiting = empty_mask();
    // SAFETY: the kernel writes a valid set to `waiting`, and sigismember only reads it.
    unsafe {
        libc::sigpending(&raw mut waiting) == 0
            && [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT]
                .iter()
                .any(|&signal| libc::sigismember(&raw const waiting, signal) == 1)
    }
}

fn received(info: &libc::signalfd_siginfo) -> Received {
    let by_process = info.ssi_code <= 0;
    let sender = by_process.then(|| (info.ssi_pid.cast_signed(), info.ssi_uid));
    Received { signal: info.ssi_signo.cast_signed(), sender }
}

fn empty_mask() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, and sigemptyset makes it a valid set.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        mask
    }
}

fn full_mask() -> libc::sigset_t {
    let mut mask = empty_mask();
    // SAFETY: `mask` is a valid set.
    unsafe {
        libc::sigfillset(&raw mut mask);
        for signal in UNBLOCKED {
            libc::sigdelset(&raw mut mask, signal);
        }
    }
    mask
}

fn is_ignored(signal: c_int) -> bool {
    // SAFETY: sigaction with no new action only reads the disposition into `old`.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut old) == 0 && old.sa_sigaction == libc::SIG_IGN
    }
}

/// Ends this process by a signal, so that the caller's shell sees the truth. Returns only when that failed.
pub fn die_of(signal: c_int) {
    let mut only = empty_mask();
    // SAFETY: the set is valid; a default disposition runs no code of ours. Core dumps are not wanted for a
    // signal that was passed on.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::sigaddset(&raw mut only, signal);
        libc::signal(signal, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const only, std::ptr::null_mut());
    }
    // For the first process of a namespace a default disposition does nothing, and this returns.
    // SAFETY: raising a signal is a plain system call.
    unsafe { libc::raise(signal) };
}
