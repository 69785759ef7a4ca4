//! The inbox: every source of happenings is a descriptor, and one poll puts them into one order.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::hands::Hands;
use crate::clock;
use crate::guard::ask::WAKE;
use crate::guard::partner::{Incoming, Message};
use crate::machine::{Event, StopCause};
use crate::model::outcome::ExitReason;
use crate::model::record::{Actor, EndedBy, ErrorInfo};
use crate::model::signal;
use crate::model::time::Moment;
use crate::process::identity;
use crate::process::pump::{Stream, Turn};
use crate::process::wait::{self, Change};
use crate::signals::Received;

/// The one slot of a plain command.
const SLOT: usize = 0;

/// A command that writes the log itself is taken to write no faster than this.
const FASTEST_BYTES_PER_MS: u64 = 2 << 20;

/// Which descriptor a poll entry is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Signals,
    Link,
    Output(Stream),
    Command,
    Log,
    Door,
    Guest(u32),
    Typing,
}

impl Hands {
    /// Waits for the next happening, at most until `deadline`.
    pub fn next(&mut self, deadline: Option<Moment>) -> Event {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return event;
            }
            let now = clock::moment();
            if deadline.is_some_and(|due| due <= now) {
                return Event::Tick;
            }
            for source in self.poll(deadline.map(|due| due.ms_since(now))) {
                self.collect(source);
            }
        }
    }

    fn poll(&self, wait_ms: Option<u64>) -> Vec<Source> {
        let (comes, goes) = (PollFlags::POLLIN, PollFlags::POLLIN | PollFlags::POLLOUT);
        let caught_up = self.backlog.is_empty();
        let mut sources = vec![(Source::Signals, self.signals.handle(), comes)];
        let link_flags = if caught_up { comes } else { goes };
        sources.extend(self.link.as_ref().map(|link| (Source::Link, link.handle(), link_flags)));
        for stream in Stream::BOTH.iter().filter(|_| caught_up) {
            sources.extend(self.pump.source(*stream).map(|fd| (Source::Output(*stream), fd, comes)));
        }
        if let Some(handle) = self.command.as_ref().filter(|c| !c.ended).and_then(|c| c.handle.as_ref()) {
            sources.push((Source::Command, handle.as_fd(), comes));
        }
        sources.extend(self.watch.as_ref().map(|watch| (Source::Log, watch.as_fd(), comes)));
        if let (Some(guests), Some(terminal)) = (&self.guests, self.pump.source(Stream::Out)) {
            sources.extend(guests.sources(terminal));
        }
        ready(&sources, wait_ms)
    }

    fn collect(&mut self, source: Source) {
        match source {
            Source::Signals => {
                for received in self.signals.take() {
                    self.on_signal(received);
                }
            }
            Source::Link => {
                self.on_link();
                self.backlog.flush(self.link.as_ref());
            }
            Source::Output(stream) => {
                self.on_output(stream);
            }
            Source::Command => {
                // Not our child: the kernel says that it ended, and in what way only to its parent.
                self.command_ended(None);
                self.queue.push_back(Event::Exited(SLOT, None));
            }
            Source::Door => self.on_knock(),
            Source::Guest(number) => self.on_guest(number),
            Source::Typing => self.type_keys(),
            Source::Log => {
                if let Some(watch) = &self.watch {
                    let _ = watch.read_events();
                }
                self.listen(SLOT);
                self.queue.push_back(Event::LogGrew(SLOT, self.trim_wait_ms()));
            }
        }
    }

    /// How long a log that grows may be left alone before its size is looked at.
    fn trim_wait_ms(&self) -> u64 {
        self.pump.headroom() / FASTEST_BYTES_PER_MS
    }

    fn on_signal(&mut self, received: Received) {
        match received.signal {
            libc::SIGCHLD => self.on_child(),
            number if ExitReason::of_stop_signal(number).is_some() => {
                self.own_stops += 1;
                self.stop_by_signal(number, received.sender, self.own_stops);
            }
            WAKE if self.take_wishes() => {}
            libc::SIGUSR1 | libc::SIGUSR2 | libc::SIGWINCH => {
                self.pass_on(received.signal);
            }
            number => {
                self.guard.event("signal_ignored", &serde_json::json!({ "signal": signal::name(number) }));
            }
        }
    }

    /// Passes a signal on to the command's group; whether there is one that it can be passed to.
    pub(super) fn pass_on(&self, number: i32) -> bool {
        let command = self.command.as_ref().filter(|c| c.ours && !c.ended);
        if let Some(command) = command {
            crate::process::tree::signal_group(command.pid, number);
        }
        command.is_some()
    }

    fn stop_by_signal(&mut self, number: i32, sender: Option<(i32, u32)>, count: u32) {
        if self.signals.was_ignored(number) {
            return self.guard.event(
                "signal_ignored",
                &serde_json::json!({ "signal": signal::name(number), "inherited": true }),
            );
        }
        let (cause, force) = (cause_of_signal(number, sender), count >= 2);
        self.guard.event("stop_requested", &serde_json::json!({ "by": cause.by, "force": force }));
        self.queue.push_back(Event::Stop { cause, force });
    }

    fn on_child(&mut self) {
        let Some(command) = self.command.as_ref().filter(|c| c.ours && !c.ended) else {
            self.queue.push_back(Event::ChildrenChanged);
            return;
        };
        let pid = command.pid;
        match wait::peek(pid) {
            Change::Ended(exit) => {
                self.command_ended(Some(&exit));
                self.queue.push_back(Event::Exited(SLOT, Some(exit)));
            }
            Change::NotOurs => {
                self.command_ended(None);
                self.queue.push_back(Event::Exited(SLOT, None));
            }
            _ => {
                self.on_pause(pid);
                self.reap_adopted();
            }
        }
    }

    fn on_pause(&mut self, pid: i32) {
        match wait::take_stop(pid) {
            Change::Stopped(number) => {
                self.command_paused(Some(clock::now()));
                // SIGSTOP is somebody's wish that it stands still; the others are a terminal's job control, in which the
                // front takes part.
                if number != libc::SIGSTOP {
                    self.send(&Message::Paused);
                }
                self.queue.push_back(Event::Paused(SLOT));
            }
            Change::Continued => {
                self.command_paused(None);
                self.queue.push_back(Event::Continued(SLOT));
            }
            _ => {}
        }
    }

    fn on_link(&mut self) {
        let Some(link) = &self.link else { return };
        match link.take() {
            Incoming::Message(Message::Signal { signal, sender, count }) => match signal {
                number if ExitReason::of_stop_signal(number).is_some() => {
                    self.stop_by_signal(number, sender, count);
                }
                WAKE => drop(self.take_wishes()),
                number => drop(self.pass_on(number)),
            },
            Incoming::Message(Message::Suspend) => drop(self.pass_on(libc::SIGTSTP)),
            Incoming::Message(Message::Resume) => drop(self.pass_on(libc::SIGCONT)),
            Incoming::Message(Message::Panicked { message }) => {
                let cause = internal_error(format!("the front failed: {message}"));
                self.queue.push_back(Event::Stop { cause, force: false });
            }
            Incoming::Message(_) | Incoming::Spill(..) | Incoming::Nothing => {}
            Incoming::Gone => {
                self.link = None;
                self.partner_below = None;
                let evidence = "the other bookend is gone; how it ended could not be seen";
                self.guard.record.evidence.push(evidence.to_owned());
                self.guard.event("partner_died", &serde_json::json!({}));
                self.queue.push_back(Event::PartnerDied(wrapper_died(evidence)));
            }
        }
    }

    /// Moves some of what a stream has.
    pub(super) fn on_output(&mut self, stream: Stream) -> Turn {
        let now = clock::moment();
        let (link, backlog) = (self.link.as_ref(), &mut self.backlog);
        let log_bytes = &self.guard.ledger.log_bytes;
        let mut spill = |stream: Stream, bytes: &[u8]| {
            backlog.add(link, stream, log_bytes.load(Ordering::SeqCst), bytes);
        };
        let turn = self.pump.turn(stream, now, &mut spill);
        self.listen(SLOT);
        if turn == Turn::Closed && !self.pump.is_open() {
            self.queue.push_back(Event::OutputClosed(SLOT));
        }
        turn
    }
}

/// Polls; an interrupted or failed poll is the same as one in which nothing happened.
fn ready(sources: &[(Source, BorrowedFd<'_>, PollFlags)], wait_ms: Option<u64>) -> Vec<Source> {
    let mut fds: Vec<PollFd<'_>> = sources.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
    let timeout = match wait_ms {
        None => PollTimeout::NONE,
        Some(ms) => PollTimeout::try_from(ms.min(i32::MAX as u64)).unwrap_or(PollTimeout::MAX),
    };
    if !poll(&mut fds, timeout).is_ok_and(|n| n > 0) {
        return Vec::new();
    }
    let happened = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
    sources.iter().zip(&fds).filter(|(_, fd)| happened(fd)).map(|(source, _)| source.0).collect()
}

/// The cause that a stop signal is.
#[must_use]
pub fn cause_of_signal(number: i32, sender: Option<(i32, u32)>) -> StopCause {
    let by = EndedBy {
        actor: if sender.is_some() { Actor::Process } else { Actor::Terminal },
        signal: Some(signal::name(number)),
        pid: sender.map(|s| s.0).filter(|&pid| pid > 0),
        uid: sender.map(|s| s.1),
        user: None,
        command: sender.filter(|s| s.0 > 0).and_then(|s| identity::command_name(s.0)),
        ..EndedBy::default()
    };
    let reason = ExitReason::of_stop_signal(number).unwrap_or(ExitReason::Terminated);
    StopCause { signal: Some(number), ..StopCause::new(reason, by) }
}

/// The cause that the death of one bookend is.
#[must_use]
pub fn wrapper_died(why: &str) -> StopCause {
    let by = EndedBy { actor: Actor::System, reason: Some(why.to_owned()), ..EndedBy::default() };
    StopCause::new(ExitReason::WrapperDied, by)
}

/// The cause that a failure of bookend's own is.
#[must_use]
pub fn internal_error(message: String) -> StopCause {
    let by = EndedBy { actor: Actor::Bookend, reason: Some("it failed".to_owned()), ..EndedBy::default() };
    let error = ErrorInfo { message, ..ErrorInfo::default() };
    StopCause { error: Some(error), ..StopCause::new(ExitReason::InternalError, by) }
}
