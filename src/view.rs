//! Records into words: used by every front alike. Pure.

pub mod quote;
pub mod show;
pub mod table;
pub mod words;
