//! Harnesses: the agents that do tasks. How each is called without a person, and what its output says. Pure.
//!
//! An adapter is two functions: a [`Call`] for what is asked, and what one line of output adds to what was [`Heard`].
//! Lines that are not understood are counted and passed over: a new version of an agent must never stop a run.

pub mod aider;
pub mod call;
pub mod claude;
pub mod codex;
pub mod custom;
pub mod ear;
pub mod gemini;
pub mod heard;
pub mod opencode;

pub use call::{Ask, Call, PromptBy};
pub use custom::Template;
pub use ear::Ear;
pub use heard::Heard;

/// Which harness it is, by how it is called and how it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Harness {
    /// Claude Code, `claude -p`.
    Claude,
    /// Codex, `codex exec`.
    Codex,
    /// Gemini CLI.
    Gemini,
    /// opencode, `opencode run`.
    Opencode,
    /// aider, `aider --message`.
    Aider,
    /// Any other command, as the configuration says.
    Custom(Template),
}

/// The harnesses that bookend knows by itself.
pub const KNOWN: [(&str, Harness); 5] = [
    ("claude", Harness::Claude),
    ("codex", Harness::Codex),
    ("gemini", Harness::Gemini),
    ("opencode", Harness::Opencode),
    ("aider", Harness::Aider),
];

impl Harness {
    /// The harness of a name, where bookend knows it by itself.
    #[must_use]
    pub fn known(name: &str) -> Option<Self> {
        KNOWN.iter().find(|(known, _)| *known == name).map(|(_, harness)| harness.clone())
    }

    /// The harness that a plain command line calls, by the name of its program.
    #[must_use]
    pub fn of_program(program: &str) -> Option<(&'static str, Self)> {
        let name = program.rsplit('/').next().unwrap_or(program);
        KNOWN.iter().find(|(known, _)| *known == name).map(|(known, harness)| (*known, harness.clone()))
    }

    /// How it is called for what is asked.
    #[must_use]
    pub fn call(&self, ask: &Ask) -> Call {
        match self {
            Self::Claude => claude::call(ask),
            Self::Codex => codex::call(ask),
            Self::Gemini => gemini::call(ask),
            Self::Opencode => opencode::call(ask),
            Self::Aider => aider::call(ask),
            Self::Custom(template) => custom::call(template, ask),
        }
    }

    /// Flags that a plain command line of this harness lacks for its output to be understood; none where it has them,
    /// or where it is called in a way that is a person's own business.
    #[must_use]
    pub fn flags_to_hear(&self, argv: &[String]) -> Vec<String> {
        match self {
            Self::Claude => claude::flags_to_hear(argv),
            Self::Codex => codex::flags_to_hear(argv),
            Self::Gemini => gemini::flags_to_hear(argv),
            Self::Opencode => opencode::flags_to_hear(argv),
            Self::Aider | Self::Custom(_) => Vec::new(),
        }
    }

    /// Whether a plain command line of this harness already speaks in a form that is understood.
    #[must_use]
    pub fn is_heard(&self, argv: &[String]) -> bool {
        let says = |flag: &str| call::has_flag(argv, &[flag]);
        let streams = argv.iter().any(|arg| arg.ends_with("stream-json"));
        match self {
            Self::Claude | Self::Gemini => streams,
            Self::Codex => says("--json") || says("--experimental-json"),
            Self::Opencode => {
                says("--format") && argv.iter().any(|arg| arg == "json" || arg == "--format=json")
            }
            Self::Aider | Self::Custom(_) => false,
        }
    }

    /// Whether its output, when called as [`Self::call`] says, ends with a word on how it went.
    #[must_use]
    pub fn declares(&self) -> bool {
        match self {
            Self::Aider => false,
            Self::Custom(template) => template.declares(),
            _ => true,
        }
    }

    /// Whether it has a place for added instructions; for others they stand before the prompt.
    #[must_use]
    pub fn takes_system(&self) -> bool {
        match self {
            Self::Claude => true,
            Self::Custom(template) => template.takes_system(),
            _ => false,
        }
    }

    /// Takes one line of its standard output.
    pub fn hear(&self, line: &str, heard: &mut Heard) {
        let parsed = if line.starts_with('{') { serde_json::from_str(line).ok() } else { None };
        let understood = match (self, &parsed) {
            (Self::Claude, Some(event)) => claude::hear(event, line, heard),
            (Self::Codex, Some(event)) => codex::hear(event, line, heard),
            (Self::Gemini, Some(event)) => gemini::hear(event, line, heard),
            (Self::Opencode, Some(event)) => opencode::hear(event, line, heard),
            (Self::Aider, _) => aider::hear(line, heard),
            (Self::Custom(template), _) => custom::hear(template, parsed.as_ref(), line, heard),
            (_, None) => false,
        };
        heard.lines += 1;
        heard.not_understood += u64::from(!understood && !line.trim().is_empty());
    }
}
