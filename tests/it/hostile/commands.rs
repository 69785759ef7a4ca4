//! The command lines that hostile stores are shown to, one row for each, and what all of them promise.

use crate::world::Finished;

/// What a row is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The store.
    Store,
    /// Each run that something was done to; its name is in the place of `RUN`.
    Run,
}

/// What stands on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// Words for people: nothing in them steers a terminal.
    Text,
    /// One JSON document, or one for each line.
    Json,
    /// Bytes of a run's file, as they are.
    Bytes,
}

/// One command line.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub words: &'static [&'static str],
    pub of: Of,
    pub out: Out,
    /// Exit codes that are promised.
    pub codes: &'static [i32],
    /// Whether it waits for the end of a run that lives.
    pub waits: bool,
    /// Whether the ids of all runs are in what it prints.
    pub lists: bool,
    /// Whether runs may be gone afterwards.
    pub removes: bool,
}

const STORE: Row = Row {
    words: &[],
    of: Of::Store,
    out: Out::Text,
    codes: &[0],
    waits: false,
    lists: false,
    removes: false,
};
const RUN: Row = Row { of: Of::Run, codes: &[0, 1, 3, 4], ..STORE };
/// `wait` ends as the run did.
const ANY: &[i32] = &{
    let mut codes = [0; 256];
    let mut code = 0;
    while code < 256 {
        codes[code as usize] = code;
        code += 1;
    }
    codes
};

/// Every command that meets runs; what changes them comes last, and what removes them after that.
pub const ROWS: &[Row] = &[
    Row { words: &["ps"], ..STORE },
    Row { words: &["ps", "-a", "--no-trunc"], lists: true, ..STORE },
    Row { words: &["ps", "-a", "--json"], out: Out::Json, lists: true, ..STORE },
    Row {
        words: &["ps", "-a", "--format", "csv", "--sort", "duration"],
        out: Out::Bytes,
        lists: true,
        ..STORE
    },
    Row { words: &["show", "RUN"], ..RUN },
    Row { words: &["show", "RUN", "--json"], out: Out::Json, ..RUN },
    Row { words: &["show", "RUN", "--file", "prompt.md"], out: Out::Bytes, ..RUN },
    Row { words: &["logs", "RUN"], out: Out::Bytes, ..RUN },
    Row { words: &["logs", "-t", "-n", "3", "--stdout", "RUN"], out: Out::Bytes, ..RUN },
    Row { words: &["logs", "--json", "-n", "20", "RUN"], out: Out::Json, ..RUN },
    Row { words: &["wait", "RUN", "--json"], out: Out::Json, codes: ANY, waits: true, ..RUN },
    Row { words: &["watch", "RUN"], waits: true, ..RUN },
    Row { words: &["watch", "RUN", "--json"], out: Out::Json, waits: true, ..RUN },
    Row { words: &["attach", "--no-stdin", "RUN"], out: Out::Bytes, codes: ANY, waits: true, ..RUN },
    Row { words: &["doctor", "--runs"], codes: &[0, 1], ..STORE },
    Row { words: &["doctor", "--runs", "--json"], out: Out::Json, codes: &[0, 1], ..STORE },
    Row {
        words: &["clean", "--dry-run", "--older-than", "0s", "--json"],
        out: Out::Json,
        codes: &[0, 1],
        ..STORE
    },
    Row { words: &["kill", "RUN", "--reason", "hostile"], ..RUN },
    Row { words: &["kill", "--force", "RUN", "--json"], out: Out::Json, ..RUN },
    Row { words: &["kill", "-s", "USR1", "RUN"], ..RUN },
    Row { words: &["note", "RUN", "hostile"], ..RUN },
    Row { words: &["label", "RUN", "hostile=yes"], ..RUN },
    Row { words: &["ps", "-a", "-q", "--no-trunc", "--filter", "before=0s"], lists: true, ..STORE },
    Row { words: &["doctor", "--runs", "--fix"], codes: &[0, 1], removes: true, ..STORE },
    Row {
        words: &["clean", "-y", "--logs-only", "--filter", "label=hostile"],
        codes: &[0, 1],
        removes: true,
        ..STORE
    },
    Row {
        words: &["clean", "-y", "--status", "lost", "--older-than", "0s"],
        codes: &[0, 1],
        removes: true,
        ..STORE
    },
    Row { words: &["rm", "RUN"], removes: true, ..RUN },
    Row { words: &["rm", "--force", "RUN", "--json"], out: Out::Json, removes: true, ..RUN },
    Row { words: &["ps", "-a", "-q", "--no-trunc"], lists: true, ..STORE },
];

impl Row {
    /// The words with a run's name in its place.
    pub fn words_for(&self, run: &str) -> Vec<String> {
        self.words.iter().map(|word| if *word == "RUN" { run } else { word }.to_owned()).collect()
    }

    /// What an answer breaks of the promises, in words.
    pub fn broken(&self, done: &Finished) -> Option<String> {
        let (out, err) = (done.out(), done.err());
        let Some(code) = done.code.filter(|code| self.codes.contains(code)) else {
            return Some(format!("ended with {:?} {:?}", done.code, done.signal));
        };
        if err.contains("panicked") || err.contains("overflow") {
            return Some("it panicked".to_owned());
        }
        if let Some(c) = steering(&err) {
            return Some(format!("{c:?} on standard error"));
        }
        if self.out != Out::Bytes
            && let Some(c) = steering(&out)
        {
            return Some(format!("{c:?} on standard output"));
        }
        let is_json = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
        if self.out == Out::Json && !out.lines().all(is_json) && !is_json(&out) {
            return Some("no JSON".to_owned());
        }
        let told = code == 0 || self.waits || !out.is_empty() || err.contains("bookend: ");
        (!told).then(|| "it failed without a word".to_owned())
    }
}

/// A character that does something to a terminal other than showing a letter or beginning a line.
pub fn steering(text: &str) -> Option<char> {
    text.chars().find(|&c| {
        c.is_control() && !matches!(c, '\n' | '\t')
            || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    })
}
