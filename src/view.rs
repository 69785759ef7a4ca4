//! Records into words: used by every front alike. Pure.

pub mod findings;
pub mod frame;
pub mod lines;
pub mod modes;
pub mod plain;
pub mod quote;
pub mod show;
pub mod sweep;
pub mod table;
pub mod words;

use crate::model::time::Timestamp;

/// How things are shown: when, where, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The moment of the look, from which "2 hours ago" is counted.
    pub now: Timestamp,
    /// Seconds that local time is ahead of UTC.
    pub offset_seconds: i32,
    /// Columns of the terminal; none where the output goes elsewhere.
    pub width: Option<usize>,
    /// Whether words are coloured.
    pub colour: bool,
}
