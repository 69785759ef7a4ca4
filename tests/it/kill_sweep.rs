//! SIGKILL in place of every single system call of the front and of the keeper: each leaves one true record.

use std::time::Duration;

use serde_json::Value;

use crate::tripwire::{
    DETACHED, FILE, Hit, Lab, PIPE, Reach, Scene, Tally, Trial, Verdict, Who, campaign, reach, require, word,
};

/// The time of the default suite's slice.
const SLICE: Duration = Duration::from_secs(40);
/// Points past the number counted: a life is not always equally long.
const BEYOND: u64 = 3;

type Point = (Scene, Who, Hit);

/// What the caller of a killed bookend sees.
const KILLED: [i64; 1] = [137];

/// Every system call of one process of a scene.
fn points(scene: Scene, who: Who) -> Vec<Point> {
    let Some(mut lab) = Lab::open() else { return Vec::new() };
    let trial = lab.play(scene, who, Hit::Nothing);
    let verdict = trial.judge(unhindered);
    assert_eq!(verdict, Ok(Verdict::Sealed("exited".to_owned())));
    trial.forget();
    let calls = trial.calls();
    eprintln!("{}: the {who:?} makes {calls} system calls", scene.name);
    assert!(calls > 20, "{calls} calls");
    (1..=calls + BEYOND).map(|at| (scene, who, Hit::Kill(at))).collect()
}

fn unhindered(trial: &Trial, record: &Value) -> Result<(), String> {
    trial.check_code(record, &[])?;
    require(record["exit"]["code"] == trial.scene.code && trial.marked(), || "not its own end".to_owned())
}

/// One of two bookends was killed: the run ended by itself, or the other one stopped it and says so.
fn one_was_killed(trial: &Trial, record: &Value) -> Result<(), String> {
    let root = if trial.scene.detached { Who::Visible } else { Who::Front };
    let may_die = trial.was_hit() && (trial.who == root || trial.scene.detached);
    let excuses: &[i64] = match (may_die, trial.scene.detached) {
        (false, _) => &[],
        (true, false) => &KILLED,
        (true, true) => &[137, 125],
    };
    trial.check_code(record, excuses)?;
    let reason = word(record, "exit_reason");
    require(matches!(reason.as_str(), "exited" | "wrapper_died"), || format!("the reason is {reason}"))?;
    let started = record["command"]["pid"].is_i64();
    require(started == record["exit"].is_object(), || "started, and its end was not seen".to_owned())?;
    require(!trial.scene.detached || reason == "exited", || "a detached run goes on".to_owned())
}

fn sweep(scenes: &[(Scene, Who)], limit: Option<Duration>) -> Option<Tally> {
    let all: Vec<Point> = scenes.iter().flat_map(|&(scene, who)| points(scene, who)).collect();
    campaign(&all, limit, |lab, (scene, who, hit)| {
        let trial = lab.play(scene, who, hit);
        let verdict = trial.judge(one_was_killed);
        (trial, verdict)
    })
}

const ATTACHED: [(Scene, Who); 4] =
    [(FILE, Who::Front), (FILE, Who::Keeper), (PIPE, Who::Front), (PIPE, Who::Keeper)];
const ALONE: [(Scene, Who); 3] = [(DETACHED, Who::Visible), (DETACHED, Who::Front), (DETACHED, Who::Keeper)];

#[test]
fn a_kill_at_any_system_call_leaves_one_true_record() {
    let scenes = [&ATTACHED[..], &ALONE[..]].concat();
    if let Some(tally) = sweep(&scenes, Some(SLICE)) {
        tally.conclude("kill sweep (slice)");
    }
}

#[test]
fn campaign_kill_every_syscall() {
    let limit = (reach() == Reach::Glance).then(|| Duration::from_secs(3));
    let scenes = [&ATTACHED[..], &ALONE[..]].concat();
    if let Some(tally) = sweep(&scenes, limit) {
        tally.conclude("kill sweep");
    }
}
