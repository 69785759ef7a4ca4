//! What an attached person sees: the end of the log, and then what comes.

use std::io;
use std::os::fd::OwnedFd;

use crate::model::plan::Capture;
use crate::model::record::Record;
use crate::store::log::{Log, Step};
use crate::view::modes::Modes;
use crate::view::plain::Plain;

/// The beginning that is shown is at most so long: what fills a screen may have no lines.
const MOST_TAIL: u64 = 64 * 1024;
/// How far back is looked for modes that a program has switched on.
const MOST_BEFORE: u64 = 1 << 20;

/// A run's log from somewhere near its end on.
pub struct Output {
    log: Log,
    /// Keeps what is shown from steering a terminal that is not the command's own.
    plain: Option<Plain>,
    /// Bytes that were dropped to keep the log's limit before they could be shown.
    pub dropped: u64,
}

impl Output {
    /// The log from its last `lines` lines on.
    ///
    /// # Errors
    /// As opening and reading it.
    pub fn open(dir: &OwnedFd, record: &Record, lines: u64, is_plain: bool) -> io::Result<Self> {
        let mut log = Log::open(dir, Some(record))?;
        let size = log.size();
        let start = log.last_lines(lines, None, (size.saturating_sub(MOST_TAIL), size))?;
        log.seek(start);
        Ok(Self { log, plain: is_plain.then(Plain::default), dropped: 0 })
    }

    /// The modes that the terminal of a tty run has where this output begins.
    ///
    /// # Errors
    /// As opening and reading the log.
    pub fn modes(dir: &OwnedFd, record: &Record, lines: u64) -> io::Result<Modes> {
        let mut modes = Modes::default();
        if record.log.capture != Capture::Tty {
            return Ok(modes);
        }
        let mut log = Log::open(dir, Some(record))?;
        let size = log.size();
        let end = log.last_lines(lines, None, (size.saturating_sub(MOST_TAIL), size))?;
        let mut at = end.saturating_sub(MOST_BEFORE);
        log.seek(at);
        while at < end {
            match log.step()? {
                Step::Bytes(piece) => {
                    let wanted = piece.bytes.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                    modes.read(&piece.bytes[..wanted]);
                    at += wanted as u64;
                }
                Step::Gap(bytes) => at += bytes,
                Step::Cut | Step::End => break,
            }
        }
        Ok(modes)
    }

    /// Takes in what is known of the run now.
    pub fn learn(&mut self, record: &Record) {
        self.log.learn(record);
    }

    /// What comes next; empty when there is nothing yet.
    ///
    /// # Errors
    /// As pread(2).
    pub fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let bytes = match self.log.step()? {
                Step::Bytes(piece) => piece.bytes,
                Step::Gap(bytes) => {
                    self.dropped += bytes;
                    continue;
                }
                Step::Cut => continue,
                Step::End => return Ok(Vec::new()),
            };
            let shown = match &mut self.plain {
                Some(plain) => plain.filter(bytes),
                None => bytes.to_vec(),
            };
            // Half a character is shown with its other half.
            if !shown.is_empty() {
                return Ok(shown);
            }
        }
    }
}
