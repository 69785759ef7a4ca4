//! Every exit code and every deadly signal of a command, exactly, in the record and as bookend's own code.

use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use serde_json::Value;

use crate::expect::Expect;
use crate::world::World;

/// Runs at the same time.
const WORKERS: usize = 4;
/// Signals whose default is to be ignored, or to stop or continue the process.
const HARMLESS: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGWINCH,
];

/// Runs `artist WORD N` for each number, a few at a time, and checks each end.
fn each(
    word: &str,
    numbers: &[i32],
    expected: impl Fn(i32) -> Expect + Sync,
    look: impl Fn(i32, &Value) + Sync,
) {
    let next = AtomicI32::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(&number) = numbers.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let world = World::new();
                    let flags = ["--quiet", "--durability", "process"];
                    let call = world.run_artist(&flags, &[word, &number.to_string()]);
                    let done = call.inheriting(&["core=0"]).run();
                    look(number, &expected(number).check(&world, &done));
                }
            });
        }
    });
}

#[test]
fn every_exit_code() {
    let all: Vec<i32> = (0..256).collect();
    each("exit", &all, Expect::exited, |_, _| {});
}

#[test]
fn every_deadly_signal() {
    let deadly: Vec<i32> = (1..=31).chain(34..=64).filter(|n| !HARMLESS.contains(n)).collect();
    assert_eq!(deadly.len(), 54);
    each("die", &deadly, Expect::signaled, |number, record| {
        let exit = &record["exit"];
        assert_eq!(exit["core_dumped"], false, "{record:#}");
        let name = exit["signal_name"].as_str().expect("a name");
        match number {
            libc::SIGKILL => assert_eq!(name, "SIGKILL"),
            34 => assert_eq!(name, "SIGRTMIN"),
            64 => assert_eq!(name, "SIGRTMIN+30"),
            _ => assert!(name.starts_with("SIG"), "{name}"),
        }
    });
}
