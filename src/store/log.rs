//! The log of a run as it is read: a file that may be large, that grows while it is read, whose middle may be missing,
//! and that its command may cut.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::marks::Marks;
use super::run_dir::{INDEX, LOG};
use crate::disk;
use crate::model::plan::Capture;
use crate::model::record::{Gap, Record};
use crate::model::stream::Stream;
use crate::process::pump;

/// Bytes that are read at a time.
const BLOCK: u64 = 64 * 1024;

/// What a reader meets next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Output.
    Bytes(Piece<'a>),
    /// So many bytes were dropped here to keep the log's limit, the rest of a line that was cut included: what follows
    /// begins with a whole line.
    Gap(u64),
    /// The log was made shorter than what was read of it already; what follows is from its beginning.
    Cut,
    /// There is no more now.
    End,
}

/// Bytes that came from one stream at one time.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Their stream, where that is known.
    pub stream: Option<Stream>,
    /// Milliseconds since the run's start, where they are known; see [`crate::model::stream::Mark::ms`].
    pub ms: Option<u64>,
}

/// What says where the gap is.
#[derive(Debug)]
enum Dropped {
    /// The final record.
    Told(Option<Gap>),
    /// The file itself, while the run lives.
    Found,
}

/// A reader of one run's log. It needs the same memory whatever the size of the log, its index and its lines.
#[derive(Debug)]
pub struct Log {
    file: File,
    marks: Option<Marks>,
    limit: u64,
    gap: Dropped,
    /// What was read and not passed on yet begins at `taken`, and there is `offset` of the log.
    block: Vec<u8>,
    taken: usize,
    offset: u64,
}

impl Log {
    /// Opens the log in a run's directory; `record` is what is known of the run.
    ///
    /// # Errors
    /// As [`disk::open_at`]: `NotFound` when the log was removed.
    pub fn open(dir: &OwnedFd, record: Option<&Record>) -> io::Result<Self> {
        let file = disk::open_at(dir, LOG)?;
        let has_index = record.is_none_or(|record| record.log.capture != Capture::File);
        let index = has_index.then(|| disk::open_at(dir, INDEX).ok()).flatten();
        let marks = index.map(Marks::of);
        let (block, taken, offset) = (Vec::new(), 0, 0);
        let mut log = Self { file, marks, limit: u64::MAX, gap: Dropped::Found, block, taken, offset };
        if let Some(record) = record {
            log.learn(record);
        }
        Ok(log)
    }

    /// Takes in what is known of the run now.
    pub fn learn(&mut self, record: &Record) {
        self.limit = record.plan.log_max_bytes;
        self.gap = if record.status.is_terminal() { Dropped::Told(record.log.gap) } else { Dropped::Found };
    }

    /// Whether it is known when bytes came.
    #[must_use]
    pub fn has_times(&self) -> bool {
        self.marks.is_some()
    }

    /// Size of the log, its gap included.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |found| found.len())
    }

    /// Whether the log has no name any more.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|found| found.nlink() == 0)
    }

    /// Offset of the first bytes that came at `ms` after the run's start or later: the end where there are none yet, and
    /// the beginning where no times are known.
    pub fn since(&mut self, ms: u64) -> u64 {
        let size = self.size();
        self.marks.as_mut().map_or(0, |marks| marks.first_at(ms).unwrap_or(size))
    }

    /// Goes on from `offset`.
    pub fn seek(&mut self, offset: u64) {
        self.offset = offset;
        self.block.clear();
        self.taken = 0;
        if let Some(marks) = &mut self.marks {
            marks.seek(offset);
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// As pread(2).
    pub fn step(&mut self) -> io::Result<Step<'_>> {
        if self.taken == self.block.len()
            && let Some(step) = self.fill()?
        {
            return Ok(step);
        }
        let (mark, end) = match &mut self.marks {
            Some(marks) => marks.at(self.offset),
            None => (None, None),
        };
        let left = self.block.len() - self.taken;
        let up_to = end.and_then(|end| usize::try_from(end - self.offset).ok()).unwrap_or(left);
        let start = self.taken;
        self.taken += left.min(up_to);
        self.offset += left.min(up_to) as u64;
        let bytes = &self.block[start..self.taken];
        Ok(Step::Bytes(Piece { bytes, stream: mark.map(|m| m.stream), ms: mark.map(|m| m.ms) }))
    }

    /// Reads the next block, unless there is something else to say.
    fn fill(&mut self) -> io::Result<Option<Step<'static>>> {
        loop {
            let hole = self.hole();
            let wanted = match hole {
                Some((from, to)) if (from..to).contains(&self.offset) => {
                    let whole = self.whole_line(to);
                    let gap = whole - self.offset;
                    self.seek(whole);
                    return Ok(Some(Step::Gap(gap)));
                }
                Some((from, _)) if self.offset < from => BLOCK.min(from - self.offset),
                _ => BLOCK,
            };
            self.block.resize(usize::try_from(wanted).unwrap_or(0), 0);
            self.taken = 0;
            let read = self.file.read_at(&mut self.block, self.offset);
            self.block.truncate(*read.as_ref().unwrap_or(&0));
            let read = read? as u64;
            if read == 0 {
                let cut = self.size() < self.offset;
                if cut {
                    self.seek(0);
                }
                return Ok(Some(if cut { Step::Cut } else { Step::End }));
            }
            // What was dropped while it was read is not taken for output.
            let end = self.offset + read;
            if self.hole() == hole || !self.hole().is_some_and(|(from, to)| from < end && to > self.offset) {
                return Ok(None);
            }
        }
    }

    /// Where the first whole line begins behind a gap that ends at `to`. What stands before it is the rest of a line of
    /// the stream that is there; where that has no end nearby, what there is of it is worth more than nothing.
    fn whole_line(&mut self, to: u64) -> u64 {
        let mut block = vec![0; usize::try_from(BLOCK).unwrap_or(0)];
        let read = self.file.read_at(&mut block, to).unwrap_or(0);
        let mut end = to + read as u64;
        if let Some(marks) = &mut self.marks {
            marks.seek(to);
            let (first, mut next) = marks.at(to);
            // Marks of the same stream only tell that time went by.
            while let Some(at) = next.filter(|&at| at < end) {
                let (mark, after) = marks.at(at);
                if mark.map(|mark| mark.stream) != first.map(|mark| mark.stream) {
                    end = at;
                }
                next = after;
            }
        }
        let rest = &block[..usize::try_from(end - to).unwrap_or(0)];
        rest.iter().position(|&b| b == b'\n').map_or(to, |at| to + at as u64 + 1)
    }

    /// Beginning and end of what was dropped.
    fn hole(&self) -> Option<(u64, u64)> {
        match self.gap {
            Dropped::Told(gap) => gap.map(|gap| (gap.offset, gap.offset.saturating_add(gap.bytes))),
            Dropped::Found => hole(&self.file, self.limit),
        }
    }

    /// Where the last `lines` lines of one stream (or of the log) begin between two offsets. It reads backwards.
    ///
    /// # Errors
    /// As pread(2).
    pub fn last_lines(&self, lines: u64, only: Option<Stream>, (from, to): (u64, u64)) -> io::Result<u64> {
        if lines == 0 {
            return Ok(to);
        }
        let mut marks = self.marks.as_ref().map(Marks::another).transpose()?;
        let (mut high, mut left, mut block) = (to, lines, Vec::new());
        // A newline at the very end ends the last line and begins none.
        let mut at_end = true;
        while high > from {
            let mut low = high.saturating_sub(BLOCK).max(from);
            if let Some((begin, end)) = self.hole() {
                if (begin + 1..=end).contains(&high) {
                    // The line that is cut behind the gap is not printed, and a newline before it begins none.
                    (high, at_end) = (begin, true);
                    continue;
                }
                low = if high > end { low.max(end) } else { low };
            }
            block.resize(usize::try_from(high - low).unwrap_or(0), 0);
            let read = self.file.read_at(&mut block, low)?;
            block.truncate(read);
            let parts = parts(marks.as_mut(), low, read as u64, only);
            for at in parts.into_iter().rev().flat_map(std::ops::Range::rev) {
                let newline = block[at] == b'\n';
                left -= u64::from(newline && !at_end);
                at_end = false;
                if left == 0 {
                    return Ok(low + at as u64 + 1);
                }
            }
            high = low;
        }
        Ok(from)
    }
}

/// The stretches of a block that came from one stream, in order.
fn parts(
    marks: Option<&mut Marks>,
    from: u64,
    bytes: u64,
    only: Option<Stream>,
) -> Vec<std::ops::Range<usize>> {
    let place = |offset: u64| usize::try_from(offset - from).unwrap_or(usize::MAX);
    let (Some(marks), Some(_)) = (marks, only) else {
        return std::iter::once(0..place(from + bytes)).collect();
    };
    let (mut parts, mut at) = (Vec::new(), from);
    marks.seek(from);
    while at < from + bytes {
        let (mark, end) = marks.at(at);
        let end = end.unwrap_or(u64::MAX).min(from + bytes);
        if mark.map_or(Some(Stream::Out), |mark| Some(mark.stream)) == only {
            parts.push(place(at)..place(end));
        }
        at = end;
    }
    parts
}

/// Beginning and end of what was dropped from the middle of a log, by the file itself.
#[must_use]
pub fn hole(log: &File, limit: u64) -> Option<(u64, u64)> {
    let size = log.metadata().map_or(0, |found| found.len());
    let head = pump::head_bytes(limit);
    if size <= limit || head >= size {
        return None;
    }
    let end = disk::next_data(log, head);
    (end > head).then_some((head, end.min(size)))
}

/// The last `lines` lines of a log, at most so many bytes of it, as they are. A line that is cut is left out unless it
/// is the only one.
#[must_use]
pub fn tail(log: &File, lines: usize, most_bytes: u64) -> Vec<u8> {
    let size = log.metadata().map_or(0, |found| found.len());
    let from = size.saturating_sub(most_bytes);
    let mut bytes = vec![0; usize::try_from(size - from).unwrap_or(0)];
    let read = log.read_at(&mut bytes, from).unwrap_or(0);
    bytes.truncate(read);
    let ends = bytes.iter().rev().skip(1).enumerate().filter(|(_, b)| **b == b'\n').map(|(n, _)| n + 1);
    let cut = from > 0;
    let ends: Vec<usize> = ends.take(lines).collect();
    let kept = match ends.last() {
        None if lines == 0 => 0,
        Some(&last) if ends.len() == lines || cut => last,
        _ => bytes.len(),
    };
    bytes.split_off(bytes.len() - kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(text: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file
    }

    fn log(text: &[u8], index: &[u8]) -> Log {
        let marks = (!index.is_empty()).then(|| Marks::of(file(index)));
        let (block, taken, offset) = (Vec::new(), 0, 0);
        Log { file: file(text), marks, limit: u64::MAX, gap: Dropped::Found, block, taken, offset }
    }

    #[test]
    fn pieces_are_of_one_stream_and_one_time() {
        let mut log = log(b"onetwoerrors", b"5 1 0\n200 1 3\n210 2 6\n");
        let mut pieces = Vec::new();
        while let Step::Bytes(piece) = log.step().unwrap() {
            pieces.push((String::from_utf8_lossy(piece.bytes).into_owned(), piece.stream, piece.ms));
        }
        let piece = |text: &str, stream, ms| (text.to_owned(), Some(stream), Some(ms));
        let (out, err) = (Stream::Out, Stream::Err);
        assert_eq!(pieces, [piece("one", out, 5), piece("two", out, 200), piece("errors", err, 210)]);
        assert_eq!((log.since(0), log.since(6), log.since(210), log.since(211)), (0, 3, 6, 12));
        // What comes later is of the last mark, until there is another.
        (&log.file).write_all(b"!").unwrap();
        assert!(matches!(log.step().unwrap(), Step::Bytes(Piece { bytes: b"!", ms: Some(210), .. })));
        log.file.set_len(2).unwrap();
        assert_eq!(log.step().unwrap(), Step::Cut);
        assert!(matches!(log.step().unwrap(), Step::Bytes(Piece { bytes: b"on", ms: Some(5), .. })));
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let at = |text: &[u8], lines| log(text, b"").last_lines(lines, None, (0, text.len() as u64)).unwrap();
        assert_eq!([at(b"", 3), at(b"a", 1), at(b"a\n", 1), at(b"\n", 1)], [0; 4]);
        assert_eq!([at(b"a\nb\nc", 1), at(b"a\nb\nc\n", 1), at(b"a\nb\nc\n", 2)], [4, 4, 2]);
        assert_eq!(
            [at(b"a\nb\nc\n", 3), at(b"a\nb\nc\n", 99), at(b"a\nb\n\n", 1), at(b"a\n", 0)],
            [0, 0, 4, 2]
        );
        let long = [vec![b'x'; 200_000], b"\ny\n".to_vec(), vec![b'z'; 200_000]].concat();
        assert_eq!([at(&long, 1), at(&long, 2), at(&long, 3)], [200_003, 200_001, 0]);
    }

    #[test]
    fn the_last_lines_of_one_stream_are_counted_in_it_alone() {
        let (mut text, mut index) = (String::new(), String::new());
        for n in 0..10_000 {
            index += &format!("{n} {} {}\n", n % 2 + 1, text.len());
            text += &format!("{} {n}\n", Stream::BOTH[n % 2].word());
        }
        let log = log(text.as_bytes(), index.as_bytes());
        let start = |lines, only| {
            let from = log.last_lines(lines, only, (0, text.len() as u64)).unwrap();
            let wanted = |line: &&str| only.is_none_or(|stream: Stream| line.starts_with(stream.word()));
            text[from as usize..].lines().find(wanted).unwrap_or_default().to_owned()
        };
        assert_eq!(start(1, Some(Stream::Out)), "stdout 9998");
        assert_eq!(start(3, Some(Stream::Err)), "stderr 9995");
        assert_eq!(start(4000, Some(Stream::Out)), "stdout 2000");
        assert_eq!(start(3, None), "stderr 9997");
        assert_eq!(start(90_000, Some(Stream::Out)), "stdout 0");
    }

    #[test]
    fn a_gap_is_told_and_not_counted() {
        let text = [b"head\n".as_slice(), &[0; 1000], b"a\nb\n"].concat();
        let mut log = log(&text, b"");
        log.gap = Dropped::Told(Some(Gap { offset: 5, bytes: 1000 }));
        let end = text.len() as u64;
        assert_eq!(log.last_lines(1, None, (0, end)).unwrap(), 1007);
        // The first line after a gap may have lost its beginning, so it is part of what is missing.
        assert_eq!(log.last_lines(2, None, (0, end)).unwrap(), 0);
        assert!(matches!(log.step().unwrap(), Step::Bytes(Piece { bytes: b"head\n", .. })));
        assert_eq!(log.step().unwrap(), Step::Gap(1002));
        assert!(matches!(log.step().unwrap(), Step::Bytes(Piece { bytes: b"b\n", .. })));
        assert_eq!(log.step().unwrap(), Step::End);
    }

    #[test]
    fn a_cut_line_behind_a_gap_ends_with_its_stream() {
        let text = [b"he".as_slice(), &[0; 1000], b"d of a linewhole\nx\n"].concat();
        let after = |index: &[u8]| {
            let mut log = log(&text, index);
            log.gap = Dropped::Told(Some(Gap { offset: 2, bytes: 1000 }));
            assert!(matches!(log.step().unwrap(), Step::Bytes(Piece { bytes: b"he", .. })));
            let Step::Gap(bytes) = log.step().unwrap() else { panic!("no gap") };
            bytes
        };
        assert_eq!(after(b""), 1017);
        // Marks of the same stream only tell the time; another stream begins a line of its own.
        assert_eq!(after(b"0 1 0\n9 1 1013\n"), 1017);
        assert_eq!(after(b"0 1 0\n9 2 1013\n"), 1000);
    }

    #[test]
    fn a_tail_is_of_whole_lines() {
        let file = file(b"one\ntwo\nthree\n");
        let of = |lines, bytes| String::from_utf8(tail(&file, lines, bytes)).unwrap();
        assert_eq!(
            [of(2, 100), of(9, 100), of(9, 12), of(9, 4)],
            ["two\nthree\n", "one\ntwo\nthree\n", "two\nthree\n", "ree\n"]
        );
        assert_eq!([of(1, 100), of(0, 100)], ["three\n", ""]);
    }
}
