//! Retention: once a day the first `run` removes what the configuration says, after its own work is done.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use crate::clock;
use crate::config::{self, Retention};
use crate::model::time::Timestamp;
use crate::retention;
use crate::signals;
use crate::store::Store;
use crate::store::turn::{MOST_IDS, Tally};
use crate::sweep::{self, Swept, What};
use crate::terminal;
use crate::view::{quote, sweep as words};

/// How often it is done.
const EVERY: Duration = Duration::from_secs(86_400);
/// Whoever waits for `run` waits for this at most; what is left then is done after the next run.
const LONGEST_MS: u64 = 5_000;

/// What is said of it on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// All there is to say.
    Full,
    /// What was removed, and nothing else: deleting is no small talk.
    Removals,
    /// Nothing: standard error is nobody's. `doctor` tells of it.
    None,
}

/// Applies the configuration's retention when it is due. Whatever goes wrong in here is said, where something may be,
/// and changes nothing for the run that is over.
pub fn after_run(store: &Store, voice: Voice) {
    let say = |text: &str, least: Voice| {
        if voice == Voice::Full || voice == least {
            terminal::say(&format!("bookend: {text}\n"));
        }
    };
    let _ = catch_unwind(AssertUnwindSafe(|| apply(store, &say)));
}

fn apply(store: &Store, say: &dyn Fn(&str, Voice)) {
    let note = |text: &str| say(&format!("note: {text}"), Voice::Full);
    let (path, config) = match config::read(store) {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(e) => return note(&quote::visible_line(&e.to_string())),
    };
    for key in &config.unknown {
        note(&format!("{} in {} is unknown and ignored", quote::visible_line(key), path.display()));
    }
    let Some(retention) = config.retention.filter(|retention| retention.rules.say_what_goes()) else {
        return;
    };
    let now = clock::now();
    let Ok(Some(turn)) = store.take_turn(now, EVERY) else { return };
    let until = clock::moment().plus_ms(LONGEST_MS);
    let mut in_time = true;
    let swept = sweep_by(store, &retention, &mut |_, _| {
        in_time = in_time && clock::moment() < until && !signals::stop_is_pending();
        in_time
    });
    let removed = swept.as_ref().ok().and_then(|swept| tally(swept, &retention, now));
    turn.finish(removed, in_time);
    match swept {
        Ok(swept) => announce(&swept, &retention, &path, &|text| say(text, Voice::Removals)),
        Err(e) => note(&format!("removing old runs as [retention] in {} says: {e}", path.display())),
    }
}

fn sweep_by(store: &Store, retention: &Retention, pace: &mut sweep::Pace<'_>) -> std::io::Result<Swept> {
    let what = if retention.logs_only { What::Logs } else { What::Runs };
    let survey = sweep::survey(store, &[], what, retention.rules.need_sizes(), pace)?;
    let chosen = retention::choose(&survey.runs, &retention.rules, clock::now());
    sweep::remove(store, &chosen, what, Duration::ZERO, pace)
}

/// What is kept of it; none where nothing was removed.
fn tally(swept: &Swept, retention: &Retention, at: Timestamp) -> Option<Tally> {
    let mut rules = std::collections::BTreeMap::new();
    for removed in &swept.removed {
        *rules.entry(removed.why.word().to_owned()).or_default() += 1;
    }
    let run_ids = swept.removed.iter().take(MOST_IDS).map(|removed| removed.id.clone()).collect();
    (!swept.removed.is_empty()).then(|| Tally {
        at,
        logs_only: retention.logs_only,
        runs: swept.removed.len(),
        bytes: swept.bytes(),
        rules,
        run_ids,
    })
}

fn announce(swept: &Swept, retention: &Retention, path: &Path, say: &dyn Fn(&str)) {
    if !swept.removed.is_empty() {
        let what = if retention.logs_only { "log" } else { "old run" };
        let number = words::count(swept.removed.len(), what);
        let size = words::size(swept.bytes());
        say(&format!("removed {number}, {size}, as [retention] in {} says", path.display()));
    }
}
