//! The house's own rules, read from its sources: who may import whom, and what is nowhere but in named places.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bookend::model::outcome::{CodeRule, ExitReason, REASONS};
use bookend::model::status::Status;

/// The layer of every top-level module; imports go to the same layer or a lower one, and never in a circle.
const LAYERS: [(&str, u32); 21] = [
    ("model", 1),
    ("harness", 2),
    ("machine", 2),
    ("query", 2),
    ("redact", 2),
    ("retention", 2),
    ("view", 2),
    ("clock", 3),
    ("config", 3),
    ("disk", 3),
    ("failpoint", 3),
    ("guard", 3),
    ("ledger", 3),
    ("process", 3),
    ("signals", 3),
    ("store", 3),
    ("terminal", 3),
    ("doctor", 4),
    ("engine", 4),
    ("sweep", 4),
    ("cli", 5),
];

/// What is nowhere in `src` but in the files named.
const ONLY_IN: [(&str, &[&str], &[&str]); 11] = [
    // The keeper ends once it has sealed, and a partner that was forked to watch when it has seen the end.
    (
        "the end of the process",
        &["process::exit(", "libc::_exit("],
        &["failpoint.rs", "engine/begin.rs", "engine/front.rs"],
    ),
    ("a rename", &["fs::rename", "renameat"], &["disk.rs", "disk/tree.rs"]),
    ("a hard link", &["hard_link", "::linkat(", "::link("], &["disk.rs"]),
    // The spool lies outside the store.
    ("a flush", &[".sync_all(", ".sync_data(", "::fsync(", "::fdatasync("], &["disk.rs", "guard/sealer.rs"]),
    ("a file lock", &["flock(", "fs2::", "F_SETLK", "FileExt::"], &["disk.rs"]),
    ("the creation of run.json", &[".seal_from_"], &["guard/sealer.rs"]),
    (
        "a fork",
        &["fork()", "libc::clone(", "Command::new(", "posix_spawn"],
        &["guard/partner.rs", "process/spawn.rs"],
    ),
    (
        "a signal to a process",
        &["libc::kill(", "pidfd_send_signal", "killpg", "signal::kill("],
        &["process/tree.rs"],
    ),
    ("a wait for a process", &["waitid(", "waitpid("], &["process/wait.rs"]),
    (
        "a mask or disposition",
        &["sigprocmask", "sigaction(", "libc::signal(", "pthread_sigmask"],
        &["signals.rs", "process/spawn.rs"],
    ),
    ("a thread", &["thread::spawn", "thread::scope", "thread::Builder"], &[]),
];

/// What layers 1 and 2 never speak of: files, environment, clocks, randomness, processes.
const IMPURE: [&str; 12] = [
    "std::fs",
    "std::env",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "clock_gettime",
    "getrandom",
    "nix::",
];

/// One source file without its comments and tests.
struct Source {
    /// Path below `src`.
    path: String,
    text: String,
}

impl Source {
    /// The top-level module that the file belongs to; none for the program and the library's root.
    fn module(&self) -> Option<&str> {
        let first = self.path.split('/').next()?.trim_end_matches(".rs");
        (!matches!(first, "lib" | "main")).then_some(first)
    }

    /// Top-level modules that the file names after `crate::`.
    fn imports(&self) -> BTreeSet<String> {
        let name = |rest: &str| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            rest[..end].to_owned()
        };
        self.text.split("crate::").skip(1).map(name).collect()
    }
}

fn read_sources(dir: &Path, root: &Path, found: &mut Vec<Source>) {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).expect("a directory of sources").flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read_sources(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let path = path.strip_prefix(root).expect("a path below src").to_string_lossy().into_owned();
            found.push(Source { path, text: bare(&text) });
        }
    }
}

/// A source without comment lines and without its own tests, which stand last.
fn bare(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let kept = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    kept.flat_map(|line| [line, "\n"]).collect()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    read_sources(&root, &root, &mut found);
    assert!(found.len() > 40, "only {} sources", found.len());
    found
}

fn layer(module: &str) -> u32 {
    let known = LAYERS.iter().find(|(name, _)| *name == module);
    known.unwrap_or_else(|| panic!("{module} has no layer: give it one, and a place in the map of lib.rs")).1
}

#[test]
fn the_table_is_of_the_modules_that_there_are() {
    let root = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs");
    let declared: BTreeSet<&str> =
        root.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(declared, LAYERS.iter().map(|(name, _)| *name).collect());
    let map: String = root.lines().filter(|line| line.starts_with("//!")).collect();
    for name in declared {
        assert!(map.contains(&format!("`{name}`")), "{name} is not in the map of lib.rs");
    }
}

#[test]
fn imports_go_downward() {
    for source in sources() {
        assert!(!source.text.contains("crate::{"), "{}: one module a line, please", source.path);
        let Some(module) = source.module() else { continue };
        for import in source.imports() {
            let upward = layer(&import) > layer(module);
            assert!(!upward, "{} is of layer {} and imports {import}", source.path, layer(module));
        }
    }
}

#[test]
fn imports_form_no_circle() {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        if let Some(module) = source.module() {
            let imports = source.imports().into_iter().filter(|import| import != module);
            graph.entry(module.to_owned()).or_default().extend(imports);
        }
    }
    // A module whose imports are all gone can go too; what never can is part of a circle, or above one.
    while let Some(leaf) = graph.iter().find(|(_, imports)| imports.is_empty()).map(|(name, _)| name.clone())
    {
        graph.remove(&leaf);
        for imports in graph.values_mut() {
            imports.remove(&leaf);
        }
    }
    assert!(graph.is_empty(), "a circle among {graph:#?}");
}

#[test]
fn what_is_done_in_one_place_is_done_nowhere_else() {
    let sources = sources();
    for (what, patterns, places) in ONLY_IN {
        for source in &sources {
            let found = patterns.iter().find(|pattern| source.text.contains(**pattern));
            let allowed = places.contains(&source.path.as_str());
            assert!(allowed || found.is_none(), "{what} in {}: {found:?}", source.path);
        }
        for place in places {
            let source = sources.iter().find(|source| source.path == *place);
            let used = source.is_some_and(|s| patterns.iter().any(|pattern| s.text.contains(pattern)));
            assert!(used, "{what} is no longer in {place}: take it from the table");
        }
    }
}

#[test]
fn words_and_decisions_are_pure() {
    for source in sources() {
        if source.module().is_none_or(|module| layer(module) > 2) {
            continue;
        }
        let found = IMPURE.iter().find(|pattern| source.text.contains(**pattern));
        assert!(found.is_none(), "{} speaks of {found:?}", source.path);
    }
}

#[test]
fn the_readme_tells_every_end() {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let rows: Vec<Vec<&str>> = readme
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    for known in REASONS.iter().filter(|row| row.reason != ExitReason::Unknown) {
        let has =
            |row: &&Vec<&str>| row.len() == 3 && row[1].split([',', ' ']).any(|word| word == known.word);
        let told: Vec<_> = rows.iter().filter(has).collect();
        assert!(!told.is_empty(), "{} is in no table of README.md", known.word);
        assert!(
            told.iter().any(|row| row[0] == known.status.word()),
            "{}: its status is another",
            known.word
        );
        let code = match known.code {
            CodeRule::Fixed(code) => code.to_string(),
            CodeRule::Own => "0".to_owned(),
            CodeRule::OwnSignal => "128 + n".to_owned(),
            CodeRule::Spawn => "127 not found".to_owned(),
            CodeRule::DieOf(signal) => (128 + signal).to_string(),
        };
        assert!(told.iter().any(|row| row[2].contains(&code)), "{}: its exit code is {code}", known.word);
    }
    assert!(Status::Lost.is_terminal());
}
