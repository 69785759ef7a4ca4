//! The guard: makes sure that a run, once begun, is sealed. Nothing else creates run.json.
//!
//! `guarantee.md` beside this file says what is promised, on which assumptions, and how.

pub mod ask;
pub mod diagnostics;
pub mod partner;
pub mod reconcile;
pub mod sealer;

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::clock;
use crate::ledger::Ledger;
use crate::machine::StopCause;
use crate::model::outcome::{Ending, ExitReason, exit_code};
use crate::model::plan::Durability;
use crate::model::record::{Author, ErrorInfo, Gap, PhaseStamp, Record, SCHEMA, Tasks};
use crate::model::status::Status;
use crate::model::time::Moment;
use crate::process::tree;
use crate::store::run_dir::{self, RunDir};
use sealer::Sealed;

/// The open run of this process. While it is armed, dropping it unsealed seals the run as an internal error.
pub struct RunGuard {
    /// The run's directory.
    pub dir: RunDir,
    /// The record as far as it is known.
    pub record: Record,
    /// What both bookends know.
    pub ledger: &'static Ledger,
    /// Monotonic moment of the run's start.
    pub started: Moment,
    author: Author,
    armed: bool,
    sealed: Option<Sealed>,
}

impl RunGuard {
    /// A guard for a run that is being prepared; it does nothing until it is armed.
    #[must_use]
    pub fn new(dir: RunDir, record: Record, ledger: &'static Ledger, started: Moment) -> Self {
        Self { dir, record, ledger, started, author: Author::Front, armed: false, sealed: None }
    }

    /// Makes this process the one that seals.
    pub fn arm(&mut self, author: Author) {
        self.author = author;
        self.armed = true;
    }

    /// Leaves sealing to the other bookend.
    pub fn disarm(&mut self) {
        self.armed = false;
    }

    /// The sealed end, once there is one.
    #[must_use]
    pub fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_ref()
    }

    /// Writes the living state for the first time, before the run is published.
    ///
    /// # Errors
    /// What the failing step said.
    pub fn first_status(&mut self) -> std::io::Result<()> {
        let now = clock::now();
        self.record.phases.push(PhaseStamp { phase: self.record.status, at: now, elapsed_ms: 0 });
        self.record.updated_at = Some(now);
        self.dir.first_status(&self.record)
    }

    /// Writes the living state; what can not be written is noted as degraded and tried again at the next change.
    pub fn save_status(&mut self, status: Status, durable: bool) {
        let now = clock::now();
        if self.record.phases.last().map(|p| p.phase) != Some(status) {
            let elapsed_ms = clock::moment().ms_since(self.started);
            self.record.phases.push(PhaseStamp { phase: status, at: now, elapsed_ms });
        }
        self.record.status = status;
        self.record.updated_at = Some(now);
        if let Err(e) = self.dir.save_status(&self.record, durable) {
            self.degrade(format!("status.json could not be written: {e}"));
        }
    }

    /// Notes that something could not be done as promised, once.
    pub fn degrade(&mut self, what: String) {
        const MOST: usize = 32;
        if self.record.degraded.len() < MOST && !self.record.degraded.contains(&what) {
            self.record.degraded.push(what);
        }
    }

    /// Appends an event with its own fields.
    pub fn event(&self, event: &str, fields: &Value) {
        let mut line = json!({ "schema": SCHEMA, "at": clock::now(), "event": event });
        if let (Some(line), Some(fields)) = (line.as_object_mut(), fields.as_object()) {
            line.extend(fields.clone());
        }
        self.dir.append_event(&run_dir::json_line(&line));
    }

    /// Writes the final record. Whatever happens in here, it ends with the best rung of the ladder that held.
    pub fn seal(&mut self, ending: Ending) -> &Sealed {
        self.armed = false;
        self.fill_in(ending);
        self.flush_log();
        diagnostics::write(self);
        let task = run_dir::json_line(&self.record.only_task());
        if let Err(e) = self.dir.write_over(run_dir::TASK, &task, false) {
            self.degrade(format!("task.json could not be written: {e}"));
        }
        crate::failpoint::hit("keeper.sealing");
        let sealed = sealer::seal(&self.dir, &mut self.record);
        self.ledger.sealed.store(u32::from(sealed.code) + 1, Ordering::SeqCst);
        if sealed.rung.is_in_place() {
            let _ = self.dir.settle_status();
            self.dir.unmark();
            self.event("sealed", &json!({ "status": sealed.status, "author": self.author }));
        }
        self.sealed.insert(sealed)
    }

    fn fill_in(&mut self, ending: Ending) {
        let record = &mut self.record;
        let now = clock::now();
        let elapsed_ms = clock::moment().ms_since(self.started);
        record.status = ending.status;
        record.exit_reason = Some(ending.reason);
        record.forced = ending.forced;
        record.exit = ending.exit.or_else(|| record.exit.take());
        record.ended_by = ending.ended_by;
        record.error = ending.error;
        record.mismatch = ending.mismatch;
        record.author = Some(self.author);
        record.wrapper_exit_code =
            Some(exit_code(ending.reason, record.exit.as_ref(), record.error.as_ref()));
        record.completed_at = Some(now);
        record.duration_seconds = Some(elapsed_ms as f64 / 1000.0);
        record.phases.push(PhaseStamp { phase: ending.status, at: now, elapsed_ms });
        record.updated_at = None;
        record.paused_since = None;
        record.tasks = Some(tally(ending.status, ending.reason));
        self.count_log();
    }

    /// Puts the figures of the log into the record; whether its hole has changed.
    pub fn count_log(&mut self) -> bool {
        let before = self.record.log.gap;
        let load = |cell: &std::sync::atomic::AtomicU64| cell.load(Ordering::SeqCst);
        let log = &mut self.record.log;
        log.bytes = self.dir.log.metadata().map_or_else(|_| load(&self.ledger.log_bytes), |m| m.len());
        let gap = Gap { offset: load(&self.ledger.gap[0]), bytes: load(&self.ledger.gap[1]) };
        log.gap = (gap.bytes > 0).then_some(gap);
        log.dropped_bytes = load(&self.ledger.dropped) + gap.bytes;
        log.gap != before
    }

    fn flush_log(&mut self) {
        if self.dir.durability == Durability::Full
            && let Err(e) = crate::disk::sync_data(&self.dir.log)
        {
            self.degrade(format!("the log could not be flushed: {e}"));
        }
    }
}

fn tally(status: Status, reason: ExitReason) -> Tasks {
    let one_if = |yes: bool| u64::from(yes);
    let started = !matches!(reason, ExitReason::PreflightFailed);
    Tasks {
        total: 1,
        completed: one_if(status == Status::Completed),
        failed: one_if(status == Status::Failed && started),
        stopped: one_if(matches!(status, Status::Stopped | Status::Lost)),
        skipped: one_if(!started),
    }
}

impl Drop for RunGuard {
    /// The last resort of an unwinding engine: ends the command's processes and seals.
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        tree::kill_all(|| tree::descendants(self.record.owner.front_pid));
        let message = self.ledger.panic.get::<String>();
        let message = message.unwrap_or_else(|| "bookend stopped working before the run was over".to_owned());
        self.record.evidence.push("the engine unwound; the guard ended the command and sealed".to_owned());
        let sealed = match self.ledger.exit.get() {
            // A command that had ended by itself did so, whatever happened to bookend afterwards.
            Some(exit) if self.ledger.cause.get::<StopCause>().is_none() => {
                self.record.evidence.push(message);
                self.seal(Ending::of_exit(exit))
            }
            exit => {
                let error = Some(ErrorInfo { message, ..ErrorInfo::default() });
                self.seal(Ending { exit, error, ..Ending::of_reason(ExitReason::InternalError) })
            }
        };
        sealed.report_if_elsewhere();
    }
}
