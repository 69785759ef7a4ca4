//! One run, as its directory shows it.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use bookend::model::stream::Mark;
use serde_json::Value;

use super::{LIMIT, Process, entries, eventually, file_name, json_lines, lossy};

/// The directory of one run.
#[derive(Clone, Debug)]
pub struct RunDir {
    /// Where it is.
    pub path: PathBuf,
}

impl RunDir {
    /// Returns the run's id.
    pub fn id(&self) -> String {
        file_name(&self.path)
    }

    /// Returns the names of the files in the directory, sorted.
    pub fn files(&self) -> Vec<String> {
        entries(&self.path).iter().map(|path| file_name(path)).collect()
    }

    /// Reads one file; `None` when it does not exist.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => panic!("{name}: {e}"),
        }
    }

    /// Reads one file as text.
    ///
    /// # Panics
    /// When it does not exist.
    pub fn text(&self, name: &str) -> String {
        lossy(&self.read(name).unwrap_or_else(|| panic!("no {name} among {:?}", self.files())))
    }

    /// Says whether the final record exists.
    pub fn is_sealed(&self) -> bool {
        self.path.join("run.json").exists()
    }

    /// Waits for the final record, and returns it.
    pub fn wait_sealed(&self, limit: Duration) -> Value {
        eventually(limit, "run.json", || self.is_sealed().then(|| self.run_json()))
    }

    /// Waits until the living state has this `status`, and returns it.
    pub fn wait_status(&self, status: &str) -> Value {
        eventually(LIMIT, &format!("status {status}"), || {
            let state =
                self.read("status.json").and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())?;
            (state["status"] == status).then_some(state)
        })
    }

    /// Returns the final record.
    pub fn run_json(&self) -> Value {
        self.json("run.json")
    }

    /// Returns the living state.
    pub fn status_json(&self) -> Value {
        self.json("status.json")
    }

    /// Returns the task's record.
    pub fn task_json(&self) -> Value {
        self.json("task.json")
    }

    /// Returns the events, in order.
    pub fn events(&self) -> Vec<Value> {
        json_lines(&self.path.join("events.jsonl"))
    }

    /// Returns the log, byte for byte.
    pub fn log(&self) -> Vec<u8> {
        self.read("harness.log").unwrap_or_default()
    }

    /// Returns the lines of the log's index.
    ///
    /// # Panics
    /// When there is none, or one of its lines is no mark.
    pub fn marks(&self) -> Vec<Mark> {
        let parse = |line: &str| Mark::parse(line.as_bytes()).unwrap_or_else(|| panic!("no mark: {line:?}"));
        self.text("harness.idx").lines().map(parse).collect()
    }

    /// Returns the process that the living state or the final record names under `pointer` (`/owner` or `/command`).
    pub fn process(&self, pointer: &str) -> Option<Process> {
        let state = if self.is_sealed() { self.run_json() } else { self.status_json() };
        let named = state.pointer(pointer)?;
        let pid = i32::try_from(named["pid"].as_i64()?).ok()?;
        Some(Process { pid, start_time: named["start_time"].as_u64()? })
    }

    fn json(&self, name: &str) -> Value {
        let text = self.text(name);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}\n{text}"))
    }
}
