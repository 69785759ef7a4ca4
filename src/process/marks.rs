//! The marks of a log as they are written: which bytes came from which stream, and when.
//!
//! A mark is written before the bytes that it speaks of, so whoever sees bytes in the log can know them, and so does
//! a reader after both bookends were killed.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::pump::hole;
use crate::disk::{self, retry};
use crate::ledger::Ledger;
use crate::model::stream::{Mark, Stream};
use crate::model::time::Moment;

/// An index that outgrew its limit gives back at least this much at a time.
const TRIM_STEP: u64 = 1 << 20;
/// Marks that are kept for a disk that takes none.
const MOST_UNWRITTEN: usize = 1 << 16;
/// What stands for marks that were lost: the same as a hole.
const UNKNOWN: &[u8] = b"\0\n";
/// What ends a line that a bookend was killed in the middle of: no mark can end so.
const VOID: &[u8] = b"?\n";

/// The writer of a log's index.
pub struct Marks {
    file: Rc<File>,
    ledger: &'static Ledger,
    run_start: Moment,
    limit: u64,
    /// When this process last made a mark.
    last: Option<Moment>,
    /// The rest of a line that was cut short.
    rest: Vec<u8>,
    /// Marks that could not be written yet.
    unwritten: VecDeque<Mark>,
    /// Bytes in the index, and in the hole in it.
    size: u64,
    dropped: u64,
}

impl Marks {
    /// A writer that appends to `file` and keeps it within `limit` bytes, head and tail, as the log is kept.
    #[must_use]
    pub fn new(file: Rc<File>, ledger: &'static Ledger, run_start: Moment, limit: u64) -> Self {
        let (rest, unwritten) = (Vec::new(), VecDeque::new());
        Self { file, ledger, run_start, limit, last: None, rest, unwritten, size: 0, dropped: 0 }
    }

    /// Whether output of `stream` that comes now needs a mark.
    #[must_use]
    pub fn is_due(&self, stream: Stream, now: Moment) -> bool {
        let open = self.ledger.segment.load(Ordering::SeqCst);
        Stream::of_digit(open % 4) != Some(stream)
            || self.last.is_none_or(|last| now.ms_since(last) >= Mark::STEP_MS)
    }

    /// Marks what comes next as of `stream`, where that is due. Unless it is `eager`, it is only kept for later.
    pub fn begin(&mut self, stream: Stream, now: Moment, eager: bool) {
        if !self.is_due(stream, now) {
            return;
        }
        let offset = self.ledger.log_bytes.load(Ordering::SeqCst);
        self.last = Some(now);
        // A mark that no bytes came after is out of date.
        if self.unwritten.back().is_some_and(|mark| mark.offset == offset) {
            self.unwritten.pop_back();
        }
        if self.unwritten.len() >= MOST_UNWRITTEN {
            self.unwritten.clear();
            self.rest.extend_from_slice(UNKNOWN);
        }
        self.unwritten.push_back(Mark { ms: now.ms_since(self.run_start), stream, offset });
        self.ledger.unmarked.store(true, Ordering::SeqCst);
        if eager {
            self.write();
        }
        // Last, so that whoever finds a segment open here finds those before it in the index.
        let segment = offset * 4 + u64::from(stream.digit());
        if Stream::of_digit(self.ledger.segment.load(Ordering::SeqCst) % 4) != Some(stream) {
            self.ledger.segment.store(segment, Ordering::SeqCst);
        }
    }

    /// Writes what is not written yet. On a full disk it waits for the next time.
    pub fn write(&mut self) {
        while !self.rest.is_empty() || !self.unwritten.is_empty() {
            if self.rest.is_empty()
                && let Some(mark) = self.unwritten.pop_front()
            {
                self.rest = format!("{mark}\n").into_bytes();
            }
            let Ok(written) = retry(|| nix::unistd::write(&*self.file, &self.rest)) else { return };
            self.rest.drain(..written);
            self.size += written as u64;
        }
        self.ledger.unmarked.store(false, Ordering::SeqCst);
        self.trim();
    }

    /// Goes on after a bookend that was killed; `last_output` is the last moment at which it moved anything.
    pub fn recover(&mut self, last_output: Moment) {
        self.size = self.file.metadata().map_or(0, |found| found.len());
        let mut end = [b'\n'];
        let _ = self.file.read_at(&mut end, self.size.saturating_sub(1));
        if end != *b"\n" {
            self.rest = VOID.to_vec();
        }
        let open = self.ledger.segment.load(Ordering::SeqCst);
        if let Some(stream) = Stream::of_digit(open % 4)
            && self.ledger.unmarked.load(Ordering::SeqCst)
        {
            let ms = last_output.ms_since(self.run_start);
            self.unwritten.push_back(Mark { ms, stream, offset: open / 4 });
        }
        self.write();
    }

    /// Gives the middle of an index that outgrew its limit back to the disk. It reads as zeros, and a reader knows from
    /// them that what came from where is not known there.
    fn trim(&mut self) {
        if self.size - self.dropped.min(self.size) <= self.limit.saturating_add(TRIM_STEP) {
            return;
        }
        if let Some(hole) = hole(self.size, self.limit) {
            self.dropped = match disk::punch_hole(&self.file, hole.offset, hole.bytes) {
                Ok(()) => hole.bytes,
                // Where there are no holes it grows, as the log does; that is said of the log.
                Err(_) => u64::MAX,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    fn marks(file: File, ledger: &'static Ledger) -> Marks {
        Marks::new(Rc::new(file), ledger, Moment(1000), 64 * 1024)
    }

    fn text(file: &File) -> String {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_mark_is_made_for_another_stream_and_for_another_time() {
        let ledger = Ledger::map().unwrap();
        let mut marks = marks(tempfile::tempfile().unwrap(), ledger);
        let (out, err) = (Stream::Out, Stream::Err);
        for (stream, ms, bytes) in [
            (out, 1005, 10),
            (out, 1104, 10),
            (out, 1105, 10),
            (err, 1106, 5),
            (err, 1205, 5),
            (err, 1300, 5),
        ] {
            marks.begin(stream, Moment(ms), true);
            ledger.log_bytes.fetch_add(bytes, Ordering::SeqCst);
        }
        assert_eq!(text(&marks.file), "5 1 0\n105 1 20\n106 2 30\n300 2 40\n");
        assert_eq!(ledger.segment.load(Ordering::SeqCst), 30 * 4 + 2);
    }

    #[test]
    fn what_a_full_disk_did_not_take_is_written_by_whoever_goes_on() {
        let ledger = Ledger::map().unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut keeper = marks(full, ledger);
        keeper.begin(Stream::Out, Moment(1000), true);
        ledger.log_bytes.store(7, Ordering::SeqCst);
        keeper.begin(Stream::Err, Moment(1001), true);
        keeper.begin(Stream::Out, Moment(1002), true);
        keeper.begin(Stream::Err, Moment(1003), false);
        assert_eq!(
            keeper.unwritten.len(),
            1,
            "one of each offset, and one that was begun: {:?}",
            keeper.rest
        );
        assert!(ledger.unmarked.load(Ordering::SeqCst));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0 1 0\n1 2").unwrap();
        let mut front = marks(file, ledger);
        front.recover(Moment(1003));
        assert_eq!(text(&front.file), "0 1 0\n1 2?\n3 2 7\n");
        assert!(!ledger.unmarked.load(Ordering::SeqCst));
        assert!(front.is_due(Stream::Err, Moment(1003)), "a process marks what it writes first");
    }

    #[test]
    fn an_index_keeps_to_its_limit() {
        let ledger = Ledger::map().unwrap();
        let mut marks = marks(tempfile::tempfile().unwrap(), ledger);
        for n in 0..300_000 {
            marks.begin(Stream::BOTH[n % 2], Moment(1000), true);
            ledger.log_bytes.fetch_add(1, Ordering::SeqCst);
        }
        let found = marks.file.metadata().unwrap();
        assert!(found.len() > 3 << 20 && marks.size == found.len());
        assert!(found.blocks() * 512 < 3 << 19, "{} bytes on disk", found.blocks() * 512);
        assert!(text(&marks.file).ends_with("\n0 1 299998\n0 2 299999\n"));
    }
}
