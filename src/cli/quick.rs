//! The quick way for `run`: reads the plain forms of its arguments without building the whole command tree.
//!
//! Building and running clap's tree costs more than all the rest of a short run. This reader knows the same flags by
//! the same parsers; whatever it does not know at once (help, errors, abbreviations, `--flag=value`) it leaves to
//! clap, so it can only ever be faster, never different. A test holds the two against each other.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::args::{CaptureArg, DEFAULT_LOG_MAX, RunArgs, duration, key_value, signal, size};
use crate::model::plan::Durability;

impl Default for RunArgs {
    /// What `run` means without any flag.
    fn default() -> Self {
        Self {
            name: None,
            label: Vec::new(),
            directory: None,
            env: Vec::new(),
            timeout: None,
            idle_timeout: None,
            grace: None,
            stop_signal: None,
            stdin: false,
            tty: false,
            detach: false,
            quiet: false,
            json: false,
            print_id: false,
            id_file: None,
            log_max: DEFAULT_LOG_MAX,
            capture: CaptureArg::Auto,
            durability: Durability::Full,
            harness: None,
            model: None,
            system: None,
            prompt: None,
            trust_exit_code: false,
            max_cost: None,
            max_tokens: None,
            max_turns: None,
            words: None,
            command: Vec::new(),
        }
    }
}

/// Reads `bookend run FLAGS -- COMMAND`, or nothing where clap should.
#[must_use]
pub fn run_args(argv: &[OsString]) -> Option<RunArgs> {
    if argv.get(1)? != "run" {
        return None;
    }
    let mut args = RunArgs::default();
    let mut rest = argv[2..].iter();
    while let Some(word) = rest.next() {
        match word.to_str()? {
            "--" => {
                args.command = rest.cloned().collect();
                return (!args.command.is_empty()).then_some(args);
            }
            flag if switch(&mut args, flag)? => {}
            flag => valued(&mut args, flag, plain(rest.next()?)?)?,
        }
    }
    None
}

/// A value that clap could not take for anything else.
fn plain(value: &OsStr) -> Option<&OsStr> {
    let bytes = value.as_encoded_bytes();
    (!bytes.is_empty() && bytes[0] != b'-').then_some(value)
}

/// Sets a flag without a value; false for what is none. Given twice it is an error, which is clap's to explain.
fn switch(args: &mut RunArgs, flag: &str) -> Option<bool> {
    let field = match flag {
        "--stdin" => &mut args.stdin,
        "-t" | "--tty" => &mut args.tty,
        "-d" | "--detach" => &mut args.detach,
        "-q" | "--quiet" => &mut args.quiet,
        "--json" => &mut args.json,
        "--print-id" => &mut args.print_id,
        _ => return Some(false),
    };
    (!std::mem::replace(field, true)).then_some(true)
}

/// Sets a flag with a value.
fn valued(args: &mut RunArgs, flag: &str, value: &OsStr) -> Option<()> {
    fn once<T>(field: &mut Option<T>, value: T) -> Option<()> {
        field.replace(value).is_none().then_some(())
    }
    match flag {
        "--name" => once(&mut args.name, value.to_str()?.to_owned()),
        "-l" | "--label" => {
            args.label.push(key_value(value.to_str()?).ok()?);
            Some(())
        }
        "-C" | "--directory" => once(&mut args.directory, PathBuf::from(value)),
        "-e" | "--env" => {
            args.env.push(value.to_owned());
            Some(())
        }
        "--timeout" => once(&mut args.timeout, duration(value.to_str()?).ok()?),
        "--idle-timeout" => once(&mut args.idle_timeout, duration(value.to_str()?).ok()?),
        "--grace" => once(&mut args.grace, duration(value.to_str()?).ok()?),
        "--stop-signal" => once(&mut args.stop_signal, signal(value.to_str()?).ok()?),
        "--id-file" => once(&mut args.id_file, PathBuf::from(value)),
        _ => chosen(args, flag, value.to_str()?),
    }
}

/// Sets a flag with a default; one given twice is only noticed where it changes something, which clap refuses.
fn chosen(args: &mut RunArgs, flag: &str, value: &str) -> Option<()> {
    fn over_default<T: PartialEq>(field: &mut T, default: T, value: T) -> Option<()> {
        (std::mem::replace(field, value) == default).then_some(())
    }
    match (flag, value) {
        ("--log-max", text) => over_default(&mut args.log_max, DEFAULT_LOG_MAX, size(text).ok()?),
        ("--capture", "file") => over_default(&mut args.capture, CaptureArg::Auto, CaptureArg::File),
        ("--capture", "pipe") => over_default(&mut args.capture, CaptureArg::Auto, CaptureArg::Pipe),
        ("--durability", "process") => {
            over_default(&mut args.durability, Durability::Full, Durability::Process)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Command};
    use super::*;
    use clap::Parser;
    use proptest::prelude::*;

    /// Words that make up command lines, plausible and not.
    const WORDS: &[&str] = &[
        "--name",
        "-l",
        "--label",
        "-C",
        "--directory",
        "-e",
        "--env",
        "--timeout",
        "--idle-timeout",
        "--grace",
        "--stop-signal",
        "--stdin",
        "-t",
        "--tty",
        "-d",
        "--detach",
        "-q",
        "--quiet",
        "--json",
        "--print-id",
        "--id-file",
        "--log-max",
        "--capture",
        "--durability",
        "--",
        "--help",
        "-qd",
        "--name=x",
        "-lk=v",
        "x",
        "k=v",
        "=v",
        "10s",
        "1h 5m",
        "7",
        "TERM",
        "sigint",
        "99",
        "1MiB",
        "64",
        "file",
        "pipe",
        "auto",
        "process",
        "full",
        "",
        "-",
        "true",
    ];

    fn by_clap(argv: &[OsString]) -> Option<RunArgs> {
        match Cli::try_parse_from(argv).ok()?.command {
            Command::Run(args) => Some(*args),
            _ => None,
        }
    }

    fn agree(words: &[&str]) -> bool {
        let argv: Vec<OsString> = ["bookend", "run"].iter().chain(words).map(OsString::from).collect();
        match run_args(&argv) {
            None => true,
            Some(quick) => Some(format!("{quick:?}")) == by_clap(&argv).map(|args| format!("{args:?}")),
        }
    }

    #[test]
    fn every_plain_form_is_read_quickly_and_as_clap_reads_it() {
        for words in [
            &["--", "true"][..],
            &["-q", "--durability", "process", "--", "sh", "-c", "exit 3"],
            &["--name", "n", "-l", "a=b", "--label", "c=d", "-C", "/tmp", "-e", "A=1", "--", "x", "--", "-y"],
            &["--timeout", "10s", "--idle-timeout", "5", "--grace", "1m", "--stop-signal", "INT", "--", "x"],
            &[
                "--stdin",
                "-t",
                "-d",
                "--json",
                "--print-id",
                "--id-file",
                "f",
                "--log-max",
                "1MiB",
                "--",
                "x",
            ],
            &["--capture", "pipe", "--", "x"],
        ] {
            let argv: Vec<OsString> = ["bookend", "run"].iter().chain(words).map(OsString::from).collect();
            assert!(run_args(&argv).is_some(), "{words:?}");
            assert!(agree(words), "{words:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn never_reads_what_clap_reads_otherwise(picks in prop::collection::vec(0..WORDS.len(), 0..9)) {
            let mut words: Vec<&str> = picks.iter().map(|&at| WORDS[at]).collect();
            words.extend(["--", "cmd"]);
            prop_assert!(agree(&words), "{words:?}");
        }
    }
}
