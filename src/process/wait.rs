//! Waiting for processes without waiting: what has become of them so far.

use std::io;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::disk::retry;
use crate::model::record::{Exit, Resources};

/// What a child has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing new.
    None,
    /// It ended.
    Ended(Exit),
    /// It was stopped by this signal.
    Stopped(i32),
    /// It goes on.
    Continued,
    /// It is no child of ours (any more).
    NotOurs,
}

/// Looks for the end of a child and leaves it as it is, so that its id stays taken.
#[must_use]
pub fn peek(pid: i32) -> Change {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match raw_waitid(libc::P_PID, pid, flags) {
        Ok(Some((_, exit))) => Change::Ended(exit),
        Ok(None) => Change::None,
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Change::NotOurs,
        Err(_) => Change::None,
    }
}

/// Takes a child's stop or continuation, if there was one.
#[must_use]
pub fn take_stop(pid: i32) -> Change {
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG;
    match retry(|| waitid(Id::Pid(Pid::from_raw(pid)), flags)) {
        Ok(WaitStatus::Stopped(_, signal)) => Change::Stopped(signal as i32),
        Ok(WaitStatus::Continued(_)) => Change::Continued,
        _ => Change::None,
    }
}

/// Reaps every child that has ended, except `unseen`, which is left as it is. True when no child is left at all.
pub fn reap_all_but(unseen: Option<i32>) -> bool {
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    let look = if unseen.is_some() { ended | WaitPidFlag::WNOWAIT } else { ended };
    loop {
        match raw_waitid(libc::P_ALL, 0, look) {
            Err(e) => return e.raw_os_error() == Some(libc::ECHILD),
            Ok(None) => return false,
            Ok(Some((pid, _))) if Some(pid) == unseen => return false,
            Ok(Some((pid, _))) if unseen.is_some() => reap(pid),
            Ok(Some(_)) => {}
        }
    }
}

/// Takes the end of a child, so that its id is free again.
pub fn reap(pid: i32) {
    if pid > 1 {
        let _ = raw_waitid(libc::P_PID, pid, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
    }
}

/// Waits for the end of a child.
///
/// # Errors
/// As waitid(2).
pub fn wait_for(pid: i32) -> io::Result<Option<Exit>> {
    Ok(raw_waitid(libc::P_PID, pid, WaitPidFlag::WEXITED)?.map(|(_, exit)| exit))
}

/// waitid(2) for every signal number, real-time ones included, which nix does not know.
///
/// The end of a child is told by one signal only, so a look that fails for no lawful reason is taken again: a run
/// must not wait for ever because of it.
fn raw_waitid(kind: libc::idtype_t, id: i32, flags: WaitPidFlag) -> io::Result<Option<(i32, Exit)>> {
    const TRIES: u32 = 3;
    let id = libc::id_t::try_from(id).map_err(|_| io::Error::from(Errno::EINVAL))?;
    let lawful = |e: &io::Error| matches!(e.raw_os_error(), Some(libc::ECHILD | libc::EINVAL | libc::ENOSYS));
    let mut tries = 1;
    loop {
        match waitid_once(kind, id, flags) {
            Err(e) if !lawful(&e) && tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

fn waitid_once(kind: libc::idtype_t, id: libc::id_t, flags: WaitPidFlag) -> io::Result<Option<(i32, Exit)>> {
    retry(|| {
        // SAFETY: siginfo_t is plain data for which all zeros is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: waitid writes to `info` only, which outlives the call.
        Errno::result(unsafe { libc::waitid(kind, id, &raw mut info, flags.bits()) })?;
        // SAFETY: waitid filled in these fields, or left them zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        Ok(match (pid, info.si_code) {
            (0, _) => None,
            (_, libc::CLD_EXITED) => Some((pid, Exit::with_code(status))),
            (_, libc::CLD_KILLED) => Some((pid, Exit::with_signal(status, false))),
            (_, libc::CLD_DUMPED) => Some((pid, Exit::with_signal(status, true))),
            _ => None,
        })
    })
}

/// What all children that were waited for have used.
#[must_use]
pub fn resources() -> Option<Resources> {
    use nix::sys::resource::{UsageWho, getrusage};
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).ok()?;
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Some(Resources {
        user_seconds: seconds(used.user_time()),
        system_seconds: seconds(used.system_time()),
        max_rss_bytes: u64::try_from(used.max_rss()).unwrap_or(0) * 1024,
    })
}
