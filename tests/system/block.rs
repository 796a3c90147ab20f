//! Done when 4 of part 1: what an operator blocks gets no answer, and nobody else is hurt: not another client at the same
//! address, not an allowed address in a blocked prefix, not another port. The end of a block is `expiry.rs`'s.

use std::time::Duration;

use anyhow::{Result, ensure};
use detector_tests::clients::{Kind, Loop, Target};
use detector_tests::daemon::{control, control_ok};
use detector_tests::deadline::{PATIENCE, monotonic_seconds};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_V4, OTHER_CLIENT_V4, SERVER_V4};
use detector_tests::process::output;
use detector_tests::server::PLAIN_PORT;

use crate::scene::{LONG, SHORT, ensure_answered, ensure_refused, from, ja4_of, nothing_dropped, over_ipv6, start};

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
    show(&format!("block --ja4: {share:.2} % of {} connections got no HTTP response", blocked.len()));
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
    show(&format!("its neighbour: {} connections, {meanwhile} of them during the block", neighbours.len()));
    ensure!(meanwhile >= 50, "only {meanwhile} connections of the neighbour during the block");
    let hurt: Vec<_> = neighbours.iter().filter(|report| !report.answered()).collect();
    ensure!(hurt.is_empty(), "the neighbour saw errors: {hurt:?}");
    let again = control(&lab, &["unblock", "--ja4", &bot_ja4])?;
    assert_eq!(again.status.code(), Some(2), "nothing is left to unblock");
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
    let metrics = daemon.metrics(&lab)?;
    ensure!(metrics.sum("detector_kernel_packets_total", &[("verdict", "drop"), ("reason", "prefix")]) > 0.0);
    ensure!(metrics.sum("detector_kernel_packets_total", &[("verdict", "pass"), ("reason", "other_port")]) > 0.0);
    Ok(())
}
