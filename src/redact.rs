//! What looks like a secret is left out of every file. Pure.

pub mod line;
pub mod stream;

pub use line::{argv, text};
pub use stream::{Redactor, Secrets};

/// What stands in the place of a secret.
pub const MASK: &str = "[redacted]";

/// Beginnings of well-known tokens, and how long such a token is at least.
const SHAPES: [(&str, usize); 24] = [
    ("sk-", 20),
    ("sk_live_", 16),
    ("sk_test_", 16),
    ("rk_live_", 16),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghu_", 20),
    ("ghs_", 20),
    ("ghr_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("xoxb-", 16),
    ("xoxp-", 16),
    ("xoxa-", 16),
    ("xoxs-", 16),
    ("AKIA", 20),
    ("ASIA", 20),
    ("AIza", 35),
    ("ya29.", 20),
    ("npm_", 20),
    ("pypi-", 20),
    ("hf_", 20),
    ("dop_v1_", 20),
    ("SG.", 20),
];
