//! The one `status` word of a run: a phase while it lives, an outcome once it is over.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a run is doing, or how it ended. Words this version does not know read as `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Published, its command not yet started.
    Initializing,
    /// Its command runs.
    Running,
    /// A stop was asked for; the command has not ended yet.
    Stopping,
    /// Ended as asked.
    Completed,
    /// Ended by its own failure.
    Failed,
    /// Ended because someone or something stopped it.
    Stopped,
    /// Over, and nobody saw how.
    Lost,
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

impl Status {
    /// Whether the run is over.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Stopped | Self::Lost)
    }

    /// Whether the run goes on. A word of a later version says neither.
    #[must_use]
    pub fn is_living(self) -> bool {
        matches!(self, Self::Initializing | Self::Running | Self::Stopping)
    }

    /// The word as it stands in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}
