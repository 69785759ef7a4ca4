//! A crowd on one store: many runs at once, readers all the while, `clean` and `kill` racing with them.
//!
//! Each run is told what to do and what must come of it. Half of them are labelled as free to be cleaned: they may be gone
//! in the end, but never before they were over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::tripwire::{Reach, reach};
use crate::world::{Finished, World, assert_follows};

/// A run may take this long on a machine that is busy with all the others.
const LIMIT: Duration = Duration::from_secs(240);
/// Runs are started at a pace at which some are killed, some cleaned, and most neither.
const READERS: usize = 8;

/// What runs of the crowd do: arguments of the artist, and the exit code that comes of them unless they are killed.
const ROLES: [(&[&str], i32); 6] = [
    (&["exit", "0"], 0),
    (&["exit", "3"], 3),
    (&["die", "SEGV"], 139),
    (&["drip", "5", "20"], 0),
    (&["gen", "200000"], 0),
    (&["drip", "20", "30"], 0),
];

/// What one run came to, as its caller saw it.
struct Seen {
    id: String,
    expected: i32,
    may_be_cleaned: bool,
    done: Finished,
}

fn play(world: &World, number: usize) -> Seen {
    let (args, expected) = ROLES[number % ROLES.len()];
    let may_be_cleaned = number.is_multiple_of(2);
    let label = if may_be_cleaned { "fate=clean" } else { "fate=keep" };
    let id_file = world.path(&format!("id-{number}"));
    let flags = ["-q", "-l", label, "--durability", "process", "--id-file", &*id_file.to_string_lossy()];
    let done = world.run_artist(&flags, args).limit(LIMIT).run();
    let id = std::fs::read_to_string(id_file).unwrap_or_default().trim().to_owned();
    Seen { id, expected, may_be_cleaned, done }
}

/// Reads until it is told to stop; whatever it is asked for, an answer is one of those that are promised.
fn read(world: &World, number: usize, over: &AtomicBool) -> usize {
    const QUESTIONS: [&[&str]; 8] = [
        &["ps", "--json"],
        &["ps", "-a", "--json"],
        &["ps", "-a"],
        &["show", "latest"],
        &["show", "latest", "--json"],
        &["logs", "latest", "-n", "3"],
        &["wait", "latest", "--timeout", "100ms"],
        &["ps", "-a", "--filter", "status=failed", "--format", "jsonl"],
    ];
    let mut asked = 0;
    while !over.load(Ordering::SeqCst) {
        let words = QUESTIONS[(number + asked) % QUESTIONS.len()];
        let answer = world.bookend(words.iter().copied()).limit(LIMIT).run();
        assert!(!answer.err().contains("panicked"), "{words:?}: {answer:?}");
        let code = answer.code.unwrap_or(-1);
        let fine = match words[0] {
            "ps" => code == 0,
            "wait" => [0, 3, 124, 137, 139].contains(&code),
            // The latest run may be removed between two looks.
            _ => [0, 1, 3].contains(&code),
        };
        assert!(fine, "{words:?}: {answer:?}");
        asked += 1;
    }
    asked
}

fn clean(world: &World, over: &AtomicBool) -> u64 {
    let mut removed = 0;
    while !over.load(Ordering::SeqCst) {
        let words = ["clean", "--filter", "label=fate=clean", "--older-than", "0s", "-y", "--json"];
        let answer = world.bookend(words).limit(LIMIT).run();
        assert!(!answer.err().contains("panicked"), "{answer:?}");
        removed += answer.assert_code(0).json()["removed"].as_array().map_or(0, Vec::len) as u64;
    }
    removed
}

/// Kills one of those that live, again and again.
fn kill(world: &World, over: &AtomicBool) -> usize {
    let mut killed = 0;
    while !over.load(Ordering::SeqCst) {
        let living = world.bookend(["ps", "-q"]).limit(LIMIT).run().out();
        if let Some(id) = living.lines().next() {
            let answer = world.bookend(["kill", "--reason", "crowded", id]).limit(LIMIT).run();
            let code = answer.code.unwrap_or(-1);
            assert!([0, 1, 3].contains(&code) && !answer.err().contains("panicked"), "{answer:?}");
            killed += usize::from(code == 0);
        }
    }
    killed
}

/// Whether what the caller of a run saw, and the record if it is still there, are what they must be.
fn judge(seen: &Seen, record: Option<&Value>, schema: &Value) -> bool {
    let told = || format!("run {}: {:?}\n{record:#?}", seen.id, seen.done);
    assert!(!seen.id.is_empty(), "{}", told());
    let was_killed = seen.done.code == Some(137);
    assert!(was_killed || seen.done.code == Some(seen.expected), "{}", told());
    assert_eq!(seen.done.err(), "", "{}", told());
    let Some(record) = record else {
        assert!(seen.may_be_cleaned, "removed, though it was to be kept: {}", told());
        return was_killed;
    };
    assert_follows(schema, record);
    assert_eq!(record["wrapper_exit_code"].as_i64(), seen.done.code.map(i64::from), "{}", told());
    if was_killed {
        assert_eq!(record["exit_reason"], "killed", "{}", told());
        assert_eq!(record["ended_by"]["reason"], "crowded", "{}", told());
    }
    was_killed
}

#[test]
fn campaign_a_crowd_on_one_store() {
    let (runs, wide) = match reach() {
        Reach::Glance => (120, 16),
        Reach::Ci | Reach::Full => (1_000, 64),
    };
    let world = World::new();
    world.run_artist(&["-q", "-l", "fate=keep"], &["exit", "0"]).run().assert_code(0);
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (seen, asked, removed, killed) = thread::scope(|scope| {
        let worker = || {
            let numbers =
                std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::SeqCst)).filter(|&n| n < runs));
            numbers.map(|number| play(&world, number)).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..wide).map(|_| scope.spawn(worker)).collect();
        let (world, over) = (&world, &over);
        let readers: Vec<_> = (0..READERS).map(|n| scope.spawn(move || read(world, n, over))).collect();
        let cleaner = scope.spawn(|| clean(world, over));
        let killer = scope.spawn(|| kill(world, over));
        let seen: Vec<Seen> = workers.into_iter().flat_map(|w| w.join().expect("a worker")).collect();
        over.store(true, Ordering::SeqCst);
        let asked: usize = readers.into_iter().map(|r| r.join().expect("a reader")).sum();
        (seen, asked, cleaner.join().expect("the cleaner"), killer.join().expect("the killer"))
    });
    let schema = world.schema("run");
    let records: BTreeMap<String, Value> =
        world.runs().iter().map(|run| (run.id(), run.run_json())).collect();
    let ended_by_kill = seen.iter().filter(|s| judge(s, records.get(&s.id), &schema)).count();
    let left = seen.iter().filter(|s| records.contains_key(&s.id)).count();
    eprintln!(
        "a crowd: {} runs, {ended_by_kill} killed by {killed} kills, {left} still there, {removed} cleaned, {asked} answers",
        seen.len()
    );
    assert_eq!(seen.len(), runs);
    assert_eq!(left + usize::try_from(removed).expect("a count"), runs, "each is there or was cleaned");
    assert!(removed > 0 && killed > 0 && asked > READERS, "nothing raced");
    assert!(world.live().is_empty(), "markers of runs that are over: {:?}", world.live());
    let stray: Vec<String> = std::fs::read_dir(world.store().join("runs"))
        .expect("runs")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(stray.is_empty(), "{stray:?}");
    world.assert_no_process_left();
}
