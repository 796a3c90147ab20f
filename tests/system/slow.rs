//! threats.md T31: those who only hold connections open keep nobody out, neither a monitor nor an operator nor a web server.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok, control_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::lab::{Lab, LabOptions};
use detector_tests::process::{Process, output};
use detector_tests::programs;

use crate::scene::script;

/// The slow ones.
const PEERS: usize = 1000;
/// What an honest one waits.
const SOON: Duration = Duration::from_secs(1);
/// How long the honest ones go on: the slow ones' deadlines pass meanwhile.
const LONG: Duration = Duration::from_secs(8);
/// The daemon begins with so few descriptors, as services do.
const DESCRIPTORS: u32 = 128;

const CONFIG: &str = "[inline]\nlisten = \"127.0.0.1:9466\"\n[limits]\ninline_connections = 256\n";

fn start() -> Result<(Lab, Daemon)> {
    let lab = Lab::new(LabOptions::default())?;
    let program = lab.file("detector");
    let text = format!("#!/bin/sh\nulimit -Sn {DESCRIPTORS}\nexec {} \"$@\"\n", programs::detector()?.display());
    fs::write(&program, text)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let options = DaemonOptions { config: CONFIG, ..DaemonOptions::default() };
    let daemon = Daemon::start_build(&lab, program, options)?;
    Ok((lab, daemon))
}

/// Opens the slow ones' connections; they go when the value does.
fn besiege(lab: &Lab, target: &str) -> Result<Process> {
    let mut peers = script(lab.server(), "slow.py", &["--target", target, "--count", &PEERS.to_string()])?;
    let mut said = String::new();
    BufReader::new(peers.child().stdout.take().context("no pipe")?).read_line(&mut said)?;
    ensure!(said == "open\n", "the slow peers are not there: {said}");
    Ok(peers)
}

/// Asks over and over, and shows the longest that an answer took.
fn keeps_asking(what: &str, mut ask: impl FnMut() -> Result<()>) -> Result<()> {
    let (end, mut asked, mut longest) = (Instant::now() + LONG, 0, Duration::ZERO);
    while Instant::now() < end {
        let begun = Instant::now();
        ask().with_context(|| format!("{what}, after {asked} answers"))?;
        longest = longest.max(begun.elapsed());
        asked += 1;
    }
    show(&format!("{what} beside {PEERS} slow peers: {asked} answers, the slowest in {longest:?}"));
    ensure!(longest < SOON, "{what}: {longest:?}");
    Ok(())
}

fn get(lab: &Lab, url: &str) -> Command {
    let mut command = lab.server().command("curl");
    command.args(["-sS", "--fail", "--noproxy", "*", "--max-time", "2", url]);
    command
}

/// How many connections to this socket ended so.
fn ended(lab: &Lab, daemon: &Daemon, socket: &str, outcome: &str) -> Result<f64> {
    Ok(daemon.metrics(lab)?.sum("detector_connections_total", &[("socket", socket), ("outcome", outcome)]))
}

#[test]
fn slow_peers_keep_no_monitor_out() -> Result<()> {
    let (lab, daemon) = start()?;
    let peers = besiege(&lab, "127.0.0.1:9464")?;
    keeps_asking("the metrics", || {
        let text = output(&mut get(&lab, "http://127.0.0.1:9464/metrics"))?;
        ensure!(text.contains("detector_daemon_info"), "{text}");
        Ok(())
    })?;
    ensure!(ended(&lab, &daemon, "metrics", "displaced")? >= (PEERS - 16) as f64);
    drop(peers);
    let slow = besiege(&lab, "127.0.0.1:9464")?;
    slow.signal(nix::sys::signal::Signal::SIGSTOP)?;
    until("the deadline of the last ones", PATIENCE, || {
        Ok((ended(&lab, &daemon, "metrics", "slow")? > 0.0).then_some(()))
    })
}

#[test]
fn slow_peers_keep_no_operator_out() -> Result<()> {
    let (lab, daemon) = start()?;
    let peers = besiege(&lab, &control_socket(&lab).display().to_string())?;
    keeps_asking("`detector list`", || control_ok(&lab, &["list"]).map(drop))?;
    ensure!(ended(&lab, &daemon, "control", "displaced")? > 0.0);
    drop(peers);
    Ok(())
}

#[test]
fn slow_peers_keep_no_web_server_out() -> Result<()> {
    let (lab, daemon) = start()?;
    let socket = control_socket(&lab).with_extension("decision.sock").display().to_string();
    for target in ["127.0.0.1:9466", &socket] {
        let _peers = besiege(&lab, target)?;
        keeps_asking(&format!("decisions on {target}"), || {
            let mut command = get(&lab, "http://localhost/");
            if target == socket {
                command.args(["--unix-socket", &socket])
            } else {
                command.args(["--connect-to", "::127.0.0.1:9466"])
            };
            output(command.args(["--header", "x-detector-client: 192.0.2.7"])).map(drop)
        })?;
    }
    ensure!(ended(&lab, &daemon, "decision", "displaced")? > 0.0);
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.id()))?;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).context("no such limit")?;
    let mut figures = files.split_whitespace().skip(3);
    ensure!(figures.next() == figures.next(), "not all the descriptors that it may have: {files}");
    Ok(())
}
