//! Done when 4 of part 1, how a verdict ends: on time, also with the daemon stopped (SIGSTOP), so that only the kernel
//! can have ended it; and a verdict on one connection with that connection, not with the next one on its ports.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Loop, Target, batch};
use detector_tests::daemon::{Daemon, control_ok};
use detector_tests::deadline::{PATIENCE, monotonic_seconds, until};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_V4, Lab, OTHER_CLIENT_V4, SERVER_V4};
use detector_tests::process::output;
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

/// A condemned connection that is still alive when its verdict ends goes on, though the daemon is stopped.
#[test]
fn a_condemned_connection_goes_on_after_its_time() -> Result<()> {
    const TTL: f64 = 4.0;
    let (lab, _nginx, daemon) = start()?;
    let target = Target { timeout: LONG, ..from(CLIENT_V4) };
    let first = batch(&lab, &target, &[Kind::Python], 1)?.remove(0);
    let ja4 = ja4_of(&daemon, &first)?;

    let asked = monotonic_seconds()?;
    control_ok(&lab, &["block", "--ja4", &ja4, "--ttl", "4s"])?;
    let condemned = Loop::one(&lab, &target, Kind::Python)?;
    await_condemned(&lab, &daemon)?;
    daemon.signal(Signal::SIGSTOP)?;
    let report = condemned.answered_since(0.0, LONG)?;
    assert_eq!(state(&daemon)?, 'T', "the daemon was to be stopped all the while");
    ensure!(report.ended >= asked + TTL, "answered {:.2} s after the block of {TTL} s", report.ended - asked);
    show(&format!(
        "block --ja4 --ttl 4s: the same connection was answered {:.2} s after the command",
        report.ended - asked
    ));
    daemon.signal(Signal::SIGCONT)?;
    assert_eq!(daemon.hello_from(report.port.context("no port")?)?.action.as_deref(), Some("block"));
    Ok(())
}

/// The ports of a condemned connection come back with another client behind the same NAT: the verdict isn't for it.
#[test]
fn a_port_that_comes_back_is_not_condemned() -> Result<()> {
    let (lab, _nginx, daemon) = start()?;
    let target = Target { timeout: LONG, ..from(CLIENT_V4) };
    let ja4 = ja4_of(&daemon, &batch(&lab, &target, &[Kind::Python], 1)?.remove(0))?;
    control_ok(&lab, &["block", "--ja4", &ja4])?;
    let condemned = Loop::one(&lab, &target, Kind::Python)?;
    await_condemned(&lab, &daemon)?;
    let port = daemon.wait_for("the condemned connection's line", PATIENCE, |events| {
        events.iter().find(|event| event["action"] == "block").and_then(|event| event["src_port"].as_u64())
    })?;
    // ss closes the client's socket; the server's stays, since the reset is dropped as all else of that connection.
    output(lab.client().command("ss").args(["-K", "-t", &format!("sport = :{port}")]))?;
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
    let replaced = daemon.metrics(&lab)?.sum("detector_kernel_connections_replaced_total", &[]);
    ensure!(replaced >= 1.0, "the new connection's SYN was to end the verdict on the old one");
    Ok(())
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
