//! Waiting for a change in a run's directory instead of looking again and again.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{RUNS, Store};
use crate::model::id::RunId;

/// A watch on a run's directory.
pub struct Watch(Option<Inotify>);

impl Watch {
    /// Watches the files of a run.
    #[must_use]
    pub fn of_run(store: &Store, id: &RunId) -> Self {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok().filter(|watch| {
            let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
            watch.add_watch(&store.path.join(RUNS).join(id.as_str()), flags).is_ok()
        });
        Self(watch)
    }

    /// Waits until something changes, at most for a while.
    pub fn wait(&self, longest: Duration) {
        let Some(watch) = &self.0 else {
            std::thread::sleep(longest.min(Duration::from_millis(200)));
            return;
        };
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX));
        let _ = watch.read_events();
    }
}
