//! The echo: shows the command's output as it comes, on the stream it came from, by following the log.
//!
//! Nothing is copied from the command's path: a slow reader of ours never slows the command down, and what is
//! shown is what is in the log. While nothing happens nothing wakes up: a one-shot watch on the log says when
//! to look again, and only while bytes flow a short timer does.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use nix::fcntl::SpliceFFlags;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::SFlag;

use crate::disk::{self, retry};
use crate::ledger::Ledger;
use crate::model::plan::Capture;
use crate::process::pump::Stream;
use crate::store::marks::Marks;

/// One call shows at most this much.
const PIECE: u64 = 256 * 1024;
/// Piece of what goes through this process's memory.
const COPY_BYTES: usize = 64 * 1024;
/// While bytes flow the log is looked at this often.
pub const FLOWING_MS: u64 = 10;
/// Without a watch it is looked at this often.
pub const UNWATCHED_MS: u64 = 50;

/// Where one stream is shown.
struct Outlet {
    handle: OwnedFd,
    /// Spliced to, without waiting.
    is_pipe: bool,
    closed: bool,
}

impl Outlet {
    fn new(original: BorrowedFd<'_>) -> io::Result<Self> {
        let kind = disk::kind_of(original);
        let is_pipe = kind == SFlag::S_IFIFO;
        // A new opening of a pipe or terminal can be told not to wait without changing the caller's.
        let reopened =
            if is_pipe || kind == SFlag::S_IFCHR { disk::reopen_nonblocking(original).ok() } else { None };
        let handle = match reopened {
            Some(handle) => handle,
            None => original.try_clone_to_owned()?,
        };
        Ok(Self { handle, is_pipe, closed: false })
    }

    /// Shows up to `bytes` of the log from `offset`; how many it took.
    fn show(&mut self, log: &File, offset: u64, bytes: u64) -> io::Result<u64> {
        if self.closed {
            return Ok(bytes);
        }
        let shown =
            if self.is_pipe { self.splice(log, offset, bytes) } else { self.copy(log, offset, bytes) };
        self.note(shown, bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let written = retry(|| nix::unistd::write(&self.handle, bytes)).map(|n| n as u64);
        self.note(written, bytes.len() as u64)
    }

    /// A reader that is gone, or a terminal that is, is shown no more; that is no failure of the run.
    fn note(&mut self, shown: io::Result<u64>, bytes: u64) -> io::Result<u64> {
        match shown {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                self.closed = true;
                Ok(bytes)
            }
            other => other,
        }
    }

    fn splice(&mut self, log: &File, offset: u64, bytes: u64) -> io::Result<u64> {
        let mut from = i64::try_from(offset).unwrap_or(i64::MAX);
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        let length = usize::try_from(bytes.min(PIECE)).unwrap_or(COPY_BYTES);
        match retry(|| nix::fcntl::splice(log, Some(&mut from), &self.handle, None, length, flags)) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                self.is_pipe = false;
                self.copy(log, offset, bytes)
            }
            other => other.map(|n| n as u64),
        }
    }

    fn copy(&mut self, log: &File, offset: u64, bytes: u64) -> io::Result<u64> {
        let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(bytes).unwrap_or(COPY_BYTES))];
        let read = log.read_at(&mut buffer, offset)?;
        if self.is_regular_or_waiting() || self.has_room() {
            return retry(|| nix::unistd::write(&self.handle, &buffer[..read])).map(|n| n as u64);
        }
        Err(io::Error::from(io::ErrorKind::WouldBlock))
    }

    fn is_regular_or_waiting(&self) -> bool {
        disk::kind_of(self.handle.as_fd()) == SFlag::S_IFREG
    }

    fn has_room(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.handle.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
    }
}

/// How far the echo got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All there is has been shown.
    CaughtUp,
    /// Something was shown, and there may be more.
    Flowing,
    /// This stream's reader is slow.
    Blocked(Stream),
}

/// The echo of one run.
pub struct Echo {
    log: File,
    parts: Option<Parts>,
    ledger: &'static Ledger,
    offset: u64,
    outlets: [Outlet; 2],
    spilt: VecDeque<(u64, Stream, Vec<u8>)>,
    /// Spilt bytes that came so far.
    taken: u64,
    watch: Option<Inotify>,
    /// Bytes that were dropped from the log before a slow reader came to them.
    pub skipped: u64,
}

impl Echo {
    /// An echo of `log` to this process's standard streams.
    ///
    /// # Errors
    /// As duplicating a descriptor.
    pub fn new(
        log: &File,
        index: Option<&File>,
        capture: Capture,
        ledger: &'static Ledger,
    ) -> io::Result<Self> {
        let outlets = [Outlet::new(io::stdout().as_fd())?, Outlet::new(io::stderr().as_fd())?];
        let index = index.filter(|_| capture == Capture::Pipe).map(File::try_clone).transpose()?;
        Ok(Self {
            log: log.try_clone()?,
            parts: index.map(|index| Parts(Marks::of(index))),
            ledger,
            offset: 0,
            outlets,
            spilt: VecDeque::new(),
            taken: 0,
            watch: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok(),
            skipped: 0,
        })
    }

    /// The watch to poll, while it is armed.
    #[must_use]
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// The handle on which a slow reader is waited for.
    #[must_use]
    pub fn outlet(&self, stream: Stream) -> BorrowedFd<'_> {
        self.outlets[stream.place()].handle.as_fd()
    }

    /// Asks to be woken when the log grows; false when the log must be looked at by a timer instead.
    #[must_use]
    pub fn arm(&self) -> bool {
        let Some(watch) = &self.watch else { return false };
        let _ = watch.read_events();
        let path = format!("/proc/self/fd/{}", self.log.as_raw_fd());
        watch.add_watch(path.as_str(), AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT).is_ok()
    }

    /// Takes output that is not in the log, to be shown after what was in it then.
    pub fn take_spilt(&mut self, stream: Stream, at: u64, bytes: Vec<u8>) {
        self.taken = self.taken.saturating_add(bytes.len() as u64);
        self.spilt.push_back((at, stream, bytes));
    }

    /// Says that whoever spilt output is gone, so that none is waited for.
    pub fn expect_no_more(&mut self) {
        self.taken = u64::MAX;
    }

    /// Whether so much waits to be shown that no more should be taken.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        const MOST: usize = 1 << 20;
        self.spilt.iter().map(|(_, _, bytes)| bytes.len()).sum::<usize>() > MOST
    }

    /// Shows some of what there is.
    pub fn advance(&mut self) -> Progress {
        if let Some(progress) = self.show_spilt() {
            return progress;
        }
        let Some((stream, bytes)) = self.next_part() else { return Progress::CaughtUp };
        match self.outlets[stream.place()].show(&self.log, self.offset, bytes) {
            Ok(0) => Progress::CaughtUp,
            Ok(shown) => {
                self.offset += shown;
                Progress::Flowing
            }
            Err(_) => Progress::Blocked(stream),
        }
    }

    fn show_spilt(&mut self) -> Option<Progress> {
        let (_, stream, bytes) = self.spilt.front_mut().filter(|s| s.0 <= self.offset)?;
        let stream = *stream;
        match self.outlets[stream.place()].write(bytes) {
            Err(_) => return Some(Progress::Blocked(stream)),
            Ok(n) if (n as usize) < bytes.len() => {
                bytes.drain(..n as usize);
            }
            Ok(_) => {
                self.spilt.pop_front();
            }
        }
        Some(Progress::Flowing)
    }

    /// The next stretch of the log that is to be shown, and on which stream; what was dropped is passed over.
    fn next_part(&mut self) -> Option<(Stream, u64)> {
        let size = self.log.metadata().map_or(0, |m| m.len());
        let gap = [0, 1].map(|n| self.ledger.gap[n].load(Ordering::SeqCst));
        if self.offset >= gap[0] && self.offset < gap[0] + gap[1] {
            self.skipped += gap[0] + gap[1] - self.offset;
            self.offset = gap[0] + gap[1];
        }
        let (stream, end) = match &mut self.parts {
            None => (Stream::Out, size),
            Some(parts) => parts.part_at(self.offset, size, self.ledger)?,
        };
        let end = if self.offset < gap[0] { end.min(gap[0]) } else { end };
        // What is missing in the log comes through the link, and before what was written to the log after it.
        if self.spilt.is_empty() && self.ledger.dropped.load(Ordering::SeqCst) > self.taken {
            return None;
        }
        let end = self.spilt.front().map_or(end, |spilt| end.min(spilt.0));
        (end > self.offset).then(|| (stream, end - self.offset))
    }
}

/// Tells, from the index and the ledger, which part of the log came from which stream.
struct Parts(Marks);

impl Parts {
    /// Stream and end of the part that `offset` lies in, if bytes of it are there. `size` is the log's, seen before.
    ///
    /// The bookend's own count of bytes would be of no use here: it is raised after the write that wakes us.
    fn part_at(&mut self, offset: u64, size: u64, ledger: &Ledger) -> Option<(Stream, u64)> {
        // The open segment is read first: marks of those before it are in the index by then. A segment is opened
        // before its first byte is written, so all that was in the log before this look belongs to it or to others.
        let open = ledger.segment.load(Ordering::SeqCst);
        let (start, stream) = (open / 4, Stream::of_digit(open % 4));
        if offset >= start {
            return stream.filter(|_| size > offset).map(|stream| (stream, size));
        }
        let (mark, end) = self.0.at(offset);
        // Without a mark in the index (its disk was full) the bytes are shown all the same.
        Some((mark.map_or(Stream::Out, |mark| mark.stream), end.map_or(start, |end| end.min(start))))
    }
}
