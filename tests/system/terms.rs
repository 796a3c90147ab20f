//! Verdicts on other terms than a plain block, over real connections: a limit on new ones, a fingerprint from one place,
//! what only counts, and automatic verdicts with their mode and the dead man's hand (threats.md T47, T48).

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Loop, Report, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control, control_ok};
use detector_tests::deadline::{PATIENCE, monotonic_seconds, until};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_V4, CLIENT_V6, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_V4, SERVER_V6};
use detector_tests::process::output;
use detector_tests::programs;
use detector_tests::server::Nginx;
use nix::sys::signal::Signal;

use crate::scene::{LONG, SHORT, ensure_answered, ensure_refused, from, ja4_of, over_ipv6, start};

/// As long as the kernel trusts a daemon that says nothing.
const DEAD_MAN_SECONDS: f64 = 60.0;

fn enforcing() -> Result<(Lab, Nginx, Daemon)> {
    let lab = Lab::new(LabOptions::default())?;
    let nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions { arguments: &["--enforce"], ..DaemonOptions::default() })?;
    Ok((lab, nginx, daemon))
}

/// New connections as fast as two CPUs make them: how many, in how many seconds.
fn connect(lab: &Lab, source: IpAddr, server: IpAddr, seconds: u32) -> Result<(f64, f64)> {
    let mut command = lab.client().command(programs::python()?);
    command.arg("-B").arg(programs::script("connects.py"));
    let text = output(command.args([source.to_string(), server.to_string(), "443".to_owned(), seconds.to_string()]))?;
    let (made, took) = text.trim().split_once(' ').context("two numbers")?;
    Ok((made.parse()?, took.parse()?))
}

/// Over all CPUs together, within 5 %; a connection that was let in isn't slowed.
#[test]
fn new_connections_are_limited_to_the_rate() -> Result<()> {
    const SECONDS: u32 = 6;
    let (lab, _nginx, daemon) = start()?;
    let (free, _) = connect(&lab, CLIENT_V4, SERVER_V4, 1)?;
    ensure!(free > 1_000.0, "this machine makes {free} connections a second: too few to limit any");
    for (source, server, rate) in [(CLIENT_V4, SERVER_V4, 100.0), (CLIENT_V6, SERVER_V6, 250.0)] {
        let place = source.to_string();
        let said = control_ok(&lab, &["block", &place, "--limit", &format!("{rate}/s")])?;
        ensure!(said.contains(&format!("limited new connections of {place}")), "{said}");
        let (made, took) = connect(&lab, source, server, SECONDS)?;
        // A second's worth at once.
        let agreed = rate + rate * took;
        show(&format!("limit of {rate}/s: {made} connections in {took:.2} s, {:+.1} %", 100.0 * (made / agreed - 1.0)));
        ensure!((made / agreed - 1.0).abs() <= 0.05, "{made} connections in {took} s at {rate}/s");
        let said = control_ok(&lab, &["unblock", &place])?;
        ensure!(said.contains(&format!("detector block {place} --ttl")) && said.contains("--limit"), "{said}");
    }
    control_ok(&lab, &["block", &CLIENT_V4.to_string(), "--limit", "1/h:1"])?;
    let large = Target { timeout: LONG, ..from(CLIENT_V4) };
    let reports = batch(&lab, &large, &[Kind::Python], 1)?;
    ensure!(reports.iter().all(Report::answered), "the one connection of the hour: {reports:?}");
    ensure_refused(&lab, &from(CLIENT_V4), "beyond the limit")?;
    ensure_answered(&lab, &from(OTHER_CLIENT_V4), "another address")?;
    let drops = daemon.metrics(&lab)?.sum("detector_kernel_packets_total", &[("reason", "rate_limit")]);
    ensure!(drops > 1_000.0, "{drops} drops by a limit");
    Ok(())
}

/// The usual unit: neither the client's neighbours behind the address nor the same client elsewhere.
#[test]
fn a_fingerprint_from_one_place_is_blocked_there_only() -> Result<()> {
    let (lab, _nginx, daemon) = start()?;
    for (place, target) in [(CLIENT_V4, from(CLIENT_V4)), (CLIENT_V6, over_ipv6())] {
        let target = Target { timeout: LONG, ..target };
        let report = batch(&lab, &target, &[Kind::Python], 1)?.remove(0);
        let ja4 = ja4_of(&daemon, &report)?;
        let said = control_ok(&lab, &["block", &place.to_string(), "--ja4", &ja4])?;
        ensure!(said.contains(&format!("+{ja4}")) && said.contains("undo: detector unblock"), "{said}");
        let refused = Target { timeout: SHORT, parallel: 4, ..target.clone() };
        let reports = batch(&lab, &refused, &[Kind::Python], 8)?;
        ensure!(reports.iter().all(|report| report.status.is_none()), "{reports:?}");
        let reports = batch(&lab, &target, &[Kind::Chrome], 8)?;
        ensure!(reports.iter().all(Report::answered), "its neighbour: {reports:?}");
        if place == CLIENT_V4 {
            let elsewhere = Target { timeout: LONG, ..from(OTHER_CLIENT_V4) };
            let reports = batch(&lab, &elsewhere, &[Kind::Python], 4)?;
            ensure!(reports.iter().all(Report::answered), "the same client elsewhere: {reports:?}");
        }
        let listed = control_ok(&lab, &["list"])?;
        ensure!(listed.contains(&ja4) && listed.contains("block"), "{listed}");
        control_ok(&lab, &["unblock", &place.to_string(), "--ja4", &ja4])?;
        let reports = batch(&lab, &target, &[Kind::Python], 4)?;
        ensure!(reports.iter().all(Report::answered), "taken back: {reports:?}");
    }
    let drops = daemon.metrics(&lab)?.sum("detector_kernel_packets_total", &[("reason", "pair")]);
    ensure!(drops >= 16.0, "{drops} drops by a fingerprint from one place");
    Ok(())
}

/// As after an install: what programs ask for only counts, and so does what an operator only observes.
#[test]
fn in_mode_observe_automatic_verdicts_drop_nothing() -> Result<()> {
    let (lab, _nginx, daemon) = start()?;
    let client = CLIENT_V4.to_string();
    let said = control_ok(&lab, &["block", &client, "--automatic", "--ttl", "10m"])?;
    ensure!(said.contains("the mode is observe"), "{said}");
    ensure_answered(&lab, &from(CLIENT_V4), "an automatic verdict in mode observe")?;
    let other = OTHER_CLIENT_V4.to_string();
    control_ok(&lab, &["block", &other, "--observe"])?;
    ensure_answered(&lab, &from(OTHER_CLIENT_V4), "an operator only observes")?;
    let metrics = daemon.metrics(&lab)?;
    ensure!(metrics.sum("detector_kernel_packets_total", &[("verdict", "drop")]) == 0.0);
    ensure!(metrics.sum("detector_kernel_packets_total", &[("reason", "observed")]) > 0.0);
    // What a person says goes before what a program says.
    control_ok(&lab, &["block", &client])?;
    ensure_refused(&lab, &from(CLIENT_V4), "an operator's block")?;
    let again = control(&lab, &["block", &client, "--automatic"])?;
    ensure!(!again.status.success(), "an operator's word was overruled");
    let ja4 = "t13d1516h2_8daaf6152771_d8a2da3f94cd";
    let crowd = control(&lab, &["block", "--ja4", ja4, "--automatic"])?;
    ensure!(!crowd.status.success(), "a fingerprint alone was to be dropped by nobody's order");
    Ok(())
}

/// The daemon hangs: what it decided ends within a minute, what operators ordered stays. It goes on: so do its verdicts.
#[test]
fn without_a_sign_of_life_automatic_verdicts_end() -> Result<()> {
    let (lab, _nginx, daemon) = enforcing()?;
    control_ok(&lab, &["block", &CLIENT_V4.to_string(), "--automatic", "--ttl", "10m"])?;
    control_ok(&lab, &["block", &OTHER_CLIENT_V4.to_string()])?;
    ensure_refused(&lab, &from(CLIENT_V4), "an automatic verdict in mode enforce")?;
    let target = Target { parallel: 4, timeout: SHORT, ..from(CLIENT_V4) };
    let client = Loop::start(&lab, &target, Kind::Python, Duration::from_millis(200))?;
    daemon.signal(Signal::SIGSTOP)?;
    let silent = monotonic_seconds()?;
    let free = client.answered_since(silent, Duration::from_secs(90))?;
    let after = free.ended - silent;
    show(&format!("a daemon that hangs: its verdict ended after {after:.1} s"));
    // Its last sign of life was up to a second before; a client's SYN comes again after a second.
    ensure!((DEAD_MAN_SECONDS - 1.5..DEAD_MAN_SECONDS + 2.0).contains(&after), "free after {after:.1} s");
    ensure_refused(&lab, &from(OTHER_CLIENT_V4), "an operator's block")?;
    daemon.signal(Signal::SIGCONT)?;
    let back = monotonic_seconds()?;
    let refused = until("the verdict to hold again", PATIENCE, || {
        Ok(client.reports().into_iter().find(|report| report.started >= back && report.status.is_none()))
    })?;
    let took = refused.started - back;
    show(&format!("and held again {took:.1} s after it went on"));
    ensure!(took <= 2.0, "held again only after {took:.1} s");
    client.stop(LONG)?;
    Ok(())
}
