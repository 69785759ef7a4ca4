//! `bookend doctor`.

use clap::Args;

use super::error::{FAILED, Failure};
use super::{Done, look, print, print_json};
use crate::doctor;
use crate::model::record::SCHEMA;
use crate::view::findings;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend doctor                     the store, the configuration, the kernel
  bookend doctor --runs              every run too
  bookend doctor --runs --fix        and put right what safely can be

Exit code: 0 when all is well or was put right, 1 when something is left to do.")]
pub struct DoctorArgs {
    /// Look at every run
    #[arg(long)]
    pub runs: bool,
    /// Put right what safely can be: never what can not be read, what is newer, or what is not bookend's
    #[arg(long)]
    pub fix: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Says what is wrong with the store and its place.
///
/// # Errors
/// As [`print`].
pub fn run(args: &DoctorArgs) -> Result<Done, Failure> {
    let checkup = doctor::examine(args.runs, args.fix);
    let left = checkup.findings.iter().filter(|finding| finding.is_left()).count();
    if args.json {
        let facts: serde_json::Map<_, _> =
            checkup.facts.iter().map(|(name, how)| ((*name).to_owned(), how.clone().into())).collect();
        let document = serde_json::json!({ "schema": SCHEMA, "facts": facts, "findings": checkup.findings });
        print_json(&document)?;
    } else {
        print(tell(&checkup, left).as_bytes())?;
    }
    Ok(Done::with(if left == 0 { 0 } else { FAILED }))
}

fn tell(checkup: &doctor::Checkup, left: usize) -> String {
    let mut lines = Vec::new();
    for finding in &checkup.findings {
        let word = match (finding.level, finding.fix.done) {
            (_, true) => "fixed",
            (doctor::Level::Problem, _) => "problem",
            (doctor::Level::Warning, _) => "warning",
            (doctor::Level::Note, _) => "note",
        };
        lines.push(findings::Line {
            word,
            what: &finding.what,
            evidence: &finding.evidence,
            how: &finding.fix.how,
        });
    }
    let fixed = checkup.findings.iter().filter(|finding| finding.fix.done).count();
    findings::list(&checkup.facts, &lines, left, fixed, &look())
}
