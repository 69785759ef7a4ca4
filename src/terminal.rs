//! The caller's terminal: its modes, and giving them back.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{
    InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr,
};

/// A pipe that is writable takes this much without waiting.
const PIECE: usize = 4096;
/// A reader of standard error that is busy is waited for this long.
const PATIENCE_MS: u16 = 500;

/// Standard input, where it is a terminal, with the modes it had in the beginning.
pub struct Terminal {
    input: io::Stdin,
    modes: Termios,
    raw: Cell<bool>,
}

impl Terminal {
    /// The terminal that standard input is; none where it is something else.
    #[must_use]
    pub fn of_stdin() -> Option<Self> {
        let input = io::stdin();
        let modes = tcgetattr(input.as_fd()).ok()?;
        Some(Self { input, modes, raw: Cell::new(false) })
    }

    /// The modes it had in the beginning.
    #[must_use]
    pub fn modes(&self) -> &Termios {
        &self.modes
    }

    /// Whether this process's group is the one that keys go to.
    #[must_use]
    pub fn is_foreground(&self) -> bool {
        nix::unistd::tcgetpgrp(self.input.as_fd()).is_ok_and(|group| group == nix::unistd::getpgrp())
    }

    /// Passes every key on as it is.
    pub fn make_raw(&self) {
        let mut raw = self.modes.clone();
        cfmakeraw(&mut raw);
        self.raw.set(tcsetattr(self.input.as_fd(), SetArg::TCSADRAIN, &raw).is_ok());
    }

    /// Passes keys on one by one, unseen, but for those that are signals; what is printed is treated as before.
    pub fn make_keyed(&self) {
        let mut keyed = self.modes.clone();
        keyed.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::IEXTEN);
        keyed.input_flags.remove(InputFlags::IXON | InputFlags::IXOFF);
        keyed.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        keyed.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        self.raw.set(tcsetattr(self.input.as_fd(), SetArg::TCSADRAIN, &keyed).is_ok());
    }

    /// Gives the modes back that it had in the beginning, where this process took them away: others may have
    /// changed them meanwhile. It does not wait for a terminal that is held with Ctrl-S.
    pub fn restore(&self) {
        if self.raw.replace(false) {
            let _ = tcsetattr(self.input.as_fd(), SetArg::TCSANOW, &self.modes);
        }
    }

    /// Whether its modes are not those of the beginning.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.raw.get()
    }

    /// Restores it in the place of a front that was killed and could not.
    pub fn restore_for_front(&self) {
        self.raw.set(true);
        self.restore();
    }

    /// Its handle.
    #[must_use]
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }
}

impl Drop for Terminal {
    /// A front that unwinds gives the modes back too.
    fn drop(&mut self) {
        self.restore();
    }
}

/// Columns of the terminal that standard output is; none where it is something else.
#[must_use]
pub fn width() -> Option<usize> {
    size().map(|size| size.ws_col.into()).filter(|&columns| columns > 0)
}

/// Rows of the terminal that standard output is; none where it is something else.
#[must_use]
pub fn height() -> Option<usize> {
    size().map(|size| size.ws_row.into()).filter(|&rows| rows > 0)
}

fn size() -> Option<nix::pty::Winsize> {
    let out = io::stdout();
    crate::process::pty::size(out.as_fd()).filter(|_| out.is_terminal())
}

/// Whether standard output can be drawn on: a terminal that knows more than to print.
#[must_use]
pub fn draws() -> bool {
    io::stdout().is_terminal()
        && std::env::var_os("TERM").is_some_and(|term| term != "dumb" && !term.is_empty())
}

/// Whether what is printed on standard output should be coloured: a terminal, and nothing in the environment against it.
#[must_use]
pub fn wants_colour() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Whether whoever read our standard output is gone.
#[must_use]
pub fn reader_is_gone() -> bool {
    let out = io::stdout();
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents().is_some_and(|found| found.intersects(gone))
}

/// Says something to the person, unless whoever reads standard error has not read for too long: bookend must not
/// hang where nobody listens.
pub fn say(text: &str) {
    let mut errors = io::stderr();
    for piece in text.as_bytes().chunks(PIECE) {
        if !has_room(errors.as_fd()) || errors.write_all(piece).is_err() {
            return;
        }
    }
}

fn has_room(handle: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(handle, PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::from(PATIENCE_MS)).is_ok_and(|n| n > 0)
}
