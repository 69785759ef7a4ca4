//! What the adapters make of what real agents said, whole, cut and garbled. Pure.

use std::fs;
use std::path::Path;

use bookend::harness::ear::LINE_BYTES;
use bookend::harness::heard::Heard;
use bookend::harness::{Ask, Ear, Harness, KNOWN, PromptBy, Template, custom::Answer};
use bookend::model::outcome::Outcome;
use bookend::model::usage::Usage;
use proptest::prelude::*;

fn transcript(name: &str) -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/transcripts").join(format!("{name}.stdout"));
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn hear(harness: &str, bytes: &[u8]) -> Heard {
    let mut ear = Ear::new(Harness::known(harness).expect("a harness"));
    ear.feed(bytes);
    ear.finish();
    ear.heard
}

/// What is told of a transcript in one line: outcome, input, output, cached, total, cost, turns, answer, session.
fn told(heard: &Heard) -> String {
    let outcome = match &heard.declared {
        None => "nothing".to_owned(),
        Some((Outcome::Success, _)) => "success".to_owned(),
        Some((Outcome::Error(why), _)) => format!("error ({why})"),
    };
    let Usage { input_tokens, output_tokens, cached_tokens, total_tokens, cost_usd, turns, .. } =
        &heard.usage;
    let n = |value: &Option<u64>| value.map_or("-".to_owned(), |n| n.to_string());
    let cost = cost_usd.map_or("-".to_owned(), |c| format!("{c:.5}"));
    format!(
        "{outcome}; in {} out {} cached {} all {} ${cost} turns {}; {:?}; session {}; {} of {} lines not understood",
        n(input_tokens),
        n(output_tokens),
        n(cached_tokens),
        n(total_tokens),
        n(turns),
        heard.answer.as_deref().unwrap_or("no answer"),
        if heard.session_id.is_some() { "known" } else { "unknown" },
        heard.not_understood,
        heard.lines
    )
}

#[test]
fn real_transcripts_are_understood() {
    let mut table = String::new();
    for (harness, _) in &KNOWN[1..] {
        for mode in ["ok", "401", "cut"] {
            let heard = hear(harness, &transcript(&format!("{harness}-{mode}")));
            table += &format!("{harness} {mode}: {}\n", told(&heard));
        }
    }
    insta::assert_snapshot!(table, @r#"
    codex ok: success; in 2700 out 42 cached 1000 all 2742 $- turns 1; "Mock says: done."; session known; 0 of 7 lines not understood
    codex 401: error (unexpected status 401 Unauthorized: mock 401, url: http://127.0.0.1:8199/v1/responses); in - out - cached - all - $- turns -; "no answer"; session known; 0 of 6 lines not understood
    codex cut: error (stream disconnected before completion: stream closed before response.completed); in - out - cached - all - $- turns -; "no answer"; session known; 0 of 6 lines not understood
    gemini ok: success; in 2400 out 60 cached 200 all 2470 $- turns -; "Mock says: done."; session known; 0 of 6 lines not understood
    gemini 401: error ([API Error: {"error":{"message":"mock 401","type":"invalid_api_key","code":401,"status":"invalid_api_key"}}]); in 0 out 0 cached 0 all 0 $- turns -; "no answer"; session known; 0 of 3 lines not understood
    gemini cut: error (Model stream ended without a finish reason.); in 0 out 0 cached 0 all 0 $- turns -; "no answer"; session known; 0 of 4 lines not understood
    opencode ok: success; in 2400 out 60 cached 400 all 2460 $0.00702 turns 2; "hello.txt\n```\nmade by mock\n```\n"; session known; 0 of 6 lines not understood
    opencode 401: error (mock 401); in - out - cached - all - $- turns -; "no answer"; session known; 0 of 1 lines not understood
    opencode cut: nothing; in 0 out 0 cached 0 all 0 $0.00000 turns 17; "hello.txt\n```\nmade by mock\n```\n"; session known; 0 of 51 lines not understood
    aider ok: nothing; in 2400 out 60 cached 0 all 2460 $0.00810 turns 2; "no answer"; session unknown; 11 of 27 lines not understood
    aider 401: error (litellm.AuthenticationError: AuthenticationError: OpenAIException - mock 401); in - out - cached - all - $- turns -; "no answer"; session unknown; 5 of 11 lines not understood
    aider cut: nothing; in 2400 out 60 cached 0 all 2460 $0.00810 turns 2; "no answer"; session unknown; 11 of 27 lines not understood
    "#);
}

const CLAUDE: &str = r#"{"type":"system","subtype":"init","session_id":"5e","model":"claude-x","tools":[]}
{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"Let me look."}],"usage":{"input_tokens":10,"cache_read_input_tokens":100,"output_tokens":5}},"session_id":"5e"}
{"type":"assistant","message":{"id":"m1","content":[{"type":"tool_use","name":"Bash"}],"usage":{"input_tokens":10,"cache_read_input_tokens":100,"output_tokens":5}},"session_id":"5e"}
{"type":"user","message":{"content":[{"type":"tool_result"}]},"session_id":"5e"}
{"type":"assistant","message":{"id":"m2","content":[{"type":"text","text":"Done."}],"usage":{"input_tokens":1,"cache_creation_input_tokens":20,"output_tokens":7}},"session_id":"5e"}
"#;

#[test]
fn claude_counts_each_message_once_and_believes_its_last_word() {
    let living = hear("claude", CLAUDE.as_bytes());
    insta::assert_snapshot!(told(&living), @r#"nothing; in 131 out 12 cached 100 all 143 $- turns 2; "Done."; session known; 0 of 5 lines not understood"#);
    let end = |rest: &str| hear("claude", format!("{CLAUDE}{{\"type\":\"result\",{rest}}}\n").as_bytes());
    let fine = end(
        r#""subtype":"success","is_error":false,"result":"All done.","total_cost_usd":0.25,"num_turns":2,"usage":{"input_tokens":11,"cache_read_input_tokens":100,"cache_creation_input_tokens":20,"output_tokens":12}"#,
    );
    insta::assert_snapshot!(told(&fine), @r#"success; in 131 out 12 cached 100 all 143 $0.25000 turns 2; "All done."; session known; 0 of 6 lines not understood"#);
    let both = end(r#""subtype":"success","is_error":true,"result":"API Error: 401""#);
    insta::assert_snapshot!(told(&both), @r#"error (API Error: 401); in 131 out 12 cached 100 all 143 $- turns 2; "API Error: 401"; session known; 0 of 6 lines not understood"#);
    let turns = end(r#""subtype":"error_max_turns","is_error":true,"num_turns":9"#);
    insta::assert_snapshot!(told(&turns), @r#"error (error_max_turns); in 131 out 12 cached 100 all 143 $- turns 9; "Done."; session known; 0 of 6 lines not understood"#);
}

#[test]
fn a_broken_stream_shows_as_empty_steps_and_the_same_error() {
    let heard = hear("opencode", &transcript("opencode-cut"));
    assert!(heard.empty_steps >= 10, "{}", heard.empty_steps);
    assert_eq!(heard.declared, None);
    let again = "{\"type\":\"error\",\"message\":\"Reconnecting\"}\n".repeat(12);
    assert_eq!(hear("codex", again.as_bytes()).same_error, 12);
    assert!(hear("opencode", &transcript("opencode-ok")).empty_steps == 0);
}

#[test]
fn calls_have_the_form_that_each_harness_wants() {
    let ask = Ask {
        prompt: "fix it; rm -rf --no".to_owned(),
        prompt_file: "/runs/x/prompt.md".to_owned(),
        model: Some("m-1".to_owned()),
        system: Some("be brief".to_owned()),
        new_session: Some("0-1-2".to_owned()),
        extra: vec!["--yolo".to_owned()],
        ..Ask::default()
    };
    let lines: Vec<String> = KNOWN
        .iter()
        .map(|(name, harness)| {
            let call = harness.call(&ask);
            assert_eq!(call.argv[0], *name);
            assert!((call.prompt_by == PromptBy::Argument) == call.argv.join(" ").contains("fix it"));
            format!("{} <- {:?}", call.argv.join(" "), call.prompt_by)
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    claude -p --output-format stream-json --verbose --model m-1 --append-system-prompt be brief --session-id 0-1-2 --yolo <- Stdin
    codex exec --json --model m-1 --yolo - <- Stdin
    gemini -o stream-json -m m-1 --session-id 0-1-2 --yolo --prompt=fix it; rm -rf --no <- Argument
    opencode run --format json -m m-1 --yolo -- fix it; rm -rf --no <- Argument
    aider --no-pretty --no-stream --no-check-update --no-show-release-notes --no-fancy-input --analytics-disable --message-file /runs/x/prompt.md --model m-1 --yolo <- File
    ");
    let resumed = Ask { resume: Some("s-9".to_owned()), ..ask };
    let lines: Vec<String> = KNOWN.iter().map(|(_, harness)| harness.call(&resumed).argv.join(" ")).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    claude -p --output-format stream-json --verbose --model m-1 --append-system-prompt be brief --resume s-9 --yolo
    codex exec resume s-9 --json --model m-1 --yolo -
    gemini -o stream-json -m m-1 -r s-9 --yolo --prompt=fix it; rm -rf --no
    opencode run --format json -m m-1 -s s-9 --yolo -- fix it; rm -rf --no
    aider --no-pretty --no-stream --no-check-update --no-show-release-notes --no-fancy-input --analytics-disable --message-file /runs/x/prompt.md --model m-1 --restore-chat-history --yolo
    ");
}

#[test]
fn plain_command_lines_are_recognised_and_told_what_they_lack() {
    let lack = |line: &str| {
        let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Harness::of_program(&argv[0]).map(|(_, harness)| harness.flags_to_hear(&argv).join(" "))
    };
    assert_eq!(lack("/usr/bin/claude -p hi").as_deref(), Some("--output-format stream-json --verbose"));
    assert_eq!(lack("claude -p hi --output-format=json").as_deref(), Some(""));
    assert_eq!(lack("claude").as_deref(), Some(""), "a person at a terminal");
    assert_eq!(lack("codex exec hi").as_deref(), Some("--json"));
    assert_eq!(lack("gemini -p hi").as_deref(), Some("-o stream-json"));
    assert_eq!(lack("opencode run -- --format").as_deref(), Some("--format json"));
    assert_eq!(lack("aider --message hi").as_deref(), Some(""));
    assert_eq!(lack("make claude"), None);
}

#[test]
fn a_template_needs_a_place_for_the_prompt() {
    let template = |argv: &[&str]| Template {
        argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        ..Template::default()
    };
    assert!(template(&["x"]).check().unwrap_err().contains("{prompt}"));
    assert!(template(&[]).check().is_err());
    let asked = template(&["x", "--model", "{model}", "--ask={prompt}"]);
    asked.check().expect("a template");
    let ask = Ask { prompt: "what is {model}?".to_owned(), ..Ask::default() };
    assert_eq!(Harness::Custom(asked.clone()).call(&ask).argv, ["x", "--ask=what is {model}?"]);
    let ask = Ask { model: Some("m".to_owned()), ..ask };
    assert_eq!(Harness::Custom(asked).call(&ask).argv, ["x", "--model", "m", "--ask=what is {model}?"]);
    let like = Template { answer: Answer::Like("codex"), ..template(&["x", "{prompt}"]) };
    let mut ear = Ear::new(Harness::Custom(like));
    ear.feed(&transcript("codex-ok"));
    assert_eq!(told(&ear.heard), told(&hear("codex", &transcript("codex-ok"))));
}

#[test]
fn a_line_without_an_end_is_passed_over_in_bounded_memory() {
    let mut ear = Ear::new(Harness::Codex);
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..(2 * LINE_BYTES / piece.len()) {
        ear.feed(&piece);
    }
    ear.feed(b"\n");
    ear.feed(&transcript("codex-ok"));
    assert_eq!(ear.heard.not_understood, 1);
    assert!(matches!(ear.heard.declared, Some((Outcome::Success, _))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However the bytes are cut into pieces, the same is heard.
    #[test]
    fn pieces_do_not_matter(which in 0..5_usize, mode in 0..3_usize, cuts in prop::collection::vec(1..400_usize, 1..40)) {
        let (name, harness) = &KNOWN[which];
        let bytes = match which {
            0 => CLAUDE.as_bytes().to_vec(),
            _ => transcript(&format!("{name}-{}", ["ok", "401", "cut"][mode])),
        };
        let mut ear = Ear::new(harness.clone());
        let mut rest = &bytes[..];
        for cut in cuts {
            let (piece, more) = rest.split_at(cut.min(rest.len()));
            ear.feed(piece);
            rest = more;
        }
        ear.feed(rest);
        ear.finish();
        prop_assert_eq!(&ear.heard, &hear(name, &bytes));
    }

    /// A transcript that is cut off anywhere or has bytes changed is never a success that was not said.
    #[test]
    fn damage_is_never_a_success(which in 1..4_usize, at in 0..5000_usize, flips in prop::collection::vec((0..5000_usize, any::<u8>()), 0..8)) {
        let (name, _) = &KNOWN[which];
        let mut bytes = transcript(&format!("{name}-401"));
        bytes.truncate(at);
        for (at, byte) in flips {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        let heard = hear(name, &bytes);
        prop_assert!(!matches!(heard.declared, Some((Outcome::Success, _))));
    }

    #[test]
    fn anything_can_be_heard(which in 0..5_usize, bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        hear(KNOWN[which].0, &bytes);
    }
}
