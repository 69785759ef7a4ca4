//! `bookend attach`.

pub mod keys;
mod line;
mod output;
mod visit;

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};

use clap::Args;
use nix::sys::stat::SFlag;

use super::error::{FAILED, Failure, INTERNAL};
use super::{Done, look, pick, say};
use crate::disk;
use crate::guard::reconcile::Reading;
use crate::model::id::RunId;
use crate::model::plan::Capture;
use crate::model::record::Record;
use crate::model::status::Status;
use crate::process::{pty, tree};
use crate::signals::Signals;
use crate::store::Store;
use crate::store::watch::Watch;
use crate::terminal::Terminal;
use crate::view::words;
use keys::{DetachKeys, Finder};
use line::Line;
use output::Output;
use visit::{Left, State, Visit};

/// Arguments of `attach`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend run -d --tty -- bash; bookend attach latest
  bookend attach --no-stdin 4k7               look, do not touch
  bookend attach --detach-keys ctrl-],q 4k7

A run with a terminal of its own (--tty) gets every key, Ctrl-C and Ctrl-Z included, and the size of this
window. A plain run has its own input: Ctrl-C asks it to stop, a second one kills it; what is typed else
is nobody's. The detach keys leave a run and let it go on. Where standard input is no terminal, it is passed
on to a run with a terminal, and Ctrl-C ends only attach.

Exit code: that of the run when it ends, or has ended before; 0 when it was left.")]
pub struct AttachArgs {
    /// The run
    pub run: String,
    /// Keys that leave the run, as docker writes them; empty: none do
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = DetachKeys::parse)]
    pub detach_keys: DetachKeys,
    /// Pass nothing on, neither keys nor the window's size
    #[arg(long)]
    pub no_stdin: bool,
}

/// Lines of a plain run's log that are shown first.
const TAIL_LINES: u64 = 10;
/// Rows of a window that nobody knows the size of.
const USUAL_ROWS: u64 = 24;

/// Attaches the caller's terminal, or what else its standard streams are, to a run.
///
/// # Errors
/// No such run, or one that can not be read.
pub fn run(args: &AttachArgs) -> Result<Done, Failure> {
    let (store, id) = pick::one(&args.run)?;
    if std::env::var(tree::MARK).is_ok_and(|inside| inside == id.as_str()) {
        let hint = "what it prints would be shown to it, without end";
        return Err(Failure::new(FAILED, format!("attaching to run {id} from inside of it"), hint));
    }
    let signals = Signals::block();
    let signals = signals.map_err(|e| unable(&id, &format!("preparing to receive signals: {e}")))?;
    match pick::read(&store, &id)? {
        Reading::Unclear(_, why) => Err(unable(&id, &why)),
        Reading::Final(record) => look_back(&store, &id, &record),
        Reading::Living(record) | Reading::Orphaned(record, _) => {
            let mut visit = arrive(args, &store, &id, record, signals)?;
            let left = visit.stay()?;
            Ok(depart(&visit.record, left))
        }
    }
}

fn unable(id: &RunId, why: &str) -> Failure {
    Failure::new(FAILED, format!("attaching to run {id}: {why}"), format!("bookend show {}", id.short()))
}

/// The end of a run that is over: its last lines, its verdict, its exit code.
fn look_back(store: &Store, id: &RunId, record: &Record) -> Result<Done, Failure> {
    let dir = store.open_run(id)?;
    // Its terminal is gone, and with it the reason to show its text as it is.
    if let Ok(mut output) = Output::open(&dir, record, TAIL_LINES, std::io::stdout().is_terminal()) {
        while let Ok(bytes) = output.next()
            && !bytes.is_empty()
        {
            super::print(&bytes)?;
        }
    }
    say(&format!("run {id} is over already: {}", words::state(record, &look())));
    Ok(Done::with(record.wrapper_exit_code.unwrap_or(INTERNAL)))
}

/// Prepares a visit and says how to leave.
fn arrive<'a>(
    args: &AttachArgs,
    store: &'a Store,
    id: &'a RunId,
    record: Box<Record>,
    signals: Signals,
) -> Result<Visit<'a>, Failure> {
    let failed = |e: std::io::Error| unable(id, &e.to_string());
    let terminal = Terminal::of_stdin().filter(|_| !args.no_stdin);
    let tty = record.log.capture == Capture::Tty;
    // The watch comes before the first look at the log, so that nothing falls between the two.
    let watch = Watch::of_run(store, id);
    let dir = store.open_run(id).map_err(failed)?;
    let rows = terminal.as_ref().and_then(|t| pty::size(t.handle())).map_or(USUAL_ROWS, |s| s.ws_row.into());
    let lines = if tty { rows } else { TAIL_LINES };
    let is_shown = std::io::stdout().is_terminal();
    let modes = Output::modes(&dir, &record, lines).map_err(failed)?;
    let output = Output::open(&dir, &record, lines, is_shown && !tty).map_err(failed)?;
    let outlet = outlet().map_err(failed)?;
    greet(args, id, &record, terminal.is_some());
    Ok(Visit {
        store,
        id,
        record,
        signals,
        passes_input: !args.no_stdin,
        terminal,
        finder: Finder::new(args.detach_keys.clone()),
        watch,
        output,
        outlet,
        is_shown,
        modes,
        line: Line::to(dir),
        state: State::default(),
    })
}

fn greet(args: &AttachArgs, id: &RunId, record: &Record, has_keys: bool) {
    let leaves = match args.detach_keys.name.as_str() {
        _ if !has_keys => String::new(),
        "" => "; no keys leave it".to_owned(),
        keys => format!("; {keys} leaves it"),
    };
    let stops = if has_keys && record.log.capture != Capture::Tty { ", Ctrl-C stops it" } else { "" };
    say(&format!("attached to run {id} ({}){leaves}{stops}", words::state(record, &look())));
}

/// Standard output, without waiting for whoever reads it where that can be arranged.
fn outlet() -> std::io::Result<OwnedFd> {
    let out = std::io::stdout();
    let kind = disk::kind_of(out.as_fd());
    let anew = kind == SFlag::S_IFIFO || kind == SFlag::S_IFCHR;
    let reopened = if anew { disk::reopen_nonblocking(out.as_fd()).ok() } else { None };
    reopened.map_or_else(|| out.as_fd().try_clone_to_owned(), Ok)
}

fn depart(record: &Record, left: Left) -> Done {
    match left {
        Left::Over(record) => {
            let _ = std::io::stdout().flush();
            crate::terminal::say(&format!("{}\n", words::verdict(&record)));
            Done::with(record.wrapper_exit_code.unwrap_or(INTERNAL))
        }
        Left::Detached => {
            let doing = if record.status == Status::Stopping { "is stopping" } else { "goes on" };
            let short = record.run_id.short();
            say(&format!("left run {}, which {doing}; bookend attach {short} comes back", record.run_id));
            Done::with(0)
        }
        Left::Unread => Done::with(0),
        Left::Signalled(number) => {
            Done { code: u8::try_from(128 + number).unwrap_or(FAILED), die_of: Some(number) }
        }
    }
}
