//! Every signal in every phase, once and twice: each leaves exactly one true record, in bounded time.
//!
//! The table of what each must leave is [`expected`]: the four stop signals stop the run and bookend dies of them,
//! the three that are passed on reach the command and nothing else, and the rest change nothing at all.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::expect::{Expect, Points, Seen, is_pending, send};
use crate::world::{LIMIT, World, eventually};

/// Cells at the same time: most of a cell's time is waiting.
const WORKERS: usize = 4;
/// Nothing takes longer than this, however the machine is loaded.
const BOUND: Duration = Duration::from_secs(20);

/// The signals of the grid; the last one is a real-time signal.
const SIGNALS: [i32; 12] = [
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGPIPE,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGWINCH,
    40,
];
const STOPS: [i32; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP];
/// Passed on to the command, which dies of the first two and never notices the third.
const PASSED_ON: [i32; 3] = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

/// Where the run is when the signals come.
const PHASES: [&str; 8] = [
    "front.start",
    "keeper.start",
    "keeper.published",
    "keeper.before_spawn",
    "keeper.running",
    "keeper.stopping",
    "keeper.draining",
    "keeper.sealing",
];

/// Who gets the signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Front,
    Keeper,
}

/// One cell of the grid.
#[derive(Clone, Copy, Debug)]
struct Cell {
    signal: i32,
    phase: &'static str,
    twice: bool,
    target: Target,
}

impl Cell {
    fn is_stop(&self) -> bool {
        STOPS.contains(&self.signal)
    }

    /// Whether the command has ended when the signals come.
    fn is_late(&self) -> bool {
        matches!(self.phase, "keeper.draining" | "keeper.sealing")
    }

    /// Whether the signal ends the command, so that it need not be asked to end by the test.
    fn ends_the_command(&self) -> bool {
        self.phase == "keeper.stopping"
            || self.is_stop()
            || matches!(self.signal, libc::SIGUSR1 | libc::SIGUSR2)
    }
}

/// What a cell must leave.
fn expected(cell: &Cell) -> Expect {
    let passed_on = PASSED_ON.contains(&cell.signal) && cell.signal != libc::SIGWINCH;
    let expected = match cell {
        _ if cell.is_late() => Expect::exited(0),
        // A stop was under way, by SIGTERM: the first cause wins, and a second stop signal forces it.
        // Who asks the keeper itself is another one, who has asked but once.
        Cell { phase: "keeper.stopping", target: Target::Front, .. } if cell.is_stop() => {
            Expect::stopped_by(libc::SIGTERM).exit(Seen::Any).forced()
        }
        Cell { phase: "keeper.stopping", .. } => Expect::stopped_by(libc::SIGTERM).exit(Seen::Any),
        _ if cell.is_stop() && cell.twice => Expect::stopped_by(cell.signal).exit(Seen::Any).perhaps_forced(),
        _ if cell.is_stop() => Expect::stopped_by(cell.signal),
        _ if passed_on => Expect::signaled(cell.signal),
        _ => Expect::exited(0),
    };
    // After a second stop signal the front may take a keeper that a test holds up for a stuck one.
    let expected = if cell.is_stop() { expected.any_author() } else { expected };
    expected.within(BOUND)
}

/// Brings a run into a phase, sends the signals, lets it go on, and checks what it left.
fn try_cell(cell: Cell) {
    let mut world = World::new();
    let points = Points::set(&mut world, &format!("{}=pause", cell.phase));
    let flags = ["--quiet", "--durability", "process", "--stdin"];
    let mut running = world.run_artist(&flags, &["echo-stdin"]).inheriting(&["core=0"]).open_input().spawn();
    if cell.phase == "keeper.stopping" {
        world.wait_for_run().wait_status("running");
        running.signal(nix::sys::signal::Signal::SIGTERM);
    } else if cell.is_late() {
        running.end_input();
    }
    let paused = points.reached(cell.phase);
    let target = if cell.target == Target::Front { running.process() } else { paused };
    send(target, cell.signal);
    if cell.twice {
        // A signal that waits to be taken swallows the next of its kind; whoever is paused takes none.
        if target != paused {
            eventually(LIMIT, "first signal taken", || (!is_pending(target, cell.signal)).then_some(()));
        }
        send(target, cell.signal);
    }
    points.go(cell.phase);
    if cell.ends_the_command() && !cell.is_late() {
        // The input stays open until then: the command ends by the signal, and by nothing else.
        world.wait_for_run().wait_sealed(LIMIT);
    }
    running.end_input();
    expected(&cell).check(&world, &running.wait());
}

/// Tries cells a few at a time; a failure names its cell.
fn try_all(cells: &[Cell]) {
    let next = AtomicUsize::new(0);
    let failed: Vec<String> = thread::scope(|scope| {
        let worker = || {
            let mut failed = Vec::new();
            while let Some(&cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                if std::panic::catch_unwind(|| try_cell(cell)).is_err() {
                    failed.push(format!("{cell:?}"));
                }
            }
            failed
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
    });
    assert!(failed.is_empty(), "{} of {} cells failed: {failed:#?}", failed.len(), cells.len());
}

/// The product of signals, phases, once and twice, for one target.
fn product(target: Target, signals: &[i32], phases: &[&'static str]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &signal in signals {
        for &phase in phases {
            cells.extend([false, true].map(|twice| Cell { signal, phase, twice, target }));
        }
    }
    cells
}

/// The phases in which the keeper exists, published and not yet done.
const KEEPER_PHASES: [&str; 7] = [
    "keeper.start",
    "keeper.published",
    "keeper.before_spawn",
    "keeper.running",
    "keeper.stopping",
    "keeper.draining",
    "keeper.sealing",
];

#[test]
fn the_front_gets_every_signal_in_every_phase() {
    try_all(&product(Target::Front, &SIGNALS, &PHASES));
}

#[test]
fn the_keeper_gets_signals_too() {
    let some = [libc::SIGTERM, libc::SIGUSR1, libc::SIGPIPE, 40];
    try_all(&product(
        Target::Keeper,
        &some,
        &["keeper.before_spawn", "keeper.running", "keeper.stopping", "keeper.sealing"],
    ));
}

#[test]
fn campaign_the_keeper_gets_every_signal_in_every_phase() {
    let full = std::env::var_os("BOOKEND_CAMPAIGN").is_some();
    let signals = if full { &SIGNALS[..] } else { &SIGNALS[..1] };
    try_all(&product(Target::Keeper, signals, &KEEPER_PHASES));
}
