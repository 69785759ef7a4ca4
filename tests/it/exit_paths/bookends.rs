//! Bookend itself fails, or one or both bookends are killed.

use std::fs;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::{SECOND, kill_both};
use crate::expect::{Expect, Points, Seen, keeper, start_ready, wait_command};
use crate::world::{LIMIT, World};

// ---- failures of bookend itself -------------------------------------------------------------------------------

/// What is left when the keeper breaks down at a site: the run failed, by a fault of bookend's own.
fn keeper_breaks_down(site: &str, action: &str, args: &[&str], exits: &[Seen]) {
    let mut world = World::new();
    Points::set(&mut world, &format!("{site}={action}"));
    let done = world.run_artist(&[], args).run();
    let expected = Expect::failed("internal_error", 125).exit(Seen::Any).any_author();
    let expected = if action == "panic" { expected.actor_of_fault() } else { expected.actor("bookend") };
    let record = expected.check(&world, &done);
    let known = |seen: &Seen| match *seen {
        Seen::Code(code) => record["exit"]["code"] == code,
        Seen::Signal(signal) => record["exit"]["signal"] == signal,
        Seen::Nothing | Seen::Any => record["exit"].is_null(),
    };
    assert!(exits.iter().any(known), "{site}={action}: an exit other than {exits:?}: {record:#}");
    if action == "panic" {
        let message = record["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(&format!("failpoint {site}")), "{record:#}");
    }
}

const BREAKDOWNS: [&str; 4] = ["panic", "abort", "overflow", "exit"];

#[test]
fn e47_the_keeper_breaks_down_before_the_command() {
    for action in BREAKDOWNS {
        for site in ["keeper.start", "keeper.published", "keeper.before_spawn"] {
            keeper_breaks_down(site, action, &["linger", "60"], &[Seen::Nothing]);
        }
    }
}

#[test]
fn e47_the_keeper_breaks_down_while_the_command_runs() {
    let ends = [Seen::Signal(libc::SIGTERM), Seen::Signal(libc::SIGKILL), Seen::Nothing];
    for action in BREAKDOWNS {
        for site in ["keeper.spawned", "keeper.running"] {
            keeper_breaks_down(site, action, &["linger", "60"], &ends);
        }
    }
}

/// A command that had ended by itself did so, whatever happened to bookend afterwards; the evidence tells of it.
#[test]
fn e47_the_keeper_breaks_down_after_the_command() {
    for action in BREAKDOWNS {
        for site in ["keeper.exited", "keeper.draining", "keeper.sealing"] {
            let mut world = World::new();
            Points::set(&mut world, &format!("{site}={action}"));
            let done = world.run_artist(&[], &["exit", "3"]).run();
            let record = Expect::exited(3).any_author().check(&world, &done);
            let told = match action {
                "panic" => format!("failpoint {site}"),
                "exit" => "code 77".to_owned(),
                _ => "SIGABRT".to_owned(),
            };
            assert!(action == "panic" || record["author"] == "front", "{record:#}");
            let evidence = record["evidence"].to_string();
            assert!(evidence.contains(&told), "{site}={action}: {record:#}");
        }
    }
}

#[test]
fn e47_the_keeper_breaks_down_once_the_record_is_written() {
    for action in BREAKDOWNS {
        let mut world = World::new();
        Points::set(&mut world, &format!("keeper.sealed={action}"));
        Expect::exited(3).check(&world, &world.run_artist(&[], &["exit", "3"]).run());
    }
}

#[test]
fn e47_the_front_breaks_down() {
    let mut world = World::new();
    Points::set(&mut world, "front.vigil=panic");
    let done = world.run_artist(&[], &["linger", "60"]).run();
    let expected = Expect::failed("internal_error", 125).exit(Seen::Any).actor("bookend");
    let record = expected.check(&world, &done);
    assert!(record["error"]["message"].as_str().is_some_and(|m| m.contains("front")), "{record:#}");
    // Where nobody can say that it was a panic, the other bookend says what it saw: its partner died.
    for (action, end) in
        [("abort", (None, Some(6))), ("overflow", (None, Some(6))), ("exit", (Some(77), None))]
    {
        let mut world = World::new();
        Points::set(&mut world, &format!("front.vigil={action}"));
        let done = world.run_artist(&[], &["linger", "60"]).run();
        assert_eq!((done.code, done.signal), end, "{done:?}");
        world.wait_for_run().wait_sealed(LIMIT);
        Expect::wrapper_died("keeper").exit(Seen::Any).check_unfinished(&world);
    }
}

#[test]
fn e47_the_front_breaks_down_before_there_is_a_run() {
    for action in BREAKDOWNS {
        let mut world = World::new();
        Points::set(&mut world, &format!("front.start={action}"));
        let done = world.run_artist(&[], &["linger", "60"]).run();
        assert_ne!(done.code, Some(0), "{done:?}");
        assert!(world.runs().is_empty() && world.live().is_empty(), "nothing was promised yet");
        world.assert_no_process_left();
        assert!(action == "exit" || done.err().contains("front.start") || action != "panic", "{done:?}");
    }
}

#[test]
fn e70_trouble_in_the_clean_up_does_not_cost_the_record() {
    let mut world = World::new();
    let points = Points::set(&mut world, "keeper.draining=pause");
    let running = world.run_artist(&["--quiet"], &["exit", "3"]).spawn();
    points.reached("keeper.draining");
    let run = world.only_run();
    for name in ["diagnostics.md", "task.json"] {
        fs::create_dir(run.path.join(name)).expect("a directory in the way");
        fs::write(run.path.join(name).join("x"), "x").expect("a file in it");
    }
    fs::remove_dir_all(world.store().join("live")).expect("no place for markers");
    points.go("keeper.draining");
    let record = Expect::exited(3).degraded().check(&world, &running.wait());
    let said = record["degraded"].to_string();
    assert!(said.contains("diagnostics.md") && said.contains("task.json"), "{said}");
}

// ---- one or both bookends are killed --------------------------------------------------------------------------

#[test]
fn e60_the_front_is_killed() {
    let world = World::new();
    let running = start_ready(&world, &[], &["linger", "60"]);
    let run = world.only_run();
    wait_command(&run);
    let killed = Instant::now();
    running.signal(Signal::SIGKILL);
    run.wait_sealed(SECOND);
    assert!(killed.elapsed() < SECOND);
    Expect::wrapper_died("keeper").front_killed(libc::SIGKILL).check(&world, &running.wait());
}

#[test]
fn e60_the_keeper_is_killed() {
    let world = World::new();
    let running = start_ready(&world, &[], &["linger", "60"]);
    let run = world.only_run();
    wait_command(&run);
    let killed = Instant::now();
    assert!(keeper(&run).signal(Signal::SIGKILL));
    run.wait_sealed(SECOND);
    assert!(killed.elapsed() < SECOND);
    let record = Expect::wrapper_died("front").check(&world, &running.wait());
    assert!(record["ended_by"]["reason"].as_str().is_some_and(|why| why.contains("SIGKILL")), "{record:#}");
}

/// A command that ended by itself did so, whoever writes it down.
#[test]
fn e60_the_keeper_is_killed_after_the_command_ended() {
    for site in ["keeper.exited", "keeper.draining", "keeper.sealing"] {
        let mut world = World::new();
        let points = Points::set(&mut world, &format!("{site}=pause"));
        let running = world.run_artist(&[], &["exit", "3"]).spawn();
        assert!(points.reached(site).signal(Signal::SIGKILL));
        Expect::exited(3).author("front").check(&world, &running.wait());
    }
}

/// A stop that was under way when the keeper was killed is still the first cause.
#[test]
fn e60_the_keeper_is_killed_while_it_stops_the_command() {
    for site in ["keeper.stopping", "keeper.exited", "keeper.sealing"] {
        let mut world = World::new();
        let points = Points::set(&mut world, &format!("{site}=pause"));
        let running = start_ready(&world, &[], &["linger", "60"]);
        running.signal(Signal::SIGINT);
        assert!(points.reached(site).signal(Signal::SIGKILL));
        Expect::stopped_by(libc::SIGINT).author("front").check(&world, &running.wait());
    }
}

#[test]
fn e60_both_are_killed_and_the_command_too() {
    let world = World::new();
    let running = start_ready(&world, &[], &["linger", "60"]);
    let run = world.only_run();
    let command = wait_command(&run);
    kill_both(running.process(), &run);
    assert!(command.signal(Signal::SIGKILL));
    command.wait_gone(LIMIT);
    let id = run.id();
    world.bookend(["wait", &id]).run().assert_code(125);
    let record = Expect::lost().front_killed(libc::SIGKILL).check(&world, &running.wait());
    assert!(record["reconciled"]["evidence"].as_array().is_some_and(|e| !e.is_empty()), "{record:#}");
    let listed = world.bookend(["ps", "-a", "--json"]).run().json();
    assert_eq!(listed["runs"][0]["status"], "lost");
}

#[test]
fn e60_both_are_killed_while_the_command_lives() {
    let world = World::new();
    let running = start_ready(&world, &[], &["linger", "60"]);
    let run = world.only_run();
    let command = wait_command(&run);
    kill_both(running.process(), &run);
    let listed = world.bookend(["ps", "--json"]).run().json();
    assert_eq!(
        (&listed["runs"][0]["orphaned"], &listed["runs"][0]["status"]),
        (&true.into(), &"running".into())
    );
    assert!(!run.is_sealed(), "no record calls a living run finished");
    assert!(command.is_alive());
    let id = run.id();
    world.bookend(["kill", "--reason", "nobody minds it", &id]).run().assert_code(0);
    let expected = Expect::stopped("killed", 137, "user").author("reader").exit(Seen::Nothing);
    let record = expected.front_killed(libc::SIGKILL).check(&world, &running.wait());
    assert_eq!(record["ended_by"]["reason"], "nobody minds it");
    assert_eq!(record["leftovers"][0]["fate"], "terminated", "{record:#}");
    assert!(record["leftovers"][0]["argv"][1] == "linger", "{record:#}");
    world.bookend(["wait", &id]).run().assert_code(137);
}
