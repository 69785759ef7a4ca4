//! What somebody wants of a run that goes on: to stop, or to be passed a signal.

use libc::c_int;
use serde::{Deserialize, Serialize};

use super::outcome::ExitReason;
use super::record::EndedBy;
use super::time::Timestamp;

/// One line of `kill.jsonl`: who asked, why, and what for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Version of the format.
    pub schema: u32,
    /// When it was asked.
    pub at: Timestamp,
    /// Who asked, and why.
    pub by: EndedBy,
    /// What for.
    #[serde(flatten)]
    pub wish: Wish,
}

/// What an intent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// The run is to end.
    Stop {
        /// The signal that asks the command to end; none for the plan's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<c_int>,
        /// Milliseconds until SIGKILL; none for the plan's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
        /// Whether to kill at once.
        #[serde(default)]
        force: bool,
    },
    /// The command's group is to get this signal, and nothing else is to happen.
    Deliver(c_int),
}

impl Wish {
    /// What `kill -s SIGNAL` means: a stop for what asks or makes a process end, a delivery for all others.
    #[must_use]
    pub fn of_signal(signal: Option<c_int>, grace_ms: Option<u64>, force: bool) -> Self {
        match signal {
            Some(libc::SIGKILL) => Self::Stop { signal: None, grace_ms, force: true },
            Some(other) if ExitReason::of_stop_signal(other).is_none() => Self::Deliver(other),
            signal => Self::Stop { signal, grace_ms, force },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_stop_or_is_passed_on() {
        let stop = |signal, force| Wish::Stop { signal, grace_ms: None, force };
        assert_eq!(Wish::of_signal(None, None, false), stop(None, false));
        assert_eq!(Wish::of_signal(Some(libc::SIGINT), None, false), stop(Some(libc::SIGINT), false));
        assert_eq!(Wish::of_signal(Some(libc::SIGKILL), None, false), stop(None, true));
        assert_eq!(Wish::of_signal(Some(libc::SIGSTOP), None, false), Wish::Deliver(libc::SIGSTOP));
    }

    #[test]
    fn reads_what_it_writes_and_what_says_less() {
        for wish in [Wish::of_signal(Some(2), Some(5), true), Wish::Deliver(10)] {
            let intent = Intent { schema: 1, at: Timestamp::from_unix_ms(0), by: EndedBy::default(), wish };
            let text = serde_json::to_string(&intent).unwrap();
            assert_eq!(serde_json::from_str::<Intent>(&text).unwrap(), intent, "{text}");
        }
        let least = r#"{"schema":1,"at":"2026-11-21T14:04:10.000Z","by":{"actor":"user"},"stop":{}}"#;
        assert_eq!(serde_json::from_str::<Intent>(least).unwrap().wish, Wish::of_signal(None, None, false));
    }
}
