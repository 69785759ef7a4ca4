//! Command lines and other short texts without their secrets.
//!
//! Three rules: values of flags and variables with telling names, tokens of known shapes, passwords in URLs. They also
//! look inside arguments that are command lines themselves (`sh -c '...'`).

use super::{MASK, SHAPES};

/// Parts of a name, between `-`, `_` and `.`, that say that its value is secret.
const TELLING: [&str; 12] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "authtoken",
    "credential",
    "credentials",
    "authorization",
    "pat",
    "pw",
];
/// The same as an end of a name, where names are written in one word.
const TELLING_ENDS: [&str; 5] = ["token", "secret", "password", "apikey", "passwd"];
/// Last parts of names whose values only lead to a secret, or describe one.
const HARMLESS: [&str; 12] =
    ["file", "path", "dir", "url", "uri", "id", "name", "type", "count", "limit", "env", "length"];
/// A value of a flag that is merely called a key is taken for a secret from this length on: `sort --key 2` is none.
const LEAST_KEY: usize = 8;

/// A command line without its secrets, and how many there were.
#[must_use]
pub fn argv(argv: &[String]) -> (Vec<String>, u64) {
    let mut count = 0;
    let mut expects = None;
    let clean = argv
        .iter()
        .map(|arg| {
            let clean = match expects.take() {
                Some(name) if !arg.starts_with('-') && is_secret(name, arg) => {
                    count += 1;
                    MASK.to_owned()
                }
                _ => words(arg, &mut count),
            };
            expects = flag_name(arg).filter(|name| !name.contains('='));
            clean
        })
        .collect();
    (clean, count)
}

/// A text without its secrets.
#[must_use]
pub fn text(text: &str) -> String {
    words(text, &mut 0)
}

/// Looks at the words of a text one by one; what is between them stays as it is.
fn words(text: &str, count: &mut u64) -> String {
    let is_between = |c: char| c.is_whitespace() || "'\"`;|&(){}<>,".contains(c);
    let mut clean = String::with_capacity(text.len());
    let mut expects: Option<String> = None;
    let mut rest = text;
    while !rest.is_empty() {
        let gap = rest.find(|c| !is_between(c)).unwrap_or(rest.len());
        clean.push_str(&rest[..gap]);
        rest = &rest[gap..];
        let end = rest.find(is_between).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        if word.is_empty() {
            continue;
        }
        let hidden = match expects.take() {
            Some(name) if !word.starts_with('-') && is_secret(&name, word) => Some(MASK.to_owned()),
            _ => masked(word),
        };
        *count += u64::from(hidden.is_some());
        clean.push_str(hidden.as_deref().unwrap_or(word));
        expects = expected_next(word);
    }
    clean
}

/// The name whose value the next word is, if this word announces one.
fn expected_next(word: &str) -> Option<String> {
    if word.eq_ignore_ascii_case("bearer") {
        return Some("token".to_owned());
    }
    // A header as in `-H 'X-Api-Key: value'`.
    let header = word.strip_suffix(':').filter(|name| !name.eq_ignore_ascii_case("authorization"));
    flag_name(word).or(header).filter(|name| !name.contains('=')).map(str::to_owned)
}

/// A word with its secret masked, where it holds one.
fn masked(word: &str) -> Option<String> {
    if let Some((name, value)) = word.split_once('=')
        && is_secret(name.trim_start_matches('-'), value)
    {
        return Some(format!("{name}={MASK}"));
    }
    masked_url(word).or_else(|| masked_token(word))
}

/// The password in `scheme://user:password@host`.
fn masked_url(word: &str) -> Option<String> {
    let (scheme, rest) = word.split_once("://")?;
    let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
    let (user_info, _) = authority.rsplit_once('@')?;
    let (user, password) = user_info.split_once(':')?;
    (!password.is_empty()).then(|| format!("{scheme}://{user}:{MASK}{}", &rest[user_info.len()..]))
}

/// A token of a known shape, wherever it stands in the word.
fn masked_token(word: &str) -> Option<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let starts = word.char_indices().filter(|&(at, c)| {
        is_part(c) && word[..at].chars().next_back().is_none_or(|before| !before.is_ascii_alphanumeric())
    });
    for (at, _) in starts {
        let rest = &word[at..];
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        if is_token(&rest[..length]) {
            return Some(format!("{}{MASK}{}", &word[..at], &rest[length..]));
        }
    }
    None
}

fn is_token(text: &str) -> bool {
    let known = SHAPES.iter().any(|(start, least)| text.starts_with(start) && text.len() >= *least);
    let varied = text.chars().any(|c| c.is_ascii_digit()) || text.len() >= 40;
    let is_jwt = text.starts_with("eyJ") && text.matches('.').count() == 2 && text.len() >= 40;
    known && varied || is_jwt
}

/// The name of a flag such as `--api-key`.
fn flag_name(word: &str) -> Option<&str> {
    word.strip_prefix("--").filter(|name| !name.is_empty())
}

/// Whether a value is secret, judged by the name it goes by.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if value.is_empty() || value == MASK || name.is_empty() || !name.chars().all(plain) {
        return false;
    }
    let name = name.to_ascii_lowercase();
    let parts: Vec<&str> = name.split(['-', '_', '.']).collect();
    let last = parts.last().copied().unwrap_or_default();
    if HARMLESS.contains(&last) || value.starts_with('$') {
        return false;
    }
    let telling = parts.iter().any(|part| TELLING.contains(part));
    let ends = TELLING_ENDS.iter().any(|end| last.ends_with(end));
    let key =
        (last == "key" || last.ends_with("apikey")) && value.len() >= LEAST_KEY && !value.starts_with('/');
    telling || ends || key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clean(words: &[&str]) -> Vec<String> {
        argv(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()).0
    }

    #[test]
    fn hides_secrets() {
        for (words, hidden) in [
            (&["x", "--token", "hunter2"][..], "hunter2"),
            (&["x", "--api-key=hunter22"], "hunter22"),
            (&["env", "DB_PASSWORD=hunter2", "x"], "hunter2"),
            (&["x", "--accessToken", "hunter2"], "hunter2"),
            (&["sh", "-c", "TOKEN=hunter2 deploy --password hunter3"], "hunter2"),
            (&["sh", "-c", "TOKEN=hunter2 deploy --password hunter3"], "hunter3"),
            (&["curl", "-H", "Authorization: Bearer abcdef"], "abcdef"),
            (&["curl", "-H", "X-Api-Key: abcdefgh"], "abcdefgh"),
            (&["curl", "https://me:hunter2@example.org/x"], "hunter2"),
            (&["x", "ghp_0123456789abcdefghij0123456789abcdef"], "ghp_"),
            (&["x", "key:sk-ant-api03-0123456789abcdef"], "0123456789"),
            (&["x", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3"], "eyJ"),
        ] {
            let clean = clean(words).join(" ");
            assert!(!clean.contains(hidden) && clean.contains(MASK), "{clean}");
        }
    }

    #[test]
    fn leaves_the_rest_alone() {
        for words in [
            &["sort", "--key", "2", "--key=3,4"][..],
            &["llm", "--max-tokens", "4096", "--token-count", "7"],
            &["ssh", "--key-file", "/home/me/.ssh/id", "--token-file=/run/token"],
            &["git", "clone", "https://example.org/a:b@c", "ssh://git@example.org/x"],
            &["echo", "task-list-sk-short", "pat", "a=b", "--password"],
            &["sh", "-c", "echo \"$TOKEN\"; TOKEN=$OTHER x"],
            &["cargo", "test", "--", "--token"],
        ] {
            assert_eq!(clean(words), words);
        }
    }

    proptest! {
        #[test]
        fn never_fails_and_changes_nothing_twice(words in prop::collection::vec("[a-zA-Z0-9=:@/ '\\-_.é]{0,30}", 0..6)) {
            let (once, _) = argv(&words);
            prop_assert_eq!(once.len(), words.len());
            let (twice, count) = argv(&once);
            prop_assert_eq!((&twice, count), (&once, 0));
        }

        #[test]
        fn a_telling_flag_hides_any_value(name in "[a-z]{1,6}-(token|secret|password)", value in "[a-zA-Z0-9+/]{4,40}") {
            let value = format!("Zq{value}");
            let clean = clean(&["x", &format!("--{name}"), &value, &format!("{name}={value}")]).join(" ");
            prop_assert!(!clean.contains(&value), "{}", clean);
        }
    }
}
