//! Waiting for the ends of several runs with one watch, which sleeps through their output.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::run_dir::{RECORD, STATUS};
use super::{RUNS, Store};
use crate::model::id::RunId;

/// Without a watch the runs are looked at this often.
const UNWATCHED: Duration = Duration::from_millis(200);

/// A watch on the states of runs.
pub struct Ends {
    watch: Option<Inotify>,
    runs: HashMap<WatchDescriptor, usize>,
    /// Whether all of them are watched.
    whole: bool,
}

impl Ends {
    /// Watches the states of these runs, whatever else happens in their directories.
    #[must_use]
    pub fn of(store: &Store, ids: &[RunId]) -> Self {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MOVE_SELF;
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        let each = watch.iter().flat_map(|watch| {
            ids.iter().enumerate().filter_map(|(at, id)| {
                let path = store.path.join(RUNS).join(id.as_str());
                Some((watch.add_watch(&path, flags | AddWatchFlags::IN_ONLYDIR).ok()?, at))
            })
        });
        let runs: HashMap<_, _> = each.collect();
        let whole = runs.len() == ids.len();
        Self { watch, runs, whole }
    }

    /// Waits until the state of a run changes, at most for a while. The places of those that changed; none when the
    /// time is over.
    #[must_use]
    pub fn wait(&self, longest: Duration) -> Vec<usize> {
        let longest = if self.whole { longest } else { longest.min(UNWATCHED) };
        let Some(watch) = &self.watch else {
            std::thread::sleep(longest);
            return Vec::new();
        };
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX));
        let told = [RECORD, STATUS].map(OsStr::new);
        let mut changed: Vec<usize> = watch
            .read_events()
            .unwrap_or_default()
            .iter()
            .filter(|event| event.name.as_deref().is_none_or(|name| told.contains(&name)))
            .filter_map(|event| self.runs.get(&event.wd).copied())
            .collect();
        changed.sort_unstable();
        changed.dedup();
        changed
    }
}
