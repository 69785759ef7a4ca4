//! Generated lives of the state machine: 100,000 random plans in random worlds, every step checked.
//!
//! The world of a trace answers what the machine asks for, late and in any order, with commands and descendants that
//! obey, or only die of SIGKILL, or of nothing at all; and in between somebody stops the run, a bookend dies, output
//! comes. The generator is a xorshift of the number that a failure prints: `BOOKEND_SEED=N` tries that one alone.

use bookend::machine::limit;
use bookend::machine::{Effect, Event, Known, Notice, RunMachine, SlotId, StopCause, Supply, Used};
use bookend::model::outcome::{Ending, ExitReason, Outcome};
use bookend::model::plan::{HarnessPlan, Limits, Plan};
use bookend::model::record::{Actor, EndedBy, ErrorInfo, Exit};
use bookend::model::status::Status;
use bookend::model::time::Moment;

/// Traces in the default suite.
const TRACES: u64 = 100_000;
/// A trace is stopped after so many steps of the outer world; every machine must be done soon after.
const STEPS: u32 = 60;
/// What a stop may take beyond the grace period: giving up on what SIGKILL does not end, and the drain.
const LAST_MS: u64 = limit::KILL_GIVE_UP_MS + limit::DRAIN_MS + 10;

/// A xorshift generator.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn maybe_ms(&mut self) -> Option<u64> {
        let ms = [0, 1, 50, 1_000, 20_000];
        self.one_in(3).then(|| ms[self.below(5) as usize])
    }
}

/// What it takes to end a process of the trace's world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obeys {
    Any,
    Kill,
    Nothing,
}

/// One slot as the world sees it.
#[derive(Clone, Debug)]
struct Place {
    /// Between Spawn and `EndTask`.
    active: bool,
    /// The command lives.
    runs: bool,
    /// Descendants that live.
    left: usize,
    obeys: Obeys,
    output_open: bool,
}

/// A machine, its world, and what has been seen of it.
struct Trace {
    dice: Dice,
    plan: Plan,
    machine: RunMachine,
    now: Moment,
    places: Vec<Place>,
    answers: Vec<Event>,
    tasks: u64,
    cause: Option<StopCause>,
    stop_at: Option<Moment>,
    saved_stop: bool,
    /// Whether somebody asked by force, or a second time.
    insisted: bool,
    sealed: Option<Ending>,
    log: Vec<String>,
}

fn cause(reason: ExitReason, actor: Actor) -> StopCause {
    StopCause::new(reason, EndedBy { actor, ..EndedBy::default() })
}

impl Trace {
    /// A run that begins, or one that a bookend takes over.
    fn new(seed: u64) -> (Self, Event) {
        let mut dice = Dice::new(seed);
        let adopts = dice.one_in(4);
        let plan = Plan {
            slots: if adopts { 1 } else { 1 + dice.below(4) as usize },
            limits: Limits {
                timeout_ms: dice.maybe_ms(),
                idle_timeout_ms: dice.maybe_ms(),
                max_tokens: dice.one_in(3).then_some(1000),
                max_repeats: dice.one_in(3).then_some(5),
                ..Limits::default()
            },
            harness: dice
                .one_in(2)
                .then(|| HarnessPlan { declares: dice.one_in(2), ..HarnessPlan::default() }),
            grace_ms: [0, 10, 500, 10_000][dice.below(4) as usize],
            stop_signal: dice.one_in(5).then_some([libc::SIGINT, libc::SIGKILL][dice.below(2) as usize]),
            detach: dice.one_in(3),
            ..Plan::default()
        };
        let now = Moment(1_000_000);
        let place = Place { active: false, runs: false, left: 0, obeys: Obeys::Any, output_open: false };
        let mut trace = Self {
            machine: RunMachine::new(plan.clone()),
            now,
            places: vec![place; plan.slots],
            answers: Vec::new(),
            tasks: if adopts { 0 } else { dice.below(6) },
            cause: None,
            stop_at: None,
            saved_stop: false,
            insisted: false,
            sealed: None,
            log: vec![format!("{plan:?}")],
            dice,
            plan,
        };
        if !adopts {
            return (trace, Event::Published);
        }
        let first = trace.adopt();
        (trace, first)
    }

    fn adopt(&mut self) -> Event {
        let started = !self.dice.one_in(4);
        let known = Known {
            started: started.then_some(Moment(999_000)),
            cause: self.dice.one_in(3).then(|| self.wish(ExitReason::Killed, Actor::User)),
            forced: self.dice.one_in(8),
            output_open: self.dice.one_in(2),
            blind: self.dice.one_in(2),
        };
        self.log.push(format!("adopts {known:?}"));
        let obeys = self.obedience();
        self.places[0] =
            Place { active: started, runs: started, left: 1, obeys, output_open: known.output_open };
        self.insisted = known.forced;
        if known.cause.is_some() {
            self.cause.clone_from(&known.cause);
            self.stop_at = Some(self.now);
        }
        self.machine = RunMachine::adopt(self.plan.clone(), known, self.now);
        Event::PartnerDied(cause(ExitReason::WrapperDied, Actor::System))
    }

    /// A cause with a signal and a grace period of its own, or without.
    fn wish(&mut self, reason: ExitReason, actor: Actor) -> StopCause {
        let signals = [libc::SIGINT, libc::SIGHUP, libc::SIGWINCH];
        StopCause {
            signal: self.dice.one_in(3).then_some(libc::SIGQUIT),
            stop_signal: self.dice.one_in(3).then_some(signals[self.dice.below(3) as usize]),
            grace_ms: self.dice.maybe_ms(),
            ..cause(reason, actor)
        }
    }

    /// The signal that the first cause stops a command with.
    fn stop_signal(&self) -> i32 {
        let of_cause = self.cause.as_ref().and_then(|c| c.stop_signal);
        let that_came = self.cause.as_ref().and_then(|c| c.signal);
        of_cause.or(self.plan.stop_signal).or(that_came).unwrap_or(libc::SIGTERM)
    }

    /// The grace period of the first cause.
    fn grace_ms(&self) -> u64 {
        match &self.cause {
            Some(StopCause { reason: ExitReason::WrapperDied, .. }) => {
                self.plan.grace_ms.min(limit::PARTNER_GRACE_MS)
            }
            cause => cause.as_ref().and_then(|c| c.grace_ms).unwrap_or(self.plan.grace_ms),
        }
    }

    fn obedience(&mut self) -> Obeys {
        [Obeys::Any, Obeys::Kill, Obeys::Nothing][self.dice.below(3) as usize]
    }

    /// Gives the machine one event, and checks and performs what it wants.
    fn step(&mut self, event: Event) {
        self.log.push(format!("{} {event:?}", self.now.0));
        if let Event::Stop { force, .. } = &event {
            self.insisted |= *force || self.cause.is_some();
        }
        let effects = self.machine.step(event, self.now);
        for (at, effect) in effects.iter().enumerate() {
            self.log.push(format!("    -> {effect:?}"));
            assert!(self.sealed.is_none(), "an effect after the end");
            let last = at + 1 == effects.len();
            assert_eq!(
                matches!(effect, Effect::Seal(_)),
                last && self.machine.status().is_terminal(),
                "Seal is last"
            );
            self.check(effect);
            self.perform(effect);
        }
    }

    /// What must hold for each effect.
    fn check(&self, effect: &Effect) {
        let of_task = match *effect {
            Effect::Signal(slot, _) | Effect::Kill(slot) => {
                let stops = self.cause.is_some() && self.places[slot].runs;
                assert!(!stops || self.saved_stop, "a stop is signalled before it is saved");
                if stops {
                    self.check_stop(effect);
                }
                Some(slot)
            }
            Effect::Survey(slot) | Effect::ProbeOutput(slot) | Effect::TrimLog(slot) => Some(slot),
            Effect::CutOutput(slot) | Effect::Judge(slot) | Effect::EndTask(slot, _) => Some(slot),
            Effect::Spawn(slot) => {
                assert!(!self.places[slot].active, "a second command in one slot");
                None
            }
            _ => None,
        };
        assert!(of_task.is_none_or(|slot| self.places[slot].active), "an effect for an idle slot");
        let begins = matches!(effect, Effect::Spawn(_) | Effect::FetchTask(_));
        assert!(!begins || self.cause.is_none(), "something begins after a stop");
        if let Effect::Seal(ending) = effect {
            assert!(self.places.iter().all(|place| !place.active), "sealed before every task was ended");
            self.check_ending(ending);
        }
    }

    /// A command is asked with the signal of the first cause, and not killed before that one's grace period is over.
    fn check_stop(&self, effect: &Effect) {
        let wanted = self.stop_signal();
        let waited_ms = self.stop_at.map_or(0, |at| self.now.ms_since(at));
        match effect {
            Effect::Signal(_, number) => assert_eq!(*number, wanted, "another signal"),
            _ if wanted == libc::SIGKILL || self.insisted => {}
            _ => assert!(waited_ms >= self.grace_ms(), "killed after {waited_ms} ms"),
        }
    }

    /// The first cause is in the record, and nothing else ever stops a run.
    fn check_ending(&self, ending: &Ending) {
        assert!(ending.status.is_terminal() && ending.status != Status::Unknown);
        match &self.cause {
            Some(first) => {
                assert_eq!(
                    (ending.reason, ending.ended_by.as_ref()),
                    (first.reason, Some(&first.by)),
                    "first cause"
                );
            }
            None => assert_ne!(ending.status, Status::Stopped, "stopped by nobody"),
        }
        assert!(!ending.forced || self.cause.is_some(), "forced without a stop");
        let fine = ending.exit.as_ref().is_none_or(|exit| exit.code == Some(0));
        assert_eq!(
            ending.status == Status::Completed,
            ending.reason.row().status == Status::Completed && (fine || ending.mismatch.is_some())
        );
    }

    /// Does what the machine wants; the answers come later, in any order.
    fn perform(&mut self, effect: &Effect) {
        match effect {
            Effect::Preflight => {
                let failed = self.dice.one_in(20).then(ErrorInfo::default);
                self.answers.push(Event::PreflightDone(failed));
            }
            Effect::FetchTask(slot) => {
                let supply = match self.tasks {
                    0 => Supply::Nothing,
                    1 if self.dice.one_in(2) => Supply::Last,
                    _ => Supply::Task,
                };
                self.tasks = self.tasks.saturating_sub(1);
                self.answers.push(Event::TaskReady(*slot, supply));
            }
            Effect::Spawn(slot) => self.spawn(*slot),
            Effect::SaveStatus { status, durable } => {
                self.saved_stop |= *status == Status::Stopping && *durable;
            }
            Effect::Tell(Notice::Stopping { cause, .. }) => {
                assert!(self.cause.is_none(), "a second cause");
                self.cause = Some((**cause).clone());
                self.stop_at = Some(self.now);
            }
            Effect::Signal(slot, number) => self.hit(*slot, *number),
            Effect::Kill(slot) => {
                self.hit(*slot, libc::SIGKILL);
                self.answers.push(Event::ChildrenChanged);
            }
            Effect::Survey(slot) => self.answers.push(Event::Descendants(*slot, self.places[*slot].left)),
            Effect::ProbeOutput(slot) => {
                let ago = self.dice.below(100);
                let seen = if self.dice.one_in(2) { self.now } else { Moment(self.now.0 - ago) };
                self.answers.push(Event::LastOutput(*slot, seen));
            }
            Effect::Judge(slot) => {
                assert!(self.plan.harness.is_some(), "a plain command is asked nothing");
                let unkillable = self.places[*slot].obeys == Obeys::Nothing;
                assert!(unkillable || !self.places[*slot].runs, "judged while it runs");
                let error = Outcome::Error("said so".to_owned());
                let word = [None, Some(Outcome::Success), Some(error)][self.dice.below(3) as usize].clone();
                self.answers.push(Event::Judged(*slot, word));
            }
            Effect::EndTask(slot, _) => self.places[*slot].active = false,
            Effect::Seal(ending) => self.sealed = Some(ending.clone()),
            Effect::Tell(_) | Effect::TrimLog(_) | Effect::CutOutput(_) | Effect::ReplacePartner => {}
        }
    }

    fn spawn(&mut self, slot: SlotId) {
        let works = !self.dice.one_in(10);
        let (obeys, left) = (self.obedience(), self.dice.below(3) as usize);
        let output_open = self.dice.one_in(2);
        self.places[slot] = Place { active: true, runs: works, left, obeys, output_open };
        self.answers.push(if works {
            Event::Spawned { slot, output_open }
        } else {
            Event::SpawnFailed(slot, ErrorInfo::default())
        });
    }

    /// A signal for all processes of a slot.
    fn hit(&mut self, slot: SlotId, number: i32) {
        let place = &mut self.places[slot];
        let dies = match place.obeys {
            Obeys::Any => true,
            Obeys::Kill => number == libc::SIGKILL,
            Obeys::Nothing => false,
        };
        if dies {
            place.left = 0;
            self.end_command(slot, Exit::with_signal(number, false));
        }
    }

    fn end_command(&mut self, slot: SlotId, exit: Exit) {
        if std::mem::take(&mut self.places[slot].runs) {
            let seen = (!self.dice.one_in(6)).then_some(exit);
            self.answers.push(Event::Exited(slot, seen));
        }
    }

    /// One of the waiting answers, whichever.
    fn answer(&mut self) -> Option<Event> {
        // What a slot is told comes in the order in which it happened; slots are independent of each other.
        let bound = self.answers.len() as u64;
        (bound > 0).then(|| {
            let at = self.dice.below(bound) as usize;
            let slot = slot_of(&self.answers[at]);
            let first = self.answers.iter().position(|e| slot_of(e) == slot).unwrap_or(at);
            self.answers.remove(first)
        })
    }

    /// Something that happens in the outer world.
    fn happening(&mut self) -> Event {
        let slot = self.dice.below(self.places.len() as u64) as usize;
        let (active, runs) = (self.places[slot].active, self.places[slot].runs);
        match self.dice.below(14) {
            0 | 1 if runs => {
                let code = self.dice.below(3) as i32;
                self.end_command(slot, Exit::with_code(code));
                Event::ChildrenChanged
            }
            2 if runs => Event::Paused(slot),
            3 if runs => Event::Continued(slot),
            4 if active => {
                self.places[slot].left = self.places[slot].left.saturating_sub(1);
                Event::ChildrenChanged
            }
            5 | 6 if active && self.places[slot].output_open => {
                self.places[slot].output_open = false;
                Event::OutputClosed(slot)
            }
            7 if runs && self.dice.one_in(2) => {
                let used = Used {
                    tokens: Some(self.dice.below(1200)),
                    same_error: self.dice.below(7) as u32,
                    ..Used::default()
                };
                Event::Used(slot, used)
            }
            7 if runs => Event::LogGrew(slot, self.dice.below(1_000)),
            8 => {
                let reasons = [ExitReason::Interrupted, ExitReason::Terminated, ExitReason::Killed];
                let actors = [Actor::Process, Actor::Terminal, Actor::User];
                let at = self.dice.below(3) as usize;
                let cause = self.wish(reasons[at], actors[at]);
                Event::Stop { cause, force: self.dice.one_in(3) }
            }
            9 if self.dice.one_in(2) => Event::PartnerDied(cause(ExitReason::WrapperDied, Actor::System)),
            _ => {
                self.now = self.now.plus_ms(self.dice.below(400));
                Event::Tick
            }
        }
    }

    /// The life of a run: whatever happens, then a stop if it goes on, then nothing but its own deadlines.
    fn live(&mut self, first: Event) {
        self.step(first);
        for _ in 0..STEPS {
            if self.sealed.is_some() {
                break;
            }
            let answer = if self.dice.one_in(3) { None } else { self.answer() };
            let event = answer.unwrap_or_else(|| self.happening());
            self.step(event);
        }
        self.settle();
        if self.sealed.is_none() {
            let force = self.dice.one_in(4);
            self.step(Event::Stop { cause: cause(ExitReason::Terminated, Actor::Process), force });
            self.settle();
        }
        self.end_by_deadlines();
        assert!(self.sealed.is_some(), "no end");
        for event in [Event::Tick, Event::ChildrenChanged, Event::Exited(0, None), Event::Published] {
            assert!(self.machine.step(event, self.now.plus_ms(100_000)).is_empty(), "life after the end");
        }
        assert!(self.machine.deadline().is_none(), "a deadline after the end");
    }

    /// Gives all answers that are owed.
    fn settle(&mut self) {
        while let Some(event) = self.answer() {
            self.step(event);
        }
    }

    /// Nothing obeys and nothing happens any more: the machine's own deadlines must bring the end, and soon.
    fn end_by_deadlines(&mut self) {
        let (began, grace_ms) = (self.now, self.grace_ms());
        let mut in_place = 0;
        while self.sealed.is_none() {
            let due = self.machine.deadline().expect("something is due while a stop is under way");
            // With a grace of nothing two steps of a slot's ladder are due at once; more would be a spin.
            in_place = if due > self.now { 0 } else { in_place + 1 };
            assert!(in_place <= 3 * self.places.len(), "a deadline that is never met");
            self.now = due.max(self.now);
            self.step(Event::Tick);
            self.settle();
        }
        let sweeps = limit::LINGER_MS + limit::SWEEP_GRACE_MS;
        assert!(self.now.ms_since(began) <= grace_ms + sweeps + LAST_MS, "{} ms", self.now.ms_since(began));
    }
}

/// The slot that an event is about; all that are about none share a queue.
fn slot_of(event: &Event) -> Option<SlotId> {
    match event {
        Event::TaskReady(slot, _) | Event::SpawnFailed(slot, _) | Event::Exited(slot, _) => Some(*slot),
        Event::Judged(slot, _)
        | Event::Descendants(slot, _)
        | Event::LastOutput(slot, _)
        | Event::Spawned { slot, .. } => Some(*slot),
        _ => None,
    }
}

/// Lives one trace; a failure tells its seed and all that happened.
fn try_seed(seed: u64) {
    let (mut trace, first) = Trace::new(seed);
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| trace.live(first)));
    assert!(lived.is_ok(), "seed {seed} (BOOKEND_SEED={seed} tries it alone):\n{}", trace.log.join("\n"));
}

#[test]
fn a_hundred_thousand_lives_end_once_and_truly() {
    if let Some(seed) = std::env::var("BOOKEND_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return try_seed(seed);
    }
    (0..TRACES).for_each(try_seed);
}

#[test]
fn campaign_more_lives() {
    let more = match std::env::var("BOOKEND_CAMPAIGN").as_deref() {
        Ok("full") => 20_000_000,
        Ok(_) => 1_000_000,
        Err(_) => 1_000,
    };
    (TRACES..TRACES + more).for_each(try_seed);
}
