//! The keys that leave a run without ending it.

/// Keys in the order in which they are pressed; none: nothing leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// As they are typed, for people.
    pub name: String,
}

impl DetachKeys {
    /// Reads keys as docker writes them: single characters and `ctrl-X`, with commas between.
    ///
    /// # Errors
    /// What is wrong, and how they are written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(',').collect() };
        let keys: Option<Vec<u8>> = words.iter().map(|word| key(word)).collect();
        let keys =
            keys.ok_or("write single characters and ctrl-X, with commas between, e.g. ctrl-p,ctrl-q")?;
        Ok(Self { keys, name: words.join(" ") })
    }

    /// Whether any keys leave.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.keys.is_empty()
    }
}

fn key(word: &str) -> Option<u8> {
    if let Some(letter) = word.to_ascii_lowercase().strip_prefix("ctrl-") {
        return match letter.as_bytes() {
            [c @ (b'a'..=b'z' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(c & 0x1f),
            [b'@'] => Some(0),
            _ => None,
        };
    }
    match word.as_bytes() {
        [c @ 0x20..=0x7e] => Some(*c),
        _ => None,
    }
}

/// Finds the keys among others that are typed.
#[derive(Debug)]
pub struct Finder {
    wanted: DetachKeys,
    /// How many of them were the last ones typed.
    found: usize,
}

impl Finder {
    /// A finder of these keys.
    #[must_use]
    pub fn new(wanted: DetachKeys) -> Self {
        Self { wanted, found: 0 }
    }

    /// Takes in what was typed. What is to be passed on, without keys that may be the beginning of leaving, and whether
    /// this was it; then what was typed behind it is nobody's.
    pub fn typed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        let keys = &self.wanted.keys;
        for &byte in bytes {
            if keys.is_empty() {
                passed.push(byte);
                continue;
            }
            // What was held back was no beginning after all, or only its end was.
            while self.found > 0 && keys[self.found] != byte {
                let shorter = (0..self.found).rev().find(|&n| keys[..n] == keys[self.found - n..self.found]);
                let shorter = shorter.unwrap_or(0);
                passed.extend_from_slice(&keys[..self.found - shorter]);
                self.found = shorter;
            }
            if keys[self.found] == byte {
                self.found += 1;
            } else {
                passed.push(byte);
            }
            if self.found == keys.len() {
                self.found = 0;
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_in_docker() {
        let keys = |text: &str| DetachKeys::parse(text).map(|k| k.keys);
        assert_eq!(keys("ctrl-p,ctrl-q"), Ok(vec![0x10, 0x11]));
        assert_eq!(keys("ctrl-],a,~,ctrl-@,CTRL-\\"), Ok(vec![0x1d, b'a', b'~', 0, 0x1c]));
        assert_eq!(keys(""), Ok(vec![]));
        for wrong in ["ctrl-", "ctrl-1", "ab", "a,,b", "é", "alt-x"] {
            assert!(keys(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn they_are_found_wherever_pieces_end_and_nothing_else_is_lost() {
        for (wanted, typed, passed, left) in [
            ("ctrl-p,ctrl-q", "ab\x10\x11cd", "ab", true),
            ("ctrl-p,ctrl-q", "a\x10b\x11c", "a\x10b\x11c", false),
            ("ctrl-p,ctrl-q", "\x10\x10\x11", "\x10", true),
            ("a,a,b", "aaab", "a", true),
            ("a,b,a,c", "ababac", "ab", true),
            ("q", "xq", "x", true),
            ("", "\x10\x11", "\x10\x11", false),
        ] {
            for size in 1..=typed.len() {
                let mut finder = Finder::new(DetachKeys::parse(wanted).unwrap());
                let (mut all, mut found) = (Vec::new(), false);
                for piece in typed.as_bytes().chunks(size) {
                    let (bytes, now) = finder.typed(piece);
                    all.extend(bytes);
                    found |= now;
                    if found {
                        break;
                    }
                }
                assert_eq!(
                    (String::from_utf8(all).unwrap().as_str(), found),
                    (passed, left),
                    "{typed:?} {size}"
                );
            }
        }
    }
}
