//! Retention: once a day the first `run` removes what the configuration says, after its own work is done.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use crate::clock;
use crate::config::{self, Retention};
use crate::retention;
use crate::signals;
use crate::store::Store;
use crate::sweep::{self, Swept, What};
use crate::terminal;
use crate::view::{quote, sweep as words};

/// How often it is done.
const EVERY: Duration = Duration::from_secs(86_400);
/// Whoever waits for `run` waits for this at most; what is left then is done after the next run.
const LONGEST_MS: u64 = 5_000;

/// Applies the configuration's retention when it is due. Whatever goes wrong in here is said, where something may be,
/// and changes nothing for the run that is over.
pub fn after_run(store: &Store, says: bool) {
    let say = |text: &str| {
        if says {
            terminal::say(&format!("bookend: {text}\n"));
        }
    };
    let _ = catch_unwind(AssertUnwindSafe(|| apply(store, &say)));
}

fn apply(store: &Store, say: &dyn Fn(&str)) {
    let (path, config) = match config::read(store) {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(e) => return say(&format!("note: {}", quote::visible_line(&e.to_string()))),
    };
    for key in &config.unknown {
        say(&format!("note: {} in {} is unknown and ignored", quote::visible_line(key), path.display()));
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
    match swept {
        Ok(swept) => announce(&swept, &retention, &path, say),
        Err(e) => say(&format!("note: removing old runs as [retention] in {} says: {e}", path.display())),
    }
    if !in_time {
        turn.leave_unfinished();
    }
}

fn sweep_by(store: &Store, retention: &Retention, pace: &mut sweep::Pace<'_>) -> std::io::Result<Swept> {
    let what = if retention.logs_only { What::Logs } else { What::Runs };
    let survey = sweep::survey(store, &[], what, retention.rules.need_sizes(), pace)?;
    let chosen = retention::choose(&survey.runs, &retention.rules, clock::now());
    sweep::remove(store, &chosen, what, Duration::ZERO, pace)
}

fn announce(swept: &Swept, retention: &Retention, path: &Path, say: &dyn Fn(&str)) {
    if !swept.removed.is_empty() {
        let what = if retention.logs_only { "log" } else { "old run" };
        let number = words::count(swept.removed.len(), what);
        let size = words::size(swept.bytes());
        say(&format!("removed {number}, {size}, as [retention] in {} says", path.display()));
    }
}
