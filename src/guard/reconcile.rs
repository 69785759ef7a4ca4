//! What a reader does with a run: believe its record, ask its lock, ask for a second key, and only then seal it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use serde_json::Value;

use super::sealer::{self, Rung, Sealed};
use crate::clock;
use crate::disk;
use crate::machine::StopCause;
use crate::model::id::RunId;
use crate::model::notes;
use crate::model::outcome::{Ending, ExitReason, exit_code};
use crate::model::plan::Capture;
use crate::model::record::{self, Author, EndedBy, Exit, Fate, Gap, Leftover, Reconciled, Record, SCHEMA};
use crate::model::time::Timestamp;
use crate::process::identity::{self, Place, Stat};
use crate::process::tree;
use crate::store::Store;
use crate::store::list::{Found, read_any, read_record};
use crate::store::log;
use crate::store::run_dir::{self, EVENTS, LOCK, LOG, NOTES, RECORD, RunDir, STATUS};

/// What a reader knows of a run.
#[derive(Debug)]
pub enum Reading {
    /// It is over; this is its final record.
    Final(Box<Record>),
    /// One of its bookends lives.
    Living(Box<Record>),
    /// Both bookends are gone, the command is not.
    Orphaned(Box<Record>, Vec<Stat>),
    /// It can not be told from here: it belongs to another machine, or its files say nothing that can be read.
    Unclear(Option<Box<Record>>, String),
}

impl Reading {
    /// The record, where there is one.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Final(r) | Self::Living(r) | Self::Orphaned(r, _) => Some(r),
            Self::Unclear(r, _) => r.as_deref(),
        }
    }

    fn record_mut(&mut self) -> Option<&mut Record> {
        match self {
            Self::Final(r) | Self::Living(r) | Self::Orphaned(r, _) => Some(r),
            Self::Unclear(r, _) => r.as_deref_mut(),
        }
    }
}

/// Reads a run with what people noted on it and, where both bookends and the command are gone, seals it.
///
/// # Errors
/// As opening the run's directory.
pub fn read(store: &Store, id: &RunId) -> io::Result<Reading> {
    let dir = store.open_run(id)?;
    let notes = disk::read_at(&dir, NOTES).unwrap_or_default();
    let mut reading = read_bare(store, id, dir)?;
    if let Some(record) = reading.record_mut() {
        notes::apply(&notes, record);
    }
    Ok(reading)
}

fn read_bare(store: &Store, id: &RunId, dir: OwnedFd) -> io::Result<Reading> {
    match read_record(&dir, id, RECORD) {
        Found::Whole(record) => return Ok(Reading::Final(Box::new(record))),
        Found::Torn(why) => {
            let status = status_of(&dir, id);
            let instead = if status.is_some() { "; this is what status.json says" } else { "" };
            return Ok(Reading::Unclear(status, format!("run.json can not be read: {why}{instead}")));
        }
        Found::Absent => {}
    }
    let lock = match disk::open_at(&dir, LOCK) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok(Reading::Unclear(status_of(&dir, id), "its lock is missing".to_owned()));
        }
        Err(e) => {
            return Ok(Reading::Unclear(status_of(&dir, id), format!("its lock can not be opened: {e}")));
        }
        Ok(lock) => lock,
    };
    if !disk::try_lock_shared(&lock)? {
        return Ok(living(&dir, id));
    }
    // It may have been sealed between the two looks.
    if let Found::Whole(record) = read_record(&dir, id, RECORD) {
        return Ok(Reading::Final(Box::new(record)));
    }
    let evidence = Evidence::gather(&dir, id);
    Ok(match evidence.verdict() {
        Verdict::Living => living(&dir, id),
        Verdict::Unsure(why) => Reading::Unclear(evidence.status.map(Box::new), why),
        Verdict::Orphaned => evidence.orphaned(),
        Verdict::Gone => seal(store, id, dir, lock, evidence, None),
    })
}

/// How what is left of an orphaned run is asked to end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asking {
    /// The signal; none for SIGTERM.
    pub signal: Option<i32>,
    /// Milliseconds until SIGKILL; none for the run's own grace period.
    pub grace_ms: Option<u64>,
    /// Whether it is not asked but killed at once.
    pub force: bool,
}

/// What is true of a run that has no final record, apart from its lock.
#[derive(Debug)]
pub enum Standing {
    /// One of its bookends lives.
    Living,
    /// Its bookends are gone, its command is not.
    Orphaned(Vec<Stat>),
    /// Nothing of it is left.
    Gone,
    /// It can not be told from here, or is not ours to tell.
    Unsure(String),
}

/// Asks the process table about a run, and changes nothing.
#[must_use]
pub fn standing(dir: &OwnedFd, id: &RunId) -> Standing {
    let evidence = Evidence::gather(dir, id);
    match evidence.verdict() {
        Verdict::Living => Standing::Living,
        Verdict::Unsure(why) => Standing::Unsure(why),
        Verdict::Orphaned => Standing::Orphaned(evidence.alive),
        Verdict::Gone => Standing::Gone,
    }
}

/// Ends what is left of an orphaned run and seals it as killed. Unless it is forced, what is left is asked first and
/// has a grace period.
///
/// # Errors
/// As opening the run's directory; `WouldBlock` when another process is sealing it.
pub fn kill_orphan(store: &Store, id: &RunId, by: EndedBy, asking: Asking) -> io::Result<Reading> {
    let dir = store.open_run(id)?;
    let lock = disk::open_at(&dir, LOCK)?;
    if !disk::try_lock(&lock)? {
        return Err(io::Error::from(io::ErrorKind::WouldBlock));
    }
    let mut evidence = Evidence::gather(&dir, id);
    // What they are is asked while they can still say it.
    evidence.leftovers = evidence.alive.iter().map(|p| as_leftover(p, Fate::Alive)).collect();
    let marks = evidence.marks(id);
    if !asking.force {
        tree::signal_all(None, &evidence.alive, asking.signal.unwrap_or(libc::SIGTERM));
        let planned_ms = evidence.status.as_ref().map_or(0, |s| s.plan.grace_ms);
        wait_for_the_end(&marks, asking.grace_ms.unwrap_or(planned_ms));
        settle(&mut evidence.leftovers, Fate::Terminated);
    }
    tree::kill_all(|| tree::remains(&marks, &[]));
    settle(&mut evidence.leftovers, Fate::Killed);
    Ok(seal(store, id, dir, lock, evidence, Some(by)))
}

/// Waits until nothing of a run is left, at most for the grace period.
fn wait_for_the_end(marks: &tree::Marks, grace_ms: u64) {
    const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(20);
    let until = clock::moment().plus_ms(grace_ms);
    while clock::moment() < until && !tree::remains(marks, &[]).is_empty() {
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Notes the fate of those that have ended since.
fn settle(leftovers: &mut [Leftover], fate: Fate) {
    for left in leftovers.iter_mut().filter(|l| l.fate == Fate::Alive) {
        if !identity::is_alive(left.pid, left.start_time) {
            left.fate = fate;
        }
    }
}

fn status_of(dir: &OwnedFd, id: &RunId) -> Option<Box<Record>> {
    match read_any(dir, id) {
        Found::Whole(record) => Some(Box::new(record)),
        _ => None,
    }
}

fn living(dir: &OwnedFd, id: &RunId) -> Reading {
    match (read_record(dir, id, RECORD), read_record(dir, id, STATUS)) {
        (Found::Whole(record), _) => Reading::Final(Box::new(record)),
        (_, Found::Whole(mut record)) => {
            record.last_output_at = written_at(dir, LOG);
            // The file knows better than a state that is written at changes only.
            record.log.bytes =
                disk::open_at(dir, LOG).and_then(|log| log.metadata()).map_or(0, |found| found.len());
            Reading::Living(Box::new(record))
        }
        (_, Found::Absent) => Reading::Unclear(None, "it has no status.json yet".to_owned()),
        (_, Found::Torn(why)) => Reading::Unclear(None, format!("status.json can not be read: {why}")),
    }
}

/// When a file of the run was last written to, where it holds anything.
fn written_at(dir: &OwnedFd, name: &str) -> Option<Timestamp> {
    let found = disk::open_at(dir, name).ok()?.metadata().ok().filter(|m| m.len() > 0)?;
    let at = found.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(at.as_millis()).ok().map(Timestamp::from_unix_ms)
}

/// Everything that a dead run's directory and the process table say.
struct Evidence {
    status: Option<Record>,
    here: Place,
    spawned_pid: Option<i32>,
    exit: Option<Exit>,
    cause: Option<StopCause>,
    last_sign: Option<Timestamp>,
    owner_alive: bool,
    alive: Vec<Stat>,
    leftovers: Vec<Leftover>,
}

enum Verdict {
    Living,
    /// It can not be told from here, or is not ours to tell.
    Unsure(String),
    Orphaned,
    Gone,
}

impl Evidence {
    fn gather(dir: &OwnedFd, id: &RunId) -> Self {
        let status = match read_record(dir, id, STATUS) {
            Found::Whole(record) => Some(record),
            _ => None,
        };
        let [spawned, stopping, exited] = last_events(dir, ["spawned", "stopping", "exited"]);
        let pid_of = |e: &Value| e.get("pid").and_then(Value::as_i64).and_then(|p| i32::try_from(p).ok());
        let owner = status.as_ref().map(|s| s.owner.clone()).unwrap_or_default();
        let is_owner = |pid: Option<i32>, start: Option<u64>| match (pid, start) {
            (Some(pid), Some(start)) if pid > 1 && start > 0 => identity::is_alive(pid, start),
            _ => false,
        };
        let mut evidence = Self {
            here: Place::here(),
            spawned_pid: pid_of(&spawned),
            exit: serde_json::from_value(exited["exit"].clone()).ok().filter(Exit::is_possible),
            last_sign: [STATUS, EVENTS, LOG].iter().filter_map(|name| written_at(dir, name)).max(),
            owner_alive: is_owner(Some(owner.pid), Some(owner.start_time))
                || is_owner(owner.front_pid, owner.front_start_time),
            cause: serde_json::from_value(stopping["cause"].clone()).ok(),
            alive: Vec::new(),
            leftovers: Vec::new(),
            status,
        };
        if !evidence.owner_alive {
            evidence.alive = tree::remains(&evidence.marks(id), &[]);
        }
        evidence
    }

    fn marks(&self, id: &RunId) -> tree::Marks {
        let owner = self.status.as_ref().map(|s| (s.owner.pid, s.owner.start_time));
        let command = self.status.as_ref().map(|s| (s.command.pid, s.command.start_time));
        tree::Marks {
            run_id: id.to_string(),
            session: owner.filter(|&(pid, start)| pid > 1 && start > 0),
            command: command.and_then(|(pid, start)| Some((pid?, start?))),
        }
    }

    fn verdict(&self) -> Verdict {
        let Some(status) = &self.status else {
            return if self.alive.is_empty() { Verdict::Gone } else { Verdict::Orphaned };
        };
        let (owner, here) = (&status.owner, &self.here);
        if status.is_of_later_version() {
            return Verdict::Unsure(format!(
                "a later version of bookend began it (schema {}) and must end it",
                status.schema
            ));
        }
        if !status.host.is_empty() && status.host != here.host && owner.boot_id != here.boot_id {
            return Verdict::Unsure(format!("it runs on host {}", status.host));
        }
        let same_boot = owner.boot_id == here.boot_id;
        if same_boot && owner.pid_namespace != here.pid_namespace {
            return if self.alive.is_empty() { Verdict::Gone } else { Verdict::Orphaned };
        }
        if same_boot && self.owner_alive {
            return Verdict::Living;
        }
        if same_boot && !self.alive.is_empty() { Verdict::Orphaned } else { Verdict::Gone }
    }

    fn orphaned(self) -> Reading {
        match self.status {
            Some(mut record) => {
                record.orphaned = Some(true);
                record.command.pid = record.command.pid.or(self.spawned_pid);
                record.leftovers = self.alive.iter().map(|p| as_leftover(p, Fate::Alive)).collect();
                Reading::Orphaned(Box::new(record), self.alive)
            }
            None => Reading::Unclear(None, "its processes live, but status.json is torn".to_owned()),
        }
    }

    /// What this adds up to, in words.
    fn words(&self, now: Timestamp) -> Vec<String> {
        let mut words = vec!["its lock was free and neither bookend was alive".to_owned()];
        let rebooted = self.status.as_ref().is_some_and(|s| s.owner.boot_id != self.here.boot_id);
        if rebooted {
            words.push("the machine has been restarted since".to_owned());
        }
        let pid = self.spawned_pid.or(self.status.as_ref().and_then(|s| s.command.pid));
        match pid {
            Some(pid) => words.push(format!("the command had been started as pid {pid}")),
            None => words.push("nothing says that the command had been started".to_owned()),
        }
        let through_pipes = self.status.as_ref().is_some_and(|s| s.log.capture != Capture::File);
        if through_pipes && self.spawned_pid.is_some() {
            words.push("what was in the command's pipes then may be missing in the log".to_owned());
        }
        match (&self.exit, self.last_sign) {
            (Some(_), _) => {
                words.push("the end of the command had been seen and noted in events.jsonl".to_owned());
            }
            (None, Some(at)) => words.push(format!("the last sign of life was at {at}, the look at {now}")),
            (None, None) => {}
        }
        words
    }
}

/// The last event of each of some kinds, null where there is none. Lines that are no events are passed over.
fn last_events<const N: usize>(dir: &OwnedFd, kinds: [&str; N]) -> [Value; N] {
    let bytes = disk::read_at(dir, EVENTS).unwrap_or_default();
    let mut found = [const { Value::Null }; N];
    for line in record::lines(&bytes).rev() {
        let Ok(event) = serde_json::from_slice::<Value>(line) else { continue };
        if let Some(at) = kinds.iter().position(|kind| event["event"] == *kind)
            && found[at].is_null()
        {
            found[at] = event;
        }
        if found.iter().all(|event| !event.is_null()) {
            break;
        }
    }
    found
}

fn as_leftover(process: &Stat, fate: Fate) -> Leftover {
    let (pid, start_time) = (process.pid, process.start_time);
    Leftover { pid, start_time, argv: identity::argv(pid), fate, holds_output: false }
}

/// Seals a dead run under its exclusive lock.
fn seal(
    store: &Store,
    id: &RunId,
    dir: OwnedFd,
    lock: File,
    evidence: Evidence,
    killed_by: Option<EndedBy>,
) -> Reading {
    // Other readers may hold the shared lock for a moment: then one of them, or the next reader, seals.
    if !disk::try_lock(&lock).unwrap_or(false) {
        return match read_record(&dir, id, RECORD) {
            Found::Whole(record) => Reading::Final(Box::new(record)),
            _ => Reading::Unclear(evidence.status.map(Box::new), "another reader is sealing it".to_owned()),
        };
    }
    if let Found::Whole(record) = read_record(&dir, id, RECORD) {
        return Reading::Final(Box::new(record));
    }
    let record = spooled(id).or_else(|| settled(&evidence)).or_else(|| compose(&evidence, killed_by));
    let Some(mut record) = record else {
        return Reading::Unclear(
            None,
            "status.json is missing or torn, so there is nothing to seal".to_owned(),
        );
    };
    match RunDir::adopt(store, id, dir, lock) {
        Ok(run) => finish(&run, &mut record),
        Err(e) => record.degraded.push(format!("the run could not be sealed: {e}")),
    }
    Reading::Final(Box::new(record))
}

fn finish(run: &RunDir, record: &mut Record) {
    count_log(run, record);
    let _ = run.write_over(run_dir::TASK, &run_dir::json_line(&record.only_task()), false);
    let text = super::diagnostics::of(record, &run.log);
    let _ = run.write_over(run_dir::DIAGNOSTICS, text.as_bytes(), false);
    let sealed: Sealed = sealer::seal(run, record);
    if sealed.rung.is_in_place() {
        if sealed.rung != Rung::Already {
            let now = clock::now();
            let line =
                serde_json::json!({ "schema": SCHEMA, "at": now, "event": "sealed", "author": "reader" });
            run.append_event(&run_dir::json_line(&line));
        }
        tidy(run.dir(), &run.id);
        // The marker goes last: while it is there, somebody comes and does what is left to do.
        run.unmark();
    }
}

/// Removes what only a run that is not sealed has.
fn tidy(dir: &OwnedFd, id: &RunId) {
    let _ = run_dir::tidy(dir);
    if let Some(path) = sealer::spool_file(id.as_str()) {
        let _ = std::fs::remove_file(path);
    }
}

/// Takes a sealed run from the living, where its sealer was killed before it could, and does what else was left to
/// do. Nothing is done while a bookend holds the lock: it is about to do so itself.
pub fn finish_sealed(store: &Store, id: &RunId) {
    let done = store.open_run(id).and_then(|dir| {
        let lock = disk::open_at(&dir, LOCK)?;
        if !disk::try_lock(&lock)? {
            return Ok(false);
        }
        tidy(&dir, id);
        Ok(true)
    });
    // A directory that can not be tidied is sealed all the same.
    if done.unwrap_or(true) {
        store.unmark(id);
    }
}

/// The living bookends of a run: the owners its record names, where they hold the very lock that lies in its
/// directory. A process id and a start time prove who somebody is; the lock, whose.
///
/// # Errors
/// As opening the run's directory and its lock.
pub fn bookends(store: &Store, id: &RunId, record: &Record) -> io::Result<Vec<Stat>> {
    let lock = disk::open_at(store.open_run(id)?, LOCK)?;
    let owner = &record.owner;
    let named = [Some((owner.pid, owner.start_time)), owner.front_pid.zip(owner.front_start_time)]
        .into_iter()
        .flatten();
    let found = named.filter(|&(pid, _)| pid > 1).filter_map(|(pid, start_time)| {
        identity::stat(pid).filter(|stat| stat.start_time == start_time && stat.is_alive())
    });
    Ok(found.filter(|stat| identity::has_open(stat.pid, &lock)).collect())
}

/// Puts the figures of the log into the record. What was trimmed last its bookends had no time to say.
fn count_log(run: &RunDir, record: &mut Record) {
    let log = &mut record.log;
    log.bytes = run.log.metadata().map_or(log.bytes, |found| found.len());
    if let Some((from, to)) = log::hole(&run.log, record.plan.log_max_bytes) {
        let known = log.gap.map_or(0, |gap| gap.bytes);
        log.dropped_bytes = log.dropped_bytes.saturating_sub(known) + (to - from);
        log.gap = Some(Gap { offset: from, bytes: to - from });
    }
}

/// The record that a bookend wrote when its store could not be written to.
fn spooled(id: &RunId) -> Option<Record> {
    let path = sealer::spool_file(id.as_str())?;
    let dir = disk::open_dir(path.parent()?).ok()?;
    let bytes = disk::read_at(dir, path.file_name()?.to_str()?).ok()?;
    Record::parse(&bytes).ok().filter(|r| r.run_id == *id && r.status.is_terminal())
}

/// The final record of a run whose run.json was lost since: status.json became its second name then.
fn settled(evidence: &Evidence) -> Option<Record> {
    let mut record = evidence.status.clone().filter(|status| status.status.is_terminal())?;
    record
        .degraded
        .push("run.json was missing; it is made anew of status.json, which says the same".to_owned());
    Some(record)
}

/// The record of a run that nobody saw the end of, with what is known and nothing else.
fn compose(evidence: &Evidence, killed_by: Option<EndedBy>) -> Option<Record> {
    let now = clock::now();
    let mut record = evidence.status.clone()?;
    let ending = match (&killed_by, &evidence.exit) {
        (Some(by), exit) => {
            Ending { ended_by: Some(by.clone()), exit: exit.clone(), ..Ending::of_reason(ExitReason::Killed) }
        }
        (None, Some(exit)) => match &evidence.cause {
            Some(cause) => Ending {
                exit: Some(exit.clone()),
                ended_by: Some(cause.by.clone()),
                ..Ending::of_reason(cause.reason)
            },
            None => Ending::of_exit(exit.clone()),
        },
        (None, None) => Ending {
            ended_by: evidence.cause.as_ref().map(|c| c.by.clone()),
            ..Ending::of_reason(ExitReason::Lost)
        },
    };
    let seen = killed_by.is_some();
    // Files are stamped with a clock that ticks more slowly, which may be just before the start.
    let last_sign = evidence.last_sign.unwrap_or(record.started_at).max(record.started_at).min(now);
    record.status = ending.status;
    record.exit_reason = Some(ending.reason);
    record.exit = ending.exit;
    record.ended_by = ending.ended_by.or(record.ended_by);
    record.wrapper_exit_code = Some(exit_code(ending.reason, record.exit.as_ref(), None));
    record.author = Some(Author::Reader);
    record.completed_at = seen.then_some(now);
    record.ended_between = (!seen).then_some([last_sign, now]);
    record.command.pid = record.command.pid.or(evidence.spawned_pid);
    record.leftovers.clone_from(&evidence.leftovers);
    record.updated_at = None;
    record.paused_since = None;
    record.orphaned = None;
    let words = evidence.words(now);
    let by = format!("bookend {} (pid {})", env!("CARGO_PKG_VERSION"), identity::own_pid());
    record.reconciled = Some(Reconciled { at: now, by, evidence: words.clone() });
    record.evidence.extend(words);
    Some(record)
}
