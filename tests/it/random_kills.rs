//! SIGKILL of one bookend or of both at a random moment: no record is lost, none is replaced, and the cause is true.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::random::{Random, seed};
use crate::tripwire::{
    DETACHED, FILE, Hit, Lab, PIPE, Reach, Scene, Tally, Trial, Who, campaign, reach, require, word,
};

/// Of a thousand runs that lost one bookend, so many may be without their true cause.
const UNKNOWN_OF_1000: usize = 5;
/// Calm plays of a scene, whose longest says in which time the kills fall.
const CALM: usize = 5;

/// Short runs of several kinds; each marks its end.
const SCENES: [Scene; 6] = [
    Scene { name: "code", ..FILE },
    Scene { name: "code, pipes", ..PIPE },
    Scene { name: "sleep", script: "echo out; sleep 0.01; echo err >&2; : >$MARK; exit 7", ..FILE },
    Scene {
        name: "prints",
        script: "echo out; i=0; while [ $i -lt 50 ]; do i=$((i+1)); printf ''; done; sleep 0.005; echo err >&2; \
                 : >$MARK; exit 7",
        ..PIPE
    },
    DETACHED,
    Scene { name: "true", script: ": >$MARK", code: 0, out: "", err: "", ..FILE },
];

/// The microseconds within which a scene is over when nothing hinders it.
fn window_us(lab: &mut Lab, scene: Scene) -> u64 {
    let mut play = || {
        let trial = lab.play(scene, Who::Front, Hit::After(u64::from(u32::MAX)));
        trial.forget();
        trial.millis()
    };
    (0..CALM).map(|_| play()).max().unwrap_or(0).max(1) * 1000
}

fn hits(count: usize) -> Vec<(Scene, Who, Hit)> {
    let Some(mut lab) = Lab::open() else { return Vec::new() };
    let windows = SCENES.map(|scene| window_us(&mut lab, scene));
    let seed = seed();
    eprintln!("random kills: BOOKEND_SEED={seed}");
    let mut random = Random::new(seed);
    (0..count)
        .map(|n| {
            let who = [Who::Front, Who::Keeper, Who::Front, Who::Keeper, Who::Both][n % 5];
            let at = random.below(SCENES.len() as u64) as usize;
            (SCENES[at], who, Hit::After(random.below(windows[at])))
        })
        .collect()
}

/// What the record of a run says whose bookends were killed, and never more than can be known.
fn killed(trial: &Trial, record: &Value) -> Result<(), String> {
    let excuses: &[i64] = if trial.scene.detached { &[125, 137] } else { &[137] };
    trial.check_code(record, excuses)?;
    let reason = word(record, "exit_reason");
    require(matches!(reason.as_str(), "exited" | "wrapper_died" | "lost"), || {
        format!("the reason is {reason}")
    })
}

#[test]
fn campaign_random_kills() {
    let count = match reach() {
        Reach::Glance => 60,
        Reach::Ci => 1_000,
        Reach::Full => 10_000,
    };
    let (unknown, single) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let play = |lab: &mut Lab, (scene, who, hit)| {
        let trial = lab.play(scene, who, hit);
        let verdict = trial.judge(|trial, record| {
            let is_unknown = who != Who::Both && word(record, "exit_reason") == "lost";
            unknown.fetch_add(usize::from(is_unknown), Ordering::Relaxed);
            single.fetch_add(usize::from(who != Who::Both && trial.was_hit()), Ordering::Relaxed);
            killed(trial, record)
        });
        (trial, verdict)
    };
    // Some runs are over before their moment comes; what counts is kills.
    let mut tally = Tally::default();
    while tally.landed() < count {
        let Some(more) = campaign(&hits(count - tally.landed()), None, play) else { return };
        tally.merge(more);
    }
    let (unknown, single) = (unknown.into_inner(), single.into_inner());
    eprintln!("random kills: {unknown} of {single} that lost one bookend are without their true cause");
    tally.conclude("random kills");
    assert!(unknown * 1000 <= single * UNKNOWN_OF_1000, "{unknown} of {single} without their cause");
}
