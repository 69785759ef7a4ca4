//! Every single system call of the front and of the keeper failed once: a right record or a refusal, never a hang.

use std::time::Duration;

use serde_json::Value;

use crate::tripwire::{
    DETACHED, FILE, Hit, Lab, PIPE, Reach, Scene, Tally, Trial, Who, campaign, reach, require, word,
};

/// The time of the default suite's slice.
const SLICE: Duration = Duration::from_secs(25);
/// Points past the number counted: a life is not always equally long.
const BEYOND: u64 = 3;
/// How a call is made to fail.
const ERRORS: [i32; 5] = [libc::ENOSPC, libc::EIO, libc::EINTR, libc::EMFILE, libc::EACCES];
/// Codes of a bookend that could not do its work: its own, the loader's, and deaths by SIGABRT, SIGSEGV and SIGBUS.
const FAILURES: [i64; 5] = [125, 127, 134, 135, 139];
/// Ends that one failed call may lead to.
const REASONS: [&str; 5] = ["exited", "wrapper_died", "internal_error", "spawn_failed", "preflight_failed"];

type Point = (Scene, Who, Hit);

fn points(scene: Scene, who: Who) -> Vec<Point> {
    let Some(mut lab) = Lab::open() else { return Vec::new() };
    let trial = lab.play(scene, who, Hit::Nothing);
    trial.forget();
    let last = trial.calls() + BEYOND;
    ERRORS.iter().flat_map(|&errno| (1..=last).map(move |at| (scene, who, Hit::Fail(errno, at)))).collect()
}

/// One call failed: whatever became of the run, its record and the caller's code are true.
fn one_call_failed(trial: &Trial, record: &Value) -> Result<(), String> {
    trial.check_code(record, &FAILURES)?;
    let reason = word(record, "exit_reason");
    require(REASONS.contains(&reason.as_str()), || format!("the reason is {reason}"))?;
    let explained = record["error"]["message"].as_str().is_some_and(|message| !message.is_empty());
    let failed = matches!(reason.as_str(), "internal_error" | "spawn_failed" | "preflight_failed");
    require(!failed || explained, || format!("{reason} without an explanation"))
}

fn sweep(limit: Option<Duration>) -> Option<Tally> {
    let scenes = [
        (FILE, Who::Front),
        (FILE, Who::Keeper),
        (PIPE, Who::Front),
        (PIPE, Who::Keeper),
        (DETACHED, Who::Front),
        (DETACHED, Who::Keeper),
    ];
    let all: Vec<Point> = scenes.iter().flat_map(|&(scene, who)| points(scene, who)).collect();
    campaign(&all, limit, |lab, (scene, who, hit)| {
        let trial = lab.play(scene, who, hit);
        let verdict = trial.judge(one_call_failed);
        (trial, verdict)
    })
}

#[test]
fn a_failure_of_any_system_call_leaves_a_right_record_or_a_refusal() {
    if let Some(tally) = sweep(Some(SLICE)) {
        tally.conclude("fault sweep (slice)");
    }
}

#[test]
fn campaign_fault_every_syscall() {
    let limit = (reach() == Reach::Glance).then(|| Duration::from_secs(3));
    if let Some(tally) = sweep(limit) {
        tally.conclude("fault sweep");
    }
}
