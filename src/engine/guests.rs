//! Guests: people who have attached to a run with a terminal of its own, and type there beside its front.
//!
//! They are served by whichever bookend runs the engine. Nothing is ever waited for: what a guest says is taken while
//! there is room for it, and a guest is told nothing but that there is no room for it at all; the output it reads from
//! the log itself. While nobody knocks nothing wakes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::PollFlags;
use serde_json::json;

use super::hands::Hands;
use super::inbox::Source;
use crate::process::pty;
use crate::process::pump::Stream;
use crate::store::door::{self, Peer, Word};

/// The most guests at a time.
const MOST: usize = 16;
/// Keys that wait for the command to read them; guests wait while there are more.
const MOST_KEYS: usize = 64 * 1024;
/// Comings and goings that are noted in the events of one run.
const MOST_NOTES: u32 = 500;
/// What one is told for whom there is no room.
pub const FULL: &[u8] = b"full";

/// The door, and who came in through it.
pub struct Guests {
    door: OwnedFd,
    /// No more can be let in until somebody leaves.
    shut: bool,
    inside: Vec<Guest>,
    came: u32,
    notes: u32,
    keys: Vec<u8>,
}

struct Guest {
    number: u32,
    socket: OwnedFd,
    peer: Peer,
    has_size: bool,
}

impl Guests {
    /// Nobody yet.
    #[must_use]
    pub fn behind(door: OwnedFd) -> Self {
        Self { door, shut: false, inside: Vec::new(), came: 0, notes: 0, keys: Vec::new() }
    }

    /// Lets go of all guests: they are another process's now.
    pub fn leave_to_the_other(&mut self) {
        self.inside.clear();
        self.keys.clear();
        self.shut = false;
    }

    /// What to poll, given our end of the command's terminal.
    pub(super) fn sources<'a>(
        &'a self,
        terminal: BorrowedFd<'a>,
    ) -> impl Iterator<Item = (Source, BorrowedFd<'a>, PollFlags)> {
        let door = (!self.shut).then(|| (Source::Door, self.door.as_fd(), PollFlags::POLLIN));
        let typing = (!self.keys.is_empty()).then_some((Source::Typing, terminal, PollFlags::POLLOUT));
        // One that is gone is seen all the same.
        let wants = if self.keys.len() < MOST_KEYS { PollFlags::POLLIN } else { PollFlags::empty() };
        let guests = self.inside.iter().map(move |g| (Source::Guest(g.number), g.socket.as_fd(), wants));
        door.into_iter().chain(typing).chain(guests)
    }
}

impl Hands {
    /// Lets somebody in.
    pub(super) fn on_knock(&mut self) {
        let Some(guests) = &mut self.guests else { return };
        let (socket, peer) = match door::let_in(&guests.door) {
            Ok(Some(came)) => came,
            Ok(None) => return,
            Err(_) => {
                guests.shut = true;
                return;
            }
        };
        if peer.uid != nix::unistd::geteuid().as_raw() {
            return self.note_guest("guest_refused", peer);
        }
        if guests.inside.len() >= MOST {
            let _ = door::say(socket.as_fd(), FULL);
            return;
        }
        guests.came = guests.came.wrapping_add(1);
        let number = guests.came;
        guests.inside.push(Guest { number, socket, peer, has_size: false });
        self.note_guest("attached", peer);
    }

    fn note_guest(&mut self, event: &str, peer: Peer) {
        let Some(guests) = self.guests.as_mut().filter(|g| g.notes < MOST_NOTES) else { return };
        guests.notes += 1;
        self.guard.event(event, &json!({ "pid": peer.pid, "uid": peer.uid }));
    }

    /// Takes what a guest says.
    pub(super) fn on_guest(&mut self, number: u32) {
        let Some(guests) = &mut self.guests else { return };
        let Some(at) = guests.inside.iter().position(|g| g.number == number) else { return };
        let guest = &mut guests.inside[at];
        // While there is no room for keys only an end can have woken us, behind which they are lost with their guest.
        let Some(said) = door::hear(guest.socket.as_fd()) else { return };
        match Word::of_bytes(&said) {
            Some(Word::Keys(keys)) => {
                guests.keys.extend(keys);
                self.type_keys();
            }
            Some(Word::Size(size)) => {
                let is_first = !std::mem::replace(&mut guest.has_size, true);
                self.resize(size, is_first);
            }
            None if said.is_empty() => {
                let peer = guests.inside.swap_remove(at).peer;
                guests.shut = false;
                self.note_guest("detached", peer);
            }
            None => {}
        }
    }

    /// Types what guests have said, as far as the command's terminal takes it now.
    pub(super) fn type_keys(&mut self) {
        let (Some(guests), Some(terminal)) = (&mut self.guests, self.pump.source(Stream::Out)) else {
            return;
        };
        match nix::unistd::write(terminal, &guests.keys) {
            Ok(n) => drop(guests.keys.drain(..n)),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            Err(_) => guests.keys.clear(),
        }
    }

    /// Gives the command's terminal the size of a guest's window. Whoever has just come sees only what is drawn from
    /// now on, so the command is told of a change even where there is none.
    fn resize(&mut self, [ws_row, ws_col, ws_xpixel, ws_ypixel]: [u16; 4], is_first: bool) {
        let Some(terminal) = self.pump.source(Stream::Out) else { return };
        let size = nix::pty::Winsize { ws_row, ws_col, ws_xpixel, ws_ypixel };
        if ws_row == 0 || ws_col == 0 {
            return;
        }
        let now = pty::size(terminal);
        if is_first && now.is_some_and(|now| (now.ws_row, now.ws_col) == (ws_row, ws_col)) {
            pty::resize(terminal, &nix::pty::Winsize { ws_row: ws_row.saturating_add(1), ..size });
        }
        pty::resize(terminal, &size);
    }
}
