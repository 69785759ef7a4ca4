//! The `bookend` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    let done = bookend::cli::main(std::env::args_os());
    if let Some(signal) = done.die_of {
        bookend::signals::die_of(signal);
    }
    ExitCode::from(done.code)
}
