//! Pseudo-terminals: a terminal for a command, whose other end both bookends hold.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::Termios;

use crate::disk::retry;

/// Size of a terminal nobody looks at.
const DEFAULT_SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// The two ends of a pseudo-terminal.
pub struct Pty {
    /// Our end: what is typed goes in, what the command prints comes out.
    pub ours: OwnedFd,
    /// The command's end.
    pub theirs: OwnedFd,
}

impl Pty {
    /// Opens one that looks like the caller's terminal, where there is one.
    ///
    /// # Errors
    /// As openpty(3).
    pub fn open(size: Option<Winsize>, modes: Option<&Termios>) -> io::Result<Self> {
        let size = size.unwrap_or(DEFAULT_SIZE);
        let ends = retry(|| openpty(&size, modes))?;
        for end in [&ends.master, &ends.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        fcntl(&ends.master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        Ok(Self { ours: ends.master, theirs: ends.slave })
    }
}

/// Makes a terminal the controlling one of this process, which must lead a session without one.
///
/// # Errors
/// As `TIOCSCTTY`.
pub fn take_control(terminal: BorrowedFd<'_>) -> io::Result<()> {
    nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);
    // SAFETY: a plain system call on a descriptor that is open.
    retry(|| unsafe { set_controlling_terminal(terminal.as_raw_fd(), 0) }).map(drop)
}

/// Size of a terminal.
#[must_use]
pub fn size(terminal: BorrowedFd<'_>) -> Option<Winsize> {
    nix::ioctl_read_bad!(get_window_size, libc::TIOCGWINSZ, Winsize);
    let mut size = DEFAULT_SIZE;
    // SAFETY: the call writes to `size` only.
    unsafe { get_window_size(terminal.as_raw_fd(), &raw mut size) }.ok().map(|_| size)
}

/// Sets the size of a terminal; its foreground group is told by SIGWINCH.
pub fn resize(terminal: BorrowedFd<'_>, size: &Winsize) {
    nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, Winsize);
    // SAFETY: the call reads from `size` only.
    let _ = unsafe { set_window_size(terminal.as_raw_fd(), std::ptr::from_ref(size)) };
}
