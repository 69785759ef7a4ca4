//! The caller's terminal: its modes, and giving them back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Standard input, where it is a terminal, with the modes it had in the beginning.
pub struct Terminal {
    input: io::Stdin,
    modes: Termios,
}

impl Terminal {
    /// The terminal that standard input is; none where it is something else.
    #[must_use]
    pub fn of_stdin() -> Option<Self> {
        let input = io::stdin();
        let modes = tcgetattr(input.as_fd()).ok()?;
        Some(Self { input, modes })
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
        let _ = tcsetattr(self.input.as_fd(), SetArg::TCSADRAIN, &raw);
    }

    /// Gives the modes back that it had in the beginning.
    pub fn restore(&self) {
        let _ = tcsetattr(self.input.as_fd(), SetArg::TCSADRAIN, &self.modes);
    }

    /// Restores it in the place of a front that was killed and could not.
    pub fn restore_if(&self, front_died: bool) {
        if front_died {
            self.restore();
        }
    }

    /// Its handle.
    #[must_use]
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }
}
