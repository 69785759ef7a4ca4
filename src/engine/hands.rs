//! The effects: what the machine asks for, done in the world.

use std::collections::VecDeque;
use std::env;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::backlog::Backlog;
use super::front::Finished;
use super::guests::Guests;
use super::leftovers::Leftovers;
use super::listener::Listener;
use crate::clock;
use crate::failpoint;
use crate::guard::RunGuard;
use crate::guard::partner::{Link, Message};
use crate::guard::sealer::Sealed;
use crate::machine::{Effect, Event, Notice, SlotId, Supply};
use crate::model::outcome::Ending;
use crate::model::plan::{Capture, Plan, Stdin};
use crate::model::record::{ErrorInfo, Exit, Step, StepStatus};
use crate::model::signal;
use crate::model::status::Status;
use crate::model::time::Timestamp;
use crate::process::identity::{self, Stat};
use crate::process::pump::{self, Pump, Stream, Turn};
use crate::process::spawn::{Prepared, SpawnError, Wiring};
use crate::process::{pty, tree, wait};
use crate::signals::Signals;
use crate::store::door;
use crate::store::run_dir::{PROMPT, RESPONSE};
use crate::view::words;

/// Turns of the pump for a stream that is about to be cut: more than a pipe holds.
const CUT_TURNS: usize = 16;

/// The running command.
#[derive(Debug)]
pub struct Command {
    /// Process id, which is also its process group.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Whether it is our child, so that its end can be seen and its id stays ours until it is reaped.
    pub ours: bool,
    /// A handle to poll for its end, where it is not our child.
    pub handle: Option<OwnedFd>,
    /// Whether its end has been seen.
    pub ended: bool,
}

/// The command's side of what captures its output, until it has been started.
#[derive(Debug)]
pub enum Ends {
    /// The log itself.
    Log,
    /// Write ends of two pipes.
    Pipes(OwnedFd, OwnedFd),
    /// The other end of a pseudo-terminal.
    Tty(OwnedFd),
}

/// Everything the engine works with.
pub struct Hands {
    /// The open run.
    pub guard: RunGuard,
    /// What was decided beforehand.
    pub plan: Plan,
    /// The link to the other bookend, while it lives.
    pub link: Option<Link>,
    /// Process id of the other bookend, while it lives below this one.
    pub partner_below: Option<i32>,
    /// Signals to this process.
    pub signals: Signals,
    /// The output.
    pub pump: Pump,
    /// The command's ends of the output, until it is started.
    pub ends: Option<Ends>,
    /// The command, once started.
    pub command: Option<Command>,
    /// The file mode mask the command gets.
    pub umask: u32,
    /// Stop signals that came to this very process.
    pub own_stops: u32,
    /// Happenings that wait for their turn.
    pub queue: VecDeque<Event>,
    /// A watch on the log, armed while it is quiet.
    pub watch: Option<nix::sys::inotify::Inotify>,
    /// Whether this bookend is a child of the one that started the command.
    pub blind: bool,
    /// Whether this bookend was forked in the place of one that died: what the command starts is not below it.
    pub forked_later: bool,
    /// Times the source was asked for a task.
    pub fetched: u32,
    /// Output that is still to be shown and is nowhere else.
    pub backlog: Backlog,
    /// What the command left behind.
    pub leftovers: Leftovers,
    /// Whether the last look found no child at all.
    pub childless: bool,
    /// Whether the front wants to know that the run is on disk.
    pub announces: bool,
    /// An ear at the log, where a harness speaks of itself.
    pub listener: Option<Listener>,
    /// Who may type from outside, where the command has a terminal of its own.
    pub guests: Option<Guests>,
}

impl Hands {
    /// Performs one effect; what it finds out comes back as an event.
    pub fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Preflight => self.preflight(),
            Effect::FetchTask(slot) => self.fetch(slot),
            Effect::Spawn(slot) => self.spawn(slot),
            Effect::SaveStatus { status, durable } => self.save(status, durable),
            Effect::Tell(notice) => self.tell(&notice),
            Effect::Signal(_, number) => self.signal(number),
            Effect::Kill(_) => self.kill(),
            Effect::Survey(slot) => self.survey(slot),
            Effect::ProbeOutput(slot) => {
                let seen = self.pump.last_output(clock::moment());
                self.queue.push_back(Event::LastOutput(slot, seen));
            }
            Effect::TrimLog(_) => self.trim(),
            Effect::CutOutput(_) => self.cut_output(),
            Effect::EndTask(_, _) => self.reap_command(),
            Effect::Judge(slot) => self.judge(slot),
            Effect::ReplacePartner => self.replace_partner(),
            Effect::Seal(_) => {}
        }
    }

    /// Looks at the world before the start; every finding is in the record.
    fn preflight(&mut self) {
        let steps =
            [Some(check_directory(&self.plan.command.cwd)), self.plan.prompt.as_ref().map(check_prompt)];
        let mut failed = None;
        for step in steps.into_iter().flatten().filter(|step| step.status != StepStatus::Pass) {
            if failed.is_none() && step.status == StepStatus::Fail {
                let message = step.detail.clone().unwrap_or_default();
                failed = Some(ErrorInfo { message, detail: step.hint.clone(), ..ErrorInfo::default() });
            }
            self.guard.event("preflight", &json!({ "check": step }));
            self.guard.record.preflight.push(step);
        }
        self.queue.push_back(Event::PreflightDone(failed));
    }

    /// The source of a single command: it has one task.
    fn fetch(&mut self, slot: SlotId) {
        self.fetched += 1;
        let supply = if self.fetched == 1 { Supply::Last } else { Supply::Nothing };
        self.queue.push_back(Event::TaskReady(slot, supply));
    }

    fn spawn(&mut self, slot: SlotId) {
        failpoint::hit("keeper.before_spawn");
        match self.try_spawn() {
            Ok(pid) => {
                let start_time = identity::stat(pid).map_or(0, |s| s.start_time);
                let ledger = self.guard.ledger;
                ledger.command_start.store(start_time, Ordering::SeqCst);
                ledger.started.store(clock::moment().0, Ordering::SeqCst);
                self.guard.record.command.pid = Some(pid);
                self.guard.record.command.start_time = Some(start_time);
                self.command = Some(Command { pid, start_time, ours: true, handle: None, ended: false });
                failpoint::hit("keeper.spawned");
                self.queue.push_back(Event::Spawned { slot, output_open: self.pump.is_open() });
            }
            Err(e) => {
                let info = ErrorInfo {
                    message: e.to_string(),
                    detail: Some(spawn_hint(&e)),
                    errno: Some(e.errno as i32),
                    diagnostics: None,
                };
                self.guard.event("spawn_failed", &json!({ "error": info }));
                for stream in Stream::BOTH {
                    self.pump.close(stream);
                }
                self.queue.push_back(Event::SpawnFailed(slot, info));
            }
        }
    }

    fn try_spawn(&mut self) -> Result<i32, SpawnError> {
        let id = self.guard.dir.id.to_string();
        let marks = [(tree::MARK, id.as_str())];
        let prepared = Prepared::new(&self.plan.command, inherited(), &marks)?;
        let null = open_null()?;
        let prompt = self.open_prompt()?;
        let ends = self.ends.take().unwrap_or(Ends::Log);
        let stdin = std::io::stdin();
        let log = self.pump.log().as_fd();
        let own_input = self.guard.record.command.stdin == Stdin::Inherit;
        let input = match &prompt {
            Some(prompt) => prompt.as_fd(),
            None if own_input => stdin.as_fd(),
            None => null.as_fd(),
        };
        let [stdin, stdout, stderr] = match &ends {
            Ends::Log => [input, log, log],
            Ends::Pipes(out, err) => [input, out.as_fd(), err.as_fd()],
            Ends::Tty(end) => [end.as_fd(); 3],
        };
        let at = clock::now();
        let announcement = format!("{{\"schema\":1,\"at\":\"{at}\",\"event\":\"spawned\",\"pid\":@}}\n");
        prepared.spawn(&Wiring {
            stdin,
            stdout,
            stderr,
            foreground: matches!(ends, Ends::Tty(_)),
            events: self.guard.dir.events().as_fd(),
            announcement: announcement.as_bytes(),
            pid: &self.guard.ledger.command_pid,
            umask: self.umask,
        })
    }

    /// The run's prompt.md, where the command reads it as its standard input.
    fn open_prompt(&self) -> Result<Option<std::fs::File>, SpawnError> {
        if self.plan.command.stdin != Stdin::Prompt {
            return Ok(None);
        }
        crate::disk::open_at(self.guard.dir.dir(), PROMPT).map(Some).map_err(|e| SpawnError {
            doing: format!("opening {PROMPT}"),
            errno: nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)),
        })
    }

    /// Hears what the harness said since the last time, and holds what it used against the limits.
    pub fn listen(&mut self, slot: SlotId) {
        let (Some(listener), Some(plan)) = (&mut self.listener, &self.plan.harness) else { return };
        if listener.listen() {
            listener.note(plan, &mut self.guard.record, false);
            self.queue.push_back(Event::Used(slot, listener.used()));
        }
    }

    /// Hears the harness's last word.
    fn judge(&mut self, slot: SlotId) {
        let mut declared = None;
        if let (Some(listener), Some(plan)) = (&mut self.listener, &self.plan.harness) {
            listener.finish();
            listener.note(plan, &mut self.guard.record, true);
            declared = listener.heard().declared.as_ref().map(|(outcome, _)| outcome.clone());
            self.guard.event("declared", &json!({ "harness": self.guard.record.harness }));
        }
        self.keep_answer();
        self.queue.push_back(Event::Judged(slot, declared));
    }

    /// Writes the harness's final answer into a file of its own; the record does not depend on it.
    fn keep_answer(&mut self) {
        let answer = self.listener.as_ref().and_then(|listener| listener.heard().answer.clone());
        let Some(answer) = answer.filter(|answer| !answer.is_empty()) else { return };
        match self.guard.dir.write_over(RESPONSE, answer.as_bytes(), false) {
            Ok(()) => {
                if let Some(harness) = &mut self.guard.record.harness {
                    harness.response = Some(RESPONSE.to_owned());
                }
            }
            Err(e) => self.guard.degrade(format!("{RESPONSE} could not be written: {e}")),
        }
    }

    fn save(&mut self, status: Status, durable: bool) {
        let paused =
            self.command.as_ref().is_some_and(|c| !c.ended) && self.guard.record.paused_since.is_some();
        if !paused {
            self.guard.record.paused_since = None;
        }
        self.guard.save_status(status, durable);
        match status {
            Status::Running => failpoint::hit("keeper.running"),
            Status::Stopping => failpoint::hit("keeper.stopping"),
            _ => {}
        }
    }

    /// Remembers a stop for whoever may have to take over, and tells the person about it.
    fn tell(&mut self, notice: &Notice) {
        let line = match notice {
            Notice::Stopping { cause, grace_ms } => {
                self.guard.ledger.cause.set(cause);
                self.guard.ledger.stopping.store(true, Ordering::SeqCst);
                self.guard.event("stopping", &json!({ "cause": cause }));
                self.guard.record.ended_by = Some(cause.by.clone());
                let grace = words::duration(std::time::Duration::from_millis(*grace_ms));
                let why = words::ended_by(&cause.by);
                format!("bookend: stopping ({why}): {grace} to end, a second signal kills it now")
            }
            Notice::NearLimit(what) => {
                self.guard.event("near_limit", &json!({ "what": what }));
                format!("bookend: warning: {what}")
            }
            Notice::Killing => {
                self.guard.ledger.forced.store(true, Ordering::SeqCst);
                self.guard.event("killing", &json!({}));
                "bookend: killing the command".to_owned()
            }
            Notice::Leftovers(count) => {
                self.guard.event("leftovers", &json!({ "alive": count }));
                return;
            }
        };
        self.send(&Message::Tell { line });
    }

    /// Sends the other bookend a message, while there is one.
    pub fn send(&self, message: &Message) {
        if let Some(link) = &self.link {
            link.send(message);
        }
    }

    /// Living processes of the run, the other bookend left out.
    pub fn processes(&self) -> Vec<Stat> {
        if !self.blind {
            return tree::descendants(self.partner_below);
        }
        let owner = &self.guard.record.owner;
        let marks = tree::Marks {
            run_id: self.guard.dir.id.to_string(),
            session: Some((owner.pid, owner.start_time)).filter(|o| o.0 > 1),
            command: self.command.as_ref().map(|c| (c.pid, c.start_time)),
        };
        let except = [owner.pid, owner.front_pid.unwrap_or(0), self.partner_below.unwrap_or(0)];
        tree::remains(&marks, &except)
    }

    /// The command's process group, while nobody else can have its id.
    fn group(&self) -> Option<i32> {
        self.command.as_ref().filter(|c| c.ours && !c.ended).map(|c| c.pid)
    }

    fn signal(&mut self, number: i32) {
        let others = self.processes();
        self.leftovers.signalled(number);
        self.guard.event("signal", &json!({ "signal": signal::name(number), "processes": others.len() }));
        tree::signal_all(self.group(), &others, number);
    }

    fn kill(&mut self) {
        self.leftovers.signalled(libc::SIGKILL);
        if let Some(group) = self.group() {
            tree::signal_group(group, libc::SIGKILL);
        }
        tree::kill_all(|| self.processes());
        self.queue.push_back(Event::ChildrenChanged);
    }

    /// Reaps what has ended below us and counts what lives.
    fn survey(&mut self, slot: SlotId) {
        if self.reap_adopted() {
            self.queue.push_back(Event::Descendants(slot, 0));
            return;
        }
        let alive = self.processes();
        self.leftovers.note(&alive, false);
        // What forks fast can slip through a look at the table: that no child is left is proof, an empty look is none.
        let unseen = usize::from(!self.blind && self.partner_below.is_none());
        self.queue.push_back(Event::Descendants(slot, alive.len().max(unseen)));
    }

    /// Reaps every child that has ended, the command included once its end is known. True when no child is left.
    pub fn reap_adopted(&mut self) -> bool {
        let command = self.command.as_ref().filter(|c| c.ours && !c.ended);
        self.childless = wait::reap_all_but(command.map(|c| c.pid)) && !self.blind;
        self.childless
    }

    fn reap_command(&mut self) {
        failpoint::hit("keeper.draining");
        if !self.childless {
            self.reap_adopted();
        }
        self.pump.finish_index();
    }

    fn trim(&mut self) {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
        if self.watch.is_none() {
            self.watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        }
        // The watch comes first: what is written after the look wakes us for the next one.
        if let Some(watch) = &self.watch {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(self.pump.log()));
            let _ = watch.add_watch(path.as_str(), AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT);
        }
        self.pump.trim();
        // A reader of the living run must know where the hole is.
        if self.guard.count_log() {
            self.guard.save_status(self.guard.record.status, false);
        }
    }

    fn cut_output(&mut self) {
        let me = [
            identity::own_pid(),
            self.guard.record.owner.pid,
            self.guard.record.owner.front_pid.unwrap_or(0),
        ];
        for stream in Stream::BOTH {
            // What waits in the pipe now is taken all the same; only what would come later is not.
            let turns = (0..CUT_TURNS).map(|_| self.on_output(stream)).find(|turn| *turn != Turn::Moved);
            if turns == Some(Turn::Closed) {
                continue;
            }
            let link = self.pump.source(stream).and_then(pump::link_of);
            if let Some(link) = link {
                self.leftovers.note(&tree::holders(&link, &me), true);
                self.guard
                    .record
                    .evidence
                    .push("the output was still held open when bookend stopped waiting".to_owned());
            }
            self.pump.close(stream);
        }
    }

    /// Notes the end of the command for the record and for whoever may have to take over.
    pub fn command_ended(&mut self, exit: Option<&Exit>) {
        if let Some(command) = &mut self.command {
            command.ended = true;
        }
        if let Some(exit) = exit {
            self.guard.ledger.exit.set(exit);
        }
        self.guard.record.paused_since = None;
        self.guard.event("exited", &json!({ "exit": exit }));
        failpoint::hit("keeper.exited");
    }

    /// Notes that the command was paused or goes on.
    pub fn command_paused(&mut self, since: Option<Timestamp>) {
        self.guard.record.paused_since = since;
        self.guard.event(if since.is_some() { "paused" } else { "continued" }, &json!({}));
    }

    /// Seals the run and tells the front.
    pub fn seal(&mut self, ending: Ending) -> Sealed {
        self.guard.record.leftovers = self.leftovers.list();
        self.guard.record.resources = wait::resources();
        self.pump.trim_to_limit();
        // Before the record: whichever bookend comes to it, none leaves a door behind.
        if self.guests.take().is_some() {
            door::close(self.guard.dir.dir());
        }
        for trouble in self.pump.troubles() {
            self.guard.degrade(trouble);
        }
        let sealed = self.guard.seal(ending).clone();
        sealed.report_if_elsewhere();
        failpoint::hit("keeper.sealed");
        let record = &self.guard.record;
        let die_of = super::takeover::die_of(record).filter(|_| sealed.code != 125);
        let verdict = words::verdict(record);
        let trouble = words::is_trouble(record);
        let finished = Finished { code: sealed.code, die_of, verdict, trouble, refused: None };
        self.guard.ledger.finished.set(&finished);
        self.backlog.flush_all(self.link.as_ref());
        sealed
    }
}

/// Whether the command's directory is there.
fn check_directory(cwd: &Path) -> Step {
    let mut step = Step {
        id: "directory".to_owned(),
        status: StepStatus::Pass,
        detail: None,
        hint: None,
        duration_seconds: None,
    };
    // The command's own chdir is what counts; this only finds the usual mistake early.
    let problem = match cwd.metadata() {
        Ok(found) if found.is_dir() => return step,
        Ok(_) => "it is not a directory".to_owned(),
        Err(e) => e.to_string(),
    };
    step.status = StepStatus::Fail;
    step.detail = Some(format!("entering directory {}: {problem}", cwd.display()));
    step.hint = Some("give an existing directory with -C".to_owned());
    step
}

/// Whether there is something to ask.
fn check_prompt(prompt: &Result<String, String>) -> Step {
    let why = prompt.as_ref().err();
    Step {
        id: "prompt".to_owned(),
        status: if why.is_some() { StepStatus::Fail } else { StepStatus::Pass },
        detail: why.map(|why| format!("the prompt: {why}")),
        hint: why.map(|_| "give a text, @FILE, or - for standard input".to_owned()),
        duration_seconds: None,
    }
}

/// The environment the command starts from: bookend's own, without what is meant for bookend alone.
fn inherited() -> impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)> {
    const OURS: [&str; 6] = [
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
        "BOOKEND_FAILPOINT",
        "BOOKEND_FAILPOINT_DIR",
    ];
    env::vars_os().filter(|(name, _)| !OURS.iter().any(|own| name == own))
}

fn open_null() -> Result<OwnedFd, SpawnError> {
    crate::disk::open_null().map_err(|e| SpawnError {
        doing: "opening /dev/null".to_owned(),
        errno: nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)),
    })
}

fn spawn_hint(error: &SpawnError) -> String {
    use nix::errno::Errno;
    match error.errno {
        Errno::ENOENT | Errno::ENOTDIR => "check the command's name and PATH".to_owned(),
        Errno::EACCES => "make it executable (chmod +x), or name an interpreter before it".to_owned(),
        Errno::ENOEXEC => "it is no program: give it a #! line, or name an interpreter before it".to_owned(),
        Errno::E2BIG => "pass less on the command line: use files or standard input".to_owned(),
        Errno::EAGAIN | Errno::ENOMEM => {
            "the system is out of processes or memory: try again later".to_owned()
        }
        _ => "see the error above".to_owned(),
    }
}

/// What the keeper does about its session before anything else: its own, with the command's terminal if it has one.
///
/// # Errors
/// As prctl(2) and `TIOCSCTTY`.
pub fn settle_in(plan: &Plan, ends: &Ends) -> std::io::Result<()> {
    crate::guard::partner::leave_session();
    crate::guard::partner::become_subreaper()?;
    match ends {
        Ends::Tty(end) if plan.capture == Capture::Tty => pty::take_control(end.as_fd()),
        _ => Ok(()),
    }
}
