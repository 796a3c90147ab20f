//! The operator's doors: the control socket and its commands, and the metrics.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control, control_ok, control_socket};
use detector_tests::lab::{Lab, LabOptions, SERVER_V4};
use detector_tests::metrics::Metrics;
use detector_tests::server::Nginx;
use serde_json::Value;

#[test]
fn the_control_socket_is_its_groups_only() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let mode = fs::metadata(control_socket(&lab))?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o660, "{mode:o}");
    Ok(())
}

/// Nonsense on the control socket ends that one conversation, and nothing else.
#[test]
fn nonsense_on_the_control_socket_hurts_nobody() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let frames: [&[u8]; 9] = [
        b"",
        b"\n\n\n",
        b"\0\xff\xfe\n",
        b"{}\n",
        b"{\"verb\":\"format\"}\n",
        b"{\"verb\":\"block\",\"subject\":\"everyone\",\"ttl\":\"1h\"}\n",
        b"{\"verb\":\"list\",\"skip\":-1}\n",
        b"GET / HTTP/1.1\r\n\r\n",
        &[b'['; 200_000],
    ];
    // One that says nothing and stays, and one that stops in the middle of a frame.
    let silent = UnixStream::connect(control_socket(&lab))?;
    let mut half = UnixStream::connect(control_socket(&lab))?;
    half.write_all(b"{\"verb\":\"sta")?;
    for frame in frames {
        let mut stream = UnixStream::connect(control_socket(&lab))?;
        // The daemon may hang up before it has read everything.
        let _ = stream.write_all(frame);
    }
    control_ok(&lab, &["status"])?;
    control_ok(&lab, &["block", "192.0.2.1"])?;
    let report = batch(&lab, &Target::new(SERVER_V4), &[Kind::Curl], 1)?.remove(0);
    daemon.hello_from(report.port.context("no port")?)?;
    drop((silent, half));
    Ok(())
}

/// What the commands print and exit with.
#[test]
fn each_change_says_what_until_when_and_its_undo() -> Result<()> {
    const JA4: &str = "t13d1516h2_8daaf6152771_02713d6af862";
    let lab = Lab::new(LabOptions::default())?;
    let _daemon = Daemon::start(&lab, DaemonOptions::default())?;
    for (change, undo) in [
        ("block 192.0.2.7", "detector unblock 192.0.2.7"),
        ("block 192.0.2.0/24 --ttl 30m", "detector unblock 192.0.2.0/24"),
        ("block 2001:db8::/32 --ttl forever", "detector unblock 2001:db8::/32"),
        (&format!("block --ja4 {JA4}"), &format!("detector unblock --ja4 {JA4}")),
        ("allow 198.51.100.9", "detector unallow 198.51.100.9"),
    ] {
        let said = run(&lab, change)?;
        ensure!(said.contains(undo), "`detector {change}` doesn't say `{undo}`: {said}");
    }
    let entries = run(&lab, "list --format json")?;
    for subject in ["192.0.2.7", "192.0.2.0/24", "2001:db8::/32", JA4, "198.51.100.9"] {
        ensure!(entries.contains(subject), "no {subject} in the list: {entries}");
    }
    for line in entries.lines() {
        let _: Value = serde_json::from_str(line).with_context(|| format!("`{line}` of the list"))?;
    }
    for undo in [
        "unblock 192.0.2.7",
        "unblock 192.0.2.0/24",
        "unblock 2001:db8::/32",
        &format!("unblock --ja4 {JA4}"),
        "unallow 198.51.100.9",
    ] {
        run(&lab, undo)?;
        exits(&lab, undo, 2)?;
    }
    let left = run(&lab, "list --format json")?;
    ensure!(!left.contains("192.0.2") && !left.contains(JA4), "after every undo: {left}");
    Ok(())
}

#[test]
fn mistakes_have_their_exit_codes() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    exits(&lab, "status", 69)?;
    let _daemon = Daemon::start(&lab, DaemonOptions::default())?;
    for mistake in [
        "block",
        "block 192.0.2.300",
        "block 192.0.2.1/33",
        "block --ja4 t13d1516h2",
        "block 192.0.2.1 --ttl tomorrow",
        "blok 192.0.2.1",
        "status --format yaml",
    ] {
        exits(&lab, mistake, 64)?;
    }
    exits(&lab, "unblock 192.0.2.1", 2)
}

/// The metrics are what the contract says: every family declared, named and labelled from closed sets.
#[test]
fn the_metrics_are_wellformed_and_complete() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let report = batch(&lab, &Target::new(SERVER_V4), &[Kind::Curl], 1)?.remove(0);
    daemon.hello_from(report.port.context("no port")?)?;
    let metrics = daemon.metrics(&lab)?;
    for (name, kind) in [
        ("detector_kernel_packets_total", "counter"),
        ("detector_kernel_seen_total", "counter"),
        ("detector_capture_events_total", "counter"),
        ("detector_hello_standings_total", "counter"),
        ("detector_table_entries", "gauge"),
        ("detector_hello_outcomes_total", "counter"),
        ("detector_enforce_verdicts", "gauge"),
        ("detector_enforce_latency_seconds", "histogram"),
        ("detector_queue_items_total", "counter"),
    ] {
        assert_eq!(metrics.types().get(name).map(String::as_str), Some(kind), "{name}");
    }
    ensure!(metrics.types().len() <= 40, "{} families: {:?}", metrics.types().len(), metrics.types().keys());
    for sample in metrics.samples() {
        let owner = ["detector_", "process_"].iter().any(|prefix| sample.name.starts_with(prefix));
        ensure!(owner && declared(&metrics, &sample.name), "undeclared or foreign: {sample:?}");
        let closed = |value: &String| value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.+".contains(&byte));
        ensure!(sample.labels.values().all(closed), "a label that isn't of a closed set: {sample:?}");
    }
    ensure!(metrics.sum("detector_hello_outcomes_total", &[("outcome", "complete")]) >= 1.0);
    for kind in ["address", "prefix", "allow", "connection", "ja4"] {
        let shown = metrics.samples().iter().any(|sample| {
            sample.name == "detector_enforce_verdicts" && sample.labels.get("kind").is_some_and(|value| value == kind)
        });
        ensure!(shown, "no gauge of active verdicts for `{kind}`");
    }
    Ok(())
}

/// A sample's family has a TYPE line; a histogram's samples have a suffix.
fn declared(metrics: &Metrics, name: &str) -> bool {
    let suffixes = ["", "_bucket", "_sum", "_count"];
    suffixes.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|family| metrics.types().contains_key(family)))
}

fn run(lab: &Lab, command: &str) -> Result<String> {
    control_ok(lab, &command.split_whitespace().collect::<Vec<_>>())
}

fn exits(lab: &Lab, command: &str, code: i32) -> Result<()> {
    let done = control(lab, &command.split_whitespace().collect::<Vec<_>>())?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.code() == Some(code), "`detector {command}` exited {:?}, not {code}: {said}", done.status);
    Ok(())
}
