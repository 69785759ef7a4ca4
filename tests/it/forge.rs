//! Finished runs without running anything: copies of one real run, each with an id and an end of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bookend::model::id::RunId;
use bookend::model::time::Timestamp;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::world::{PidNamespace, Process, RunDir, World};

/// How a forged run ended, and how long ago.
#[derive(Clone, Copy)]
pub struct End {
    pub age: Duration,
    pub code: i32,
}

pub const DAY: Duration = Duration::from_secs(86_400);

/// An end with code 0 so many days ago.
pub fn days_ago(days: u32) -> End {
    End { age: DAY * days, code: 0 }
}

/// A real run's id and files.
type Template = (String, BTreeMap<String, Vec<u8>>);

/// The files of one real run that exited with 0, and of one that exited with 1.
fn templates() -> &'static [Template; 2] {
    static FILES: OnceLock<[Template; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        [0, 1].map(|code| {
            let world = World::new();
            let script = format!("echo out; exit {code}");
            world.bookend(["run", "--quiet", "--", "sh", "-c", &script]).run().assert_code(code);
            let run = world.only_run();
            let files = run.files().into_iter().map(|name| (name.clone(), run.read(&name).expect("a file")));
            (run.id(), files.collect())
        })
    })
}

/// Makes a finished run in a world's store.
pub fn run(world: &World, number: u32, end: End) -> RunDir {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let at = Timestamp::from_unix_ms(i64::try_from(now.saturating_sub(end.age).as_millis()).expect("a time"));
    let id = RunId::new(at, number);
    let (old, files) = &templates()[usize::from(end.code != 0)];
    let mut maker = fs::DirBuilder::new();
    maker.recursive(true).mode(0o700);
    maker.create(world.store().join("live")).expect("a place for markers");
    let path = world.store().join("runs").join(id.as_str());
    maker.create(&path).expect("a run's directory");
    for (name, bytes) in files.iter().filter(|(name, _)| *name != "status.json") {
        let text = String::from_utf8_lossy(bytes).replace(old, id.as_str());
        write(&path.join(name), if name == "run.json" { ended(&text, at) } else { text }.as_bytes());
    }
    fs::hard_link(path.join("run.json"), path.join("status.json")).expect("the settled state");
    RunDir { path }
}

/// The record with another beginning and end.
fn ended(text: &str, at: Timestamp) -> String {
    let mut record: Value = serde_json::from_str(text).expect("a record");
    for field in ["started_at", "completed_at"] {
        record[field] = at.to_string().into();
    }
    format!("{record}\n")
}

/// Writes a file as bookend would: for its owner alone.
pub fn write(path: &Path, bytes: &[u8]) {
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    opened.expect("a file").write_all(bytes).expect("its bytes");
}

/// Starts a detached run in a namespace and kills both of its bookends; what the command is goes on.
pub fn behead(world: &World, space: &PidNamespace, args: &[&str]) -> RunDir {
    let before: BTreeSet<_> = world.runs().iter().map(RunDir::id).collect();
    space.enter(world.run_artist(&["-d"], args)).run().assert_code(0);
    let run = world.runs().into_iter().find(|run| !before.contains(&run.id())).expect("a new run");
    let state = run.wait_status("running");
    let number = |field: &str| state["owner"][field].as_u64().expect("a number");
    let known = [("pid", "start_time"), ("front_pid", "front_start_time")].map(|(pid, start)| {
        let inside = Process { pid: i32::try_from(number(pid)).expect("an id"), start_time: number(start) };
        space.outside(inside).expect("a bookend that lives")
    });
    // Stopped first: either would replace the other.
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        assert!(known.iter().all(|bookend| bookend.signal(signal)));
    }
    for bookend in &known {
        bookend.wait_gone(Duration::from_secs(10));
    }
    run
}
