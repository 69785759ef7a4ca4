//! Everything that can lie in a store, and everything that can happen to it while somebody reads it.

mod access;
mod commands;
mod disturbed;
mod grid;
mod malformed;
mod mutation;

pub use malformed::copy;
pub use mutation::remove;
