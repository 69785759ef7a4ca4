//! A store that goes away, is replaced or can not be written to while it is read; and a clock that was set back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::commands::{Of, ROWS, Row};
use super::malformed::copy;
use super::mutation::remove;
use crate::world::{Running, World, eventually, go_on_with};

const SOON: Duration = Duration::from_secs(10);

/// A run that stays until somebody ends it.
fn staying(world: &World, flags: &[&str]) -> Running {
    let running = world.run_artist(flags, &["linger", "60"]).spawn();
    running.wait_ready();
    running
}

/// Copies the store while a run of it lives, and then ends the run: in the copy nobody has sealed it.
fn copy_with_a_dead_run(world: &World, to: &Path) -> String {
    let running = staying(world, &["--name", "dead"]);
    let run = world.runs().into_iter().find(|run| !run.is_sealed()).expect("a run that lives");
    run.wait_status("running");
    copy(&world.store(), to);
    world.bookend(["kill", "--force", "dead"]).run().assert_code(0);
    running.wait_within(SOON);
    run.wait_sealed(SOON);
    run.id()
}

/// Two stores with a run of the same id: dead and not sealed in the one, sealed in the other.
struct Twins {
    world: World,
    dead: PathBuf,
    sealed: PathBuf,
    record: Vec<u8>,
    id: String,
}

impl Twins {
    fn make() -> Self {
        let world = World::new();
        let (dead, sealed) = (world.path("dead"), world.path("sealed"));
        let id = copy_with_a_dead_run(&world, &dead);
        fs::rename(world.store(), &sealed).expect("the sealed one");
        let record = fs::read(sealed.join("runs").join(&id).join("run.json")).expect("a record");
        copy(&dead, &world.path("spare"));
        copy(&sealed, &world.path("sealed spare"));
        Self { world, dead, sealed, record, id }
    }

    /// Puts one store in the place of the other and nothing in between, until it is told to stop.
    fn juggle(&self, stop: &AtomicBool) {
        let store = self.world.store();
        while !stop.load(Ordering::Relaxed) {
            for place in [&self.dead, &self.sealed] {
                fs::rename(place, &store).expect("the store comes");
                thread::yield_now();
                fs::rename(&store, place).expect("the store goes");
            }
        }
    }

    /// Nothing of the one store came into the other.
    fn check(&self, row: &Row) {
        if row.removes {
            return; // whichever of them it met
        }
        let of = |store: &Path| store.join("runs").join(&self.id);
        assert_eq!(fs::read(of(&self.sealed).join("run.json")).expect("a record"), self.record, "{row:?}");
        if let Ok(text) = fs::read_to_string(of(&self.dead).join("run.json")) {
            let record: Value = serde_json::from_str(&text).expect("a whole record");
            assert_eq!(record["status"], "lost", "{row:?}: {record:#}");
        }
        for store in [&self.dead, &self.sealed] {
            let runs: Vec<_> = fs::read_dir(store.join("runs")).expect("runs").flatten().collect();
            assert_eq!(runs.len(), 1, "{row:?}: {runs:?}");
        }
    }

    /// Makes both as they were.
    fn renew(&self) {
        for (place, spare) in [(&self.dead, "spare"), (&self.sealed, "sealed spare")] {
            remove(place);
            copy(&self.world.path(spare), place);
        }
    }
}

/// A row that may find no store any more.
fn with_nothing_there(row: Row) -> Row {
    Row { codes: if row.waits { row.codes } else { &[0, 1, 3] }, lists: false, ..row }
}

#[test]
fn a_store_that_is_replaced_while_it_is_read() {
    let twins = Twins::make();
    for row in ROWS {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| twins.juggle(&stop));
            let broken: Vec<_> = (0..6)
                .filter_map(|_| {
                    let words = row.words_for(if row.of == Of::Run { "latest" } else { "" });
                    let done = twins.world.bookend(words).limit(SOON).run();
                    with_nothing_there(*row).broken(&done).map(|wrong| format!("{row:?}: {wrong}: {done:?}"))
                })
                .collect();
            stop.store(true, Ordering::Relaxed);
            assert!(broken.is_empty(), "{broken:#?}");
        });
        twins.check(row);
        twins.renew();
    }
}

#[test]
fn a_store_that_is_removed_while_it_is_read() {
    let twins = Twins::make();
    let store = twins.world.store();
    for row in ROWS {
        for _ in 0..3 {
            copy(&twins.world.path("spare"), &store);
            let words = row.words_for(if row.of == Of::Run { "latest" } else { "" });
            let running = twins.world.bookend(words).limit(SOON).spawn();
            // The moment is anywhere in its life.
            while running.process().is_alive() && store.exists() {
                let _ = fs::remove_dir_all(&store);
            }
            let done = running.wait();
            let broken = with_nothing_there(*row).broken(&done);
            assert!(broken.is_none(), "{row:?}: {broken:?}: {done:?}");
            remove(&store);
        }
    }
}

#[test]
fn a_store_that_can_only_be_read() {
    if !go_on_with("root, to mount", nix::unistd::geteuid().is_root()) {
        return;
    }
    let mut world = World::new();
    let dead = copy_with_a_dead_run(&world, &world.path("copy"));
    remove(&world.store());
    fs::rename(world.path("copy"), world.store()).expect("the store");
    world
        .bookend(["run", "--quiet", "--name", "good", "--", "sh", "-c", "echo out; exit 3"])
        .run()
        .assert_code(3);
    let running = staying(&world, &["--name", "living"]);
    let (whole, frozen) = (world.store(), Frozen::mount(&world));
    let before = names(&whole);
    world.set_store(&frozen.0);

    let listed = world.bookend(["ps", "-a", "--json"]).run().assert_code(0).json();
    let states: Vec<_> =
        listed["runs"].as_array().expect("runs").iter().map(|run| run["status"].clone()).collect();
    assert_eq!(states, ["running", "failed", "lost"], "newest first: {listed:#}");
    world.bookend(["ps"]).run().assert_code(0);
    world.bookend(["wait", "good"]).run().assert_code(3);
    world.bookend(["wait", &dead]).run().assert_code(125);
    assert_eq!(world.bookend(["logs", "good"]).run().assert_code(0).out(), "out\n");
    for name in ["good", "living", "dead"] {
        world.bookend(["show", name]).run().assert_code(0);
        let done = world.bookend(["note", name, "a note"]).run();
        assert!(done.assert_code(1).err().contains("Read-only file system"), "{done:?}");
    }
    let killed = world.bookend(["kill", "living", "--reason", "enough"]).run();
    let err = killed.assert_code(1).err();
    assert!(err.contains("noting who asks, and why") && err.contains("Read-only file system"), "{err}");
    world.bookend(["kill", "good"]).run().assert_code(0);
    let refused = world.bookend(["run", "--quiet", "--", "true"]).run();
    assert!(refused.assert_code(125).err().contains("Read-only file system"), "{refused:?}");
    assert_eq!(names(&whole), before, "nothing came and nothing went");
    assert!(running.process().is_alive());

    // Where it can be written to, all of it works.
    world.set_store(&whole);
    world.bookend(["kill", "living", "--reason", "enough"]).run().assert_code(0);
    running.wait_within(SOON).assert_code(137);
    world.bookend(["ps"]).run().assert_code(0);
    let sealed = world.runs().into_iter().filter(crate::world::RunDir::is_sealed).count();
    assert_eq!((sealed, world.live()), (3, Vec::<String>::new()));
}

/// A second place of the store, where it can not be written to.
struct Frozen(PathBuf);

impl Frozen {
    fn mount(world: &World) -> Self {
        let path = world.path("frozen");
        fs::create_dir(&path).expect("a directory");
        let mount = |words: &[&str]| {
            let done = Command::new("mount").args(words).arg(&path).status();
            assert!(done.is_ok_and(|status| status.success()), "mount {words:?}");
        };
        mount(&["--bind", &world.store().to_string_lossy()]);
        mount(&["-o", "remount,bind,ro"]);
        Self(path)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Names of all files in a store.
fn names(store: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut look = vec![store.to_owned()];
    while let Some(path) = look.pop() {
        look.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        found.push(path);
    }
    found.sort();
    found
}

/// Moves a time stamp in a record by so many days.
fn shift(record: &mut Value, field: &str, days: i64) {
    let Some(text) = record[field].as_str() else { return };
    let at = bookend::model::time::Timestamp::parse(text).expect("a time stamp");
    record[field] =
        serde_json::to_value(bookend::model::time::Timestamp::from_unix_ms(at.unix_ms() + days * 86_400_000))
            .expect("a value");
}

/// What was written before the clock was set back lies in the future now.
#[test]
fn a_clock_that_was_set_back() {
    let world = World::new();
    for name in ["first", "second"] {
        world.bookend(["run", "--quiet", "--name", name, "--", "true"]).run().assert_code(0);
    }
    let running = staying(&world, &["--name", "living"]);
    for run in world.runs() {
        let file = run.path.join(if run.is_sealed() { "run.json" } else { "status.json" });
        let mut record = if run.is_sealed() { run.run_json() } else { run.wait_status("running") };
        for field in ["started_at", "completed_at", "updated_at"] {
            shift(&mut record, field, 400);
        }
        fs::write(file, record.to_string()).expect("a record of the future");
    }
    world.bookend(["run", "--quiet", "--name", "now", "--", "true"]).run().assert_code(0);

    let table = || world.bookend(["ps", "-a"]).run().assert_code(0).out();
    let (first, again) = (table(), table());
    let order = |table: &str| -> Vec<String> {
        table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().nth(1).unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(order(&first), order(&again));
    assert_eq!(
        order(&first).iter().filter(|name| *name != "now").collect::<Vec<_>>(),
        ["living", "second", "first"]
    );
    for line in first.lines().filter(|line| !line.contains("now")).skip(1) {
        let told = line.to_lowercase();
        assert!(told.contains("less than a second"), "{first}");
        assert!(!told.contains('-') || told.contains("   -"), "a negative time: {first}");
        assert!(!told.contains("year") && !told.contains("month") && !told.contains("day"), "{first}");
    }
    for name in ["first", "living"] {
        let page = world.bookend(["show", name]).run().assert_code(0).out();
        assert!(page.contains("(less than a second ago)"), "{page}");
    }
    // The future is neither before now nor long ago, and a run of the future can be waited for and stopped.
    let ids = |filter: &str| world.bookend(["ps", "-a", "-q", "--filter", filter]).run().assert_code(0).out();
    assert_eq!(ids("since=1h").lines().count(), 4);
    assert_eq!(ids("before=1h").lines().count(), 0);
    world.bookend(["wait", "second"]).run().assert_code(0);
    world.bookend(["kill", "living"]).run().assert_code(0);
    running.wait_within(SOON).assert_code(137);
    let ended =
        world.runs().into_iter().find(|run| run.text("run.json").contains("linger")).expect("it").run_json();
    assert!(ended["duration_seconds"].as_f64().is_some_and(|s| (0.0..60.0).contains(&s)), "{ended:#}");
}

/// A dead run whose files were last written after now ends between its start and now, in this order.
#[test]
fn a_dead_run_of_the_future_is_sealed_all_the_same() {
    let world = World::new();
    let id = copy_with_a_dead_run(&world, &world.path("copy"));
    remove(&world.store());
    fs::rename(world.path("copy"), world.store()).expect("the store");
    let dir = world.store().join("runs").join(&id);
    let status = dir.join("status.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&status).expect("a state")).expect("JSON");
    shift(&mut record, "started_at", 400);
    fs::write(&status, record.to_string()).expect("a state of the future");
    let begun = Instant::now();
    let listed = world.bookend(["ps", "-a", "--json"]).run().assert_code(0).json();
    let between = listed["runs"][0]["ended_between"].clone();
    assert_eq!(listed["runs"][0]["status"], "lost", "{listed:#}");
    assert!(between[0].as_str() <= between[1].as_str(), "{between}");
    eventually(SOON, "an end in good time", || (begun.elapsed() < SOON).then_some(()));
    world.bookend(["wait", &id]).run().assert_code(125);
}
