//! Runs of agents, by recorded transcripts that a fake binary speaks: prompt, verdict, usage, answer, session, limits.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::world::{Finished, Invocation, World, assert_follows, eventually};

const SOON: Duration = Duration::from_secs(20);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A world in which every harness is a speaker of transcripts.
struct Stage {
    world: World,
}

impl Stage {
    fn new() -> Self {
        let mut world = World::new();
        let bin = world.path("bin");
        fs::create_dir(&bin).expect("a directory");
        for name in ["claude", "codex", "gemini", "opencode", "aider"] {
            symlink(fixture("harness/speaker.sh"), bin.join(name)).expect("a link");
        }
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
        world.set_env("PATH", path);
        let notes = world.path("asked");
        world.set_env("SPEAKER_NOTES", notes);
        Self { world }
    }

    /// A call of bookend under which the harness speaks this transcript and exits as it was recorded.
    fn call(&self, transcript: &str, args: &[&str]) -> Invocation {
        let code =
            fs::read_to_string(fixture(&format!("transcripts/{transcript}.rc"))).expect("its exit code");
        self.world
            .bookend(["run"])
            .args(args)
            .env("SPEAKER_TRANSCRIPT", fixture(&format!("transcripts/{transcript}")))
            .env("SPEAKER_CODE", code.trim())
            .limit(SOON * 2)
    }

    fn prompt(&self, transcript: &str, more: &[&str]) -> Finished {
        let harness = transcript.split('-').next().unwrap_or_default();
        self.call(transcript, &[&["--harness", harness], more, &["make a file"]].concat()).run()
    }

    fn record(&self) -> Value {
        let run = self.world.runs().pop().expect("a run");
        let record = run.run_json();
        assert_follows(&self.world.schema("run"), &record);
        record
    }

    fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.world.runs().pop().expect("a run").path.join(name)).ok()
    }

    fn asked(&self, what: &str) -> String {
        fs::read_to_string(self.world.path(&format!("asked.{what}"))).unwrap_or_default()
    }
}

/// Every harness in every mode: exit code of `run`, status, reason, whether the words differ, and what it declared.
#[test]
fn the_verdict_hears_both_the_process_and_the_harness() {
    for (transcript, code, status, reason, mismatch, declared) in [
        ("codex-ok", 0, "completed", "exited", false, "success"),
        ("codex-401", 1, "failed", "exited", false, "error"),
        ("codex-cut", 1, "failed", "exited", false, "error"),
        ("gemini-ok", 0, "completed", "exited", false, "success"),
        ("gemini-401", 145, "failed", "exited", false, "error"),
        ("gemini-cut", 1, "failed", "harness_error", true, "error"),
        ("opencode-ok", 0, "completed", "exited", false, "success"),
        ("opencode-401", 1, "failed", "exited", false, "error"),
        ("aider-ok", 0, "completed", "exited", false, ""),
        ("aider-401", 1, "failed", "harness_error", true, "error"),
    ] {
        let stage = Stage::new();
        let done = stage.prompt(transcript, &[]);
        let record = stage.record();
        let told = format!("{transcript}: {done:?}\n{record:#}");
        assert_eq!(done.code, Some(code), "{told}");
        assert_eq!((&record["status"], &record["exit_reason"]), (&status.into(), &reason.into()), "{told}");
        assert_eq!(record["mismatch"].is_string(), mismatch, "{told}");
        assert_eq!(record["harness"]["declared"]["outcome"].as_str().unwrap_or_default(), declared, "{told}");
        assert_eq!(record["mode"], "prompt");
        let exit: i64 = fs::read_to_string(fixture(&format!("transcripts/{transcript}.rc")))
            .expect("its code")
            .trim()
            .parse()
            .expect("a number");
        assert_eq!(record["exit"]["code"], exit, "what the process did is told apart: {told}");
    }
}

#[test]
fn the_terminal_event_is_kept_byte_for_byte() {
    let stage = Stage::new();
    stage.prompt("gemini-401", &["-q"]);
    let said = fs::read_to_string(fixture("transcripts/gemini-401.stdout")).expect("a transcript");
    let last = said.lines().last().expect("a line");
    assert_eq!(stage.record()["harness"]["declared"]["event"], last);
}

#[test]
fn trust_in_the_exit_code_leaves_the_rest_unheard() {
    let stage = Stage::new();
    stage.prompt("gemini-cut", &["--trust-exit-code"]).assert_code(0);
    let record = stage.record();
    assert_eq!(
        (&record["status"], &record["harness"]["declared"]["outcome"]),
        (&"completed".into(), &"error".into())
    );
}

#[test]
fn usage_answer_and_session_are_in_the_record() {
    let stage = Stage::new();
    stage.prompt("codex-ok", &["--model", "mock-1"]).assert_code(0);
    let record = stage.record();
    assert_eq!(
        record["usage"],
        json!({ "input_tokens": 2700, "output_tokens": 42, "cached_tokens": 1000, "total_tokens": 2742, "turns": 1,
                "source": "stream", "scope": "thread", "complete": true })
    );
    assert_eq!(stage.file("response.md").as_deref(), Some("Mock says: done."));
    let harness = &record["harness"];
    assert_eq!(harness["session_id"], "01a1fdc4-4046-7302-aad8-d8c926278b00");
    assert_eq!(harness["resume"], "codex resume 01a1fdc4-4046-7302-aad8-d8c926278b00");
    assert_eq!((&harness["name"], &harness["model"]), (&"codex".into(), &"mock-1".into()));
    let listed =
        stage.world.bookend(["ps", "-a", "--filter", "harness=codex", "--filter", "mode=prompt", "-q"]).run();
    assert_eq!(listed.out().lines().count(), 1);

    let stage = Stage::new();
    stage.prompt("opencode-ok", &[]).assert_code(0);
    let cost = stage.record()["usage"]["cost_usd"].as_f64().expect("a cost");
    assert!((cost - 0.00702).abs() < 1e-9, "{cost}");
    assert!(stage.world.bookend(["ps", "-a"]).run().out().contains("$0.01"));

    let stage = Stage::new();
    stage.prompt("gemini-401", &[]);
    assert_eq!(stage.record()["usage"]["total_tokens"], 0, "it said zero");
    let stage = Stage::new();
    stage.prompt("codex-401", &[]);
    assert_eq!(stage.record()["usage"], Value::Null, "it said nothing");
}

#[test]
fn the_prompt_is_on_disk_before_anything_starts_and_reaches_the_harness() {
    for (transcript, how) in [("codex-ok", "stdin"), ("gemini-ok", "argv"), ("aider-ok", "file")] {
        let stage = Stage::new();
        let text = "fix it; $(rm -rf /) --yolo\nsecond line\n";
        fs::write(stage.world.path("work/ask.md"), text).expect("a prompt");
        let harness = transcript.split('-').next().unwrap_or_default();
        let call =
            stage.call(transcript, &["--harness", harness, "--prompt", "@ask.md", "--", "--extra", "x y"]);
        call.run().assert_code(0);
        assert_eq!(stage.file("prompt.md").as_deref(), Some(text));
        let record = stage.record();
        assert_eq!(record["prompt"]["bytes"], text.len());
        assert_eq!(record["prompt"]["sha256"].as_str().map(str::len), Some(64));
        assert!(stage.asked("argv").contains("--extra\nx y\n"), "{}", stage.asked("argv"));
        match how {
            "stdin" => assert_eq!(stage.asked("stdin"), text),
            "argv" => assert!(stage.asked("argv").contains(&format!("--prompt={text}"))),
            _ => assert!(stage.asked("argv").contains("/prompt.md\n"), "{}", stage.asked("argv")),
        }
    }
    let stage = Stage::new();
    let call = stage
        .call("codex-ok", &["--harness", "codex", "--system", "be brief", "--direct", "-"])
        .input("from stdin");
    call.run().assert_code(0);
    assert_eq!(stage.asked("stdin"), "be brief\n\nfrom stdin");
}

#[test]
fn an_empty_or_unreadable_prompt_is_a_failed_preflight() {
    let stage = Stage::new();
    for args in [&["--prompt", ""][..], &["--prompt", "@nowhere.md"], &["--prompt", "-"], &["  \n"]] {
        let done = stage.call("codex-ok", &[&["--harness", "codex"], args].concat()).run();
        assert!(done.assert_code(125).err().contains("the prompt: "), "{args:?}: {done:?}");
        let record = stage.record();
        assert_eq!(
            (&record["status"], &record["exit_reason"]),
            (&"failed".into(), &"preflight_failed".into())
        );
        assert_eq!(record["preflight"][0]["id"], "prompt");
        assert_eq!(stage.asked("argv"), "", "nothing was started");
    }
}

#[test]
fn mistakes_about_harnesses_are_usage_errors() {
    let stage = Stage::new();
    for (args, told) in [
        (&["--harness", "hal9000", "open the doors"][..], "claude, codex"),
        (&["--harness", "auto", "--", "make"], "no harness that bookend knows"),
        (&["--prompt", "a", "b"], "cannot be used"),
        (&["--max-cost", "0", "--", "x"], "amount"),
        (&["--model", "m", "--", "x"], "required"),
    ] {
        let done = stage.call("codex-ok", args).run();
        assert!(done.assert_code(2).err().contains(told), "{args:?}: {done:?}");
    }
    assert!(stage.world.runs().is_empty());
}

#[test]
fn a_plain_command_line_is_recognised_and_says_what_is_added() {
    let stage = Stage::new();
    let done = stage.call("codex-ok", &["--harness", "auto", "--", "codex", "exec", "make a file"]).run();
    assert!(done.assert_code(0).err().contains("added --json, so that codex is understood"), "{done:?}");
    assert_eq!(stage.asked("argv"), "exec\nmake a file\n--json\n");
    let record = stage.record();
    assert_eq!((&record["mode"], &record["usage"]["total_tokens"]), (&"command".into(), &2742.into()));
}

#[test]
fn usage_survives_kills_and_says_that_it_is_not_complete() {
    for (lines, signal) in [("1", Signal::SIGTERM), ("3", Signal::SIGTERM), ("5", Signal::SIGKILL)] {
        let stage = Stage::new();
        let call =
            stage.call("opencode-ok", &["--harness", "opencode", "make a file"]).env("SPEAKER_LINES", lines);
        let running = call.spawn();
        let run = stage.world.wait_for_run();
        let wanted = (lines != "1").then_some(1230);
        eventually(SOON, "its usage in status.json", || {
            let status = run.status_json();
            let known = status["harness"]["session_id"].is_string();
            (known && status["usage"]["total_tokens"].as_u64() == wanted).then_some(())
        });
        running.signal(signal);
        running.wait();
        let record = run.wait_sealed(SOON);
        assert_eq!(record["status"], "stopped", "{record:#}");
        assert_eq!(record["usage"]["total_tokens"].as_u64(), wanted, "{record:#}");
        if wanted.is_some() {
            assert_eq!(record["usage"]["complete"], false, "{record:#}");
        }
        assert!(
            record["harness"]["resume"].as_str().is_some_and(|line| line.starts_with("opencode -s ses_"))
        );
    }
}

#[test]
fn budgets_warn_and_stop() {
    let stage = Stage::new();
    let call = stage
        .call("opencode-ok", &["--harness", "opencode", "--max-tokens", "1500", "x"])
        .env("SPEAKER_PACE", "0.2");
    let done = call.run();
    assert!(done.assert_code(124).err().contains("1230 of the token limit of 1500 is used"), "{done:?}");
    let record = stage.record();
    assert_eq!((&record["status"], &record["exit_reason"]), (&"stopped".into(), &"budget_exhausted".into()));
    assert!(record["ended_by"]["reason"].as_str().is_some_and(|why| why.contains("2460")), "{record:#}");
    for flags in [&["--max-cost", "0.003"][..], &["--max-turns", "1"]] {
        let stage = Stage::new();
        let call = stage.call("opencode-ok", &[&["--harness", "opencode"], flags, &["x"]].concat());
        call.env("SPEAKER_LINES", "6").run().assert_code(124);
        assert_eq!(stage.record()["exit_reason"], "budget_exhausted");
    }
}

#[test]
fn a_broken_stream_is_ended_as_stalled() {
    let stage = Stage::new();
    let whole = fs::read_to_string(fixture("transcripts/opencode-cut.stdout")).expect("a transcript");
    let longer = stage.world.path("longer");
    fs::write(longer.with_extension("stdout"), whole.repeat(3)).expect("a transcript");
    let call = stage.call("opencode-ok", &["--harness", "opencode", "x"]).env("SPEAKER_TRANSCRIPT", longer);
    call.env("SPEAKER_LINES", "150").run().assert_code(124);
    let record = stage.record();
    assert_eq!(record["exit_reason"], "stalled", "{record:#}");
    assert!(
        record["ended_by"]["reason"].as_str().is_some_and(|why| why.contains("steps in a row")),
        "{record:#}"
    );
}
