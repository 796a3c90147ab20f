//! `--from`: long lists are loaded quickly, without holding up the hellos; wrong and oversized ones change nothing.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control, control_ok};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4};
use detector_tests::stalls::Stalls;
use nix::sys::signal::Signal;

use crate::scene::{ensure_answered, ensure_refused, from, start};
use crate::store::subjects;

/// So many prefixes of different lengths, none of them the lab's.
fn feed(count: u32) -> String {
    let mut text = String::from("# a feed\n");
    for number in 0..count {
        let [_, a, b, c] = number.to_be_bytes();
        let first = 11 + a;
        // Writing into a string can't fail.
        let _ = writeln!(text, "{first}.{b}.{c}.{}/{}", number % 2 * 128, 25 + number % 2);
    }
    text
}

/// T10: 100,000 prefixes within 5 s, no pause of 50 ms for the hellos but what the machine itself takes; and they are there
/// after a crash.
#[test]
fn a_hundred_thousand_prefixes_load_while_hellos_are_judged() -> Result<()> {
    const COUNT: u32 = 100_000;
    let (lab, _nginx, daemon) = start()?;
    let list = lab.file("feed.txt");
    fs::write(&list, feed(COUNT))?;
    let (began, stalls) = (Instant::now(), Stalls::watch()?);
    let said = control_ok(&lab, &["block", "--from", &list.display().to_string(), "--ttl", "7d"])?;
    let took = began.elapsed().as_secs_f64();
    let metrics = daemon.metrics(&lab)?;
    let pause = metrics.sum("detector_daemon_longest_pause_seconds", &[]);
    let stall = stalls.longest()?.as_secs_f64();
    show(&format!(
        "block --from: {COUNT} prefixes in {took:.2} s, longest pause {:.1} ms, of the machine {:.1} ms",
        1000.0 * pause,
        1000.0 * stall
    ));
    ensure!(said.contains("blocked 100,000 entries, 100,000 of them new"), "{said}");
    ensure!(took < 5.0 && pause < stall + 0.050, "{took:.2} s, {pause:.3} s, {stall:.3} s");
    assert_eq!(metrics.sum("detector_enforce_verdicts", &[("kind", "prefix")]), f64::from(COUNT));
    ensure_answered(&lab, &from(CLIENT_V4), "not in the feed")?;

    daemon.stop(Signal::SIGKILL)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let metrics = daemon.metrics(&lab)?;
    assert_eq!(metrics.sum("detector_enforce_verdicts", &[("kind", "prefix")]), f64::from(COUNT));
    let began = Instant::now();
    assert_eq!(subjects(&lab)?.len(), COUNT as usize);
    let pause = daemon.metrics(&lab)?.sum("detector_daemon_longest_pause_seconds", &[]);
    show(&format!(
        "list: {COUNT} entries in {:.2} s, longest pause {:.1} ms",
        began.elapsed().as_secs_f64(),
        1000.0 * pause
    ));
    Ok(())
}

/// A feed beyond the bound is refused as a whole, and counted; what was in force stays.
#[test]
fn a_feed_beyond_the_bound_changes_nothing() -> Result<()> {
    let (lab, _nginx, daemon) = start()?;
    control_ok(&lab, &["block", &OTHER_CLIENT_V4.to_string()])?;
    let list = lab.file("feed.txt");
    for count in [1_000_000, 100_001] {
        fs::write(&list, feed(count))?;
        let done = control(&lab, &["block", "--from", &list.display().to_string()])?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        ensure!(said.contains("nothing was changed") && said.lines().count() <= 3, "{said}");
    }
    let metrics = daemon.metrics(&lab)?;
    assert_eq!(metrics.sum("detector_enforce_orders_total", &[("outcome", "full")]), 2.0);
    assert_eq!(subjects(&lab)?, [OTHER_CLIENT_V4.to_string()]);
    ensure_refused(&lab, &from(OTHER_CLIENT_V4), "the old list")
}

/// Wrong lines are told by number and change nothing, unless they are to be left out. All kinds of subjects load.
#[test]
fn wrong_lines_are_told_and_change_nothing() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let list = lab.file("list.txt").display().to_string();
    let good = "192.0.2.7  1h\n2001:db8::/32 # theirs\nt13d0205h2_1301,1302_000a,000d,002b_0403,0804\n";
    fs::write(&list, format!("{good}10.0.0.256\n\n192.0.2.8 soon\n"))?;
    let done = control(&lab, &["block", "--from", &list])?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(64), "{said}");
    ensure!(said.contains("list.txt:4: ") && said.contains("list.txt:6: ") && said.contains("2 wrong lines"), "{said}");
    ensure!(subjects(&lab)?.is_empty());
    let said = control_ok(&lab, &["block", "--from", &list, "--skip-bad"])?;
    ensure!(said.contains("blocked 3 entries, 3 of them new") && said.contains("left out: 2 lines"), "{said}");
    let ja4 = "t13d0205h2_62ed6f6ca7ad_fbabbea27ee8";
    assert_eq!(subjects(&lab)?, ["192.0.2.7", "2001:db8::/32", ja4]);
    let done = control(&lab, &["allow", "--from", &list, "--skip-bad"])?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::write(&list, "# nothing\n")?;
    assert_eq!(control(&lab, &["block", "--from", &list])?.status.code(), Some(2));
    control_ok(&lab, &["unblock", "--ja4", "t13d0205h2_1301,1302_000a,000d,002b_0403,0804"])?;
    ensure!(!subjects(&lab)?.contains(&ja4.to_owned()));
    Ok(())
}

/// A JA4_r arms at once: the first hello that ever comes with it is dropped in the kernel.
#[test]
fn a_ja4_r_needs_no_first_sighting() -> Result<()> {
    let (lab, _nginx, daemon) = start()?;
    let seen = batch(&lab, &from(CLIENT_V4), &[Kind::Python], 1)?.remove(0);
    let ja4_r = daemon.hello_from(seen.port.context("no port")?)?.forms.ja4_r;
    daemon.stop(Signal::SIGTERM)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let said = control_ok(&lab, &["block", "--ja4", &ja4_r])?;
    ensure!(!said.contains("first sighting"), "{said}");
    let report = batch(&lab, &from(CLIENT_V4), &[Kind::Python], 1)?.remove(0);
    ensure!(!report.answered(), "{report:?}");
    let metrics = daemon.metrics(&lab)?;
    ensure!(metrics.sum("detector_kernel_packets_total", &[("verdict", "drop"), ("reason", "fingerprint")]) > 0.0);
    assert_eq!(metrics.sum("detector_hello_segments_total", &[("kind", "answer")]), 0.0, "the server has seen a hello");
    let listed = control_ok(&lab, &["list", "--format", "json"])?;
    ensure!(listed.contains(&ja4_r), "{listed}");
    Ok(())
}
