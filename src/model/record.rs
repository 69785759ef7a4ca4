//! What run.json, status.json and task.json hold. Field names are fixed; what is not known is absent.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::id::RunId;
use super::notes::Note;
use super::outcome::ExitReason;
use super::plan::{Capture, Mode, Plan, Stdin};
use super::status::Status;
use super::time::Timestamp;
use super::usage::Usage;

/// The version of the format that this program writes.
pub const SCHEMA: u32 = 1;

/// What the kernel said of a command's end: a code or a signal, never both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Exit {
    /// Exit code, 0 to 255.
    pub code: Option<i32>,
    /// Number of the signal it died of.
    pub signal: Option<i32>,
    /// Name of that signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal_name: Option<String>,
    /// Whether a core was dumped.
    pub core_dumped: bool,
}

impl Exit {
    /// An exit with a code.
    #[must_use]
    pub fn with_code(code: i32) -> Self {
        Self { code: Some(code), ..Self::default() }
    }

    /// Whether a process can have ended so: with a code or by a signal, and not both.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        match (self.code, self.signal) {
            (Some(code), None) => (0..=255).contains(&code),
            (None, Some(signal)) => (1..=64).contains(&signal),
            _ => false,
        }
    }

    /// A death by a signal.
    #[must_use]
    pub fn with_signal(signal: i32, core_dumped: bool) -> Self {
        Self { code: None, signal: Some(signal), signal_name: Some(super::signal::name(signal)), core_dumped }
    }
}

/// What kind of actor asked for an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// A key or hang-up of the controlling terminal.
    Terminal,
    /// Another process, by a signal.
    Process,
    /// A person or script, by `bookend kill`.
    User,
    /// bookend itself, by one of its rules.
    Bookend,
    /// The kernel or the machine.
    System,
    /// An actor of a later version.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Who ended a run, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EndedBy {
    /// The kind of actor.
    pub actor: Actor,
    /// Signal that asked for the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Process that sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// User of that process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Login name of that user, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Command name of that process, where it was still there to be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The reason given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Who wrote the final record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    /// A run without two bookends.
    Wrapper,
    /// The keeper, which runs the engine.
    Keeper,
    /// The front, after the keeper was gone.
    Front,
    /// A reader, after both were gone.
    Reader,
    /// An author of a later version.
    #[serde(other)]
    Unknown,
}

/// What went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ErrorInfo {
    /// One line: what was being done, to what, and what the system said.
    pub message: String,
    /// More lines, e.g. a panic's place or the end of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Number of the system's error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// File with the diagnostics, relative to the run directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diagnostics: Option<String>,
}

/// The command of a run as people and machines read it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CommandInfo {
    /// Program and arguments; bytes that are no UTF-8 are replaced here and kept in `argv_b64`, and what looks like a
    /// secret is replaced in both.
    pub argv: Vec<String>,
    /// How many secrets were left out of `argv`.
    #[serde(skip_serializing_if = "is_zero")]
    pub redacted: u64,
    /// The raw bytes of every argument in base64, where any is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv_b64: Option<Vec<String>>,
    /// Whether a shell was put in front; bookend never does.
    pub shell: bool,
    /// Working directory.
    #[schemars(with = "String")]
    pub cwd: Utf8PathBuf,
    /// Names of variables set for the command; values are never stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env_names: Vec<String>,
    /// What its standard input is.
    pub stdin: Stdin,
    /// Process id, once started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Start time of that process in clock ticks since boot, which tells it from a later one with its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The text of what was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PromptInfo {
    /// File, relative to the run directory.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A step of the run's life with its times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseStamp {
    /// The status that began.
    pub phase: Status,
    /// When, on the wall clock.
    pub at: Timestamp,
    /// When, in milliseconds since the run's start on the monotonic clock.
    pub elapsed_ms: u64,
}

/// Which processes own a run; together with host, boot and namespace this is proof of identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Owner {
    /// Process id of the keeper.
    pub pid: i32,
    /// Its start time in clock ticks since boot.
    pub start_time: u64,
    /// Process id of the front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub front_pid: Option<i32>,
    /// Its start time in clock ticks since boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub front_start_time: Option<u64>,
    /// Boot id of the machine.
    pub boot_id: String,
    /// Inode of the pid namespace.
    pub pid_namespace: u64,
    /// Version of bookend.
    pub version: String,
}

/// The user a run belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Login name, as the environment says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A check, hook or notification and its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Which one.
    pub id: String,
    /// How it went.
    pub status: StepStatus,
    /// What was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// All well.
    Pass,
    /// Worth a look.
    Warn,
    /// Not well.
    Fail,
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

/// What became of a process that the command left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It ended by itself while bookend waited for it.
    Ended,
    /// It ended after SIGTERM.
    Terminated,
    /// It ended after SIGKILL.
    Killed,
    /// It is alive: it could not be ended, or is not ours to end.
    Alive,
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

/// A process that was still there when the command had ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Leftover {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Its command line, shortened.
    pub argv: Vec<String>,
    /// What became of it.
    pub fate: Fate,
    /// Whether it is listed for holding the output open, without being a descendant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds_output: bool,
}

/// A stretch of the log that was dropped to keep to its size limit; the file has a hole there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// First dropped byte.
    pub offset: u64,
    /// Number of dropped bytes.
    pub bytes: u64,
}

/// The log of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LogInfo {
    /// File, relative to the run directory.
    pub path: String,
    /// How it was captured.
    pub capture: Capture,
    /// Bytes the log spans, dropped ones in the gap included.
    pub bytes: u64,
    /// Bytes the command wrote that are not in the log.
    pub dropped_bytes: u64,
    /// The stretch that was dropped to keep to the size limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// Index of which part came from which stream and when, relative to the run directory; absent where the command
    /// writes the log itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
}

/// What the command and its descendants used, as far as they were waited for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Resources {
    /// Processor time in user mode.
    pub user_seconds: f64,
    /// Processor time in the kernel.
    pub system_seconds: f64,
    /// Largest resident set of one process, in bytes.
    pub max_rss_bytes: u64,
}

/// A harness, and what it said of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HarnessInfo {
    /// Its name.
    pub name: String,
    /// Its version, where it says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The model it says it uses, or was told to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// A command line that goes on with that session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
    /// How it says that it went; absent where it said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declared: Option<DeclaredInfo>,
    /// Its final answer's file, relative to the run directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// Lines of its output that were not understood.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_understood: u64,
}

/// How a harness says that it went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DeclaredInfo {
    /// `success` or `error`.
    pub outcome: String,
    /// Why, for an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The line that said so, as it came.
    pub event: String,
}

/// That and how a reader sealed a run whose bookends were both gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reconciled {
    /// When.
    pub at: Timestamp,
    /// By which process.
    pub by: String,
    /// What it found.
    pub evidence: Vec<String>,
}

/// How many tasks a run had, and how they went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tasks {
    /// All of them.
    pub total: u64,
    /// Ended as asked.
    pub completed: u64,
    /// Failed by themselves.
    pub failed: u64,
    /// Stopped.
    pub stopped: u64,
    /// Never started.
    pub skipped: u64,
}

/// The record of a run: status.json while it lives, run.json once it is over.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Version of the format.
    pub schema: u32,
    /// The run.
    pub run_id: RunId,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels for filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The run this one was started in, or continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_run_id: Option<RunId>,
    /// The kind of run.
    #[serde(default)]
    pub mode: Mode,
    /// What it is doing, or how it ended.
    pub status: Status,
    /// Why it ended; absent while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_reason: Option<ExitReason>,
    /// Whether a second stop request forced the end.
    #[serde(default)]
    pub forced: bool,
    /// What the kernel said of the command's end; absent where nobody saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Exit code of `bookend run` and `bookend wait`; absent while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrapper_exit_code: Option<u8>,
    /// Where what the process did and what the harness declared say different things: how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<String>,
    /// Who stopped it, for a stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<EndedBy>,
    /// Who wrote the final record; absent while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<Author>,
    /// What the verdict rests on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// What was run.
    pub command: CommandInfo,
    /// What was decided before it began.
    #[serde(default)]
    pub plan: Plan,
    /// What was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptInfo>,
    /// When it began.
    pub started_at: Timestamp,
    /// When its end was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// The interval its end lies in, where nobody saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_between: Option<[Timestamp; 2]>,
    /// How long it took on the monotonic clock; absent where nobody measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
    /// Its life, step by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseStamp>,
    /// Host name.
    pub host: String,
    /// Whose run it is.
    pub user: User,
    /// Which processes own it.
    pub owner: Owner,
    /// What it runs inside: variables of a cluster or CI.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub engine: BTreeMap<String, String>,
    /// Its tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Tasks>,
    /// Checks before the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preflight: Vec<Step>,
    /// Processes that were still there when the command had ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<Leftover>,
    /// Its log.
    #[serde(default)]
    pub log: LogInfo,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The harness and what it said of itself, where it is more than a plain command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harness: Option<HarnessInfo>,
    /// What it used of models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// That a reader sealed it, and on what grounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciled: Option<Reconciled>,
    /// What bookend could not do as promised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// When status.json was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// When its output last grew, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_output_at: Option<Timestamp>,
    /// Since when the command is stopped by a signal such as Ctrl-Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_since: Option<Timestamp>,
    /// Whether the command lives on although both bookends are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphaned: Option<bool>,
    /// Whether it is kept from being cleaned. This and the next two are filled in by readers from notes.jsonl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// Notes of people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
    /// When its log was removed to save space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs_removed_at: Option<Timestamp>,
    /// Fields of later versions, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The one field that every version of every file has.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

/// Bytes that one line of a file of JSON lines may have: a text as long as an argument, each byte of it escaped.
pub const LINE_LIMIT: usize = 1 << 20;

/// Lines of a file of JSON lines that may be read; what is longer than any that bookend writes is passed over.
pub fn lines(bytes: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty() && line.len() <= LINE_LIMIT)
}

/// Values in a JSON text at most: one more than what separates them, outside of strings.
fn values_in(bytes: &[u8]) -> usize {
    let (mut values, mut in_string, mut escaped) = (1, false, false);
    for &byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

/// The record of one task.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskRecord {
    /// Version of the format.
    pub schema: u32,
    /// The task.
    pub task_id: String,
    /// Its title.
    pub title: String,
    /// How it ended.
    pub status: Status,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_reason: Option<ExitReason>,
    /// What the kernel said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When its end was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
    /// Which attempt this was, from 1.
    pub attempt: u32,
    /// Its log.
    #[serde(default)]
    pub log: LogInfo,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// Fields of later versions, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Values that a record may hold: each argument of the longest command line, and each once more in base64.
const VALUES_LIMIT: usize = 1 << 21;

impl Record {
    /// Reads a record of this version or a later one.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        // Values of unknown fields take many times the memory that they take on the disk.
        if values_in(bytes) > VALUES_LIMIT {
            return Err(format!("it holds more than {VALUES_LIMIT} values"));
        }
        match serde_json::from_slice::<Self>(bytes) {
            Ok(record) if record.schema == 0 => Err("its schema is 0, which there never was".to_owned()),
            Ok(record) => Ok(record),
            Err(e) => Err(match serde_json::from_slice::<Version>(bytes) {
                Ok(found) if found.schema > SCHEMA => {
                    format!("its schema is {}, of a later version: {e}", found.schema)
                }
                _ => e.to_string(),
            }),
        }
    }

    /// Whether a later version of bookend wrote it: it is read and never written over.
    #[must_use]
    pub fn is_of_later_version(&self) -> bool {
        self.schema > SCHEMA
    }

    /// The task record of a one-task run: the same end, seen from the task.
    #[must_use]
    pub fn only_task(&self) -> TaskRecord {
        TaskRecord {
            schema: SCHEMA,
            task_id: "main".to_owned(),
            title: self.command.argv.join(" ").chars().take(200).collect(),
            status: self.status,
            exit_reason: self.exit_reason,
            exit: self.exit.clone(),
            started_at: Some(self.started_at),
            completed_at: self.completed_at,
            duration_seconds: self.duration_seconds,
            attempt: 1,
            log: self.log.clone(),
            error: self.error.clone(),
            extra: Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_values_outside_of_strings() {
        // Six; what is empty counts for one more, as a bound may.
        assert_eq!(values_in(br#"{"a":[1,2,"x,[{\"y,"],"b":{}}"#), 7);
        let many = format!("{{\"schema\":1,\"later\":[{}0]}}", "0,".repeat(VALUES_LIMIT));
        assert!(Record::parse(many.as_bytes()).unwrap_err().contains("values"));
    }

    #[test]
    fn says_what_is_wrong_with_a_record() {
        let wrong = |text: &str| Record::parse(text.as_bytes()).unwrap_err();
        assert!(wrong(r#"{"schema":2,"run_id":7}"#).starts_with("its schema is 2, of a later version"));
        assert!(!wrong(r#"{"schema":1,"run_id":7}"#).contains("later version"));
        assert!(wrong(r#"{"schema":-1}"#).contains("-1"));
        assert!(wrong("").contains("EOF"));
    }

    #[test]
    fn passes_over_lines_that_nobody_writes() {
        let long = "x".repeat(LINE_LIMIT + 1);
        let text = format!("a\n\n{long}\nb");
        assert_eq!(lines(text.as_bytes()).collect::<Vec<_>>(), [b"a", b"b"]);
    }
}
