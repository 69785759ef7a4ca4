//! Which runs are meant, and in what order: filters and sort keys as people type them. Pure.

use std::cmp::Ordering;

use crate::model::outcome::REASONS;
use crate::model::record::Record;
use crate::model::status::Status;
use crate::model::time::{Timestamp, When};

/// Words that `status=` knows: those of records, and two that say more of the living.
const STATUSES: [&str; 9] =
    ["initializing", "running", "stopping", "paused", "orphaned", "completed", "failed", "stopped", "lost"];

/// What a filter looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The status word.
    Status,
    /// The reason of its end.
    Reason,
    /// Its name; `*` stands for anything.
    Name,
    /// A label, with or without its value.
    Label,
    /// The kind of run.
    Mode,
    /// The agent, or the program of a plain command.
    Harness,
    /// The exit code of `run` and `wait`.
    Exit,
    /// Begun at this time or later.
    Since,
    /// Begun before this time.
    Before,
    /// The run it was started in, or continues: an id, or its beginning, or that of its last part.
    Parent,
}

/// Every key with its word.
const KEYS: [(&str, Key); 10] = [
    ("status", Key::Status),
    ("reason", Key::Reason),
    ("name", Key::Name),
    ("label", Key::Label),
    ("mode", Key::Mode),
    ("harness", Key::Harness),
    ("exit", Key::Exit),
    ("since", Key::Since),
    ("before", Key::Before),
    ("parent", Key::Parent),
];

/// One condition on a run, such as `status=failed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What it looks at.
    pub key: Key,
    value: String,
}

impl Filter {
    /// Reads `KEY=VALUE`.
    ///
    /// # Errors
    /// What is wrong with it, and what could be written in its place.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = || KEYS.map(|(word, _)| word).join(", ");
        let (word, value) = text
            .split_once('=')
            .ok_or_else(|| format!("not of the form KEY=VALUE, where KEY is one of {}", words()))?;
        let key = KEYS.iter().find(|(known, _)| *known == word);
        let key = key.ok_or_else(|| format!("there is no filter {word:?}; there are {}", words()))?.1;
        check(key, value)?;
        Ok(Self { key, value: value.to_owned() })
    }

    /// Whether it can only be true of runs that are over.
    #[must_use]
    pub fn is_of_finished(&self) -> bool {
        match self.key {
            Key::Reason | Key::Exit => true,
            Key::Status => ["completed", "failed", "stopped", "lost"].contains(&self.value.as_str()),
            _ => false,
        }
    }

    fn fits(&self, record: &Record, now: Timestamp) -> bool {
        let value = self.value.as_str();
        match self.key {
            Key::Status => status_fits(record, value),
            Key::Reason => record.exit_reason.is_some_and(|r| r.word() == value),
            Key::Name => record.name.as_deref().is_some_and(|name| matches(value, name)),
            Key::Label => match value.split_once('=') {
                Some((key, wanted)) => record.labels.get(key).is_some_and(|v| matches(wanted, v)),
                None => record.labels.contains_key(value),
            },
            Key::Mode => record.mode.word() == value,
            Key::Harness => matches(value, harness(record)),
            Key::Exit => record.wrapper_exit_code.is_some_and(|code| code.to_string() == value),
            Key::Since => When::parse(value).is_some_and(|w| record.started_at >= w.seen_from(now)),
            Key::Before => When::parse(value).is_some_and(|w| record.started_at < w.seen_from(now)),
            Key::Parent => record
                .parent_run_id
                .as_ref()
                .is_some_and(|p| p.as_str().starts_with(value) || p.short().starts_with(value)),
        }
    }
}

/// Whether a value makes sense for its key: a word that can never fit is a mistake.
fn check(key: Key, value: &str) -> Result<(), String> {
    let one_of = |words: &[&str]| {
        let known = words.contains(&value);
        known.then_some(()).ok_or_else(|| format!("there is no {value:?}; there are {}", words.join(", ")))
    };
    match key {
        Key::Status => one_of(&STATUSES),
        Key::Reason => one_of(&REASONS.iter().map(|row| row.word).collect::<Vec<_>>()),
        Key::Exit if value.parse::<u8>().is_err() => Err("an exit code is a number from 0 to 255".to_owned()),
        Key::Since | Key::Before if When::parse(value).is_none() => {
            Err("write e.g. 90m, 2h, 30d, 2026-11-21, 2026-11-21T08:30:00Z".to_owned())
        }
        _ if value.is_empty() => Err("a value is missing".to_owned()),
        _ => Ok(()),
    }
}

fn status_fits(record: &Record, word: &str) -> bool {
    let orphaned = record.orphaned == Some(true);
    let paused = record.status == Status::Running && record.paused_since.is_some();
    match word {
        "orphaned" => orphaned,
        "paused" => paused && !orphaned,
        "running" => record.status == Status::Running && !paused && !orphaned,
        word => record.status.word() == word && !orphaned,
    }
}

/// The name of what does a run's task: the agent, or the program of a plain command.
#[must_use]
pub fn harness(record: &Record) -> &str {
    let declared = record.harness.as_ref().map(|harness| harness.name.as_str());
    let program = || record.command.argv.first().map_or("", |arg| arg.rsplit('/').next().unwrap_or(arg));
    declared.unwrap_or_else(program)
}

/// Whether a text fits a pattern in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

/// Whether a run is meant: of every key that is filtered by, one value must fit.
#[must_use]
pub fn fits(filters: &[Filter], record: &Record, now: Timestamp) -> bool {
    filters.iter().all(|one| {
        let same_key = filters.iter().filter(|other| other.key == one.key);
        same_key.into_iter().any(|filter| filter.fits(record, now))
    })
}

/// What a listing is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    by: By,
    descending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Created,
    Name,
    Status,
    Exit,
    Mode,
    Duration,
    Cost,
}

/// Every sort key with its word.
const ORDERS: [(&str, By); 7] = [
    ("created", By::Created),
    ("name", By::Name),
    ("status", By::Status),
    ("exit", By::Exit),
    ("mode", By::Mode),
    ("duration", By::Duration),
    ("cost", By::Cost),
];

impl Default for Sort {
    /// The newest first.
    fn default() -> Self {
        Self { by: By::Created, descending: true }
    }
}

impl Sort {
    /// Reads `KEY`, or `-KEY` for the other direction.
    ///
    /// # Errors
    /// Which keys there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (descending, word) = text.strip_prefix('-').map_or((false, text), |word| (true, word));
        let by = ORDERS.iter().find(|(known, _)| *known == word).map(|(_, by)| *by);
        let words = || ORDERS.map(|(word, _)| word).join(", ");
        by.map(|by| Self { by, descending })
            .ok_or_else(|| format!("there are {}, each with a - before it for the other direction", words()))
    }

    /// Which of two runs comes first; where they are equal, the newer one. What a run does not have comes last.
    #[must_use]
    pub fn compare(self, a: &Record, b: &Record, now: Timestamp) -> Ordering {
        fn known_first<T: PartialOrd>(a: Option<T>, b: Option<T>, descending: bool) -> Ordering {
            match (a, b) {
                (Some(a), Some(b)) => {
                    let order = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
                    if descending { order.reverse() } else { order }
                }
                (a, b) => b.is_some().cmp(&a.is_some()),
            }
        }
        let took = |r: &Record| r.duration_seconds.or_else(|| living_seconds(r, now));
        let cost = |r: &Record| r.usage.as_ref().and_then(|u| u.cost_usd);
        let down = self.descending;
        let order = match self.by {
            By::Created => known_first(Some(created(a)), Some(created(b)), down),
            By::Name => known_first(a.name.as_deref(), b.name.as_deref(), down),
            By::Status => known_first(Some(a.status.word()), Some(b.status.word()), down),
            By::Exit => known_first(a.wrapper_exit_code, b.wrapper_exit_code, down),
            By::Mode => known_first(Some(a.mode.word()), Some(b.mode.word()), down),
            By::Duration => known_first(took(a), took(b), down),
            By::Cost => known_first(cost(a), cost(b), down),
        };
        order.then_with(|| created(b).cmp(created(a)))
    }
}

/// Ids hold the time of the start and stay unique where clocks do not.
fn created(record: &Record) -> &str {
    record.run_id.as_str()
}

fn living_seconds(record: &Record, now: Timestamp) -> Option<f64> {
    (!record.status.is_terminal()).then(|| now.since(record.started_at).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn record(json: serde_json::Value) -> Record {
        let mut whole = serde_json::json!({
            "schema": 1, "run_id": "20261121-130500-07zzzz", "status": "running", "host": "h", "user": {},
            "started_at": "2026-11-21T13:05:00.007Z", "owner": {}, "command": { "argv": ["/usr/bin/make", "test"] }
        });
        whole.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    fn fit(filters: &[&str], record: &Record) -> bool {
        let filters: Vec<Filter> = filters.iter().map(|text| Filter::parse(text).unwrap()).collect();
        fits(&filters, record, NOW)
    }

    #[test]
    fn different_keys_and_same_key_or() {
        let run = record(serde_json::json!({ "name": "nightly-7", "labels": { "team": "db" } }));
        assert!(fit(&[], &run));
        assert!(fit(&["status=failed", "status=running", "label=team"], &run));
        assert!(!fit(&["status=running", "label=team=web"], &run));
        assert!(fit(&["name=nightly-*", "harness=make", "mode=command"], &run));
        assert!(!fit(&["name=nightly"], &run));
        assert!(fit(&["since=2026-11-21", "before=2026-11-22T00:00:00+01:00"], &run));
        assert!(!fit(&["before=2026-11-21"], &run));
        assert!(!fit(&["exit=0"], &run) && !fit(&["parent=07"], &run) && !fit(&["reason=exited"], &run));
    }

    #[test]
    fn an_orphan_is_nothing_else() {
        let run = record(serde_json::json!({ "orphaned": true }));
        assert!(fit(&["status=orphaned"], &run) && !fit(&["status=running"], &run));
        let run = record(serde_json::json!({ "paused_since": "2026-11-21T13:05:00.007Z" }));
        assert!(fit(&["status=paused"], &run) && !fit(&["status=running"], &run));
    }

    #[test]
    fn mistakes_are_named() {
        for wrong in
            ["status", "status=fine", "colour=red", "exit=256", "since=yesterday", "name=", "reason=x"]
        {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Filter::parse("status=fine").unwrap_err().contains("completed"));
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, fits) in [
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("*", "", true),
            ("a*b*a", "aba", true),
            ("a*a", "a", false),
            ("abc", "abc", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn sorts_with_the_unknown_last() {
        let cheap =
            record(serde_json::json!({ "usage": { "cost_usd": 0.5 }, "run_id": "20261121-130500-000000" }));
        let dear =
            record(serde_json::json!({ "usage": { "cost_usd": 5.0 }, "run_id": "20261121-130500-000001" }));
        let unknown = record(serde_json::json!({ "run_id": "20261121-130500-000002" }));
        let sorted = |key: &str| {
            let mut runs = [&cheap, &dear, &unknown];
            let sort = Sort::parse(key).unwrap();
            runs.sort_by(|a, b| sort.compare(a, b, NOW));
            runs.map(|r| r.run_id.as_str().as_bytes()[21] - b'0')
        };
        assert_eq!(sorted("cost"), [0, 1, 2]);
        assert_eq!(sorted("-cost"), [1, 0, 2]);
        assert_eq!(sorted("-created"), [2, 1, 0]);
        assert_eq!(sorted("name"), [2, 1, 0]);
        assert!(Sort::parse("colour").is_err());
    }
}
