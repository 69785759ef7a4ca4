//! What is printed of logs: bytes as they are, lines with the run and the time before them, or JSON.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::feed::{Entry, Feed, LineOf};
use crate::cli::error::{FAILED, Failure};
use crate::model::record::SCHEMA;
use crate::model::stream::Stream;
use crate::model::time::Timestamp;
use crate::view::quote;

/// What is to be printed is gathered up to this size.
const GATHERED: usize = 64 * 1024;
/// Names of runs are cut to this many columns.
const LABEL_WIDTH: usize = 24;
/// The colours of the runs, in turn.
const COLOURS: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightRed,
];

/// How it is printed.
#[derive(Debug)]
pub enum Form {
    /// As it is.
    Bytes,
    /// Lines, each after the label of its run and the time.
    Text {
        /// What stands before a line of each run.
        labels: Vec<String>,
        /// Whether the time does.
        times: bool,
    },
    /// One JSON document.
    Document {
        /// The run, where there is one.
        run_id: Option<String>,
        /// The runs.
        ids: Vec<String>,
    },
    /// A JSON object a line, each of one of these runs.
    Objects(Vec<String>),
}

/// What stands before the lines of each run: its name, or the end of its id, in a column of their own.
pub fn labels(feeds: &[Feed], colour: bool) -> Vec<String> {
    let name = |feed: &Feed| {
        let alone = |name: &&String| feeds.iter().filter(|f| f.name.as_ref() == Some(*name)).count() == 1;
        let label = feed.name.as_ref().filter(alone).map_or(feed.id.short(), String::as_str);
        quote::shortened(&quote::visible_line(label), LABEL_WIDTH)
    };
    let names: Vec<String> = feeds.iter().map(name).collect();
    let widest = names.iter().map(|name| name.width()).max().unwrap_or(0);
    let dress = |(at, name): (usize, &String)| {
        let style = if colour { COLOURS[at % COLOURS.len()].on_default() } else { Style::new() };
        let space = " ".repeat(widest - name.width());
        format!("{style}{name}{space} |{style:#} ")
    };
    names.iter().enumerate().map(dress).collect()
}

/// A line as JSON.
#[derive(Serialize)]
struct LineJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a str>,
    at: Option<&'a str>,
    stream: Option<&'static str>,
    text: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

/// What is missing, as JSON.
#[derive(Serialize)]
struct GapJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a str>,
    gap_bytes: u64,
}

/// Standard output, and how it is written to.
pub struct Paper {
    form: Form,
    text: Vec<u8>,
    /// The run and stream whose line was begun and not ended.
    open: Option<(usize, Option<Stream>)>,
    lines: u64,
    closed: bool,
    /// The time that was printed last, as it is printed: many lines share one.
    stamp: Option<(Timestamp, String)>,
}

impl Paper {
    /// Paper for a form.
    pub fn new(form: Form) -> Self {
        Self { form, text: Vec::new(), open: None, lines: 0, closed: false, stamp: None }
    }

    /// Whether bytes are wanted, rather than lines.
    pub fn wants_bytes(&self) -> bool {
        matches!(self.form, Form::Bytes)
    }

    /// Whether nobody reads what is printed any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether an entry goes on with the line that was begun last.
    pub fn goes_on(&self, run: usize, entry: &Entry) -> bool {
        matches!(entry, Entry::Line(part) if !part.line.begins && self.open == Some((run, part.stream)))
    }

    /// Begins a document.
    pub fn begin(&mut self) -> Result<(), Failure> {
        if let Form::Document { run_id, .. } = &self.form {
            let run = run_id.as_ref().map(|id| format!("\"run_id\":\"{id}\",")).unwrap_or_default();
            self.text.extend_from_slice(format!("{{\"schema\":{SCHEMA},{run}\"lines\":[").as_bytes());
        }
        self.flush_if(GATHERED)
    }

    /// Prints bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.text.extend_from_slice(bytes);
        self.flush_if(GATHERED)
    }

    /// Prints a line of a run.
    pub fn line(&mut self, run: usize, at: Option<Timestamp>, part: &LineOf) -> Result<(), Failure> {
        if self.stamp.as_ref().map(|stamp| stamp.0) != at {
            self.stamp = at.map(|at| (at, at.to_string()));
        }
        let at = self.stamp.as_ref().map(|stamp| stamp.1.as_str());
        match &self.form {
            Form::Text { labels, times } => {
                let of = (run, part.stream);
                if self.open != Some(of) || part.line.begins {
                    if self.open.is_some() {
                        self.text.push(b'\n');
                    }
                    self.text.extend_from_slice(labels[run].as_bytes());
                    if let (true, Some(at)) = (times, at) {
                        self.text.extend_from_slice(at.as_bytes());
                        self.text.push(b' ');
                    }
                }
                self.text.extend_from_slice(&part.line.text);
                self.open = (!part.line.ends).then_some(of);
                if part.line.ends {
                    self.text.push(b'\n');
                }
            }
            Form::Document { run_id, ids } => {
                let of = ids.get(run).filter(|_| run_id.is_none());
                let line = json(None, of, at, part);
                self.entry(&line);
            }
            Form::Objects(ids) => {
                let line = json(Some(SCHEMA), ids.get(run), at, part);
                self.text.extend_from_slice(format!("{line}\n").as_bytes());
            }
            Form::Bytes => self.text.extend_from_slice(&part.line.text),
        }
        self.lines += 1;
        self.flush_if(GATHERED)
    }

    /// Says in JSON that bytes of a run are missing here; people are told on standard error.
    pub fn gap(&mut self, run: usize, bytes: u64) -> Result<(), Failure> {
        match &self.form {
            Form::Text { .. } | Form::Bytes => return Ok(()),
            Form::Document { run_id, ids } => {
                let run_id = ids.get(run).filter(|_| run_id.is_none()).map(String::as_str);
                let gap = gap_json(None, run_id, bytes);
                self.entry(&gap);
            }
            Form::Objects(ids) => {
                let gap = gap_json(Some(SCHEMA), ids.get(run).map(String::as_str), bytes);
                self.text.extend_from_slice(format!("{gap}\n").as_bytes());
            }
        }
        self.lines += 1;
        self.flush_if(GATHERED)
    }

    /// Adds an entry to a document.
    fn entry(&mut self, entry: &str) {
        let before = if self.lines > 0 { ",\n" } else { "\n" };
        self.text.extend_from_slice(format!("{before}{entry}").as_bytes());
    }

    /// Ends what was begun.
    pub fn finish(&mut self) -> Result<(), Failure> {
        if self.open.take().is_some() {
            self.text.push(b'\n');
        }
        if matches!(self.form, Form::Document { .. }) {
            let before = if self.lines > 0 { "\n" } else { "" };
            self.text.extend_from_slice(format!("{before}]}}\n").as_bytes());
        }
        self.flush()
    }

    /// Writes what was gathered. A reader that went away has seen what it wanted.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.flush_if(1)
    }

    fn flush_if(&mut self, enough: usize) -> Result<(), Failure> {
        if self.text.len() < enough || self.closed {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        let written = out.write_all(&self.text).and_then(|()| out.flush());
        self.text.clear();
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.closed = true,
            Err(e) => {
                let message = format!("writing to standard output: {e}");
                return Err(Failure::new(FAILED, message, "check where it goes"));
            }
            Ok(()) => {}
        }
        Ok(())
    }
}

fn gap_json(schema: Option<u32>, run_id: Option<&str>, gap_bytes: u64) -> String {
    serde_json::to_string(&GapJson { schema, run_id, gap_bytes }).unwrap_or_default()
}

fn json(schema: Option<u32>, run_id: Option<&String>, at: Option<&str>, part: &LineOf) -> String {
    let line = LineJson {
        schema,
        run_id: run_id.map(String::as_str),
        at,
        stream: part.stream.map(Stream::word),
        text: String::from_utf8_lossy(&part.line.text),
        partial: !part.line.ends,
    };
    quote::json(&serde_json::to_string(&line).unwrap_or_default())
}
