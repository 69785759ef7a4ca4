//! What is asked of a harness, and the command line that asks it.

/// How a prompt reaches a harness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptBy {
    /// On its command line.
    #[default]
    Argument,
    /// On its standard input, from the run's prompt.md.
    Stdin,
    /// As the name of a file, the run's prompt.md.
    File,
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// The program, where it is not the harness's own name.
    pub program: Option<String>,
    /// The prompt.
    pub prompt: String,
    /// The file that holds it.
    pub prompt_file: String,
    /// Which model.
    pub model: Option<String>,
    /// Text that is added to the harness's own instructions; for those that have no place for it, the prompt begins with
    /// it already.
    pub system: Option<String>,
    /// The id that a new session gets, where the harness lets us choose.
    pub new_session: Option<String>,
    /// The session that is gone on with.
    pub resume: Option<String>,
    /// Arguments from the configuration and after `--`, permission flags among them.
    pub extra: Vec<String>,
}

/// A command line, and where the prompt goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// How the prompt gets there.
    pub prompt_by: PromptBy,
    /// The session id that was chosen beforehand.
    pub session: Option<String>,
}

impl Ask {
    /// Begins a command line with the program and its fixed arguments.
    #[must_use]
    pub fn program(&self, name: &str, fixed: &[&str]) -> Vec<String> {
        let program = self.program.clone().unwrap_or_else(|| name.to_owned());
        std::iter::once(program).chain(fixed.iter().map(|&arg| arg.to_owned())).collect()
    }
}

/// Adds a flag with a value, where there is one.
pub fn option(argv: &mut Vec<String>, flag: &str, value: Option<&String>) {
    if let Some(value) = value {
        argv.extend([flag.to_owned(), value.clone()]);
    }
}

/// Whether a command line has a flag, as a word of its own or with `=value`.
#[must_use]
pub fn has_flag(argv: &[String], flags: &[&str]) -> bool {
    let is = |arg: &String, flag: &str| {
        arg == flag
            || arg.strip_prefix(flag).is_some_and(|rest| flag.starts_with("--") && rest.starts_with('='))
    };
    argv.iter().take_while(|arg| *arg != "--").any(|arg| flags.iter().any(|flag| is(arg, flag)))
}
