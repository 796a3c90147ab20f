//! The command line as a whole: what every verb has in common. Formats that programs read, exit codes that are never
//! confused, errors of three lines, and no colours where nobody looks.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use clap::CommandFactory as _;
use detector::cli::Cli;
use detector_tests::daemon::{Daemon, DaemonOptions, configuration, control, control_ok, control_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{Lab, LabOptions};
use detector_tests::programs;
use detector_tests::terminal::Terminal;
use serde_json::Value;

use crate::top::Scene;

const JA4: &str = "t13d1516h2_8daaf6152771_02713d6af862";

/// Every verb that speaks to the daemon, as it is typed.
const VERBS: [&str; 19] = [
    "block 192.0.2.7",
    "allow 192.0.2.7",
    "confirm",
    "unblock 192.0.2.7",
    "unallow 192.0.2.7",
    "challenge 192.0.2.7",
    "unchallenge 192.0.2.7",
    "list",
    "mode",
    "status",
    "reports",
    "signals t13d1516h2_8daaf6152771_02713d6af862",
    "explain 192.0.2.7",
    "config show --running",
    "config diff",
    "reload",
    "log",
    "log debug",
    "block --from /dev/null --skip-bad",
];

/// Those that work without one, or in its place; and `top`, which wants a terminal first.
const OTHERS: [&str; 12] = [
    "run",
    "attach",
    "detach",
    "sockets",
    "fingerprint",
    "replay",
    "relay",
    "doctor",
    "feeds",
    "families",
    "pages",
    "top",
];

/// Those of them that change something.
const WRITES: [&str; 10] = [
    "block",
    "allow",
    "confirm",
    "unblock",
    "unallow",
    "challenge",
    "unchallenge",
    "mode observe",
    "reload",
    "log debug",
];

/// Groups that any Debian has, in place of `detector` and `detector-status`.
const GROUPS: &str = "[admin]\ncontrol_group = \"backup\"\nstatus_group = \"www-data\"\n";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A member of the control group.
    Operator,
    /// A member of the status group.
    Reader,
    /// Whoever is in no group of detector's.
    Nobody,
}

impl Role {
    const ALL: [Self; 3] = [Self::Operator, Self::Reader, Self::Nobody];

    fn groups(self) -> &'static str {
        match self {
            Self::Operator => "--groups=backup",
            Self::Reader => "--groups=www-data",
            Self::Nobody => "--clear-groups",
        }
    }

    /// Runs a verb of detector's.
    fn run(self, lab: &Lab, program: &Path, verb: &str) -> Result<Output> {
        let mut command = lab.server().command("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", self.groups()]).arg(program).args(words(verb));
        // The lab's own, and not the machine's pins.
        command.env("DETECTOR_PINS", lab.file("no-pins")).env("DETECTOR_CONTROL_SOCKET", control_socket(lab));
        Ok(command.output()?)
    }
}

/// A copy of detector that anybody may run, beside the sockets, which anybody may see: what stops them is the sockets' own
/// mode.
fn for_anybody(lab: &Lab) -> Result<PathBuf> {
    let socket = control_socket(lab);
    let directory = socket.parent().context("a directory")?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o711))?;
    let program = directory.join("detector");
    fs::copy(programs::detector()?, &program)?;
    Ok(program)
}

fn words(command: &str) -> Vec<&str> {
    command.split_whitespace().collect()
}

/// Every verb that prints rows says the same in each format, and nothing but that in a pipe.
#[test]
fn every_verb_that_prints_rows_does_in_all_three_formats() -> Result<()> {
    let scene = Scene::start()?;
    let lab = &scene.lab;
    // A sheet's columns are the same whatever is in it.
    let header =
        || Ok::<_, anyhow::Error>(control_ok(lab, &["list", "--format", "csv"])?.lines().next().map(str::to_owned));
    let of_nothing = header()?;
    control_ok(lab, &["block", "192.0.2.7"])?;
    control_ok(lab, &["block", "--ja4", JA4, "--ttl", "forever"])?;
    ensure!(of_nothing.is_some() && of_nothing == header()?, "{of_nothing:?}");
    let list = lab.file("own.txt");
    fs::write(&list, "192.0.2.0/24\n")?;
    let file = lab.file("feeds.toml");
    fs::write(&file, format!("[feeds]\nlists.own = {{ class = \"denied\", file = \"{}\" }}\n", list.display()))?;
    let capture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/captures/pcaps/curl-openssl.pcap");
    for verb in [
        "status",
        "list",
        "reports",
        &format!("signals {}", scene.ja4),
        &format!("explain {}", scene.ja4),
        &format!("doctor --config {}", configuration(lab).display()),
        &format!("feeds list --config {}", file.display()),
        &format!("fingerprint {capture}"),
        "config show",
        "config show --running",
        &format!("config diff --config {}", file.display()),
    ] {
        in_all_formats(lab, verb).with_context(|| verb.to_owned())?;
    }
    Ok(())
}

fn in_all_formats(lab: &Lab, verb: &str) -> Result<()> {
    let printed = |format| -> Result<String> {
        let done = control(lab, &[&words(verb)[..], &["--format", format]].concat())?;
        // The doctor may find something, and a configuration be another; what they say is to be read all the same.
        ensure!(matches!(done.status.code(), Some(0..=2)), "{format}: {done:?}");
        Ok(String::from_utf8(done.stdout)?)
    };
    let [table, json, csv] = ["table", "json", "csv"].map(printed);
    let (table, json, csv) = (table?, json?, csv?);
    for text in [&table, &json, &csv] {
        ensure!(!text.is_empty() && !text.contains('\u{1b}'), "{text}");
    }
    let objects: Vec<Value> = json.lines().map(serde_json::from_str).collect::<serde_json::Result<_>>()?;
    ensure!(objects.iter().all(Value::is_object), "{json}");
    let mut sheet = csv::Reader::from_reader(csv.as_bytes());
    let header: Vec<String> = sheet.headers()?.iter().map(str::to_owned).collect();
    let rows: Vec<csv::StringRecord> = sheet.records().collect::<csv::Result<_>>()?;
    ensure!(rows.len() == objects.len(), "{} lines of CSV, {} of JSON", rows.len(), objects.len());
    for (row, object) in rows.iter().zip(&objects) {
        for (key, value) in object.as_object().into_iter().flatten() {
            // What may change from one command to the next is only looked for.
            let column = header.iter().position(|column| column == key || column.starts_with(&format!("{key}.")));
            let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
            ensure!(column.is_some() || empty, "no column for {key}: {header:?}");
            if let (Some(column), Value::String(text)) = (column, value) {
                // What a spreadsheet would take for a formula has an apostrophe before it.
                let same = row.get(column).is_some_and(|cell| cell == text || cell.strip_prefix('\'') == Some(text));
                ensure!(same || text.contains('T') || text.contains(" ago"), "{key}: {text} and {:?}", row.get(column));
            }
        }
    }
    Ok(())
}

/// The tables above forget no verb.
#[test]
fn every_verb_is_known_here() {
    let command = Cli::command();
    let all: BTreeSet<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let known = VERBS.iter().filter_map(|verb| verb.split(' ').next()).chain(OTHERS);
    assert_eq!(known.collect::<BTreeSet<_>>(), all);
}

/// On a terminal there are colours, unless NO_COLOR is set to something (no-color.org).
#[test]
fn colours_are_for_terminals_and_no_color_is_heeded() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    for (setting, coloured) in [("NO_COLOR=", true), ("NO_COLOR=1", false), ("TERM=dumb", false)] {
        let mut command = lab.server().command("env");
        command.arg(setting).arg(programs::detector()?).arg("doctor");
        command.env("DETECTOR_CONTROL_SOCKET", control_socket(&lab));
        let terminal = Terminal::start(command, (200, 50))?;
        terminal.wait_for("to know of")?;
        ensure!(terminal.is_coloured() == coloured, "{setting}: {}", terminal.text());
    }
    Ok(())
}

/// No daemon is 69, no right is 77, a wrong word 64, each in three lines at most.
#[test]
fn exit_codes_are_never_confused() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    for verb in VERBS {
        let wanted = if verb.contains("--from") { 2 } else { 69 };
        exits(verb, &control(&lab, &words(verb))?, wanted)?;
    }
    let _daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let program = for_anybody(&lab)?;
    for verb in VERBS {
        let wanted = if verb.contains("--from") { 2 } else { 77 };
        exits(verb, &Role::Nobody.run(&lab, &program, verb)?, wanted)?;
        exits(verb, &control(&lab, &[&words(verb)[..], &["--no-such-flag"]].concat())?, 64)?;
    }
    ensure!(!control_ok(&lab, &["list", "--format", "json"])?.contains("192.0.2.7"), "nobody's word was taken");
    Ok(())
}

fn exits(verb: &str, done: &Output, wanted: i32) -> Result<()> {
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.code() == Some(wanted), "`detector {verb}`: {:?}, not {wanted}: {said}", done.status);
    ensure!((1..=3).contains(&said.lines().count()) && said.starts_with("error: "), "`detector {verb}`: {said}");
    ensure!(done.stdout.is_empty(), "`detector {verb}` prints beside its error: {done:?}");
    Ok(())
}

/// threats.md T30: three roles and every verb; a line in the log for each change that was asked for, and for nothing else.
#[test]
fn each_role_may_what_it_should_and_every_change_leaves_a_line() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let daemon = Daemon::start(&lab, DaemonOptions { config: GROUPS, ..DaemonOptions::default() })?;
    let program = for_anybody(&lab)?;
    let verbs = VERBS.into_iter().filter(|verb| !verb.contains("--from")).chain(["mode observe", "top"]);
    let mut asked = 0;
    for verb in verbs {
        let is_write = WRITES.iter().any(|write| verb == *write || verb.split(' ').next() == Some(*write));
        for role in Role::ALL {
            let done = role.run(&lab, &program, verb)?;
            let said = String::from_utf8_lossy(&done.stderr);
            let code = done.status.code();
            let may = role == Role::Operator || (role == Role::Reader && !is_write);
            // Not on a terminal, which is said before anything is asked.
            let wanted = if verb == "top" { 64 } else { 77 };
            ensure!((code == Some(wanted)) != may || verb == "top", "{role:?}, `{verb}`: {code:?}, {said}");
            ensure!(may || said.lines().count() <= 3, "{role:?}, `{verb}`: {said}");
            asked += usize::from(is_write && role == Role::Operator);
        }
    }
    // Whatever is written to the status socket itself, by whomever.
    let status = control_socket(&lab).with_extension("status.sock");
    for frame in [
        r#"{"verb":"block","subject":"192.0.2.9","ttl":"1h"}"#,
        r#"{"verb":"load","list":"block","ttl":"1h","total":9,"items":[{"subject":"192.0.2.9"}],"more":true}"#,
        r#"{"verb":"challenge-listener"}"#,
        r#"{"verb":"confirm"}"#,
        r#"{"verb":"mode","mode":"enforce"}"#,
        r#"{"verb":"reload"}"#,
        r#"{"verb":"log","filter":"trace"}"#,
    ] {
        let mut stream = UnixStream::connect(&status)?;
        stream.write_all(format!("{frame}\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        ensure!(answer.contains("\"response\":\"forbidden\""), "{frame}: {answer}");
        asked += 1;
    }
    ensure!(
        !control_ok(&lab, &["list", "--format", "json"])?.contains("192.0.2.9"),
        "the status socket changes something"
    );
    let lines = until("a line for each change", PATIENCE, || {
        let log = daemon.log();
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let lines: Vec<Value> = lines.into_iter().filter(|line| line["target"] == "detector::audit").collect();
        Ok((lines.len() >= asked).then_some(lines))
    })?;
    ensure!(lines.len() == asked, "{} lines for {asked} changes: {lines:?}", lines.len());
    for line in &lines {
        ensure!(line["uid"].is_u64() && line["pid"].as_i64() > Some(0) && line["verb"].is_string(), "{line}");
    }
    Ok(())
}
