//! The two bookends' link: a socket whose end of file says that the other one is gone.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::{ForkResult, fork};
use serde::{Deserialize, Serialize};

use crate::disk::retry;
use crate::process::pump::Stream;

/// Longest message.
const MESSAGE_BYTES: usize = 8 * 1024;
/// First byte of a message that is JSON; others are the digit of a stream, before its bytes.
const JSON: u8 = b'{';

/// What the bookends tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Message {
    /// Front: a signal came, the `count`th stop signal if it is one.
    Signal {
        /// Its number.
        signal: i32,
        /// Process and user that sent it.
        sender: Option<(i32, u32)>,
        /// Stop signals so far, this one included.
        count: u32,
    },
    /// Front: Ctrl-Z was pressed.
    Suspend,
    /// Front: this job goes on.
    Resume,
    /// Front: it can not go on.
    Panicked {
        /// What happened.
        message: String,
    },
    /// Keeper: the run is on disk.
    Published,
    /// Keeper: a line for the person at the terminal.
    Tell {
        /// The line.
        line: String,
    },
    /// Keeper: the command has been stopped by a signal.
    Paused,
    /// Keeper: the run could not begin; nothing is on disk.
    Refused {
        /// What the system said.
        errno: i32,
    },
}

/// What came through the link.
#[derive(Debug)]
pub enum Incoming {
    /// A message.
    Message(Message),
    /// Output that could not be written to the log.
    Spill(Stream, Vec<u8>),
    /// Nothing now.
    Nothing,
    /// The partner is gone.
    Gone,
}

/// One end of the socket between the bookends.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
}

impl Link {
    /// Makes both ends.
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = retry(|| socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags))?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// Sends a message; a partner that is gone is noticed elsewhere.
    pub fn send(&self, message: &Message) {
        if let Ok(bytes) = serde_json::to_vec(message) {
            let _ = self.send_bytes(&bytes);
        }
    }

    /// Passes on output that could not be written to the log; how many bytes of it the partner could take now.
    #[must_use]
    pub fn spill(&self, stream: Stream, bytes: &[u8]) -> usize {
        let taken = |piece: &&[u8]| self.send_bytes(&[&[stream.digit()], *piece].concat()).is_ok();
        bytes.chunks(MESSAGE_BYTES - 1).take_while(taken).map(<[u8]>::len).sum()
    }

    fn send_bytes(&self, bytes: &[u8]) -> io::Result<usize> {
        retry(|| send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT))
    }

    /// Takes what came next, without waiting.
    #[must_use]
    pub fn take(&self) -> Incoming {
        let mut bytes = [0; MESSAGE_BYTES];
        let mut receive = || retry(|| recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT));
        let received = match receive() {
            // The partner ended without reading all of ours; what it said before that still waits behind the error.
            Err(e) if e.raw_os_error() == Some(Errno::ECONNRESET as i32) => receive(),
            other => other,
        };
        match received {
            Ok(0) => Incoming::Gone,
            Ok(n) if bytes[0] == JSON => {
                serde_json::from_slice(&bytes[..n]).map_or(Incoming::Nothing, Incoming::Message)
            }
            Ok(n) => Stream::of_digit(u64::from(bytes[0]))
                .map_or(Incoming::Nothing, |stream| Incoming::Spill(stream, bytes[1..n].to_vec())),
            Err(e) if e.raw_os_error() == Some(Errno::ECONNRESET as i32) => Incoming::Gone,
            Err(_) => Incoming::Nothing,
        }
    }

    /// The handle to poll.
    #[must_use]
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Which bookend this process is after the fork.
pub enum Side {
    /// The old process; the new one has this id.
    Parent(i32),
    /// The new process.
    Child,
}

/// Forks this process, which has a single thread.
///
/// # Errors
/// As fork(2).
pub fn split() -> io::Result<Side> {
    // SAFETY: `run` has no threads, so the child may go on as any process does.
    match retry(|| unsafe { fork() })? {
        ForkResult::Parent { child } => Ok(Side::Parent(child.as_raw())),
        ForkResult::Child => Ok(Side::Child),
    }
}

/// Makes this process the one that inherits what its descendants leave behind.
///
/// # Errors
/// As prctl(2).
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: a plain system call on integers.
    let done = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    Errno::result(done).map(drop).map_err(io::Error::from)
}

/// Takes this process out of the caller's session, so that no key or hang-up of its terminal reaches it.
pub fn leave_session() {
    let _ = nix::unistd::setsid();
}
