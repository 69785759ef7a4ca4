//! The marks of a log as they are read: a file of lines that grows while it is read, that may be very long, and that
//! may hold anything.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::disk;
use crate::model::stream::Mark;

/// Bytes that are read at a time.
const PIECE: usize = 4096;

/// What comes next in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Mark(Mark),
    /// Marks are missing here: the index was trimmed.
    Missing,
}

/// A reader of an index that goes along the log.
#[derive(Debug)]
pub struct Marks {
    file: File,
    /// What was read and not taken yet begins at `taken`, and there is offset `at` of the index.
    buffer: Vec<u8>,
    taken: usize,
    at: u64,
    /// The mark that holds where the reader is, where that is known.
    current: Option<Mark>,
    next: Option<Entry>,
    /// The last offset that was seen: marks that go back are of a bookend that was killed, and out of date.
    last: u64,
}

impl Marks {
    /// A reader from the index's beginning.
    #[must_use]
    pub fn of(file: File) -> Self {
        Self { file, buffer: Vec::new(), taken: 0, at: 0, current: None, next: None, last: 0 }
    }

    /// A second reader of the same index.
    ///
    /// # Errors
    /// As duplicating a descriptor.
    pub fn another(&self) -> std::io::Result<Self> {
        Ok(Self::of(self.file.try_clone()?))
    }

    /// The mark that holds at an offset of the log, and where the next one begins. None before the first mark, and
    /// where marks are missing. Offsets may only grow from call to call, unless [`Marks::seek`] is between.
    ///
    /// The log must have been read before: what is in it has its mark here.
    pub fn at(&mut self, offset: u64) -> (Option<Mark>, Option<u64>) {
        loop {
            if self.next.is_none() {
                self.next = self.take();
            }
            match self.next {
                Some(Entry::Mark(mark)) if mark.offset <= offset => self.current = Some(mark),
                Some(Entry::Missing) => self.current = None,
                Some(Entry::Mark(mark)) => return (self.current, Some(mark.offset)),
                None => return (self.current, None),
            }
            self.next = None;
        }
    }

    /// Goes to an offset of the log, in few steps whatever the size of the index.
    pub fn seek(&mut self, offset: u64) {
        let line = self.last_line_with(|mark| mark.offset <= offset);
        self.go_to(line);
    }

    /// Offset in the log of the first bytes that came at `ms` after the run's start or later; none where all came before.
    pub fn first_at(&mut self, ms: u64) -> Option<u64> {
        let line = self.last_line_with(|mark| mark.ms < ms);
        self.go_to(line);
        let found = std::iter::from_fn(|| self.take()).find_map(|entry| match entry {
            Entry::Mark(mark) if mark.ms >= ms => Some(mark.offset),
            _ => None,
        });
        self.go_to(0);
        found
    }

    fn go_to(&mut self, line: u64) {
        (self.at, self.last) = (line, 0);
        (self.current, self.next) = (None, None);
        self.buffer.clear();
        self.taken = 0;
    }

    /// Where a line begins whose mark, and those of all lines before it, are as wanted, not far from the last such one.
    fn last_line_with(&mut self, wanted: impl Fn(Mark) -> bool) -> u64 {
        let (mut low, mut high) = (0, self.file.metadata().map_or(0, |found| found.len()));
        while high - low > PIECE as u64 {
            let middle = low + (high - low) / 2;
            match self.line_after(middle, high) {
                Some((line, mark)) if wanted(mark) => low = line,
                _ => high = middle,
            }
        }
        low
    }

    /// The first line with a mark that begins after `from`.
    fn line_after(&mut self, from: u64, end: u64) -> Option<(u64, Mark)> {
        let from = disk::next_data(&self.file, from);
        let mut bytes = [0; PIECE];
        let size = self.file.read_at(&mut bytes, from).ok()?;
        let mut begins = 0;
        for line in bytes[..size].split_inclusive(|&b| b == b'\n') {
            let start = from + begins as u64;
            let mark = Mark::parse(line.strip_suffix(b"\n")?);
            match mark.filter(|_| begins > 0 && start < end) {
                Some(mark) => return Some((start, mark)),
                None => begins += line.len(),
            }
        }
        None
    }

    /// Takes the next entry from the file; none at its end, and where a line is not whole yet.
    fn take(&mut self) -> Option<Entry> {
        let mut missing = false;
        loop {
            let rest = &self.buffer[self.taken..];
            let Some(length) = rest.iter().position(|&b| b == b'\n') else {
                if rest.len() >= Mark::MOST_BYTES {
                    // No line is so long: it is a hole, or no index at all.
                    missing = true;
                    self.skip();
                }
                if self.fill().is_none() {
                    // A hole up to the end: what comes there has no mark that can be read.
                    return missing.then_some(Entry::Missing);
                }
                continue;
            };
            let line = &rest[..length];
            // What stands beside the zeros of a hole is the rest of a line.
            missing |= line.contains(&0);
            let mark = Mark::parse(line).filter(|mark| !missing && mark.offset >= self.last);
            self.taken += length + 1;
            self.at += length as u64 + 1;
            if missing {
                return Some(Entry::Missing);
            }
            if let Some(mark) = mark {
                self.last = mark.offset;
                return Some(Entry::Mark(mark));
            }
        }
    }

    /// Passes over what was read, and the rest of the hole that it is in.
    fn skip(&mut self) {
        self.at += (self.buffer.len() - self.taken) as u64;
        self.buffer.clear();
        self.taken = 0;
        self.at = disk::next_data(&self.file, self.at).max(self.at);
    }

    fn fill(&mut self) -> Option<()> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let mut bytes = [0; PIECE];
        let from = self.at + self.buffer.len() as u64;
        let size = self.file.read_at(&mut bytes, from).ok().filter(|&size| size > 0)?;
        self.buffer.extend_from_slice(&bytes[..size]);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stream::Stream;
    use std::io::Write;

    fn index(text: &[u8]) -> Marks {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        Marks::of(file)
    }

    fn held(marks: &mut Marks, offset: u64) -> (Option<(u64, Stream)>, Option<u64>) {
        let (mark, end) = marks.at(offset);
        (mark.map(|m| (m.ms, m.stream)), end)
    }

    #[test]
    fn the_last_mark_at_an_offset_holds_up_to_the_next() {
        let mut marks = index(b"1 1 0\n5 2 0\n\nnonsense\n9 1 40?\n9 1 30\n7 2 20\n12 2 50\n13 1 6");
        assert_eq!(held(&mut marks, 0), (Some((5, Stream::Err)), Some(30)));
        assert_eq!(held(&mut marks, 29), (Some((5, Stream::Err)), Some(30)));
        assert_eq!(held(&mut marks, 30), (Some((9, Stream::Out)), Some(50)));
        assert_eq!(held(&mut marks, 90), (Some((12, Stream::Err)), None));
        // The line that was being written is whole now.
        (&marks.file).write_all(b"0\n").unwrap();
        assert_eq!(held(&mut marks, 90), (Some((13, Stream::Out)), None));
    }

    #[test]
    fn where_the_index_was_trimmed_nothing_is_known() {
        for zeros in [1, 10, 100, 100_000] {
            let text = [b"1 1 0\n2 2 10\n3 1".as_slice(), &vec![0; zeros], b"0\n8 2 700\n9 1 800\n"].concat();
            let mut marks = index(&text);
            assert_eq!(held(&mut marks, 0), (Some((1, Stream::Out)), Some(10)));
            assert_eq!(held(&mut marks, 10), (None, Some(700)), "{zeros}");
            assert_eq!(held(&mut marks, 700), (Some((8, Stream::Err)), Some(800)));
            marks.seek(300);
            assert_eq!(held(&mut marks, 300), (None, Some(700)), "{zeros}");
            marks.seek(5);
            assert_eq!(held(&mut marks, 5), (Some((1, Stream::Out)), Some(10)), "{zeros}");
        }
    }

    #[test]
    fn a_hole_up_to_the_end_is_passed_over_at_once() {
        let mut marks = index(b"1 1 0\n2 2 10\n");
        marks.file.set_len(64 << 30).unwrap();
        let begun = std::time::Instant::now();
        assert_eq!(held(&mut marks, 20).0, None);
        marks.seek(5);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn seeking_finds_what_going_along_finds() {
        let mark = |n: u64| Mark { ms: n * 100, stream: Stream::BOTH[n as usize % 2], offset: n * n };
        let text: Vec<u8> = (0..20_000).flat_map(|n| format!("{}\n", mark(n)).into_bytes()).collect();
        let mut marks = index(&text);
        for n in [0_u64, 1, 7, 399, 400, 401, 9_999, 19_998] {
            marks.seek(n * n + n);
            assert_eq!(marks.at(n * n + n), (Some(mark(n)), Some((n + 1) * (n + 1))));
            assert_eq!(marks.first_at(n * 100), Some(n * n));
            assert_eq!(marks.first_at(n * 100 + 1), Some((n + 1) * (n + 1)));
        }
        assert_eq!(marks.first_at(0), Some(0));
        assert_eq!(marks.first_at(2_000_000), None);
        assert_eq!(marks.at(0).0, Some(mark(0)));
    }

    #[test]
    fn an_index_of_nonsense_is_no_index() {
        for text in [vec![b'x'; 100_000], vec![b'\n'; 10_000], vec![0; 100_000], Vec::new()] {
            let mut marks = index(&text);
            marks.seek(1 << 40);
            assert_eq!(marks.at(u64::MAX), (None, None));
            assert_eq!(marks.first_at(0), None);
        }
    }
}
