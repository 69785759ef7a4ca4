//! Terminals: keys, job control, hang-ups, and a terminal for the command itself.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::world::{Process, RunDir, Terminal, World, artist, eventually};

const SOON: Duration = Duration::from_secs(10);
/// The time from the second Ctrl-C to the end of bookend.
const FORCED: Duration = Duration::from_millis(250);
/// The rounds of Ctrl-Z and fg.
const ROUNDS: u32 = 50;

/// Returns the lines that `artist count-signals` has written so far.
fn counted(file: &PathBuf) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

fn bookend(world: &World, words: &str) -> String {
    format!("{} {words}", world.bookend([""; 0]).program().display())
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

/// Asserts who ended the run and how.
fn assert_end(record: &Value, status: &str, reason: &str, code: u64) {
    let told = (&record["status"], &record["exit_reason"], &record["wrapper_exit_code"]);
    assert_eq!(told, (&status.into(), &reason.into(), &code.into()), "{record:#}");
}

// ---- keys ---------------------------------------------------------------------------------------------------------

#[test]
fn one_ctrl_c_is_one_sigint_and_an_interrupted_run() {
    let world = World::new();
    let file = world.path("counts");
    let mut shown =
        Terminal::open(&world.run_artist(&[], &["count-signals", &file.to_string_lossy(), "int=0"]));
    shown.wait_for("ready");
    shown.send("\x03");
    shown.wait().assert_signal(Signal::SIGINT);
    assert_eq!(counted(&file), "SIGINT\n");
    let record = world.only_run().run_json();
    assert_end(&record, "stopped", "interrupted", 130);
    assert_eq!(record["ended_by"]["actor"], "terminal", "{record:#}");
    assert_eq!((&record["forced"], &record["exit"]["code"]), (&false.into(), &0.into()), "{record:#}");
    world.assert_no_process_left();
}

#[test]
fn ctrl_c_under_a_shell_is_one_sigint_too_and_the_shell_goes_on() {
    let world = World::new();
    let file = world.path("counts");
    let mut shell = Terminal::shell(&world);
    let run =
        bookend(&world, &format!("run -- {} count-signals {} int=5", artist().display(), file.display()));
    shell.send(format!("{run}; echo never\n"));
    shell.wait_for("ready");
    shell.send("\x03");
    // Dying of the signal is what stops the shell's list: an exit code would let it go on with `echo never`.
    shell.wait_for("prompt> ");
    shell.send("echo code $?\n");
    shell.wait_for("code 130");
    assert!(!shell.seen().contains("never"), "{}", shell.seen());
    assert_eq!(counted(&file), "SIGINT\n");
    assert_end(&world.only_run().run_json(), "stopped", "interrupted", 130);
}

#[test]
fn a_second_ctrl_c_forces_the_end_within_its_bound() {
    let world = World::new();
    let mut shown = Terminal::open(&world.run_artist(&["--grace", "60s"], &["escape", "signal-proof"]));
    shown.wait_for("ready");
    shown.send("\x03");
    shown.wait_for("a second signal kills it now");
    let pressed = Instant::now();
    shown.send("\x03");
    let process = shown.process();
    process.wait_gone(SOON);
    let took = pressed.elapsed();
    shown.wait().assert_signal(Signal::SIGINT);
    let record = world.only_run().run_json();
    assert_end(&record, "stopped", "interrupted", 130);
    assert_eq!((&record["forced"], &record["exit"]["signal"]), (&true.into(), &9.into()), "{record:#}");
    assert!(took <= FORCED, "it took {took:?}");
    world.assert_no_process_left();
}

#[test]
fn ctrl_backslash_quits() {
    let world = World::new();
    let mut shown = Terminal::open(&world.run_artist(&[], &["linger", "60"]));
    shown.wait_for("ready");
    shown.send("\x1c");
    shown.wait().assert_signal(Signal::SIGQUIT);
    assert_end(&world.only_run().run_json(), "stopped", "quit", 131);
}

// ---- job control --------------------------------------------------------------------------------------------------

#[test]
fn ctrl_z_and_fg_fifty_times() {
    let world = World::new();
    let mut shell = Terminal::shell(&world);
    let flags = "run --timeout 60s --idle-timeout 60s";
    shell.send(format!(
        "{} ; echo code $?\n",
        bookend(&world, &format!("{flags} -- {} linger 4", artist().display()))
    ));
    shell.wait_for("ready");
    let run = world.wait_for_run();
    let command = eventually(SOON, "command", || run.process("/command"));
    for _ in 0..ROUNDS {
        if run.is_sealed() {
            break;
        }
        shell.send("\x1a");
        shell.wait_for("prompt> ");
        command.wait_state('T');
        eventually(SOON, "paused_since", || run.status_json()["paused_since"].is_string().then_some(()));
        shell.send("fg\n");
        eventually(SOON, "command that goes on", || (command.state() != Some('T')).then_some(()));
        eventually(SOON, "end of the pause", || run.status_json()["paused_since"].is_null().then_some(()));
    }
    assert!(!run.is_sealed(), "it ended in the middle: {}", shell.seen());
    // An interrupted sleep of the command goes on: it ends by itself, as if nothing had happened.
    let record = run.wait_sealed(SOON);
    assert_end(&record, "completed", "exited", 0);
    shell.wait_for("prompt> ");
    shell.send("exit\n");
    shell.wait();
    world.assert_no_process_left();
}

#[test]
fn a_paused_run_is_not_timed_out_and_a_resumed_one_is() {
    let world = World::new();
    let mut shell = Terminal::shell(&world);
    let flags = "run --timeout 700ms --grace 1s";
    shell.send(format!("{}\n", bookend(&world, &format!("{flags} -- {} linger 60", artist().display()))));
    shell.wait_for("ready");
    let run = world.wait_for_run();
    shell.send("\x1a");
    shell.wait_for("prompt> ");
    let stopped = Instant::now();
    eventually(SOON, "paused_since", || run.status_json()["paused_since"].is_string().then_some(()));
    eventually(SOON, "twice the time limit", || {
        (stopped.elapsed() > Duration::from_millis(1_500)).then_some(())
    });
    assert_eq!(run.status_json()["status"], "running", "the time limit ran on while it was stopped");
    let listed = world.bookend(["ps"]).run().assert_code(0).out();
    assert!(listed.contains("Paused"), "{listed}");
    shell.send("fg\n");
    let record = run.wait_sealed(SOON);
    assert_end(&record, "stopped", "timed_out", 124);
    let seconds = record["duration_seconds"].as_f64().expect("a duration");
    assert!(seconds > 1.5, "the pause is part of the run's life: {seconds}");
}

#[test]
fn a_job_in_the_background_does_not_take_the_input() {
    let world = World::new();
    let mut shell = Terminal::shell(&world);
    shell.send(format!("{} & echo started\n", bookend(&world, "run --quiet -- cat")));
    shell.wait_for("started");
    // Nothing is there to be read for a job in the background: cat ends at once, and what is typed is the shell's.
    let record = world.wait_for_run().wait_sealed(SOON);
    assert_end(&record, "completed", "exited", 0);
    assert_eq!(record["command"]["stdin"], "null", "{record:#}");
    shell.send("echo mine\n");
    shell.wait_for("mine");
    assert_eq!(world.only_run().log(), b"");
}

#[test]
fn a_job_in_the_background_runs_to_its_end_and_leaves_the_modes_alone() {
    let world = World::new();
    let mut shell = Terminal::shell(&world);
    shell.send(format!(
        "{} & echo started\n",
        bookend(&world, &format!("run -- {} linger 1", artist().display()))
    ));
    shell.wait_for("ready");
    // The shell's user changes the modes meanwhile: they are not bookend's to give back.
    shell.send("stty -icanon min 7\n");
    shell.wait_for("prompt> ");
    assert_end(&world.wait_for_run().wait_sealed(SOON), "completed", "exited", 0);
    shell.wait_for("bookend: next");
    shell.send("stty -a\n");
    let modes = shell.wait_for("prompt> ");
    assert!(modes.contains("-icanon") && modes.contains("min = 7"), "{modes}");
}

#[test]
fn the_terminal_is_passed_through_in_the_foreground() {
    let world = World::new();
    let mut shown = Terminal::open(&world.bookend(["run", "--", "cat"]));
    world.wait_for_run().wait_status("running");
    shown.send("a line\n");
    shown.wait_for("a line\r\n"); // the terminal's own echo
    shown.wait_for("a line\r\n"); // cat's
    shown.send("\x04");
    shown.wait().assert_code(0);
    let run = world.only_run();
    assert_eq!(run.run_json()["command"]["stdin"], "inherit");
    assert_eq!(run.log(), b"a line\n");
}

// ---- hang-up ------------------------------------------------------------------------------------------------------

#[test]
fn a_hang_up_ends_the_run_and_says_so() {
    let world = World::new();
    let mut shown = Terminal::open(&world.run_artist(&["--grace", "300ms"], &["escape", "term-proof"]));
    shown.wait_for("ready");
    shown.hang_up();
    shown.wait().assert_signal(Signal::SIGHUP);
    let record = world.only_run().run_json();
    assert_end(&record, "stopped", "hung_up", 129);
    assert_eq!(record["ended_by"]["actor"], "terminal", "{record:#}");
    world.assert_no_process_left();
}

#[test]
fn a_hang_up_ends_a_run_with_a_terminal_of_its_own() {
    let world = World::new();
    let mut shown =
        Terminal::open(&world.run_artist(&["--tty", "--grace", "300ms"], &["escape", "term-proof"]));
    shown.wait_for("ready");
    shown.hang_up();
    shown.wait().assert_signal(Signal::SIGHUP);
    assert_end(&world.only_run().run_json(), "stopped", "hung_up", 129);
    world.assert_no_process_left();
}

#[test]
fn a_shell_that_is_hung_up_takes_its_run_along() {
    let world = World::new();
    let mut shell = Terminal::shell(&world);
    shell.send(format!("{}\n", bookend(&world, &format!("run -- {} linger 60", artist().display()))));
    shell.wait_for("ready");
    shell.hang_up();
    assert_end(&world.wait_for_run().wait_sealed(SOON), "stopped", "hung_up", 129);
    world.assert_no_process_left();
}

#[test]
fn nohup_goes_on_after_the_hang_up() {
    let world = World::new();
    let call = world.run_artist(&[], &["linger", "1"]).inheriting(&["ignore=HUP"]);
    let mut shown = Terminal::open(&call);
    shown.wait_for("ready");
    shown.hang_up();
    shown.wait().assert_code(0);
    let record = world.only_run().run_json();
    assert_end(&record, "completed", "exited", 0);
}

#[test]
fn a_detached_run_goes_on_after_the_hang_up() {
    let world = World::new();
    let mut shell = Terminal::shell(&world);
    shell.send(format!("{}\n", bookend(&world, &format!("run -d -- {} linger 2", artist().display()))));
    shell.wait_for("bookend: next");
    let run = world.wait_for_run();
    shell.hang_up();
    shell.process().wait_gone(SOON);
    assert!(!run.is_sealed(), "it was over before the shell was: {:#}", run.run_json());
    let record = run.wait_sealed(SOON);
    assert_end(&record, "completed", "exited", 0);
    assert_eq!(run.log(), b"ready\n");
    world.assert_no_process_left();
}

// ---- a terminal for the command -----------------------------------------------------------------------------------

#[test]
fn with_tty_the_command_has_a_terminal_of_the_same_size_that_follows() {
    let world = World::new();
    let info = Terminal::open(&world.run_artist(&["--tty", "--quiet"], &["tty-info"])).wait();
    info.assert_code(0);
    let expected = "isatty 1 1 1\r\nsize 24 80\r\ndevtty yes\r\nforeground yes\r\n";
    assert_eq!(String::from_utf8_lossy(&world.only_run().log()), expected);

    let world = World::new();
    let mut winch = Terminal::open(&world.run_artist(&["--tty"], &["winch"]));
    winch.wait_for("size 24 80");
    winch.wait_for("ready");
    winch.resize(50, 132);
    winch.wait_for("size 50 132");
    let done = world.bookend(["kill", "latest"]).run();
    done.assert_code(0);
    winch.wait().assert_code(137);
}

#[test]
fn with_tty_an_interactive_shell_works_with_line_editing() {
    let world = World::new();
    let call = world.bookend(["run", "--tty", "--", "sh", "-i"]).env("PS1", "inner> ");
    let mut shown = Terminal::open(&call);
    shown.wait_for("inner> ");
    shown.send("echo on\x7fne\r"); // a typing error, taken back with the erase key
    shown.wait_for("one\r\n");
    shown.wait_for("inner> ");
    shown.send(format!("{} linger 60\r", artist().display()));
    shown.wait_for("ready\r\n");
    shown.send("\x03"); // for the program in the shell, not for the run
    shown.wait_for("inner> ");
    shown.send("echo still $?\r");
    shown.wait_for("still 130");
    shown.wait_for("inner> ");
    shown.send("\x04");
    // A shell ends with the code of its last command, which was 0.
    shown.wait().assert_code(0);
    assert_end(&world.only_run().run_json(), "completed", "exited", 0);
}

#[test]
fn with_tty_ctrl_c_is_the_programs_and_its_death_is_told_as_its_own() {
    let world = World::new();
    let mut shown = Terminal::open(&world.run_artist(&["--tty"], &["linger", "60"]));
    shown.wait_for("ready");
    shown.send("\x03");
    shown.wait().assert_code(130);
    let record = world.only_run().run_json();
    assert_end(&record, "failed", "signaled", 130);
    assert_eq!(record["exit"]["signal"], 2, "{record:#}");

    let world = World::new();
    let file = world.path("counts");
    let args = ["count-signals", &file.to_string_lossy()];
    let mut shown = Terminal::open(&world.run_artist(&["--tty"], &args));
    shown.wait_for("ready");
    for count in 1..=2 {
        shown.send("\x03");
        eventually(SOON, "SIGINT", || (counted(&file) == "SIGINT\n".repeat(count)).then_some(()));
    }
    assert_eq!(world.only_run().status_json()["status"], "running");
    shown.process().signal(Signal::SIGTERM);
    shown.wait().assert_signal(Signal::SIGTERM);
    assert_end(&world.only_run().run_json(), "stopped", "terminated", 143);
}

#[test]
fn with_tty_every_key_arrives_as_it_is_and_ctrl_d_ends_the_input() {
    let world = World::new();
    let mut shown = Terminal::open(&world.run_artist(&["--tty"], &["cat-raw"]));
    shown.wait_for("ready");
    shown.send(b"\x03\x1a\x04\x1c\xff\x00");
    for key in ["03", "1a", "04", "1c", "ff", "00"] {
        shown.wait_for(key);
    }
    shown.send("q");
    shown.wait().assert_code(0);

    let world = World::new();
    let mut shown = Terminal::open(&world.bookend(["run", "--tty", "--", "cat"]));
    world.wait_for_run().wait_status("running");
    shown.send("a line\r");
    shown.wait_for("a line\r\na line\r\n");
    shown.send("\x04");
    shown.wait().assert_code(0);
}

#[test]
fn with_tty_ctrl_z_stops_the_job_and_fg_resumes_it() {
    let world = World::new();
    let mut shell = Terminal::shell(&world);
    shell.send("stty -a\n");
    let before = shell.wait_for("prompt> ");
    shell.send(format!("{}\n", bookend(&world, "run --tty -- cat")));
    let run = world.wait_for_run();
    run.wait_status("running");
    for round in 0..5 {
        shell.send(format!("round {round}\r"));
        shell.wait_for(&format!("round {round}\r\n")); // from cat: this terminal does not echo
        shell.send("\x1a");
        shell.wait_for("prompt> ");
        eventually(SOON, "paused_since", || run.status_json()["paused_since"].is_string().then_some(()));
        shell.send("stty -a\n");
        assert_eq!(shell.wait_for("prompt> "), before, "the modes while it is stopped");
        shell.send("fg\n");
        eventually(SOON, "end of the pause", || run.status_json()["paused_since"].is_null().then_some(()));
        shell.wait_for("cat");
    }
    shell.send("\x04");
    shell.wait_for("prompt> ");
    assert_end(&run.run_json(), "completed", "exited", 0);
    shell.send("stty -a\n");
    assert_eq!(shell.wait_for("prompt> "), before, "the modes afterwards");
}

#[test]
fn with_tty_the_modes_are_given_back_whoever_is_killed() {
    for killed in [None, Some(keeper as fn(&RunDir) -> Process), Some(front)] {
        let world = World::new();
        let mut shell = Terminal::shell(&world);
        shell.send("stty -a\n");
        let before = shell.wait_for("prompt> ");
        shell.send(format!(
            "{}\n",
            bookend(&world, &format!("run --tty --grace 300ms -- {} cat-raw", artist().display()))
        ));
        shell.wait_for("ready");
        let run = world.wait_for_run();
        match killed {
            None => shell.send("q"),
            Some(which) => assert!(which(&run).signal(Signal::SIGKILL)),
        }
        shell.wait_for("prompt> ");
        let record = run.wait_sealed(SOON);
        eventually(SOON, "keeper that is gone", || (!keeper(&run).is_alive()).then_some(()));
        shell.send("stty -a\n");
        let after = shell.wait_for("prompt> ");
        assert!(after.ends_with(&before), "{killed:?}\nbefore: {before}\nafter: {after}");
        if killed.is_some() {
            assert_end(&record, "stopped", "wrapper_died", 137);
        }
        shell.send("exit\n");
        shell.wait();
        world.assert_no_process_left();
    }
}

#[test]
fn with_tty_and_without_a_terminal_the_input_is_at_its_end() {
    let world = World::new();
    let done = world.bookend(["run", "--tty", "--quiet", "--", "cat"]).limit(SOON).run();
    done.assert_code(0);
    let info = world.run_artist(&["--tty"], &["tty-info"]).limit(SOON).run();
    assert!(info.assert_code(0).out().contains("isatty 1 1 1\r\n"), "{info:?}");
    let typed = world.bookend(["run", "--tty", "--stdin", "--", "cat"]).input("a line\n").limit(SOON).run();
    assert!(typed.assert_code(0).out().ends_with("a line\r\n"), "{typed:?}");
}
