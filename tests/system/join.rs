//! Every request finds its handshake: what a real web server tells is put together with the ClientHello of its connection,
//! of clients of several kinds behind one address; behind a trusted proxy with none.

use anyhow::{Context as _, Result, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, SERVER_V4};
use detector_tests::reporters::Reporter;
use detector_tests::server::SERVER_NAME;
use serde_json::Value;

/// Clients that differ in their hello, by what has curl be one, and their share of requests over HTTP/2.
const KINDS: [(&str, &[&str], f64); 3] =
    [("one", &["--http1.1"], 0.0), ("two", &["--http2"], 1.0), ("old", &["--http1.1", "--tls-max", "1.2"], 0.0)];
/// Connections of each kind, and requests on each.
const CONNECTIONS: usize = 10;
const REQUESTS: usize = 3;

/// The part of the configuration.
const SIGNALS: &str = "[signals]\ngroup = \"www-data\"\n";

fn start(config: &'static str) -> Result<(Lab, Daemon, Reporter)> {
    let lab = Lab::new(LabOptions::default())?;
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    let nginx = Reporter::nginx(&lab, false)?;
    Ok((lab, daemon, nginx))
}

/// A connection with so many requests, whose paths and User-Agent have the client's name: its port.
fn ask(lab: &Lab, name: &str, requests: usize, more: &[&str]) -> Result<u16> {
    let mut command = lab.client().command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--noproxy",
        "*",
        "--max-time",
        "10",
        "--user-agent",
        name,
    ]);
    command.args(["--resolve", &format!("{SERVER_NAME}:443:{SERVER_V4}"), "--write-out", "%{stderr}%{local_port}\n"]);
    command.args(more);
    for number in 0..requests {
        command.args(["--output", "/dev/null", &format!("https://{SERVER_NAME}/{name}/{number}")]);
    }
    let run = command.output().context("curl")?;
    ensure!(run.status.success(), "curl: {run:?}");
    let printed = String::from_utf8(run.stderr)?;
    let ports: Vec<&str> = printed.lines().collect();
    ensure!(ports.len() == requests && ports.iter().all(|port| *port == ports[0]), "one connection: {ports:?}");
    Ok(ports[0].parse()?)
}

/// Waits until so many reports came to this end, and none to another.
fn all_are(lab: &Lab, daemon: &Daemon, outcome: &str, reports: usize) -> Result<()> {
    until(&format!("{reports} reports {outcome}"), PATIENCE, || {
        let metrics = daemon.metrics(lab)?;
        let count = metrics.sum("detector_join_reports_total", &[("outcome", outcome)]);
        Ok((count >= reports as f64).then_some(()))
    })?;
    let all = daemon.metrics(lab)?.sum("detector_join_reports_total", &[]);
    ensure!(all == reports as f64, "{all} reports of {reports} requests");
    Ok(())
}

#[test]
fn each_request_finds_its_handshake() -> Result<()> {
    let (lab, daemon, _nginx) = start(SIGNALS)?;
    let mut ports = [0; KINDS.len()];
    for _ in 0..CONNECTIONS {
        for ((name, more, _), port) in KINDS.iter().zip(&mut ports) {
            *port = ask(&lab, name, REQUESTS, more)?;
        }
    }
    all_are(&lab, &daemon, "joined", KINDS.len() * CONNECTIONS * REQUESTS)?;
    for ((name, _, h2), port) in KINDS.iter().zip(ports) {
        let ja4 = daemon.hello_from(port)?.forms.ja4;
        let told: Value = serde_json::from_str(&control_ok(&lab, &["signals", &ja4, "--format", "json"])?)?;
        let hour = &told["last_hour"];
        ensure!(
            hour["requests"] == CONNECTIONS * REQUESTS && hour["paths"] == REQUESTS && hour["uas"] == 1,
            "{name}: {told}"
        );
        ensure!(told["h2h3_ratio_1h"] == *h2 && told["ranked"] == KINDS.len() && hour["ips"] == 1, "{name}: {told}");
    }
    let clients = daemon.metrics(&lab)?.sum("detector_session_clients", &[]);
    ensure!(clients == KINDS.len() as f64, "{clients} clients");
    Ok(())
}

#[test]
fn a_trusted_proxys_hello_is_nobodys() -> Result<()> {
    let (lab, daemon, _nginx) = start(format!("{SIGNALS}trusted_proxies = [\"{CLIENT_V4}\"]\n").leak())?;
    let mut port = 0;
    for client in 1..=5 {
        let header = format!("X-Forwarded-For: 198.51.100.{client}");
        port = ask(&lab, "proxied", REQUESTS, &["--http1.1", "--header", &header])?;
    }
    all_are(&lab, &daemon, "forwarded", 5 * REQUESTS)?;
    let clients = daemon.metrics(&lab)?.sum("detector_session_clients", &[]);
    ensure!(clients == 5.0, "{clients} clients behind the proxy");
    // Of the proxy's own hello nothing is told.
    let ja4 = daemon.hello_from(port)?.forms.ja4;
    let mut signals = lab.client().command(detector_tests::programs::detector()?);
    let control = detector_tests::daemon::control_socket(&lab);
    let asked = signals.args(["signals", &ja4, "--control-socket"]).arg(control).output()?;
    ensure!(asked.status.code() == Some(2), "{asked:?}");
    Ok(())
}
