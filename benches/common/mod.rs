//! What both benchmarks need: scratch space without a disk, compiled C, the bookend to measure, and a table.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A measurement in progress: its scratch directory, its bookend, and how long it may go on.
pub struct Bench {
    dir: TempDir,
    bookend: PathBuf,
    deadline: Instant,
}

impl Bench {
    /// Starts one that ends within `budget`. Scratch is on a tmpfs where there is one: a disk only adds noise.
    ///
    /// # Errors
    /// When no scratch directory can be made.
    pub fn start(budget: Duration) -> io::Result<Self> {
        let shm = Path::new("/dev/shm");
        let base = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("bookend-bench-").tempdir_in(base)?;
        let bookend = std::env::var_os("BOOKEND").unwrap_or_else(|| env!("CARGO_BIN_EXE_bookend").into());
        println!("# bookend: {}", Path::new(&bookend).display());
        Ok(Self { dir, bookend: fs::canonicalize(bookend)?, deadline: Instant::now() + budget })
    }

    /// Returns a path in the scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the bookend to measure: `$BOOKEND`, or the one that cargo built.
    pub fn bookend(&self) -> &Path {
        &self.bookend
    }

    /// Says whether there is time for another round.
    pub fn has_time(&self) -> bool {
        Instant::now() < self.deadline
    }

    /// Describes a command whose environment is small, always the same, and points at the scratch directory.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", self.dir.path())
            .env("TMPDIR", self.dir.path())
            .env("TS_SOCKET", self.path("tsp.socket"))
            .env("BOOKEND_STORE", self.path("store"));
        command
    }

    /// Compiles a C source of this repository; `flags` as cc takes them.
    ///
    /// # Errors
    /// When cc is absent or refuses.
    pub fn compile(&self, source: &str, flags: &[&str]) -> io::Result<PathBuf> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        let program = self.path(&source.file_stem().unwrap_or_default().to_string_lossy());
        let done = Command::new("cc").args(flags).arg("-o").arg(&program).arg(&source).status()?.success();
        if done { Ok(program) } else { Err(io::Error::other(format!("cc refuses {}", source.display()))) }
    }
}

/// Reads a number from the environment.
pub fn setting(name: &str, standard: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(standard)
}

/// Prints rows with their columns aligned, the first to the left and the others to the right.
pub fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let pad = |(column, cell): (usize, &String)| match (column, widths[column]) {
            (0, wide) => format!("{cell:<wide$}"),
            (_, wide) => format!("  {cell:>wide$}"),
        };
        let line: String = row.iter().enumerate().map(pad).collect();
        println!("{}", line.trim_end());
    }
}

/// Makes one row of text.
pub fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}
