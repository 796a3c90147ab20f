//! Done when 4 of part 1: what an operator blocks gets no answer, nobody else is hurt, and every verdict ends on time,
//! also with the daemon stopped.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Loop, Report, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control, control_ok};
use detector_tests::deadline::{PATIENCE, monotonic_seconds, until};
use detector_tests::lab::{CLIENT_V4, CLIENT_V6, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_V4, SERVER_V6};
use detector_tests::process::output;
use detector_tests::server::{Nginx, PLAIN_PORT};
use nix::sys::signal::Signal;

/// What a blocked client waits before it gives up, and a client that must not be hurt.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);

/// Two clients in loops from one address; the JA4 of one is blocked, and unblocked.
#[test]
fn a_ja4_is_blocked_and_its_neighbour_is_not() -> Result<()> {
    const BLOCKED: usize = 300;
    let (lab, _nginx, daemon) = start()?;
    let bots = Target { parallel: 40, timeout: SHORT, ..from(CLIENT_V4) };
    let bot = Loop::start(&lab, &bots, Kind::Python, Duration::from_millis(500))?;
    let browsers = Target { parallel: 4, timeout: LONG, ..from(CLIENT_V4) };
    let browser = Loop::start(&lab, &browsers, Kind::Chrome, Duration::from_millis(50))?;
    let bot_ja4 = ja4_of(&daemon, &bot.answered_since(0.0, PATIENCE)?)?;
    let browser_ja4 = ja4_of(&daemon, &browser.answered_since(0.0, PATIENCE)?)?;
    ensure!(bot_ja4 != browser_ja4, "both clients have {bot_ja4}");
    nothing_dropped(&lab, &daemon)?;

    let said = control_ok(&lab, &["block", "--ja4", &bot_ja4])?;
    ensure!(said.contains(&format!("detector unblock --ja4 {bot_ja4}")), "no undo line in: {said}");
    let blocked_at = monotonic_seconds()?;
    let blocked = bot.since(blocked_at + 1.0, BLOCKED, 4 * LONG)?;
    let answered = blocked.iter().filter(|report| report.status.is_some()).count();
    let share = 100.0 * (blocked.len() - answered) as f64 / blocked.len() as f64;
    println!("block --ja4: {share:.2} % of {} connections got no HTTP response", blocked.len());
    ensure!(share >= 99.0, "only {share:.2} % were blocked: {:?}", daemon.log());
    let metrics = daemon.metrics(&lab)?;
    let drops = metrics.sum("detector_kernel_packets_total", &[("verdict", "drop"), ("reason", "connection")]);
    ensure!(drops > 0.0, "the kernel counted no drop by a connection's verdict");

    let unblocked_at = monotonic_seconds()?;
    control_ok(&lab, &["unblock", "--ja4", &bot_ja4])?;
    let restored = bot.since(monotonic_seconds()?, 50, LONG)?;
    let refused: Vec<_> = restored.iter().filter(|report| !report.answered()).collect();
    ensure!(refused.is_empty(), "{} of {} after the unblock: {refused:?}", refused.len(), restored.len());

    bot.stop(LONG)?;
    let neighbours = browser.stop(LONG)?;
    let meanwhile = neighbours.iter().filter(|r| r.started >= blocked_at && r.ended <= unblocked_at).count();
    println!("its neighbour: {} connections, {meanwhile} of them during the block", neighbours.len());
    ensure!(meanwhile >= 50, "only {meanwhile} connections of the neighbour during the block");
    let hurt: Vec<_> = neighbours.iter().filter(|report| !report.answered()).collect();
    ensure!(hurt.is_empty(), "the neighbour saw errors: {hurt:?}");
    let again = control(&lab, &["unblock", "--ja4", &bot_ja4])?;
    assert_eq!(again.status.code(), Some(2), "nothing is left to unblock");
    Ok(())
}

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
    println!("block --ttl 3s: free again {:.2} s after the command", free.ended - asked);
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
    until("a verdict on the connection", PATIENCE, || {
        let active = daemon.metrics(&lab)?.sum("detector_enforce_verdicts", &[("kind", "connection")]);
        Ok((active >= 1.0).then_some(()))
    })?;
    daemon.signal(Signal::SIGSTOP)?;
    let report = condemned.answered_since(0.0, LONG)?;
    assert_eq!(state(&daemon)?, 'T', "the daemon was to be stopped all the while");
    ensure!(report.ended >= asked + TTL, "answered {:.2} s after the block of {TTL} s", report.ended - asked);
    println!("block --ja4 --ttl 4s: the same connection was answered {:.2} s after the command", report.ended - asked);
    daemon.signal(Signal::SIGCONT)?;
    assert_eq!(daemon.hello_from(report.port.context("no port")?)?.action.as_deref(), Some("block"));
    Ok(())
}

/// `allow` wins over `block`, a block ends where its prefix ends, and an unblock undoes it.
#[test]
fn allow_wins_over_a_blocked_prefix() -> Result<()> {
    let (lab, _nginx, daemon) = start()?;
    ensure_answered(&lab, &from(CLIENT_V4), "before any block")?;
    nothing_dropped(&lab, &daemon)?;
    control_ok(&lab, &["block", "10.77.0.0/24"])?;
    ensure_refused(&lab, &from(CLIENT_V4), "in the blocked prefix")?;
    ensure_refused(&lab, &from(OTHER_CLIENT_V4), "in the blocked prefix")?;
    ensure_answered(&lab, &over_ipv6(), "IPv6, with an IPv4 prefix blocked")?;

    let other = OTHER_CLIENT_V4.to_string();
    control_ok(&lab, &["allow", &other])?;
    ensure_answered(&lab, &from(OTHER_CLIENT_V4), "allowed in a blocked prefix")?;
    ensure_refused(&lab, &from(CLIENT_V4), "not the allowed one")?;
    control_ok(&lab, &["block", &other])?;
    ensure_answered(&lab, &from(OTHER_CLIENT_V4), "allowed and blocked by address")?;
    control_ok(&lab, &["unallow", &other])?;
    ensure_refused(&lab, &from(OTHER_CLIENT_V4), "no longer allowed")?;

    control_ok(&lab, &["unblock", &other])?;
    control_ok(&lab, &["unblock", "10.77.0.0/24"])?;
    ensure_answered(&lab, &from(CLIENT_V4), "unblocked")?;
    ensure_answered(&lab, &from(OTHER_CLIENT_V4), "unblocked")?;

    control_ok(&lab, &["block", "fd77::/64"])?;
    ensure_refused(&lab, &over_ipv6(), "in the blocked IPv6 prefix")?;
    ensure_answered(&lab, &from(CLIENT_V4), "IPv4, with an IPv6 prefix blocked")
}

/// Whatever is blocked, a port that isn't protected is never touched.
#[test]
fn other_ports_are_never_dropped() -> Result<()> {
    let (lab, _nginx, daemon) = start()?;
    control_ok(&lab, &["block", "0.0.0.0/0"])?;
    ensure_refused(&lab, &from(CLIENT_V4), "everything is blocked")?;
    let url = format!("http://{SERVER_V4}:{PLAIN_PORT}/");
    for _ in 0..20 {
        output(lab.client().command("curl").args(["-sS", "--fail", "--noproxy", "*", "--max-time", "5", &url]))?;
    }
    output(lab.client().command("ping").args(["-c", "1", "-W", "5", &SERVER_V4.to_string()]))?;
    let metrics = daemon.metrics(&lab)?;
    ensure!(metrics.sum("detector_kernel_packets_total", &[("verdict", "drop"), ("reason", "prefix")]) > 0.0);
    ensure!(metrics.sum("detector_kernel_packets_total", &[("verdict", "pass"), ("reason", "other_port")]) > 0.0);
    Ok(())
}

/// Starts all three, with the daemon choosing its mode: that must be the native one.
fn start() -> Result<(Lab, Nginx, Daemon)> {
    let lab = Lab::new(LabOptions::default())?;
    let nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    Ok((lab, nginx, daemon))
}

fn from(source: IpAddr) -> Target {
    Target { source: Some(source), ..Target::new(SERVER_V4) }
}

fn over_ipv6() -> Target {
    Target { source: Some(CLIENT_V6), ..Target::new(SERVER_V6) }
}

/// The JA4 that the daemon told for this connection.
fn ja4_of(daemon: &Daemon, report: &Report) -> Result<String> {
    Ok(daemon.hello_from(report.port.context("the client couldn't tell its port")?)?.forms.ja4)
}

fn ensure_answered(lab: &Lab, target: &Target, why: &str) -> Result<()> {
    let reports = batch(lab, target, &[Kind::Curl, Kind::Python], 4)?;
    ensure!(reports.iter().all(Report::answered), "{why}: {reports:?}");
    Ok(())
}

fn ensure_refused(lab: &Lab, target: &Target, why: &str) -> Result<()> {
    let target = Target { timeout: SHORT, parallel: 4, ..target.clone() };
    let reports = batch(lab, &target, &[Kind::Curl, Kind::Python], 4)?;
    ensure!(reports.iter().all(|report| report.status.is_none()), "{why}: {reports:?}");
    Ok(())
}

/// Observe is the default: without an operator's word nothing is dropped and nobody is condemned.
fn nothing_dropped(lab: &Lab, daemon: &Daemon) -> Result<()> {
    let metrics = daemon.metrics(lab)?;
    ensure!(metrics.sum("detector_kernel_packets_total", &[("verdict", "drop")]) == 0.0);
    ensure!(metrics.sum("detector_enforce_verdicts", &[]) == 0.0);
    Ok(())
}

/// The letter of proc(5) for what the daemon does: `T` is stopped by a signal.
fn state(daemon: &Daemon) -> Result<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.id()))?;
    // The second field, the program's name in parentheses, may hold anything.
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).context("no state")
}
