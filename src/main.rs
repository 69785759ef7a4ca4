//! The `bookend` program.

use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    // What broke down said so by itself; the caller learns that it was bookend, not the command.
    let done = std::panic::catch_unwind(|| bookend::cli::main(std::env::args_os()));
    let done = done.unwrap_or(bookend::cli::Done::with(bookend::cli::error::INTERNAL));
    if let Some(signal) = done.die_of {
        bookend::signals::die_of(signal);
    }
    ExitCode::from(done.code)
}
