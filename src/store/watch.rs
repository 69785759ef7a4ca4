//! Waiting for a change in directories of runs instead of looking again and again.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::run_dir::{RECORD, STATUS};
use super::{LIVE, RUNS, Store};
use crate::model::id::RunId;

/// Without a watch one looks this often.
const UNWATCHED: Duration = Duration::from_millis(200);

/// A watch on directories of runs.
pub struct Watch(Option<Inotify>);

impl Watch {
    /// A watch on nothing yet.
    #[must_use]
    pub fn none() -> Self {
        Self(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok())
    }

    /// Watches the files of a run.
    #[must_use]
    pub fn of_run(store: &Store, id: &RunId) -> Self {
        let watch = Self::none();
        watch.run(store, id);
        watch
    }

    /// Watches the files of one more run; to do it again changes nothing.
    pub fn run(&self, store: &Store, id: &RunId) {
        let changes = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let removals = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE_SELF;
        self.add(&store.path.join(RUNS).join(id.as_str()), changes | removals);
    }

    /// Watches which runs live.
    pub fn living(&self, store: &Store) {
        self.add(&store.path.join(LIVE), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE);
    }

    fn add(&self, path: &std::path::Path, flags: AddWatchFlags) {
        // What can not be watched is looked at by the clock.
        if let Some(watch) = &self.0 {
            let _ = watch.add_watch(path, flags);
        }
    }

    /// The handle to poll, where there is a watch.
    #[must_use]
    pub fn handle(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// How long to wait at most where one would wait for `longest` with a watch.
    #[must_use]
    pub fn patience(&self, longest: Duration) -> Duration {
        if self.0.is_some() { longest } else { longest.min(UNWATCHED) }
    }

    /// Takes note of what has changed; whether the run's state was among it.
    #[must_use]
    pub fn take_changes(&self) -> bool {
        let Some(watch) = &self.0 else { return false };
        let events = watch.read_events().unwrap_or_default();
        let told = [RECORD, STATUS].map(OsStr::new);
        events.iter().any(|event| event.name.as_deref().is_none_or(|name| told.contains(&name)))
    }

    /// Waits until something changes, at most for a while.
    pub fn wait(&self, longest: Duration) {
        let Some(watch) = &self.0 else {
            std::thread::sleep(longest.min(UNWATCHED));
            return;
        };
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX));
        let _ = watch.read_events();
    }
}
