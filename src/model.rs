//! Words: the values every other layer speaks in. No I/O, no clock, no threads.

pub mod id;
pub mod intent;
pub mod notes;
pub mod outcome;
pub mod plan;
pub mod record;
pub mod signal;
pub mod status;
pub mod stream;
pub mod time;
pub mod usage;
