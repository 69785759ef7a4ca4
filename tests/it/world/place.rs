//! Places to run in: a small file system, a PID namespace.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use nix::sys::signal::Signal;

use super::process::{Process, all_processes};
use super::{Invocation, artist, go_on_with};

/// A small file system of its own, unmounted when dropped.
pub struct Tmpfs {
    /// Where it is mounted.
    pub path: PathBuf,
}

impl Tmpfs {
    pub(super) fn mount(path: PathBuf, size_bytes: u64, inodes: u64) -> Self {
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
pub(super) fn may_unshare() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let words = unshare_words();
        let mut trial = Command::new(&words[0]);
        trial.args(&words[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        trial.status().is_ok_and(|status| status.success())
    })
}

/// Returns the launcher that makes a PID namespace with a `/proc` of its own.
pub(super) fn unshare_words() -> Vec<OsString> {
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
