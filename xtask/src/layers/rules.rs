//! The rules, as tables and a function each. In: a file's path and code. Out: breaches, `file:line: rule; what instead`.

use super::source::Code;

/// Where a room stands on the way of the data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Floor {
    /// Every room may use it.
    Ground(u8),
    /// Uses the rooms with smaller numbers.
    Storey(u8),
    /// Uses any room, and none uses it.
    Door,
}

/// detector's rooms: `ARCHITECTURE.md` draws them.
const ROOMS: [(&str, Floor); 35] = [
    ("clock", Floor::Ground(0)),
    ("config", Floor::Ground(1)),
    ("telemetry", Floor::Ground(2)),
    ("kernel", Floor::Storey(1)),
    ("capture", Floor::Storey(2)),
    ("flow", Floor::Storey(3)),
    ("tls", Floor::Storey(4)),
    ("quic", Floor::Storey(4)),
    ("fingerprint", Floor::Storey(5)),
    ("signature", Floor::Storey(5)),
    ("pipeline", Floor::Storey(6)),
    ("connection", Floor::Storey(7)),
    ("door", Floor::Storey(8)),   // for local programs: reports, questions, operators
    ("report", Floor::Storey(8)), // of a request, as web servers tell it
    ("sheet", Floor::Storey(8)),  // objects as CSV
    ("agent", Floor::Storey(9)),  // the program that a report's headers name
    ("intake", Floor::Storey(9)),
    ("family", Floor::Storey(10)), // what is known of clients by their hellos
    ("join", Floor::Storey(10)),   // hellos and reports together
    ("line", Floor::Storey(11)),   // of a hello, as `run` and `fingerprint` print it
    ("breaker", Floor::Storey(11)),
    ("network", Floor::Storey(11)),
    ("reputation", Floor::Storey(11)),
    ("session", Floor::Storey(11)),
    ("signals", Floor::Storey(11)),
    ("feeds", Floor::Storey(12)), // lists of addresses, from their publishers to the disk
    ("score", Floor::Storey(12)),
    ("policy", Floor::Storey(13)),
    ("broker", Floor::Storey(14)), // who opens the daemon's Internet sockets
    ("enforce", Floor::Storey(14)),
    ("admin", Floor::Storey(15)),
    ("inline", Floor::Storey(15)),
    ("daemon", Floor::Storey(16)),
    ("cli", Floor::Storey(17)),
    ("fuzzing", Floor::Door),
];

/// Rooms that are functions of their input: no runtime, no kernel, no files, no sockets, no clock.
const PURE: [&str; 19] = [
    "flow",
    "tls",
    "quic",
    "fingerprint",
    "signature",
    "pipeline",
    "connection",
    "line",
    "report",
    "agent",
    "family",
    "join",
    "breaker",
    "network",
    "reputation",
    "session",
    "signals",
    "score",
    "policy",
];

/// Uses that the floors alone would forbid: the configuration's values are these rooms' own types, checked once, where
/// the file can be named. In turn no pure room may use the configuration, so there is no circle.
const ALSO_ALLOWED: [(&str, &str); 7] = [
    ("config", "fingerprint"),
    ("config", "breaker"),
    ("config", "network"),
    ("config", "reputation"),
    ("config", "session"),
    ("config", "score"),
    ("config", "policy"),
];
const NOT_FOR_PURE_ROOMS: [&str; 2] = ["config", "telemetry"];

/// What a pure room must not mention, as a word or below `std`.
const IMPURE_WORDS: [&str; 8] =
    ["tokio", "aya", "TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener", "UnixDatagram"];
const IMPURE_STD: [&str; 5] = ["fs", "process", "env", "thread", "os"];

/// Where `unsafe` may stand: the kernel's half, and the one room that talks to the kernel.
const UNSAFE_ALLOWED: [&str; 2] = ["detector-ebpf/", "detector/src/kernel/"];

/// Files that may name the methods which are left out, to say that they are.
const MAY_NAME_EXCLUDED: [&str; 4] = ["NOTICE", "README.md", "CONTRIBUTING.md", "docs/licences.md"];

/// What follows `ja4` in the names of methods under the FoxIO licence, none of which may be in this repository. A
/// plural of JA4 reads like the first of them.
const EXCLUDED: [&str; 11] = ["s", "h", "l", "ls", "x", "t", "ts", "tscan", "ssh", "d", "d6"];

const SOURCES: &str = "detector/src/";

/// The room that a file belongs to: `flow` for `detector/src/flow/mod.rs` and `detector/src/flow.rs`.
fn room_of(file: &str) -> Option<&str> {
    let below = file.strip_prefix(SOURCES)?;
    let room = below.split('/').next()?;
    let room = room.strip_suffix(".rs").unwrap_or(room);
    (!matches!(below, "lib.rs" | "main.rs")).then_some(room)
}

fn floor_of(room: &str) -> Option<Floor> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// Whether one room may use another.
fn may_use(from: &str, to: &str) -> bool {
    let (Some(from_floor), Some(to_floor)) = (floor_of(from), floor_of(to)) else { return true };
    if PURE.contains(&from) && NOT_FOR_PURE_ROOMS.contains(&to) {
        return false;
    }
    ALSO_ALLOWED.contains(&(from, to)) || is_upstream(from_floor, to_floor)
}

fn is_upstream(from: Floor, to: Floor) -> bool {
    match (from, to) {
        (_, Floor::Door) => false,
        (Floor::Ground(from), Floor::Ground(to)) => to < from,
        (_, Floor::Ground(_)) | (Floor::Door, _) => true,
        (Floor::Ground(_), Floor::Storey(_)) => false,
        (Floor::Storey(from), Floor::Storey(to)) => to < from,
    }
}

/// Files in rooms that the table doesn't know.
pub(crate) fn unlisted_rooms(files: &[String]) -> Vec<String> {
    let unlisted = files.iter().filter(|file| room_of(file).is_some_and(|room| floor_of(room).is_none()));
    let rule = "its room isn't in the table of rooms; give it a floor in `xtask/src/layers/rules.rs`";
    unlisted.map(|file| format!("{file}:1: {rule}")).collect()
}

/// What a file breaks of the rules that read code.
pub(crate) fn breaches(file: &str, code: &Code) -> Vec<String> {
    let mut found = Vec::new();
    if !UNSAFE_ALLOWED.iter().any(|place| file.starts_with(place)) {
        let rule = format!("`unsafe` stands only in {}", UNSAFE_ALLOWED.join(" and "));
        found.extend(code.lines_with("unsafe").into_iter().map(|line| format!("{file}:{line}: {rule}")));
    }
    let Some(room) = room_of(file) else { return found };
    found.extend(upward_uses(file, room, code));
    // A test's deadline is real time.
    if room != "clock" && !file.ends_with("/tests.rs") {
        for kind in ["Instant", "SystemTime"] {
            let rule = format!("only clock.rs calls `{kind}::now`: take the time as a parameter, or a `Clock`");
            let lines = code.lines_with_path(kind, "now").into_iter();
            found.extend(lines.map(|line| format!("{file}:{line}: {rule}")));
        }
    }
    if PURE.contains(&room) {
        found.extend(impure_mentions(file, room, code));
    }
    found
}

fn upward_uses(file: &str, room: &str, code: &Code) -> Vec<String> {
    // `super::super::tls` in flow/assembler.rs means crate::tls: as many steps up as the file lies deep
    let depth = file[SOURCES.len()..].trim_end_matches("/mod.rs").split('/').count();
    let from_crate = code.paths("crate").into_iter();
    let from_super = code.paths("super").into_iter().filter_map(|mut path| {
        let up = 1 + path.segments.iter().take_while(|segment| *segment == "super").count();
        path.segments.drain(..up - 1);
        (up >= depth).then_some(path)
    });
    let allowed: Vec<&str> = ROOMS.iter().map(|(name, _)| *name).filter(|to| may_use(room, to)).collect();
    let mut found = Vec::new();
    for path in from_crate.chain(from_super) {
        let Some(used) = path.segments.first().filter(|used| *used != room) else { continue };
        if !may_use(room, used) {
            let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(" ") };
            found.push(format!("{file}:{}: `{room}` must not use `{used}`; it may use: {allowed}", path.line));
        }
    }
    found.dedup(); // `use crate::tls::{a, b}` is one breach
    found
}

fn impure_mentions(file: &str, room: &str, code: &Code) -> Vec<String> {
    let words = IMPURE_WORDS
        .iter()
        .flat_map(|word| code.lines_with(word).into_iter().map(move |line| (line, (*word).to_owned())));
    let below_std = IMPURE_STD
        .iter()
        .flat_map(|name| code.lines_with_path("std", name).into_iter().map(move |line| (line, format!("std::{name}"))));
    let rule = format!("in `{room}`, which is pure: what it needs comes in as a parameter");
    words.chain(below_std).map(|(line, what)| format!("{file}:{line}: `{what}` {rule}")).collect()
}

/// Names of methods that aren't ours to use, anywhere in the text, comments included.
pub(crate) fn excluded_methods(file: &str, text: &str) -> Vec<String> {
    if MAY_NAME_EXCLUDED.contains(&file) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.to_ascii_lowercase();
        for (at, name) in line.match_indices("ja4") {
            let suffix = line[at + name.len()..].split(|c: char| !c.is_alphanumeric() && c != '_').next();
            if suffix.is_some_and(|suffix| EXCLUDED.contains(&suffix)) {
                let rule =
                    "names a method under another licence (or a plural that reads like one: write \"JA4 values\")";
                found.push(format!("{file}:{}: `ja4{}` {rule}", index + 1, suffix.unwrap_or_default()));
            }
        }
    }
    found
}
