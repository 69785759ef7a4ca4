//! `bookend logs`.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::Done;
use super::error::Failure;
use super::pick;
use crate::disk;
use crate::guard::reconcile::Reading;
use crate::model::record::Record;
use crate::process::pump;
use crate::store::run_dir::LOG;
use crate::store::watch::Watch;
use clap::Args;

/// Arguments of `logs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend logs latest
  bookend logs -f 4k7")]
pub struct LogsArgs {
    /// The run
    pub run: String,
    /// Go on as the log grows, until the run ends
    #[arg(short, long)]
    pub follow: bool,
}

/// Bytes that are copied at a time.
const PIECE: usize = 64 * 1024;
/// Even without a sign of a change the run is looked at this often: both its bookends may have been killed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Prints a run's log.
///
/// # Errors
/// No such run, or a log that can not be read.
pub fn run(args: &LogsArgs) -> Result<Done, Failure> {
    let (store, id) = pick::one(&args.run)?;
    let log = store.open_run(&id).and_then(|dir| disk::open_at(dir, LOG));
    let log = log.map_err(|e| {
        Failure::new(
            super::error::FAILED,
            format!("opening the log of run {id}: {e}"),
            format!("bookend show {id}"),
        )
    })?;
    let mut printer = Printer { log, offset: 0 };
    let watch = Watch::of_run(&store, &id);
    loop {
        // Whether it is over is asked before the log is read, so that nothing can be added after the last look.
        let reading = pick::read(&store, &id)?;
        if !printer.print(reading.record())? {
            return Ok(Done::with(0));
        }
        if !args.follow || !matches!(reading, Reading::Living(_) | Reading::Orphaned(..)) {
            return Ok(Done::with(0));
        }
        watch.wait(LOOK_AGAIN);
    }
}

struct Printer {
    log: File,
    offset: u64,
}

impl Printer {
    /// Prints what is new; false when nobody reads it any more.
    fn print(&mut self, record: Option<&Record>) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        let mut buffer = vec![0; PIECE];
        loop {
            let (from, wanted) = self.next_part(record);
            if from > self.offset {
                tell(from - self.offset);
                self.offset = from;
            }
            let read = self.log.read_at(&mut buffer[..wanted], self.offset)?;
            if read == 0 {
                return Ok(out.flush().is_ok());
            }
            // What was dropped while it was read is not taken for output.
            if self.next_part(record).0 > self.offset {
                continue;
            }
            match out.write_all(&buffer[..read]) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                other => other?,
            }
            self.offset += read as u64;
        }
    }

    /// Where the next bytes are that were kept, and how many to read at most from there.
    fn next_part(&self, record: Option<&Record>) -> (u64, usize) {
        let up_to = |end: u64| PIECE.min(usize::try_from(end - self.offset).unwrap_or(PIECE));
        let Some(record) = record else { return (self.offset, PIECE) };
        if !record.status.is_terminal() {
            // It is being trimmed: the file itself says where its hole ends now.
            let head = pump::head_bytes(record.plan.log_max_bytes);
            let size = self.log.metadata().map_or(0, |m| m.len());
            return match self.offset {
                _ if size <= record.plan.log_max_bytes => (self.offset, PIECE),
                offset if offset < head => (offset, up_to(head)),
                offset if offset < size => (disk::next_data(&self.log, offset), PIECE),
                offset => (offset, PIECE),
            };
        }
        match record.log.gap {
            Some(gap) if self.offset < gap.offset => (self.offset, up_to(gap.offset)),
            Some(gap) => (self.offset.max(gap.offset + gap.bytes), PIECE),
            None => (self.offset, PIECE),
        }
    }
}

fn tell(bytes: u64) {
    let _ = writeln!(io::stderr(), "bookend: note: {bytes} bytes were dropped here to keep the log's limit");
}
