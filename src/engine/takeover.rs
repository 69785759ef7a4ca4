//! Taking over: what a bookend does when the other one is gone and the run is not sealed.

use std::sync::atomic::Ordering;

use super::hands::{Command, Hands};
use super::inbox::{internal_error, wrapper_died};
use crate::clock;
use crate::guard::partner::{self, Link, Side};
use crate::guard::sealer::Sealed;
use crate::machine::Known;
use crate::machine::{Event, RunMachine, StopCause};
use crate::model::outcome::{CodeRule, ExitReason};
use crate::model::record::{Author, Exit, Record};
use crate::model::signal;
use crate::model::status::Status;
use crate::model::time::Moment;
use crate::process::{identity, tree, wait};
use crate::store::run_dir::RECORD;

/// Signals that mean that a bookend broke down, rather than that somebody killed it.
const BREAKDOWNS: [i32; 7] =
    [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGSYS, libc::SIGTRAP];

impl Hands {
    /// The run's end, if the other bookend sealed it before it went.
    pub fn sealed_before(&self) -> Option<(Record, u8)> {
        let bytes = self.guard.dir.read(RECORD).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let code = record.wrapper_exit_code.unwrap_or(125);
        Some((record, code))
    }

    /// Puts a run on disk that the partner may not have come to publish; whether it is there now.
    pub fn publish_instead(&mut self) -> bool {
        let published = &self.guard.ledger.published;
        if published.load(Ordering::SeqCst) {
            return true;
        }
        // A keeper that broke down before it published may have sealed all the same. Otherwise readers must find a
        // state in every run that they can see, and the keeper may have left half of one.
        let sealed = self.sealed_before().is_some();
        if !sealed {
            self.learn_owner();
            if let Err(e) = super::begin::write_prompt(self) {
                self.guard.degrade(format!("prompt.md could not be written: {e}"));
            }
            self.guard.save_status(Status::Initializing, true);
        }
        let done = self.guard.dir.ensure_published();
        published.store(done.is_ok(), Ordering::SeqCst);
        match &done {
            Ok(()) if sealed => self.guard.dir.clear_up(),
            Ok(()) => {}
            Err(e) => self.guard.degrade(format!("the run could not be given its name: {e}")),
        }
        done.is_ok()
    }

    /// Runs the engine in the place of a partner that ended in the given way, where that is known.
    pub fn take_over(&mut self, how: Option<&Exit>) -> Sealed {
        crate::failpoint::taken_over();
        self.guard.arm(Author::Front);
        self.pump.recover(clock::moment());
        self.ends = None;
        let cause = cause_of_death(how, self.guard.ledger.panic.get());
        let fault = cause.error.as_ref().map(|e| e.message.clone());
        self.guard.record.evidence.push(fault.or_else(|| cause.by.reason.clone()).unwrap_or_default());
        self.learn_owner();
        self.adopt_command();
        self.inherit_wishes();
        self.guard.event("took_over", &serde_json::json!({ "because": cause.by.reason }));
        let died = Event::PartnerDied(cause);
        let (mut machine, first) = if self.may_begin_anew() {
            self.queue.push_back(died);
            (RunMachine::new(self.plan.clone()), Event::Published)
        } else {
            let known = self.known();
            // A command that had ended by itself is not stopped by what happened after.
            let seen = matches!(self.queue.front(), Some(Event::Exited(_, Some(e))) if !self.is_hang_up(e));
            let first = if seen { self.queue.pop_front() } else { None };
            let first = match first {
                Some(ended) => {
                    self.queue.push_front(died);
                    ended
                }
                None => died,
            };
            (RunMachine::adopt(self.plan.clone(), known, clock::moment()), first)
        };
        let sealed = super::run(&mut machine, self, first);
        self.guard.disarm();
        sealed
    }

    /// Whether the command of a run that is to go on was never started, so that this bookend can begin with it.
    fn may_begin_anew(&mut self) -> bool {
        let ledger = self.guard.ledger;
        let stopped = ledger.cause.get::<StopCause>().is_some();
        if !self.plan.detach || self.command.is_some() || stopped {
            return false;
        }
        let Ok((ends, sources, _)) = super::begin::wire(&self.plan, None) else { return false };
        self.pump.reconnect(sources);
        self.ends = Some(ends);
        true
    }

    /// Puts what the keeper wrote of itself into this process's copy of the record.
    fn learn_owner(&mut self) {
        let bytes = self.guard.dir.read(crate::store::run_dir::STATUS).unwrap_or_default();
        if let Ok(theirs) = serde_json::from_slice::<Record>(&bytes) {
            self.guard.record.owner = theirs.owner;
            self.guard.record.status = theirs.status;
            self.guard.record.phases = theirs.phases;
            self.guard.record.preflight = theirs.preflight;
            self.guard.record.prompt = theirs.prompt;
        }
    }

    /// Finds the command that the partner started, if it did.
    fn adopt_command(&mut self) {
        let ledger = self.guard.ledger;
        let pid = ledger.command_pid.load(Ordering::SeqCst);
        if pid <= 1 {
            return;
        }
        let ours = wait::peek(pid) != wait::Change::NotOurs;
        let start_time = match ledger.command_start.load(Ordering::SeqCst) {
            0 => identity::stat(pid).filter(|_| ours).map_or(0, |s| s.start_time),
            known => known,
        };
        let handle = if ours { None } else { tree::pidfd(pid).ok() };
        self.blind = !ours && !self.is_ancestor();
        let gone = !ours && (start_time == 0 || !identity::is_alive(pid, start_time));
        self.guard.record.command.pid = Some(pid);
        self.guard.record.command.start_time = (start_time > 0).then_some(start_time);
        self.command = Some(Command { pid, start_time, ours, handle, ended: gone });
    }

    /// Whether what the command leaves behind comes to this process: it does unless this one was forked later.
    fn is_ancestor(&self) -> bool {
        !self.forked_later
    }

    /// Whether the keeper's death did that: with it the kernel hangs up a group that is stopped, and the foreground of
    /// a terminal that was the keeper's. What the keeper itself had still seen was before.
    fn is_hang_up(&self, exit: &Exit) -> bool {
        exit.signal == Some(libc::SIGHUP) && self.guard.ledger.exit.get::<Exit>().is_none()
    }

    fn known(&mut self) -> Known {
        let ledger = self.guard.ledger;
        let mut exit: Option<Exit> = ledger.exit.get();
        if let Some(command) = &mut self.command {
            if let (None, wait::Change::Ended(seen)) = (&exit, wait::peek(command.pid)) {
                exit = Some(seen);
            }
            if exit.is_some() || command.ended {
                command.ended = true;
                self.queue.push_back(Event::Exited(0, exit));
            }
        }
        let started = ledger.started.load(Ordering::SeqCst);
        let ended = self.command.as_ref().is_some_and(|c| c.ended);
        Known {
            started: self
                .command
                .as_ref()
                .map(|_| if started > 0 { Moment(started) } else { self.guard.started }),
            cause: ledger.cause.get().filter(|_| !ended || ledger.stopping.load(Ordering::SeqCst)),
            forced: ledger.forced.load(Ordering::SeqCst),
            output_open: self.pump.is_open(),
            blind: self.blind,
        }
    }

    /// Forks a new partner in the place of the one that died, for a run that is to go on.
    pub fn replace_partner(&mut self) {
        let Ok((mine, theirs)) = Link::pair() else { return };
        match partner::split() {
            Ok(Side::Parent(pid)) => {
                self.link = Some(mine);
                self.partner_below = Some(pid);
                let me = identity::own_stat();
                let owner = &mut self.guard.record.owner;
                owner.pid = identity::own_pid();
                owner.start_time = me.map_or(0, |s| s.start_time);
                owner.front_pid = Some(pid);
                owner.front_start_time = identity::stat(pid).map(|s| s.start_time);
                self.guard.event("partner_replaced", &serde_json::json!({ "pid": pid }));
                let status = self.guard.record.status;
                self.guard.save_status(status, false);
            }
            Ok(Side::Child) => {
                drop(mine);
                self.guard.disarm();
                self.forked_later = true;
                // Whom that one has let in must see its end.
                if let Some(guests) = &mut self.guests {
                    guests.leave_to_the_other();
                }
                self.link = Some(theirs);
                super::front::watch_instead(self);
            }
            Err(e) => self.guard.degrade(format!("a new partner could not be forked: {e}")),
        }
    }
}

/// What the death of the partner means.
fn cause_of_death(how: Option<&Exit>, panic: Option<String>) -> StopCause {
    match how {
        Some(Exit { signal: Some(number), .. }) if BREAKDOWNS.contains(number) => {
            internal_error(format!("the keeper died of {}", signal::name(*number)))
        }
        Some(Exit { signal: Some(number), .. }) => {
            wrapper_died(&format!("the keeper was killed by {}", signal::name(*number)))
        }
        Some(Exit { code: Some(code), .. }) => {
            let why =
                panic.unwrap_or_else(|| format!("the keeper ended with code {code} without sealing the run"));
            internal_error(why)
        }
        _ => wrapper_died("the other bookend is gone; how it ended could not be seen"),
    }
}

/// The signal to die of for a sealed record, so that the caller sees why.
#[must_use]
pub fn die_of(record: &Record) -> Option<i32> {
    match record.exit_reason.map(|r: ExitReason| r.row().code) {
        Some(CodeRule::DieOf(number)) => Some(number),
        _ => None,
    }
}
