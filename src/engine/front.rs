//! The front: what the shell started. It relays signals and the terminal, shows the output, hands back the exit
//! code, and takes over when the keeper is killed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::echo::{Echo, FLOWING_MS, Progress, UNWATCHED_MS};
use super::hands::Hands;
use super::takeover::die_of;
use crate::clock;
use crate::failpoint;
use crate::guard::ask::WAKE;
use crate::guard::partner::{Incoming, Message};
use crate::model::outcome::ExitReason;
use crate::model::record::Exit;
use crate::model::time::Moment;
use crate::process::{pty, tree, wait};
use crate::terminal::{self, Terminal};
use crate::view::words;

/// A keeper that has not sealed this long after a second stop signal is stuck: it is ended, and the run sealed.
const STUCK_MS: u64 = 1_500;

/// After a stop a reader of ours that reads nothing for this long is shown no more.
const SLOW_READER_MS: u64 = 1_000;
/// The key that says to a terminal that no input will follow: Ctrl-D.
const END_OF_INPUT: u8 = 4;

/// How a run ended, for the caller of bookend.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Finished {
    /// Exit code.
    pub code: u8,
    /// Signal to die of instead, so that the caller sees why.
    pub die_of: Option<i32>,
    /// Lines for the person at the terminal.
    pub verdict: String,
    /// Whether they are said even to one who asked for quiet: the command was not run as it was meant to be.
    pub trouble: bool,
    /// What the system said when the run could not begin.
    pub refused: Option<i32>,
}

/// What the front does for the person who started the run.
pub struct Presence {
    /// Shows the output; none with `--quiet`, `--json` or `--detach`.
    pub echo: Option<Echo>,
    /// The caller's terminal, where the command has it.
    pub terminal: Option<Terminal>,
    /// Our end of the command's pseudo-terminal.
    pub pty: Option<OwnedFd>,
    /// Says the lines that are for the person.
    pub says: bool,
    /// Passes standard input on to the command's pseudo-terminal where it is no terminal itself.
    pub passes_input: bool,
    /// Called once the run is on disk.
    pub on_published: Box<dyn FnMut()>,
}

impl Presence {
    /// Nobody is there.
    #[must_use]
    pub fn absent() -> Self {
        Self {
            echo: None,
            terminal: None,
            pty: None,
            says: false,
            passes_input: false,
            on_published: Box::new(|| {}),
        }
    }

    fn say(&self, lines: &str) {
        if self.says && !lines.is_empty() {
            let end = if self.pty.is_some() && self.terminal.is_some() { "\r\n" } else { "\n" };
            let text: String = lines.lines().flat_map(|line| [line, end]).collect();
            terminal::say(&text);
        }
    }

    /// Passes keys on as they are while the command has a pseudo-terminal and we have the keyboard.
    fn enter(&self) {
        if let (Some(terminal), Some(_)) = (&self.terminal, &self.pty)
            && terminal.is_foreground()
        {
            terminal.make_raw();
        }
    }

    fn leave(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.restore();
        }
    }

    /// Where the keys for the command's pseudo-terminal come from.
    fn keys(&self) -> Option<BorrowedFd<'_>> {
        self.pty.as_ref()?;
        match &self.terminal {
            Some(terminal) => Some(terminal.handle()),
            // SAFETY: standard input is open for as long as this process lives.
            None => self.passes_input.then(|| unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) }),
        }
    }
}

/// What woke the front.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Link,
    Log,
    Outlet,
    Keys,
    Pty,
}

/// The front's own state.
struct Vigil<'a> {
    hands: &'a mut Hands,
    keeper: Option<i32>,
    presence: Presence,
    stops: u32,
    stuck_at: Option<Moment>,
    finished: Option<Finished>,
    flowing: Option<Progress>,
    typed: Vec<u8>,
    keys_open: bool,
    announced: bool,
    gone: bool,
    /// When a reader of ours that reads nothing is left alone, after a stop.
    give_up_at: Option<Moment>,
}

/// Watches over the run until it is sealed and shown.
pub fn watch(hands: &mut Hands, keeper: Option<i32>, presence: Presence) -> Finished {
    let keys_open = presence.keys().is_some();
    // A program that asks a terminal at which nobody sits is told that nothing will come.
    // With a detached run somebody may attach later.
    let nobody = presence.pty.is_some() && !keys_open && !hands.plan.detach;
    let typed = if nobody { vec![END_OF_INPUT] } else { Vec::new() };
    let flowing = presence.echo.is_some().then_some(Progress::Flowing);
    let mut vigil = Vigil {
        hands,
        keeper,
        presence,
        stops: 0,
        stuck_at: None,
        finished: None,
        flowing,
        typed,
        keys_open,
        announced: false,
        gone: false,
        give_up_at: None,
    };
    vigil.enter();
    failpoint::hit("front.vigil");
    let finished = vigil.run();
    vigil.leave();
    vigil.tell_skipped();
    finished
}

/// The end of a run as its record says it; 125 where there is none.
pub fn finished_by_record(hands: &mut Hands) -> Finished {
    // A keeper that broke down before it published may have sealed all the same.
    if !hands.guard.ledger.published.load(std::sync::atomic::Ordering::SeqCst) {
        let _ = hands.guard.dir.ensure_published();
        if hands.sealed_before().is_some() {
            hands.guard.dir.clear_up();
        }
    }
    let unsealed = Finished { code: 125, ..Finished::default() };
    hands.sealed_before().map_or(unsealed, |(record, code)| Finished {
        code,
        die_of: die_of(&record),
        verdict: words::verdict(&record),
        trouble: words::is_trouble(&record),
        refused: None,
    })
}

/// The life of a new partner that was forked in the place of one that died: it watches, and never returns to the
/// work of the process it was forked from.
pub fn watch_instead(hands: &mut Hands) {
    hands.partner_below = None;
    let finished = watch(hands, None, Presence::absent());
    // SAFETY: this process was forked to watch; its parent's stack must not be unwound a second time.
    unsafe { libc::_exit(i32::from(finished.code)) }
}

impl Vigil<'_> {
    fn run(&mut self) -> Finished {
        loop {
            self.show();
            if let Some(finished) = self.finished.take_if(|_| self.gone && self.flowing.is_none()) {
                return finished;
            }
            for source in self.wait() {
                match source {
                    Source::Signals => self.on_signals(),
                    Source::Link => self.on_link(),
                    Source::Keys => self.on_keys(),
                    Source::Pty => self.type_on(),
                    Source::Log | Source::Outlet => {
                        if self.flowing.is_none() {
                            self.flowing = Some(Progress::Flowing);
                        }
                    }
                }
            }
            if self.stuck_at.is_some_and(|due| due <= clock::moment()) {
                self.end_keeper();
            }
            if self.give_up_at.is_some_and(|due| due <= clock::moment()) {
                self.show_no_more();
            }
        }
    }

    /// Shows what there is to show, and arms the watch when that is all.
    fn show(&mut self) {
        const TURNS: usize = 64;
        let Some(echo) = &mut self.presence.echo else {
            self.flowing = None;
            return;
        };
        if self.flowing.is_none() {
            return;
        }
        let mut shown = false;
        for _ in 0..TURNS {
            match echo.advance() {
                Progress::Flowing => {
                    shown = true;
                    if self.give_up_at.is_some() {
                        self.give_up_at = Some(clock::moment().plus_ms(SLOW_READER_MS));
                    }
                }
                Progress::CaughtUp if self.gone => {
                    self.flowing = None;
                    return;
                }
                // While bytes flow a short timer is cheaper than a wake-up for each write.
                Progress::CaughtUp if shown => {
                    self.flowing = Some(Progress::CaughtUp);
                    return;
                }
                Progress::CaughtUp => {
                    let armed = echo.arm();
                    // What came before the watch stood is shown now.
                    if echo.advance() != Progress::CaughtUp {
                        shown = true;
                        continue;
                    }
                    self.flowing = if armed { None } else { Some(Progress::CaughtUp) };
                    return;
                }
                blocked @ Progress::Blocked(_) => {
                    self.flowing = Some(blocked);
                    return;
                }
            }
        }
    }

    fn wait(&mut self) -> Vec<Source> {
        let mut wanted: Vec<(Source, BorrowedFd<'_>, PollFlags)> =
            vec![(Source::Signals, self.hands.signals.handle(), PollFlags::POLLIN)];
        if !self.gone
            && let Some(link) = &self.hands.link
        {
            // A reader that is behind is given time; the end of the keeper is seen all the same.
            let behind = self.presence.echo.as_ref().is_some_and(Echo::is_behind);
            let flags = if behind { PollFlags::empty() } else { PollFlags::POLLIN };
            wanted.push((Source::Link, link.handle(), flags));
        }
        let due = [self.stuck_at, self.give_up_at].into_iter().flatten().min();
        let mut wait_ms = due.map(|due| due.ms_since(clock::moment()));
        if let Some(echo) = &self.presence.echo {
            match self.flowing {
                None => wanted.extend(echo.watch().map(|fd| (Source::Log, fd, PollFlags::POLLIN))),
                Some(Progress::Blocked(stream)) => {
                    wanted.push((Source::Outlet, echo.outlet(stream), PollFlags::POLLOUT));
                }
                Some(Progress::Flowing) => wait_ms = Some(0),
                Some(Progress::CaughtUp) => {
                    let tick = if echo.watch().is_some() { FLOWING_MS } else { UNWATCHED_MS };
                    wait_ms = Some(wait_ms.unwrap_or(tick).min(tick));
                }
            }
        }
        if let Some(pty) = self.presence.pty.as_ref().filter(|_| self.finished.is_none()) {
            if !self.typed.is_empty() {
                wanted.push((Source::Pty, pty.as_fd(), PollFlags::POLLOUT));
            } else if let Some(keys) = self.presence.keys().filter(|_| self.keys_open) {
                wanted.push((Source::Keys, keys, PollFlags::POLLIN));
            }
        }
        let mut fds: Vec<PollFd<'_>> = wanted.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        let timeout = wait_ms.map_or(PollTimeout::NONE, |ms| {
            PollTimeout::try_from(ms.min(60_000)).unwrap_or(PollTimeout::MAX)
        });
        let _ = poll(&mut fds, timeout);
        let woke = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        let sources = wanted.iter().zip(&fds).filter(|(_, fd)| woke(fd)).map(|(w, _)| w.0).collect();
        if self.flowing == Some(Progress::CaughtUp) {
            self.flowing = Some(Progress::Flowing);
        }
        sources
    }

    fn on_signals(&mut self) {
        for received in self.hands.signals.take() {
            let number = received.signal;
            match number {
                libc::SIGCHLD => {}
                libc::SIGTSTP => self.suspend(),
                libc::SIGCONT => self.resume(),
                libc::SIGWINCH if self.presence.pty.is_some() => self.resize(),
                _ if ExitReason::of_stop_signal(number).is_some() => self.on_stop(number, received.sender),
                libc::SIGUSR1 | libc::SIGUSR2 | libc::SIGWINCH | WAKE => {
                    self.relay(number, received.sender, 0);
                }
                _ => {}
            }
        }
    }

    fn on_stop(&mut self, number: i32, sender: Option<(i32, u32)>) {
        if self.hands.signals.was_ignored(number) {
            return;
        }
        let sealed = self.hands.guard.ledger.sealed.load(std::sync::atomic::Ordering::SeqCst) != 0;
        if self.finished.is_some() || sealed {
            // The record is written; only a slow reader of ours is still being shown something.
            self.show_no_more();
            return;
        }
        self.stops += 1;
        self.hands.guard.ledger.cause.set(&super::inbox::cause_of_signal(number, sender));
        self.relay(number, sender, self.stops);
        if self.stops >= 2 && self.stuck_at.is_none() {
            self.hands.guard.ledger.forced.store(true, std::sync::atomic::Ordering::SeqCst);
            self.stuck_at = Some(clock::moment().plus_ms(STUCK_MS));
        }
    }

    fn show_no_more(&mut self) {
        self.flowing = None;
        self.presence.echo = None;
        self.give_up_at = None;
    }

    fn enter(&self) {
        self.presence.enter();
        self.note_modes();
    }

    fn leave(&self) {
        self.presence.leave();
        self.note_modes();
    }

    /// Keeps for the keeper whether the terminal's modes are to be given back.
    fn note_modes(&self) {
        let raw = self.presence.terminal.as_ref().is_some_and(Terminal::is_raw);
        self.hands.guard.ledger.raw.store(raw, std::sync::atomic::Ordering::SeqCst);
    }

    fn relay(&self, signal: i32, sender: Option<(i32, u32)>, count: u32) {
        self.hands.send(&Message::Signal { signal, sender, count });
    }

    /// Ctrl-Z: the command stops, then this process does, as any job would.
    fn suspend(&mut self) {
        self.hands.send(&Message::Suspend);
        self.stop_and_go_on();
    }

    fn stop_and_go_on(&mut self) {
        self.leave();
        self.hands.signals.suspend_self();
        self.resume();
    }

    fn resume(&mut self) {
        self.enter();
        self.keys_open = self.presence.keys().is_some();
        self.resize();
        self.hands.send(&Message::Resume);
    }

    fn resize(&self) {
        if let (Some(terminal), Some(pty)) = (&self.presence.terminal, &self.presence.pty)
            && let Some(size) = pty::size(terminal.handle())
        {
            pty::resize(pty.as_fd(), &size);
        }
    }

    fn on_link(&mut self) {
        let Some(link) = &self.hands.link else { return };
        match link.take() {
            Incoming::Message(Message::Published) => self.announce(),
            Incoming::Message(Message::Tell { line }) => self.presence.say(&line),
            Incoming::Message(Message::Paused) if self.presence.pty.is_some() => self.stop_and_go_on(),
            Incoming::Message(Message::Refused { errno }) => {
                self.finished = Some(Finished { code: 125, refused: Some(errno), ..Finished::default() });
            }
            Incoming::Message(_) | Incoming::Nothing => {}
            Incoming::Spill(stream, at, bytes) => {
                if let Some(echo) = &mut self.presence.echo {
                    echo.take_spilt(stream, at, bytes);
                    self.flowing.get_or_insert(Progress::Flowing);
                }
            }
            Incoming::Gone => self.on_gone(),
        }
    }

    fn announce(&mut self) {
        if !self.announced {
            self.announced = true;
            self.leave();
            (self.presence.on_published)();
            self.enter();
        }
    }

    /// The keeper is gone: either its work is done, or this process goes on with it.
    fn on_gone(&mut self) {
        self.hands.link = None;
        if let Some(echo) = &mut self.presence.echo {
            echo.expect_no_more();
        }
        let how = self.keeper.take().and_then(|pid| wait::wait_for(pid).ok().flatten());
        if self.finished.is_none() {
            if self.hands.publish_instead() {
                self.announce();
            }
            let ready = self.hands.guard.ledger.finished.get();
            self.finished = Some(ready.unwrap_or_else(|| self.end_instead(how.as_ref())));
        }
        self.gone = true;
        self.stuck_at = None;
        if self.presence.echo.is_some() {
            self.flowing = Some(Progress::Flowing);
            self.note_reader();
        }
    }

    /// After a stop the reader of ours has a while from now.
    fn note_reader(&mut self) {
        if self.gone && self.stops > 0 {
            self.give_up_at = Some(clock::moment().plus_ms(SLOW_READER_MS));
        }
    }

    fn end_instead(&mut self, how: Option<&Exit>) -> Finished {
        if self.hands.sealed_before().is_none() {
            let sealed = self.hands.take_over(how);
            if self.hands.sealed_before().is_none() {
                return Finished { code: sealed.code, ..Finished::default() };
            }
        }
        finished_by_record(self.hands)
    }

    /// Ends a keeper that is stuck; its end of the link closes, and this process goes on with its work.
    fn end_keeper(&mut self) {
        self.stuck_at = None;
        if let Some(stat) = self.keeper.and_then(crate::process::identity::stat) {
            let _ = tree::signal(&stat, libc::SIGKILL);
        }
    }

    /// Says that a reader was so slow that the log's limit overtook it.
    fn tell_skipped(&self) {
        let skipped = self.presence.echo.as_ref().map_or(0, |echo| echo.skipped);
        if skipped > 0 {
            self.presence.say(&format!(
                "bookend: note: {skipped} bytes were not shown: the reader was slower than --log-max allows for"
            ));
        }
    }

    fn on_keys(&mut self) {
        let mut buffer = [0; 4096];
        let Some(keys) = self.presence.keys() else { return };
        match nix::unistd::read(keys, &mut buffer) {
            Ok(n @ 1..) => self.typed.extend_from_slice(&buffer[..n]),
            Ok(_) => {
                self.keys_open = false;
                // The first one ends a line that has begun, the second one the input.
                self.typed.extend([END_OF_INPUT; 2]);
            }
            // Not ours to read now: we are in the background until somebody says that we go on.
            Err(_) => self.keys_open = false,
        }
        self.type_on();
    }

    fn type_on(&mut self) {
        let Some(pty) = &self.presence.pty else { return };
        match nix::unistd::write(pty, &self.typed) {
            Ok(n) => drop(self.typed.drain(..n)),
            Err(nix::errno::Errno::EAGAIN) => {}
            Err(_) => self.typed.clear(),
        }
    }
}
