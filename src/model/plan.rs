//! The plan: everything that is decided before a run begins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which kind of run this is: a name for a source, an executor and a number of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One plain command.
    #[default]
    Command,
    /// One prompt for a harness.
    Prompt,
    /// A mode of a later version.
    #[serde(other)]
    Unknown,
}

impl Mode {
    /// The word as it stands in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Prompt => "prompt",
            Self::Unknown => "unknown",
        }
    }
}

/// How the command's output gets into the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// The log itself is the command's standard output and error.
    #[default]
    File,
    /// Each stream goes through a pipe that both bookends hold.
    Pipe,
    /// The command has a pseudo-terminal.
    Tty,
}

/// What standard input of the command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// The null device.
    #[default]
    Null,
    /// What bookend itself was given.
    Inherit,
    /// The run's prompt.md.
    Prompt,
    /// The pseudo-terminal of `--tty`.
    Tty,
}

/// What an acknowledged run survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// A power cut: files and directories are flushed.
    #[default]
    Full,
    /// The death of any process, but not a power cut: nothing is flushed.
    Process,
}

/// The command of a task, exactly as it is executed: no shell, raw bytes.
#[derive(Clone, Debug, Default)]
pub struct CommandSpec {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Variables set for the command on top of bookend's own environment.
    pub env: Vec<(OsString, OsString)>,
    /// Standard input.
    pub stdin: Stdin,
}

/// The limits of a run; none means unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    /// Wall time of the command, paused time left out, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Time without any output, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<u64>,
    /// Cost, in millionths of a US dollar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost_micro_usd: Option<u64>,
    /// Tokens read and written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// Turns of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u64>,
    /// How often in a row the same error, or a step that uses and does nothing, is put up with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_repeats: Option<u32>,
}

/// The harness that does the task, where it is more than a plain command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HarnessPlan {
    /// Its name: one that bookend knows, or one of the configuration.
    pub name: String,
    /// The model it was told to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The session that was chosen beforehand, or is gone on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Whether its output should end with a word on how it went.
    pub declares: bool,
    /// Whether its exit code alone decides.
    pub trust_exit_code: bool,
}

/// All that is decided before a run begins.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Plan {
    /// The command of each task this run performs.
    #[serde(skip)]
    pub command: CommandSpec,
    /// A name for people; need not be unique.
    #[serde(skip)]
    pub name: Option<String>,
    /// Labels for filters.
    #[serde(skip)]
    pub labels: BTreeMap<String, String>,
    /// The kind of run.
    #[serde(skip)]
    pub mode: Mode,
    /// Tasks that may run at the same time.
    pub slots: usize,
    /// The harness, where it is more than a plain command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub harness: Option<HarnessPlan>,
    /// What is asked of it, or why nothing can be.
    #[serde(skip)]
    pub prompt: Option<Result<String, String>>,
    /// Limits.
    #[serde(flatten)]
    pub limits: Limits,
    /// Time between the first stop signal and SIGKILL, in milliseconds.
    pub grace_ms: u64,
    /// The signal that stops the command; none relays the one that came, or sends SIGTERM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
    /// How output is captured.
    pub capture: Capture,
    /// Whether both streams of the command are one: then their order is exact, and nobody can tell them apart.
    pub one_stream: bool,
    /// The most bytes of log that are kept, head and tail together.
    pub log_max_bytes: u64,
    /// What an acknowledged run survives.
    pub durability: Durability,
    /// Whether the run goes on without the caller's terminal.
    pub detach: bool,
}
