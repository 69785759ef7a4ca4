//! The loop: one inbox, one machine, one guard; perform effects until the run is sealed.
//!
//! Both bookends run this same loop: the keeper from the start, the front (or a new keeper) after the other's death.

pub mod backlog;
pub mod begin;
pub mod detach;
pub mod echo;
pub mod front;
pub mod guests;
pub mod hands;
pub mod inbox;
pub mod leftovers;
pub mod listener;
pub mod takeover;
pub mod wishes;

use crate::clock;
use crate::guard::sealer::Sealed;
use crate::machine::{Effect, Event, RunMachine};
use hands::Hands;

/// Runs a machine until its run is sealed, beginning with `first`.
pub fn run(machine: &mut RunMachine, hands: &mut Hands, first: Event) -> Sealed {
    let mut event = first;
    loop {
        for effect in machine.step(event, clock::moment()) {
            if let Effect::Seal(ending) = effect {
                return hands.seal(ending);
            }
            hands.perform(effect);
        }
        event = hands.next(machine.deadline());
    }
}
