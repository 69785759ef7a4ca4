//! Which finished runs go: rules that remove, and rules that keep, which win. Pure.

use std::time::Duration;

use crate::model::id::RunId;
use crate::model::status::Status;
use crate::model::time::Timestamp;

/// A finished run as the rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The run.
    pub id: RunId,
    /// When it ended; the latest moment it may have, where nobody saw it.
    pub ended_at: Timestamp,
    /// Bytes that it takes up on the disk.
    pub bytes: u64,
    /// How it ended.
    pub status: Status,
    /// Whether somebody pinned it.
    pub pinned: bool,
    /// Whether it is one of those that are asked for at all.
    pub matches: bool,
}

/// What goes and what stays. Without a removing rule all that match go; with several, what any of them removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Removes what ended longer ago than this.
    pub older_than: Option<Duration>,
    /// Keeps the newest of those that match, as many as this; without another removing rule all others go.
    pub keep_last: Option<usize>,
    /// Removes the oldest until those that match take up no more than this many bytes.
    pub max_total_bytes: Option<u64>,
    /// Only runs with one of these ends; empty: any.
    pub statuses: Vec<Status>,
    /// Keeps what is not completed.
    pub keep_failed: bool,
}

/// Why a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It ended longer ago than was said.
    Old,
    /// All together took up more than was said.
    Size,
    /// It is none of the newest.
    Surplus,
    /// It was asked for.
    Asked,
}

impl Why {
    /// The word as it stands in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Old => "older_than",
            Self::Size => "max_total_size",
            Self::Surplus => "keep_last",
            Self::Asked => "asked",
        }
    }
}

/// A run that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The run.
    pub id: RunId,
    /// Bytes that it takes up.
    pub bytes: u64,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Why it goes.
    pub why: Why,
}

impl Rules {
    /// Whether any of them says by itself what goes.
    #[must_use]
    pub fn say_what_goes(&self) -> bool {
        self.older_than.is_some()
            || self.keep_last.is_some()
            || self.max_total_bytes.is_some()
            || !self.statuses.is_empty()
    }

    /// Whether sizes make a difference.
    #[must_use]
    pub fn need_sizes(&self) -> bool {
        self.max_total_bytes.is_some()
    }

    fn concern(&self, run: &Candidate) -> bool {
        run.matches && (self.statuses.is_empty() || self.statuses.contains(&run.status))
    }

    fn spare(&self, run: &Candidate) -> bool {
        run.pinned || !run.status.is_terminal() || self.keep_failed && run.status != Status::Completed
    }
}

/// Chooses what goes, the oldest first.
///
/// Of the runs that may go, every rule removes the oldest up to some point: so what goes is the oldest ones up to the
/// furthest of these points, and never one that is newer than one that stays and could have gone.
#[must_use]
pub fn choose(runs: &[Candidate], rules: &Rules, now: Timestamp) -> Vec<Removal> {
    let mut concerned: Vec<&Candidate> = runs.iter().filter(|run| rules.concern(run)).collect();
    concerned.sort_by(|a, b| (a.ended_at, &a.id).cmp(&(b.ended_at, &b.id)));
    let total: u64 = concerned.iter().map(|run| run.bytes).sum();
    let newest = concerned.len().saturating_sub(rules.keep_last.unwrap_or(0));
    let mut left = total;
    let mut removals = Vec::new();
    for run in concerned[..newest].iter().filter(|run| !rules.spare(run)) {
        let Some(why) = reason(run, rules, left, now) else { break };
        left -= run.bytes;
        removals.push(Removal { id: run.id.clone(), bytes: run.bytes, ended_at: run.ended_at, why });
    }
    removals
}

fn reason(run: &Candidate, rules: &Rules, left: u64, now: Timestamp) -> Option<Why> {
    let too_old = rules.older_than.is_some_and(|limit| run.ended_at < now && now.since(run.ended_at) > limit);
    let too_much = rules.max_total_bytes.is_some_and(|most| left > most);
    match (rules.older_than, rules.max_total_bytes, rules.keep_last) {
        _ if too_old => Some(Why::Old),
        _ if too_much => Some(Why::Size),
        (None, None, Some(_)) => Some(Why::Surplus),
        (None, None, None) => Some(Why::Asked),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const NOW_MS: i64 = 1_795_266_300_000;
    const DAY_MS: i64 = 86_400_000;

    fn now() -> Timestamp {
        Timestamp::from_unix_ms(NOW_MS)
    }

    fn run(number: usize, age_days: i64, bytes: u64, status: Status) -> Candidate {
        let ended_at = Timestamp::from_unix_ms(NOW_MS - age_days * DAY_MS);
        let id = RunId::new(ended_at, number as u32);
        Candidate { id, ended_at, bytes, status, pinned: false, matches: true }
    }

    /// Five completed runs of 1, 2, 3, 4 and 5 days with 10 bytes each; the one of 3 days failed.
    fn week() -> Vec<Candidate> {
        let status = |age| if age == 3 { Status::Failed } else { Status::Completed };
        (1..=5).map(|age| run(age as usize, age, 10, status(age))).collect()
    }

    fn days(number: u64) -> Duration {
        Duration::from_secs(number * 86_400)
    }

    /// Ages in days of what goes, with the reason.
    fn gone(runs: &[Candidate], rules: &Rules) -> Vec<(i64, Why)> {
        let age = |r: &Removal| (NOW_MS - r.ended_at.unix_ms()) / DAY_MS;
        choose(runs, rules, now()).iter().map(|r| (age(r), r.why)).collect()
    }

    #[test]
    fn rules_by_themselves() {
        let runs = week();
        let none = Rules::default();
        assert_eq!(
            gone(&runs, &Rules { older_than: Some(days(3)), ..none.clone() }),
            [(5, Why::Old), (4, Why::Old)]
        );
        let last = Rules { keep_last: Some(3), ..none.clone() };
        assert_eq!(gone(&runs, &last), [(5, Why::Surplus), (4, Why::Surplus)]);
        let size = Rules { max_total_bytes: Some(30), ..none.clone() };
        assert_eq!(gone(&runs, &size), [(5, Why::Size), (4, Why::Size)]);
        let failed = Rules { statuses: vec![Status::Failed], ..none.clone() };
        assert_eq!(gone(&runs, &failed), [(3, Why::Asked)]);
        assert_eq!(gone(&runs, &none).len(), 5);
        assert_eq!(gone(&runs, &Rules { keep_failed: true, ..none }).len(), 4);
    }

    #[test]
    fn what_keeps_wins_over_what_removes() {
        let mut runs = week();
        let rules = Rules { older_than: Some(days(1)), keep_last: Some(4), ..Rules::default() };
        assert_eq!(gone(&runs, &rules), [(5, Why::Old)]);
        let rules = Rules { max_total_bytes: Some(0), keep_failed: true, ..Rules::default() };
        assert_eq!(gone(&runs, &rules).iter().map(|g| g.0).collect::<Vec<_>>(), [5, 4, 2, 1]);
        runs[4].pinned = true;
        let rules = Rules { older_than: Some(days(3)), max_total_bytes: Some(25), ..Rules::default() };
        assert_eq!(gone(&runs, &rules), [(4, Why::Old), (3, Why::Size), (2, Why::Size)]);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_old() {
        let runs = [run(1, -400, 10, Status::Completed)];
        assert_eq!(gone(&runs, &Rules { older_than: Some(days(0)), ..Rules::default() }), []);
    }

    fn some_run() -> impl Strategy<Value = Candidate> {
        let statuses = [
            Status::Completed,
            Status::Failed,
            Status::Stopped,
            Status::Lost,
            Status::Running,
            Status::Unknown,
        ];
        (0..1000_usize, -3..60_i64, 0..50_u64, 0..statuses.len(), 0..8_u8, 0..4_u8).prop_map(
            move |(number, age, bytes, status, pinned, matches)| Candidate {
                pinned: pinned == 0,
                matches: matches > 0,
                ..run(number, age, bytes, statuses[status])
            },
        )
    }

    fn some_rules() -> impl Strategy<Value = Rules> {
        let age = prop::option::of((0..60_u64).prop_map(|d| Duration::from_secs(d * 86_400)));
        let statuses =
            prop::collection::vec(prop::sample::select(vec![Status::Failed, Status::Completed]), 0..2);
        (age, prop::option::of(0..30_usize), prop::option::of(0..900_u64), statuses, any::<bool>()).prop_map(
            |(older_than, keep_last, max_total_bytes, statuses, keep_failed)| Rules {
                older_than,
                keep_last,
                max_total_bytes,
                statuses,
                keep_failed,
            },
        )
    }

    fn ids(runs: &[Candidate], rules: &Rules) -> BTreeSet<RunId> {
        choose(runs, rules, now()).into_iter().map(|r| r.id).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn what_is_protected_never_goes(runs in prop::collection::vec(some_run(), 0..40), rules in some_rules()) {
            let gone = ids(&runs, &rules);
            let mut newest: Vec<&Candidate> = runs.iter().filter(|r| rules.concern(r)).collect();
            newest.sort_by(|a, b| (b.ended_at, &b.id).cmp(&(a.ended_at, &a.id)));
            for run in newest.iter().take(rules.keep_last.unwrap_or(0)) {
                prop_assert!(!gone.contains(&run.id) || runs.iter().filter(|r| r.id == run.id).count() > 1);
            }
            for removal in choose(&runs, &rules, now()) {
                let fits = runs.iter().any(|r| {
                    r.id == removal.id && r.matches && !r.pinned && r.status.is_terminal()
                        && (rules.statuses.is_empty() || rules.statuses.contains(&r.status))
                        && (!rules.keep_failed || r.status == Status::Completed)
                });
                prop_assert!(fits, "{removal:?}");
            }
        }

        #[test]
        fn no_more_goes_than_is_needed(runs in prop::collection::vec(some_run(), 0..40), rules in some_rules()) {
            let gone = choose(&runs, &rules, now());
            let total: u64 = runs.iter().filter(|r| rules.concern(r)).map(|r| r.bytes).sum();
            let mut before = total;
            for removal in &gone {
                match removal.why {
                    Why::Old => prop_assert!(now().since(removal.ended_at) > rules.older_than.unwrap()),
                    Why::Size => prop_assert!(before > rules.max_total_bytes.unwrap()),
                    Why::Surplus => prop_assert!(rules.keep_last.is_some()),
                    Why::Asked => prop_assert!(rules.keep_last.is_none()),
                }
                before -= removal.bytes;
            }
            // And no less: when too much is left, nothing that could go stayed.
            if rules.max_total_bytes.is_some_and(|most| before > most) {
                let concerned = runs.iter().filter(|r| rules.concern(r)).count();
                let free = runs.iter().filter(|r| rules.concern(r) && !rules.spare(r)).count();
                let kept = rules.keep_last.unwrap_or(0).min(concerned);
                prop_assert!(gone.len() + kept >= free, "{} of {free} went, {kept} are kept", gone.len());
            }
        }

        #[test]
        fn a_stricter_keeper_keeps_no_less(
            runs in prop::collection::vec(some_run(), 0..40), rules in some_rules(), more in 1..20_usize
        ) {
            let gone = ids(&runs, &rules);
            if let Some(limit) = rules.older_than {
                let milder = Rules { older_than: Some(limit + Duration::from_secs(more as u64 * 86_400)), ..rules.clone() };
                prop_assert!(ids(&runs, &milder).is_subset(&gone));
            }
            if let Some(last) = rules.keep_last {
                let milder = Rules { keep_last: Some(last + more), ..rules.clone() };
                prop_assert!(ids(&runs, &milder).is_subset(&gone));
            }
            if let Some(most) = rules.max_total_bytes {
                let milder = Rules { max_total_bytes: Some(most + more as u64), ..rules.clone() };
                prop_assert!(ids(&runs, &milder).is_subset(&gone));
            } else if !rules.keep_failed {
                let milder = Rules { keep_failed: true, ..rules.clone() };
                prop_assert!(ids(&runs, &milder).is_subset(&gone));
            }
        }

        #[test]
        fn a_second_clean_finds_nothing(runs in prop::collection::vec(some_run(), 0..40), rules in some_rules()) {
            let gone = ids(&runs, &rules);
            let left: Vec<Candidate> = runs.iter().filter(|r| !gone.contains(&r.id)).cloned().collect();
            prop_assert_eq!(choose(&left, &rules, now()), vec![]);
        }
    }
}
