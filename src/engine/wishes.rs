//! What others want of the run, as `bookend kill` leaves it in the run's directory.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::hands::Hands;
use crate::machine::{Event, StopCause};
use crate::model::intent::{Intent, Wish};
use crate::model::outcome::ExitReason;
use crate::model::record::EndedBy;
use crate::model::signal;
use crate::process::tree;
use crate::store::intents;

impl Hands {
    /// Does what was asked for since the last look; whether anything was.
    pub(super) fn take_wishes(&mut self) -> bool {
        let (wishes, end) = self.new_wishes();
        for intent in &wishes {
            match intent.wish {
                Wish::Deliver(number) => self.deliver(number, &intent.by),
                Wish::Stop { force, .. } => {
                    let cause = cause_of(intent);
                    self.guard.event("stop_requested", &json!({ "by": cause.by, "force": force }));
                    // Whoever may have to take over finds it here and not in the file, so that it counts once.
                    self.guard.ledger.cause.set(&cause);
                    self.queue.push_back(Event::Stop { cause, force });
                }
            }
        }
        self.guard.ledger.intents.store(end, Ordering::SeqCst);
        !wishes.is_empty()
    }

    /// The same for a bookend that takes over and has no machine yet: what was asked is known to it from the start.
    pub(super) fn inherit_wishes(&mut self) {
        let (wishes, end) = self.new_wishes();
        for intent in &wishes {
            match intent.wish {
                Wish::Deliver(number) => self.deliver(number, &intent.by),
                Wish::Stop { force, .. } => {
                    let cause = cause_of(intent);
                    self.guard.event("stop_requested", &json!({ "by": cause.by, "force": force }));
                    let is_first = self.guard.ledger.cause.set(&cause);
                    if force || !is_first {
                        self.guard.ledger.forced.store(true, Ordering::SeqCst);
                    }
                }
            }
        }
        self.guard.ledger.intents.store(end, Ordering::SeqCst);
    }

    /// What has been asked since the last look, and where the next one begins.
    fn new_wishes(&self) -> (Vec<Intent>, u64) {
        let from = self.guard.ledger.intents.load(Ordering::SeqCst);
        intents::read_from(self.guard.dir.dir(), from).unwrap_or_else(|_| (Vec::new(), from))
    }

    /// Passes a signal on to the command's group, in its name where it is no child of this process.
    fn deliver(&self, number: i32, by: &EndedBy) {
        let mut reached = self.pass_on(number);
        if let (false, Some(command)) = (reached, self.command.as_ref().filter(|c| !c.ended)) {
            reached = tree::signal_members(command.pid, &self.processes(), number);
        }
        let fields = json!({ "signal": signal::name(number), "by": by, "delivered": reached });
        self.guard.event("signal_delivered", &fields);
    }
}

fn cause_of(intent: &Intent) -> StopCause {
    let Wish::Stop { signal, grace_ms, .. } = intent.wish else {
        return StopCause::new(ExitReason::Killed, intent.by.clone());
    };
    StopCause { stop_signal: signal, grace_ms, ..StopCause::new(ExitReason::Killed, intent.by.clone()) }
}
