//! Run ids: `YYYYMMDD-HHMMSS-xxxxxx`, made by bookend only, sortable, never reused.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// Digits of the last part of an id: base32 in lower case, without the letters `i`, `l`, `o`, `u`.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Bits of the last part of an id that are random; those above are the milliseconds of its start.
const RANDOM_BITS: u32 = 20;

/// The name of a run: `YYYYMMDD-HHMMSS-xxxxxx` in UTC with six base32 digits, of which two are milliseconds.
///
/// Every id from argv, JSON or a file name passes [`RunId::parse`], so an id is always a safe file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = r"^\d{8}-\d{6}-[0-9a-hjkmnp-tv-z]{6}$"))]
pub struct RunId(String);

impl RunId {
    /// Length of every id in bytes.
    pub const LEN: usize = 22;

    /// Makes an id from the time of its start and 20 bits of randomness. The first two base32 digits are the
    /// milliseconds, so that ids of one second are in the order of their starts too.
    #[must_use]
    pub fn new(at: Timestamp, random: u32) -> Self {
        let t = at.civil();
        let digits = u32::from(t.millisecond()) << RANDOM_BITS | random & ((1 << RANDOM_BITS) - 1);
        let mut id = format!(
            "{:04}{:02}{:02}-{:02}{:02}{:02}-",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        );
        for digit in (0..6).rev() {
            id.push(BASE32[(digits >> (5 * digit)) as usize & 31] as char);
        }
        Self(id)
    }

    /// Reads an id; anything that is not exactly of the form is refused.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == Self::LEN
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 15 => byte == b'-',
                16.. => BASE32.contains(&byte),
                _ => byte.is_ascii_digit(),
            });
        fits.then(|| Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The six random digits: the short form that people type.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[16..]
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}

impl TryFrom<String> for RunId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not a run id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_and_reads_ids() {
        let id = RunId::new(Timestamp::from_unix_ms(1_795_266_300_007), 0x3fff_ffff);
        assert_eq!(id.as_str(), "20261121-130500-07zzzz");
        assert_eq!(id.short(), "07zzzz");
        assert!(id < RunId::new(Timestamp::from_unix_ms(1_795_266_300_008), 0));
        assert_eq!(RunId::parse(id.as_str()), Some(id));
        for bad in ["", "..", "20261121-130500-zzzzz", "20261121-130500-zzzzzi", "20261121_130500-zzzzzz"] {
            assert_eq!(RunId::parse(bad), None, "{bad}");
        }
    }
}
