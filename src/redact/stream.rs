//! Output without its secrets, in whatever pieces it comes.
//!
//! What could be the beginning of a secret is held back until more comes or all is over, so that no split of the output
//! lets one through; every other byte goes on at once and unchanged.

use aho_corasick::{AhoCorasick, MatchKind};

use super::line::is_secret;
use super::{MASK, SHAPES};

/// Values shorter than this are not looked for: `1` and `true` are no secrets.
const LEAST_VALUE: usize = 8;
/// A token longer than this is none.
const LONGEST_TOKEN: usize = 4096;
/// Where a private key begins and ends.
const KEY_BEGIN: &[u8] = b"-----BEGIN ";
const KEY_END: &[u8] = b"-----END ";
/// A private key is hidden up to this length; what comes later is none of it.
const LONGEST_KEY: usize = 64 << 10;

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    values: Vec<Vec<u8>>,
}

impl Secrets {
    /// The values of variables with telling names.
    #[must_use]
    pub fn of_environment<'a>(variables: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut secrets = Self::default();
        for (name, value) in variables {
            if is_secret(name, "a value of any kind") {
                secrets.add(value);
            }
        }
        secrets
    }

    /// Adds a value, and the form it has inside a JSON string.
    pub fn add(&mut self, value: &[u8]) {
        let value = value.trim_ascii();
        if value.len() < LEAST_VALUE || value.len() > LONGEST_KEY {
            return;
        }
        let mut forms = vec![value.to_vec()];
        if let Ok(text) = std::str::from_utf8(value)
            && let Ok(quoted) = serde_json::to_string(text)
        {
            forms.push(quoted.as_bytes()[1..quoted.len() - 1].to_vec());
        }
        for form in forms {
            if !self.values.contains(&form) {
                self.values.push(form);
            }
        }
    }

    /// Whether there is nothing that only this machine knows to be secret.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// Hides secrets in a stream of bytes.
#[derive(Clone, Debug)]
pub struct Redactor {
    finder: AhoCorasick,
    /// What is looked for: values, then beginnings of tokens, then that of a private key.
    patterns: Vec<Vec<u8>>,
    values: usize,
    /// What is held back, unchanged.
    held: Vec<u8>,
    /// Whether the byte before what is held could be part of a word.
    after_word: bool,
    /// Bytes of a private key that were hidden, while its end has not come.
    in_key: Option<usize>,
    /// Secrets that were hidden.
    pub count: u64,
}

/// What a place in the output turned out to be.
enum Found {
    /// A secret of this length.
    Secret(usize),
    /// Nothing.
    Nothing,
    /// More bytes are needed to tell.
    Unclear,
    /// The beginning of a private key.
    Key,
}

impl Redactor {
    /// A redactor for these secrets and for tokens of known shapes.
    ///
    /// # Errors
    /// When there are too many secrets for one search.
    pub fn new(secrets: &Secrets) -> Result<Self, aho_corasick::BuildError> {
        let mut patterns = secrets.values.clone();
        patterns.extend(SHAPES.iter().map(|(start, _)| start.as_bytes().to_vec()));
        patterns.push(KEY_BEGIN.to_vec());
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&patterns)?;
        let values = secrets.values.len();
        Ok(Self { finder, patterns, values, held: Vec::new(), after_word: false, in_key: None, count: 0 })
    }

    /// Takes bytes and appends to `out` all that can go on.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.go_on(bytes, false, out);
    }

    /// Says that no more will come: what is held back goes on as it is, unless it is a secret as it stands.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.go_on(&[], true, out);
    }

    /// Bytes that are held back now.
    #[must_use]
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    fn go_on(&mut self, bytes: &[u8], last: bool, out: &mut Vec<u8>) {
        let mut whole = std::mem::take(&mut self.held);
        whole.extend_from_slice(bytes);
        let mut done = 0;
        while done < whole.len() {
            let rest = &whole[done..];
            if self.in_key.is_some() {
                let (hidden, ended) = self.hide_key(rest, last);
                done += hidden;
                if !ended {
                    break;
                }
                continue;
            }
            let from = done;
            let Some(found) = self.finder.find(rest) else {
                let held = if last { 0 } else { self.open_end(rest) };
                self.pass(&rest[..rest.len() - held], out);
                done = whole.len() - held;
                break;
            };
            self.pass(&rest[..found.start()], out);
            done += found.start();
            match self.what_is(&whole[done..], found.pattern().as_usize(), last) {
                Found::Secret(length) => {
                    out.extend_from_slice(MASK.as_bytes());
                    self.count += 1;
                    self.after_word = true;
                    done += length;
                }
                Found::Key => {
                    out.extend_from_slice(MASK.as_bytes());
                    self.count += 1;
                    self.in_key = Some(0);
                }
                Found::Nothing => {
                    self.pass(&whole[done..=done], out);
                    done += 1;
                }
                Found::Unclear => break,
            }
            debug_assert!(done >= from);
        }
        self.held = whole.split_off(done);
    }

    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if let Some(&last) = bytes.last() {
            self.after_word = last.is_ascii_alphanumeric();
            out.extend_from_slice(bytes);
        }
    }

    /// What begins here, where a pattern was found.
    fn what_is(&self, rest: &[u8], pattern: usize, last: bool) -> Found {
        if pattern < self.values {
            // A longer value may begin in the same way.
            let longer =
                self.patterns[..self.values].iter().any(|p| p.len() > rest.len() && p.starts_with(rest));
            return if longer && !last {
                Found::Unclear
            } else {
                Found::Secret(self.patterns[pattern].len())
            };
        }
        let is_value_too =
            || self.patterns[..self.values].iter().any(|p| p.len() > rest.len() && p.starts_with(rest));
        if !last && is_value_too() {
            return Found::Unclear;
        }
        if pattern + 1 == self.patterns.len() {
            return key_begins(rest, last);
        }
        if self.after_word {
            return Found::Nothing;
        }
        let is_part = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
        let length = rest.iter().take_while(|b| is_part(b)).count();
        if length == rest.len() && !last && length < LONGEST_TOKEN {
            return Found::Unclear;
        }
        let token = &rest[..length];
        let least = SHAPES[pattern - self.values].1;
        let varied = token.iter().any(u8::is_ascii_digit) || length >= 40;
        if length >= least && length < LONGEST_TOKEN && varied {
            Found::Secret(length)
        } else {
            Found::Nothing
        }
    }

    /// How many bytes at the end could be the beginning of something that is looked for.
    fn open_end(&self, rest: &[u8]) -> usize {
        let open = |pattern: &Vec<u8>| {
            let longest = (pattern.len() - 1).min(rest.len());
            (1..=longest).rev().find(|&n| rest.ends_with(&pattern[..n]))
        };
        self.patterns.iter().filter_map(open).max().unwrap_or(0)
    }

    /// Hides more of a private key; how many bytes, and whether it has ended.
    fn hide_key(&mut self, rest: &[u8], last: bool) -> (usize, bool) {
        let hidden = self.in_key.unwrap_or(0);
        let most = LONGEST_KEY.saturating_sub(hidden).min(rest.len());
        if let Some(at) = find(&rest[..most], KEY_END) {
            let line = &rest[at + KEY_END.len()..];
            // The line of the end ends with five dashes, or with the line.
            if let Some(end) = find(line, b"-----") {
                self.in_key = None;
                return (at + KEY_END.len() + end + 5, true);
            }
            if line.len() < 80 && !last {
                self.in_key = Some(hidden + at);
                return (at, false);
            }
        }
        if hidden + most >= LONGEST_KEY {
            self.in_key = None;
            return (most, true);
        }
        let keep = if last { 0 } else { (KEY_END.len() - 1).min(most) };
        self.in_key = Some(hidden + most - keep);
        (most - keep, false)
    }
}

/// Whether `-----BEGIN ... PRIVATE KEY-----` stands here.
fn key_begins(rest: &[u8], last: bool) -> Found {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    let line = &rest[..rest.len().min(80)];
    let end = line.iter().position(|&b| b == b'\n').unwrap_or(line.len());
    match find(&line[..end], MARK) {
        Some(_) => Found::Key,
        None if end == rest.len() && rest.len() < 80 && !last => Found::Unclear,
        None => Found::Nothing,
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redactor(values: &[&str]) -> Redactor {
        let mut secrets = Secrets::default();
        for value in values {
            secrets.add(value.as_bytes());
        }
        Redactor::new(&secrets).unwrap()
    }

    fn whole(values: &[&str], bytes: &[u8]) -> (Vec<u8>, u64) {
        let (mut redactor, mut out) = (redactor(values), Vec::new());
        redactor.feed(bytes, &mut out);
        redactor.finish(&mut out);
        (out, redactor.count)
    }

    fn text(values: &[&str], input: &str) -> String {
        String::from_utf8(whole(values, input.as_bytes()).0).unwrap()
    }

    #[test]
    fn hides_values_tokens_and_keys() {
        let values = ["hunter2hunter2", "hunter2hunter2-longer", "quo\"ted\nvalue"];
        assert_eq!(text(&values, "a hunter2hunter2 b"), "a [redacted] b");
        assert_eq!(text(&values, "hunter2hunter2-longer!"), "[redacted]!");
        assert_eq!(text(&values, r#"{"x":"quo\"ted\nvalue"}"#), r#"{"x":"[redacted]"}"#);
        assert_eq!(text(&[], "key=ghp_0123456789abcdefghij0123 ok"), "key=[redacted] ok");
        assert_eq!(
            text(&[], "task-list sk- ask-me-anything-please-1"),
            "task-list sk- ask-me-anything-please-1"
        );
        let key = "x -----BEGIN RSA PRIVATE KEY-----\nabc\ndef\n-----END RSA PRIVATE KEY-----\ny";
        assert_eq!(text(&[], key), "x [redacted]\ny");
        assert_eq!(text(&[], "-----BEGIN CERTIFICATE-----\nabc"), "-----BEGIN CERTIFICATE-----\nabc");
        assert_eq!(text(&["short"], "short"), "short");
    }

    #[test]
    fn the_environment_tells_by_its_names() {
        let variables: [(&str, &[u8]); 4] = [
            ("API_TOKEN", b"value-of-the-token"),
            ("HOME", b"/home/somebody"),
            ("DB_PASSWORD", b"x"),
            ("TOKEN_FILE", b"/run/token-file"),
        ];
        let mut redactor = Redactor::new(&Secrets::of_environment(variables.into_iter())).unwrap();
        let mut out = Vec::new();
        redactor.feed(b"value-of-the-token x /home/somebody /run/token-file\n", &mut out);
        assert_eq!(out, b"[redacted] x /home/somebody /run/token-file\n");
    }

    #[test]
    fn what_is_no_beginning_goes_on_at_once() {
        let mut redactor = redactor(&["hunter2hunter2"]);
        let mut out = Vec::new();
        redactor.feed(b"Continue? [y/n] ", &mut out);
        assert_eq!(out, b"Continue? [y/n] ");
        redactor.feed(b"hunter2", &mut out);
        assert_eq!(redactor.held(), b"hunter2");
        redactor.feed(b"!", &mut out);
        assert_eq!(out, b"Continue? [y/n] hunter2!");
    }

    const VALUES: [&str; 4] = ["aaaaaaaab", "aaaaaaaa", "abababab", "ghp_abab1abab"];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn splits_do_not_matter(
            parts in prop::collection::vec(prop_oneof![
                "[ab\n ]{0,12}", Just("aaaaaaaab".to_owned()), Just("abababab".to_owned()), Just("ghp_".to_owned()),
                "ghp_[a-z0-9]{0,30}", Just("-----BEGIN PRIVATE KEY-----\n".to_owned()),
                Just("-----END PRIVATE KEY-----\n".to_owned())
            ], 0..12),
            cuts in prop::collection::vec(0..30_usize, 0..12),
        ) {
            let input = parts.concat().into_bytes();
            let (expected, count) = whole(&VALUES, &input);
            let (mut redactor, mut out) = (redactor(&VALUES), Vec::new());
            let mut rest = &input[..];
            for cut in cuts {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                redactor.feed(piece, &mut out);
                rest = more;
            }
            redactor.feed(rest, &mut out);
            redactor.finish(&mut out);
            prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
            prop_assert_eq!(redactor.count, count);
            let clean = String::from_utf8_lossy(&out).into_owned();
            for value in VALUES {
                prop_assert!(!clean.contains(value), "{value} in {clean}");
            }
        }

        #[test]
        fn other_bytes_are_unchanged(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let (out, count) = whole(&["a-secret-value"], &bytes);
            prop_assert_eq!((out, count), (bytes, 0));
        }
    }
}
