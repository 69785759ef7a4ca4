//! Which process is which: a process id alone proves nothing, as ids are used again.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::unistd::Pid;

use crate::disk;
use crate::redact;

/// Login name of the user this process acts for, where the system knows it.
#[must_use]
pub fn login_name() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name)
}

/// The user this process acts for.
#[must_use]
pub fn own_uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Process id.
    pub pid: i32,
    /// State letter; `Z` and `X` are dead.
    pub state: char,
    /// Parent.
    pub ppid: i32,
    /// Process group.
    pub pgid: i32,
    /// Session.
    pub sid: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

impl Stat {
    /// Whether the process can still run: a zombie can not, even where nobody ever reaps it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Asks the kernel about a process; none when there is no such process.
#[must_use]
pub fn stat(pid: i32) -> Option<Stat> {
    read_stat(&format!("/proc/{pid}/stat"))
}

/// Asks the kernel about this process.
#[must_use]
pub fn own_stat() -> Option<Stat> {
    read_stat("/proc/self/stat")
}

fn read_stat(path: &str) -> Option<Stat> {
    let mut text = [0; 1024];
    let length = disk::read_start(path, &mut text).ok()?;
    parse_stat(&text[..length])
}

/// Reads the text of a stat file; the command name in it may hold blanks and parentheses.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|&b| b == b'(')?;
    let close = bytes.iter().rposition(|&b| b == b')')?;
    let pid = std::str::from_utf8(&bytes[..open]).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut number = || fields.next()?.parse::<i32>().ok();
    let (ppid, pgid, sid) = (number()?, number()?, number()?);
    let start_time = fields.nth(15)?.parse().ok()?;
    Some(Stat { pid, state, ppid, pgid, sid, start_time })
}

/// Whether the process with this id and start time is alive.
#[must_use]
pub fn is_alive(pid: i32, start_time: u64) -> bool {
    stat(pid).is_some_and(|s| s.is_alive() && (s.start_time == start_time || start_time == 0))
}

/// Command line of a process, each argument shortened; empty when it can not be read.
#[must_use]
pub fn argv(pid: i32) -> Vec<String> {
    const ARGUMENTS: usize = 32;
    const LENGTH: usize = 200;
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let said: Vec<String> = bytes
        .split(|&b| b == 0)
        .take(ARGUMENTS)
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .take_while(|arg| !arg.is_empty())
        .collect();
    redact::argv(&said).0.into_iter().map(|arg| arg.chars().take(LENGTH).collect()).collect()
}

/// Short command name of a process.
#[must_use]
pub fn command_name(pid: i32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// Whether the environment a process was started with says `name=value`.
#[must_use]
pub fn has_variable(pid: i32, name: &str, value: &str) -> bool {
    let wanted = format!("{name}={value}");
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|bytes| bytes.split(|&b| b == 0).any(|entry| entry == wanted.as_bytes()))
}

/// Whether a process has a file open; false where that can not be seen.
#[must_use]
pub fn has_open(pid: i32, file: &fs::File) -> bool {
    let Ok(wanted) = file.metadata() else { return false };
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        fs::metadata(entry.path()).is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()))
    })
}

/// The value of a variable in the environment a process was started with.
#[must_use]
pub fn variable(pid: i32, name: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let entry = |entry: &[u8]| Some(entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.to_vec());
    String::from_utf8(bytes.split(|&b| b == 0).find_map(entry)?).ok()
}

/// What tells this machine, boot and pid namespace from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Host name.
    pub host: String,
    /// Boot id; empty where the kernel does not tell.
    pub boot_id: String,
    /// Inode of the pid namespace; 0 where the kernel does not tell.
    pub pid_namespace: u64,
}

impl Place {
    /// Looks up where this process runs.
    #[must_use]
    pub fn here() -> Self {
        let mut text = [0; 64];
        let length = disk::read_start("/proc/sys/kernel/random/boot_id", &mut text).unwrap_or(0);
        let boot_id = String::from_utf8_lossy(&text[..length]);
        Self {
            host: nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default(),
            boot_id: boot_id.trim_end().to_owned(),
            pid_namespace: fs::metadata("/proc/self/ns/pid").map(|m| m.ino()).unwrap_or_default(),
        }
    }
}

/// Process id of this process.
#[must_use]
pub fn own_pid() -> i32 {
    Pid::this().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_with_parentheses() {
        let text = b"42 (a) b (c)) S 1 2 3 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 777 1 1";
        let expected = Stat { pid: 42, state: 'S', ppid: 1, pgid: 2, sid: 3, start_time: 777 };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat(b"42 (a"), None);
    }

    #[test]
    fn knows_itself() {
        let me = own_stat().unwrap();
        assert!(is_alive(me.pid, me.start_time));
        assert!(!is_alive(me.pid, me.start_time + 1));
        assert!(!Place::here().boot_id.is_empty());
    }
}
