//! Arguments as they are typed: the commands, the arguments of `run`, and how values are read. Those of every other
//! command stand in its own file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::annotate::{LabelArgs, NoteArgs, PinArgs, RenameArgs};
use super::attach::AttachArgs;
use super::clean::CleanArgs;
use super::doctor::DoctorArgs;
use super::kill::KillArgs;
use super::logs::LogsArgs;
use super::ps::PsArgs;
use super::rm::RmArgs;
use super::schema::SchemaArgs;
use super::show::ShowArgs;
use super::stop::StopArgs;
use super::wait::WaitArgs;
use super::watch::WatchArgs;
use crate::model::id::RunId;
use crate::model::plan::Durability;
use crate::model::time::When;

/// Every run gets a beginning and an end: a true final record for agents and long commands.
#[derive(Debug, Parser)]
#[command(name = "bookend", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Examples:
  bookend run -- make test            run a command, keep its log and a record of how it ended
  bookend run --timeout 1h -d -- ./train.sh
  bookend ps                          what runs now
  bookend show latest                 how the last run ended, and why
  bookend kill --reason 'too slow' 4k7")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command and record how it ends
    Run(Box<RunArgs>),
    /// List runs
    Ps(PsArgs),
    /// Show how a run ended, or how it is doing
    Show(ShowArgs),
    /// Print the logs of runs
    Logs(LogsArgs),
    /// Watch runs live
    Watch(WatchArgs),
    /// Wait for runs to end, and exit as they did
    Wait(WaitArgs),
    /// Attach the terminal to a run that goes on
    Attach(AttachArgs),
    /// Stop runs, or pass them a signal
    Kill(KillArgs),
    /// Stop runs and wait for their end
    Stop(StopArgs),
    /// Give a run another name
    Rename(RenameArgs),
    /// Set labels of a run, or take them away
    Label(LabelArgs),
    /// Keep runs from being cleaned or removed
    Pin(PinArgs),
    /// Let runs be cleaned again
    Unpin(PinArgs),
    /// Put a note on a run
    Note(NoteArgs),
    /// Remove runs
    Rm(RmArgs),
    /// Remove finished runs, or their logs, by rules
    Clean(CleanArgs),
    /// Say what is wrong with the store and its place, and put it right
    Doctor(DoctorArgs),
    /// Print the JSON Schema of a record file
    Schema(SchemaArgs),
}

/// How output gets into the log, as it is typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CaptureArg {
    /// `file` with --quiet and room on the disk, else pipes
    #[default]
    Auto,
    /// Each stream through a pipe; the log knows which part came from which
    Pipe,
    /// The log itself is the command's output: nothing is copied, but `> /dev/stderr` truncates it
    File,
}

/// How much of a log is kept unless it is said otherwise.
pub const DEFAULT_LOG_MAX: u64 = 1 << 30;

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  bookend run -- make test
  bookend run --name nightly -l team=db --timeout 2h -- ./nightly.sh
  bookend run --tty -- python3                      an interactive program
  bookend run --harness claude --max-cost 2 'fix the failing test' -- --permission-mode acceptEdits
  id=$(bookend run -d -- ./serve); bookend logs -f \"$id\"

Exit code: the command's own; 128 + n when it died of signal n; 124 when a limit stopped it;
130, 143, ... when a signal stopped bookend; 125 when bookend failed; 126 and 127 when the command
could not be started.")]
pub struct RunArgs {
    /// A name for people; need not be unique
    #[arg(long)]
    pub name: Option<String>,
    /// A label KEY=VALUE, for filters; may be given several times
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub label: Vec<(String, String)>,
    /// Run the command in this directory
    #[arg(short = 'C', long = "directory", value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Set a variable of the command's environment; only its name is recorded
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = clap::builder::OsStringValueParser::new())]
    pub env: Vec<OsString>,
    /// Stop the command after this long, e.g. 90s, 10m, 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Stop the command when it prints nothing for this long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub idle_timeout: Option<Duration>,
    /// Time between the stop signal and SIGKILL [default: 10s, 5s when CI is set]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub grace: Option<Duration>,
    /// The signal that stops the command [default: the one that came, else TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = signal)]
    pub stop_signal: Option<i32>,
    /// Give the command bookend's standard input (default: nothing, or the terminal)
    #[arg(long)]
    pub stdin: bool,
    /// Give the command a terminal of its own, for interactive programs
    #[arg(short, long)]
    pub tty: bool,
    /// Return once the run is on disk, and print its id; the run goes on
    #[arg(short, long)]
    pub detach: bool,
    /// Print neither the command's output nor anything of bookend's but errors and what retention removed
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the final record as JSON on standard output, instead of the command's output
    #[arg(long)]
    pub json: bool,
    /// Print the run's id on standard output as soon as the run is on disk
    #[arg(long)]
    pub print_id: bool,
    /// Write the run's id to this file as soon as the run is on disk
    #[arg(long, value_name = "FILE")]
    pub id_file: Option<PathBuf>,
    /// Keep at most this much of the log, its head and tail, e.g. 64MiB; 64KiB at least [default: 1GiB]
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_LOG_MAX, hide_default_value = true, value_parser = size)]
    pub log_max: u64,
    /// How output gets into the log
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub capture: CaptureArg,
    /// What an acknowledged run survives: a power cut, or the death of any process
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub durability: Durability,
    /// The agent that does the task: claude, codex, gemini, opencode, aider, or auto
    #[arg(long, value_name = "NAME")]
    pub harness: Option<String>,
    /// The model it is told to use
    #[arg(long, value_name = "MODEL", requires = "asked")]
    pub model: Option<String>,
    /// Instructions that are added to its own: a text, or a file of it
    #[arg(long, value_name = "FILE|TEXT", requires = "asked")]
    pub system: Option<String>,
    /// What it is asked: a text, @FILE, or - for standard input
    #[arg(long, visible_alias = "direct", value_name = "TEXT|@FILE|-", group = "asked")]
    pub prompt: Option<String>,
    /// Let its exit code alone say how it went, not its own words
    #[arg(long, requires = "harness")]
    pub trust_exit_code: bool,
    /// Stop it when it has cost this many US dollars
    #[arg(long, value_name = "DOLLARS", value_parser = dollars)]
    pub max_cost: Option<u64>,
    /// Stop it when it has used this many tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_tokens: Option<u64>,
    /// Stop it when its model has had this many turns
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_turns: Option<u64>,
    /// The same as --prompt
    #[arg(value_name = "PROMPT", group = "asked")]
    pub words: Option<String>,
    /// The command and its arguments; with a prompt, more arguments for the harness
    #[arg(last = true, value_name = "COMMAND", value_parser = clap::builder::OsStringValueParser::new())]
    pub command: Vec<OsString>,
}

/// A name that a run is given afterwards: one line, and nothing that already means something else.
pub(super) fn name(text: &str) -> Result<String, String> {
    const LONGEST: usize = 200;
    let means_else = matches!(text, "latest" | "." | "..") || RunId::parse(text).is_some();
    match text {
        "" => Err("it is empty".to_owned()),
        _ if text.trim() != text => Err("it begins or ends with a blank".to_owned()),
        _ if text.chars().any(char::is_control) => Err("it holds a control character".to_owned()),
        _ if means_else || text.contains('/') => {
            Err("it would mean something else where a run is named".to_owned())
        }
        _ if text.len() > LONGEST => Err(format!("it is longer than {LONGEST} bytes")),
        _ => Ok(text.to_owned()),
    }
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not of the form KEY=VALUE".to_owned()),
    }
}

pub(super) fn json_fields(text: &str) -> Result<super::ps::Fields, String> {
    let known = super::schema::fields();
    let fields: Vec<String> =
        text.split(',').map(str::trim).filter(|f| !f.is_empty()).map(str::to_owned).collect();
    let top = |path: &String| path.split('.').next().unwrap_or_default().to_owned();
    match fields.iter().map(top).find(|top| !known.contains(top)) {
        Some(other) => Err(format!("records have no field {other:?}; there are {}", known.join(", "))),
        None => Ok(fields.into()),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    humantime::parse_duration(text).map_err(|_| "not a duration; write e.g. 90s, 10m, 2h".to_owned())
}

pub(super) fn when(text: &str) -> Result<When, String> {
    When::parse(text).ok_or_else(|| "write e.g. 90m, 2h, 30d, 2026-11-21, 2026-11-21T08:30:00Z".to_owned())
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    let parsed = text.parse::<bytesize::ByteSize>().map(|s| s.as_u64());
    parsed.map_err(|_| "not a size; write e.g. 500KiB, 64MiB, 1GiB".to_owned())
}

/// US dollars, as millionths.
pub(super) fn dollars(text: &str) -> Result<u64, String> {
    let amount: f64 =
        text.trim().trim_start_matches('$').parse().map_err(|_| "write e.g. 2.50".to_owned())?;
    if amount.is_finite() && amount > 0.0 && amount < 1e9 {
        Ok((amount * 1e6).round() as u64)
    } else {
        Err("write an amount above zero, e.g. 2.50".to_owned())
    }
}

pub(super) fn signal(text: &str) -> Result<i32, String> {
    crate::model::signal::number(text).ok_or_else(|| "no such signal; write e.g. INT, TERM, 15".to_owned())
}
