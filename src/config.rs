//! The configuration: where it is, whether it can be trusted, and what it says.

use std::env;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use toml::{Table, Value};

use crate::disk;
use crate::retention::Rules;
use crate::store::Store;

/// Its name in the store and in the user's directory of configurations.
const FILE: &str = "config.toml";
/// The file that stands for no configuration at all.
const NONE: &str = "/dev/null";
/// More than this is no configuration.
const LONGEST_BYTES: u64 = 1 << 20;
/// The keys of `[retention]`.
const RETENTION: [&str; 5] = ["older_than", "keep_last", "max_total_size", "keep_failed", "logs_only"];

/// What a configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What is removed by itself, and what is kept.
    pub retention: Option<Retention>,
    /// What stands there and means nothing to this version.
    pub unknown: Vec<String>,
}

/// What is removed by itself, once a day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Which runs go.
    pub rules: Rules,
    /// Only their logs go; the records stay.
    pub logs_only: bool,
}

/// Why a configuration can not be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It can not be read.
    #[error("reading configuration {path}: {source}")]
    Io {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else may have written it.
    #[error("configuration {path} is not used: {why}")]
    Untrusted {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It does not say anything that can be understood.
    #[error("configuration {path}: {why}")]
    Wrong {
        /// Where it is.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
}

impl ConfigError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Io { .. } => "check that path, or take BOOKEND_CONFIG away".to_owned(),
            Self::Untrusted { path, .. } => format!("make it your own: chown, chmod go-w {}", path.display()),
            Self::Wrong { .. } => {
                "write e.g. [retention] older_than = \"30d\", keep_last = 100, max_total_size = \"10GiB\""
                    .to_owned()
            }
        }
    }
}

/// Reads the configuration: `$BOOKEND_CONFIG`, else `config.toml` of the store, else
/// `$XDG_CONFIG_HOME/bookend/config.toml` (`~/.config` where that is not set). None where there is none.
///
/// # Errors
/// [`ConfigError`]; a file that another user could have written is refused.
pub fn read(store: &Store) -> Result<Option<(PathBuf, Config)>, ConfigError> {
    if let Some(path) = set("BOOKEND_CONFIG") {
        let found = read_file(path.clone())?;
        let missing = || ConfigError::Io { path, source: io::Error::from(io::ErrorKind::NotFound) };
        return found.ok_or_else(missing).map(Some);
    }
    if let Some(found) = read_file(store.path.join(FILE))? {
        return Ok(Some(found));
    }
    let home = || set("HOME").map(|home| home.join(".config"));
    let base = set("XDG_CONFIG_HOME").filter(|path| path.is_absolute()).or_else(home);
    base.map_or(Ok(None), |base| read_file(base.join("bookend").join(FILE)))
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn read_file(path: PathBuf) -> Result<Option<(PathBuf, Config)>, ConfigError> {
    if path.as_os_str() == NONE {
        return Ok(Some((path, Config::default())));
    }
    let file = match disk::open_file(&path) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(None),
        Err(source) => return Err(ConfigError::Io { path, source }),
        Ok(file) => file,
    };
    let untrusted = |path, why: String| Err(ConfigError::Untrusted { path, why });
    match disk::ownership(&file) {
        Err(source) => return Err(ConfigError::Io { path, source }),
        Ok(found) if found.shared => return untrusted(path, "other users may write to it".to_owned()),
        Ok(found) if found.uid != 0 && found.uid != nix::unistd::geteuid().as_raw() => {
            return untrusted(path, format!("it belongs to user {}", found.uid));
        }
        Ok(_) => {}
    }
    if file.metadata().is_ok_and(|found| found.len() > LONGEST_BYTES) {
        return Err(ConfigError::Wrong { path, why: format!("it is longer than {LONGEST_BYTES} bytes") });
    }
    let bytes = match disk::read_whole(&file) {
        Err(source) => return Err(ConfigError::Io { path, source }),
        Ok(bytes) => bytes,
    };
    let said =
        String::from_utf8(bytes).map_err(|_| "it is no UTF-8".to_owned()).and_then(|text| parse(&text));
    match said {
        Ok(config) => Ok(Some((path, config))),
        Err(why) => Err(ConfigError::Wrong { path, why }),
    }
}

/// Reads the text of a configuration. Pure.
///
/// # Errors
/// What is wrong, and where.
pub fn parse(text: &str) -> Result<Config, String> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        format!("line {line}: {}", e.message())
    })?;
    let mut config = Config::default();
    for (name, value) in &table {
        match (name.as_str(), value) {
            ("retention", Value::Table(section)) => {
                config.retention = Some(retention(section, &mut config.unknown)?);
            }
            ("retention", _) => return Err("retention is a section: write [retention]".to_owned()),
            _ => config.unknown.push(name.clone()),
        }
    }
    Ok(config)
}

fn retention(section: &Table, unknown: &mut Vec<String>) -> Result<Retention, String> {
    let strange = section.keys().filter(|key| !RETENTION.contains(&key.as_str()));
    unknown.extend(strange.map(|key| format!("retention.{key}")));
    let wrong = |key: &str, why: &str| format!("retention.{key}: {why}");
    let read = |key: &'static str| section.get(key).map(|value| (key, value));
    let older_than =
        read("older_than").map(|(key, value)| age(value).map_err(|why| wrong(key, &why))).transpose()?;
    let keep_last = read("keep_last")
        .map(|(key, value)| {
            let number = value.as_integer().and_then(|n| usize::try_from(n).ok());
            number.ok_or_else(|| wrong(key, "write a number, e.g. 100"))
        })
        .transpose()?;
    let max_total_bytes =
        read("max_total_size").map(|(key, value)| size(value).map_err(|why| wrong(key, &why))).transpose()?;
    let flag = |key: &'static str| {
        let value = section.get(key).map_or(Some(false), Value::as_bool);
        value.ok_or_else(|| wrong(key, "write true or false"))
    };
    let rules = Rules {
        older_than,
        keep_last,
        max_total_bytes,
        statuses: Vec::new(),
        keep_failed: flag("keep_failed")?,
    };
    Ok(Retention { rules, logs_only: flag("logs_only")? })
}

/// An age; a bare number could be anything, so it needs its unit.
fn age(value: &Value) -> Result<Duration, String> {
    let example = "write e.g. \"30d\", \"12h\"";
    let text = value.as_str().ok_or(example)?;
    humantime::parse_duration(text).map_err(|e| format!("{e}; {example}"))
}

fn size(value: &Value) -> Result<u64, String> {
    let example = "write e.g. \"500MiB\", \"10GiB\"";
    match value {
        Value::Integer(bytes) => u64::try_from(*bytes).map_err(|_| example.to_owned()),
        Value::String(text) => {
            text.parse::<bytesize::ByteSize>().map(|s| s.as_u64()).map_err(|e| format!("{e}; {example}"))
        }
        _ => Err(example.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_goes() {
        let config = parse(
            "[retention]\nolder_than = '30d'\nkeep_last = 100\nmax_total_size = '10GiB'\nkeep_failed = true\nlogs_only = true",
        );
        let rules = Rules {
            older_than: Some(Duration::from_secs(30 * 86_400)),
            keep_last: Some(100),
            max_total_bytes: Some(10 << 30),
            statuses: Vec::new(),
            keep_failed: true,
        };
        let retention = Some(Retention { rules, logs_only: true });
        assert_eq!(config, Ok(Config { retention, unknown: Vec::new() }));
        assert_eq!(parse(""), Ok(Config::default()));
    }

    #[test]
    fn what_is_unknown_is_named_and_does_no_harm() {
        let config = parse("colour = 1\n[retention]\nkeep_lats = 3\n[harness.claude]\nmodel = 'x'").unwrap();
        assert_eq!(config.unknown, ["colour", "harness", "retention.keep_lats"]);
        assert_eq!(config.retention, Some(Retention::default()));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_could_be_written() {
        for (text, named) in [
            ("[retention]\nolder_than = 30", "retention.older_than: write"),
            ("[retention]\nolder_than = 'soon'", "retention.older_than"),
            ("[retention]\nkeep_last = -1", "retention.keep_last: write a number"),
            ("[retention]\nmax_total_size = 'big'", "retention.max_total_size"),
            ("[retention]\nkeep_failed = 'yes'", "retention.keep_failed: write true or false"),
            ("retention = 7", "write [retention]"),
            ("[retention", "line 1"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(named), "{text}: {why}");
        }
    }
}
