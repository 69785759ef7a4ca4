//! The golden directories of `fixtures/runs`: what earlier versions wrote is read by this one, and stays as it is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bookend::model::outcome::ExitReason;
use bookend::model::record::Record;
use bookend::model::status::Status;
use serde_json::{Value, json};

use crate::expect::validate;
use crate::hostile::copy;
use crate::world::{Finished, RunDir, World, artist, go_on_with, under_test};

/// Each directory of version 1, and what it must be read as.
const V1: [(&str, &str, &str, u8); 26] = [
    ("binary", "completed", "exited", 0),
    ("exited-0", "completed", "exited", 0),
    ("exited-3", "failed", "exited", 3),
    ("file", "completed", "exited", 0),
    ("forced", "stopped", "interrupted", 130),
    ("hung_up", "stopped", "hung_up", 129),
    ("internal_error", "failed", "internal_error", 125),
    ("interrupted", "stopped", "interrupted", 130),
    ("killed", "stopped", "killed", 137),
    ("labelled", "completed", "exited", 0),
    ("leftovers", "completed", "exited", 0),
    ("lost", "lost", "lost", 125),
    ("noted", "completed", "exited", 0),
    ("preflight_failed", "failed", "preflight_failed", 125),
    ("quit", "stopped", "quit", 131),
    ("running", "running", "", 0),
    ("signaled", "failed", "signaled", 139),
    ("spawn_failed-126", "failed", "spawn_failed", 126),
    ("spawn_failed-127", "failed", "spawn_failed", 127),
    ("stalled", "stopped", "stalled", 124),
    ("terminated", "stopped", "terminated", 143),
    ("timed_out", "stopped", "timed_out", 124),
    ("trimmed", "completed", "exited", 0),
    ("tty", "completed", "exited", 0),
    ("wrapper_died-front", "stopped", "wrapper_died", 137),
    ("wrapper_died-keeper", "stopped", "wrapper_died", 137),
];
/// Ends that no run of this version comes to.
const NOT_YET: [ExitReason; 9] = [
    ExitReason::NothingToDo,
    ExitReason::HarnessError,
    ExitReason::NoResult,
    ExitReason::TaskFailed,
    ExitReason::HookFailed,
    ExitReason::TaskNotFound,
    ExitReason::BudgetExhausted,
    ExitReason::IterationLimit,
    ExitReason::Blocked,
];

/// Puts a command on the host that the directories were written on, by name.
const AT_HOME: [&str; 6] =
    ["unshare", "--uts", "sh", "-c", "echo golden >/proc/sys/kernel/hostname; exec \"$@\"", "sh"];

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/runs/v1")
}

/// A world whose store holds one golden run, with the modes that git does not keep.
fn with(name: &str) -> (World, RunDir) {
    let world = World::new();
    let (store, from) = (world.store(), home().join(name));
    for dir in [&store, &store.join("runs"), &store.join("live")] {
        fs::create_dir(dir).expect("a directory");
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("a mode");
    }
    let record = RunDir { path: from.clone() }.status_json();
    let id = record["run_id"].as_str().expect("an id");
    let path = store.join("runs").join(id);
    copy(&from, &path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("a mode");
    for file in fs::read_dir(&path).expect("files").flatten() {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).expect("a mode");
    }
    if record["status"] == "running" {
        fs::hard_link(path.join("lock"), store.join("live").join(id)).expect("a marker");
    }
    (world, RunDir { path })
}

fn files(run: &RunDir) -> BTreeMap<String, Vec<u8>> {
    run.files().into_iter().map(|name| (name.clone(), run.read(&name).expect("a file"))).collect()
}

fn ask(world: &World, words: &[&str]) -> Finished {
    world.bookend(words.iter().copied()).run()
}

/// Every reader, in every form.
fn read_all(world: &World, run: &RunDir) -> Vec<(String, Finished)> {
    let id = run.id();
    let rows: [&[&str]; 9] = [
        &["ps"],
        &["ps", "-a"],
        &["ps", "-a", "--json"],
        &["ps", "-a", "--format", "csv"],
        &["show", &id],
        &["show", &id, "--json"],
        &["show", &id, "--file", "events.jsonl"],
        &["logs", &id],
        &["wait", &id, "--json"],
    ];
    rows.iter().map(|words| (words.join(" ").replace(&id, "RUN"), ask(world, words))).collect()
}

#[test]
fn every_end_of_this_version_has_its_directory() {
    let mut found: Vec<_> = fs::read_dir(home()).expect("golden directories").flatten().collect();
    found.sort_by_key(fs::DirEntry::file_name);
    let found: Vec<_> = found.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(found, V1.map(|row| row.0));
    for row in bookend::model::outcome::REASONS {
        let later =
            NOT_YET.contains(&row.reason) || matches!(row.reason, ExitReason::Skipped | ExitReason::Unknown);
        assert_eq!(V1.iter().any(|golden| golden.2 == row.word), !later, "{}", row.word);
    }
    for (name, ..) in V1 {
        let size: usize = files(&RunDir { path: home().join(name) }).values().map(Vec::len).sum();
        assert!(size < 128 << 10, "{name} takes {size} bytes");
    }
}

/// What is in the repository says nothing of the machine that it was written on.
#[test]
fn golden_directories_are_neutral() {
    let here = nix::unistd::gethostname().expect("a name").to_string_lossy().into_owned();
    for (name, ..) in V1 {
        let run = RunDir { path: home().join(name) };
        let record = run.status_json();
        assert_eq!((&record["host"], &record["user"]["uid"]), (&"golden".into(), &4711.into()), "{name}");
        for (file, bytes) in files(&run) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let foreign =
                text.contains(&format!("\"{here}\"")) || text.contains("/home/") || text.contains("target");
            assert!(!foreign && !text.contains("/tmp/"), "{name}/{file}: {text}");
        }
    }
}

#[test]
fn golden_directories_follow_the_schemas_and_come_back_byte_for_byte() {
    for (name, status, ..) in V1 {
        let run = RunDir { path: home().join(name) };
        let (record, file) =
            if status == "running" { (run.status_json(), "status") } else { (run.run_json(), "run") };
        validate(file, &record);
        if status != "running" {
            validate("task", &run.task_json());
            assert_eq!(run.read("status.json"), run.read("run.json"), "{name}");
        }
        let bytes = run.read(&format!("{file}.json")).expect("a record");
        let parsed = Record::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(parsed.extra.is_empty() && !parsed.is_of_later_version(), "{name}: {:?}", parsed.extra);
        let again = serde_json::to_string(&parsed).expect("JSON") + "\n";
        assert_eq!(again, String::from_utf8_lossy(&bytes), "{name}");
    }
}

#[test]
fn golden_directories_are_read_and_stay_as_they_are() {
    for (name, status, reason, code) in V1.iter().copied().filter(|row| row.0 != "running") {
        let (world, run) = with(name);
        let (before, record) = (files(&run), run.run_json());
        let said = [&record["status"], &record["exit_reason"], &record["wrapper_exit_code"]];
        assert_eq!(said, [&json!(status), &json!(reason), &json!(code)], "{name}");
        for (words, done) in read_all(&world, &run) {
            let expected = if words.starts_with("wait") { i32::from(code) } else { 0 };
            let out = done.assert_code(expected).out();
            match words.as_str() {
                "show RUN --json" | "wait RUN --json" if name != "noted" => {
                    assert_eq!(done.json(), record, "{name}");
                }
                "ps -a --json" => assert_eq!(done.json()["runs"][0]["exit_reason"], reason, "{name}"),
                "ps -a" | "show RUN" => assert!(out.contains(&run.id()[16..]), "{name}: {words}: {out}"),
                "logs RUN" if record["log"]["gap"].is_null() => assert_eq!(done.stdout, run.log(), "{name}"),
                _ => {}
            }
        }
        assert_eq!(files(&run), before, "{name}: a reader changed something");
    }
}

/// The index is part of the format too.
#[test]
fn golden_logs_are_read_by_stream_and_time() {
    for (name, ..) in V1 {
        let (_world, run) = with(name);
        let (Some(_), log) = (run.read("harness.idx"), run.log()) else { continue };
        let marks = run.marks();
        assert_eq!(marks.first().map(|mark| mark.offset), (!log.is_empty()).then_some(0), "{name}");
        assert!(marks.iter().all(|mark| (mark.offset as usize) < log.len()), "{name}: {marks:?}");
    }
    let (world, run) = with("exited-3");
    let by_stream =
        ["--stdout", "--stderr"].map(|flag| ask(&world, &["logs", flag, &run.id()]).assert_code(0).out());
    assert_eq!(by_stream, ["out\n", "err\n"]);
    let timed = ask(&world, &["logs", "-t", &run.id()]).assert_code(0).out();
    let started = run.run_json()["started_at"].as_str().expect("a start").to_owned();
    assert!(timed.lines().count() == 2 && timed.lines().all(|line| line[..24] >= started[..]), "{timed}");
}

#[test]
fn notes_on_a_golden_run_are_read() {
    let (world, run) = with("noted");
    let shown = ask(&world, &["show", "better", "--json"]).assert_code(0).json();
    let told = (&shown["name"], &shown["labels"]["reviewed"], &shown["pinned"], &shown["notes"][0]["text"]);
    assert_eq!(told, (&json!("better"), &json!("yes"), &json!(true), &json!("fine")));
    assert!(run.run_json()["name"].is_null(), "the record is as it was");
}

/// A run that lives, of another machine: it is left alone here.
#[test]
fn a_golden_run_that_lives_elsewhere_is_left_alone() {
    let (world, run) = with("running");
    let before = files(&run);
    for (words, done) in read_all(&world, &run) {
        let fails = words.starts_with("wait");
        let err = done.assert_code(i32::from(fails)).err();
        assert!(!words.starts_with("ps") || err.contains("it runs on host golden"), "{words}: {err}");
    }
    ask(&world, &["kill", &run.id()]).assert_code(1);
    assert_eq!(files(&run), before);
    assert_eq!(world.live(), [run.id()]);
}

/// On its own host, which was started anew since, it is lost.
#[test]
fn a_golden_run_that_lived_is_sealed_on_its_own_host() {
    if !go_on_with("root, to have another host name", nix::unistd::geteuid().is_root()) {
        return;
    }
    let (world, run) = with("running");
    let before = run.status_json();
    world.bookend(["wait", &run.id()]).under(&AT_HOME).run().assert_code(125);
    let record = run.run_json();
    validate("run", &record);
    assert_eq!((&record["status"], &record["author"]), (&"lost".into(), &"reader".into()), "{record:#}");
    assert_eq!(
        record["ended_between"][0].as_str().map(|at| &at[..10]),
        before["started_at"].as_str().map(|at| &at[..10])
    );
    assert_eq!(
        (&record["command"]["argv"], &record["started_at"]),
        (&before["command"]["argv"], &before["started_at"])
    );
}

/// The same runs as a later version may write them: with more fields, and a higher number.
#[test]
fn runs_of_a_later_version_are_read_and_never_written_over() {
    for (name, status, _, code) in V1 {
        let (world, run) = with(name);
        for file in ["status.json", "run.json"].iter().filter(|file| run.path.join(file).exists()) {
            let mut record: Value = serde_json::from_slice(&run.read(file).expect("a record")).expect("JSON");
            record["schema"] = 2.into();
            record["later"] = json!({ "of": [1, 2, { "a": "version" }], "é": null });
            record["log"]["later"] = true.into();
            fs::write(run.path.join(file), record.to_string() + "\n").expect("a record");
        }
        let before = files(&run);
        for (words, done) in read_all(&world, &run) {
            let expected = match (words.starts_with("wait"), status) {
                (true, "running") => 1,
                (true, _) => code.into(),
                (false, _) => 0,
            };
            done.assert_code(expected);
            if words == "show RUN --json" {
                let shown = done.json();
                assert_eq!(
                    (&shown["schema"], &shown["later"]["of"][2]["a"]),
                    (&2.into(), &"version".into()),
                    "{name}"
                );
            }
        }
        ask(&world, &["kill", &run.id()]).assert_code(i32::from(status == "running"));
        assert_eq!(files(&run), before, "{name}");
    }
}

/// Not even where the run is certain to be over: what a later version begins, it may end in another way.
#[test]
fn a_dead_run_of_a_later_version_is_left_to_it() {
    if !go_on_with("root, to have another host name", nix::unistd::geteuid().is_root()) {
        return;
    }
    let (world, run) = with("running");
    let mut record = run.status_json();
    record["schema"] = 2.into();
    fs::write(run.path.join("status.json"), record.to_string()).expect("a state");
    let before = files(&run);
    for words in [&["wait", "latest"][..], &["kill", "latest"], &["kill", "--force", "latest"]] {
        let done = world.bookend(words.iter().copied()).under(&AT_HOME).run();
        assert!(
            done.assert_code(1).err().contains("a later version of bookend began it (schema 2)"),
            "{done:?}"
        );
    }
    let listed = world.bookend(["ps", "--json"]).under(&AT_HOME).run().assert_code(0).json();
    assert_eq!(listed["runs"][0]["status"], "running");
    assert_eq!((files(&run), world.live()), (before, vec![run.id()]));
}

/// A word that this version does not know is no reason to know nothing.
#[test]
fn words_of_a_later_version_are_unknown_and_the_rest_is_read() {
    let (world, run) = with("exited-3");
    let mut record = run.run_json();
    (record["schema"], record["status"], record["exit_reason"]) =
        (2.into(), "ascended".into(), "enlightened".into());
    record["author"] = "oracle".into();
    fs::write(run.path.join("run.json"), record.to_string()).expect("a record");
    let listed = ask(&world, &["ps", "-a", "--json"]).assert_code(0).json();
    assert_eq!(
        (&listed["runs"][0]["status"], &listed["runs"][0]["exit"]["code"]),
        (&"unknown".into(), &3.into())
    );
    ask(&world, &["show", &run.id()]).assert_code(0);
    ask(&world, &["wait", &run.id()]).assert_code(3);
    assert_eq!(serde_json::from_str::<Status>("\"ascended\"").expect("a status"), Status::Unknown);
}

/// Writes the directories anew, when that is asked for.
#[test]
fn golden_directories_are_written() {
    if std::env::var_os("BOOKEND_WRITE_GOLDEN").is_none() {
        return;
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "only root can make the neutral place that they are written in"
    );
    let world = World::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/runs/write.sh");
    let words = ["--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "bash"];
    let call = world.command("unshare", words).arg(script).arg(under_test()).arg(artist()).arg(home());
    let done = call.without_env("BOOKEND_STORE").without_env("ARTIST_PIDS").run();
    done.assert_code(0);
}
