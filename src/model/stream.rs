//! The two streams of a command, and the marks that say which bytes of its log came from which, and when.

use std::fmt;

/// Which stream of the command bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output, or both where they are one.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    /// Both, in the order of their descriptors.
    pub const BOTH: [Self; 2] = [Self::Out, Self::Err];

    /// The digit that stands for it in the index: its descriptor.
    #[must_use]
    pub fn digit(self) -> u8 {
        match self {
            Self::Out => 1,
            Self::Err => 2,
        }
    }

    /// Its place among [`Stream::BOTH`].
    #[must_use]
    pub fn place(self) -> usize {
        usize::from(self.digit() - 1)
    }

    /// The stream for a digit.
    #[must_use]
    pub fn of_digit(digit: u64) -> Option<Self> {
        match digit {
            1 => Some(Self::Out),
            2 => Some(Self::Err),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

/// One line of the index: from `offset` of the log on, up to the next mark, bytes came from `stream` at `ms`.
///
/// It is written before the bytes that it speaks of. Where several stand at one offset, the last one is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Milliseconds since the run's start on the monotonic clock. Bytes up to [`Mark::STEP_MS`] later may share it.
    pub ms: u64,
    /// The stream.
    pub stream: Stream,
    /// Offset in the log.
    pub offset: u64,
}

impl Mark {
    /// Output of one stream gets a new mark when it comes so much later than the last mark, in milliseconds.
    pub const STEP_MS: u64 = 100;
    /// A line of the index is never longer than this, its newline included.
    pub const MOST_BYTES: usize = 48;

    /// Reads a line of the index without its newline; none for what is no mark.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let mut words = text.split(' ').map(|word| word.parse::<u64>().ok());
        let mut next = || words.next().flatten();
        let (ms, digit, offset) = (next()?, next()?, next()?);
        let stream = Stream::of_digit(digit)?;
        words.next().is_none().then_some(Self { ms, stream, offset })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.ms, self.stream.digit(), self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_are_written() {
        let longest = Mark { ms: u64::MAX, stream: Stream::Err, offset: u64::MAX };
        for mark in [Mark { ms: 7, stream: Stream::Out, offset: 0 }, longest] {
            assert_eq!(Mark::parse(mark.to_string().as_bytes()), Some(mark));
            assert!(mark.to_string().len() < Mark::MOST_BYTES);
        }
        for odd in ["", "1", "1 1", "1 3 5", "1 1 5 7", "1 1 5?", "-1 1 5", "1  1 5", " 1 1 5", "1 1 \u{ff}"]
        {
            assert_eq!(Mark::parse(odd.as_bytes()), None, "{odd:?}");
        }
        assert_eq!(Mark::parse(b"99999999999999999999 1 5"), None);
    }
}
