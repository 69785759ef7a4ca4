//! Detaching: the visible command returns once the run is published; the front goes on in a session of its own.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use crate::disk::retry;
use crate::guard::partner::{self, Side};

/// What is reported once the run is published; each of the two bookends may say it.
const PUBLISHED: &str = "+";

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
            let _ = file.write_all(what.as_bytes());
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
            let mut report = String::new();
            let _ = File::from(read).read_to_string(&mut report);
            Ok(Detached::Visible(match report.as_str() {
                said if said.starts_with(PUBLISHED) => String::new(),
                "" => "the background process ended before the run was published".to_owned(),
                _ => report,
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

/// Lets go of the caller's standard streams: a pipe that waits for their end would wait for the run.
fn close_streams() -> io::Result<()> {
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null")?.into();
    retry(|| nix::unistd::dup2_stdin(null.as_fd()))?;
    retry(|| nix::unistd::dup2_stdout(null.as_fd()))?;
    retry(|| nix::unistd::dup2_stderr(null.as_fd()))
}
