//! The list of processes that a command left behind, and what became of each.

use crate::model::record::{Fate, Leftover};
use crate::process::identity::{self, Stat};

/// The most processes that are listed; a fork storm has more.
const MOST: usize = 100;

/// Processes seen after the command had ended.
#[derive(Debug, Default)]
pub struct Leftovers {
    seen: Vec<Leftover>,
    signal: Option<i32>,
}

impl Leftovers {
    /// Notes processes that are alive now.
    pub fn note(&mut self, processes: &[Stat], holds_output: bool) {
        for process in processes {
            let (pid, start_time) = (process.pid, process.start_time);
            let known = self.seen.iter().any(|l| (l.pid, l.start_time) == (pid, start_time));
            if !known && self.seen.len() < MOST {
                let argv = identity::argv(pid);
                self.seen.push(Leftover { pid, start_time, argv, fate: Fate::Alive, holds_output });
            }
        }
        self.settle();
    }

    /// Notes that all that are alive were sent a signal.
    pub fn signalled(&mut self, signal: i32) {
        self.settle();
        self.signal = Some(signal);
    }

    /// Finds out which have ended since, and by what.
    fn settle(&mut self) {
        let fate = match self.signal {
            None => Fate::Ended,
            Some(libc::SIGKILL) => Fate::Killed,
            Some(_) => Fate::Terminated,
        };
        for left in self.seen.iter_mut().filter(|l| l.fate == Fate::Alive) {
            if !identity::is_alive(left.pid, left.start_time) {
                left.fate = fate;
            }
        }
    }

    /// The list as it stands now.
    pub fn list(&mut self) -> Vec<Leftover> {
        self.settle();
        self.seen.clone()
    }
}
