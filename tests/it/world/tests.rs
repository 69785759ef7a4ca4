//! The ground is tested too.

use std::fs::File;

use super::*;

const SOON: Duration = Duration::from_secs(5);

#[test]
fn nothing_of_the_machine_leaks_in() {
    let world = World::new();
    let done = world.command(artist(), ["env"]).env("A", "1").without_env("LANG").run();
    let out = done.assert_code(0).out();
    let mut names: Vec<_> = out.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    assert_eq!(names, ["A", "ARTIST_PIDS", "BOOKEND_STORE", MARK, "HOME", "PATH"]);
    let fds = world.command(artist(), ["fds"]).run().out();
    assert_eq!(fds.lines().count(), 3, "{fds}");
}

#[test]
fn codes_signals_streams_and_input_are_exact() {
    let world = World::new();
    world.command(artist(), ["exit", "77"]).run().assert_code(77);
    world.command(artist(), ["die", "TERM"]).run().assert_signal(Signal::SIGTERM);
    let both = world.command(artist(), ["gen", "64", "both"]).run();
    assert_eq!(both.out(), "out 00000001 abcdefghijklmnopqr\n");
    assert_eq!(both.err(), "err 00000001 abcdefghijklmnopqr\n");
    let one = world.command(artist(), ["gen", "64", "both"]).output(Output::OnePipe).run();
    assert_eq!((one.stdout.len(), one.stderr.len(), one.held), (64, 0, false));
    let echoed = world.command(artist(), ["echo-stdin"]).input(*b"a\0\xff").run();
    assert_eq!(echoed.stdout, b"a\0\xff");
    let file = world.path("both");
    world.command(artist(), ["gen", "64", "both"]).output(Output::File(file.clone())).run().assert_code(0);
    assert_eq!(fs::read(file).expect("the file").len(), 64);
    world.command(artist(), ["exit", "0"]).output(Output::Null).run().assert_code(0);
}

#[test]
fn an_odd_inheritance_and_a_launcher_arrive() {
    let world = World::new();
    let call = world.command(artist(), ["mask"]).inheriting(&["ignore=USR1", "umask=027"]);
    let out = call.under(&["env", "B=1"]).cwd(world.path("home")).run().out();
    assert!(out.contains("SigIgn:\t0000000000000200") && out.contains("0027"), "{out}");
}

#[test]
fn a_running_command_is_talked_to_and_signalled() {
    let world = World::new();
    let mut echo = world.command(artist(), ["echo-stdin"]).open_input().spawn();
    echo.send(b"ready\n");
    echo.wait_ready();
    assert_eq!((echo.stdout(), echo.stderr()), (b"ready\n".to_vec(), Vec::new()));
    echo.end_input();
    echo.wait_within(SOON).assert_code(0);

    let file = world.path("counts");
    let counter = world.command(artist(), ["count-signals".into(), file.clone().into_os_string()]).spawn();
    counter.wait_for_file(&file);
    counter.wait_ready();
    counter.signal(Signal::SIGUSR1);
    eventually(SOON, "count", || (fs::read_to_string(&file).ok()? == "SIGUSR1\n").then_some(()));
    let process = counter.process();
    counter.signal(Signal::SIGTERM);
    counter.wait().assert_code(0);
    assert_gone(process.pid, process.start_time);

    let stopped = world.command(artist(), ["stop"]).spawn();
    stopped.process().wait_state('T');
    stopped.signal(Signal::SIGCONT);
    stopped.wait().assert_code(0);

    let mut unread = world.command(artist(), ["gen", "1000000"]).output(Output::Unread).spawn();
    drop(unread.take_pipes());
    unread.wait().assert_signal(Signal::SIGPIPE);
}

#[test]
fn held_output_is_noticed_and_leftovers_are_listed_and_ended() {
    let world = World::new();
    let escaped =
        world.command(artist(), ["escape", "cleared-env", "leave"]).env("BOOKEND_RUN_ID", "x").run();
    assert!(escaped.assert_code(0).held);
    assert_eq!((world.processes().len(), world.noted().len()), (1, 2));
    let marked = world.command(artist(), ["escape", "setsid", "leave"]).env("BOOKEND_RUN_ID", "x").run();
    assert!(marked.held);
    assert_eq!(world.processes_of_run("x").len(), 1, "the cleared environment is found by its note only");
    let left = world.processes();
    assert_eq!(left.len(), 2);
    drop(world);
    for process in left {
        process.wait_gone(SOON);
    }
}

#[test]
fn a_clean_world_has_no_process_left() {
    let world = World::new();
    let running = world.command("sh", ["-c", "echo problem >&2; exec sleep 60"]).limit(SOON).spawn();
    running.wait_stderr("problem\n");
    drop(running);
    world.assert_no_process_left();
}

#[test]
fn a_run_directory_is_read() {
    let mut world = World::new();
    let place = world.path("elsewhere");
    world.set_store(&place);
    world.set_env("LANG", "C");
    let run = place.join("runs/20260101-000000-aaaaaa");
    fs::create_dir_all(&run).expect("a run");
    fs::create_dir_all(place.join("live/20260101-000000-aaaaaa")).expect("a marker");
    fs::write(place.join("attempts.jsonl"), "{\"error\":\"x\"}\n").expect("attempts");
    fs::write(run.join("status.json"), r#"{"status":"running","owner":{"pid":7,"start_time":8}}"#)
        .expect("a state");
    fs::write(run.join("task.json"), "{}").expect("a task");
    fs::write(run.join("events.jsonl"), "{\"a\":1}\n{\"a\":2}\n").expect("events");
    fs::write(run.join("harness.log"), "log").expect("a log");
    assert_eq!(world.wait_for_run().id(), "20260101-000000-aaaaaa");
    assert_eq!((world.live().len(), world.attempts().len()), (1, 1));
    let run = world.only_run();
    assert_eq!(run.process("/owner"), Some(Process { pid: 7, start_time: 8 }));
    assert_eq!(run.wait_status("running"), run.status_json());
    assert_eq!((run.events().len(), run.log(), run.task_json()), (2, b"log".to_vec(), serde_json::json!({})));
    assert!(!run.is_sealed() && run.read("run.json").is_none() && run.files().len() == 4);
    fs::write(run.path.join("run.json"), r#"{"schema":1}"#).expect("a record");
    assert_follows(&serde_json::json!({"required": ["schema"]}), &run.wait_sealed(SOON));
}

#[test]
fn bookend_itself_starts() {
    let world = World::new();
    assert!(world.schema("run").is_object());
    world.run_artist(&["--quiet"], &["exit", "0"]).run().assert_code(0);
}

#[test]
fn a_pid_namespace_is_entered_twice_and_ends_as_a_whole() {
    let world = World::new();
    let Some(once) = world.command("sh", ["-c", "echo $$; exit 7"]).in_pid_namespace() else { return };
    assert_eq!(once.run().assert_code(7).out(), "2\n");
    assert!(have("nsenter"));
    let Some(space) = PidNamespace::open() else { return };
    space
        .enter(world.command(artist(), ["escape", "setsid", "leave"]))
        .output(Output::Null)
        .run()
        .assert_code(0);
    let seen = space.enter(world.command("sh", ["-c", "pwd; ls /proc | grep -c '^[0-9]'"])).run();
    assert!(seen.assert_code(0).out().starts_with(&*world.path("work").to_string_lossy()), "{seen:?}");
    assert_eq!(world.processes().len(), 1);
    drop(space);
    world.assert_no_process_left();
}

#[test]
fn a_small_file_system_fills_up_and_is_relieved() {
    let world = World::new();
    let Some(small) = world.tmpfs(1 << 20, 64) else { return };
    small.fill(0);
    assert!(fs::write(small.path.join("more"), [1; 8192]).is_err());
    small.relieve();
    small.fill_inodes();
    assert!(File::create(small.path.join("one-more")).is_err());
    small.relieve();
    fs::write(small.path.join("more"), [1; 8192]).expect("room again");
}

#[test]
fn a_terminal_shows_resizes_and_hangs_up() {
    let world = World::new();
    let info = Terminal::open(&world.command(artist(), ["tty-info"])).wait();
    let expected = "isatty 1 1 1\r\nsize 24 80\r\ndevtty yes\r\nforeground yes\r\n";
    assert_eq!(info.assert_code(0).out(), expected);
    let mut winch = Terminal::open(&world.command(artist(), ["winch"]));
    winch.wait_for("ready");
    winch.resize(50, 132);
    winch.wait_for("size 50 132");
    let process = winch.process();
    winch.hang_up();
    process.wait_gone(SOON);
    winch.wait().assert_code(0);
}

#[test]
fn a_shell_stops_and_resumes_its_job() {
    let world = World::new();
    let mut shell = Terminal::shell(&world);
    let prompt_group = shell.foreground();
    shell.send(format!("{} linger 60\n", artist().display()));
    shell.wait_for("ready");
    assert_ne!(shell.foreground(), prompt_group);
    shell.send("\x1a");
    shell.wait_for_within("prompt> ", SOON);
    shell.send("fg\n");
    shell.wait_for("linger 60");
    eventually(SOON, "job in the foreground", || (shell.foreground() != prompt_group).then_some(()));
    shell.send("\x03");
    shell.wait_for("prompt> ");
    shell.send("exit 3\n");
    assert!(shell.seen().contains("ready"));
    shell.wait().assert_code(3);
}
