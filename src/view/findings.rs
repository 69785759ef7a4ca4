//! What a check-up found, as a list for people.

use anstyle::{AnsiColor, Style};

use super::sweep::count;
use super::{Look, quote};

/// Columns of the words on the left.
const WORD_WIDTH: usize = 10;

/// Something that was found, in words.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// `problem`, `warning`, `note` or `fixed`.
    pub word: &'static str,
    /// What is wrong, with what.
    pub what: &'a str,
    /// What shows it.
    pub evidence: &'a str,
    /// What was done, or what to type.
    pub how: &'a str,
}

/// What was looked at, what was found, and what it comes to: how many findings are left, and how many are fixed.
#[must_use]
pub fn list(facts: &[(&str, String)], lines: &[Line<'_>], left: usize, fixed: usize, look: &Look) -> String {
    let mut text = String::new();
    for (name, how) in facts {
        text += &row(name, how, Style::new(), look);
    }
    for line in lines {
        text += "\n";
        text += &row(line.word, line.what, style(line.word), look);
        text += &row("", line.evidence, Style::new(), look);
        text += &row("", &format!("-> {}", line.how), Style::new(), look);
    }
    text + &format!("\n{}\n", sum(left, fixed))
}

fn row(word: &str, what: &str, style: Style, look: &Look) -> String {
    let padded = format!("{word:<WORD_WIDTH$}");
    let padded = if look.colour { format!("{style}{padded}{style:#}") } else { padded };
    format!("{padded}{}\n", quote::visible_line(what))
}

fn style(word: &str) -> Style {
    let colour = match word {
        "problem" => AnsiColor::Red,
        "warning" => AnsiColor::Yellow,
        "fixed" => AnsiColor::Green,
        _ => AnsiColor::Cyan,
    };
    colour.on_default().bold()
}

fn sum(left: usize, fixed: usize) -> String {
    match (left, fixed) {
        (0, 0) => "all is well".to_owned(),
        (0, fixed) => format!("all is well now: {} fixed", count(fixed, "finding")),
        (left, 0) => format!("{} left", count(left, "finding")),
        (left, fixed) => format!("{} left, {fixed} fixed", count(left, "finding")),
    }
}
