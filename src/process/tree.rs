//! The processes below a bookend: finding them, signalling them, ending them.
//!
//! Both bookends are subreapers, so whatever a command starts stays below one of them, however often it forks or
//! makes sessions. What lost its place (both bookends were killed) is found by the variable every command carries.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::identity::{self, Stat};

/// Passes over the process table in one round of [`kill_all`]; each stops what the one before missed.
const PASSES: usize = 16;
/// Rounds in one call to [`kill_all`]; each ends what the one before missed.
const ROUNDS: usize = 4;
/// The variable that every process of a run starts with.
pub const MARK: &str = "BOOKEND_RUN_ID";

/// All processes that can be seen.
fn table() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(identity::stat)
        .collect()
}

/// Living processes below this one, except below and including `partner`.
#[must_use]
pub fn descendants(partner: Option<i32>) -> Vec<Stat> {
    below(&table(), identity::own_pid(), partner)
}

fn below(table: &[Stat], root: i32, except: Option<i32>) -> Vec<Stat> {
    let mut children: HashMap<i32, Vec<&Stat>> = HashMap::new();
    for stat in table {
        children.entry(stat.ppid).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    let mut seen = HashSet::from([root]);
    while let Some(parent) = open.pop() {
        for stat in children.get(&parent).into_iter().flatten() {
            if Some(stat.pid) != except && seen.insert(stat.pid) {
                open.push(stat.pid);
                if stat.is_alive() {
                    found.push(**stat);
                }
            }
        }
    }
    found
}

/// What tells a run's processes from others once they have lost their place in the tree.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// The run, as its variable says it.
    pub run_id: String,
    /// The session the keeper led: process id and start time.
    pub session: Option<(i32, u64)>,
    /// The command: process id and start time.
    pub command: Option<(i32, u64)>,
}

/// Living processes of a run, wherever they are now: by the variable they were started with, by the session that
/// the keeper made for them, or because it is the command itself. The bookends, in `except`, are left out.
#[must_use]
pub fn remains(marks: &Marks, except: &[i32]) -> Vec<Stat> {
    let own = identity::own_pid();
    let table = table();
    // An id is not used again while its session has members: a later process with the keeper's id has another session.
    let session = marks.session.filter(|&(sid, start)| !is_taken(&table, sid, start));
    let in_session = |p: &Stat| session.is_some_and(|(sid, start)| p.sid == sid && p.start_time >= start);
    let is_command = |p: &Stat| marks.command == Some((p.pid, p.start_time));
    let is_marked = |p: &Stat| identity::has_variable(p.pid, MARK, &marks.run_id);
    let is_ours = |p: &Stat| p.is_alive() && p.pid != own && !except.contains(&p.pid);
    let mut found: Vec<Stat> = table
        .iter()
        .filter(|p| is_ours(p) && (is_command(p) || in_session(p) || is_marked(p)))
        .copied()
        .collect();
    // What they started is the run's as well, whatever it did to its environment and session.
    let mut seen: HashSet<i32> = found.iter().map(|p| p.pid).collect();
    for root in found.clone() {
        found.extend(below(&table, root.pid, None).into_iter().filter(|p| is_ours(p) && seen.insert(p.pid)));
    }
    found
}

/// Living processes that were started in some run, with that run as their variable says it.
#[must_use]
pub fn marked() -> Vec<(String, Stat)> {
    let found = table().into_iter().filter(Stat::is_alive);
    found.filter_map(|p| Some((identity::variable(p.pid, MARK)?, p))).collect()
}

/// This process and those above it.
#[must_use]
pub fn ancestors() -> Vec<i32> {
    let mut found = Vec::new();
    let mut next = Some(identity::own_pid());
    while let Some(pid) = next.filter(|pid| *pid > 0 && !found.contains(pid)) {
        found.push(pid);
        next = identity::stat(pid).map(|stat| stat.ppid);
    }
    found
}

/// Whether another process than the one with this start time has an id by now.
fn is_taken(table: &[Stat], pid: i32, start_time: u64) -> bool {
    table.iter().any(|p| p.pid == pid && p.start_time != start_time)
}

/// Sends a signal to one process, and to no other that has its id by now. False when it is gone or not ours.
#[must_use]
pub fn signal(process: &Stat, signal: i32) -> bool {
    if process.pid <= 1 {
        return false;
    }
    match pidfd(process.pid) {
        Ok(handle) => is_same(process) && send(&handle, signal),
        // A kernel without pidfd_open, or a refusal of the call: the id is checked right before it is used.
        Err(Errno::ESRCH) => false,
        Err(_) => {
            // SAFETY: kill is a plain system call; the id is above 1.
            is_same(process) && unsafe { libc::kill(process.pid, signal) } == 0
        }
    }
}

fn is_same(process: &Stat) -> bool {
    identity::stat(process.pid).is_some_and(|now| now.start_time == process.start_time && now.is_alive())
}

/// A handle on a process, which stays on it when its id is used again.
///
/// # Errors
/// `ESRCH` when there is no such process; else as `pidfd_open(2)`.
pub fn pidfd(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: a plain system call that returns a new descriptor or an error.
    let raw = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

fn send(handle: &OwnedFd, signal: i32) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: a plain system call on a descriptor that is open.
    unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), signal, std::ptr::null::<()>(), 0) == 0
    }
}

/// Sends a signal to a command's process group. The command must not have been reaped: that keeps the id ours.
pub fn signal_group(leader: i32, signal: i32) {
    if leader > 1 {
        // SAFETY: a plain system call; the id is above 1, so this can not mean "every process".
        unsafe { libc::kill(-leader, signal) };
    }
}

/// Sends a signal to those of `processes` that are in a group whose id is not ours to use; whether any got it.
#[must_use]
pub fn signal_members(leader: i32, processes: &[Stat], wanted: i32) -> bool {
    processes.iter().filter(|p| p.pgid == leader && signal(p, wanted)).count() > 0
}

/// Sends a signal to a command's group, and to those of `others` that are not in it; then wakes stopped ones.
pub fn signal_all(leader: Option<i32>, others: &[Stat], wanted: i32) {
    if let Some(leader) = leader {
        signal_group(leader, wanted);
    }
    for process in others.iter().filter(|p| Some(p.pgid) != leader) {
        let _ = signal(process, wanted);
    }
    if !matches!(wanted, libc::SIGSTOP | libc::SIGTSTP | libc::SIGKILL | libc::SIGCONT) {
        for process in others.iter().filter(|p| p.state == 'T') {
            let _ = signal(process, libc::SIGCONT);
        }
    }
}

/// Ends every process that `find` finds, until it finds none that can be ended. All are stopped before any is
/// killed: nothing can be born behind our back, and a parent by which its child is found stays until it is found.
pub fn kill_all(mut find: impl FnMut() -> Vec<Stat>) {
    let mut killed: HashSet<(i32, u64)> = HashSet::new();
    for _ in 0..ROUNDS {
        let mut stopped: HashSet<(i32, u64)> = HashSet::new();
        let mut doomed = Vec::new();
        for _ in 0..PASSES {
            let known = |p: &Stat| {
                killed.contains(&(p.pid, p.start_time)) || stopped.contains(&(p.pid, p.start_time))
            };
            let fresh: Vec<Stat> = find().into_iter().filter(|p| !known(p)).collect();
            if fresh.is_empty() {
                break;
            }
            for process in fresh {
                let _ = signal(&process, libc::SIGSTOP);
                stopped.insert((process.pid, process.start_time));
                doomed.push(process);
            }
        }
        if doomed.is_empty() {
            return;
        }
        for process in doomed {
            let _ = signal(&process, libc::SIGKILL);
            killed.insert((process.pid, process.start_time));
        }
    }
}

/// Living processes that hold an open file, by the link that `/proc/PID/fd` shows for it, without `except`.
#[must_use]
pub fn holders(link: &str, except: &[i32]) -> Vec<Stat> {
    table().into_iter().filter(|p| p.is_alive() && !except.contains(&p.pid) && holds(p.pid, link)).collect()
}

fn holds(pid: i32, link: &str) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, ppid: i32, state: char) -> Stat {
        Stat { pid, state, ppid, pgid: pid, sid: pid, start_time: 1 }
    }

    #[test]
    fn finds_all_below_but_the_partner_and_the_dead() {
        let table = [
            process(10, 1, 'S'),
            process(11, 10, 'S'),
            process(12, 11, 'Z'),
            process(13, 12, 'R'),
            process(20, 10, 'S'),
            process(21, 20, 'S'),
            process(30, 1, 'S'),
        ];
        let mut pids: Vec<i32> = below(&table, 10, Some(20)).iter().map(|p| p.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [11, 13]);
    }

    #[test]
    fn an_id_is_taken_by_another_process_only() {
        let table = [process(10, 1, 'S')];
        assert!(!is_taken(&table, 10, 1) && !is_taken(&table, 11, 1) && is_taken(&table, 10, 0));
    }

    #[test]
    fn never_signals_init_or_a_stranger() {
        assert!(!signal(&process(1, 0, 'S'), 0));
        assert!(!signal(&process(0, 0, 'S'), 0));
        assert!(!signal(&process(identity::own_pid(), 0, 'S'), 0), "start time 1 is not ours");
    }
}
