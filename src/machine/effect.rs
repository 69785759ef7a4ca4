//! What has to be done: everything the machine can ask for.

use super::event::{SlotId, StopCause};
use crate::model::outcome::Ending;
use crate::model::status::Status;

/// Something worth telling the person at the terminal.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A stop began; the command has `grace_ms` to end by itself.
    Stopping {
        /// Why.
        cause: Box<StopCause>,
        /// Milliseconds until SIGKILL.
        grace_ms: u64,
    },
    /// The command is being killed now.
    Killing,
    /// A limit is near: which, and how near.
    NearLimit(String),
    /// The command ended and left processes behind, which are given a moment.
    Leftovers(usize),
}

/// One thing to do in the world. Effects of one step are performed in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Look at the world before the start.
    Preflight,
    /// Find the next task for a slot.
    FetchTask(SlotId),
    /// Start the slot's command.
    Spawn(SlotId),
    /// Find out what the slot's harness said of itself, now that its output is complete.
    Judge(SlotId),
    /// Replace status.json; `durable` before anything else happens.
    SaveStatus {
        /// The status it says.
        status: Status,
        /// Whether to flush it.
        durable: bool,
    },
    /// Tell the person at the terminal.
    Tell(Notice),
    /// Send a signal to every process of the slot, and wake those that are stopped.
    Signal(SlotId, i32),
    /// Send SIGKILL to every process of the slot, new ones included, until none is left to be seen.
    Kill(SlotId),
    /// Count the slot's living processes.
    Survey(SlotId),
    /// Find out when the slot's output last grew.
    ProbeOutput(SlotId),
    /// Keep the slot's log within its limit.
    TrimLog(SlotId),
    /// Stop waiting for the slot's output, and list who holds it open.
    CutOutput(SlotId),
    /// Write the record of the slot's task.
    EndTask(SlotId, Ending),
    /// Start a new partner in the place of the one that died.
    ReplacePartner,
    /// Write the final record: always the last effect.
    Seal(Ending),
}
