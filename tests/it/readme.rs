//! The examples of README.md, run: every `console` block is a session whose output must be what README shows.
//!
//! Ids, times and durations differ from run to run, so both sides are compared with those made alike; `...` on a line of
//! its own stands for any lines.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::world::{Output, World, under_test};

/// One command of a session, and what it prints.
struct Step {
    command: String,
    printed: Vec<String>,
}

/// The sessions of a Markdown text.
fn sessions(text: &str) -> Vec<Vec<Step>> {
    let blocks = text.split("```console\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    blocks
        .map(|block| {
            let mut steps: Vec<Step> = Vec::new();
            for line in block.lines() {
                match (line.strip_prefix("$ "), steps.last_mut()) {
                    (Some(command), _) => {
                        steps.push(Step { command: command.to_owned(), printed: Vec::new() });
                    }
                    (None, Some(step)) => step.printed.push(line.to_owned()),
                    (None, None) => panic!("a session begins with a command: {line}"),
                }
            }
            steps
        })
        .collect()
}

/// A line with what differs from run to run made alike.
fn alike(line: &str) -> String {
    let cell = |word: &str| -> String {
        let bare = word.trim_matches(|c: char| ",.()'\"".contains(c));
        let is_base32 = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase() && !"ilou".contains(c);
        let is_id = bare.len() == 22 && bare.as_bytes()[8] == b'-' && bare.as_bytes()[15] == b'-';
        // Other words of that form are made alike on both sides as well.
        let is_short = bare.len() == 6 && bare.chars().all(is_base32);
        let is_time = bare.len() == 24 && bare.ends_with('Z');
        let unit = bare.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let is_duration = unit.len() < bare.len() && ["s", "ms", "m", "h"].contains(&unit);
        match () {
            () if is_id || is_short => word.replace(bare, "ID"),
            () if is_time => word.replace(bare, "TIME"),
            () if is_duration => word.replace(bare, "TOOK"),
            () if bare.starts_with('/') && bare.contains("/runs/") => "RUN_DIR".to_owned(),
            () => word.to_owned(),
        }
    };
    let words: Vec<String> = line.split_whitespace().map(cell).collect();
    let mut line = words.join(" ");
    for rough in ["Less than a second", "less than a second", "1 second"] {
        line = line.replace(rough, "SECONDS");
    }
    for n in (2..60).rev() {
        line = line.replace(&format!("{n} seconds"), "SECONDS");
    }
    line
}

/// Whether what was printed is what is shown, where `...` stands for any lines.
fn fits(shown: &[String], printed: &[String]) -> bool {
    match (shown.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((any, rest)), _) if any.trim() == "..." => {
            (0..=printed.len()).any(|at| fits(rest, &printed[at..]))
        }
        (Some((shown, more)), Some((line, rest))) => alike(shown) == alike(line) && fits(more, rest),
        _ => false,
    }
}

#[test]
fn the_examples_do_what_they_show() {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let sessions = sessions(&readme);
    assert!(sessions.len() >= 2 && sessions.iter().all(|steps| !steps.is_empty()), "{}", sessions.len());
    for steps in sessions {
        let world = World::new();
        let bin = world.path("bin");
        fs::create_dir(&bin).expect("a directory");
        symlink(under_test(), bin.join("bookend")).expect("a link");
        fs::write(world.path("work/Makefile"), "test:\n\t@echo compiling; exit 3\n").expect("a Makefile");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
        for Step { command, printed } in steps {
            let call = world.command("bash", ["-c", &command]).env("PATH", &path);
            let answer = call.output(Output::OnePipe).run();
            let lines: Vec<String> = answer.out().lines().map(str::to_owned).collect();
            assert!(
                fits(&printed, &lines),
                "$ {command}\n{}\nbut README shows\n{}",
                answer.out(),
                printed.join("\n")
            );
        }
    }
}
