//! The `bookend` program.

use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let done = bookend::cli::main(std::env::args_os());
    if let Some(signal) = done.die_of {
        bookend::signals::die_of(signal);
    }
    ExitCode::from(done.code)
}
