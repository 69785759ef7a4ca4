//! A slot: the life of one task's processes, from start to nothing left.

use super::limit;
use crate::model::outcome::Ending;
use crate::model::time::Moment;

/// Where a slot's task is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// No task.
    #[default]
    Idle,
    /// A task was asked for.
    Fetching,
    /// Its command is being started.
    Spawning,
    /// Its command runs.
    Running,
    /// Its command has ended; other processes of it may be left.
    Sweeping,
    /// No process is left; its output may still be held open.
    Draining,
    /// Its output is complete; what the harness said of itself is asked for.
    Judging,
}

/// How far the slot's processes have been asked to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ladder {
    /// Not at all.
    #[default]
    Untouched,
    /// The command ended by itself; what it left has until then to do the same.
    Lingering(Moment),
    /// A stop signal was sent; SIGKILL follows then.
    Asked(Moment),
    /// SIGKILL was sent; again then, and given up at the second moment.
    Killing(Moment, Moment),
}

/// One slot.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    /// Where its task is.
    pub stage: Stage,
    /// How far its processes have been asked to end.
    pub ladder: Ladder,
    /// When its command started.
    pub started: Moment,
    /// When its output was last seen to grow.
    pub last_output: Moment,
    /// Since when it is paused.
    pub paused: Option<Moment>,
    /// Milliseconds it has been paused before that.
    pub paused_ms: u64,
    /// Whether its output will still close.
    pub output_open: bool,
    /// When to stop waiting for that.
    pub drain_until: Moment,
    /// When its log wants trimming.
    pub trim_at: Option<Moment>,
    /// When what it used is to be saved.
    pub save_at: Option<Moment>,
    /// Which limits it was warned of.
    pub warned: u8,
    /// The verdict on its task, once the command is gone.
    pub verdict: Option<Ending>,
}

impl Slot {
    /// When the time limit of `timeout_ms` is reached; never while paused.
    #[must_use]
    pub fn timeout_at(&self, timeout_ms: Option<u64>) -> Option<Moment> {
        let running = self.stage == Stage::Running && self.paused.is_none();
        timeout_ms.filter(|_| running).map(|ms| self.started.plus_ms(ms.saturating_add(self.paused_ms)))
    }

    /// When the idle limit of `idle_ms` is reached, as far as is known; never while paused.
    #[must_use]
    pub fn idle_at(&self, idle_ms: Option<u64>) -> Option<Moment> {
        let running = self.stage == Stage::Running && self.paused.is_none();
        idle_ms.filter(|_| running).map(|ms| self.last_output.plus_ms(ms))
    }

    /// The next moment at which its ladder has something to do.
    #[must_use]
    pub fn ladder_at(&self) -> Option<Moment> {
        match self.ladder {
            Ladder::Untouched => None,
            Ladder::Lingering(at) | Ladder::Asked(at) => Some(at),
            Ladder::Killing(again, give_up) => Some(again.min(give_up)),
        }
    }

    /// Puts the ladder on its last step.
    pub fn start_killing(&mut self, now: Moment) {
        if !matches!(self.ladder, Ladder::Killing(..)) {
            self.ladder =
                Ladder::Killing(now.plus_ms(limit::KILL_AGAIN_MS), now.plus_ms(limit::KILL_GIVE_UP_MS));
        }
    }

    /// The earliest moment at which something of this slot is due, before a stop (`limits`) and after.
    #[must_use]
    pub fn deadline(&self, timeout_ms: Option<u64>, idle_ms: Option<u64>, blind: bool) -> Option<Moment> {
        let sweep = (blind && self.stage == Stage::Sweeping).then_some(self.drain_until);
        match self.stage {
            Stage::Idle | Stage::Fetching | Stage::Spawning | Stage::Judging => None,
            Stage::Running => {
                let limits = [self.timeout_at(timeout_ms), self.idle_at(idle_ms)];
                [self.ladder_at(), self.trim_at, self.save_at].into_iter().chain(limits).flatten().min()
            }
            Stage::Sweeping => [self.ladder_at(), sweep].into_iter().flatten().min(),
            Stage::Draining => Some(self.drain_until),
        }
    }
}
