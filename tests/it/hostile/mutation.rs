//! What can be done to the directory of a run.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag};
use serde_json::{Value, json};

use crate::random::Random;

/// What a mutation may know of the ground that it is done on.
pub struct Ground {
    /// A directory beside the store, which nothing may change.
    pub outside: PathBuf,
    /// A process that no run ever had, as it is known where the commands are.
    pub canary: (i32, u64),
    /// Another run of the store.
    pub other_run: String,
}

/// One thing to do to a run's directory.
pub type Mutation = fn(&mut Random, &Ground, &Path);

pub const FILES: [&str; 15] = [
    "attach",
    "run.json",
    "status.json",
    "events.jsonl",
    "notes.jsonl",
    "harness.log",
    "harness.idx",
    "kill.jsonl",
    "task.json",
    "prompt.md",
    "diagnostics.md",
    "lock",
    "reserve",
    ".status.json.new",
    ".run.json.new",
];
const RECORDS: [&str; 3] = ["run.json", "status.json", "kill.jsonl"];
/// Text that would do much on a terminal.
pub const NASTY: &str =
    "\u{1b}]52;c;aGk=\u{7}\u{9b}31m\u{1b}[2J\u{202e}\u{2066}\u{61c}\u{7f}\n\r\t\u{8}x\u{2028}\u{0}";

/// All of them, each with its name for the report.
pub const ALL: [(&str, Mutation); 25] = [
    ("torn", torn),
    ("empty", |random, _, dir| put(random, dir, &FILES, b"")),
    ("flipped", flipped),
    ("deep", |random, _, dir| {
        let deep = ["[", "{\"a\":"][random.index(2)].repeat(100_000);
        put(random, dir, &RECORDS, deep.as_bytes());
    }),
    ("schema", schema),
    ("duplicate", |random, _, dir| {
        let text = text_of(&dir.join(RECORDS[random.index(2)]));
        put(
            random,
            dir,
            &RECORDS,
            text.replacen('{', "{\"status\":\"running\",\"later\":1,\"later\":2,", 1).as_bytes(),
        );
    }),
    ("number", |random, _, dir| leaf(random, dir, Value::is_number, odd_number)),
    ("leaf", |random, _, dir| leaf(random, dir, |_| true, odd_value)),
    ("text", |random, _, dir| rewrite(random, dir, |record, _| nasty(record))),
    ("sparse", sparse),
    ("fifo", |random, _, dir| {
        let path = clear(random, dir, &FILES);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("a FIFO");
    }),
    ("socket", socket),
    ("device", device),
    ("directory", |random, _, dir| {
        let path = clear(random, dir, &FILES);
        fs::create_dir_all(path.join("more")).expect("a directory");
    }),
    ("link", link),
    ("hard link", hard_link),
    ("removed", |random, _, dir| drop(clear(random, dir, &FILES))),
    ("forbidden", |random, _, dir| {
        let path = if random.once_in(5) { dir.to_owned() } else { dir.join(random.pick(&FILES)) };
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o0));
    }),
    ("other run", |random, ground, dir| {
        rewrite(random, dir, |record, _| record["run_id"] = ground.other_run.as_str().into());
    }),
    ("odd owner", odd_owner),
    ("canary", canary),
    ("times", times),
    ("events", events),
    ("many values", |random, _, dir| {
        let many = "0,".repeat(3_000_000);
        let text = text_of(&dir.join(RECORDS[random.index(2)]));
        put(random, dir, &RECORDS, text.replacen('{', &format!("{{\"later\":[{many}0],"), 1).as_bytes());
    }),
    ("notes", |random, _, dir| {
        let good = r#"{"schema":1,"at":"2026-01-01T00:00:00Z","#;
        let lines = [
            format!("{good}\"name\":{}}}", json!(NASTY)),
            format!("{good}\"note\":{},\"user\":{}}}", json!(NASTY), json!(NASTY)),
            format!("{good}\"labels\":{{{}:{}}},\"pinned\":7}}", json!(NASTY), json!(NASTY)),
            format!("{good}\"labels\":{{{}:{}}},\"pinned\":true}}", json!(NASTY), json!(NASTY)),
            format!("{{\"schema\":1,\"at\":\"9999-99-99\",\"note\":\"{}\"}}", "x".repeat(3 << 20)),
            format!("{good}\"note\":{}", "[".repeat(100_000)),
        ];
        let text: Vec<_> = (0..6).map(|_| random.pick(&lines).as_str()).collect();
        put(random, dir, &["notes.jsonl"], text.join("\n").as_bytes());
    }),
];

/// Makes room for something else under one of these names.
fn clear(random: &mut Random, dir: &Path, names: &[&str]) -> PathBuf {
    let path = dir.join(random.pick(names));
    remove(&path);
    path
}

/// Removes whatever a path names.
pub fn remove(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir_all(path);
}

fn put(random: &mut Random, dir: &Path, names: &[&str], bytes: &[u8]) {
    // A hard link must be cut first: only the run's own file is meant.
    let path = clear(random, dir, names);
    let _ = fs::write(path, bytes);
}

/// The bytes of a file that has an end; an earlier mutation may have put a FIFO there, or gigabytes.
fn bytes_of(path: &Path) -> Option<Vec<u8>> {
    path.symlink_metadata().ok().filter(|found| found.is_file() && found.len() < 64 << 20)?;
    fs::read(path).ok()
}

fn text_of(path: &Path) -> String {
    String::from_utf8_lossy(&bytes_of(path).unwrap_or_default()).into_owned()
}

fn torn(random: &mut Random, _: &Ground, dir: &Path) {
    let path = dir.join(random.pick(&FILES));
    let Some(bytes) = bytes_of(&path) else { return };
    remove(&path);
    let keep = random.index(bytes.len() + 1);
    let _ = fs::write(path, &bytes[..keep]);
}

fn flipped(random: &mut Random, _: &Ground, dir: &Path) {
    let path = dir.join(random.pick(&FILES));
    let Some(mut bytes) = bytes_of(&path) else { return };
    remove(&path);
    for _ in 0..=random.below(8) {
        if !bytes.is_empty() {
            let at = random.index(bytes.len());
            bytes[at] = random.below(256) as u8;
        }
    }
    let _ = fs::write(path, bytes);
}

/// Reads the living state or the record, has it changed, and puts it back.
fn rewrite(random: &mut Random, dir: &Path, change: impl FnOnce(&mut Value, &mut Random)) {
    let path = dir.join(RECORDS[random.index(2)]);
    let Some(mut record) = bytes_of(&path).and_then(|b| serde_json::from_slice::<Value>(&b).ok()) else {
        return;
    };
    change(&mut record, random);
    remove(&path);
    let _ = fs::write(path, record.to_string());
}

fn schema(random: &mut Random, _: &Ground, dir: &Path) {
    rewrite(random, dir, |record, random| {
        let odd =
            [json!(0), json!(2), json!(999), json!(-1), json!("1"), json!(1.5), json!(u64::MAX), Value::Null];
        match random.index(odd.len() + 1) {
            at if at < odd.len() => record["schema"] = odd[at].clone(),
            _ => drop(record.as_object_mut().expect("an object").remove("schema")),
        }
    });
}

/// Replaces one value somewhere in a record.
fn leaf(random: &mut Random, dir: &Path, fits: fn(&Value) -> bool, odd: fn(&mut Random) -> Value) {
    rewrite(random, dir, |record, random| {
        let mut places = Vec::new();
        collect(record, String::new(), fits, &mut places);
        for _ in 0..=random.below(3) {
            if !places.is_empty()
                && let Some(value) = record.pointer_mut(random.pick::<String>(&places))
            {
                *value = odd(random);
            }
        }
    });
}

fn collect(value: &Value, path: String, fits: fn(&Value) -> bool, places: &mut Vec<String>) {
    if fits(value) && !path.is_empty() {
        places.push(path.clone());
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                collect(value, format!("{path}/{name}"), fits, places);
            }
        }
        Value::Array(items) => {
            for (at, value) in items.iter().enumerate() {
                collect(value, format!("{path}/{at}"), fits, places);
            }
        }
        _ => {}
    }
}

fn odd_number(random: &mut Random) -> Value {
    let odd = [
        json!(-1),
        json!(0),
        json!(1),
        json!(i32::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e308),
        json!(-1e308),
        json!(0.1),
        json!(256),
        json!(65_536),
    ];
    random.pick(&odd).clone()
}

fn odd_value(random: &mut Random) -> Value {
    let odd = [
        Value::Null,
        json!([]),
        json!({}),
        json!(true),
        json!(NASTY),
        json!(""),
        json!([[], {}]),
        json!("../.."),
    ];
    if random.once_in(4) { odd_number(random) } else { random.pick(&odd).clone() }
}

/// Puts nasty text in the place of every text that is nobody's format.
fn nasty(value: &mut Value) {
    const FORMAT: [&str; 12] = [
        "run_id",
        "status",
        "exit_reason",
        "started_at",
        "completed_at",
        "phases",
        "plan",
        "ended_between",
        "mode",
        "boot_id",
        "author",
        "updated_at",
    ];
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut().filter(|(name, _)| !FORMAT.contains(&name.as_str())) {
                match value {
                    Value::String(text)
                        if !matches!(name.as_str(), "actor" | "capture" | "stdin" | "fate") =>
                    {
                        *text = format!("{text}{NASTY}");
                    }
                    other => nasty(other),
                }
            }
            fields.insert(NASTY.to_owned(), NASTY.into());
        }
        Value::Array(items) => items.iter_mut().for_each(|item| match item {
            Value::String(text) => *text = format!("{text}{NASTY}"),
            other => nasty(other),
        }),
        _ => {}
    }
}

fn sparse(random: &mut Random, _: &Ground, dir: &Path) {
    let names = [
        "run.json",
        "status.json",
        "events.jsonl",
        "notes.jsonl",
        "harness.log",
        "kill.jsonl",
        "harness.idx",
    ];
    let path = clear(random, dir, &names);
    // Of a log that is printed whole a little less is enough.
    let size = if path.ends_with("harness.log") { 4 << 20 } else { 4 << 30 };
    File::create(path).and_then(|file| file.set_len(size)).expect("a sparse file");
}

fn socket(random: &mut Random, _: &Ground, dir: &Path) {
    let path = clear(random, dir, &FILES);
    // Its path may be too long for an address.
    let handle = File::open(dir).expect("the run's directory");
    let near = format!("/proc/self/fd/{}/s", std::os::fd::AsRawFd::as_raw_fd(&handle));
    if UnixListener::bind(near).is_ok() {
        let _ = fs::rename(dir.join("s"), path);
    }
}

/// `/dev/zero` by another name, which never ends; a device that there is not, where this user may make none.
fn device(random: &mut Random, _: &Ground, dir: &Path) {
    let path = clear(random, dir, &FILES);
    let device =
        if random.once_in(2) { nix::sys::stat::makedev(1, 5) } else { nix::sys::stat::makedev(300, 300) };
    let _ = nix::sys::stat::mknod(&path, SFlag::S_IFCHR, Mode::S_IRWXU, device);
}

fn link(random: &mut Random, ground: &Ground, dir: &Path) {
    let path = clear(random, dir, &FILES);
    let name = path.file_name().expect("a name").to_owned();
    let targets = [
        ground.outside.join("victim"),
        ground.outside.join("absent"),
        PathBuf::from("../../../outside/victim"),
        PathBuf::from(name),
        PathBuf::from("/dev/zero"),
        PathBuf::from(format!("../{}/run.json", ground.other_run)),
    ];
    symlink(random.pick(&targets), path).expect("a link");
}

fn hard_link(random: &mut Random, ground: &Ground, dir: &Path) {
    let path = clear(random, dir, &FILES);
    // The directory beside the store may be on another file system only where a test says so.
    let _ = fs::hard_link(ground.outside.join(random.pick(&["victim", "run.json"])), path);
}

fn odd_owner(random: &mut Random, _: &Ground, dir: &Path) {
    let pids = [0, 1, -1, 2, std::process::id().cast_signed(), i32::MAX, i32::MIN, -4711];
    let (owner, front, command) = (*random.pick(&pids), *random.pick(&pids), *random.pick(&pids));
    let start = *random.pick(&[0_u64, 1, u64::MAX]);
    plant(dir, |record| {
        record["owner"]["pid"] = owner.into();
        record["owner"]["start_time"] = start.into();
        record["owner"]["front_pid"] = front.into();
        record["owner"]["front_start_time"] = start.into();
        record["command"]["pid"] = command.into();
        record["command"]["start_time"] = start.into();
    });
}

/// Says that the run lives, with somebody else's process for a bookend or, at another start, for its command.
fn canary(random: &mut Random, ground: &Ground, dir: &Path) {
    let (pid, start) = ground.canary;
    let which = random.below(3);
    let odd_start = *random.pick(&[0, start + 1, start - 1]);
    plant(dir, |record| match which {
        0 => (record["owner"]["pid"], record["owner"]["start_time"]) = (pid.into(), start.into()),
        1 => (record["owner"]["front_pid"], record["owner"]["front_start_time"]) = (pid.into(), start.into()),
        _ => (record["command"]["pid"], record["command"]["start_time"]) = (pid.into(), odd_start.into()),
    });
    fs::write(dir.join("kill.jsonl"), json!({ "schema": 1, "at": "2026-11-21T08:30:00.000Z", "by": { "pid": pid }, "stop": { "force": true } }).to_string() + "\n")
        .unwrap_or_default();
}

/// Makes a run that seems to live, or seems to have lived until a moment ago.
fn plant(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("status.json");
    let Some(mut record) = bytes_of(&path).and_then(|b| serde_json::from_slice::<Value>(&b).ok()) else {
        return;
    };
    record["status"] = "running".into();
    if record["owner"].is_object() && record["command"].is_object() {
        change(&mut record);
    }
    remove(&dir.join("run.json"));
    remove(&path);
    let _ = fs::write(path, record.to_string());
}

fn times(random: &mut Random, _: &Ground, dir: &Path) {
    let odd = [
        "0000-01-01T00:00:00.000Z",
        "9999-12-31T23:59:59.999Z",
        "9999-12-31T23:59:59.999-23:59",
        "yesterday",
        "",
        "2026-02-30T00:00:00Z",
        "1970-01-01T00:00:00.000Z",
        "2026-01-01T00:00:00+25:00",
        "99999-01-01T00:00:00Z",
    ];
    rewrite(random, dir, |record, random| {
        for name in ["started_at", "completed_at", "updated_at"] {
            record[name] = (*random.pick(&odd)).into();
        }
        record["ended_between"] = json!([random.pick(&odd), random.pick(&odd)]);
        record["duration_seconds"] = odd_number(random);
    });
    let far = libc::timespec { tv_sec: [0, 253_402_300_800, -1][random.index(3)], tv_nsec: 0 };
    let path = std::ffi::CString::new(dir.join(random.pick(&FILES)).as_os_str().as_bytes()).expect("a path");
    // SAFETY: the path ends with a NUL, and the two times outlive the call.
    unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), [far, far].as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
}

fn events(random: &mut Random, _: &Ground, dir: &Path) {
    let odd = [
        r#"{"event":"exited","exit":{"code":99999,"signal":2147483647}}"#,
        r#"{"event":"exited","exit":{"code":-1}}"#,
        r#"{"event":"exited","exit":{"signal":2147483647,"signal_name":"\u001b[31m"}}"#,
        r#"{"event":"exited","exit":"well"}"#,
        r#"{"event":"spawned","pid":1}"#,
        r#"{"event":"spawned","pid":-1}"#,
        r#"{"event":"spawned","pid":99999999999999999999}"#,
        r#"{"event":"stopping","cause":{"reason":"eaten","by":{"actor":"\u001b","reason":"\u001b[2J"}}}"#,
        r#"{"event":"stopping","cause":[]}"#,
        r#"{"event":7}"#,
        "[]",
        "\u{0}\u{1b}",
    ];
    let lines: Vec<_> = (0..20).map(|_| *random.pick(&odd)).collect();
    put(random, dir, &["events.jsonl"], lines.join("\n").as_bytes());
    if random.once_in(2) {
        remove(&dir.join("run.json"));
        plant(dir, |_| {});
    }
}
