//! `bookend run`.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;

use super::args::RunArgs;
use super::ask;
use super::error::{Failure, INTERNAL};
use super::plan::{Surroundings, check, plan};
use super::retain::Voice;
use super::{Done, note_attempt, retain};
use crate::disk;
use crate::engine::begin::{self, BeginError, Prepared};
use crate::engine::detach::{self, Detached, Report};
use crate::engine::echo::Echo;
use crate::engine::front::{Finished, Presence};
use crate::model::id::RunId;
use crate::model::plan::Plan;
use crate::model::record::SCHEMA;
use crate::redact;
use crate::signals::Signals;
use crate::store::run_dir::RECORD;
use crate::store::{Store, is_set};
use crate::terminal::{self, Terminal};

/// With less space than this the command is not given the log itself.
const TIGHT_BYTES: u64 = 64 << 20;

/// Runs a command.
///
/// # Errors
/// Refused arguments, and a run that could not begin.
pub fn run(args: RunArgs, argv: &[OsString]) -> Result<Done, Failure> {
    let umask = shed_inheritance();
    let signals = Signals::block()
        .map_err(|e| Failure::new(INTERNAL, format!("preparing to receive signals: {e}"), "try again"))?;
    check(&args).inspect_err(|failure| note_attempt(argv, &failure.message))?;
    let store = Store::open_or_create().map_err(|e| no_run(&args.command, Failure::from(e)))?;
    let terminal = Terminal::of_stdin();
    let around = look_around(&store, terminal.as_ref());
    let asked = ask::asked(&args).inspect_err(|failure| note_attempt(argv, &failure.message))?;
    if let Some(asked) = asked.as_ref().filter(|asked| !asked.added.is_empty() && !args.quiet) {
        tell(&format!("bookend: added {}, so that {} is understood", asked.added.join(" "), asked.plan.name));
    }
    let plan =
        plan(&args, asked.as_ref(), around).inspect_err(|failure| note_attempt(argv, &failure.message))?;
    let prepared =
        begin::prepare(&store, plan.clone(), asked.map(|asked| asked.harness), signals, terminal, umask);
    let mut prepared = prepared.map_err(|e| no_run(&args.command, explain(e)))?;
    prepared.announce(!args.quiet || args.print_id || args.id_file.is_some() || args.detach);
    if plan.detach { detached(args, prepared, &store) } else { attached(args, &plan, prepared, &store) }
}

/// Lets go of what the caller left open, and makes own files private. Gives back the mask the command gets.
fn shed_inheritance() -> u32 {
    // SAFETY: a plain system call; nothing of ours but the standard streams is open yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    let private = nix::sys::stat::Mode::from_bits_truncate(0o077);
    nix::sys::stat::umask(private).bits()
}

fn look_around(store: &Store, terminal: Option<&Terminal>) -> Surroundings {
    Surroundings {
        one_output: disk::same_place(std::io::stdout().as_fd(), std::io::stderr().as_fd()),
        keyboard: terminal.is_some_and(Terminal::is_foreground),
        ci: is_set("CI"),
        tight_disk: disk::free_space(store.dir()).is_ok_and(|free| free < TIGHT_BYTES),
    }
}

/// A run that could not begin leaves its record where it still can: on standard error.
fn no_run(command: &[OsString], failure: Failure) -> Failure {
    let said: Vec<String> = command.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let (argv, _) = redact::argv(&said);
    let line = serde_json::json!({
        "schema": SCHEMA, "status": "failed", "exit_reason": "internal_error", "wrapper_exit_code": INTERNAL,
        "at": crate::clock::now(), "error": { "message": failure.message }, "command": { "argv": argv }
    });
    tell(&line.to_string());
    failure.with_code(INTERNAL)
}

fn explain(error: BeginError) -> Failure {
    let message = error.to_string();
    let errno = match &error {
        BeginError::Store(e) => return Failure::new(INTERNAL, message, e.hint()),
        BeginError::Dir(e) => e.source.raw_os_error(),
        BeginError::Publish { source, .. } | BeginError::System { source, .. } => source.raw_os_error(),
    };
    let hint = match errno {
        Some(libc::ENOSPC | libc::EDQUOT) => "free some space, or set BOOKEND_STORE to another disk",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n)",
        Some(libc::EAGAIN | libc::ENOMEM) => "the system is out of processes or memory: try again later",
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            "make the store writable for you, or set BOOKEND_STORE to a directory that is"
        }
        Some(libc::ENOTDIR) => "something in the store is in the way: move it, or set BOOKEND_STORE",
        _ => "the command was not started; try again, or set BOOKEND_STORE to another directory",
    };
    Failure::new(INTERNAL, message, hint)
}

fn attached(args: RunArgs, plan: &Plan, prepared: Prepared, store: &Store) -> Result<Done, Failure> {
    let id = prepared.id().clone();
    let shows = !(args.quiet || args.json);
    let echo = shows.then(|| prepared.echo(plan.capture)).transpose();
    let echo = echo.map_err(|e| {
        prepared.discard();
        Failure::new(INTERNAL, format!("preparing to show the output: {e}"), "raise the limit of open files")
    })?;
    let (quiet, json, said_id) = (args.quiet, args.json, id.clone());
    let presence = Presence {
        echo,
        says: !quiet,
        passes_input: args.stdin,
        on_published: Box::new(move || announce(&args, &said_id)),
        ..Presence::absent()
    };
    let begun = begin::begin(prepared, presence);
    let finished = begun.map_err(|e| no_run(&plan.command.argv, explain(e)))?;
    if json {
        print_record(store, &id);
    }
    if !quiet || finished.trouble {
        say(&finished);
    }
    if finished.die_of.is_none() {
        retain::after_run(store, if quiet { Voice::Removals } else { Voice::Full });
    }
    Ok(Done { code: finished.code, die_of: finished.die_of })
}

/// Says that something could not be put on standard output; the run itself is not hurt by that.
fn report_unwritten(printed: Result<(), Failure>) {
    if let Err(failure) = printed {
        tell(&format!("bookend: note: {}", failure.message));
    }
}

fn say(finished: &Finished) {
    if !finished.verdict.is_empty() {
        tell(&finished.verdict);
    }
}

/// Says something on standard error in one write: half a line would be a wrong one.
fn tell(text: &str) {
    terminal::say(&format!("{text}\n"));
}

/// Says the run's id wherever it was asked for.
fn announce(args: &RunArgs, id: &RunId) {
    if !args.quiet {
        tell(&format!("bookend: run {id}"));
    }
    if args.print_id {
        report_unwritten(super::print(format!("{id}\n").as_bytes()));
    }
    write_id_file(args, id);
}

fn write_id_file(args: &RunArgs, id: &RunId) {
    if let Some(path) = &args.id_file
        && let Err(e) = std::fs::write(path, format!("{id}\n"))
    {
        let _ = writeln!(std::io::stderr(), "bookend: note: writing the run's id to {}: {e}", path.display());
    }
}

fn print_record(store: &Store, id: &RunId) {
    let bytes = store.open_run(id).and_then(|dir| disk::read_at(dir, RECORD));
    if let Ok(bytes) = bytes {
        report_unwritten(super::print(&bytes));
    }
}

/// Starts a run that goes on without the caller, and returns once it is on disk.
fn detached(args: RunArgs, prepared: Prepared, store: &Store) -> Result<Done, Failure> {
    let id = prepared.id().clone();
    let split = detach::detach().map_err(|e| {
        prepared.discard();
        Failure::new(INTERNAL, format!("detaching from the terminal: {e}"), "try again later")
    })?;
    match split {
        Detached::Visible(trouble) if trouble.is_empty() => {
            let path = store.path.join("runs").join(id.as_str());
            let said = if args.json {
                serde_json::json!({ "schema": SCHEMA, "run_id": id, "path": path }).to_string()
            } else {
                id.to_string()
            };
            if let Err(failure) = super::print(format!("{said}\n").as_bytes()) {
                tell(&format!("bookend: note: run {id} goes on, but {}", failure.message));
            }
            write_id_file(&args, &id);
            if !args.quiet {
                tell(&format!("bookend: next: bookend logs -f {}", id.short()));
            }
            Ok(Done::with(0))
        }
        Detached::Visible(trouble) => {
            let (message, hint) = trouble.split_once('\n').unwrap_or((&trouble, "try again"));
            Err(no_run(&args.command, Failure::new(INTERNAL, message, hint)))
        }
        Detached::Background(report) => Ok(watch(prepared, report, store)),
    }
}

/// The life of a detached run's front.
fn watch(prepared: Prepared, report: Report, store: &Store) -> Done {
    let report = std::rc::Rc::new(std::cell::RefCell::new(report));
    let published = std::rc::Rc::clone(&report);
    let presence =
        Presence { on_published: Box::new(move || published.borrow_mut().published()), ..Presence::absent() };
    let done = match begin::begin(prepared, presence) {
        Ok(finished) => {
            report.borrow_mut().refused(&finished.verdict);
            retain::after_run(store, Voice::None);
            finished.code
        }
        Err(e) => {
            let failure = explain(e);
            let hint = failure.hint.unwrap_or_default();
            report.borrow_mut().refused(&format!("{}\n{hint}", failure.message));
            INTERNAL
        }
    };
    Done::with(done)
}

impl Prepared {
    /// The echo of this run's output to our standard streams.
    fn echo(&self, capture: crate::model::plan::Capture) -> std::io::Result<Echo> {
        let (log, index, ledger) = self.output();
        Echo::new(log, index, capture, ledger)
    }
}
