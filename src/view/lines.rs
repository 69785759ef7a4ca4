//! Bytes into lines, whatever pieces they come in.

/// A line is passed on in parts of at most about this many bytes.
pub const MOST_BYTES: usize = 64 * 1024;

/// A line, or a part of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When its first byte came, in milliseconds since the run's start, where that is known.
    pub ms: Option<u64>,
    /// Its text without the newline.
    pub text: Vec<u8>,
    /// Whether it is the beginning of a line.
    pub begins: bool,
    /// Whether it is the end of a line; if not, another part will follow.
    pub ends: bool,
}

/// Makes lines of the bytes of one stream. It keeps at most [`MOST_BYTES`] of a line that has not ended.
#[derive(Debug, Default)]
pub struct Assembler {
    text: Vec<u8>,
    ms: Option<u64>,
    /// Whether a part of the line was passed on already.
    begun: bool,
}

impl Assembler {
    /// Takes bytes that came at `ms`; lines that are whole go to `out`.
    pub fn push(&mut self, bytes: &[u8], ms: Option<u64>, mut out: impl FnMut(Line)) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let (piece, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |piece| (piece, true));
            for part in piece.chunks(MOST_BYTES) {
                if self.text.len() + part.len() > MOST_BYTES {
                    // A character is not cut in two.
                    let rest = self.text.split_off(self.text.len() - unfinished(&self.text));
                    self.pass_on(false, &mut out);
                    self.text = rest;
                }
                self.add(part, ms);
            }
            if ends {
                self.add(b"", ms);
                self.pass_on(true, &mut out);
            }
        }
    }

    /// Passes on a last line that has no newline.
    pub fn finish(&mut self, mut out: impl FnMut(Line)) {
        if self.begun || !self.text.is_empty() {
            self.pass_on(true, &mut out);
        }
    }

    fn add(&mut self, part: &[u8], ms: Option<u64>) {
        if self.text.is_empty() {
            self.ms = ms;
        }
        self.text.extend_from_slice(part);
    }

    fn pass_on(&mut self, ends: bool, out: &mut impl FnMut(Line)) {
        let text = std::mem::take(&mut self.text);
        out(Line { ms: self.ms, text, begins: !self.begun, ends });
        self.begun = !ends;
    }
}

/// How many bytes at the end of a text are the beginning of a character whose end is missing.
pub(super) fn unfinished(text: &[u8]) -> usize {
    let end = &text[text.len().saturating_sub(3)..];
    let cut = |from: usize| matches!(std::str::from_utf8(&end[from..]), Err(e) if e.valid_up_to() == 0 && e.error_len().is_none());
    (0..end.len()).find(|&from| cut(from)).map_or(0, |from| end.len() - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[(&[u8], u64)]) -> Vec<(u64, String, bool, bool)> {
        let (mut found, mut assembler) = (Vec::new(), Assembler::default());
        let mut take = |line: Line| {
            let text = String::from_utf8_lossy(&line.text).into_owned();
            found.push((line.ms.unwrap_or(0), text, line.begins, line.ends));
        };
        for (bytes, ms) in pieces {
            assembler.push(bytes, Some(*ms), &mut take);
        }
        assembler.finish(&mut take);
        found
    }

    #[test]
    fn a_line_is_of_the_time_of_its_first_byte() {
        let found = lines(&[(b"a\nb", 1), (b"c\n", 2), (b"\n", 3), (b"d", 4)]);
        let line = |ms, text: &str| (ms, text.to_owned(), true, true);
        assert_eq!(found, [line(1, "a"), line(1, "bc"), line(3, ""), line(4, "d")]);
    }

    #[test]
    fn a_long_line_comes_in_parts_and_no_character_is_cut() {
        let text = "é".repeat(MOST_BYTES) + "\nx\n";
        let found = lines(&[(&text.as_bytes()[..1], 1), (&text.as_bytes()[1..], 2)]);
        let (last, parts) = found.split_last().expect("lines");
        assert_eq!((last.1.as_str(), last.2, last.3), ("x", true, true));
        assert_eq!(parts.iter().map(|p| p.1.as_str()).collect::<String>(), "é".repeat(MOST_BYTES));
        assert!(parts.len() >= 2 && parts.iter().all(|part| part.1.len() <= MOST_BYTES + 4));
        let flags: Vec<(bool, bool)> = parts.iter().map(|part| (part.2, part.3)).collect();
        assert_eq!((flags[0], flags[flags.len() - 1]), ((true, false), (false, true)));
    }
}
