//! What it costs to wrap one short command: against the bare command, the least that the kernel allows, `sh`, and `tsp`.
//!
//! All runs on one processor and without a disk; the order is shuffled every round, and ratios are of the lowest tenth,
//! which other work on the machine does not move. System calls are counted by strace, the child's own included.
//! `BOOKEND` chooses the binary, `BENCH_SECONDS` the time for the rounds of each child.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Bench, row, setting, table};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Starts of each case in a round; the least of them counts.
const STARTS: &str = "5";
/// How long an idle run is watched for wake-ups.
const IDLE: Duration = Duration::from_secs(3);
/// How a command is wrapped so that a figure has a meaning: silent, and without a disk's flushes.
const RUN: [&str; 5] = ["run", "--quiet", "--durability", "process", "--"];

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("wrap: {e}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> io::Result<bool> {
    let bench = Bench::start(Duration::from_secs(50))?;
    let flags = ["-O2", "-static", "-nostdlib", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"];
    let floor = bench.compile("benches/floor.c", &flags)?;
    pin()?;
    let smallest = compare(&bench, &floor, "smallest child", &floor.to_string_lossy())?;
    let plain = compare(&bench, &floor, "true", &find("true").unwrap_or_else(|| "/bin/true".into()))?;
    let sealed = records(&bench) > 0;
    println!("# {} sealed runs in the store", records(&bench));
    idle(&bench)?;
    if !sealed {
        println!("RATIO wrap: none, because bookend left no record: its speed does not count");
        return Ok(false);
    }
    println!("RATIO wrap: smallest child {smallest}; true {plain}");
    Ok(true)
}

/// Counts the sealed runs in the store.
fn records(bench: &Bench) -> usize {
    let runs = fs::read_dir(bench.path("store/runs")).into_iter().flatten().flatten();
    runs.filter(|run| run.path().join("run.json").exists()).count()
}

/// Keeps this process and all that it starts on the last processor: a wake-up then never waits for another one.
fn pin() -> io::Result<()> {
    let all = nix::sched::sched_getaffinity(Pid::from_raw(0))?;
    let last = (0..CpuSet::count()).rev().find(|cpu| all.is_set(*cpu).unwrap_or(false)).unwrap_or(0);
    let mut one = CpuSet::new();
    one.set(last)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}

/// Looks a program up where the commands of a benchmark look too.
fn find(program: &str) -> Option<String> {
    let places = ["/usr/local/bin", "/usr/bin", "/bin"].map(|place| Path::new(place).join(program));
    places.iter().find(|path| path.exists()).map(|path| path.to_string_lossy().into_owned())
}

/// Returns the name and the command line of each way to run `child`.
fn cases(bench: &Bench, floor: &Path, child: &str) -> io::Result<Vec<(&'static str, Vec<String>)>> {
    let place = bench.path("floors");
    fs::create_dir_all(&place)?;
    let (floor, place) = (floor.to_string_lossy(), place.to_string_lossy());
    let script = format!("{child} >{place}/$$.log 2>&1; echo $? >{place}/$$.status");
    let shell = find("sh").unwrap_or_else(|| "/bin/sh".into());
    let mut bookend = row(&[&bench.bookend().to_string_lossy()]);
    bookend.extend(row(&RUN));
    bookend.push(child.into());
    let mut cases = vec![
        ("bare", row(&[child])),
        ("floor", row(&[&floor, "wrap", &place, child])),
        ("sh, log and status", row(&[&shell, "-c", &script])),
        ("bookend run", bookend),
    ];
    match find("tsp") {
        Some(tsp) => cases.push(("tsp -f", row(&[&tsp, "-f", child]))),
        None => println!("# tsp is absent: skipped"),
    }
    Ok(cases)
}

/// Measures every way to run one child, prints the table, and returns bookend's ratios in words.
fn compare(bench: &Bench, floor: &Path, title: &str, child: &str) -> io::Result<String> {
    let cases = cases(bench, floor, child)?;
    let mut times: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let end = Instant::now() + Duration::from_secs(setting("BENCH_SECONDS", 12));
    let mut order: Vec<usize> = (0..cases.len()).collect();
    let mut chance = 0x9e37_79b9_7f4a_7c15;
    while Instant::now() < end && bench.has_time() {
        shuffle(&mut order, &mut chance);
        for &case in &order {
            let (name, argv) = &cases[case];
            times.entry(name).or_default().push(least(bench, floor, argv)?);
        }
    }
    let low: BTreeMap<_, _> = times.iter_mut().map(|(name, times)| (*name, lowest_tenth(times))).collect();
    print_cases(bench, title, &cases, &low)?;
    end_tsp(bench);
    println!("# {} rounds of {STARTS}", times["bare"].len());
    let to = |name| low.get(name).map_or("-".into(), |low_ns| ratio(low["bookend run"], *low_ns));
    let (floor, shell, tsp) = (to("floor"), to("sh, log and status"), to("tsp -f"));
    Ok(format!("bookend/floor={floor} bookend/sh={shell} bookend/tsp={tsp}"))
}

fn print_cases(
    bench: &Bench,
    title: &str,
    cases: &[(&str, Vec<String>)],
    low: &BTreeMap<&str, u64>,
) -> io::Result<()> {
    let mut rows = vec![row(&[title, "low us", "over bare", "/bare", "/floor", "syscalls"])];
    for (name, argv) in cases {
        let (low_ns, bare_ns) = (low[name], low["bare"]);
        rows.push(vec![
            (*name).into(),
            (low_ns / 1000).to_string(),
            (low_ns.saturating_sub(bare_ns) / 1000).to_string(),
            ratio(low_ns, bare_ns),
            ratio(low_ns, low["floor"]),
            system_calls(bench, argv)?,
        ]);
    }
    table(&rows);
    Ok(())
}

/// Runs a command line a few times and returns the least of its times in nanoseconds.
fn least(bench: &Bench, floor: &Path, argv: &[String]) -> io::Result<u64> {
    let mut command = bench.command(floor);
    let done = command.args(["time", STARTS]).args(argv).stdin(Stdio::null()).output()?;
    let times = String::from_utf8_lossy(&done.stdout).lines().filter_map(|line| line.parse().ok()).min();
    match times {
        Some(low_ns) if done.status.success() => Ok(low_ns),
        _ => Err(io::Error::other(format!("{argv:?}: {}", done.status))),
    }
}

/// Shuffles with a small generator: the order need not be secret, only different each time.
fn shuffle(order: &mut [usize], chance: &mut u64) {
    for last in (1..order.len()).rev() {
        *chance ^= *chance << 13;
        *chance ^= *chance >> 7;
        *chance ^= *chance << 17;
        order.swap(last, usize::try_from(*chance >> 32).unwrap_or(0) % (last + 1));
    }
}

fn lowest_tenth(times: &mut [u64]) -> u64 {
    times.sort_unstable();
    times[times.len() / 10]
}

/// Writes a quotient with two digits after the point.
fn ratio(part: u64, whole: u64) -> String {
    let hundredths = part * 100 / whole.max(1);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Counts the system calls of a command and all that it starts.
fn system_calls(bench: &Bench, argv: &[String]) -> io::Result<String> {
    let Some(strace) = find("strace") else { return Ok("-".into()) };
    let trace = bench.path("trace");
    let mut command = bench.command(strace);
    command.args(["-f", "-qq", "-o"]).arg(&trace).args(argv);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    Ok(fs::read_to_string(trace)?.lines().filter(|line| is_call(line)).count().to_string())
}

/// Says whether a line of strace begins a call: not its second half, a signal or an exit.
fn is_call(line: &str) -> bool {
    let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    call.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && call.contains('(')
}

/// Ends the server that the first `tsp` started.
fn end_tsp(bench: &Bench) {
    if let Some(tsp) = find("tsp") {
        let _ = bench.command(tsp).arg("-K").stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Measures both bookends of a run that does nothing, and prints their memory and wake-ups.
fn idle(bench: &Bench) -> io::Result<()> {
    let mut front = bench.command(bench.bookend());
    let mut front = front.args(RUN).args(["sleep", "60"]).stdin(Stdio::null()).spawn()?;
    let measured = watch(&front);
    kill(Pid::from_raw(front.id().cast_signed()), Signal::SIGTERM)?;
    front.wait()?;
    let Some((bookends, memory, wakes)) = measured else {
        println!("# no sleeping run came to be measured");
        return Ok(());
    };
    println!(
        "idle run: {} bookends, {memory} KiB private, {wakes} wake-ups in {} s",
        bookends,
        IDLE.as_secs()
    );
    Ok(())
}

/// Returns how many bookends there are, their private KiB and how often they woke.
fn watch(front: &Child) -> Option<(usize, u64, u64)> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut tree = descendants(front.id());
    while !tree.iter().any(|pid| is_sleep(*pid)) {
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
        tree = descendants(front.id());
    }
    thread::sleep(Duration::from_millis(500)); // what a start still has to do is not idleness
    let bookends: Vec<_> = tree.into_iter().filter(|pid| !is_sleep(*pid)).collect();
    let wakes = || bookends.iter().map(|pid| sum(&proc_file(*pid, "status"), "ctxt_switches:")).sum::<u64>();
    let before = wakes();
    thread::sleep(IDLE);
    let after = wakes();
    let memory = bookends.iter().map(|pid| sum(&proc_file(*pid, "smaps_rollup"), "Private_")).sum();
    Some((bookends.len(), memory, after.saturating_sub(before)))
}

fn proc_file(pid: u32, name: &str) -> String {
    fs::read_to_string(PathBuf::from(format!("/proc/{pid}/{name}"))).unwrap_or_default()
}

fn is_sleep(pid: u32) -> bool {
    proc_file(pid, "comm").trim() == "sleep"
}

/// Adds the numbers of all lines whose name holds `word`.
fn sum(text: &str, word: &str) -> u64 {
    let numbers =
        text.lines().filter(|line| line.contains(word)).filter_map(|line| line.split_whitespace().nth(1));
    numbers.filter_map(|number| number.parse::<u64>().ok()).sum()
}

/// Returns a process and all below it.
fn descendants(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while next < tree.len() {
        let above = tree[next];
        tree.extend(parents.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid));
        next += 1;
    }
    tree
}

fn parent(pid: u32) -> Option<u32> {
    proc_file(pid, "stat").rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
