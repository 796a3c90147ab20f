//! Done when 5 of part 2, threats.md T11 and T12: under a flood of forged hellos every sum holds, nothing of a client
//! whose address is proven is lost, and memory stays where it was; with the reader stopped for ten seconds too.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control, control_ok};
use detector_tests::deadline::{PATIENCE, monotonic_seconds, until};
use detector_tests::figures::show;
use detector_tests::forge::{FORGED_NETWORK, Forger};
use detector_tests::lab::{Lab, LabOptions, SERVER_INTERFACE, SERVER_V4};
use detector_tests::process::output;
use detector_tests::server::Nginx;
use detector_tests::sums;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{LONG, SHORT, ja4_of};

/// How long the reader is stopped.
const STOPPED: f64 = 10.0;
/// Connections of real clients meanwhile.
const REAL: u32 = 300;

/// A lab whose server doesn't answer forged segments: behind XDP they are dropped before the stack, so that the two
/// cores make events and not resets.
fn quiet_lab() -> Result<(Lab, Nginx)> {
    let lab = Lab::new(LabOptions::default())?;
    let rules = format!(
        "table netdev flood {{ chain in {{ type filter hook ingress device {SERVER_INTERFACE} priority 0; \
         ip saddr {FORGED_NETWORK}0.0/15 drop; }}; }}"
    );
    output(lab.server().command("nft").arg(rules))?;
    let nginx = Nginx::start(&lab)?;
    Ok((lab, nginx))
}

/// As long, and as many, as threats.md says.
fn full() -> bool {
    std::env::var_os("DETECTOR_TEST_FULL").is_some_and(|full| full == "1")
}

fn resident_bytes(daemon: &Daemon) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? * 1024.0)
}

#[test]
fn a_stopped_reader_loses_nothing_of_confirmed_clients() -> Result<()> {
    let (lab, _nginx) = quiet_lab()?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let captured = |daemon: &Daemon| -> Result<f64> {
        Ok(daemon
            .metrics(&lab)?
            .sum("detector_capture_events_total", &[("class", "unconfirmed"), ("outcome", "captured")]))
    };
    let seconds = (STOPPED + 6.0).to_string();
    let least = if full() { "5000000" } else { "1" };
    let forger = Forger::start(&lab, &["--no-syns", "--count", least, "--seconds", &seconds])?;
    until("the flood", PATIENCE, || Ok((captured(&daemon)? > 100_000.0).then_some(())))?;
    let (before, memory) = (captured(&daemon)?, resident_bytes(&daemon)?);
    daemon.signal(Signal::SIGSTOP)?;
    let stopped = monotonic_seconds()?;
    let target = Target { timeout: LONG, parallel: 4, ..Target::new(SERVER_V4) };
    let reports = batch(&lab, &target, &[Kind::Python, Kind::Chrome], REAL)?;
    until("ten seconds without a reader", LONG, || Ok((monotonic_seconds()? >= stopped + STOPPED).then_some(())))?;
    daemon.signal(Signal::SIGCONT)?;
    let resumed = monotonic_seconds()?;
    let rate = (captured(&daemon)? - before) / (monotonic_seconds()? - stopped);
    ensure!(reports.iter().all(detector_tests::clients::Report::answered), "{reports:?}");

    let fresh = batch(&lab, &target, &[Kind::Python], 1)?;
    daemon.hello_from(fresh[0].port.context("no port")?)?;
    let normal = monotonic_seconds()? - resumed;
    let sent = forger.finish(4 * LONG)?;
    let lines = daemon.wait_for("a line of every real client", PATIENCE, |lines| {
        let told = |port: Option<u16>| port.is_some_and(|port| lines.iter().any(|line| line["src_port"] == port));
        reports.iter().all(|report| told(report.port)).then(|| lines.to_vec())
    })?;
    ensure!(lines.iter().all(|line| line["confirmed"].is_string()));
    let metrics = sums::settled(&lab, &daemon)?;
    let lost = |class| metrics.sum("detector_capture_events_total", &[("class", class), ("outcome", "lost")]);
    assert_eq!(lost("confirmed"), 0.0, "events of confirmed clients were lost");
    ensure!(lost("unconfirmed") > 0.0, "the flood didn't fill the ring: {sent:?}");
    let grown = resident_bytes(&daemon)? - memory;
    ensure!(grown < 64.0 * 1024.0 * 1024.0, "the daemon grew by {grown} bytes");
    show(&format!(
        "reader stopped {STOPPED} s under {rate:.0} events/s, {} in all: {} of confirmed clients lost, {} of others; \
         {REAL} real clients told; grown by {:.1} MiB; a new client's line {normal:.2} s after it went on",
        sent.hellos,
        lost("confirmed"),
        lost("unconfirmed"),
        grown / 1024.0 / 1024.0
    ));
    Ok(())
}

#[test]
fn verdicts_come_in_time_under_a_flood() -> Result<()> {
    let (lab, _nginx) = quiet_lab()?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let bot = batch(&lab, &Target::new(SERVER_V4), &[Kind::Python], 1)?;
    control_ok(&lab, &["block", "--ja4", &ja4_of(&daemon, &bot[0])?])?;
    let memory = resident_bytes(&daemon)?;
    let forger = Forger::start(&lab, &["--no-syns", "--count", "1", "--seconds", if full() { "60" } else { "10" }])?;
    let blocked = Target { timeout: SHORT, parallel: 4, ..Target::new(SERVER_V4) };
    let reports = batch(&lab, &blocked, &[Kind::Python], 40)?;
    let neighbours = batch(&lab, &Target { timeout: LONG, ..Target::new(SERVER_V4) }, &[Kind::Chrome], 40)?;
    ensure!(neighbours.iter().all(detector_tests::clients::Report::answered), "{neighbours:?}");
    let answered = reports.iter().filter(|report| report.answered()).count();
    assert_eq!(answered, 0, "of {} blocked clients were answered", reports.len());
    let sent = forger.finish(4 * LONG)?;
    let status: Value = serde_json::from_slice(&control(&lab, &["status", "--format", "json"])?.stdout)?;
    let p99 = status["enforce_p99_us"].as_f64().context("no latency")?;
    ensure!(p99 <= 2e6, "verdicts took {p99} us");
    let metrics = sums::settled(&lab, &daemon)?;
    let lost = metrics.sum("detector_capture_events_total", &[("class", "confirmed"), ("outcome", "lost")]);
    assert_eq!(lost, 0.0, "events of confirmed clients were lost");
    let grown = resident_bytes(&daemon)? - memory;
    ensure!(grown < 128.0 * 1024.0 * 1024.0, "the daemon grew by {grown} bytes");
    show(&format!(
        "{:.0} forged hellos/s for {:.0} s: verdicts on real clients p99 {p99} us, {answered} of {} answered, daemon \
         grown by {:.0} MiB",
        sent.hellos as f64 / sent.seconds,
        sent.seconds,
        reports.len(),
        grown / 1024.0 / 1024.0
    ));
    Ok(())
}
