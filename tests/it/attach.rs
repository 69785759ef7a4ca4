//! Attaching: real terminals at both ends, keys and sizes through the run's door, and everybody's death in between.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::world::{Invocation, LIMIT, Process, RunDir, Terminal, World, artist, eventually};

const SOON: Duration = Duration::from_secs(10);
/// The keys that leave a run.
const LEAVE: &str = "\x10\x11";
/// A program that draws a full screen, and again when its window changes.
const PAINTER: &str = r#"
draw() { printf '\033[H\033[2J\033[1;1Hcorner\033[3;5H%s\033[6;1H\033[31mred\033[m' "$(stty size)"; }
trap draw WINCH; trap 'printf "\033[?1049l\033[?25h"; exit 3' TERM
printf '\033[?1049h\033[?25l\033[?2004h'; draw; while :; do sleep 0.02; done"#;

/// Starts a detached run with a terminal.
fn detach_tty(world: &World, command: &[&str]) -> RunDir {
    let call = world.bookend(["run", "-d", "-q", "--tty", "--grace", "500ms", "--"]).args(command);
    call.env("PS1", "inner> ").env("TERM", "xterm").run().assert_code(0);
    let run = world.only_run();
    run.wait_status("running");
    run
}

fn detach_plain(world: &World, script: &str) -> RunDir {
    world.bookend(["run", "-d", "-q", "--grace", "60s", "--", "sh", "-c", script]).run().assert_code(0);
    let run = world.only_run();
    run.wait_status("running");
    run
}

fn attach(world: &World) -> Terminal {
    let mut guest = Terminal::open(&world.bookend(["attach", "latest"]));
    guest.wait_for("leaves it");
    guest
}

fn call(world: &World, words: &str) -> String {
    format!("{} {words}\n", world.bookend([""; 0]).program().display())
}

fn owner(run: &RunDir, pid: &str, start_time: &str) -> Process {
    let owner = &run.status_json()["owner"];
    let pid = i32::try_from(owner[pid].as_i64().expect("a pid")).expect("a pid");
    Process { pid, start_time: owner[start_time].as_u64().expect("a start time") }
}

fn front(run: &RunDir) -> Process {
    owner(run, "front_pid", "front_start_time")
}

fn keeper(run: &RunDir) -> Process {
    owner(run, "pid", "start_time")
}

fn events(run: &RunDir, name: &str) -> usize {
    run.events().iter().filter(|event| event["event"] == name).count()
}

fn stop(world: &World) {
    world.bookend(["stop", "-t", "200ms", "latest"]).run().assert_code(0);
}

/// What a screen of 24 rows and 80 columns shows after all that a terminal was sent.
fn screen(terminal: &Terminal) -> vt100::Parser {
    let mut parser = vt100::Parser::default();
    parser.process(terminal.seen().as_bytes());
    parser
}

// ---- a run with a terminal --------------------------------------------------------------------------------------------

#[test]
fn a_shell_is_left_and_met_again_with_the_size_of_each_window() {
    let world = World::new();
    let run = detach_tty(&world, &["sh", "-i"]);
    let mut guest = attach(&world);
    guest.wait_for("inner> ");
    guest.send("stty size\r");
    guest.wait_for("24 80\r\n");
    guest.resize(50, 132);
    // The size is on its way by another path than the keys are to the terminal, but both through one door.
    eventually(SOON, "new size", || {
        guest.send("stty size\r");
        guest.wait_for("inner> ");
        guest.seen().contains("50 132").then_some(())
    });
    guest.send("echo on\x7fne; sleep 60\r");
    guest.wait_for("one\r\n");
    guest.send("\x03"); // for the program in the shell
    guest.wait_for("inner> ");
    guest.send(LEAVE);
    guest.wait_for(&format!("bookend: left run {}, which goes on", run.id()));
    guest.wait().assert_code(0);
    assert_eq!(run.status_json()["status"], "running");

    let mut guest = attach(&world);
    guest.wait_for("one\r\n"); // what was last on the screen
    guest.wait_for("inner> ");
    guest.send("stty size; exit 7\r");
    guest.wait_for("24 80\r\n");
    let done = guest.wait();
    assert!(done.assert_code(7).out().contains("bookend: failed: exited with code 7"), "{done:?}");
    let record = run.run_json();
    assert_eq!(
        (&record["exit"]["code"], &record["exit_reason"]),
        (&7.into(), &"exited".into()),
        "{record:#}"
    );
    assert_eq!((events(&run, "attached"), events(&run, "detached") >= 1), (2, true));
    assert!(!run.files().contains(&"attach".to_owned()), "{:?}", run.files());
    world.assert_no_process_left();
}

#[test]
fn every_key_arrives_as_it_is() {
    let world = World::new();
    let cat_raw = artist().to_string_lossy().into_owned();
    detach_tty(&world, &[&cat_raw, "cat-raw"]);
    let mut guest = attach(&world);
    guest.wait_for("ready");
    guest.send(b"\x03\x1a\x04\x1c\xff\x00\x11\x10\x10x");
    for key in ["03", "1a", "04", "1c", "ff", "00", "11", "10", "10", "78"] {
        guest.wait_for(key);
    }
    guest.send("q");
    guest.wait().assert_code(0);
}

#[test]
fn several_guests_type_and_see_the_same() {
    let world = World::new();
    let run = detach_tty(&world, &["sh", "-i"]);
    let mut guests = [attach(&world), attach(&world), attach(&world)];
    for (n, line) in ["first", "second", "third"].iter().enumerate() {
        guests[n].send(format!("echo {line}-$((40 + {n}))\r"));
        for guest in &mut guests {
            guest.wait_for(&format!("{line}-{}", 40 + n));
        }
    }
    for (n, columns) in [(0, 90_u16), (1, 91), (0, 92)] {
        guests[n].resize(30, columns);
        eventually(SOON, "size of the last who said one", || {
            guests[2].send("stty size\r");
            guests[2].wait_for("inner> ");
            guests[2].seen().contains(&format!("30 {columns}\r\n")).then_some(())
        });
    }
    let [mut first, second, mut third] = guests;
    // One is killed, one is hung up, one goes on.
    assert!(second.process().signal(Signal::SIGKILL));
    second.wait();
    first.hang_up();
    first.process().wait_gone(SOON);
    eventually(SOON, "two who are gone", || (events(&run, "detached") == 2).then_some(()));
    third.send("echo still-$((1 + 1)); exit\r");
    third.wait_for("still-2");
    third.wait().assert_code(0);
    world.assert_no_process_left();
}

#[test]
fn a_program_that_fills_the_screen_is_drawn_anew_and_left_without_a_trace() {
    let world = World::new();
    let run = detach_tty(&world, &["sh", "-c", PAINTER]);
    let drawings = || String::from_utf8_lossy(&run.log()).matches("corner").count();
    eventually(SOON, "first drawing", || (drawings() > 0).then_some(()));
    for _ in 0..2 {
        let before = drawings();
        let mut guest = attach(&world);
        eventually(SOON, "new drawing in a window of the same size", || (drawings() > before).then_some(()));
        let drawn = eventually(SOON, "drawing", || {
            guest.wait_for("red");
            let screen = screen(&guest).screen().clone();
            screen.contents().contains("    24 80").then_some(screen)
        });
        assert!(drawn.alternate_screen() && drawn.hide_cursor() && drawn.bracketed_paste());
        assert!(drawn.contents().starts_with("corner\n\n    24 80\n\n\nred"), "{}", drawn.contents());
        assert_eq!(drawn.cell(5, 0).map(vt100::Cell::fgcolor), Some(vt100::Color::Idx(1)));
        guest.send(LEAVE);
        guest.wait_for("comes back\r\n");
        let after = screen(&guest).screen().clone();
        assert!(!after.alternate_screen() && !after.hide_cursor() && !after.bracketed_paste());
        assert!(after.contents().starts_with("bookend: attached to run"), "{}", after.contents());
        guest.wait().assert_code(0);
    }
    let mut guest = attach(&world);
    guest.wait_for("red");
    stop(&world);
    guest.wait_for("bookend: stopped: killed");
    assert!(!screen(&guest).screen().alternate_screen());
    guest.wait().assert_code(137);
}

#[test]
fn a_command_without_anybody_waits_for_somebody_to_come() {
    let world = World::new();
    let run = detach_tty(&world, &["cat"]);
    let door = std::fs::symlink_metadata(run.path.join("attach")).expect("a door");
    assert!(door.file_type().is_socket() && door.permissions().mode() & 0o777 == 0o600, "{door:?}");
    let mut guest = attach(&world);
    guest.send("a line\r");
    guest.wait_for("a line\r\na line\r\n");
    guest.send("\x04");
    guest.wait().assert_code(0);
}

#[test]
fn ctrl_z_is_the_commands_and_a_pause_is_told() {
    let world = World::new();
    let run = detach_tty(&world, &["sh", "-i"]);
    let mut guest = attach(&world);
    guest.wait_for("inner> ");
    guest.send("cat\r");
    guest.send("to cat\r");
    guest.wait_for("to cat\r\nto cat\r\n");
    guest.send("\x1a"); // the shell's job control, not the caller's
    guest.wait_for("Stopped");
    guest.wait_for("inner> ");
    world.bookend(["kill", "-s", "STOP", "latest"]).run().assert_code(0);
    guest.wait_for("bookend: it is paused; bookend kill -s CONT");
    world.bookend(["kill", "-s", "CONT", "latest"]).run().assert_code(0);
    eventually(SOON, "end of the pause", || run.status_json()["paused_since"].is_null().then_some(()));
    guest.send("echo on-$((3 + 4))\r");
    guest.wait_for("on-7");
    stop(&world);
    guest.wait().assert_code(137);
}

#[test]
fn other_keys_leave_or_none() {
    let world = World::new();
    let cat_raw = artist().to_string_lossy().into_owned();
    detach_tty(&world, &[&cat_raw, "cat-raw"]);
    let mut guest = Terminal::open(&world.bookend(["attach", "--detach-keys", "ctrl-],z", "latest"]));
    guest.wait_for("ctrl-] z leaves it");
    guest.wait_for("ready");
    guest.send("\x10\x11\x1dx");
    for key in ["10", "11", "1d", "78"] {
        guest.wait_for(key);
    }
    guest.send("\x1dz");
    guest.wait().assert_code(0);
    let mut guest = Terminal::open(&world.bookend(["attach", "--detach-keys", "", "latest"]));
    guest.wait_for("no keys leave it");
    guest.send("\x10\x11q");
    guest.wait_for("11\r\n");
    guest.wait().assert_code(0);
    world.bookend(["attach", "--detach-keys", "ctrl-1", "latest"]).run().assert_code(2);
}

// ---- deaths -----------------------------------------------------------------------------------------------------------

#[test]
fn a_visit_goes_on_whichever_bookend_of_a_detached_run_is_killed() {
    type Which = fn(&RunDir) -> Process;
    let orders: [[Which; 3]; 3] = [[keeper, keeper, keeper], [front, front, front], [front, keeper, front]];
    for order in orders {
        let world = World::new();
        // With the keeper its session loses its leader, and with that its terminal: what does not ignore it is hung up.
        let run = detach_tty(&world, &["sh", "-c", "trap '' HUP; echo ready; exec cat"]);
        let mut guest = attach(&world);
        guest.wait_for("ready");
        for (round, which) in order.into_iter().enumerate() {
            guest.send(format!("round {round}\r"));
            guest.wait_for(&format!("round {round}\r\nround {round}\r\n"));
            let killed = which(&run);
            assert!(killed.signal(Signal::SIGKILL));
            eventually(SOON, "another bookend", || (which(&run) != killed).then_some(()));
        }
        guest.send("after all\r");
        guest.wait_for("after all\r\nafter all\r\n");
        guest.send(LEAVE);
        guest.wait().assert_code(0);
        stop(&world);
        assert_eq!(run.run_json()["exit_reason"], "killed");
        world.assert_no_process_left();
    }
}

#[test]
fn a_visit_ends_with_a_run_that_its_keeper_takes_along() {
    let world = World::new();
    let mut shown = Terminal::open(&world.bookend(["run", "--tty", "--grace", "300ms", "--", "cat"]));
    let run = world.wait_for_run();
    run.wait_status("running");
    let mut guest = attach(&world);
    guest.send("both\r");
    guest.wait_for("both\r\nboth\r\n");
    shown.wait_for("both\r\nboth\r\n"); // who sits at the run's own terminal sees it too
    keeper(&run).signal(Signal::SIGKILL);
    guest.wait_for("bookend: stopped: one of the two bookends was killed");
    guest.wait().assert_code(137);
    shown.wait().assert_code(137);
    world.assert_no_process_left();
}

#[test]
fn a_visit_to_a_run_without_bookends_says_so_and_ends_with_it() {
    let world = World::new();
    let run = detach_plain(&world, "echo ready; sleep 60");
    let mut guest = attach(&world);
    guest.wait_for("ready");
    let both = [keeper(&run), front(&run)];
    for process in both {
        process.signal(Signal::SIGSTOP);
        process.wait_state('T');
    }
    for process in both {
        process.signal(Signal::SIGKILL);
    }
    guest.wait_for("it has lost its bookends");
    world.bookend(["kill", "--force", "latest"]).run().assert_code(0);
    guest.wait().assert_code(137);
}

#[test]
fn the_terminal_is_given_back_however_a_visit_ends() {
    let world = World::new();
    let run = detach_tty(&world, &["sh", "-c", "trap '' HUP; echo ready; exec cat"]);
    let mut shell = Terminal::shell(&world);
    shell.send("stty -a\n");
    let before = shell.wait_for("prompt> ");
    for end in ["keys", "TERM", "HUP", "INT", "fg", "stop"] {
        shell.send(call(&world, "attach latest"));
        shell.wait_for("ready");
        let guest = Process::read(shell.foreground()).expect("a guest");
        match end {
            "keys" => shell.send(LEAVE),
            "fg" => {
                guest.signal(Signal::SIGTSTP);
                shell.wait_for("prompt> ");
                shell.send("stty -a\n");
                assert_eq!(shell.wait_for("prompt> "), before, "while it is stopped");
                shell.send("fg\n");
                shell.wait_for("attach latest");
                shell.send("typed\r");
                shell.wait_for("typed\r\ntyped\r\n");
                shell.send(LEAVE);
            }
            "stop" => stop(&world),
            name => {
                let signal: Signal = format!("SIG{name}").parse().expect("a signal");
                guest.signal(signal);
            }
        }
        shell.wait_for("prompt> ");
        shell.send("stty -a\n");
        let after = shell.wait_for("prompt> ");
        assert!(after.ends_with(&before), "{end}\nbefore: {before}\nafter: {after}");
        assert_eq!(run.is_sealed(), end == "stop", "{end}");
    }
    shell.send("exit\n");
    shell.wait();
    world.assert_no_process_left();
}

#[test]
fn a_guest_in_the_background_leaves_the_terminal_alone() {
    let world = World::new();
    detach_tty(&world, &["sh", "-c", "echo ready; exec cat"]);
    let mut shell = Terminal::shell(&world);
    shell.send("stty -a\n");
    let before = shell.wait_for("prompt> ");
    shell.send(call(&world, "attach latest &"));
    shell.wait_for("ready");
    shell.send("stty -a\n");
    let now = shell.wait_for("prompt> ");
    assert!(now.contains(" icanon ") && before.contains(" icanon "), "{now}");
    shell.send("echo mine\n");
    shell.wait_for("mine");
    stop(&world);
    shell.wait_for("bookend: stopped");
}

#[test]
fn who_floods_and_who_does_not_read_hurts_nobody() {
    let world = World::new();
    let run = detach_tty(&world, &["sh", "-c", "stty -echo raw; echo ready; exec sleep 60"]);
    let flood = vec![b'x'; 8 << 20];
    let flooding: Vec<_> =
        (0..3).map(|_| world.bookend(["attach", "latest"]).input(flood.clone()).spawn()).collect();
    eventually(SOON, "guests", || (events(&run, "attached") == 3).then_some(()));
    // More than there is room for.
    let many: Vec<_> = (0..20).map(|_| world.bookend(["attach", "latest"]).open_input().spawn()).collect();
    eventually(SOON, "all the room", || (events(&run, "attached") == 16).then_some(()));
    eventually(SOON, "one who is told", || {
        many.iter().any(|guest| String::from_utf8_lossy(&guest.stderr()).contains("too many")).then_some(())
    });
    // One who says what is no word, and one who is a word too long.
    let stranger = UnixDatagram::unbound().expect("a socket");
    assert!(stranger.connect(run.path.join("attach")).is_err(), "another kind of socket");
    let began = Instant::now();
    stop(&world);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for guest in flooding.into_iter().chain(many) {
        guest.wait_within(SOON).assert_code(137);
    }
    world.assert_no_process_left();
}

#[test]
fn nobody_wakes_for_a_door_at_which_nobody_knocks() {
    let world = World::new();
    let run = detach_tty(&world, &["sleep", "60"]);
    let guest = attach(&world);
    eventually(SOON, "guest", || (events(&run, "attached") == 1).then_some(()));
    let wakings = |process: Process| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.expect("a count").trim().parse().expect("a number")
    };
    let (keeper, front) = (keeper(&run), front(&run));
    // The first look at the size of the log is over.
    let settled = Instant::now();
    eventually(SOON, "quiet", || (settled.elapsed() > Duration::from_millis(1500)).then_some(()));
    let (before, began) = ([wakings(keeper), wakings(front)], Instant::now());
    eventually(SOON, "second", || (began.elapsed() > Duration::from_secs(1)).then_some(()));
    assert_eq!([wakings(keeper), wakings(front)], before, "with an idle guest inside");
    drop(guest);
    stop(&world);
    let plain = World::new();
    let run = detach_plain(&plain, "sleep 60");
    assert!(!run.files().contains(&"attach".to_owned()), "a plain run has no door");
    plain.bookend(["stop", "--force", "latest"]).run().assert_code(0);
}

// ---- a plain run ------------------------------------------------------------------------------------------------------

const COUNTER: &str = "trap 'echo caught' INT; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; done; \
                       while :; do sleep 0.02; done";

#[test]
fn a_plain_run_is_watched_and_left() {
    let world = World::new();
    let run = detach_plain(&world, COUNTER);
    eventually(SOON, "last line", || run.log().ends_with(b"line 12\n").then_some(()));
    let mut guest = attach(&world);
    let shown = guest.wait_for("line 12\r\n");
    assert!(shown.contains("line 3\r\n") && !shown.contains("line 2\r\n"), "{shown}");
    guest.send("what is typed is nobody's\r\x10x");
    guest.send(LEAVE);
    guest.wait_for("which goes on");
    let done = guest.wait();
    assert!(!done.assert_code(0).out().contains("typed"), "{done:?}");
    assert_eq!(run.status_json()["status"], "running");
    world.bookend(["stop", "--force", "latest"]).run().assert_code(0);
}

#[test]
fn ctrl_c_asks_a_plain_run_to_stop_and_a_second_one_kills_it() {
    let world = World::new();
    let run = detach_plain(&world, COUNTER);
    let mut guest = attach(&world);
    guest.wait_for("line 12");
    guest.send("\x03");
    guest.wait_for("stopping it with SIGINT");
    guest.wait_for("caught");
    assert_eq!(run.wait_status("stopping")["ended_by"]["signal"], "SIGINT");
    guest.send("\x03");
    guest.wait_for("bookend: stopped: killed");
    guest.wait().assert_code(137);
    let record = run.run_json();
    assert_eq!((&record["exit_reason"], &record["forced"]), (&"killed".into(), &true.into()), "{record:#}");
    let by = &record["ended_by"];
    assert_eq!(
        (&by["actor"], &by["reason"]),
        (&"user".into(), &"Ctrl-C in bookend attach".into()),
        "{record:#}"
    );
    world.assert_no_process_left();
}

#[test]
fn what_a_plain_run_prints_does_not_steer_the_terminal() {
    let world = World::new();
    detach_plain(&world, "printf 'a\\033]52;c;aGk=\\007b\\n'; sleep 60");
    let mut guest = attach(&world);
    guest.wait_for("b\r\n");
    guest.send(LEAVE);
    let done = guest.wait();
    assert!(!done.assert_code(0).out().contains('\x1b'), "{done:?}");
    world.bookend(["stop", "--force", "latest"]).run().assert_code(0);
}

// ---- elsewhere --------------------------------------------------------------------------------------------------------

fn over(world: &World) -> Invocation {
    world.bookend(["attach", "latest"]).limit(LIMIT)
}

#[test]
fn a_finished_run_shows_its_end_and_its_code() {
    let world = World::new();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; done; exit 9";
    world.bookend(["run", "-q", "--", "sh", "-c", script]).run().assert_code(9);
    let done = over(&world).run();
    assert!(done.assert_code(9).out().starts_with("line 3\n"), "{done:?}");
    assert!(done.err().contains("is over already: Exited (9)"), "{done:?}");
    world.bookend(["attach", "nobody"]).run().assert_code(3);
}

#[test]
fn off_a_terminal_the_input_is_passed_on_and_the_output_followed() {
    let world = World::new();
    detach_tty(&world, &["sh", "-i"]);
    let done = over(&world).input("echo sum-$((40 + 2)); sleep 0.2; exit 5\n").run();
    assert!(done.assert_code(5).out().contains("sum-42"), "{done:?}");
    assert!(done.err().contains("bookend: failed: exited with code 5"), "{done:?}");

    let world = World::new();
    let run = detach_tty(&world, &["cat"]);
    let mut guest = world.bookend(["attach", "--no-stdin", "latest"]).open_input().spawn();
    guest.wait_stderr("attached to run");
    guest.send(b"not passed on\n");
    guest.signal(Signal::SIGINT); // ends this process alone
    guest.wait_within(SOON).assert_signal(Signal::SIGINT);
    assert!(run.log().is_empty() && !run.is_sealed());
    stop(&world);
}

#[test]
fn a_plain_run_is_followed_to_its_last_byte() {
    let world = World::new();
    let gate = world.path("gate");
    let script =
        format!("echo ready; until [ -e {} ]; do sleep 0.01; done; seq 100000; exit 2", gate.display());
    let run = detach_plain(&world, &script);
    let guest = over(&world).spawn();
    guest.wait_stdout("ready\n");
    std::fs::write(gate, "").expect("an open gate");
    let done = guest.wait_within(LIMIT);
    done.assert_code(2);
    assert!(done.stdout == run.log(), "{} of {} bytes", done.stdout.len(), run.log().len());
    let record: Value = run.run_json();
    assert_eq!(record["exit"]["code"], 2);
}

#[test]
fn a_run_is_not_attached_to_from_inside() {
    let world = World::new();
    let program = world.bookend([""; 0]).program();
    let script = format!("{} attach latest", program.display());
    let done = world.bookend(["run", "--", "sh", "-c", &script]).run();
    assert!(done.assert_code(1).err().contains("from inside of it"), "{done:?}");
}
