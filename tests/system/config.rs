//! The configuration of a live daemon: a wrong one changes nothing (threats.md T54), a good one takes effect as a whole,
//! and nothing that is held is lost by that.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use detector::config::{Config, Overrides};
use detector_tests::curl::curl;
use detector_tests::daemon::{Daemon, DaemonOptions, configuration, control, control_ok, control_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4};
use detector_tests::process::Process;
use detector_tests::reporters::Reporter;
use detector_tests::server::SERVER_NAME;
use nix::sys::signal::Signal;
use serde_json::Value;

/// Wrong configurations that the live daemon is told to take.
const WRONG: usize = 500;
/// Of so many one comes by SIGHUP, the others by the control socket.
const BY_SIGNAL: usize = 10;
const SHIPPED: &str = include_str!("../../dist/detector.toml");

/// What the daemon of both tests begins with. Nothing is done to anybody but by a rule.
const BASE: &str = "[signals]\ngroup = \"www-data\"\n[behaviour]\ntrap_paths = [\"/trap\"]\n[policy]\nblock_ttl = \"2h\"\n\
                    likely_bot = \"observe\"\ndefinitely_bot = \"observe\"\n";

/// Makes a wrong file of the lines of a right one, at this place.
type Way = fn(&[&str], usize) -> Vec<u8>;

/// What is wrong with the file, by turns: each is, whatever the line.
const WAYS: [(&str, Way); 10] = [
    ("an unknown key", |lines, at| replaced(lines, at, |line| format!("x{line}"))),
    ("an unknown section", |lines, _| [lines.join("\n"), "\n[polcy]\n".to_owned()].concat().into_bytes()),
    ("a value of another type", |lines, at| replaced(lines, at, |line| format!("{} = [[[]]]", key(line)))),
    ("a number beyond any", |lines, at| replaced(lines, at, |line| format!("{} = 1e30", key(line)))),
    ("a file that ends within a line", |lines, at| {
        let cut = lines.get(..at).unwrap_or_default().join("\n");
        format!("{cut}\n{} =", key(lines[at])).into_bytes()
    }),
    ("a key said twice", |lines, at| replaced(lines, at, |line| format!("{line}\n{line}"))),
    ("a byte that no text has", |lines, at| {
        let mut bytes = lines.join("\n").into_bytes();
        bytes.insert(lines.iter().take(at).map(|line| line.len() + 1).sum(), 0xff);
        bytes
    }),
    ("thresholds that don't rise", |lines, _| {
        lines.join("\n").replace("likely_human = 0.05", "likely_human = 0.9").into_bytes()
    }),
    ("more than a mebibyte", |lines, _| [lines.join("\n"), "\n# and so on".repeat(100_000)].concat().into_bytes()),
    ("a door that is open to all", |lines, _| {
        lines.join("\n").replace("listen = \"off\"", "listen = \"0.0.0.0:9466\"").into_bytes()
    }),
];

fn key(line: &str) -> &str {
    line.split(" = ").next().unwrap_or_default()
}

fn replaced(lines: &[&str], at: usize, by: impl Fn(&str) -> String) -> Vec<u8> {
    let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    lines[at] = by(&lines[at]);
    lines.join("\n").into_bytes()
}

/// One request of the control socket.
fn ask(lab: &Lab, request: &str) -> Result<Value> {
    let mut stream = BufReader::new(UnixStream::connect(control_socket(lab))?);
    stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// What the daemon works by.
fn in_force(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let lines = control_ok(lab, &["config", "show", "--running", "--format", "json"])?;
    let read = |line: &str| {
        let setting: Value = serde_json::from_str(line)?;
        let text = |key: &str| setting[key].as_str().unwrap_or_default().to_owned();
        Ok((text("key"), text("value") + " " + &text("origin") + " " + &text("from")))
    };
    lines.lines().map(read).collect()
}

fn reloads(lab: &Lab, daemon: &Daemon, outcome: &str) -> Result<f64> {
    Ok(daemon.metrics(lab)?.sum("detector_files_total", &[("file", "config"), ("outcome", outcome)]))
}

#[test]
fn five_hundred_wrong_configurations_change_nothing() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let mut daemon = Daemon::start(&lab, DaemonOptions { config: BASE, ..DaemonOptions::default() })?;
    control_ok(&lab, &["block", "192.0.2.7", "--ttl", "1h"])?;
    let (before, blocked) = (in_force(&lab)?, list(&lab)?);
    ensure!(before["policy.block_ttl"].starts_with("\"2h\" file "), "{}", before["policy.block_ttl"]);

    let lines: Vec<&str> = SHIPPED.lines().collect();
    let typed = |line: &&str| !line.starts_with('#') && line.contains(" = ");
    let keys: Vec<usize> = (0..lines.len()).filter(|at| typed(&lines[*at])).collect();
    let file = configuration(&lab);
    for number in 0..WRONG {
        let (what, way) = WAYS[number % WAYS.len()];
        fs::write(&file, way(&lines, keys[(number / WAYS.len() * 7 + number) % keys.len()]))?;
        // What `config check` says, a reload does.
        let overrides = Overrides { file: Some(file.clone()), ..Overrides::default() };
        let Err(checked) = Config::load(&overrides) else { bail!("{number}, {what}: is right") };
        ensure!(checked.to_string().lines().count() <= 3, "{number}, {what}: {checked}");
        if number % BY_SIGNAL == 0 {
            daemon.signal(Signal::SIGHUP)?;
            let wanted = number as f64 + 1.0;
            until(
                "the signal's reload",
                PATIENCE,
                || Ok((reloads(&lab, &daemon, "refused")? == wanted).then_some(())),
            )?;
        } else {
            let answer = ask(&lab, r#"{"verb":"reload"}"#)?;
            ensure!(answer["outcome"] == "refused", "{number}, {what}: {answer}");
            ensure!(answer["error"] == checked.to_string(), "{number}, {what}: {answer} {checked}");
        }
    }
    // A file that isn't there any more, and one that is a directory.
    fs::remove_file(&file)?;
    let missing = control(&lab, &["reload"])?;
    fs::create_dir(&file)?;
    let directory = control(&lab, &["reload"])?;
    for (done, what) in [(missing, "No such file"), (directory, "Is a directory")] {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(
            done.status.code() == Some(64) && said.contains(what) && said.contains("nothing has changed"),
            "{said}"
        );
    }

    ensure!(daemon.ended()?.is_none(), "it ended");
    assert_eq!(reloads(&lab, &daemon, "refused")?, WRONG as f64 + 2.0);
    assert_eq!(reloads(&lab, &daemon, "applied")? + reloads(&lab, &daemon, "unchanged")?, 0.0);
    assert_eq!(in_force(&lab)?, before);
    ensure!(list(&lab)? == blocked, "the lists changed");
    show(&format!("wrong configurations: {WRONG} of {WRONG} refused, counted, and nothing changed"));
    Ok(())
}

fn list(lab: &Lab) -> Result<String> {
    let entries = control_ok(lab, &["list", "--format", "json"])?;
    let subjects = entries.lines().map(|line| Ok(serde_json::from_str::<Value>(line)?["subject"].to_string()));
    Ok(subjects.collect::<Result<Vec<_>>>()?.join("\n"))
}

/// A web server that reports, and a connection that stays open.
struct Scene {
    connection: Process,
    _server: Reporter,
    daemon: Daemon,
    lab: Lab,
}

impl Scene {
    fn start() -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let options = DaemonOptions { config: BASE, arguments: &["--enforce"], ..DaemonOptions::default() };
        let daemon = Daemon::start(&lab, options)?;
        let server = Reporter::nginx(&lab, true)?;
        let mut command = lab.client().command("openssl");
        command.args(["s_client", "-quiet", "-connect", "10.77.0.1:443", "-servername", SERVER_NAME]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let connection = Process::start("openssl s_client", &mut command)?;
        Ok(Self { connection, _server: server, daemon, lab })
    }

    /// Asks over the open connection; the JA4 that the request was joined to.
    fn joined(&mut self, path: &str) -> Result<String> {
        let pipe = self.connection.child().stdin.as_mut().context("no pipe")?;
        write!(pipe, "GET {path} HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n")?;
        pipe.flush()?;
        self.report(path, |report| report["ja4"].as_str().map(str::to_owned))
    }

    fn report<T>(&self, path: &str, find: impl Fn(&Value) -> Option<T>) -> Result<T> {
        until(&format!("the report of {path}"), PATIENCE, || {
            let printed = control(&self.lab, &["reports", "--lines", "4096", "--format", "json"])?;
            let lines = String::from_utf8(printed.stdout)?;
            let seen: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            Ok(seen.iter().filter(|seen| seen["report"]["path"] == path).find_map(&find))
        })
        .with_context(|| self.daemon.log())
    }

    /// Whether a new connection of curl's gets its page.
    fn answered(&self, source: IpAddr, path: &str) -> Result<bool> {
        let mut command = curl(&self.lab);
        command.args(["--interface", &source.to_string(), "--max-time", "2", "--output", "/dev/null"]);
        Ok(command.arg(format!("https://{SERVER_NAME}{path}")).stdin(Stdio::null()).output()?.status.success())
    }

    fn write(&self, text: &str) -> Result<()> {
        Ok(fs::write(configuration(&self.lab), text)?)
    }

    fn reload(&self) -> Result<String> {
        control_ok(&self.lab, &["reload"])
    }

    /// A count of what the daemon holds.
    fn held(&self, table: &str) -> Result<f64> {
        Ok(self.daemon.metrics(&self.lab)?.sum("detector_table_entries", &[("table", table)]))
    }

    /// Whether the client's last request was taken for a walk into a trap.
    fn is_trapped(&self, client: IpAddr) -> Result<bool> {
        let done = control(&self.lab, &["explain", &client.to_string(), "--format", "json"])?;
        Ok(String::from_utf8(done.stdout)?.contains("trap-path"))
    }
}

#[test]
fn a_good_configuration_takes_effect_and_nothing_is_lost() -> Result<()> {
    let mut scene = Scene::start()?;
    let first = scene.joined("/before")?;
    control_ok(&scene.lab, &["block", "192.0.2.7", "--ttl", "1h"])?;
    ensure!(scene.answered(CLIENT_V4, "/page")?, "curl is answered");
    let ja4 = scene.report("/page", |report| report["ja4"].as_str().map(str::to_owned))?;
    let (sessions, known) = (scene.held("sessions")?, scene.held("known_connections")?);
    ensure!(sessions >= 2.0 && known >= 1.0, "{sessions} sessions, {known} connections");

    // Another trap, a proxy, a rule against curl, a longer log; and a size, which takes a restart.
    let text = BASE.replace("\"/trap\"", "\"/other\"").replace("group", "trusted_proxies = [\"198.51.100.9\"]\ngroup");
    let text = format!("{text}[deny]\nja4 = [\"{ja4}\"]\n[log]\nfilter = \"debug\"\n[limits]\nsessions = 50000\n");
    scene.write(&text)?;
    let done = control(&scene.lab, &["config", "diff"])?;
    let told = String::from_utf8(done.stdout)?;
    let line = |key: &str| told.lines().find(|line| line.starts_with(key)).map(str::to_owned).unwrap_or_default();
    ensure!(done.status.code() == Some(2), "{told}");
    ensure!(line("behaviour.trap_paths").ends_with("a reload"), "{told}");
    ensure!(line("limits.sessions").ends_with("a restart"), "{told}");
    ensure!(told.lines().count() == 7, "{told}");
    let told = scene.reload()?;
    let live = ["deny.ja4", "signals.trusted_proxies", "behaviour.trap_paths", "log.filter"];
    ensure!(live.iter().all(|key| told.lines().next().is_some_and(|line| line.contains(key))), "{told}");
    ensure!(told.contains("needs a restart") && told.contains("limits.sessions"), "{told}");

    ensure!(!scene.answered(OTHER_CLIENT_V4, "/page")?, "the new rule doesn't hold");
    until("the proxy to be spared", PATIENCE, || {
        let refused = control(&scene.lab, &["block", "198.51.100.9"])?;
        Ok(String::from_utf8_lossy(&refused.stderr).contains("signals.trusted_proxies").then_some(()))
    })?;
    assert_eq!(control_ok(&scene.lab, &["log"])?, "log debug\n");
    // The connection is there, its hello is known, and so is everything else.
    assert_eq!(scene.joined("/other")?, first);
    until("the new trap", PATIENCE, || Ok(scene.is_trapped(CLIENT_V4)?.then_some(())))?;
    ensure!(scene.held("sessions")? >= sessions, "sessions are lost");
    ensure!(list(&scene.lab)?.contains("192.0.2.7"), "the block is lost");

    // And back: the rule's verdicts end with it, at once.
    scene.write(BASE)?;
    scene.daemon.signal(Signal::SIGHUP)?;
    until("the reload", PATIENCE, || Ok((reloads(&scene.lab, &scene.daemon, "applied")? == 2.0).then_some(())))?;
    ensure!(scene.answered(OTHER_CLIENT_V4, "/page")?, "a rule that is gone still drops");
    assert_eq!(control_ok(&scene.lab, &["log"])?, "log info\n");
    ensure!(control(&scene.lab, &["config", "diff"])?.status.code() == Some(0), "the file is in force");
    ensure!(scene.reload()?.starts_with("nothing to change"), "nothing is");
    assert_eq!(scene.joined("/after")?, first);
    Ok(())
}

#[test]
fn what_is_logged_changes_at_once_and_is_audited() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let is_there = |level: &str| daemon.log().contains(&format!("\"level\":\"{level}\""));
    ensure!(!is_there("DEBUG"), "{}", daemon.log());
    let told = control_ok(&lab, &["log", "debug"])?;
    assert!(told.starts_with("log debug\nundo: detector log info"), "{told}");
    // The kernel tells of every address that comes; the daemon looks then.
    lab.server().ip("address add 10.77.0.99/32 dev lo")?;
    until("a line of level debug", PATIENCE, || {
        lab.server().ip("address change 10.77.0.1/24 dev server0 valid_lft 9999 preferred_lft 9999")?;
        Ok(is_there("DEBUG").then_some(()))
    })
    .with_context(|| daemon.log())?;
    let wrong = control(&lab, &["log", "debgu"])?;
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    ensure!(wrong.status.code() == Some(64) && said.contains("did you mean `debug`?"), "{said}");
    let audited = |line: &&str| line.contains("detector::audit") && line.contains("\"verb\":\"log\"");
    assert_eq!(daemon.log().lines().filter(audited).count(), 1, "{}", daemon.log());
    Ok(())
}
