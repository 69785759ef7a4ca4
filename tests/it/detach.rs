//! A detached run: its caller is let go at once, and it goes on whichever bookend is killed, again and again.

use crate::world::{Invocation, LIMIT, PidNamespace, RunDir, World, assert_follows, eventually};

/// Which bookend is killed, how often, and how the run ends then. Whoever follows a second keeper is no ancestor of the
/// command, so that the kernel tells it when the command ended and not how.
const KILLS: [(&str, usize, &str); 3] =
    [("pid", 1, "exited"), ("pid", 3, "lost"), ("front_pid", 4, "exited")];

/// Kills the process that a field of the living state names, and waits until another one is named there.
fn kill_and_wait_for_another(world: &World, space: &PidNamespace, run: &RunDir, field: &str) {
    let named = || run.status_json()["owner"][field].as_u64().filter(|pid| *pid > 1);
    let old = eventually(LIMIT, field, named);
    space.enter(world.command("kill", ["-KILL".to_owned(), old.to_string()])).run().assert_code(0);
    let owners = || {
        let owner = run.status_json()["owner"].clone();
        Some([owner["pid"].as_u64()?, owner["front_pid"].as_u64()?])
    };
    eventually(LIMIT, "another bookend", || owners().filter(|pids| !pids.contains(&old)));
}

fn detach(world: &World, space: &PidNamespace) -> Invocation {
    let gate = world.path("gate");
    let script =
        format!("echo ready; while ! [ -e {} ]; do sleep 0.01; done; echo done; exit 7", gate.display());
    space.enter(world.bookend(["run", "-d", "--", "sh", "-c", &script]))
}

#[test]
fn the_caller_of_a_detached_run_is_let_go_at_once() {
    let world = World::new();
    let done = world.run_artist(&["-d"], &["linger", "60"]).run();
    assert_eq!(done.assert_code(0).out().trim(), world.only_run().id());
    assert!(!done.held, "somebody still holds the caller's streams");
    assert!(!world.only_run().is_sealed(), "the run goes on");
    world.bookend(["kill", "latest", "--force"]).run();
    world.only_run().wait_sealed(LIMIT);
    world.assert_no_process_left();
}

#[test]
fn a_detached_run_goes_on_whichever_bookend_is_killed() {
    for (field, rounds, reason) in KILLS {
        let world = World::new();
        let Some(space) = PidNamespace::open() else { return };
        detach(&world, &space).run().assert_code(0);
        let run = world.only_run();
        run.wait_status("running");
        for _ in 0..rounds {
            kill_and_wait_for_another(&world, &space, &run, field);
        }
        std::fs::write(world.path("gate"), "").expect("an open gate");
        let record = run.wait_sealed(LIMIT);
        assert_follows(&world.schema("run"), &record);
        assert_eq!(record["exit_reason"], reason, "{record:#}");
        assert_eq!(record["exit"]["code"].as_i64(), (reason == "exited").then_some(7), "{record:#}");
        assert_eq!(run.log(), b"ready\ndone\n");
        world.assert_no_process_left();
    }
}
