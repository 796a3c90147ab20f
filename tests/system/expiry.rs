//! Done when 4 of part 1, how a verdict ends: on time, also with the daemon stopped (SIGSTOP), so that only the kernel
//! can have ended it; and a verdict on one connection with that connection, not with the next one on its ports.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Loop, Report, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::deadline::{PATIENCE, monotonic_seconds, until};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_V4};
use detector_tests::metrics::Metrics;
use detector_tests::process::output;
use detector_tests::server::Nginx;
use nix::sys::signal::Signal;

use crate::scene::{LONG, SHORT, ensure_answered, from, ja4_of, start};

/// A blocked address is free again when its time is over, though the daemon is stopped all the while.
#[test]
fn an_address_is_free_again_on_time_with_the_daemon_stopped() -> Result<()> {
    const TTL: f64 = 3.0;
    let (lab, _nginx, daemon) = start()?;
    let target = Target { parallel: 10, timeout: SHORT, ..from(CLIENT_V4) };
    let client = Loop::start(&lab, &target, Kind::Python, Duration::from_millis(200))?;
    client.answered_since(0.0, PATIENCE)?;

    let asked = monotonic_seconds()?;
    control_ok(&lab, &["block", &CLIENT_V4.to_string(), "--ttl", "3s"])?;
    daemon.signal(Signal::SIGSTOP)?;
    let blocked = monotonic_seconds()?;
    ensure_answered(&lab, &from(OTHER_CLIENT_V4), "another address")?;
    let free = client.answered_since(blocked, LONG)?;
    ensure!(free.ended >= asked + TTL, "free {:.2} s after the block of {TTL} s", free.ended - asked);
    show(&format!("block --ttl 3s: free again {:.2} s after the command", free.ended - asked));
    // The first to get through may have sent its SYN while blocked; from the end on, all do.
    let restored = client.since(blocked + TTL, 30, LONG)?;
    let refused: Vec<_> = restored.iter().filter(|report| !report.answered()).collect();
    ensure!(refused.is_empty(), "after the end of the block: {refused:?}");
    assert_eq!(state(&daemon)?, 'T', "the daemon was to be stopped all the while");

    daemon.signal(Signal::SIGCONT)?;
    let later = client.answered_since(monotonic_seconds()?, PATIENCE)?;
    daemon.hello_from(later.port.context("no port")?)?;
    client.stop(LONG)?;
    Ok(())
}

/// A condemned connection that the server still has when its verdict ends goes on, though the daemon is stopped.
#[test]
fn a_condemned_connection_goes_on_after_its_time() -> Result<()> {
    let (report, after) = end_of_condemned(PLAIN_DROPS)?;
    ensure!(report.answered(), "{report:?}");
    show(&format!("block --ja4 --ttl 4s: the same connection was answered {after:.2} s after the command"));
    Ok(())
}

/// One that the server was rid of is over: its client is told when the verdict ends, not before.
#[test]
fn a_condemned_connection_that_was_reset_is_over_after_its_time() -> Result<()> {
    let (report, after) = end_of_condemned("")?;
    ensure!(report.error.as_ref().is_some_and(|error| error.contains("reset")), "{report:?}");
    show(&format!("block --ja4 --ttl 4s: the client was told of its reset {after:.2} s after the command"));
    Ok(())
}

/// The server keeps what is condemned.
const PLAIN_DROPS: &str = "[enforce]\nreset = false\n";

/// How the connection of a client ends that waits longer than its verdict lasts, and how many seconds after the block.
fn end_of_condemned(config: &'static str) -> Result<(Report, f64)> {
    const TTL: f64 = 4.0;
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    let target = Target { timeout: LONG, ..from(CLIENT_V4) };
    let first = batch(&lab, &target, &[Kind::Python], 1)?.remove(0);
    let ja4 = ja4_of(&daemon, &first)?;

    let asked = monotonic_seconds()?;
    control_ok(&lab, &["block", "--ja4", &ja4, "--ttl", "4s"])?;
    let condemned = Loop::one(&lab, &target, Kind::Python)?;
    await_condemned(&lab, &daemon)?;
    daemon.signal(Signal::SIGSTOP)?;
    let report = condemned.since(0.0, 1, LONG)?.remove(0);
    assert_eq!(state(&daemon)?, 'T', "the daemon was to be stopped all the while");
    let after = report.ended - asked;
    ensure!(after >= TTL, "it ended {after:.2} s after the block of {TTL} s: {report:?}");
    daemon.signal(Signal::SIGCONT)?;
    daemon.wait_for("the condemned connection's line", PATIENCE, |events| {
        events.iter().any(|event| event["action"] == "block").then_some(())
    })?;
    Ok((report, after))
}

/// The ports of a condemned connection come back with another client behind the same NAT: the verdict isn't for it.
#[test]
fn a_port_that_comes_back_is_not_condemned() -> Result<()> {
    port_comes_back("").map(drop)
}

/// Also where the server still has the condemned connection: it asks the new client, who resets that, and tries again.
#[test]
fn a_port_that_comes_back_to_a_standing_connection_is_not_condemned() -> Result<()> {
    let metrics = port_comes_back(PLAIN_DROPS)?;
    ensure!(metrics.sum("detector_kernel_seen_total", &[("kind", "syns_taken")]) >= 1.0, "none was standing");
    Ok(())
}

fn port_comes_back(config: &'static str) -> Result<Metrics> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    let target = Target { timeout: LONG, ..from(CLIENT_V4) };
    let ja4 = ja4_of(&daemon, &batch(&lab, &target, &[Kind::Python], 1)?.remove(0))?;
    control_ok(&lab, &["block", "--ja4", &ja4])?;
    let condemned = Loop::one(&lab, &target, Kind::Python)?;
    await_condemned(&lab, &daemon)?;
    let port = daemon.wait_for("the condemned connection's line", PATIENCE, |events| {
        events.iter().find(|event| event["action"] == "block").and_then(|event| event["src_port"].as_u64())
    })?;
    // ss closes the client's socket. What it says of that is lost, so that it frees nothing on the server.
    let lost = format!("tcp sport {port} tcp flags & rst == rst drop");
    let rule = format!("table inet lost {{ chain out {{ type filter hook output priority 0; {lost}; }}; }}");
    output(lab.client().command("nft").arg(rule))?;
    output(lab.client().command("ss").args(["-K", "-t", &format!("sport = :{port}")]))?;
    output(lab.client().command("nft").args(["delete", "table", "inet", "lost"]))?;
    condemned.stop(PATIENCE)?;
    let url = format!("https://{SERVER_V4}/");
    output(lab.client().command("curl").args([
        "-sS",
        "--insecure",
        "--fail",
        "--noproxy",
        "*",
        "--max-time",
        "30",
        "--interface",
        &CLIENT_V4.to_string(),
        "--local-port",
        &port.to_string(),
        &url,
    ]))?;
    let metrics = daemon.metrics(&lab)?;
    let replaced = metrics.sum("detector_kernel_seen_total", &[("kind", "connections_replaced")]);
    ensure!(replaced >= 1.0, "the new connection's SYN was to end the verdict on the old one");
    Ok(metrics)
}

/// Waits until the kernel has a verdict on a connection.
fn await_condemned(lab: &Lab, daemon: &Daemon) -> Result<()> {
    until("a verdict on the connection", PATIENCE, || {
        let active = daemon.metrics(lab)?.sum("detector_enforce_verdicts", &[("kind", "connection")]);
        Ok((active >= 1.0).then_some(()))
    })
}

/// The letter of proc(5) for what the daemon does: `T` is stopped by a signal.
fn state(daemon: &Daemon) -> Result<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.id()))?;
    // The second field, the program's name in parentheses, may hold anything.
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).context("no state")
}
