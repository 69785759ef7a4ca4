//! What happens: everything the machine can be told.

use serde::{Deserialize, Serialize};

use crate::model::outcome::{ExitReason, Outcome};
use crate::model::record::{EndedBy, ErrorInfo, Exit};
use crate::model::time::Moment;

/// Number of a place in which one task at a time runs, from 0.
pub type SlotId = usize;

/// What a source of tasks has for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// A task, and perhaps more after it.
    Task,
    /// The last task.
    Last,
    /// Nothing more.
    Nothing,
}

/// What a harness used so far, as far as it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Millionths of a US dollar.
    pub cost_micro_usd: Option<u64>,
    /// Tokens read and written.
    pub tokens: Option<u64>,
    /// Turns of the model.
    pub turns: Option<u64>,
    /// How often in a row it spoke of the same error.
    pub same_error: u32,
    /// Steps in a row that used and did nothing.
    pub empty_steps: u32,
}

/// Why everything should stop, and on whose word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StopCause {
    /// The reason that goes into the record.
    pub reason: ExitReason,
    /// Who asked.
    pub by: EndedBy,
    /// The signal that came, which is passed on to the command unless the plan names another.
    pub signal: Option<i32>,
    /// The signal that was asked for, whatever the plan names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
    /// Milliseconds between that signal and SIGKILL, whatever the plan says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// What went wrong, where the cause is a failure of bookend's.
    pub error: Option<ErrorInfo>,
}

impl StopCause {
    /// A cause about which nothing more is known.
    #[must_use]
    pub fn new(reason: ExitReason, by: EndedBy) -> Self {
        Self { reason, by, signal: None, stop_signal: None, grace_ms: None, error: None }
    }
}

/// One thing that happened. The engine puts all sources of happenings into one order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The run is on disk.
    Published,
    /// The checks before the start are done; with what failed.
    PreflightDone(Option<ErrorInfo>),
    /// Answer to [`Effect::FetchTask`](super::Effect::FetchTask).
    TaskReady(SlotId, Supply),
    /// The command runs; whether its output comes through pipes that will close.
    Spawned {
        /// Where.
        slot: SlotId,
        /// Whether an [`Event::OutputClosed`] will follow.
        output_open: bool,
    },
    /// The command could not be started.
    SpawnFailed(SlotId, ErrorInfo),
    /// The command is gone; how, unless nobody could see it.
    Exited(SlotId, Option<Exit>),
    /// The command was stopped by a signal such as SIGTSTP.
    Paused(SlotId),
    /// The command goes on after such a stop.
    Continued(SlotId),
    /// Answer to [`Effect::Survey`](super::Effect::Survey): processes of the slot that are alive.
    Descendants(SlotId, usize),
    /// Some process below bookend ended.
    ChildrenChanged,
    /// Every writer of the slot's output is gone.
    OutputClosed(SlotId),
    /// What the slot's harness used so far.
    Used(SlotId, Used),
    /// Answer to [`Effect::Judge`](super::Effect::Judge): what the harness said of itself.
    Judged(SlotId, Option<Outcome>),
    /// Answer to [`Effect::ProbeOutput`](super::Effect::ProbeOutput): when output was last seen.
    LastOutput(SlotId, Moment),
    /// The log grew, for the first time since it was last trimmed; it should be looked at in so many milliseconds.
    LogGrew(SlotId, u64),
    /// Somebody wants the run to stop; `force` when the same one asked before.
    Stop {
        /// Why, and who.
        cause: StopCause,
        /// Whether to kill at once.
        force: bool,
    },
    /// The other bookend is gone; the cause that this would be.
    PartnerDied(StopCause),
    /// A deadline may have passed.
    Tick,
}
