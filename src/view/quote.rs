//! Command lines and other people's text, made safe to print and to paste.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// An argument as a POSIX shell would need it, control characters made visible.
#[must_use]
pub fn argument(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) {
        return arg.to_owned();
    }
    if arg.chars().any(is_control) {
        let escaped: String = arg
            .chars()
            .map(|c| match c {
                '\'' | '\\' => format!("\\{c}"),
                '\n' => "\\n".to_owned(),
                '\t' => "\\t".to_owned(),
                c if is_control(c) && (c as u32) < 0x100 => format!("\\x{:02x}", c as u32),
                c if is_control(c) => format!("\\u{:04x}", c as u32),
                c => c.to_string(),
            })
            .collect();
        return format!("$'{escaped}'");
    }
    format!("'{}'", arg.replace('\'', "'\\''"))
}

/// A whole command line.
#[must_use]
pub fn command(argv: &[String]) -> String {
    argv.iter().map(|arg| argument(arg)).collect::<Vec<_>>().join(" ")
}

/// Whether a character steers a terminal or the direction of text instead of showing something.
#[must_use]
pub fn is_control(c: char) -> bool {
    let is_bidi =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks_lines = matches!(c, '\u{2028}' | '\u{2029}');
    c.is_control() || is_bidi || breaks_lines
}

/// Text with every control character but newline and tab made visible.
#[must_use]
pub fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c.to_string(),
            c if is_control(c) => format!("<{:02x}>", c as u32),
            c => c.to_string(),
        })
        .collect()
}

/// Text on one line: newlines and tabs are made visible too.
#[must_use]
pub fn visible_line(text: &str) -> String {
    visible(&text.replace('\n', "\\n").replace('\t', "\\t"))
}

/// A JSON document without the control characters that JSON lets stand as they are; it says the same.
#[must_use]
pub fn json(document: &str) -> String {
    let escaped =
        |c: char| if c != '\n' && is_control(c) { format!("\\u{:04x}", c as u32) } else { c.to_string() };
    let steers = document.chars().any(|c| c != '\n' && is_control(c));
    if steers { document.chars().map(escaped).collect() } else { document.to_owned() }
}

/// Text cut to `width` columns of a terminal.
#[must_use]
pub fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(1);
    let fits = |c: &char| {
        let needs = c.width().unwrap_or(0);
        let enough = needs <= room;
        room -= needs.min(room);
        enough
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_a_shell_would_read_otherwise() {
        assert_eq!(argument("a-b/c.d"), "a-b/c.d");
        assert_eq!(argument(""), "''");
        assert_eq!(argument("a b"), "'a b'");
        assert_eq!(argument("it's"), r"'it'\''s'");
        assert_eq!(argument("\x1b[31m"), r"$'\x1b[31m'");
        assert_eq!(visible("a\x1b]52;c\x07\u{202e}\n"), "a<1b>]52;c<07><202e>\n");
        assert_eq!(visible_line("a\nb\tc"), "a\\nb\\tc");
        assert_eq!(json("{\"a\":\"\u{9b}\u{202e}é\"}\n"), "{\"a\":\"\\u009b\\u202eé\"}\n");
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(shortened("日本語", 4), "日…");
    }
}
