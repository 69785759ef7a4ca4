//! Listening: bytes as they come, cut into lines, bounded whatever comes.

use super::Harness;
use super::heard::Heard;

/// A line longer than this is passed over: no agent says anything that long in one, and memory is bounded.
pub const LINE_BYTES: usize = 8 << 20;

/// Listens to the standard output of one harness.
#[derive(Clone, Debug)]
pub struct Ear {
    harness: Harness,
    /// What was said so far.
    pub heard: Heard,
    line: Vec<u8>,
    /// The line that is coming is too long.
    passes_over: bool,
}

impl Ear {
    /// An ear for a harness.
    #[must_use]
    pub fn new(harness: Harness) -> Self {
        Self { harness, heard: Heard::default(), line: Vec::new(), passes_over: false }
    }

    /// Takes some bytes, which may end anywhere.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            self.keep(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// Says that some bytes are missing here: the line they were in is not to be believed.
    pub fn gap(&mut self) {
        self.line.clear();
        self.passes_over = true;
    }

    /// Says that no more will come: a last line without a newline counts too.
    pub fn finish(&mut self) {
        if !self.line.is_empty() || self.passes_over {
            self.end_line();
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.line.len() + bytes.len() > LINE_BYTES {
            self.gap();
        }
        if !self.passes_over {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.passes_over) {
            self.heard.lines += 1;
            self.heard.not_understood += 1;
        } else {
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.harness.hear(line.trim_end_matches('\r'), &mut self.heard);
        }
        self.line.clear();
        self.line.shrink_to(64 << 10);
    }
}
