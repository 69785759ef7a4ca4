//! Processes: the only module that starts, signals and waits for them.

pub mod identity;
pub mod marks;
pub mod pty;
pub mod pump;
pub mod spawn;
pub mod tree;
pub mod wait;
