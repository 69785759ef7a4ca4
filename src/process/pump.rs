//! The pump: moves a command's output into the log and keeps the log within its limit.
//!
//! Through pipes the bytes are spliced: they go from the pipe into the file inside the kernel, so that none is in
//! this process's memory when it is killed. Where that is not possible (a pseudo-terminal, an odd file system)
//! they wait in the ledger, from where the other bookend can still write them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use nix::fcntl::SpliceFFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::marks::Marks;
use crate::disk::{self, retry};
use crate::ledger::Ledger;
use crate::model::record::Gap;
pub use crate::model::stream::Stream;
use crate::model::time::Moment;

/// One call moves at most this much.
const PIECE: usize = 1 << 20;
/// Calls for one stream before the other gets its turn.
const TURNS: usize = 16;
/// A stream that brought this much in one turn is a flood: it is let run for a moment, so that the next turn takes
/// much at once. Two processes that wake each other for every write cost several times the work itself.
const FLOOD_BYTES: usize = 128 * 1024;
/// How long a flood is let run; the pipe holds more than comes in that time.
const FLOOD_PAUSE: std::time::Duration = std::time::Duration::from_micros(150);
/// The log is trimmed in steps of an eighth of its limit, within these bounds.
const TRIM_STEPS: (u64, u64) = (64 * 1024, 16 << 20);
/// Holes begin and end at multiples of this.
const BLOCK: u64 = 4096;

/// What one turn of the pump came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Some bytes were moved; there may be more.
    Moved,
    /// Nothing is there now.
    Dry,
    /// Every writer is gone.
    Closed,
}

/// Bytes that could not be written to the log, for whoever can still show them.
pub type Spill<'a> = &'a mut dyn FnMut(Stream, &[u8]);

/// The output side of one command.
pub struct Pump {
    sources: [Option<OwnedFd>; 2],
    log: Rc<File>,
    marks: Option<Marks>,
    ledger: &'static Ledger,
    splices: bool,
    limit: u64,
    /// The error that keeps output from the log, while it lasts.
    pub trouble: Option<io::Error>,
    /// That the log could not be kept within its limit.
    pub untrimmed: Option<io::Error>,
    /// That the command truncated the log.
    truncated: bool,
}

impl Pump {
    /// A pump from up to two sources (none for a log that the command writes itself) into the log, which `marks` tells
    /// apart. Pipes are spliced.
    #[must_use]
    pub fn new(
        sources: [Option<OwnedFd>; 2],
        log: Rc<File>,
        marks: Option<Marks>,
        ledger: &'static Ledger,
        splices: bool,
        limit: u64,
    ) -> Self {
        Self { sources, log, marks, ledger, splices, limit, trouble: None, untrimmed: None, truncated: false }
    }

    /// Takes other sources in the place of those it had.
    pub fn reconnect(&mut self, sources: [Option<OwnedFd>; 2]) {
        self.sources = sources;
    }

    /// The handle to poll for a stream, while it is open.
    #[must_use]
    pub fn source(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.sources[stream.place()].as_ref().map(OwnedFd::as_fd)
    }

    /// Whether any stream is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.sources.iter().any(Option::is_some)
    }

    /// Lets go of a stream.
    pub fn close(&mut self, stream: Stream) {
        self.sources[stream.place()] = None;
    }

    /// Writes what a bookend that was killed had read and not yet written.
    pub fn recover(&mut self, now: Moment) {
        self.ledger.log_bytes.store(self.position(), Ordering::SeqCst);
        if let Some(marks) = &mut self.marks {
            marks.recover(Moment(self.ledger.last_output.load(Ordering::SeqCst)));
        }
        let waiting = self.ledger.in_flight.load(Ordering::SeqCst);
        if let Some(stream) = Stream::of_digit(u64::from(waiting % 4)) {
            // SAFETY: the process that used the buffer is dead.
            let bytes = unsafe { self.ledger.transfer_buffer() };
            self.mark(stream, now);
            self.store(stream, &bytes[..(waiting as usize / 4).min(bytes.len())], &mut |_, _| {});
            self.ledger.in_flight.store(0, Ordering::SeqCst);
        }
    }

    /// Moves what a stream has, up to a bound, and closes the stream at its end.
    pub fn turn(&mut self, stream: Stream, now: Moment, spill: Spill<'_>) -> Turn {
        let mut moved = 0;
        for _ in 0..TURNS {
            match self.step(stream, now, spill) {
                Ok(0) => {
                    self.close(stream);
                    return Turn::Closed;
                }
                Ok(bytes) => {
                    moved += bytes;
                    self.ledger.last_output.store(now.0, Ordering::SeqCst);
                    if self.untrimmed.is_none() && self.wants_trim() {
                        self.trim();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if moved >= FLOOD_BYTES {
                        std::thread::sleep(FLOOD_PAUSE);
                    }
                    return Turn::Dry;
                }
                Err(_) => {
                    self.close(stream);
                    return Turn::Closed;
                }
            }
        }
        Turn::Moved
    }

    fn step(&mut self, stream: Stream, now: Moment, spill: Spill<'_>) -> io::Result<usize> {
        if self.splices {
            if self.marks.as_ref().is_some_and(|marks| marks.is_due(stream, now)) {
                // A mark stands before bytes, and not where there are none.
                match self.waiting(stream) {
                    Ok(false) => return Ok(0),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(e),
                    // Where it can not be asked, a mark too many does no harm; closing the stream would lose its bytes.
                    Ok(true) | Err(_) => self.mark(stream, now),
                }
            }
            match self.splice(stream) {
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => self.splices = false,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => self.trouble = Some(e),
                other => return other,
            }
        }
        self.copy(stream, now, spill)
    }

    /// Whether bytes wait in a pipe now; false at its end.
    fn waiting(&self, stream: Stream) -> io::Result<bool> {
        let Some(source) = self.source(stream) else { return Ok(false) };
        let mut fds = [PollFd::new(source, PollFlags::POLLIN)];
        retry(|| poll(&mut fds, PollTimeout::ZERO))?;
        match fds[0].revents() {
            Some(found) if found.contains(PollFlags::POLLIN) => Ok(true),
            Some(found) if !found.is_empty() => Ok(false),
            _ => Err(io::Error::from(io::ErrorKind::WouldBlock)),
        }
    }

    fn splice(&mut self, stream: Stream) -> io::Result<usize> {
        let Some(source) = self.source(stream) else { return Ok(0) };
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let moved = retry(|| nix::fcntl::splice(source, None, &*self.log, None, PIECE, flags))?;
        self.ledger.log_bytes.fetch_add(moved as u64, Ordering::SeqCst);
        if moved > 0 && self.trouble.take().is_some() {
            self.finish_index();
        }
        Ok(moved)
    }

    /// Reads into the ledger and writes from there.
    fn copy(&mut self, stream: Stream, now: Moment, spill: Spill<'_>) -> io::Result<usize> {
        // SAFETY: this process alone moves the output, and this is the only call that does.
        let buffer = unsafe { self.ledger.transfer_buffer() };
        let Some(source) = self.source(stream) else { return Ok(0) };
        let read = match retry(|| nix::unistd::read(source, buffer)) {
            // A pseudo-terminal whose last user is gone says EIO.
            Err(e) if e.raw_os_error() == Some(libc::EIO) => 0,
            other => other?,
        };
        if read > 0 {
            let waiting = u32::try_from(read).unwrap_or(0) * 4 + u32::from(stream.digit());
            self.ledger.in_flight.store(waiting, Ordering::SeqCst);
            self.mark(stream, now);
            self.store(stream, &buffer[..read], spill);
        }
        self.ledger.in_flight.store(0, Ordering::SeqCst);
        Ok(read)
    }

    /// Writes bytes to the log; what can not be written is counted and spilt.
    fn store(&mut self, stream: Stream, mut bytes: &[u8], spill: Spill<'_>) {
        while !bytes.is_empty() {
            match retry(|| nix::unistd::write(&*self.log, bytes)) {
                Ok(0) => break,
                Ok(written) => {
                    self.ledger.log_bytes.fetch_add(written as u64, Ordering::SeqCst);
                    bytes = &bytes[written..];
                    if self.trouble.take().is_some() {
                        self.finish_index();
                    }
                }
                Err(e) => {
                    self.trouble = Some(e);
                    break;
                }
            }
        }
        if !bytes.is_empty() {
            self.ledger.dropped.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            spill(stream, bytes);
        }
    }

    /// Says in the index what the bytes are that come next, where that is due.
    fn mark(&mut self, stream: Stream, now: Moment) {
        if let Some(marks) = &mut self.marks {
            // While nothing gets into the log, the index must not use up the last of the disk: the mark can wait.
            marks.begin(stream, now, self.trouble.is_none());
        }
    }

    /// Writes to the index what could not be written before.
    pub fn finish_index(&mut self) {
        if let Some(marks) = &mut self.marks {
            marks.write();
        }
    }

    /// Bytes in the log, whoever wrote them.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.log.metadata().map_or(0, |m| m.len())
    }

    /// Monotonic moment of the last output that this process can know of, from the file where it only watches.
    #[must_use]
    pub fn last_output(&self, now: Moment) -> Moment {
        let through_us = Moment(self.ledger.last_output.load(Ordering::SeqCst));
        let written = self.log.metadata().ok().filter(|m| m.len() > 0).and_then(|m| m.modified().ok());
        let age = written.and_then(|at| at.elapsed().ok());
        let by_file = age.map_or(Moment(0), |age| {
            Moment(now.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
        });
        if self.is_open() { through_us } else { through_us.max(by_file) }
    }

    /// Notices that a log which the command writes itself has become shorter since the last look.
    fn notice_truncation(&mut self) {
        if self.marks.is_none() && !self.is_open() {
            let size = self.position();
            let before = self.ledger.log_bytes.swap(size, Ordering::SeqCst);
            if before > size {
                self.ledger.dropped.fetch_add(before - size, Ordering::SeqCst);
                self.truncated = true;
            }
        }
    }

    /// Gives the middle of a log that outgrew its limit back to the disk, where that is worth a call: its head and
    /// tail stay where they are.
    pub fn trim(&mut self) {
        self.trim_by(self.trim_step());
    }

    /// Does the same to the last block, at the end of the run.
    pub fn trim_to_limit(&mut self) {
        self.trim_by(BLOCK);
    }

    fn trim_step(&self) -> u64 {
        (self.limit / 8).clamp(TRIM_STEPS.0, TRIM_STEPS.1)
    }

    fn trim_by(&mut self, step: u64) {
        self.notice_truncation();
        let Some(hole) = hole(self.position(), self.limit) else { return };
        let [offset, known] = [0, 1].map(|n| self.ledger.gap[n].load(Ordering::SeqCst));
        if hole.bytes < known + step {
            return;
        }
        // Said before it is done, so that whoever shows the log does not take the hole for output.
        self.ledger.gap[0].store(hole.offset, Ordering::SeqCst);
        self.ledger.gap[1].store(hole.bytes, Ordering::SeqCst);
        if let Err(e) = disk::punch_hole(&self.log, hole.offset, hole.bytes) {
            self.ledger.gap[1].store(known, Ordering::SeqCst);
            self.ledger.gap[0].store(offset, Ordering::SeqCst);
            self.untrimmed = Some(e);
        }
    }

    /// Whether the log has outgrown its limit by enough to be worth trimming; by its own count, without a call.
    fn wants_trim(&self) -> bool {
        let dropped = self.ledger.gap[1].load(Ordering::SeqCst);
        let kept = self.ledger.log_bytes.load(Ordering::SeqCst).saturating_sub(dropped);
        kept > self.limit.saturating_add(self.trim_step())
    }

    /// Bytes that the log may still grow by before it wants trimming, whoever writes it.
    #[must_use]
    pub fn headroom(&self) -> u64 {
        let dropped = self.ledger.gap[1].load(Ordering::SeqCst);
        self.limit.saturating_sub(self.position().saturating_sub(dropped))
    }

    /// The log itself.
    #[must_use]
    pub fn log(&self) -> &File {
        &self.log
    }

    /// The error of the log as text for the record.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let lost = self.ledger.dropped.load(Ordering::SeqCst);
        let reason = match &self.trouble {
            _ if self.truncated => {
                "the command truncated its own log; --capture pipe keeps such bytes".to_owned()
            }
            Some(e) => e.to_string(),
            None => "the log could not be written".to_owned(),
        };
        let lost = (lost > 0).then(|| format!("log: {lost} bytes of output are missing: {reason}"));
        let untrimmed =
            self.untrimmed.as_ref().map(|e| format!("log: its size limit could not be kept: {e}"));
        lost.into_iter().chain(untrimmed).collect()
    }
}

/// Bytes at the head of a log that are always kept.
#[must_use]
pub fn head_bytes(limit: u64) -> u64 {
    (limit / 16).next_multiple_of(BLOCK)
}

/// What to drop of a log of `size` bytes so that at most `limit` stay: a sixteenth at its head, the rest at its tail.
pub(super) fn hole(size: u64, limit: u64) -> Option<Gap> {
    if size <= limit {
        return None;
    }
    let offset = head_bytes(limit);
    let end = (size - (limit - limit / 16)) / BLOCK * BLOCK;
    (end > offset).then(|| Gap { offset, bytes: end - offset })
}

/// A pipe whose read end does not wait and holds as much as the system allows.
///
/// # Errors
/// As pipe2(2).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (read, write) = retry(|| nix::unistd::pipe2(OFlag::O_CLOEXEC))?;
    retry(|| fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)))?;
    let _ = fcntl(&read, FcntlArg::F_SETPIPE_SZ(1 << 20));
    Ok((read, write))
}

/// The link that `/proc/PID/fd` shows for an open file.
#[must_use]
pub fn link_of(handle: BorrowedFd<'_>) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd())).ok()?;
    link.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_leave_at_most_the_limit() {
        assert_eq!(hole(100, 100), None);
        let limit = 1 << 20;
        for size in [limit + 1, limit + 5000, 10 * limit, 10 * limit + 1] {
            match hole(size, limit) {
                None => assert!(size < limit + 3 * BLOCK),
                Some(gap) => {
                    assert!(size - gap.bytes <= limit + 3 * BLOCK, "{size}");
                    assert!(gap.offset >= limit / 16 && gap.offset + gap.bytes <= size - limit / 2);
                }
            }
        }
    }
}
