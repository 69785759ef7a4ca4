//! `bookend logs`.

mod feed;
mod paper;

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;

use super::args::when;
use super::error::{FAILED, Failure};
use super::{Done, pick, say};
use crate::clock;
use crate::model::stream::Stream;
use crate::model::time::{Moment, Timestamp, When};
use crate::store::Store;
use crate::store::watch::Watch;
use crate::terminal;
use feed::{Entry, Feed, Wanted};
use paper::{Form, Paper};

/// Arguments of `logs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend logs latest
  bookend logs -f -n 20 4k7
  bookend logs -t --since 10m --stderr nightly
  bookend logs -f web worker                  both as they come, each line with its run before it
  bookend logs --json latest | jq -r '.lines[] | select(.stream == \"stderr\") | .text'

On a terminal, what would steer it is left out; --raw prints it. Elsewhere nothing is changed.

The streams are known apart of runs that were started with --capture pipe, or whose output was shown live
with stdout and stderr in different places; of others, -q and -d among them, they are one.

Times are known to 100 ms; a line is of the time at which its first byte came.

--json is {\"schema\", \"run_id\", \"lines\": [{\"at\", \"stream\", \"text\"}]}; with -f it is an object a
line, each with schema and run_id. Of several runs, each line has its run_id. What is not known is
null. A line beyond 64 KiB comes in parts, all but the last with \"partial\": true. Where the log's
limit cost output, {\"gap_bytes\": N} stands between the lines.")]
pub struct LogsArgs {
    /// The runs: ids or their beginnings, last parts, names, `latest`, or run directories
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<String>,
    /// Go on as the log grows, until the run ends
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with the last N lines, or with `all`
    #[arg(short = 'n', long, value_name = "N", visible_alias = "tail", value_parser = count, default_value = "all", hide_default_value = true)]
    pub lines: Count,
    /// Only what came since, e.g. 10m (ago), 2026-11-21T08:30:00Z
    #[arg(long, value_name = "TIME", value_parser = when)]
    pub since: Option<When>,
    /// Only what came until then
    #[arg(long, value_name = "TIME", value_parser = when)]
    pub until: Option<When>,
    /// Print before each line when it came (UTC)
    #[arg(short, long)]
    pub timestamps: bool,
    /// Only what came on standard output; see below for when the two are known apart
    #[arg(long, conflicts_with = "stderr")]
    pub stdout: bool,
    /// Only what came on standard error; the same
    #[arg(long)]
    pub stderr: bool,
    /// Print on a terminal too what would steer it
    #[arg(long)]
    pub raw: bool,
    /// Print JSON
    #[arg(long, conflicts_with_all = ["timestamps", "raw"])]
    pub json: bool,
}

/// How many lines are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// All of them.
    All,
    /// The last ones.
    Last(u64),
}

fn count(text: &str) -> Result<Count, String> {
    match text {
        "all" => Ok(Count::All),
        number => number.parse().map(Count::Last).map_err(|_| "write a number of lines, or all".to_owned()),
    }
}

/// Even without a sign of a change the runs are looked at this often: their bookends may have been killed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Prints the logs of runs.
///
/// # Errors
/// No such run, a log that can not be read, streams that are not known apart.
pub fn run(args: &LogsArgs) -> Result<Done, Failure> {
    let (store, ids) = pick::several(&args.runs)?;
    // The watch comes first: what is written after the first look wakes us for the next one.
    let watch = Watch::none();
    for id in &ids {
        watch.run(&store, id);
    }
    let wanted = wanted(args);
    let mut code = 0;
    let mut feeds = Vec::new();
    for id in &ids {
        match Feed::open(&store, id, &wanted) {
            Ok(feed) => feeds.push(feed),
            // The others can be read all the same.
            Err(failure) => code = failure.report().code,
        }
    }
    if feeds.is_empty() {
        return Ok(Done::with(code));
    }
    let paper = Paper::new(form(args, ids.len() > 1, &feeds));
    let mut press = Press { feeds, paper, wanted };
    press.begin()?;
    press.print(args.follow.then_some((&store, &watch)))?;
    let broken = press.feeds.iter().any(Feed::is_broken);
    Ok(Done::with(if broken { FAILED } else { code }))
}

fn wanted(args: &LogsArgs) -> Wanted {
    let now = clock::now();
    let only = args.stdout.then_some(Stream::Out).or(args.stderr.then_some(Stream::Err));
    Wanted {
        lines: args.lines,
        since: args.since.map(|when| when.seen_from(now)),
        until: args.until.map(|when| when.seen_from(now)),
        only,
        times: args.timestamps,
        plain: std::io::stdout().is_terminal() && !args.raw && !args.json,
        follow: args.follow,
    }
}

fn form(args: &LogsArgs, several: bool, feeds: &[Feed]) -> Form {
    let ids = feeds.iter().map(|feed| feed.id.to_string()).collect();
    match (args.json, args.follow) {
        (true, true) => Form::Objects(ids),
        (true, false) if several => Form::Document { run_id: None, ids },
        (true, false) => Form::Document { run_id: feeds.first().map(|feed| feed.id.to_string()), ids },
        (false, _) if several => {
            let labels = paper::labels(feeds, terminal::wants_colour());
            Form::Text { labels, times: args.timestamps }
        }
        (false, _) if args.timestamps => Form::Text { labels: vec![String::new()], times: true },
        (false, _) => Form::Bytes,
    }
}

/// What is read, and what is printed of it.
struct Press {
    feeds: Vec<Feed>,
    paper: Paper,
    wanted: Wanted,
}

impl Press {
    /// Says what is to be known before the first line.
    fn begin(&mut self) -> Result<(), Failure> {
        for at in 0..self.feeds.len() {
            for note in self.feeds[at].first_notes(&self.wanted) {
                self.note(at, &note)?;
            }
        }
        self.paper.begin()
    }

    /// Prints what there is and, where it is to be followed, what comes.
    fn print(&mut self, follow: Option<(&Store, &Watch)>) -> Result<(), Failure> {
        let mut looked = clock::moment();
        loop {
            let printed = self.print_what_is_there()?;
            self.paper.flush()?;
            let over = self.feeds.iter().all(Feed::is_over);
            let Some((store, watch)) = follow.filter(|_| !over && !self.paper.is_closed()) else { break };
            // While output flows it is not asked each time whether the run lives.
            if !printed || is_due(looked) {
                looked = clock::moment();
                self.look(store)?;
            }
            if self.feeds.iter().any(Feed::has_more) {
                continue;
            }
            watch.wait(LOOK_AGAIN);
            if terminal::reader_is_gone() {
                break;
            }
        }
        self.paper.finish()
    }

    /// Asks of every run that is followed whether it is over. What is printed after that is all there will be.
    fn look(&mut self, store: &Store) -> Result<(), Failure> {
        for at in 0..self.feeds.len() {
            if !self.feeds[at].is_over() {
                for note in self.feeds[at].look(store) {
                    self.note(at, &note)?;
                }
            }
        }
        Ok(())
    }

    /// Prints until no run has anything more now; whether there was anything.
    fn print_what_is_there(&mut self) -> Result<bool, Failure> {
        let mut printed = false;
        while !self.paper.is_closed() {
            let Some(at) = self.first()? else { break };
            printed = true;
            let Some(entry) = self.feeds[at].take() else { continue };
            match entry {
                Entry::Note(note) => self.note(at, &note)?,
                Entry::Gap(bytes) => {
                    self.note(at, &format!("{bytes} bytes were dropped here to keep the log's limit"))?;
                    self.paper.gap(at, bytes)?;
                }
                Entry::Bytes(bytes) => self.paper.bytes(&bytes)?,
                Entry::Line(line) => {
                    let when = self.feeds[at].wall_time(line.line.ms);
                    self.paper.line(at, when, &line)?;
                }
            }
        }
        Ok(printed)
    }

    /// The run whose next entry is the earliest. A long line that was begun is gone on with first.
    fn first(&mut self) -> Result<Option<usize>, Failure> {
        let lines = !self.paper.wants_bytes();
        let mut first: Option<(bool, Timestamp, usize)> = None;
        for (at, feed) in self.feeds.iter_mut().enumerate() {
            feed.read_on(lines)?;
            let Some((when, entry)) = feed.next() else { continue };
            let key = (!self.paper.goes_on(at, entry), when, at);
            first = Some(first.map_or(key, |known| known.min(key)));
        }
        Ok(first.map(|(_, _, at)| at))
    }

    fn note(&mut self, at: usize, note: &str) -> Result<(), Failure> {
        self.paper.flush()?;
        let of = if self.feeds.len() > 1 { format!("run {}: ", self.feeds[at].id) } else { String::new() };
        say(&format!("note: {of}{note}"));
        Ok(())
    }
}

fn is_due(looked: Moment) -> bool {
    u128::from(clock::moment().ms_since(looked)) >= LOOK_AGAIN.as_millis()
}
