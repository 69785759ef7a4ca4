//! Budgets: what a harness used, held against the limits of its run.

use super::event::Used;
use crate::model::outcome::ExitReason;
use crate::model::plan::Limits;

/// How what was used stands to the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Well below all.
    Fine,
    /// Four fifths of one are used, for the first time.
    Near(String),
    /// One is used up, or nothing comes of going on.
    Over(ExitReason, String),
}

/// Holds what was used against the limits; `warned` keeps which limits were spoken of.
#[must_use]
pub fn check(limits: &Limits, used: &Used, warned: &mut u8) -> Standing {
    let budgets = [
        ("cost", limits.max_cost_micro_usd, used.cost_micro_usd, dollars as fn(u64) -> String),
        ("token", limits.max_tokens, used.tokens, plain),
        ("turn", limits.max_turns, used.turns, plain),
    ];
    for (name, limit, used, text) in &budgets {
        if let (Some(limit), Some(used)) = (limit, used)
            && used >= limit
        {
            let why = format!("{name} limit of {} reached: {} used", text(*limit), text(*used));
            return Standing::Over(ExitReason::BudgetExhausted, why);
        }
    }
    if let Some(most) = limits.max_repeats {
        if used.same_error >= most {
            return Standing::Over(
                ExitReason::Stalled,
                format!("the same error {} times in a row", used.same_error),
            );
        }
        if used.empty_steps >= most {
            let why = format!("{} steps in a row that used no tokens and did nothing", used.empty_steps);
            return Standing::Over(ExitReason::Stalled, why);
        }
    }
    for (at, (name, limit, used, text)) in budgets.iter().enumerate() {
        let (Some(limit), Some(used)) = (limit, used) else { continue };
        if *warned & (1 << at) == 0 && used.saturating_mul(5) >= limit.saturating_mul(4) {
            *warned |= 1 << at;
            return Standing::Near(format!(
                "{} of the {name} limit of {} is used",
                text(*used),
                text(*limit)
            ));
        }
    }
    Standing::Fine
}

fn dollars(micro: u64) -> String {
    format!("${:.4}", micro as f64 / 1e6)
}

fn plain(n: u64) -> String {
    n.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_once_at_four_fifths_and_stops_at_the_limit() {
        let limits =
            Limits { max_cost_micro_usd: Some(1_000_000), max_tokens: Some(1000), ..Limits::default() };
        let mut warned = 0;
        let mut check = |tokens, cost| {
            let used = Used { tokens: Some(tokens), cost_micro_usd: cost, ..Used::default() };
            check(&limits, &used, &mut warned)
        };
        assert_eq!(check(799, None), Standing::Fine);
        assert_eq!(check(800, None), Standing::Near("800 of the token limit of 1000 is used".to_owned()));
        assert_eq!(check(900, None), Standing::Fine);
        assert!(
            matches!(check(900, Some(900_000)), Standing::Near(why) if why.contains("$0.9000 of the cost"))
        );
        assert!(matches!(check(1000, None), Standing::Over(ExitReason::BudgetExhausted, _)));
        assert!(matches!(check(0, Some(1_000_000)), Standing::Over(ExitReason::BudgetExhausted, _)));
    }

    #[test]
    fn going_nowhere_is_stalling() {
        let limits = Limits { max_repeats: Some(10), ..Limits::default() };
        let stalls = |used| matches!(check(&limits, &used, &mut 0), Standing::Over(ExitReason::Stalled, _));
        assert!(!stalls(Used { same_error: 9, empty_steps: 9, ..Used::default() }));
        assert!(stalls(Used { same_error: 10, ..Used::default() }));
        assert!(stalls(Used { empty_steps: 10, ..Used::default() }));
    }
}
