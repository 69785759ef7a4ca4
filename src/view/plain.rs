//! Text for a terminal: what a program printed, without anything that steers the terminal it is shown on.
//!
//! What stays is printable text, newlines and tabs. What goes: control characters (C0, DEL, C1 in UTF-8 or as raw bytes),
//! escape sequences whole (CSI, OSC, DCS, APC, PM, SOS, ...), and characters that turn the direction of text. Whatever is
//! open ends at the end of its line, so that no program can hide what is printed after. A carriage return that does not
//! end a line begins a new one: of a progress bar every state is seen.

use std::borrow::Cow;

use vte::{Parser, Perform};

use super::lines::unfinished;
use super::quote::is_control;

/// First byte of U+0080 to U+00BF in UTF-8.
const LEAD: u8 = 0xc2;

/// The filter. Wherever its input is split, its output is the same.
#[derive(Default)]
pub struct Plain {
    parser: Parser,
    /// The beginning of a character whose end has not come yet. The parser would keep it too, and lose what comes after.
    held: Vec<u8>,
    page: Page,
}

impl Plain {
    /// Takes more of what was printed, and returns what of it is for the terminal.
    pub fn filter(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.page.text.reserve(bytes.len());
        let joined = [&std::mem::take(&mut self.held), bytes].concat();
        let (whole, held) = joined.split_at(joined.len() - unfinished(&joined));
        self.held.extend_from_slice(held);
        for line in whole.split_inclusive(|&b| b == b'\n') {
            let before = self.page.lines;
            self.parser.advance(&mut self.page, &spell(line));
            if line.ends_with(b"\n") {
                if self.page.lines == before {
                    self.page.execute(b'\n');
                }
                self.parser = Parser::new();
            }
        }
        std::mem::take(&mut self.page.text)
    }
}

/// Spells C1 characters as the escape sequences of two characters that mean the same, which the parser knows.
fn spell(line: &[u8]) -> Cow<'_, [u8]> {
    if !line.contains(&LEAD) {
        return Cow::Borrowed(line);
    }
    let (mut spelt, mut bytes) = (Vec::with_capacity(line.len()), line.iter().copied().peekable());
    while let Some(byte) = bytes.next() {
        match bytes.next_if(|next| byte == LEAD && (0x80..0xa0).contains(next)) {
            Some(code) => spelt.extend([0x1b, code - 0x40]),
            None => spelt.push(byte),
        }
    }
    Cow::Owned(spelt)
}

/// All of a text at once.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let plain = Plain::default().filter(bytes);
    String::from_utf8_lossy(&plain).into_owned()
}

/// What is to be shown, and where its end is in its line.
#[derive(Default)]
struct Page {
    text: Vec<u8>,
    /// Newlines that the parser passed on.
    lines: u64,
    /// Whether something stands in the line already.
    begun: bool,
    /// Whether a carriage return waits for what comes after it.
    returned: bool,
}

impl Page {
    fn newline(&mut self) {
        self.text.push(b'\n');
        self.begun = false;
        self.returned = false;
    }
}

impl Perform for Page {
    fn print(&mut self, c: char) {
        if c != '\t' && is_control(c) {
            return;
        }
        if std::mem::take(&mut self.returned) {
            self.newline();
        }
        self.begun = true;
        self.text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                self.lines += 1;
                self.newline();
            }
            b'\t' => self.print('\t'),
            b'\r' => self.returned |= self.begun,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_steers_a_terminal_goes_and_text_stays() {
        for (printed, shown) in [
            ("a\tb\nc é ✓ 漢\n", "a\tb\nc é ✓ 漢\n"),
            ("\x1b[1;31mred\x1b[0m\n", "red\n"),
            ("\x1b]0;title\x07x\x1b]52;c;ZXZpbA==\x1b\\y\n", "xy\n"),
            ("\x1bPq#0;2\x1b\\a\x1b_apc\x1b\\b\x1b^pm\x1b\\c\x1bXsos\x1b\\d\n", "abcd\n"),
            ("\u{9b}31mred\u{9d}0;title\u{9c}x\u{90}q\u{9c}y\u{85}z\n", "redxyz\n"),
            ("a\x08b\x07c\x00d\x7fe\x0bf\x0cg\u{feff}\n", "abcdefg\u{feff}\n"),
            ("\u{202e}evil\u{2066}x\u{61c}y\u{200f}z\n", "evilxyz\n"),
            ("one\r\ntwo\r\r\n\r\nthree\n", "one\ntwo\n\nthree\n"),
            ("\r 1%\r 50%\r100%\r\n", " 1%\n 50%\n100%\n"),
            ("\r\x1b[K 1%\r\x1b[K 2%\r\x1b[K\n", " 1%\n 2%\n"),
            ("\x1b]0;never ended\nnext\n", "\nnext\n"),
            (
                "\x1b[31\nhello\n\x1bP\nhello\n\x1b_\nhello\n\x1b\nhello\n",
                "\nhello\n\nhello\n\nhello\n\nhello\n",
            ),
            ("a\x1b", "a"),
        ] {
            assert_eq!(text(printed.as_bytes()), shown, "{printed:?}");
        }
        assert_eq!(text(b"a\xff\xfe\xe2\x82\nb\xf0\x9fc\n"), "a\u{fffd}\u{fffd}\u{fffd}\nb\u{fffd}c\n");
        assert_eq!(text(b"raw \x9b31m \x9d0;t\x9c\x80\n"), "raw 31m 0;t\n");
    }

    /// Text that is dense in what matters.
    fn printed() -> impl Strategy<Value = Vec<u8>> {
        let odd: Vec<&[u8]> = vec![
            b"\x1b",
            b"\x1b[",
            b"\x1b]",
            b"\x1bP",
            b"\x1b_",
            b"\x1b\\",
            b"\x07",
            b"\n",
            b"\r",
            b"\t",
            b";",
            b"0",
            b"m",
            b"\xc2",
            b"\x9b",
            b"\x9d",
            b"\x9c",
            b"\xe2\x80\xae",
            b"\xe2",
            b"\x80",
            b"\xf0\x9f\x98\x80",
            b"\x18",
            b"?",
            b"\xc2\x90",
            b"\x7f",
            b"x",
            b" ",
            b"\xff",
            b"\xed\xa0\x80",
            b"\xe2\x81\xa6",
            b"\xd8\x9c",
        ];
        let piece = prop_oneof![
            4 => proptest::sample::select(odd).prop_map(<[u8]>::to_vec),
            1 => proptest::collection::vec(any::<u8>(), 1..4),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn nothing_that_steers_is_left(bytes in printed()) {
            let shown = Plain::default().filter(&bytes);
            let shown = std::str::from_utf8(&shown).expect("valid UTF-8");
            prop_assert!(!shown.chars().any(|c| is_control(c) && c != '\n' && c != '\t'), "{shown:?}");
        }

        #[test]
        fn it_does_not_matter_where_the_input_is_split(bytes in printed(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let (mut plain, mut parts, mut from) = (Plain::default(), Vec::new(), 0);
            for cut in cuts {
                parts.extend(plain.filter(&bytes[from..cut]));
                from = cut;
            }
            prop_assert_eq!(parts, Plain::default().filter(&bytes));
        }

        #[test]
        fn byte_by_byte_is_the_same(bytes in printed()) {
            let mut plain = Plain::default();
            let parts: Vec<u8> = bytes.iter().flat_map(|&byte| plain.filter(&[byte])).collect();
            prop_assert_eq!(parts, Plain::default().filter(&bytes));
        }

        #[test]
        fn plain_text_is_unchanged(words in "[ -~\n\tà-ÿ漢字✓😀]{0,200}") {
            prop_assert_eq!(text(words.as_bytes()), words);
        }

        #[test]
        fn nothing_hides_what_comes_on_later_lines(bytes in printed(), words in "[ -~\tà-ÿ]{1,40}") {
            let shown = text(&[&bytes, b"\n".as_slice(), words.as_bytes(), b"\n"].concat());
            prop_assert!(shown.ends_with(&format!("\n{words}\n")), "{shown:?}");
        }
    }
}
