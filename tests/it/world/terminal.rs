//! Terminals, with the test on their other side.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::pty::Winsize;

use super::process::{PidFd, Process, readable};
use super::{Finished, Invocation, World, find, lossy};

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
