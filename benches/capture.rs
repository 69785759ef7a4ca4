//! What it costs to keep a command's output: against `cmd > file`, where nothing is copied, and `cmd | tee file`.
//!
//! The command writes `BENCH_BYTES` (1 GiB) of text in 64 KiB blocks; processor time is of the whole tree. Rows with an
//! echo also pass everything on into a pipe that this program empties. `BENCH_ROUNDS` (3) rounds, the best of each
//! counts. `BOOKEND` chooses the binary.

mod common;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Bench, row, setting, table};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// One way to keep the output.
struct Case {
    name: &'static str,
    /// The words before the generator's own; none for the bare generator.
    words: Vec<String>,
    echo: bool,
    best: Option<Cost>,
}

/// What one run cost.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
    /// Bytes that came through the pipe of an echo.
    passed: u64,
}

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("capture: {e}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> io::Result<bool> {
    let bench = Bench::start(Duration::from_secs(45))?;
    let bytes = fitting(&bench, setting("BENCH_BYTES", 1 << 30))?;
    let generator = bench.compile("fixtures/harness/artist.c", &["-O2", "-static"])?;
    let mut cases = cases(&bench, bytes);
    let mut whole = true;
    for _ in 0..setting("BENCH_ROUNDS", 3) {
        for case in cases.iter_mut().filter(|_| bench.has_time()) {
            let cost = once(&bench, case, &generator, bytes)?;
            whole &= cost.passed >= if case.echo { bytes } else { 0 };
            let kept = kept(&bench)?;
            if kept != bytes {
                println!("# {}: {kept} of {bytes} bytes in the log", case.name);
                whole = false;
            }
            let best = case.best.get_or_insert(cost);
            *best = Cost { wall: best.wall.min(cost.wall), cpu: best.cpu.min(cost.cpu), ..cost };
        }
    }
    report(&cases, bytes);
    if !whole {
        println!("# bytes are missing, see above: these speeds do not count");
    }
    Ok(whole)
}

/// Makes the amount smaller where the scratch directory has no room for it.
fn fitting(bench: &Bench, bytes: u64) -> io::Result<u64> {
    let room = nix::sys::statvfs::statvfs(&bench.path("."))?;
    let half = room.blocks_available() * room.fragment_size() / 2;
    if half < bytes {
        println!("# only {half} bytes of scratch: less is written than asked for");
    }
    Ok(bytes.min(half))
}

fn cases(bench: &Bench, bytes: u64) -> Vec<Case> {
    let cap = (bytes * 2).to_string();
    let run = |capture: &str, more: &[&str]| {
        let mut words = row(&[&bench.bookend().to_string_lossy(), "run", "--durability", "process"]);
        words.extend(row(&["--log-max", &cap, "--capture", capture]));
        words.extend(row(more));
        words.push("--".into());
        words
    };
    let log = bench.path("log");
    let tee = format!("\"$@\" | tee {}", log.to_string_lossy());
    let case = |name, words, echo| Case { name, words, echo, best: None };
    vec![
        case("cmd > file", Vec::new(), false),
        case("bookend, file, quiet", run("file", &["--quiet"]), false),
        case("bookend, pipe, quiet", run("pipe", &["--quiet"]), false),
        case("bookend, file, echo", run("file", &[]), true),
        case("bookend, pipe, echo", run("pipe", &[]), true),
        case("cmd | tee file, echo", row(&["sh", "-c", &tee, "sh"]), true),
    ]
}

/// Runs one case once.
fn once(bench: &Bench, case: &Case, generator: &Path, bytes: u64) -> io::Result<Cost> {
    let mut command = match case.words.split_first() {
        Some((program, words)) => {
            let mut command = bench.command(program);
            command.args(words).arg(generator);
            command
        }
        None => bench.command(generator),
    };
    command.args(["gen", &bytes.to_string()]).stdin(Stdio::null());
    let before = processor_time()?;
    let began = Instant::now();
    let (success, passed) =
        if case.echo { echoed(&mut command)? } else { (silent(bench, case, &mut command)?, 0) };
    let wall = began.elapsed();
    if !success {
        return Err(io::Error::other(format!("{} failed", case.name)));
    }
    if case.echo && passed < bytes {
        println!("# {}: {passed} of {bytes} bytes passed on", case.name);
    }
    Ok(Cost { wall, cpu: processor_time()?.saturating_sub(before), passed })
}

/// Runs a command whose output goes nowhere, or into the log where the command is bare.
fn silent(bench: &Bench, case: &Case, command: &mut Command) -> io::Result<bool> {
    let out =
        if case.words.is_empty() { Stdio::from(File::create(bench.path("log"))?) } else { Stdio::null() };
    Ok(command.stdout(out).stderr(Stdio::null()).status()?.success())
}

/// Runs a command, both streams in one pipe that is emptied; says whether it succeeded and how much came.
fn echoed(command: &mut Command) -> io::Result<(bool, u64)> {
    let (mut reader, writer) = io::pipe()?;
    let mut child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    command.stdout(Stdio::null()).stderr(Stdio::null()); // gives up this side's writers
    let sink = thread::spawn(move || {
        let (mut block, mut passed) = (vec![0; 1 << 20], 0);
        loop {
            match reader.read(&mut block) {
                Ok(size) if size > 0 => passed += size as u64,
                _ => return passed,
            }
        }
    });
    let success = child.wait()?.success();
    Ok((success, sink.join().unwrap_or(0)))
}

/// Returns the processor time of all children that have ended so far.
fn processor_time() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(microseconds.unsigned_abs()))
}

/// Returns the size of the log that was kept, and makes room again.
fn kept(bench: &Bench) -> io::Result<u64> {
    let mut logs = vec![bench.path("log")];
    for run in fs::read_dir(bench.path("store/runs")).into_iter().flatten() {
        logs.push(run?.path().join("harness.log"));
    }
    let size = logs.iter().filter_map(|log| Some(fs::metadata(log).ok()?.len())).sum();
    for path in [bench.path("log"), bench.path("store")] {
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    Ok(size)
}

fn report(cases: &[Case], bytes: u64) {
    let Some(limit) = cases[0].best else { return };
    let times = |part: Duration, whole: Duration| format!("{:.2}", part.as_secs_f64() / whole.as_secs_f64());
    let mut rows = vec![row(&["kept output", "wall ms", "cpu ms", "wall/limit", "cpu/limit"])];
    let mut words = Vec::new();
    for (case, cost) in cases.iter().filter_map(|case| Some((case, case.best?))) {
        let (wall, cpu) = (times(cost.wall, limit.wall), times(cost.cpu, limit.cpu));
        words.push(format!("{}: cpu={cpu} wall={wall}", case.name));
        rows.push(vec![
            case.name.into(),
            cost.wall.as_millis().to_string(),
            cost.cpu.as_millis().to_string(),
            wall,
            cpu,
        ]);
    }
    println!("# {} MiB", bytes >> 20);
    table(&rows);
    println!("RATIO capture: {}", words[1..].join("; "));
}
