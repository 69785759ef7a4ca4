//! How runs end: the reasons, the one table from reason to status and exit code, and the verdict.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::{EndedBy, ErrorInfo, Exit};
use super::status::Status;

/// Why a run ended. Words this version does not know read as `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each word has its line in REASONS")]
pub enum ExitReason {
    Exited,
    NothingToDo,
    Signaled,
    HarnessError,
    NoResult,
    TaskFailed,
    PreflightFailed,
    HookFailed,
    TaskNotFound,
    InternalError,
    SpawnFailed,
    TimedOut,
    Stalled,
    BudgetExhausted,
    IterationLimit,
    Blocked,
    Interrupted,
    Quit,
    Terminated,
    HungUp,
    Killed,
    Skipped,
    WrapperDied,
    Lost,
    #[serde(other)]
    Unknown,
}

/// How the exit code of `run` and `wait` follows from a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeRule {
    /// Always this code.
    Fixed(u8),
    /// The command's own code.
    Own,
    /// 128 + the signal that ended the command.
    OwnSignal,
    /// 127 when the command was not found, else 126.
    Spawn,
    /// This code, reached by dying of this signal after the record is sealed.
    DieOf(i32),
}

/// One row of the table of ends.
#[derive(Clone, Copy, Debug)]
pub struct ReasonRow {
    /// The reason.
    pub reason: ExitReason,
    /// The word in JSON.
    pub word: &'static str,
    /// The status that goes with it (`exited` with a code other than 0 is `failed`).
    pub status: Status,
    /// The exit code.
    pub code: CodeRule,
    /// What it means, in one line.
    pub meaning: &'static str,
}

const fn row(
    reason: ExitReason,
    word: &'static str,
    status: Status,
    code: CodeRule,
    meaning: &'static str,
) -> ReasonRow {
    ReasonRow { reason, word, status, code, meaning }
}

/// Every end a run can have: the only place where reasons meet statuses and exit codes.
#[rustfmt::skip]
pub const REASONS: &[ReasonRow] = &[
    row(ExitReason::Exited, "exited", Status::Completed, CodeRule::Own, "the command exited"),
    row(ExitReason::NothingToDo, "nothing_to_do", Status::Completed, CodeRule::Fixed(0), "there was nothing to do"),
    row(ExitReason::Signaled, "signaled", Status::Failed, CodeRule::OwnSignal, "the command died of a signal"),
    row(ExitReason::HarnessError, "harness_error", Status::Failed, CodeRule::Fixed(1), "the harness exited 0 but declared an error"),
    row(ExitReason::NoResult, "no_result", Status::Failed, CodeRule::Fixed(1), "the harness exited 0 without a final event"),
    row(ExitReason::TaskFailed, "task_failed", Status::Failed, CodeRule::Fixed(1), "at least one task failed"),
    row(ExitReason::PreflightFailed, "preflight_failed", Status::Failed, CodeRule::Fixed(125), "a check before the start failed"),
    row(ExitReason::HookFailed, "hook_failed", Status::Failed, CodeRule::Fixed(125), "a hook failed"),
    row(ExitReason::TaskNotFound, "task_not_found", Status::Failed, CodeRule::Fixed(125), "the task asked for does not exist"),
    row(ExitReason::InternalError, "internal_error", Status::Failed, CodeRule::Fixed(125), "bookend itself failed"),
    row(ExitReason::SpawnFailed, "spawn_failed", Status::Failed, CodeRule::Spawn, "the command could not be started"),
    row(ExitReason::TimedOut, "timed_out", Status::Stopped, CodeRule::Fixed(124), "the time limit was reached"),
    row(ExitReason::Stalled, "stalled", Status::Stopped, CodeRule::Fixed(124), "no output for the idle limit"),
    row(ExitReason::BudgetExhausted, "budget_exhausted", Status::Stopped, CodeRule::Fixed(124), "a budget was used up"),
    row(ExitReason::IterationLimit, "iteration_limit", Status::Stopped, CodeRule::Fixed(124), "the iteration limit was reached"),
    row(ExitReason::Blocked, "blocked", Status::Stopped, CodeRule::Fixed(3), "tasks are left, none is ready"),
    row(ExitReason::Interrupted, "interrupted", Status::Stopped, CodeRule::DieOf(libc::SIGINT), "interrupted"),
    row(ExitReason::Quit, "quit", Status::Stopped, CodeRule::DieOf(libc::SIGQUIT), "told to quit"),
    row(ExitReason::Terminated, "terminated", Status::Stopped, CodeRule::DieOf(libc::SIGTERM), "terminated"),
    row(ExitReason::HungUp, "hung_up", Status::Stopped, CodeRule::DieOf(libc::SIGHUP), "the terminal hung up"),
    row(ExitReason::Killed, "killed", Status::Stopped, CodeRule::Fixed(137), "killed with `bookend kill`"),
    row(ExitReason::Skipped, "skipped", Status::Stopped, CodeRule::Fixed(0), "skipped by a scheduling rule"),
    row(ExitReason::WrapperDied, "wrapper_died", Status::Stopped, CodeRule::Fixed(137), "one of the two bookends was killed; the other stopped the command"),
    row(ExitReason::Lost, "lost", Status::Lost, CodeRule::Fixed(125), "both bookends were gone; how it ended was not seen"),
    row(ExitReason::Unknown, "unknown", Status::Unknown, CodeRule::Fixed(125), "a reason of a later version"),
];

impl ExitReason {
    /// The reason's row in [`REASONS`].
    #[must_use]
    pub fn row(self) -> &'static ReasonRow {
        REASONS.iter().find(|row| row.reason == self).unwrap_or(&REASONS[REASONS.len() - 1])
    }

    /// The word as it stands in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.row().word
    }

    /// The reason for a stop that a signal asked for, where that signal is a stop signal.
    #[must_use]
    pub fn of_stop_signal(signal: i32) -> Option<Self> {
        match signal {
            libc::SIGINT => Some(Self::Interrupted),
            libc::SIGQUIT => Some(Self::Quit),
            libc::SIGTERM => Some(Self::Terminated),
            libc::SIGHUP => Some(Self::HungUp),
            _ => None,
        }
    }
}

/// How a harness itself says that it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Success,
    /// Not so, and why.
    Error(String),
}

/// The end of a run, as the machine decided it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// The terminal status.
    pub status: Status,
    /// Why.
    pub reason: ExitReason,
    /// Whether a second stop request forced the end.
    pub forced: bool,
    /// What the kernel said of the command; none where nobody saw it.
    pub exit: Option<Exit>,
    /// Who asked for the end, for a stop.
    pub ended_by: Option<EndedBy>,
    /// What went wrong, for a failure of bookend's or of the start.
    pub error: Option<ErrorInfo>,
    /// Where what the process did and what the harness declared say different things: how.
    pub mismatch: Option<String>,
}

impl Ending {
    /// The verdict on a command that ended by itself.
    #[must_use]
    pub fn of_exit(exit: Exit) -> Self {
        let reason = if exit.signal.is_some() { ExitReason::Signaled } else { ExitReason::Exited };
        let status = if exit.code == Some(0) { Status::Completed } else { Status::Failed };
        Self { status, exit: Some(exit), ..Self::of_reason(reason) }
    }

    /// An end for `reason`, with nothing known of the command.
    #[must_use]
    pub fn of_reason(reason: ExitReason) -> Self {
        let status = reason.row().status;
        Self { status, reason, forced: false, exit: None, ended_by: None, error: None, mismatch: None }
    }

    /// The same end in the light of what the harness declared: its word counts where its process ended by itself.
    /// `expected` says whether it should have declared something.
    #[must_use]
    pub fn with_declared(self, declared: Option<&Outcome>, expected: bool) -> Self {
        let code =
            self.exit.as_ref().and_then(|exit| exit.code).filter(|_| self.reason == ExitReason::Exited);
        let Some(code) = code else { return self.contradicted_by(declared) };
        match (code, declared) {
            (0, Some(Outcome::Error(why))) => {
                let error = ErrorInfo { message: why.clone(), ..ErrorInfo::default() };
                let mismatch = Some("it exited with code 0 and declared an error".to_owned());
                Self {
                    exit: self.exit,
                    error: Some(error),
                    mismatch,
                    ..Self::of_reason(ExitReason::HarnessError)
                }
            }
            (0, None) if expected => Self { exit: self.exit, ..Self::of_reason(ExitReason::NoResult) },
            (0, _) => self,
            (_, Some(Outcome::Success)) => {
                let mismatch = Some(format!("it exited with code {code} and declared success"));
                Self { status: Status::Completed, mismatch, ..self }
            }
            (_, Some(Outcome::Error(why))) => {
                let error = ErrorInfo { message: why.clone(), ..ErrorInfo::default() };
                Self { error: Some(error), ..self }
            }
            (_, None) => self,
        }
    }

    /// An end that what the harness declared does not change, with a word where the two differ.
    fn contradicted_by(self, declared: Option<&Outcome>) -> Self {
        let differs = declared == Some(&Outcome::Success) && self.status != Status::Completed;
        let mismatch = differs.then(|| format!("it declared success, and the run is {}", self.status.word()));
        Self { mismatch, ..self }
    }
}

/// The exit code of `run` and `wait` for a finished run, from what its record says.
#[must_use]
pub fn exit_code(reason: ExitReason, exit: Option<&Exit>, error: Option<&ErrorInfo>) -> u8 {
    match reason.row().code {
        CodeRule::Fixed(code) => code,
        CodeRule::Own => exit.and_then(|e| e.code).and_then(|c| u8::try_from(c).ok()).unwrap_or(125),
        CodeRule::OwnSignal => {
            exit.and_then(|e| e.signal).and_then(|s| u8::try_from(s).ok()?.checked_add(128)).unwrap_or(125)
        }
        CodeRule::Spawn => match error.and_then(|e| e.errno) {
            Some(libc::ENOENT | libc::ENOTDIR) => 127,
            _ => 126,
        },
        CodeRule::DieOf(signal) => u8::try_from(128 + signal).unwrap_or(125),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_one_row_whose_word_is_its_json() {
        for row in REASONS {
            assert_eq!(serde_json::to_value(row.reason).unwrap(), row.word);
            assert_eq!(REASONS.iter().filter(|r| r.reason == row.reason).count(), 1);
            assert!(row.status.is_terminal() || row.reason == ExitReason::Unknown);
        }
        assert_eq!(serde_json::from_str::<ExitReason>("\"eaten_by_a_grue\"").unwrap(), ExitReason::Unknown);
    }

    #[test]
    fn the_word_of_a_harness_counts_where_it_ended_by_itself() {
        let error = Outcome::Error("no key".to_owned());
        let exited = |code| Ending::of_exit(Exit { code: Some(code), ..Exit::default() });
        let judged = |ending: Ending, declared: Option<&Outcome>, expected| {
            let ending = ending.with_declared(declared, expected);
            (ending.status, ending.reason, ending.mismatch.is_some())
        };
        let success = Some(&Outcome::Success);
        assert_eq!(judged(exited(0), success, true), (Status::Completed, ExitReason::Exited, false));
        assert_eq!(judged(exited(0), None, false), (Status::Completed, ExitReason::Exited, false));
        assert_eq!(judged(exited(0), None, true), (Status::Failed, ExitReason::NoResult, false));
        assert_eq!(judged(exited(0), Some(&error), true), (Status::Failed, ExitReason::HarnessError, true));
        assert_eq!(judged(exited(145), Some(&error), true), (Status::Failed, ExitReason::Exited, false));
        assert_eq!(judged(exited(1), success, true), (Status::Completed, ExitReason::Exited, true));
        assert_eq!(judged(exited(1), None, true), (Status::Failed, ExitReason::Exited, false));
        let stopped = || Ending { exit: exited(0).exit, ..Ending::of_reason(ExitReason::TimedOut) };
        assert_eq!(judged(stopped(), success, true), (Status::Stopped, ExitReason::TimedOut, true));
        assert_eq!(judged(stopped(), Some(&error), true), (Status::Stopped, ExitReason::TimedOut, false));
        let died = Ending::of_exit(Exit { signal: Some(9), ..Exit::default() });
        assert_eq!(judged(died, success, true), (Status::Failed, ExitReason::Signaled, true));
    }

    #[test]
    fn codes_follow_the_table() {
        let code = |n| Exit { code: Some(n), ..Exit::default() };
        let signal = |n| Exit { signal: Some(n), ..Exit::default() };
        assert_eq!(exit_code(ExitReason::Exited, Some(&code(145)), None), 145);
        assert_eq!(exit_code(ExitReason::Signaled, Some(&signal(9)), None), 137);
        assert_eq!(exit_code(ExitReason::Signaled, Some(&signal(i32::MAX)), None), 125);
        assert_eq!(exit_code(ExitReason::Interrupted, Some(&code(0)), None), 130);
        assert_eq!(exit_code(ExitReason::Lost, None, None), 125);
        let missing = ErrorInfo { errno: Some(libc::ENOENT), ..ErrorInfo::default() };
        assert_eq!(exit_code(ExitReason::SpawnFailed, None, Some(&missing)), 127);
        assert_eq!(exit_code(ExitReason::SpawnFailed, None, None), 126);
    }
}
