//! Failures of commands: what is said, what is suggested, and the exit code.

use super::Done;
use crate::store::StoreError;
use crate::store::list::FindError;
use crate::view::quote;

/// Exit code of a command that failed.
pub const FAILED: u8 = 1;
/// Exit code of refused arguments.
pub const USAGE: u8 = 2;
/// Exit code for a run that does not exist.
pub const NO_SUCH_RUN: u8 = 3;
/// Exit code for a name that fits several runs.
pub const AMBIGUOUS: u8 = 4;
/// Exit code of `run` when bookend itself failed.
pub const INTERNAL: u8 = 125;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// What was being done, to what, and what went wrong.
    pub message: String,
    /// What to try.
    pub hint: Option<String>,
    /// Exit code.
    pub code: u8,
}

impl Failure {
    /// A failure with a message and a hint.
    pub fn new(code: u8, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()), code }
    }

    /// The same failure with another exit code.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Says it on standard error.
    pub fn report(&self) -> Done {
        use std::io::Write;
        let mut text = format!("bookend: error: {}\n", self.message);
        if let Some(hint) = &self.hint {
            text += &format!("  hint: {hint}\n");
        }
        // What is said of a store may come from it: a name, a file's contents.
        let _ = std::io::stderr().write_all(quote::visible(&text).as_bytes());
        Done::with(self.code)
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        Self { hint: Some(e.hint()), message: e.to_string(), code: FAILED }
    }
}

impl From<FindError> for Failure {
    fn from(e: FindError) -> Self {
        let (code, hint) = match &e {
            FindError::Nothing(..) => (NO_SUCH_RUN, "bookend ps -a lists all runs"),
            FindError::Ambiguous(..) => (AMBIGUOUS, "give more of its id"),
            FindError::Io(..) => (FAILED, "check the store's directory"),
        };
        Self::new(code, e.to_string(), hint)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self { message: e.to_string(), hint: None, code: FAILED }
    }
}
