//! Bad input: refused command lines leave a line and nothing else; odd ones are taken exactly as they are.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use crate::expect::{Expect, Points};
use crate::world::{Finished, World, artist};

/// A refusal: 2, a hint what to write instead, no run, and one line in attempts.jsonl that says what was refused.
#[track_caller]
fn assert_refused(world: &World, done: &Finished, says: &str) {
    done.assert_code(2);
    assert!(done.stdout.is_empty(), "{done:?}");
    assert!(done.err().contains(says), "no {says:?}: {done:?}");
    assert!(world.runs().is_empty() && world.live().is_empty(), "a refused command line makes no run");
    let attempts = world.attempts();
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    let line = &attempts[0];
    assert_eq!(line["schema"], 1);
    assert_eq!(line["cwd"], world.path("work").to_string_lossy().into_owned());
    assert!(line["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{line}");
    assert!(line["argv"].as_array().is_some_and(|argv| argv[1] == "run"), "{line}");
    assert!(line["error"].as_str().is_some_and(|error| !error.is_empty()), "{line}");
    world.assert_no_process_left();
}

#[test]
fn refused_flags() {
    let rows: [(&[&str], &str); 24] = [
        (&["--frobnicate", "--", "true"], "--frobnicate"),
        (&["--timeout", "soon", "--", "true"], "write e.g. 90s, 10m, 2h"),
        (&["--timeout", "-1s", "--", "true"], "-1"),
        (&["--timeout", "", "--", "true"], "--timeout"),
        (&["--timeout", "99999999999999999999y", "--", "true"], "--timeout"),
        (&["--timeout"], "--timeout"),
        (&["--idle-timeout", "10 parsecs", "--", "true"], "write e.g."),
        (&["--grace", "1.5.2", "--", "true"], "write e.g."),
        (&["--stop-signal", "NOPE", "--", "true"], "no such signal"),
        (&["--stop-signal", "0", "--", "true"], "no such signal"),
        (&["--stop-signal", "65", "--", "true"], "no such signal"),
        (&["--stop-signal", "-9", "--", "true"], "-9"),
        (&["--log-max", "much", "--", "true"], "write e.g. 500KiB"),
        (&["--log-max", "-1MiB", "--", "true"], "-1"),
        (&["--log-max", "1 furlong", "--", "true"], "write e.g."),
        (&["--capture", "telepathy", "--", "true"], "telepathy"),
        (&["--durability", "eternal", "--", "true"], "eternal"),
        (&["-l", "novalue", "--", "true"], "KEY=VALUE"),
        (&["-l", "=value", "--", "true"], "KEY=VALUE"),
        (&["-e", "NOVALUE", "--", "true"], "KEY=VALUE"),
        (&["-e", "=value", "--", "true"], "KEY=VALUE"),
        (&["--detach", "--stdin", "--", "true"], "contradict"),
        (&["true"], "--"),
        (&["--name", "a", "--name", "b", "--", "true"], "--name"),
    ];
    for (flags, says) in rows {
        let world = World::new();
        let done = world.bookend(["run"]).args(flags).run();
        assert_refused(&world, &done, says);
    }
}

#[test]
fn no_command() {
    for words in [&[][..], &["--"], &["--quiet"], &["--quiet", "--"]] {
        let world = World::new();
        let done = world.bookend(["run"]).args(words).run();
        assert_refused(&world, &done, "bookend run -- ");
    }
}

#[test]
fn other_commands_leave_no_line() {
    let world = World::new();
    for words in [&["frobnicate"][..], &["ps", "--frobnicate"], &[], &["show"], &["schema", "poem"]] {
        world.command(crate::world::under_test(), words.iter().copied()).run().assert_code(2);
    }
    assert!(world.attempts().is_empty() && !world.store().exists());
    for words in [["show", "nothing"], ["wait", "nothing"], ["kill", "nothing"], ["logs", "nothing"]] {
        let done = world.bookend(words).run();
        done.assert_code(3);
        assert!(done.err().contains("nothing") && done.err().contains("hint: "), "{done:?}");
    }
    for words in
        [["show", "../../etc"], ["show", ""], ["wait", "a/../b"], ["kill", "-1"], ["logs", "\u{1b}[2J"]]
    {
        let done = world.bookend(words).run();
        assert!(matches!(done.code, Some(2 | 3)), "{words:?}: {done:?}");
        assert!(!done.stderr.contains(&0x1b), "control characters are shown, not sent: {done:?}");
    }
}

#[test]
fn odd_but_right_values_are_taken() {
    let rows: [&[&str]; 8] = [
        &["--timeout", "90", "--grace", "0"],
        &["--timeout", "1h 30m"],
        &["--stop-signal", "sigint"],
        &["--stop-signal", "SIGRTMIN+3"],
        &["--log-max", "0"],
        &["--log-max", "18446744073709551615"],
        &["-l", "a=b=c", "-e", "EMPTY=", "--name", ""],
        &["--name", "a/../b \u{1b}[31m\u{202e}\n\"'"],
    ];
    for flags in rows {
        let world = World::new();
        let done = world.run_artist(flags, &["exit", "0"]).run();
        Expect::exited(0).check(&world, &done);
        let listed = world.bookend(["ps", "-a"]).run();
        assert!(!listed.assert_code(0).stdout.contains(&0x1b), "control characters are shown, not sent");
    }
}

#[test]
fn arguments_reach_the_command_byte_for_byte() {
    let world = World::new();
    let odd: Vec<OsString> = [
        &b""[..],
        b"--",
        b"-x",
        b"a b",
        b"$HOME `id` * ; | & \" ' \\",
        b"line\nline\ttab",
        b"\xff\xfe\x80 no utf-8",
        "\u{1b}[31m \u{202e} \u{fffd}".as_bytes(),
    ]
    .into_iter()
    .map(|bytes| OsString::from_vec(bytes.to_vec()))
    .collect();
    let done = world.bookend(["run", "--"]).arg(artist()).arg("args").args(&odd).run();
    let record = Expect::exited(0).check(&world, &done);
    let sent: Vec<u8> = odd.iter().flat_map(|arg| [arg.clone().into_vec(), vec![0]].concat()).collect();
    assert_eq!(done.stdout, sent);
    assert_eq!(record["command"]["shell"], false);
    let coded = record["command"]["argv_b64"].as_array().expect("the raw bytes");
    assert_eq!(coded.len(), odd.len() + 2);
    assert_eq!((&coded[2], &coded[3]), (&"".into(), &"LS0=".into()));
    assert_eq!(coded[8], "//6AIG5vIHV0Zi04");
    assert_eq!(record["command"]["argv"][8], "\u{fffd}\u{fffd}\u{fffd} no utf-8");
    assert!(!world.only_run().text("prompt.md").contains('\u{1b}'), "control characters are shown, not sent");
    // Where all of it is text there is nothing to code.
    let world = World::new();
    let done = world.run_artist(&[], &["args", "plain"]).run();
    assert!(Expect::exited(0).check(&world, &done)["command"]["argv_b64"].is_null());
}

#[test]
fn a_huge_command_line() {
    let world = World::new();
    let long = "x".repeat(100_000);
    let done = world.run_artist(&["--quiet"], &["args", &long, &long, &long]).run();
    let record = Expect::exited(0).check(&world, &done);
    assert_eq!(record["command"]["argv"][4], long);
    assert_eq!(world.only_run().log().len(), 300_003);
    world.bookend(["show", "latest"]).run().assert_code(0);
    world.bookend(["ps", "-a"]).run().assert_code(0);
}

/// As much as the system allows in all: what bookend writes down of it, bookend can read.
#[test]
fn the_longest_command_line() {
    let world = World::new();
    let many: Vec<OsString> = (0..18_000).map(|_| OsString::from("\u{1}".repeat(100))).collect();
    let done = world.run_artist(&["--quiet"], &["args"]).args(&many).run();
    let record = match done.code {
        Some(0) => Expect::exited(0).check(&world, &done),
        _ => Expect::failed("spawn_failed", 126).check(&world, &done),
    };
    assert_eq!(record["command"]["argv"].as_array().expect("a command").len(), 18_002);
    assert_eq!(world.bookend(["show", "--json", "latest"]).run().json(), record);
    assert!(world.bookend(["ps", "-a"]).run().assert_code(0).out().contains("xited"));
}

#[test]
fn a_directory_that_is_not_there() {
    for (dir, says) in [("no-such-directory", "No such file"), ("file", "not a directory")] {
        let mut world = World::new();
        fs::write(world.path("work/file"), "").expect("a file");
        Points::set(&mut world, "");
        let done = world.bookend(["run", "-C", dir, "--", "true"]).run();
        let record = Expect::failed("preflight_failed", 125).check(&world, &done);
        assert_eq!(record["preflight"][0]["status"], "fail", "{record:#}");
        assert!(record["error"]["message"].as_str().is_some_and(|m| m.contains(says)), "{record:#}");
    }
}

#[test]
fn a_working_directory_that_was_removed() {
    let world = World::new();
    let done = world.run_artist(&[], &["exit", "0"]).inheriting(&["gone-cwd"]).run();
    assert!(matches!(done.code, Some(0 | 125)), "{done:?}");
    let record = world.only_run().run_json();
    assert_eq!(Some(i64::from(done.code.unwrap_or(-1))), record["wrapper_exit_code"].as_i64());
    world.assert_no_process_left();
}

#[test]
fn values_of_env_are_not_noted() {
    for flags in [["-e", "TOKEN=s3cr3t"], ["--env", "s3cr3t"]] {
        let world = World::new();
        let words = ["run", flags[0], flags[1], "--oops", "--", "true"];
        assert_refused(&world, &world.bookend(words).run(), "--oops");
        assert!(!world.attempts()[0].to_string().contains("s3cr3t"), "{:?}", world.attempts());
    }
    let world = World::new();
    assert_refused(&world, &world.bookend(["run", "--env", "s3cr3t", "--", "true"]).run(), "KEY=VALUE");
    assert!(!world.attempts()[0].to_string().contains("s3cr3t"), "{:?}", world.attempts());
}

#[test]
fn a_command_without_its_dashes_is_told_where_they_go() {
    let world = World::new();
    assert_refused(&world, &world.bookend(["run", "ls", "-la"]).run(), "after two dashes");
}
