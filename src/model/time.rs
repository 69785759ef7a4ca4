//! Wall-clock time stamps (for people and records) and monotonic moments (for durations).

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A wall-clock instant in UTC, in whole milliseconds since the Unix epoch.
///
/// Written as fixed-width RFC 3339, e.g. `2026-11-21T13:05:00.123Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The beginning of Unix time.
    pub const EPOCH: Self = Self(0);

    /// Makes a time stamp from milliseconds since the Unix epoch; values outside years 0-9999 are clamped.
    #[must_use]
    pub fn from_unix_ms(ms: i64) -> Self {
        const MIN: i64 = -62_167_219_200_000;
        const MAX: i64 = 253_402_300_799_999;
        Self(ms.clamp(MIN, MAX))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_ms(self) -> i64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero when the clock went backwards in between.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads an RFC 3339 time stamp with any offset.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(Self::from_unix_ms)
    }

    /// Date and time on a clock that is so many seconds ahead of UTC.
    pub(crate) fn local(self, offset_seconds: i32) -> OffsetDateTime {
        let offset = time::UtcOffset::from_whole_seconds(offset_seconds).unwrap_or(time::UtcOffset::UTC);
        self.civil().checked_to_offset(offset).unwrap_or(self.civil())
    }

    pub(crate) fn civil(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.civil();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.millisecond()
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time stamp"))
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$"
        })
    }
}

/// A moment as people give it: how long ago, or when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So long before now.
    Ago(Duration),
    /// A point in time.
    At(Timestamp),
}

impl When {
    /// Reads `90s`, `2h`, `30d`, or an RFC 3339 time stamp, or a day such as `2026-11-21`, which begins at midnight
    /// UTC.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(ago) = humantime::parse_duration(text) {
            return Some(Self::Ago(ago));
        }
        let whole =
            if text.len() == "2026-11-21".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
        Timestamp::parse(&whole).map(Self::At)
    }

    /// The point in time that is meant, seen from `now`.
    #[must_use]
    pub fn seen_from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(ago) => {
                let ms = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_unix_ms(now.unix_ms().saturating_sub(ms))
            }
            Self::At(at) => at,
        }
    }
}

/// A reading of the monotonic clock, in milliseconds; only differences mean anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `ms` milliseconds later.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to `self`, zero when `earlier` is later.
    #[must_use]
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_moments_as_people_give_them() {
        let now = Timestamp::from_unix_ms(1_795_266_300_000);
        let seen = |text: &str| When::parse(text).map(|when| when.seen_from(now).to_string());
        assert_eq!(seen("2h").as_deref(), Some("2026-11-21T11:05:00.000Z"));
        assert_eq!(seen("2026-11-20").as_deref(), Some("2026-11-20T00:00:00.000Z"));
        assert_eq!(seen("2026-11-20T10:00:00+01:00").as_deref(), Some("2026-11-20T09:00:00.000Z"));
        assert_eq!(seen("999999999999d").as_deref(), Some("0000-01-01T00:00:00.000Z"));
        assert_eq!((seen("yesterday"), seen("")), (None, None));
    }

    #[test]
    fn prints_and_reads_fixed_width() {
        let t = Timestamp::from_unix_ms(1_795_266_300_007);
        assert_eq!(t.to_string(), "2026-11-21T13:05:00.007Z");
        assert_eq!(Timestamp::parse(&t.to_string()), Some(t));
        assert_eq!(Timestamp::parse("2026-11-21T14:05:00.007+01:00"), Some(t));
        assert_eq!(Timestamp::parse("yesterday"), None);
        assert_eq!(Timestamp::from_unix_ms(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_unix_ms(i64::MIN).to_string(), "0000-01-01T00:00:00.000Z");
    }
}
