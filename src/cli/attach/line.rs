//! The line to the run's door: words that wait to be said, and the socket they are said on, while there is one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::PollFlags;

use crate::engine::guests::FULL;
use crate::store::door::{self, LONGEST, Word};

/// Words that wait; more keys are let go.
const MOST: usize = 16;

/// The line.
pub struct Line {
    dir: OwnedFd,
    socket: Option<OwnedFd>,
    /// No more is tried: there was no room.
    refused: bool,
    words: VecDeque<Word>,
}

impl Line {
    /// A line to the run in this directory, which is not up yet.
    #[must_use]
    pub fn to(dir: OwnedFd) -> Self {
        Self { dir, socket: None, refused: false, words: VecDeque::new() }
    }

    /// Whether somebody is there.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.socket.is_some() || self.refused
    }

    /// Knocks.
    ///
    /// # Errors
    /// As [`door::knock`].
    pub fn connect(&mut self) -> io::Result<()> {
        self.socket = Some(door::knock(&self.dir)?);
        Ok(())
    }

    /// What to poll.
    #[must_use]
    pub fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let waits = if self.words.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        self.socket.as_ref().map(|socket| (socket.as_fd(), PollFlags::POLLIN | waits))
    }

    /// Whether more keys can be taken in now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.socket.is_some() && self.words.len() < MOST / 2
    }

    /// Passes keys on, as soon as they are taken.
    pub fn type_keys(&mut self, keys: &[u8]) {
        for piece in keys.chunks(LONGEST - 1).take(MOST.saturating_sub(self.words.len())) {
            self.words.push_back(Word::Keys(piece.to_vec()));
        }
        self.flush();
    }

    /// Says how large the window is; only the last size counts.
    pub fn resize(&mut self, size: [u16; 4]) {
        self.words.retain(|word| !matches!(word, Word::Size(_)));
        self.words.push_front(Word::Size(size));
        self.flush();
    }

    /// Does what there is to do; what to tell the person.
    pub fn serve(&mut self) -> Option<&'static str> {
        let said = self.socket.as_ref().and_then(|socket| door::hear(socket.as_fd()));
        match said.as_deref() {
            Some(FULL) => {
                (self.socket, self.refused) = (None, true);
                return Some("too many are attached to it: what is typed here is not passed on");
            }
            Some([]) => self.socket = None,
            _ => self.flush(),
        }
        None
    }

    fn flush(&mut self) {
        while let (Some(socket), Some(word)) = (&self.socket, self.words.front()) {
            match door::say(socket.as_fd(), &word.to_bytes()) {
                Ok(()) => drop(self.words.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // Its end is seen by the poll.
                Err(_) => return,
            }
        }
    }
}
