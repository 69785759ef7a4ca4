//! A row for every exit path that a plain command can take; the ids are those of `exit-paths.md`.
//!
//! Each row says how the run should have ended, and [`Expect::check`] looks at everything that this means. Each was
//! seen to fail against a wrapper that writes nothing (`BOOKEND_UNDER_TEST`).

mod bookends;
mod commands;
mod disk;
mod identity;
mod races;
mod signals;
mod streams;

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::expect::keeper;
use crate::world::{LIMIT, Process, RunDir};

const SECOND: Duration = Duration::from_secs(1);

/// Kills both bookends so that neither can do anything about the other.
fn kill_both(front: Process, run: &RunDir) {
    let both = [front, keeper(run)];
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for process in both {
            assert!(process.signal(signal), "{}", process.describe());
            if signal == Signal::SIGSTOP {
                process.wait_state('T');
            }
        }
    }
    for process in both {
        process.wait_gone(LIMIT);
    }
}
