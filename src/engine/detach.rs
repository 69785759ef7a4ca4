//! Detaching: the visible command returns once the run is published; the front goes on in a session of its own.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use crate::disk::retry;
use crate::guard::partner::{self, Side};

/// What is reported once the run is published; each of the two bookends may say it.
const PUBLISHED: &str = "+";
/// Ends a report.
const END: u8 = 0;

/// Which process this is after detaching.
pub enum Detached {
    /// The visible command, with what the other one reported: empty once the run is published, else an error.
    Visible(String),
    /// The one that goes on, with where it reports.
    Background(Report),
}

/// Where the background process says that the run is published, or why it is not.
pub struct Report(Option<File>);

impl Report {
    /// Says that the run is published.
    pub fn published(&mut self) {
        self.say(PUBLISHED);
    }

    /// Says why there is no run.
    pub fn refused(&mut self, why: &str) {
        self.say(why);
    }

    fn say(&mut self, what: &str) {
        if let Some(mut file) = self.0.take() {
            let _ = file.write_all(&[what.as_bytes(), &[END]].concat());
        }
    }
}

/// Splits off a background process without the caller's session, terminal and streams.
///
/// # Errors
/// As pipe2(2) and fork(2).
pub fn detach() -> io::Result<Detached> {
    let (read, write) = retry(|| nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC))?;
    match partner::split()? {
        Side::Parent(_) => {
            drop(write);
            Ok(Detached::Visible(match hear(File::from(read)).as_str() {
                said if said.starts_with(PUBLISHED) => String::new(),
                "" => "the background process ended before the run was published".to_owned(),
                report => report.to_owned(),
            }))
        }
        Side::Child => {
            drop(read);
            partner::leave_session();
            close_streams()?;
            Ok(Detached::Background(Report(Some(File::from(write)))))
        }
    }
}

/// Reads a report to its end mark: the keeper has the other end of the pipe too, as long as the run lives.
fn hear(mut pipe: File) -> String {
    let mut report = Vec::new();
    let mut piece = [0; 512];
    while !report.contains(&END)
        && let Ok(n @ 1..) = pipe.read(&mut piece)
    {
        report.extend_from_slice(&piece[..n]);
    }
    report.retain(|&byte| byte != END);
    String::from_utf8_lossy(&report).into_owned()
}

/// Lets go of the caller's standard streams: a pipe that waits for their end would wait for the run.
fn close_streams() -> io::Result<()> {
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null")?.into();
    retry(|| nix::unistd::dup2_stdin(null.as_fd()))?;
    retry(|| nix::unistd::dup2_stdout(null.as_fd()))?;
    retry(|| nix::unistd::dup2_stderr(null.as_fd()))
}
