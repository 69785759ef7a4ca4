//! What the commands that remove have in common: progress, and the telling of what stayed.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::error::{FAILED, Failure};
use super::say;
use crate::store::Store;
use crate::store::trash::Emptied;
use crate::view::quote;

/// What takes longer than this shows how far it is.
const LONG: Duration = Duration::from_millis(500);

/// Progress, shown to a person at a terminal once it takes long.
pub struct Gauge {
    doing: &'static str,
    begun: Instant,
    bar: Option<ProgressBar>,
}

impl Gauge {
    /// Begins to count the time of something.
    #[must_use]
    pub fn new(doing: &'static str) -> Self {
        Self { doing, begun: Instant::now(), bar: None }
    }

    /// Takes note that so many are done of so many.
    pub fn note(&mut self, done: usize, total: usize) {
        if self.bar.is_none() && self.begun.elapsed() > LONG && io::stderr().is_terminal() {
            let bar = ProgressBar::new(total as u64);
            if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}") {
                bar.set_style(style);
            }
            bar.set_message(self.doing);
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Tells of trash of which something stayed; whether there is any.
pub fn tell_stayed(emptied: Option<io::Result<Emptied>>) -> bool {
    let stayed = match emptied {
        None => return false,
        Some(Err(e)) => vec![("the trash".to_owned(), e)],
        Some(Ok(emptied)) => emptied.stayed,
    };
    for (name, why) in &stayed {
        let name = quote::visible_line(name);
        say(&format!("note: {name}: {why}; bookend doctor --runs says more"));
    }
    !stayed.is_empty()
}

/// The failure of a store that can not be changed or read at all.
#[must_use]
pub fn failed(store: &Store, doing: &str, e: &io::Error) -> Failure {
    let hint = match e.raw_os_error() {
        Some(libc::EROFS) => "the file system is read-only: mount it for writing",
        _ => "check that path, its owner and its modes",
    };
    Failure::new(FAILED, format!("{doing} {}: {e}", store.path.display()), hint)
}
