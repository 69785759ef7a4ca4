//! The beginning: makes the run, splits into the two bookends, and sets each to its work.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use camino::Utf8PathBuf;
use thiserror::Error;

use super::backlog::Backlog;
use super::front::{Finished, Presence};
use super::guests::Guests;
use super::hands::{Ends, Hands, settle_in};
use super::leftovers::Leftovers;
use super::listener::Listener;
use crate::clock;
use crate::failpoint;
use crate::guard::RunGuard;
use crate::guard::partner::{self, Link, Message, Side};
use crate::harness::Harness;
use crate::ledger::Ledger;
use crate::machine::{Event, RunMachine};
use crate::model::id::RunId;
use crate::model::plan::{Capture, Plan};
use crate::model::record::{Author, CommandInfo, LogInfo, Owner, PromptInfo, Record, SCHEMA, User};
use crate::model::status::Status;
use crate::model::time::Timestamp;
use crate::process::identity::{self, Place};
use crate::process::marks::Marks;
use crate::process::pty::Pty;
use crate::process::pump::{self, Pump};
use crate::redact;
use crate::signals::Signals;
use crate::store::door;
use crate::store::log::Log;
use crate::store::run_dir::{INDEX, LOG, PROMPT, RunDir, RunDirError};
use crate::store::{RUNS, Store, StoreError};
use crate::terminal::Terminal;
use crate::view::quote;

/// Variables that say what a run is inside of; their values are recorded.
const ENGINE: [&str; 12] = [
    "CI",
    "GITHUB_RUN_ID",
    "GITHUB_JOB",
    "GITLAB_CI",
    "CI_JOB_ID",
    "BUILD_ID",
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_CLUSTER_NAME",
    "SLURMD_NODENAME",
];

/// Why a run could not begin. Nothing is on disk then.
#[derive(Debug, Error)]
pub enum BeginError {
    /// The store can not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run's directory can not be made.
    #[error(transparent)]
    Dir(#[from] RunDirError),
    /// The run's directory can not be put in its place.
    #[error("making run directory {path}: {source}")]
    Publish {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refused something else.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn failed(doing: &'static str) -> impl FnOnce(std::io::Error) -> BeginError {
    move |source| BeginError::System { doing, source }
}

/// A run that is prepared and not yet published.
pub struct Prepared {
    hands: Hands,
    terminal: Option<Terminal>,
    pty: Option<std::os::fd::OwnedFd>,
    path: PathBuf,
}

impl Prepared {
    /// The run's id.
    #[must_use]
    pub fn id(&self) -> &RunId {
        &self.hands.guard.dir.id
    }

    /// What an echo of the output follows: the log, its index, and the ledger.
    #[must_use]
    pub fn output(&self) -> (&File, Option<&File>, &'static Ledger) {
        let guard = &self.hands.guard;
        (&guard.dir.log, guard.dir.index.as_deref(), guard.ledger)
    }

    /// Says whether the front wants to know that the run is on disk.
    pub fn announce(&mut self, wanted: bool) {
        self.hands.announces = wanted;
    }

    /// Takes the run back.
    pub fn discard(&self) {
        self.hands.guard.dir.discard();
    }
}

/// Makes everything a run needs, under a name that no reader sees yet.
///
/// # Errors
/// [`BeginError`]; nothing is left behind then.
pub fn prepare(
    store: &Store,
    mut plan: Plan,
    harness: Option<Harness>,
    signals: Signals,
    terminal: Option<Terminal>,
    umask: u32,
) -> Result<Prepared, BeginError> {
    let (now, started) = (clock::now(), clock::moment());
    let ledger = Ledger::map().map_err(failed("mapping the ledger"))?;
    let (ends, sources, pty) = wire(&plan, terminal.as_ref())?;
    let dir = create(store, &plan, now)?;
    let (log, index) = (Rc::clone(&dir.log), dir.index.clone());
    let path = store.path.join(RUNS).join(dir.id.as_str());
    for arg in plan.command.argv.iter_mut().filter(|arg| plan.prompt.is_some() && **arg == "{prompt_file}") {
        *arg = path.join(PROMPT).into_os_string();
    }
    let mut record = describe(&plan, &dir, store.uid, now);
    let guests = open_door(&plan, &dir, &mut record);
    let limit = plan.log_max_bytes;
    let marks = index.map(|index| Marks::new(index, ledger, started, limit));
    let pump = Pump::new(sources, log, marks, ledger, plan.capture == Capture::Pipe, limit);
    let listener = harness.and_then(|harness| listener(&dir, &record, harness));
    let hands = Hands {
        guard: RunGuard::new(dir, record, ledger, started),
        plan,
        link: None,
        partner_below: None,
        signals,
        pump,
        ends: Some(ends),
        command: None,
        umask,
        own_stops: 0,
        queue: std::collections::VecDeque::new(),
        watch: None,
        blind: false,
        forked_later: false,
        fetched: 0,
        backlog: Backlog::default(),
        leftovers: Leftovers::default(),
        childless: false,
        announces: true,
        listener,
        guests,
    };
    Ok(Prepared { hands, terminal, pty, path })
}

/// Makes the door through which others may type on the command's terminal, where it has one.
fn open_door(plan: &Plan, dir: &RunDir, record: &mut Record) -> Option<Guests> {
    if plan.capture != Capture::Tty {
        return None;
    }
    let door = door::open(dir.dir()).map_err(|e| {
        record.degraded.push(format!("nobody can attach to it: making a socket in its directory: {e}"));
    });
    door.ok().map(Guests::behind)
}

/// An ear at the run's log, for a run of a harness.
fn listener(dir: &RunDir, record: &Record, harness: Harness) -> Option<Listener> {
    let program = record.command.argv.first().cloned().unwrap_or_default();
    Some(Listener::new(Log::open(dir.dir(), Some(record)).ok()?, harness, program))
}

/// What a command's output goes through: its ends, ours, and one to type on.
pub(super) type Wires = (Ends, [Option<std::os::fd::OwnedFd>; 2], Option<std::os::fd::OwnedFd>);

/// Makes what the output goes through.
pub(super) fn wire(plan: &Plan, terminal: Option<&Terminal>) -> Result<Wires, BeginError> {
    match plan.capture {
        Capture::File => Ok((Ends::Log, [None, None], None)),
        Capture::Pipe if plan.one_stream => {
            let (read, write) = pump::pipe().map_err(failed("making a pipe"))?;
            let both = write.try_clone().map_err(failed("keeping a handle on a pipe"))?;
            Ok((Ends::Pipes(write, both), [Some(read), None], None))
        }
        Capture::Pipe => {
            let (out_read, out_write) = pump::pipe().map_err(failed("making a pipe"))?;
            let (err_read, err_write) = pump::pipe().map_err(failed("making a pipe"))?;
            Ok((Ends::Pipes(out_write, err_write), [Some(out_read), Some(err_read)], None))
        }
        Capture::Tty => {
            let size = terminal.and_then(|t| crate::process::pty::size(t.handle()));
            let pty = Pty::open(size, terminal.map(Terminal::modes));
            let pty = pty.map_err(failed("opening a pseudo-terminal"))?;
            let typing = pty.ours.try_clone().map_err(failed("keeping a handle on the pseudo-terminal"))?;
            Ok((Ends::Tty(pty.theirs), [Some(pty.ours), None], Some(typing)))
        }
    }
}

/// Makes the run's directory; an id that is taken is tried again with other random digits.
fn create(store: &Store, plan: &Plan, now: Timestamp) -> Result<RunDir, BeginError> {
    const TRIES: u32 = 8;
    let mut tries = 0;
    loop {
        tries += 1;
        let id = RunId::new(now, clock::random());
        match RunDir::create(store, id, plan.capture, plan.durability) {
            Err(e) if e.source.kind() == std::io::ErrorKind::AlreadyExists && tries < TRIES => {}
            other => return Ok(other?),
        }
    }
}

/// The record as far as it is known before the start.
fn describe(plan: &Plan, dir: &RunDir, uid: u32, now: Timestamp) -> Record {
    let spec = &plan.command;
    let said: Vec<String> = spec.argv.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let (argv, redacted) = redact::argv(&said);
    let place = Place::here();
    let log = LogInfo {
        path: LOG.to_owned(),
        capture: plan.capture,
        index: (plan.capture != Capture::File).then(|| INDEX.to_owned()),
        ..LogInfo::default()
    };
    Record {
        schema: SCHEMA,
        run_id: dir.id.clone(),
        name: plan.name.clone(),
        labels: plan.labels.clone(),
        parent_run_id: env::var(crate::process::tree::MARK).ok().and_then(|id| RunId::parse(&id)),
        mode: plan.mode,
        status: Status::Initializing,
        exit_reason: None,
        forced: false,
        exit: None,
        wrapper_exit_code: None,
        ended_by: None,
        author: None,
        evidence: Vec::new(),
        error: None,
        command: CommandInfo {
            argv_b64: raw_argv(&spec.argv, &said, &argv),
            argv,
            redacted,
            shell: false,
            cwd: Utf8PathBuf::from(spec.cwd.to_string_lossy().into_owned()),
            env_names: spec.env.iter().map(|(n, _)| n.to_string_lossy().into_owned()).collect(),
            stdin: spec.stdin,
            pid: None,
            start_time: None,
        },
        plan: plan.clone(),
        prompt: None,
        started_at: now,
        completed_at: None,
        ended_between: None,
        duration_seconds: None,
        phases: Vec::new(),
        host: place.host,
        user: User {
            uid,
            name: env::var("LOGNAME").or_else(|_| env::var("USER")).ok().filter(|n| !n.is_empty()),
        },
        owner: Owner {
            boot_id: place.boot_id,
            pid_namespace: place.pid_namespace,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Owner::default()
        },
        engine: engine(),
        tasks: None,
        preflight: Vec::new(),
        leftovers: Vec::new(),
        log,
        resources: None,
        usage: None,
        harness: None,
        mismatch: None,
        reconciled: None,
        degraded: Vec::new(),
        updated_at: None,
        last_output_at: None,
        paused_since: None,
        orphaned: None,
        pinned: None,
        notes: Vec::new(),
        logs_removed_at: None,
        extra: serde_json::Map::new(),
    }
}

fn engine() -> BTreeMap<String, String> {
    ENGINE.iter().filter_map(|name| Some(((*name).to_owned(), env::var(name).ok()?))).collect()
}

/// The raw bytes of every argument, where any is no UTF-8; those that hold a secret stay redacted.
fn raw_argv(argv: &[OsString], said: &[String], clean: &[String]) -> Option<Vec<String>> {
    let bytes = |((raw, said), clean): ((&OsString, &String), &String)| {
        if said == clean { base64(raw.as_bytes()) } else { base64(clean.as_bytes()) }
    };
    let is_raw = argv.iter().any(|arg| arg.to_str().is_none());
    is_raw.then(|| argv.iter().zip(said).zip(clean).map(bytes).collect())
}

/// Standard base64 with padding, for the few arguments that are no UTF-8.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at)) as usize & 63] as char;
            text.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// Splits into the two bookends. The keeper does its work and ends in here; the front returns with the run's end.
///
/// # Errors
/// When there can not be two bookends; nothing is left behind then.
pub fn begin(prepared: Prepared, mut presence: Presence) -> Result<Finished, BeginError> {
    let Prepared { mut hands, terminal, pty, path } = prepared;
    let ledger = hands.guard.ledger;
    let (link, keeper_link) = match ready_to_split() {
        Ok(links) => links,
        Err(e) => {
            hands.guard.dir.discard();
            return Err(e);
        }
    };
    let front = identity::own_stat();
    note_panics(hands.guard.ledger);
    match partner::split() {
        Ok(Side::Parent(pid)) => {
            drop(keeper_link);
            hands.link = Some(link);
            hands.ends = None;
            presence.terminal = terminal;
            presence.pty = pty;
            let finished = front_life(hands, pid, presence);
            finished.refused.map_or(Ok(finished), |errno| {
                let source = std::io::Error::from_raw_os_error(errno);
                Err(BeginError::Publish { path, source })
            })
        }
        Ok(Side::Child) => {
            let Presence { on_published, echo, .. } = presence;
            drop((link, pty, echo));
            // Whoever waits for a detached run is told by both bookends, so that one is enough.
            let announce = hands.plan.detach.then_some(on_published);
            hands.link = Some(keeper_link);
            hands.guard.record.owner.front_pid = front.map(|s| s.pid);
            hands.guard.record.owner.front_start_time = front.map(|s| s.start_time);
            let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let front_died = keep(hands, announce);
                if let Some(terminal) = terminal.filter(|_| front_died && ledger.raw.load(Ordering::SeqCst)) {
                    terminal.restore_for_front();
                }
            }));
            // SAFETY: the keeper's work is done, or its unwinding has sealed the run; the stack above belongs to
            // the front and must not be unwound a second time.
            unsafe { libc::_exit(i32::from(kept.is_err())) }
        }
        Err(source) => {
            hands.guard.dir.discard();
            Err(BeginError::System { doing: "forking the keeper", source })
        }
    }
}

fn ready_to_split() -> Result<(Link, Link), BeginError> {
    partner::become_subreaper().map_err(failed("becoming a subreaper"))?;
    failpoint::hit("front.start");
    Link::pair().map_err(failed("making the bookends' link"))
}

/// Keeps what a panic says where the other bookend can read it.
fn note_panics(ledger: &'static Ledger) {
    std::panic::set_hook(Box::new(move |info| {
        ledger.panic.set(&format!("bookend panicked: {info}"));
    }));
}

/// The front's life: its own failure must not lose the run.
fn front_life(mut hands: Hands, keeper: i32, presence: Presence) -> Finished {
    let watch = std::panic::AssertUnwindSafe(|| super::front::watch(&mut hands, Some(keeper), presence));
    let watched = std::panic::catch_unwind(watch);
    failpoint::hit("front.end");
    if let Ok(finished) = watched {
        // The process ends soon, and the kernel lets go of everything in one call.
        std::mem::forget(hands);
        return finished;
    }
    let message = hands.guard.ledger.panic.get().unwrap_or_default();
    hands.send(&Message::Panicked { message });
    let _ = crate::process::wait::wait_for(keeper);
    super::front::finished_by_record(&mut hands)
}

/// The keeper's life: publish the run, run the engine, seal. Whether the front died meanwhile.
fn keep(mut hands: Hands, announce: Option<Box<dyn FnMut()>>) -> bool {
    failpoint::hit("keeper.start");
    if let Err(e) = publish(&mut hands) {
        hands.guard.disarm();
        hands.guard.dir.discard();
        hands.send(&Message::Refused { errno: e.raw_os_error().unwrap_or(libc::EIO) });
        return hands.link.is_none();
    }
    hands.guard.ledger.published.store(true, Ordering::SeqCst);
    if let Some(mut announce) = announce {
        announce();
    }
    if hands.announces {
        hands.send(&Message::Published);
    }
    failpoint::hit("keeper.published");
    let mut machine = RunMachine::new(hands.plan.clone());
    super::run(&mut machine, &mut hands, Event::Published);
    let front_died = hands.link.is_none();
    // The process ends now, and the kernel lets go of everything in one call.
    std::mem::forget(hands);
    front_died
}

/// Puts the run on disk, under its name.
fn publish(hands: &mut Hands) -> std::io::Result<()> {
    if let Some(ends) = &hands.ends {
        settle_in(&hands.plan, ends)?;
    }
    // A directory that was removed under the caller has no path to come back by: there the keeper stays.
    if hands.plan.command.cwd.is_absolute() {
        let _ = nix::unistd::chdir("/");
    }
    hands.guard.arm(Author::Keeper);
    let me = identity::own_stat();
    hands.guard.record.owner.pid = identity::own_pid();
    hands.guard.record.owner.start_time = me.map_or(0, |s| s.start_time);
    write_prompt(hands)?;
    hands.guard.first_status()?;
    hands.guard.dir.publish()
}

/// Writes what was asked, in place of what a bookend that died may have begun.
pub(super) fn write_prompt(hands: &mut Hands) -> std::io::Result<()> {
    let prompt = match &hands.plan.prompt {
        Some(asked) => asked.clone().unwrap_or_default(),
        None => prompt(&hands.guard.record),
    };
    let sha256 = hands.plan.prompt.is_some().then(|| sha256(prompt.as_bytes()));
    hands.guard.record.prompt =
        Some(PromptInfo { path: PROMPT.to_owned(), bytes: prompt.len() as u64, sha256 });
    hands.guard.dir.write_over(PROMPT, prompt.as_bytes(), true)
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("{:x}", sha2::Sha256::digest(bytes))
}

/// What was asked, for a plain command: there was no prompt.
fn prompt(record: &Record) -> String {
    let command = quote::command(&record.command.argv);
    let fence = "```";
    format!(
        "# A command, no prompt\n\n{fence}sh\n{command}\n{fence}\n\n- directory: {}\n- started: {}\n",
        quote::visible(record.command.cwd.as_str()),
        record.started_at
    )
}
