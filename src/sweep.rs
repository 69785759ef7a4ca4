//! Removing runs: what there is, what may go, and taking it away so that nothing is ever half gone.
//!
//! A run leaves the store by one rename under its lock; its files go afterwards. Whoever is killed in between leaves
//! trash that the next one removes.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::clock;
use crate::disk::{self, tree};
use crate::guard::reconcile::{self, Reading, Standing};
use crate::model::id::RunId;
use crate::model::notes::{self, Change, Entry};
use crate::model::record::{Record, SCHEMA};
use crate::model::time::{Moment, Timestamp};
use crate::process::identity;
use crate::query::{self, Filter};
use crate::retention::{Candidate, Removal, Why};
use crate::store::Store;
use crate::store::held::{self, Held, HoldError};
use crate::store::list::{Found, read_record};
use crate::store::run_dir::{LOG, NOTES, RECORD, UNPUBLISHED};
use crate::store::trash::TRASH;

/// Bookends that have sealed let go of the lock after this time at most, unless somebody reads their output slowly.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// A lock that is held is tried again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What is removed of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// All of it.
    Runs,
    /// Its log; the record stays.
    Logs,
}

/// Why a run stays.
#[derive(Debug, Error)]
pub enum Refusal {
    /// One of its bookends lives.
    #[error("it is still running")]
    Living,
    /// Its record is there, and one of its bookends still is.
    #[error("it is over, but one of its bookends is still at work; somebody may be reading its output")]
    Ending,
    /// Its bookends are gone, its command is not.
    #[error("it is orphaned: its bookends are gone, its processes are not")]
    Orphaned,
    /// Somebody pinned it.
    #[error("it is pinned")]
    Pinned,
    /// Its record can not be read, or says more than this version understands.
    #[error("{0}")]
    Unreadable(String),
    /// It is not one of ours, or not to be judged from here.
    #[error("{0}")]
    Foreign(String),
    /// It is gone already.
    #[error("it is gone")]
    Gone,
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Refusal {
    /// What to type.
    #[must_use]
    pub fn hint(&self, id: &RunId) -> String {
        let id = id.short();
        match self {
            Self::Living | Self::Orphaned => format!("bookend stop {id} ends it"),
            Self::Ending => "try again when nobody reads its output any more".to_owned(),
            Self::Pinned => {
                format!("bookend unpin {id} lets it go; bookend rm --force {id} removes it all the same")
            }
            Self::Unreadable(_) => format!("bookend rm --force {id} removes it all the same"),
            Self::Foreign(_) => "look at it, and remove it by hand".to_owned(),
            Self::Gone => "somebody else removed it".to_owned(),
            Self::Io(e) if e.raw_os_error() == Some(libc::EROFS) => {
                "the file system is read-only: mount it for writing".to_owned()
            }
            Self::Io(_) => "check who owns it and its modes".to_owned(),
        }
    }
}

impl From<HoldError> for Refusal {
    fn from(e: HoldError) -> Self {
        match e {
            HoldError::Gone => Self::Gone,
            HoldError::Busy => Self::Living,
            HoldError::Foreign(why) => Self::Foreign(why),
            HoldError::Io(e) => Self::Io(e),
        }
    }
}

/// Something that stays, with its name in the directory of runs.
#[derive(Debug)]
pub struct Skipped {
    /// The run, or what else lies there.
    pub name: String,
    /// Why it stays.
    pub why: Refusal,
}

/// What there is in a store.
#[derive(Debug, Default)]
pub struct Survey {
    /// The finished runs.
    pub runs: Vec<Candidate>,
    /// What can not go, living runs included.
    pub skipped: Vec<Skipped>,
    /// Runs whose log was being removed when that was interrupted.
    pub half: Vec<RunId>,
}

/// Called between two steps with how many are done of how many; false: stop here.
pub type Pace<'a> = dyn FnMut(usize, usize) -> bool + 'a;

/// Looks at every run of a store. Those that fit the filters are marked so; with `sizes`, what they take up is measured.
///
/// # Errors
/// As reading the directory of runs; what can not be read of single runs is in the result.
pub fn survey(
    store: &Store,
    filters: &[Filter],
    what: What,
    sizes: bool,
    pace: &mut Pace<'_>,
) -> io::Result<Survey> {
    let now = clock::now();
    let mut found = Survey::default();
    for (name, why) in strangers(store)? {
        found.skipped.push(Skipped { name, why: Refusal::Foreign(why.to_owned()) });
    }
    let all = store.all()?;
    for (at, id) in all.iter().enumerate() {
        if !pace(at, all.len()) {
            break;
        }
        let mut skip = |why| found.skipped.push(Skipped { name: id.to_string(), why });
        let fits = |record: &Record| query::fits(filters, record, now);
        match reconcile::read(store, id) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => skip(unreadable(e)),
            Ok(Reading::Unclear(_, why)) => skip(Refusal::Unreadable(why)),
            Ok(Reading::Living(record)) if fits(&record) => skip(Refusal::Living),
            Ok(Reading::Orphaned(record, _)) if fits(&record) => skip(Refusal::Orphaned),
            Ok(Reading::Living(_) | Reading::Orphaned(..)) => {}
            Ok(Reading::Final(record)) => match strange(&record) {
                Some(why) => skip(Refusal::Unreadable(why)),
                None => found.add(store, *record, what, sizes, fits),
            },
        }
    }
    Ok(found)
}

fn unreadable(e: io::Error) -> Refusal {
    match e.raw_os_error() {
        Some(libc::ENOTDIR | libc::ELOOP) => Refusal::Foreign("it is no directory".to_owned()),
        _ => Refusal::Io(e),
    }
}

/// What lies in the directory of runs and is neither a run nor on its way in or out, and what it is.
fn strangers(store: &Store) -> io::Result<Vec<(String, &'static str)>> {
    let runs = match store.runs() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let judge = |name: std::ffi::OsString| {
        let text = name.to_string_lossy().into_owned();
        if text.starts_with(TRASH) || text.starts_with(UNPUBLISHED) {
            return None;
        }
        if RunId::parse(&text).is_none() {
            return Some((text, "it is no run"));
        }
        let is_dir = tree::look_at(&runs, &name).map_or(true, |found| found.is_dir());
        (!is_dir).then_some((text, "it is no directory"))
    };
    let mut names: Vec<_> = tree::names(&runs)?.into_iter().filter_map(judge).collect();
    names.sort_unstable();
    Ok(names)
}

/// Why a whole record is not one to go by.
fn strange(record: &Record) -> Option<String> {
    record.is_of_later_version().then(|| format!("a newer bookend wrote it (schema {})", record.schema))
}

impl Survey {
    fn add(
        &mut self,
        store: &Store,
        record: Record,
        what: What,
        sizes: bool,
        fits: impl Fn(&Record) -> bool,
    ) {
        let dir = store.open_run(&record.run_id).ok();
        let has_log = dir.as_ref().is_some_and(|dir| tree::look_at(dir, LOG).is_ok());
        match record.logs_removed_at {
            Some(_) if has_log => self.half.push(record.run_id.clone()),
            Some(_) if what == What::Logs => return,
            _ => {}
        }
        let bytes = dir.filter(|_| sizes).map_or(0, |dir| match what {
            What::Runs => tree::occupied(dir),
            What::Logs => held::log_bytes(&dir),
        });
        self.runs.push(Candidate {
            ended_at: ended_at(&record),
            bytes,
            status: record.status,
            pinned: record.pinned == Some(true),
            matches: fits(&record),
            id: record.run_id,
        });
    }
}

/// When a run ended; where nobody saw it, the latest moment that it may have.
fn ended_at(record: &Record) -> Timestamp {
    let latest = record.ended_between.map(|[_, to]| to);
    record.completed_at.or(latest).unwrap_or(record.started_at)
}

/// A run that is gone, or its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The run.
    pub id: RunId,
    /// Bytes that became free.
    pub bytes: u64,
    /// Why it went.
    pub why: Why,
}

/// What a sweep came to.
#[derive(Debug, Default)]
pub struct Swept {
    /// What is gone.
    pub removed: Vec<Removed>,
    /// What was chosen and stays.
    pub skipped: Vec<Skipped>,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

impl Swept {
    /// Bytes that became free.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.removed.iter().map(|removed| removed.bytes).sum()
    }
}

/// Removes what was chosen, then the trash, that of earlier sweeps too. `patience` is for all bookends together that
/// have sealed and are still there.
///
/// # Errors
/// When the store is read-only. What keeps single runs from being removed is in the result.
pub fn remove(
    store: &Store,
    chosen: &[Removal],
    what: What,
    patience: Duration,
    pace: &mut Pace<'_>,
) -> io::Result<Swept> {
    let mut swept = Swept::default();
    let until = clock::moment().plus_ms(patience.as_millis() as u64);
    // Each run is done twice: taken out of the store, and removed.
    let total = chosen.len() * if what == What::Runs { 2 } else { 1 };
    for (at, removal) in chosen.iter().enumerate() {
        if !pace(at, total) {
            swept.stopped = true;
            break;
        }
        match remove_one(store, &removal.id, what, false, until) {
            Ok(bytes) => swept.removed.push(Removed { id: removal.id.clone(), bytes, why: removal.why }),
            Err(Refusal::Gone) => {}
            Err(Refusal::Io(e)) if e.raw_os_error() == Some(libc::EROFS) => return Err(e),
            Err(why) => swept.skipped.push(Skipped { name: removal.id.to_string(), why }),
        }
    }
    let mut at = chosen.len();
    let emptied = store.empty_trash(|| {
        at += 1;
        pace(at.min(total), total)
    })?;
    swept.skipped.extend(emptied.stayed.into_iter().map(|(name, e)| Skipped { name, why: Refusal::Io(e) }));
    Ok(swept)
}

/// Takes one run out of the store, or its log; its files go with the trash. Gives back the bytes that frees.
/// Forced, it takes pinned runs and those whose record can not be read, but none that may live. A bookend that has
/// sealed is waited for `until` then.
///
/// # Errors
/// [`Refusal`]; the run is as it was then.
pub fn remove_one(store: &Store, id: &RunId, what: What, force: bool, until: Moment) -> Result<u64, Refusal> {
    let held = hold(store, id, until)?;
    may_go(&held, force)?;
    match what {
        What::Runs => Ok(held.throw_away()?),
        What::Logs => Ok(held.drop_log(Some(&noted()))?),
    }
}

/// Removes what is left of a log whose removal was interrupted.
///
/// # Errors
/// [`Refusal`].
pub fn finish_log(store: &Store, id: &RunId) -> Result<u64, Refusal> {
    let held = hold(store, id, clock::moment())?;
    may_go(&held, false)?;
    Ok(held.drop_log(None)?)
}

fn noted() -> Entry {
    let change = Change { logs_removed: true, ..Change::default() };
    Entry { schema: SCHEMA, at: clock::now(), user: identity::login_name(), change }
}

/// Takes the lock; the bookends of a run that was just sealed are given a moment to let go of it.
fn hold(store: &Store, id: &RunId, until: Moment) -> Result<Held, Refusal> {
    loop {
        match store.hold(id) {
            Err(HoldError::Busy) => {
                let over = store
                    .open_run(id)
                    .is_ok_and(|dir| matches!(read_record(&dir, id, RECORD), Found::Whole(_)));
                match over {
                    false => return Err(Refusal::Living),
                    true if clock::moment() >= until => return Err(Refusal::Ending),
                    true => std::thread::sleep(LOOK_AGAIN),
                }
            }
            other => return other.map_err(Refusal::from),
        }
    }
}

/// Whether a run whose lock is held by this process may go.
fn may_go(held: &Held, force: bool) -> Result<(), Refusal> {
    let dir = held.dir();
    let record = read_record(dir, &held.id, RECORD);
    // Without a lock to ask, and without a record, the process table has the last word.
    if !held.has_lock() || matches!(record, Found::Absent) {
        match reconcile::standing(dir, &held.id) {
            Standing::Living => return Err(Refusal::Living),
            Standing::Orphaned(_) => return Err(Refusal::Orphaned),
            Standing::Unsure(why) if matches!(record, Found::Absent) => return Err(Refusal::Foreign(why)),
            Standing::Unsure(_) | Standing::Gone => {}
        }
    }
    match record {
        _ if force => Ok(()),
        Found::Absent => Err(Refusal::Unreadable("it has no record, and none can be made".to_owned())),
        Found::Torn(why) => Err(Refusal::Unreadable(format!("run.json can not be read: {why}"))),
        Found::Whole(mut record) => {
            notes::apply(&disk::read_at(dir, NOTES).unwrap_or_default(), &mut record);
            match strange(&record) {
                Some(why) => Err(Refusal::Unreadable(why)),
                None if record.pinned == Some(true) => Err(Refusal::Pinned),
                None => Ok(()),
            }
        }
    }
}
