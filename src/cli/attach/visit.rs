//! A visit: one person, or one script, attached to one run. One poll over everything that can happen.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::keys::Finder;
use super::line::Line;
use super::output::Output;
use crate::cli::error::{FAILED, Failure};
use crate::cli::kill::{Action, ask_for, new_intent};
use crate::guard::reconcile::{self, Reading};
use crate::model::id::RunId;
use crate::model::intent::Wish;
use crate::model::plan::Capture;
use crate::model::record::Record;
use crate::model::signal;
use crate::process::pty;
use crate::signals::{Received, Signals};
use crate::store::Store;
use crate::store::watch::Watch;
use crate::terminal::{self, Terminal};
use crate::view::modes::Modes;
use crate::view::quote;

/// Even without a sign of a change the run is looked at this often: both its bookends may have been killed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Bytes that are read from a keyboard at a time.
const PIECE: usize = 4096;

/// How a visit ended.
#[derive(Debug)]
pub enum Left {
    /// By the keys for it.
    Detached,
    /// The run is over.
    Over(Box<Record>),
    /// This process was told to end.
    Signalled(i32),
    /// Nobody reads what is shown any more.
    Unread,
}

/// What woke us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Signals,
    Keys,
    Line,
    Files,
    Outlet,
}

/// One visit.
pub struct Visit<'a> {
    pub store: &'a Store,
    pub id: &'a RunId,
    pub record: Box<Record>,
    pub signals: Signals,
    /// The terminal whose keys are taken.
    pub terminal: Option<Terminal>,
    /// Whether standard input is passed on where it is no terminal.
    pub passes_input: bool,
    pub finder: Finder,
    pub watch: Watch,
    pub output: Output,
    /// Where the output is shown.
    pub outlet: OwnedFd,
    /// Whether that is a terminal.
    pub is_shown: bool,
    pub modes: Modes,
    pub line: Line,
    pub state: State,
}

/// What changes during a visit.
#[derive(Default)]
pub struct State {
    over: Option<Box<Record>>,
    /// Read and not yet shown.
    pending: Vec<u8>,
    /// Whether there may be more to read.
    flowing: bool,
    keys_open: bool,
    /// Stops that were asked for with keys.
    stops: u32,
    orphaned: bool,
    paused: bool,
    /// Whether the run's door was knocked at before.
    knocked: bool,
    /// Whether it was said that nobody listens.
    deaf: bool,
    /// When the run was last looked at.
    looked: Option<Instant>,
}

impl Visit<'_> {
    /// Whether the run's command has a terminal of its own.
    fn is_tty(&self) -> bool {
        self.record.log.capture == Capture::Tty
    }

    /// Shows the output and passes keys on until somebody leaves or the run is over. The terminal is given back.
    ///
    /// # Errors
    /// A log that can not be read, a run that is gone.
    pub fn stay(&mut self) -> Result<Left, Failure> {
        self.enter();
        if self.is_tty() {
            self.state.pending = self.modes.enter().into_bytes();
        }
        let left = self.live();
        self.leave();
        if self.is_tty() && self.is_shown {
            // The program's last line may not have ended.
            let usual = self.modes.leave() + "\n";
            let _ = nix::unistd::write(&self.outlet, usual.as_bytes());
        }
        left
    }

    fn live(&mut self) -> Result<Left, Failure> {
        self.look()?;
        loop {
            if let Some(left) = self.show()? {
                return Ok(left);
            }
            let sources = self.wait();
            for source in &sources {
                let left = match source {
                    Source::Signals => self.on_signals(),
                    Source::Keys => self.on_keys(),
                    Source::Line => self.on_line()?,
                    Source::Files => self.on_files()?,
                    Source::Outlet => None,
                };
                if left.is_some() {
                    return Ok(left.unwrap_or(Left::Detached));
                }
            }
            if self.state.looked.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
                self.look()?;
            }
        }
    }

    /// Shows what there is, as far as it is taken.
    fn show(&mut self) -> Result<Option<Left>, Failure> {
        // Whether it is over was asked before the log is read, so that nothing can be added after the last look.
        if self.state.pending.is_empty() {
            let bytes = self.output.next().map_err(|e| self.failed("reading its log", &e))?;
            if bytes.is_empty() {
                self.state.flowing = false;
                return Ok(self.state.over.take().map(Left::Over));
            }
            if self.is_tty() {
                self.modes.read(&bytes);
            }
            self.state.pending = bytes;
            let dropped = std::mem::take(&mut self.output.dropped);
            if dropped > 0 {
                self.say(&format!("note: {dropped} bytes were dropped here to keep the log's limit"));
            }
        }
        self.state.flowing = true;
        match nix::unistd::write(&self.outlet, &self.state.pending) {
            Ok(n) => drop(self.state.pending.drain(..n)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return Ok(Some(Left::Unread)),
        }
        Ok(None)
    }

    fn failed(&self, doing: &str, e: &io::Error) -> Failure {
        let hint = format!("bookend show {}", self.id.short());
        Failure::new(FAILED, format!("attached to run {}: {doing}: {e}", self.id), hint)
    }

    fn wait(&self) -> Vec<Source> {
        let comes = PollFlags::POLLIN;
        let mut wanted = vec![(Source::Signals, self.signals.handle(), comes)];
        wanted.extend(self.watch.handle().map(|fd| (Source::Files, fd, comes)));
        wanted.extend(self.line.source().map(|(fd, flags)| (Source::Line, fd, flags)));
        // What is typed by hand is read at once, as the keys to leave may be in it; a script waits for its turn.
        if self.state.keys_open && (self.terminal.is_some() || self.line.has_room()) {
            wanted.push((Source::Keys, self.keys(), comes));
        }
        if !self.state.pending.is_empty() {
            wanted.push((Source::Outlet, self.outlet.as_fd(), PollFlags::POLLOUT));
        }
        let mut fds: Vec<PollFd<'_>> = wanted.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        let more = self.state.flowing && self.state.pending.is_empty();
        let longest = if more { Duration::ZERO } else { self.watch.patience(LOOK_AGAIN) };
        let _ = poll(&mut fds, PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX));
        let woke = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        wanted.iter().zip(&fds).filter(|(_, fd)| woke(fd)).map(|(w, _)| w.0).collect()
    }

    fn keys(&self) -> BorrowedFd<'_> {
        match &self.terminal {
            Some(terminal) => terminal.handle(),
            // SAFETY: standard input is open for as long as this process lives.
            None => unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) },
        }
    }

    // ---- the person's terminal ------------------------------------------------------------------------------------

    /// Takes the keys one by one, while they are ours to take.
    fn enter(&mut self) {
        let tty = self.is_tty();
        self.state.keys_open = match &self.terminal {
            Some(terminal) if terminal.is_foreground() => {
                if tty {
                    terminal.make_raw();
                } else {
                    terminal.make_keyed();
                }
                true
            }
            Some(_) => false,
            None => self.passes_input && tty,
        };
    }

    fn leave(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.restore();
        }
    }

    /// Says a line; where every key is passed on as it is, so are newlines.
    fn say(&self, text: &str) {
        let raw = self.is_tty() && self.terminal.as_ref().is_some_and(Terminal::is_raw);
        let (before, end) = if raw { ("\r\n", "\r\n") } else { ("", "\n") };
        let text = quote::visible(text);
        let lines: String = text.lines().flat_map(|line| [line, end]).collect();
        terminal::say(&format!("{before}bookend: {lines}"));
    }

    fn say_size(&mut self) {
        let size = self.terminal.as_ref().and_then(|terminal| pty::size(terminal.handle()));
        if let Some(size) = size.filter(|_| self.is_tty() && self.state.keys_open) {
            self.line.resize([size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel]);
        }
    }

    // ---- what happens ---------------------------------------------------------------------------------------------

    fn on_signals(&mut self) -> Option<Left> {
        self.signals.take().into_iter().find_map(|received| self.on_signal(received))
    }

    fn on_signal(&mut self, received: Received) -> Option<Left> {
        match received.signal {
            libc::SIGWINCH => self.say_size(),
            libc::SIGTSTP => {
                self.leave();
                self.signals.suspend_self();
                self.enter();
                self.say_size();
            }
            libc::SIGCONT => {
                self.enter();
                self.say_size();
            }
            // A key of the terminal at which somebody sits.
            number @ (libc::SIGINT | libc::SIGQUIT)
                if received.sender.is_none() && self.state.keys_open && !self.is_tty() =>
            {
                self.ask_to_stop(number);
            }
            number @ (libc::SIGINT | libc::SIGQUIT | libc::SIGTERM | libc::SIGHUP)
                if !self.signals.was_ignored(number) =>
            {
                return Some(Left::Signalled(number));
            }
            _ => {}
        }
        None
    }

    /// Ctrl-C at a plain run: what it would be in the run's own terminal.
    fn ask_to_stop(&mut self, number: i32) {
        self.state.stops += 1;
        let wish = Wish::Stop { signal: Some(number), grace_ms: None, force: self.state.stops > 1 };
        let key = if number == libc::SIGINT { "Ctrl-C" } else { "Ctrl-\\" };
        let intent = new_intent(wish, Some(number), Some(format!("{key} in bookend attach")));
        let (action, message) = ask_for(self.store, self.id, &intent);
        match action {
            Action::Stopping if self.state.stops > 1 => self.say("killing it"),
            Action::Stopping => {
                let name = signal::name(number);
                self.say(&format!("stopping it with {name}, as {key} would; a second one kills it now"));
            }
            _ => self.say(&message),
        }
    }

    fn on_keys(&mut self) -> Option<Left> {
        let mut buffer = [0; PIECE];
        match nix::unistd::read(self.keys(), &mut buffer) {
            Ok(n @ 1..) if self.terminal.is_some() => {
                let (keys, leaves) = self.finder.typed(&buffer[..n]);
                if self.is_tty() {
                    self.line.type_keys(&keys);
                }
                return leaves.then_some(Left::Detached);
            }
            Ok(n @ 1..) => self.line.type_keys(&buffer[..n]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // The end of the input, or we are in the background until somebody says that we go on.
            Ok(_) | Err(_) => self.state.keys_open = false,
        }
        None
    }

    fn on_line(&mut self) -> Result<Option<Left>, Failure> {
        if let Some(trouble) = self.line.serve() {
            self.say(trouble);
        }
        if !self.line.is_up() {
            self.look()?;
        }
        Ok(None)
    }

    fn on_files(&mut self) -> Result<Option<Left>, Failure> {
        if self.watch.take_changes() {
            self.look()?;
        }
        Ok(None)
    }

    /// Connects with whichever bookend serves guests now.
    fn connect(&mut self) {
        let is_first = !std::mem::replace(&mut self.state.knocked, true);
        match self.line.connect() {
            Ok(()) => self.say_size(),
            // A run that is just ending has taken its door away.
            Err(e) if is_first || e.kind() != io::ErrorKind::NotFound => {
                if !std::mem::replace(&mut self.state.deaf, true) {
                    self.say(&format!("what is typed here is not passed on: knocking at its door: {e}"));
                }
            }
            Err(_) => {}
        }
    }

    /// Looks how the run is doing.
    fn look(&mut self) -> Result<(), Failure> {
        if self.state.over.is_some() {
            return Ok(());
        }
        self.state.looked = Some(Instant::now());
        match reconcile::read(self.store, self.id).map_err(|e| self.failed("looking how it is doing", &e))? {
            Reading::Final(record) => {
                self.output.learn(&record);
                self.state.over = Some(record);
                self.state.flowing = true;
            }
            Reading::Living(record) => {
                let paused = record.paused_since.is_some();
                if paused && !std::mem::replace(&mut self.state.paused, paused) {
                    let short = self.id.short();
                    self.say(&format!("it is paused; bookend kill -s CONT {short} lets it go on"));
                }
                self.state.paused = paused;
                self.output.learn(&record);
                self.record = record;
                let passes_on = self.terminal.is_some() || self.passes_input;
                if self.is_tty() && passes_on && !self.line.is_up() {
                    self.connect();
                }
            }
            Reading::Orphaned(record, _) => {
                self.record = record;
                if !std::mem::replace(&mut self.state.orphaned, true) {
                    self.say("it has lost its bookends: nothing is recorded or passed on any more, and its command lives");
                }
            }
            // It goes from one state to another; the next look tells.
            Reading::Unclear(..) => {}
        }
        Ok(())
    }
}
