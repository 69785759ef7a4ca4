//! The words and tables that people read, held by snapshots: pure functions of records and of who looks when.

use bookend::model::record::Record;
use bookend::model::time::Timestamp;
use bookend::view::show::Files;
use bookend::view::{Look, frame, show, table, words};
use serde_json::{Value, json};

/// One moment, an hour ahead of UTC, on nobody's terminal.
fn look(width: Option<usize>, colour: bool) -> Look {
    let now = Timestamp::parse("2026-11-21T12:00:00Z").expect("a time");
    Look { now, offset_seconds: 3600, width, colour }
}

fn record(fields: Value) -> Record {
    let mut whole = json!({
        "schema": 1, "run_id": "20261121-095930-07zzzz", "status": "running", "host": "h", "user": { "uid": 1000 },
        "started_at": "2026-11-21T09:59:30.007Z", "owner": { "pid": 4710 },
        "command": { "argv": ["make", "test"], "cwd": "/work", "pid": 4711 }
    });
    let (Some(all), Value::Object(fields)) = (whole.as_object_mut(), fields) else { panic!("objects") };
    all.extend(fields);
    serde_json::from_value(whole).expect("a record")
}

fn over(status: &str, reason: &str, code: u8, more: Value) -> Record {
    let mut fields = json!({
        "status": status, "exit_reason": reason, "wrapper_exit_code": code, "author": "keeper",
        "completed_at": "2026-11-21T10:00:11.307Z", "duration_seconds": 41.3
    });
    let (Some(all), Value::Object(more)) = (fields.as_object_mut(), more) else { panic!("objects") };
    all.extend(more);
    record(fields)
}

/// A run in every state that a listing tells apart.
fn every_state() -> Vec<Record> {
    let by = |by: Value| json!({ "ended_by": by });
    vec![
        record(json!({ "status": "initializing" })),
        record(json!({})),
        record(json!({ "paused_since": "2026-11-21T11:00:00Z" })),
        record(json!({ "status": "stopping" })),
        record(json!({ "orphaned": true })),
        record(json!({ "status": "levitating" })),
        over("completed", "exited", 0, json!({ "exit": { "code": 0 } })),
        over("completed", "nothing_to_do", 0, json!({})),
        over("failed", "exited", 3, json!({ "exit": { "code": 3 } })),
        over(
            "failed",
            "signaled",
            139,
            json!({ "exit": { "signal": 11, "signal_name": "SIGSEGV", "core_dumped": true } }),
        ),
        over("failed", "harness_error", 1, json!({})),
        over("failed", "preflight_failed", 125, json!({})),
        over("failed", "spawn_failed", 127, json!({ "error": { "message": "executing x: no such file" } })),
        over("failed", "internal_error", 125, json!({})),
        over("stopped", "timed_out", 124, json!({})),
        over("stopped", "stalled", 124, json!({})),
        over("stopped", "blocked", 3, json!({})),
        over("stopped", "interrupted", 130, json!({ "forced": true })),
        over("stopped", "hung_up", 129, json!({})),
        over(
            "stopped",
            "killed",
            137,
            by(json!({ "actor": "user", "user": "alice", "uid": 7, "reason": "too slow" })),
        ),
        over("stopped", "killed", 137, by(json!({ "actor": "user", "uid": 7 }))),
        over(
            "stopped",
            "killed",
            137,
            by(json!({ "actor": "user", "user": "a\u{1b}[2J\nb", "reason": "x\ny" })),
        ),
        over("stopped", "wrapper_died", 137, json!({})),
        record(json!({
            "status": "lost", "exit_reason": "lost", "wrapper_exit_code": 125, "author": "reader",
            "ended_between": ["2026-11-21T09:02:00Z", "2026-11-21T09:17:00Z"]
        })),
        record(json!({
            "status": "lost", "exit_reason": "lost", "wrapper_exit_code": 125, "author": "reader",
            "ended_between": ["2025-12-31T22:30:00Z", "2026-11-20T23:30:00Z"]
        })),
        over("failed", "eaten_by_a_grue", 1, json!({})),
    ]
}

#[test]
fn every_state_has_its_words() {
    let look = look(None, false);
    let told: Vec<String> = every_state().iter().map(|r| words::state(r, &look)).collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    Starting
    Up 2 hours
    Up 2 hours (Paused)
    Stopping
    Orphaned, pid 4711 alive
    Unknown
    Exited (0) About an hour ago
    Nothing to do (0) About an hour ago
    Exited (3) About an hour ago
    Died of SIGSEGV About an hour ago
    Harness error (1) About an hour ago
    Preflight failed (125) About an hour ago
    Spawn failed (127) About an hour ago
    Internal error (125) About an hour ago
    Timed out (124) About an hour ago
    Stalled (124) About an hour ago
    Blocked (3) About an hour ago
    Interrupted (130) About an hour ago
    Hung up (129) About an hour ago
    Killed by alice: too slow
    Killed by user 7
    Killed by a<1b>[2J\nb: x\ny
    Wrapper died (137) About an hour ago
    Lost between 10:02 and 10:17
    Lost between 31 Dec 2025 23:30 and 00:30
    Unknown (1) About an hour ago
    ");
}

#[test]
fn every_end_has_its_verdict() {
    let told: Vec<String> =
        every_state().iter().filter(|r| r.status.is_terminal()).map(words::judgement).collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    completed: exited with code 0 after 41.3s
    completed: there was nothing to do after 41.3s
    failed: exited with code 3 after 41.3s
    failed: died of SIGSEGV (11), core dumped after 41.3s
    failed: the harness exited 0 but declared an error after 41.3s
    failed: a check before the start failed after 41.3s
    failed: the command could not be started: executing x: no such file, after 41.3s
    failed: bookend itself failed after 41.3s
    stopped: the time limit was reached after 41.3s
    stopped: no output for the idle limit after 41.3s
    stopped: tasks are left, none is ready after 41.3s
    stopped: interrupted after 41.3s
    stopped: the terminal hung up after 41.3s
    stopped: killed by alice with bookend kill from another process: too slow, after 41.3s
    stopped: killed by user 7 with bookend kill from another process after 41.3s
    stopped: killed by a<1b>[2J\nb with bookend kill from another process: x\ny, after 41.3s
    stopped: one of the two bookends was killed; the other stopped the command after 41.3s
    lost: both bookends were gone; how it ended was not seen
    lost: both bookends were gone; how it ended was not seen
    failed: a reason of a later version after 41.3s
    ");
}

#[test]
fn durations_are_rough_and_never_negative() {
    let told: Vec<String> = [
        0,
        999,
        1_000,
        59_000,
        60_000,
        119_000,
        120_000,
        3_599_000,
        3_600_000,
        7_200_000,
        172_800_000,
        1_209_600_000,
        5_184_000_000,
        63_072_000_000,
    ]
    .map(|ms| words::roughly(std::time::Duration::from_millis(ms)))
    .to_vec();
    insta::assert_snapshot!(told.join(", "), @"Less than a second, Less than a second, 1 second, 59 seconds, About a minute, About a minute, 2 minutes, 59 minutes, About an hour, 2 hours, 2 days, 2 weeks, 2 months, 2 years");
    let ahead = record(json!({ "started_at": "2030-01-01T00:00:00Z" }));
    assert_eq!(words::state(&ahead, &look(None, false)), "Up less than a second", "the clock was set back");
}

fn listed() -> Vec<Record> {
    vec![
        record(json!({ "name": "nightly", "run_id": "20261121-095930-aaaaaa" })),
        over(
            "failed",
            "exited",
            3,
            json!({
                "run_id": "20261121-095930-bbbbbb", "pinned": true, "name": "日本語の名前はとても長いのです、本当に",
                "exit": { "code": 3 }, "usage": { "cost_usd": 1.5 },
                "command": { "argv": ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo \"$i\"; sleep 1; done; exit 3"] }
            }),
        ),
        over(
            "completed",
            "exited",
            0,
            json!({ "run_id": "20261120-095930-cccccc", "name": "a\u{1b}]0;x\u{7}\u{202e}\nb" }),
        ),
        over("completed", "exited", 0, json!({ "run_id": "20261119-095930-dddddd" })),
    ]
}

#[test]
fn the_table_fits_its_terminal() {
    let table = |width, colour, whole| table::runs(&listed(), &look(width, colour), whole);
    insta::assert_snapshot!(table(None, false, false), @r#"
    ID       NAME                               STATUS                         EXIT   MODE      CREATED       DURATION   COST    COMMAND
    aaaaaa   nightly                            Up 2 hours                     -      command   2 hours ago   2h 0m      -       make test
    bbbbbb   日本語の名前はとても長… (pinned)   Exited (3) About an hour ago   3      command   2 hours ago   41.3s      $1.50   sh -c 'for i in 1 2 3 4 5 6 7 8; do echo "$i"; sleep 1; don…
    cccccc   a<1b>]0;x<07><202e>\nb             Exited (0) About an hour ago   0      command   2 hours ago   41.3s      -       make test
    dddddd   -                                  Exited (0) About an hour ago   0      command   2 hours ago   41.3s      -       make test
    "#);
    insta::assert_snapshot!(table(Some(80), false, false), @r"
    ID       NAME                       STATUS                         COMMAND
    aaaaaa   nightly                    Up 2 hours                     make test
    bbbbbb   日本語の名前は… (pinned)   Exited (3) About an hour ago   sh -c 'for i…
    cccccc   a<1b>]0;x<07><2…           Exited (0) About an hour ago   make test
    dddddd   -                          Exited (0) About an hour ago   make test
    ");
    insta::assert_snapshot!(table(Some(40), false, false), @r"
    ID       STATUS
    aaaaaa   Up 2 hours
    bbbbbb   Exited (3) About an hour ago
    cccccc   Exited (0) About an hour ago
    dddddd   Exited (0) About an hour ago
    ");
    insta::assert_snapshot!(table(Some(40), false, true), @r#"
    ID                       NAME                                              STATUS                         EXIT   MODE      CREATED       DURATION   COST    COMMAND
    20261121-095930-aaaaaa   nightly                                           Up 2 hours                     -      command   2 hours ago   2h 0m      -       make test
    20261121-095930-bbbbbb   日本語の名前はとても長いのです、本当に (pinned)   Exited (3) About an hour ago   3      command   2 hours ago   41.3s      $1.50   sh -c 'for i in 1 2 3 4 5 6 7 8; do echo "$i"; sleep 1; done; exit 3'
    20261120-095930-cccccc   a<1b>]0;x<07><202e>\nb                            Exited (0) About an hour ago   0      command   2 hours ago   41.3s      -       make test
    20261119-095930-dddddd   -                                                 Exited (0) About an hour ago   0      command   2 hours ago   41.3s      -       make test
    "#);
    insta::assert_snapshot!(table(Some(60), true, false).replace('\u{1b}', "^"), @r"
    ID       NAME                   STATUS
    aaaaaa   nightly                ^[36mUp 2 hours^[0m
    bbbbbb   日本語の名… (pinned)   ^[31mExited (3) About an hour ago^[0m
    cccccc   a<1b>]0;x<0…           ^[32mExited (0) About an hour ago^[0m
    dddddd   -                      ^[32mExited (0) About an hour ago^[0m
    ");
    for width in [10, 40, 60, 80, 100, 120, 200] {
        let lines = table(Some(width), false, false);
        let widest = lines.lines().map(unicode_width::UnicodeWidthStr::width).max();
        assert!(width < 50 || widest <= Some(width), "{width}:\n{lines}");
    }
    insta::assert_snapshot!(table::runs(&[], &look(Some(80), true), false), @"ID   NAME   STATUS   EXIT   MODE   CREATED   DURATION   COST   COMMAND");
    insta::assert_snapshot!(table::candidates(&listed()[..2], &look(None, false)), @r#"
    20261121-095930-aaaaaa   Up 2 hours   make test
    20261121-095930-bbbbbb   Exited (3) About an hour ago   sh -c 'for i in 1 2 3 4 5 6 7 8; do echo "$i"; sleep 1; don…
    "#);
}

#[test]
fn show_has_the_verdict_first() {
    let files = Files {
        dir: "/store/runs/20261121-095930-07zzzz".to_owned(),
        names: ["events.jsonl", "harness.log", "run.json"].map(str::to_owned).to_vec(),
        tail: "cc -c main.c\nerror: no such file".to_owned(),
        is_alive: false,
        forced_by: None,
    };
    let failed = over(
        "failed",
        "exited",
        2,
        json!({
            "name": "nightly", "labels": { "team": "db" }, "exit": { "code": 2 }, "pinned": true,
            "plan": { "timeout_ms": 90000, "capture": "pipe", "one_stream": true, "slots": 1, "grace_ms": 10000,
                      "log_max_bytes": 1, "durability": "full", "detach": false },
            "log": { "path": "harness.log", "capture": "pipe", "bytes": 2310, "dropped_bytes": 7 },
            "resources": { "user_seconds": 1.25, "system_seconds": 0.5, "max_rss_bytes": 3_145_728 },
            "leftovers": [{ "pid": 12, "start_time": 1, "argv": ["sleep", "100"], "fate": "killed" }],
            "notes": [{ "at": "2026-11-21T10:30:00Z", "user": "alice", "text": "flaky, see issue 12" }],
            "degraded": ["log: 7 bytes of output are missing: No space left on device"]
        }),
    );
    insta::assert_snapshot!(show::run(&failed, &look(None, false), &files), @r"
    Failed: exited with code 2 after 41.3s, about an hour ago

    run        20261121-095930-07zzzz
    name       nightly
    label      team=db
    command    make test
    directory  /work
    limit      at most 1m 30s
    started    2026-11-21T09:59:30.007Z (2 hours ago)
    ended      2026-11-21T10:00:11.307Z (about an hour ago)
    reason     exited: the command exited
    child      ended with code 2 (pid 4711)
    used       1.25 s user, 0.50 s system, at most 3.0 MiB
    left       pid 12 sleep 100, killed
    degraded   log: 7 bytes of output are missing: No space left on device
    pinned     yes: it is never cleaned
    note       11:30 alice: flaky, see issue 12
    log        2310 bytes, through one pipe, 7 bytes of output are missing
    files      /store/runs/20261121-095930-07zzzz
               events.jsonl harness.log run.json

    last lines of the log
      cc -c main.c
      error: no such file

    next: bookend logs 07zzzz
    ");
    let killed = over(
        "stopped",
        "killed",
        137,
        json!({
            "ended_by": { "actor": "user", "user": "alice", "uid": 7, "pid": 99, "command": "bash", "reason": "too slow" },
            "exit": { "signal": 15, "signal_name": "SIGTERM" }, "forced": true
        }),
    );
    insta::assert_snapshot!(show::run(&killed, &look(None, true), &Files::default()).replace('\u{1b}', "^"), @r"
    ^[33mStopped: killed by alice with bookend kill from bash (pid 99): too slow, forced, after 41.3s, about an hour ago^[0m

    run        20261121-095930-07zzzz
    command    make test
    directory  /work
    started    2026-11-21T09:59:30.007Z (2 hours ago)
    ended      2026-11-21T10:00:11.307Z (about an hour ago)
    reason     killed: killed with `bookend kill`, forced
    ended by   alice with bookend kill from bash (pid 99): too slow
    child      ended with SIGTERM (15) (pid 4711)
    log        0 bytes, written by the command itself
    files

    next: bookend show 07zzzz --json
    ");
}

#[test]
fn show_says_what_to_type_next() {
    let missing = over(
        "failed",
        "spawn_failed",
        127,
        json!({
            "command": { "argv": ["nonesuch"], "cwd": "/work" },
            "error": { "message": "executing nonesuch: No such file or directory", "detail": "check the command's name and PATH" }
        }),
    );
    insta::assert_snapshot!(show::run(&missing, &look(None, false), &Files::default()), @r"
    Failed: the command could not be started: executing nonesuch: No such file or directory, after 41.3s, about an hour ago

    run        20261121-095930-07zzzz
    command    nonesuch
    directory  /work
    started    2026-11-21T09:59:30.007Z (2 hours ago)
    ended      2026-11-21T10:00:11.307Z (about an hour ago)
    reason     spawn_failed: the command could not be started
    error      executing nonesuch: No such file or directory
    hint       check the command's name and PATH
    child      not started
    log        0 bytes, written by the command itself
    files

    next: bookend show 07zzzz --file diagnostics.md
    ");
    let lost = record(json!({
        "status": "lost", "exit_reason": "lost", "wrapper_exit_code": 125, "author": "reader",
        "ended_between": ["2026-11-21T09:02:00Z", "2026-11-21T09:17:00Z"],
        "evidence": ["its lock was free and neither bookend was alive"],
        "reconciled": { "at": "2026-11-21T09:17:00Z", "by": "bookend 0.1.0 (pid 5)", "evidence": [] }
    }));
    insta::assert_snapshot!(show::run(&lost, &look(None, false), &Files::default()), @r"
    Lost between 10:02 and 10:17

    run        20261121-095930-07zzzz
    command    make test
    directory  /work
    started    2026-11-21T09:59:30.007Z (2 hours ago)
    ended      between 2026-11-21T09:02:00.000Z and 2026-11-21T09:17:00.000Z
    reason     lost: both bookends were gone; how it ended was not seen
    child      nobody saw how it ended (pid 4711)
    evidence   its lock was free and neither bookend was alive
    sealed by  bookend 0.1.0 (pid 5)
    log        0 bytes, written by the command itself
    files

    next: bookend show 07zzzz --json
    ");
    let orphaned = record(json!({ "orphaned": true }));
    insta::assert_snapshot!(show::run(&orphaned, &look(None, false), &Files::default()), @r"
    Orphaned, pid 4711 alive

    run        20261121-095930-07zzzz
    command    make test
    directory  /work
    started    2026-11-21T09:59:30.007Z (2 hours ago)
    child      alive, as far as is known (pid 4711)
    log        written by the command itself
    files

    next: bookend kill 07zzzz
    ");
}

#[test]
fn frames_are_drawn_over_each_other() {
    insta::assert_snapshot!(frame::of_all(&listed(), &look(Some(60), false), 6).join("\n"), @r"
    13:00:00  1 running, 3 over

    ID       NAME                   STATUS
    aaaaaa   nightly                Up 2 hours
    bbbbbb   日本語の名… (pinned)   Exited (3) About an hour ago
    and 2 more
    ");
    insta::assert_snapshot!(frame::of_all(&[], &look(Some(60), false), 6).join("\n"), @r"
    13:00:00  0 running

    nothing runs; bookend run -- COMMAND starts something
    ");
    let living = record(json!({ "name": "nightly", "last_output_at": "2026-11-21T11:59:30Z" }));
    insta::assert_snapshot!(frame::of_run(&living, &look(Some(30), false), "one\ntwo").join("\n"), @r"
    Up 2 hours, last output 30 se…
    20261121-095930-07zzzz  night…
    make test

    one
    two
    ");
    let lines = ["one".to_owned(), "two".to_owned()];
    let drawn = frame::over(&lines, 3).replace('\u{1b}', "^").replace('\r', "<CR>");
    insta::assert_snapshot!(drawn, @r"
    ^[?7l^[3A<CR>one^[K
    two^[K
    ^[J^[?7h
    ");
}
