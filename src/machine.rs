//! Decisions: what happens next in a run. Pure; the only decider.
//!
//! [`RunMachine::step`] takes one [`Event`] and the moment it happened, and answers with the [`Effect`]s to
//! perform, in order. It never looks at the world: a test can drive it through any life a run can have.

pub mod budget;
pub mod effect;
pub mod event;
pub mod slots;

use budget::Standing;
pub use effect::{Effect, Notice};
pub use event::{Event, SlotId, StopCause, Supply, Used};
use slots::{Ladder, Slot, Stage};

use crate::model::outcome::{Ending, ExitReason, Outcome};
use crate::model::plan::{Limits, Plan};
use crate::model::record::{Actor, EndedBy, ErrorInfo, Exit};
use crate::model::status::Status;
use crate::model::time::Moment;

/// The named limits of waiting, in milliseconds.
pub mod limit {
    /// What a command left behind may end by itself for this long (a `tee` behind a shell's `>(...)`).
    pub const LINGER_MS: u64 = 300;
    /// What is left then has this long between SIGTERM and SIGKILL, or the plan's grace if that is shorter.
    pub const SWEEP_GRACE_MS: u64 = 2_000;
    /// When one bookend was killed the command has this long between SIGTERM and SIGKILL.
    pub const PARTNER_GRACE_MS: u64 = 500;
    /// SIGKILL is sent again after this long: new processes may have been born meanwhile.
    pub const KILL_AGAIN_MS: u64 = 20;
    /// What SIGKILL does not end within this long (a process of another user, one in the kernel) is listed.
    pub const KILL_GIVE_UP_MS: u64 = 4_000;
    /// Output held open by processes that are not ours is waited for this long.
    pub const DRAIN_MS: u64 = 1_000;
    /// The same after a forced end.
    pub const DRAIN_FORCED_MS: u64 = 100;
    /// A growing log is looked at this often, more often when it may soon reach its limit.
    pub const TRIM_EVERY_MS: u64 = 250;
    /// It is not looked at more often than this.
    pub const TRIM_SOONEST_MS: u64 = 10;
    /// The first look at the log's size comes this long after the start, sooner for a small limit.
    pub const TRIM_FIRST_MS: u64 = 1_000;
    /// The limit for which the first look comes a millisecond later than for the next smaller one.
    pub const TRIM_FIRST_BYTES_PER_MS: u64 = 1 << 20;
    /// What a harness used is on disk after this long at most.
    pub const SAVE_USAGE_MS: u64 = 250;
    /// A bookend that is no parent of the command looks this often for what is left of it.
    pub const BLIND_SURVEY_MS: u64 = 100;
    /// Partners that are replaced in one run before it is left with a single bookend.
    pub const PARTNER_REPLACEMENTS: u32 = 16;
}

/// What a bookend that takes over already knows of the run.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Whether the command was started, and when.
    pub started: Option<Moment>,
    /// Why everything was to stop, where somebody had asked.
    pub cause: Option<StopCause>,
    /// Whether the end was being forced.
    pub forced: bool,
    /// Whether output is still to be drained.
    pub output_open: bool,
    /// Whether the command is no child of this process.
    pub blind: bool,
}

/// The state of a run between two events.
#[derive(Clone, Debug)]
pub struct RunMachine {
    plan: Plan,
    slots: Vec<Slot>,
    status: Status,
    cause: Option<StopCause>,
    forced: bool,
    exhausted: bool,
    blind: bool,
    replacements: u32,
    verdicts: Vec<Ending>,
}

type Effects = Vec<Effect>;

impl RunMachine {
    /// A run that has not begun.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let slots = vec![Slot::default(); plan.slots.max(1)];
        Self {
            plan,
            slots,
            status: Status::Initializing,
            cause: None,
            forced: false,
            exhausted: false,
            blind: false,
            replacements: 0,
            verdicts: Vec::new(),
        }
    }

    /// A run that another process began, with what is known of it.
    #[must_use]
    pub fn adopt(plan: Plan, known: Known, now: Moment) -> Self {
        let mut machine = Self::new(plan);
        machine.exhausted = true;
        machine.blind = known.blind;
        machine.forced = known.forced;
        machine.status = Status::Running;
        if let Some(started) = known.started {
            let trim_at = now.plus_ms(machine.first_trim_ms());
            let slot = &mut machine.slots[0];
            slot.stage = Stage::Running;
            slot.started = started;
            slot.last_output = now;
            slot.output_open = known.output_open;
            slot.trim_at = Some(trim_at);
        }
        machine.cause = known.cause;
        machine
    }

    fn first_trim_ms(&self) -> u64 {
        let by_limit_ms = self.plan.log_max_bytes / limit::TRIM_FIRST_BYTES_PER_MS;
        by_limit_ms.clamp(limit::TRIM_SOONEST_MS, limit::TRIM_FIRST_MS)
    }

    /// The status word of the moment.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// The earliest moment at which [`Event::Tick`] is wanted; none while nothing is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        let limits = if self.cause.is_none() { self.plan.limits } else { Limits::default() };
        self.slots
            .iter()
            .filter_map(|slot| slot.deadline(limits.timeout_ms, limits.idle_timeout_ms, self.blind))
            .min()
    }

    /// Takes one event and says what to do.
    pub fn step(&mut self, event: Event, now: Moment) -> Effects {
        if self.status.is_terminal() {
            return Vec::new();
        }
        let mut out = Vec::new();
        match event {
            Event::Published => self.on_published(&mut out),
            Event::PreflightDone(failed) => self.on_preflight(failed, &mut out),
            Event::TaskReady(slot, supply) => self.on_task(slot, supply, &mut out),
            Event::Spawned { slot, output_open } => self.on_spawned(slot, output_open, now, &mut out),
            Event::SpawnFailed(slot, error) => self.on_spawn_failed(slot, error, &mut out),
            Event::Exited(slot, exit) => self.on_exited(slot, exit, now, &mut out),
            Event::Paused(slot) => self.on_paused(slot, now, &mut out),
            Event::Continued(slot) => self.on_continued(slot, now, &mut out),
            Event::Descendants(slot, alive) => self.on_descendants(slot, alive, now, &mut out),
            Event::ChildrenChanged => self.survey_sweeping(&mut out),
            Event::OutputClosed(slot) => self.on_output_closed(slot, &mut out),
            Event::Used(slot, used) => self.on_used(slot, used, now, &mut out),
            Event::Judged(slot, declared) => self.on_judged(slot, declared.as_ref(), &mut out),
            Event::LastOutput(slot, at) => self.on_last_output(slot, at, now, &mut out),
            Event::LogGrew(slot, wait_ms) => {
                let wait_ms = wait_ms.clamp(limit::TRIM_SOONEST_MS, limit::TRIM_EVERY_MS);
                self.slots[slot].trim_at.get_or_insert(now.plus_ms(wait_ms));
            }
            Event::Stop { cause, force } => self.on_stop(cause, force, now, &mut out),
            Event::PartnerDied(cause) => self.on_partner_died(cause, now, &mut out),
            Event::Tick => self.on_tick(now, &mut out),
        }
        self.finish_when_done(&mut out);
        out
    }

    fn on_published(&mut self, out: &mut Effects) {
        if self.cause.is_none() {
            out.push(Effect::Preflight);
        }
    }

    fn on_preflight(&mut self, failed: Option<ErrorInfo>, out: &mut Effects) {
        if let Some(error) = failed {
            self.exhausted = true;
            self.verdicts
                .push(Ending { error: Some(error), ..Ending::of_reason(ExitReason::PreflightFailed) });
        } else if self.cause.is_none() {
            for slot in 0..self.slots.len() {
                self.slots[slot].stage = Stage::Fetching;
                out.push(Effect::FetchTask(slot));
            }
        }
    }

    fn on_task(&mut self, slot: SlotId, supply: Supply, out: &mut Effects) {
        if self.slots[slot].stage != Stage::Fetching {
            return;
        }
        self.exhausted |= supply != Supply::Task;
        if supply != Supply::Nothing && self.cause.is_none() {
            self.slots[slot].stage = Stage::Spawning;
            out.push(Effect::Spawn(slot));
        } else {
            self.slots[slot].stage = Stage::Idle;
        }
    }

    fn on_spawned(&mut self, slot: SlotId, output_open: bool, now: Moment, out: &mut Effects) {
        self.slots[slot] = Slot {
            stage: Stage::Running,
            started: now,
            last_output: now,
            output_open,
            trim_at: Some(now.plus_ms(self.first_trim_ms())),
            ..Slot::default()
        };
        if self.status == Status::Initializing {
            self.status = Status::Running;
        }
        out.push(Effect::SaveStatus { status: self.status, durable: false });
        if let Some(cause) = self.cause.clone() {
            self.ask_to_end(slot, &cause, now, out);
        }
    }

    fn on_spawn_failed(&mut self, slot: SlotId, error: ErrorInfo, out: &mut Effects) {
        let verdict = Ending { error: Some(error), ..Ending::of_reason(ExitReason::SpawnFailed) };
        self.slots[slot].verdict = Some(verdict);
        self.end_task(slot, out);
    }

    fn on_exited(&mut self, slot: SlotId, exit: Option<Exit>, now: Moment, out: &mut Effects) {
        if self.slots[slot].stage != Stage::Running {
            return;
        }
        self.slots[slot].verdict = Some(self.verdict(exit));
        self.slots[slot].stage = Stage::Sweeping;
        self.slots[slot].paused = None;
        self.slots[slot].drain_until = now.plus_ms(limit::BLIND_SURVEY_MS);
        out.push(Effect::Survey(slot));
    }

    /// What a command's end means, given whether somebody had asked for it before.
    fn verdict(&self, exit: Option<Exit>) -> Ending {
        match (&self.cause, exit) {
            (Some(cause), exit) => Ending { exit, ..self.stopped(cause) },
            (None, Some(exit)) => Ending::of_exit(exit),
            (None, None) => Ending::of_reason(ExitReason::Lost),
        }
    }

    fn stopped(&self, cause: &StopCause) -> Ending {
        Ending {
            forced: self.forced,
            ended_by: Some(cause.by.clone()),
            error: cause.error.clone(),
            ..Ending::of_reason(cause.reason)
        }
    }

    fn on_paused(&mut self, slot: SlotId, now: Moment, out: &mut Effects) {
        if self.slots[slot].stage == Stage::Running && self.slots[slot].paused.is_none() {
            self.slots[slot].paused = Some(now);
            out.push(Effect::SaveStatus { status: self.status, durable: false });
        }
    }

    fn on_continued(&mut self, slot: SlotId, now: Moment, out: &mut Effects) {
        let slot = &mut self.slots[slot];
        if let Some(since) = slot.paused.take() {
            let paused_ms = now.ms_since(since);
            slot.paused_ms = slot.paused_ms.saturating_add(paused_ms);
            slot.last_output = slot.last_output.plus_ms(paused_ms);
            out.push(Effect::SaveStatus { status: self.status, durable: false });
        }
    }

    fn on_descendants(&mut self, at: SlotId, alive: usize, now: Moment, out: &mut Effects) {
        let grace_ms = self.sweep_grace_ms();
        let forced = self.forced;
        let slot = &mut self.slots[at];
        if slot.stage != Stage::Sweeping {
            return;
        }
        if alive == 0 {
            self.drain(at, now, out);
            return;
        }
        match slot.ladder {
            Ladder::Untouched if forced => {
                slot.start_killing(now);
                out.push(Effect::Kill(at));
            }
            Ladder::Untouched => {
                slot.ladder = Ladder::Lingering(now.plus_ms(limit::LINGER_MS));
                out.push(Effect::Tell(Notice::Leftovers(alive)));
            }
            // The command obeyed; what it left has at most the grace of a sweep, not the whole of the plan's.
            Ladder::Asked(kill_at) => slot.ladder = Ladder::Asked(kill_at.min(now.plus_ms(grace_ms))),
            Ladder::Lingering(_) | Ladder::Killing(..) => {}
        }
    }

    fn survey_sweeping(&self, out: &mut Effects) {
        let sweeping = |&at: &SlotId| self.slots[at].stage == Stage::Sweeping;
        out.extend((0..self.slots.len()).filter(sweeping).map(Effect::Survey));
    }

    fn on_output_closed(&mut self, slot: SlotId, out: &mut Effects) {
        self.slots[slot].output_open = false;
        if self.slots[slot].stage == Stage::Draining {
            self.judge(slot, out);
        }
    }

    /// The slot's output is complete. Where a harness speaks of itself, what it said is heard before the verdict.
    fn judge(&mut self, slot: SlotId, out: &mut Effects) {
        if self.plan.harness.is_some() {
            self.slots[slot].stage = Stage::Judging;
            out.push(Effect::Judge(slot));
        } else {
            self.end_task(slot, out);
        }
    }

    fn on_judged(&mut self, at: SlotId, declared: Option<&Outcome>, out: &mut Effects) {
        let slot = &mut self.slots[at];
        if slot.stage != Stage::Judging {
            return;
        }
        if let Some(harness) = self.plan.harness.as_ref().filter(|harness| !harness.trust_exit_code) {
            slot.verdict =
                slot.verdict.take().map(|verdict| verdict.with_declared(declared, harness.declares));
        }
        self.end_task(at, out);
    }

    fn on_used(&mut self, at: SlotId, used: Used, now: Moment, out: &mut Effects) {
        if self.slots[at].stage != Stage::Running {
            return;
        }
        self.slots[at].save_at.get_or_insert(now.plus_ms(limit::SAVE_USAGE_MS));
        if self.cause.is_some() {
            return;
        }
        match budget::check(&self.plan.limits, &used, &mut self.slots[at].warned) {
            Standing::Fine => {}
            Standing::Near(what) => out.push(Effect::Tell(Notice::NearLimit(what))),
            Standing::Over(reason, why) => self.stop_by_rule(reason, &why, now, out),
        }
    }

    fn on_last_output(&mut self, at: SlotId, seen: Moment, now: Moment, out: &mut Effects) {
        let slot = &mut self.slots[at];
        slot.last_output = slot.last_output.max(seen.min(now));
        if self.cause.is_none()
            && slot.idle_at(self.plan.limits.idle_timeout_ms).is_some_and(|due| due <= now)
        {
            let ms = self.plan.limits.idle_timeout_ms.unwrap_or_default();
            self.stop_by_rule(ExitReason::Stalled, &format!("no output for {}", human(ms)), now, out);
        }
    }

    /// Stops everything on bookend's own account.
    fn stop_by_rule(&mut self, reason: ExitReason, why: &str, now: Moment, out: &mut Effects) {
        let by = EndedBy { actor: Actor::Bookend, reason: Some(why.to_owned()), ..EndedBy::default() };
        self.on_stop(StopCause::new(reason, by), false, now, out);
    }

    fn on_stop(&mut self, cause: StopCause, force: bool, now: Moment, out: &mut Effects) {
        let insists = match &self.cause {
            None => false,
            Some(first) => force || first.by.actor == Actor::Bookend || cause.by.actor == Actor::User,
        };
        if self.cause.is_some() || self.is_winding_down() {
            // First cause wins: a command that has ended by itself is not stopped afterwards, only hurried.
            if insists || self.cause.is_none() {
                self.force(now, out);
            }
            return;
        }
        self.begin_stop(cause, now, out);
        if force {
            self.force(now, out);
        }
    }

    /// Whether every command has ended and none will begin.
    fn is_winding_down(&self) -> bool {
        let ended = |s: &Slot| matches!(s.stage, Stage::Sweeping | Stage::Draining | Stage::Judging);
        self.slots.iter().any(ended)
            && self.slots.iter().all(|s| ended(s) || s.stage == Stage::Idle)
            && self.exhausted
    }

    fn begin_stop(&mut self, cause: StopCause, now: Moment, out: &mut Effects) {
        self.status = Status::Stopping;
        self.cause = Some(cause.clone());
        let grace_ms = self.grace_ms(&cause);
        out.push(Effect::Tell(Notice::Stopping { cause: Box::new(cause.clone()), grace_ms }));
        out.push(Effect::SaveStatus { status: self.status, durable: true });
        for slot in 0..self.slots.len() {
            if self.slots[slot].stage == Stage::Running {
                self.ask_to_end(slot, &cause, now, out);
            } else if self.slots[slot].stage == Stage::Fetching {
                self.slots[slot].stage = Stage::Idle;
            }
        }
    }

    fn grace_ms(&self, cause: &StopCause) -> u64 {
        match cause.reason {
            ExitReason::WrapperDied | ExitReason::InternalError => {
                self.plan.grace_ms.min(limit::PARTNER_GRACE_MS)
            }
            _ => cause.grace_ms.unwrap_or(self.plan.grace_ms),
        }
    }

    /// How long what a command left behind has between SIGTERM and SIGKILL.
    fn sweep_grace_ms(&self) -> u64 {
        let asked_ms = self.cause.as_ref().and_then(|cause| cause.grace_ms);
        asked_ms.unwrap_or(self.plan.grace_ms).min(limit::SWEEP_GRACE_MS)
    }

    fn ask_to_end(&mut self, slot: SlotId, cause: &StopCause, now: Moment, out: &mut Effects) {
        let wanted = cause.stop_signal.or(self.plan.stop_signal).or(cause.signal);
        let signal = wanted.unwrap_or(libc::SIGTERM);
        if self.forced || signal == libc::SIGKILL {
            self.slots[slot].start_killing(now);
            out.push(Effect::Kill(slot));
        } else {
            self.slots[slot].ladder = Ladder::Asked(now.plus_ms(self.grace_ms(cause)));
            out.push(Effect::Signal(slot, signal));
        }
    }

    fn force(&mut self, now: Moment, out: &mut Effects) {
        if self.cause.is_some() && !self.forced {
            self.forced = true;
            out.push(Effect::Tell(Notice::Killing));
        }
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            match slot.stage {
                Stage::Running | Stage::Sweeping => {
                    slot.start_killing(now);
                    out.push(Effect::Kill(at));
                }
                Stage::Draining => {
                    slot.drain_until = slot.drain_until.min(now.plus_ms(limit::DRAIN_FORCED_MS));
                }
                Stage::Idle | Stage::Fetching | Stage::Spawning | Stage::Judging => {}
            }
        }
    }

    fn on_partner_died(&mut self, cause: StopCause, now: Moment, out: &mut Effects) {
        let over = self.exhausted && self.slots.iter().all(|s| s.stage == Stage::Idle);
        if self.plan.detach && !over {
            if self.replacements < limit::PARTNER_REPLACEMENTS {
                self.replacements += 1;
                out.push(Effect::ReplacePartner);
            }
            // Whoever takes over carries on with the stop that was under way.
            self.resume_stop(now, out);
        } else if self.cause.is_some() {
            self.resume_stop(now, out);
        } else if !self.is_winding_down() {
            self.begin_stop(cause, now, out);
        }
    }

    /// Signals again where a stop was under way: the one who did it before may not have come to it.
    fn resume_stop(&mut self, now: Moment, out: &mut Effects) {
        let Some(cause) = self.cause.clone() else { return };
        self.status = Status::Stopping;
        let untouched = |s: &Slot| s.stage == Stage::Running && s.ladder == Ladder::Untouched;
        if self.slots.iter().any(untouched) {
            out.push(Effect::SaveStatus { status: self.status, durable: true });
        }
        for slot in 0..self.slots.len() {
            if untouched(&self.slots[slot]) {
                self.ask_to_end(slot, &cause, now, out);
            }
        }
    }

    fn on_tick(&mut self, now: Moment, out: &mut Effects) {
        for at in 0..self.slots.len() {
            match self.slots[at].stage {
                Stage::Running => {
                    self.check_limits(at, now, out);
                    self.climb(at, now, out);
                }
                Stage::Sweeping => {
                    if self.blind && self.slots[at].drain_until <= now {
                        self.slots[at].drain_until = now.plus_ms(limit::BLIND_SURVEY_MS);
                        out.push(Effect::Survey(at));
                    }
                    self.climb(at, now, out);
                }
                Stage::Draining if self.slots[at].drain_until <= now => {
                    out.push(Effect::CutOutput(at));
                    self.judge(at, out);
                }
                Stage::Idle | Stage::Fetching | Stage::Spawning | Stage::Draining | Stage::Judging => {}
            }
        }
    }

    fn check_limits(&mut self, at: SlotId, now: Moment, out: &mut Effects) {
        let limits = self.plan.limits;
        let slot = &mut self.slots[at];
        if slot.trim_at.is_some_and(|due| due <= now) {
            slot.trim_at = None;
            out.push(Effect::TrimLog(at));
        }
        if slot.save_at.is_some_and(|due| due <= now) {
            slot.save_at = None;
            out.push(Effect::SaveStatus { status: self.status, durable: false });
        }
        if self.cause.is_some() {
            return;
        }
        if slot.timeout_at(limits.timeout_ms).is_some_and(|due| due <= now) {
            let ms = limits.timeout_ms.unwrap_or_default();
            self.stop_by_rule(
                ExitReason::TimedOut,
                &format!("time limit of {} reached", human(ms)),
                now,
                out,
            );
        } else if slot.idle_at(limits.idle_timeout_ms).is_some_and(|due| due <= now) {
            out.push(Effect::ProbeOutput(at));
        }
    }

    /// Takes the slot's next step from a polite signal to SIGKILL to giving up.
    fn climb(&mut self, at: SlotId, now: Moment, out: &mut Effects) {
        let grace_ms = self.sweep_grace_ms();
        let slot = &mut self.slots[at];
        match slot.ladder {
            Ladder::Lingering(due) if due <= now => {
                slot.ladder = Ladder::Asked(now.plus_ms(grace_ms));
                out.push(Effect::Signal(at, libc::SIGTERM));
            }
            Ladder::Asked(due) if due <= now => {
                slot.start_killing(now);
                if slot.stage == Stage::Running {
                    out.push(Effect::Tell(Notice::Killing));
                }
                out.push(Effect::Kill(at));
            }
            Ladder::Killing(_, give_up) if give_up <= now => {
                if slot.stage == Stage::Running {
                    slot.verdict = None;
                    let verdict = self.verdict(None);
                    self.slots[at].verdict = Some(verdict);
                }
                self.drain(at, now, out);
            }
            Ladder::Killing(again, give_up) if again <= now => {
                slot.ladder = Ladder::Killing(now.plus_ms(limit::KILL_AGAIN_MS), give_up);
                out.push(Effect::Kill(at));
                if slot.stage == Stage::Sweeping {
                    out.push(Effect::Survey(at));
                }
            }
            _ => {}
        }
    }

    fn drain(&mut self, at: SlotId, now: Moment, out: &mut Effects) {
        let wait_ms = if self.forced { limit::DRAIN_FORCED_MS } else { limit::DRAIN_MS };
        let slot = &mut self.slots[at];
        slot.stage = Stage::Draining;
        slot.drain_until = now.plus_ms(wait_ms);
        if !slot.output_open {
            self.judge(at, out);
        }
    }

    fn end_task(&mut self, at: SlotId, out: &mut Effects) {
        let slot = std::mem::take(&mut self.slots[at]);
        let mut verdict = slot.verdict.unwrap_or_else(|| self.verdict(None));
        verdict.forced |= self.forced && verdict.ended_by.is_some();
        out.push(Effect::EndTask(at, verdict.clone()));
        self.verdicts.push(verdict);
        if self.cause.is_none() && !self.exhausted {
            self.slots[at].stage = Stage::Fetching;
            out.push(Effect::FetchTask(at));
        }
    }

    fn finish_when_done(&mut self, out: &mut Effects) {
        let idle = self.slots.iter().all(|s| s.stage == Stage::Idle);
        if idle && (self.exhausted || self.cause.is_some()) && !self.status.is_terminal() {
            let ending = self.ending();
            self.status = ending.status;
            out.push(Effect::Seal(ending));
        }
    }

    /// The end of the whole run, from the cause and the verdicts on its tasks.
    fn ending(&self) -> Ending {
        match (&self.cause, self.verdicts.as_slice()) {
            // A task that had ended by itself before the stop does not speak for a run that was stopped.
            (None, [only]) => only.clone(),
            (Some(_), [only]) if only.ended_by.is_some() => only.clone(),
            (Some(cause), _) => self.stopped(cause),
            (None, []) => Ending::of_reason(ExitReason::NothingToDo),
            (None, many) if many.iter().all(|v| v.status == Status::Completed) => many[0].clone(),
            (None, _) => Ending::of_reason(ExitReason::TaskFailed),
        }
    }
}

/// A duration as people write it, e.g. `1m 30s`.
fn human(ms: u64) -> String {
    humantime::format_duration(std::time::Duration::from_millis(ms)).to_string()
}
