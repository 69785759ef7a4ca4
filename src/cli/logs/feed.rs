//! One run whose log is printed: what of it is wanted, in pieces or lines, until there is no more.

use std::collections::VecDeque;
use std::io;

use super::Count;
use crate::cli::error::{FAILED, Failure};
use crate::cli::pick;
use crate::clock;
use crate::guard::reconcile::{self, Reading};
use crate::model::id::RunId;
use crate::model::plan::Capture;
use crate::model::record::Record;
use crate::model::stream::Stream;
use crate::model::time::{Moment, Timestamp};
use crate::process::identity::Place;
use crate::store::Store;
use crate::store::log::{Log, Step};
use crate::view::lines::{Assembler, Line};
use crate::view::plain::Plain;
use crate::view::quote;

/// A run of which nothing can be told for so long is left.
const UNCLEAR_MS: u64 = 3_000;

/// What of the logs is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// How many lines.
    pub lines: Count,
    /// From when on.
    pub since: Option<Timestamp>,
    /// Up to when.
    pub until: Option<Timestamp>,
    /// Of which stream; none is both.
    pub only: Option<Stream>,
    /// Whether times are to be printed.
    pub times: bool,
    /// Whether it is for a terminal.
    pub plain: bool,
    /// Whether what comes is wanted too.
    pub follow: bool,
}

/// What is to be printed next of a run.
#[derive(Debug)]
pub enum Entry {
    /// Bytes as they are.
    Bytes(Vec<u8>),
    /// A line.
    Line(LineOf),
    /// What is to be said.
    Note(String),
    /// So many bytes are missing here.
    Gap(u64),
}

/// A line and where it came from.
#[derive(Debug)]
pub struct LineOf {
    /// Its stream, where the two are known apart.
    pub stream: Option<Stream>,
    /// The line.
    pub line: Line,
}

/// One run whose log is read.
pub struct Feed {
    /// The run.
    pub id: RunId,
    /// Its name.
    pub name: Option<String>,
    started: Option<Timestamp>,
    log: Log,
    capture: Capture,
    /// Whether its two streams are known apart.
    apart: bool,
    only: Option<Stream>,
    until: Option<Timestamp>,
    plain: Option<[Plain; 2]>,
    lines: [Assembler; 2],
    queue: VecDeque<(Timestamp, Entry)>,
    /// When the last bytes came that were read.
    at: Timestamp,
    /// Whether bytes were passed on whose line has not ended.
    in_line: bool,
    /// Whether nothing will be added to its log.
    complete: bool,
    /// Whether all of it was read.
    over: bool,
    /// Whether it is not known to be all.
    broken: bool,
    /// What was said of bytes that are missing.
    missing: Option<String>,
    unclear: Option<String>,
    unclear_since: Option<Moment>,
}

impl Feed {
    /// Opens a run's log and goes to the first line that is wanted.
    ///
    /// # Errors
    /// A log that can not be read, or streams that are wanted apart and are not known so.
    pub fn open(store: &Store, id: &RunId, wanted: &Wanted) -> Result<Self, Failure> {
        // Whether it is over is asked before the log is read, so that nothing can be added after the last look.
        let reading = pick::read(store, id)?;
        let record = reading.record();
        let dir = store.open_run(id).map_err(|e| unreadable(id, &e))?;
        let cleaned = record.and_then(|record| record.logs_removed_at);
        let log = Log::open(&dir, record).map_err(|e| match (e.kind(), cleaned) {
            (io::ErrorKind::NotFound, Some(at)) => removed(id, at),
            _ => unreadable(id, &e),
        })?;
        let plan = record.map(|record| &record.plan);
        let mut feed = Self {
            id: id.clone(),
            name: record.and_then(|record| record.name.clone()),
            started: record.map(|record| record.started_at),
            capture: plan.map_or(Capture::default(), |plan| plan.capture),
            apart: plan.is_some_and(|p| p.capture == Capture::Pipe && !p.one_stream) && log.has_times(),
            log,
            only: wanted.only,
            until: wanted.until,
            plain: wanted.plain.then(Default::default),
            lines: Default::default(),
            queue: VecDeque::new(),
            at: record.map_or(Timestamp::from_unix_ms(0), |record| record.started_at),
            in_line: false,
            complete: !wanted.follow || matches!(reading, Reading::Final(_)),
            over: false,
            broken: false,
            missing: record.and_then(missing),
            unclear: None,
            unclear_since: None,
        };
        if let Reading::Unclear(_, why) = &reading {
            feed.unclear = Some(why.clone());
        }
        if wanted.only.is_some() && !feed.apart {
            return Err(feed.not_apart(plan.is_some_and(|plan| plan.one_stream)));
        }
        feed.begin(wanted).map_err(|e| unreadable(id, &e))?;
        Ok(feed)
    }

    /// Goes to the first line that is wanted.
    fn begin(&mut self, wanted: &Wanted) -> io::Result<()> {
        let from = self.ms_of(wanted.since).map_or(0, |ms| self.log.since(ms));
        let start = match wanted.lines {
            Count::All => from,
            Count::Last(lines) => {
                let to = match self.ms_of(wanted.until) {
                    Some(ms) => self.log.since(ms.saturating_add(1)),
                    None => self.log.size(),
                };
                self.log.last_lines(lines, self.only, (from, to))?
            }
        };
        self.log.seek(start);
        Ok(())
    }

    /// Milliseconds from the run's start to a point in time, where the log has times.
    fn ms_of(&self, at: Option<Timestamp>) -> Option<u64> {
        let (at, started) = (at?, self.started.filter(|_| self.log.has_times())?);
        Some(u64::try_from(at.unix_ms().saturating_sub(started.unix_ms())).unwrap_or(0))
    }

    /// What is to be said before the first line.
    pub fn first_notes(&self, wanted: &Wanted) -> Vec<String> {
        let wants_times = wanted.times || wanted.since.is_some() || wanted.until.is_some();
        let why = match self.capture {
            Capture::File => "the command wrote its log itself (--capture file)",
            _ => "its harness.idx is not there",
        };
        let ranged = wanted.since.or(wanted.until).is_some();
        let all = if ranged { ", so --since and --until leave nothing out" } else { "" };
        let untimed = wants_times && !self.log.has_times();
        let times = untimed.then(|| format!("it is not known when its output came{all}: {why}"));
        self.unclear.clone().into_iter().chain(times).chain(self.missing.clone()).collect()
    }

    /// When bytes came, by the wall clock.
    pub fn wall_time(&self, ms: Option<u64>) -> Option<Timestamp> {
        let (started, ms) = (self.started?, i64::try_from(ms?).ok()?);
        Some(Timestamp::from_unix_ms(started.unix_ms().saturating_add(ms)))
    }

    /// Whether all was read that there is and will be.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether something went wrong, so that what was read may not be all.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether the rest is there to be read now.
    pub fn has_more(&self) -> bool {
        self.complete && !self.over
    }

    /// What comes next, and when it came.
    pub fn next(&self) -> Option<(Timestamp, &Entry)> {
        self.queue.front().map(|(at, entry)| (*at, entry))
    }

    /// Takes what comes next.
    pub fn take(&mut self) -> Option<Entry> {
        self.queue.pop_front().map(|(_, entry)| entry)
    }

    /// Reads on until there is something to print, in lines or in bytes, or nothing more now.
    pub fn read_on(&mut self, lines: bool) -> Result<(), Failure> {
        while self.queue.is_empty() && !self.over {
            match self.log.step() {
                Err(e) => return Err(unreadable(&self.id, &e)),
                Ok(Step::End) => {
                    if !self.complete {
                        return Ok(());
                    }
                    self.end();
                }
                Ok(Step::Gap(bytes)) => {
                    // What comes next is no part of the lines that the gap has cut.
                    self.end_lines();
                    self.queue.push_back((self.at, Entry::Gap(bytes)));
                }
                Ok(Step::Cut) => {
                    let note = "the log was truncated here, by its command or by somebody else";
                    self.missing.get_or_insert_with(|| note.to_owned());
                    self.queue.push_back((self.at, Entry::Note(note.to_owned())));
                }
                Ok(Step::Bytes(piece)) => {
                    let stream = piece.stream.unwrap_or(Stream::Out);
                    let ms = piece.ms;
                    if self.only.is_some_and(|only| only != stream) {
                        continue;
                    }
                    // Lines are of one stream each; bytes of both meet on the same line of the terminal.
                    let place = if lines { stream.place() } else { 0 };
                    let bytes = match &mut self.plain {
                        Some(plain) => plain[place].filter(piece.bytes),
                        None => piece.bytes.to_vec(),
                    };
                    self.add(bytes, stream, ms, lines);
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, bytes: Vec<u8>, stream: Stream, ms: Option<u64>, lines: bool) {
        self.at = self.wall_time(ms).unwrap_or(self.at);
        if ms.is_some() && self.until.is_some_and(|until| self.at > until) {
            self.end();
        } else if lines {
            let (queue, at, apart) = (&mut self.queue, self.at, self.apart);
            let started = self.started;
            self.lines[stream.place()].push(&bytes, ms, |line| {
                let at = started.zip(line.ms).map_or(at, |(started, ms)| later(started, ms));
                queue.push_back((at, Entry::Line(LineOf { stream: apart.then_some(stream), line })));
            });
        } else if let Some(last) = bytes.last() {
            self.in_line = *last != b'\n';
            self.queue.push_back((self.at, Entry::Bytes(bytes)));
        }
    }

    /// Ends the lines that a gap has cut, also those that are passed on as bytes.
    fn end_lines(&mut self) {
        if std::mem::take(&mut self.in_line) {
            self.queue.push_back((self.at, Entry::Bytes(b"\n".to_vec())));
        }
        self.plain.iter_mut().for_each(|plain| *plain = Default::default());
        self.pass_on_lines();
    }

    fn end(&mut self) {
        self.over = true;
        self.pass_on_lines();
    }

    /// Passes on lines that were not ended.
    fn pass_on_lines(&mut self) {
        for stream in Stream::BOTH {
            let (queue, at, apart) = (&mut self.queue, self.at, self.apart);
            self.lines[stream.place()].finish(|line| {
                queue.push_back((at, Entry::Line(LineOf { stream: apart.then_some(stream), line })));
            });
        }
    }

    /// Asks whether the run is over; what is to be said of it.
    pub fn look(&mut self, store: &Store) -> Vec<String> {
        let mut notes = Vec::new();
        match reconcile::read(store, &self.id) {
            Err(e) => {
                (self.complete, self.broken) = (true, true);
                notes.push(match e.kind() {
                    io::ErrorKind::NotFound => "the run was removed while its log was followed".to_owned(),
                    _ => format!("it can not be followed any more: {e}"),
                });
            }
            Ok(Reading::Final(record)) => {
                self.complete = true;
                self.log.learn(&record);
                if self.missing.is_none() {
                    self.missing = missing(&record);
                    notes.extend(self.missing.clone());
                }
            }
            Ok(Reading::Living(record) | Reading::Orphaned(record, _)) => {
                self.unclear_since = None;
                self.log.learn(&record);
                if self.log.is_removed() {
                    (self.complete, self.broken) = (true, true);
                    notes.push("the log was removed while it was followed".to_owned());
                }
            }
            Ok(Reading::Unclear(record, why)) => notes.extend(self.stay_unclear(record.as_deref(), &why)),
        }
        self.complete |= self.until.is_some_and(|until| clock::now() > until);
        notes
    }

    /// A run of another machine is followed all the same. What else can not be told may be told at the next look.
    fn stay_unclear(&mut self, record: Option<&Record>, why: &str) -> Option<String> {
        let elsewhere = record.is_some_and(|record| record.host != Place::here().host);
        if !elsewhere {
            let now = clock::moment();
            self.complete = now.ms_since(*self.unclear_since.get_or_insert(now)) >= UNCLEAR_MS;
            self.broken = self.complete;
        }
        (self.unclear.as_deref() != Some(why)).then(|| self.unclear.insert(why.to_owned()).clone())
    }

    fn not_apart(&self, one_stream: bool) -> Failure {
        let why = match self.capture {
            Capture::Tty => "a terminal (--tty) has only one",
            Capture::File => "the command wrote its log itself, both into one file",
            Capture::Pipe if one_stream => {
                "nobody needed to know them apart when it was started (-q, -d, --json, or both shown in one place)"
            }
            Capture::Pipe => "its harness.idx is not there",
        };
        let message = format!("telling apart the streams of run {}: {why}", self.id);
        Failure::new(FAILED, message, "start it with --capture pipe, which always keeps them apart")
    }
}

fn later(started: Timestamp, ms: u64) -> Timestamp {
    Timestamp::from_unix_ms(started.unix_ms().saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
}

/// What the final record says of output that is neither in the log nor in its gap.
fn missing(record: &Record) -> Option<String> {
    let lost = record.log.dropped_bytes.saturating_sub(record.log.gap.map_or(0, |gap| gap.bytes));
    if lost == 0 || !record.status.is_terminal() {
        return None;
    }
    let told =
        record.degraded.iter().find_map(|what| what.strip_prefix("log: ").filter(|w| w.contains("missing")));
    Some(told.map_or_else(|| format!("{lost} bytes of output are missing"), quote::visible))
}

fn removed(id: &RunId, at: Timestamp) -> Failure {
    let message = format!("reading the log of run {id}: `bookend clean --logs-only` removed it at {at}");
    Failure::new(FAILED, message, format!("bookend show {}", id.short()))
}

fn unreadable(id: &RunId, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "it is not there, and nothing says who removed it".to_owned(),
        _ => error.to_string(),
    };
    Failure::new(
        FAILED,
        format!("reading the log of run {id}: {why}"),
        format!("bookend show {}", id.short()),
    )
}
