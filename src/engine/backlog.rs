//! The backlog: output that is not in the log and that the other bookend, who shows it, could not take yet.
//!
//! While there is any, no more output is taken from the command: a slow reader slows it down, as a pipe would, and
//! nothing that can still be shown is lost.

use std::collections::VecDeque;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::guard::partner::{Incoming, Link};
use crate::process::pump::Stream;

/// Parts in the order in which they came.
#[derive(Debug, Default)]
pub struct Backlog {
    parts: VecDeque<(Stream, Vec<u8>)>,
}

impl Backlog {
    /// Whether all was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Passes bytes on, or keeps what is not taken; without another bookend there is nobody to show them.
    pub fn add(&mut self, link: Option<&Link>, stream: Stream, bytes: &[u8]) {
        let Some(link) = link else { return };
        let taken = if self.parts.is_empty() { link.spill(stream, bytes) } else { 0 };
        if taken < bytes.len() {
            self.parts.push_back((stream, bytes[taken..].to_vec()));
        }
    }

    /// Passes on what the other bookend can take now.
    pub fn flush(&mut self, link: Option<&Link>) {
        let Some(link) = link else { return self.parts.clear() };
        while let Some((stream, bytes)) = self.parts.front_mut() {
            let taken = link.spill(*stream, bytes);
            if taken < bytes.len() {
                bytes.drain(..taken);
                return;
            }
            self.parts.pop_front();
        }
    }

    /// Passes on everything, however long that takes, unless the other bookend ends before.
    pub fn flush_all(&mut self, link: Option<&Link>) {
        self.flush(link);
        let Some(link) = link else { return };
        while !self.is_empty() {
            let mut fds = [PollFd::new(link.handle(), PollFlags::POLLIN | PollFlags::POLLOUT)];
            let _ = poll(&mut fds, PollTimeout::NONE);
            self.flush(Some(link));
            if matches!(link.take(), Incoming::Gone) {
                return;
            }
        }
    }
}
