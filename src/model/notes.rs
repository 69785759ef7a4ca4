//! What people add to a run afterwards: a name, labels, a pin, notes. The record itself never changes.
//!
//! Each change is one line of `notes.jsonl`; what they come to is folded from all of them, so that two people who
//! write at once lose nothing.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::{self, Record};
use super::time::Timestamp;

/// One line of `notes.jsonl`: what somebody changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Version of the format.
    pub schema: u32,
    /// When.
    pub at: Timestamp,
    /// Who, by login name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What.
    #[serde(flatten)]
    pub change: Change,
}

/// A change that people make to a run. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// Its new name; an empty one takes the name away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels set, and with null those taken away.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Whether it is kept from being cleaned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// A note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// That its log was removed to save space.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub logs_removed: bool,
}

/// A note on a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Note {
    /// When it was written.
    pub at: Timestamp,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What it says.
    pub text: String,
}

/// Puts all that was changed into a record, for whoever reads it. Lines that can not be read are passed over.
pub fn apply(lines: &[u8], record: &mut Record) {
    let entries = record::lines(lines).filter_map(|line| serde_json::from_slice::<Entry>(line).ok());
    for Entry { at, user, change, .. } in entries {
        if let Some(name) = change.name {
            record.name = Some(name).filter(|n| !n.is_empty());
        }
        for (key, value) in change.labels {
            match value {
                Some(value) => record.labels.insert(key, value),
                None => record.labels.remove(&key),
            };
        }
        record.pinned = change.pinned.or(record.pinned);
        record.notes.extend(change.note.map(|text| Note { at, user, text }));
        if change.logs_removed {
            record.logs_removed_at = Some(at);
        }
    }
}
