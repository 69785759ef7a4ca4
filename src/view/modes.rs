//! Which modes a program has switched on in the terminal it prints to, so that whoever leaves it midway can switch
//! them off, and whoever comes midway can switch them on.

use std::collections::BTreeSet;

/// Private modes that a terminal has switched on in the beginning: the cursor is shown, long lines wrap.
const USUAL: [u16; 2] = [7, 25];
/// Private modes that matter to who types and looks: cursor keys, wrapping, the cursor, mouse reports, the other
/// screen, focus reports, bracketed paste.
const KNOWN: [u16; 16] =
    [1, 7, 25, 47, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1048, 1049, 2004];
/// A longer sequence is none of these.
const LONGEST: usize = 64;

/// Where in a control sequence the reading is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    Text,
    Escape,
    Sequence(Vec<u8>),
}

/// The modes of a terminal as far as they are not the usual ones.
#[derive(Clone, Debug, Default)]
pub struct Modes {
    /// Those that are not as they usually are.
    changed: BTreeSet<u16>,
    keypad: bool,
    coloured: bool,
    reading: Reading,
}

impl Modes {
    /// Takes in what is printed, in pieces of any size.
    pub fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.reading = match (std::mem::take(&mut self.reading), byte) {
                (_, 0x1b) => Reading::Escape,
                (Reading::Text, _) => Reading::Text,
                (Reading::Escape, b'[') => Reading::Sequence(Vec::new()),
                (Reading::Escape, _) => self.escape(byte),
                (Reading::Sequence(text), 0x40..=0x7e) => self.sequence(&text, byte),
                (Reading::Sequence(mut text), _) if text.len() < LONGEST => {
                    text.push(byte);
                    Reading::Sequence(text)
                }
                (Reading::Sequence(_), _) => Reading::Text,
            };
        }
    }

    fn escape(&mut self, byte: u8) -> Reading {
        match byte {
            b'=' => self.keypad = true,
            b'>' => self.keypad = false,
            b'c' => *self = Self::default(),
            _ => {}
        }
        Reading::Text
    }

    fn sequence(&mut self, text: &[u8], last: u8) -> Reading {
        let numbers = |text: &[u8]| -> Vec<u16> {
            let part = |part: &[u8]| std::str::from_utf8(part).ok()?.parse().ok();
            text.split(|&b| b == b';').filter_map(part).collect()
        };
        match (text.split_first(), last) {
            (Some((b'?', modes)), b'h' | b'l') => {
                for mode in numbers(modes).into_iter().filter(|mode| KNOWN.contains(mode)) {
                    if (last == b'h') == USUAL.contains(&mode) {
                        self.changed.remove(&mode);
                    } else {
                        self.changed.insert(mode);
                    }
                }
            }
            (_, b'm') => self.coloured = !numbers(text).is_empty() && numbers(text) != [0],
            _ => {}
        }
        Reading::Text
    }

    /// What switches the same modes on in another terminal.
    #[must_use]
    pub fn enter(&self) -> String {
        let keypad = if self.keypad { "\x1b=" } else { "" };
        let mode = |mode: &u16| format!("\x1b[?{mode}{}", if USUAL.contains(mode) { 'l' } else { 'h' });
        self.changed.iter().map(mode).collect::<String>() + keypad
    }

    /// What makes the terminal usual again.
    #[must_use]
    pub fn leave(&self) -> String {
        let keypad = if self.keypad { "\x1b>" } else { "" };
        let colour = if self.coloured { "\x1b[m" } else { "" };
        let mode = |mode: &u16| format!("\x1b[?{mode}{}", if USUAL.contains(mode) { 'h' } else { 'l' });
        // The other screen is left last, so that what else there was to change is changed where it was.
        colour.to_owned() + keypad + &self.changed.iter().rev().map(mode).collect::<String>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str) -> Modes {
        let mut modes = Modes::default();
        // In the smallest pieces there are.
        text.as_bytes().iter().for_each(|byte| modes.read(&[*byte]));
        modes
    }

    #[test]
    fn what_was_switched_on_is_switched_off() {
        let vim = after("\x1b[?1049h\x1b[?1h\x1b=\x1b[?2004;25lA\x1b[?2004h\x1b[31mtext");
        assert_eq!(vim.enter(), "\x1b[?1h\x1b[?25l\x1b[?1049h\x1b[?2004h\x1b=");
        assert_eq!(vim.leave(), "\x1b[m\x1b>\x1b[?2004l\x1b[?1049l\x1b[?25h\x1b[?1l");
        let over = after("\x1b[?1049h\x1b[?25l\x1b[31m\x1b[?25h\x1b[?1049l\x1b[0m");
        assert_eq!((over.enter(), over.leave()), (String::new(), String::new()));
        assert_eq!(after("\x1b[?1049h\x1bc").leave(), "", "a reset");
    }

    #[test]
    fn other_text_changes_nothing() {
        for text in
            ["plain [?1049h", "\x1b[1049h", "\x1b]0;[?25l\x07", "\x1b[2J\x1b[H", "\x1b[?9999h", "\x1b"]
        {
            assert_eq!(after(text).leave(), "", "{text:?}");
        }
        let long = format!("\x1b[?{}h", "1;".repeat(100));
        assert_eq!(after(&long).leave(), "");
    }
}
