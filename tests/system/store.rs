//! What operators ordered outlives the daemon: a crash, damage, a full disk and a clock that jumps.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control, control_ok, control_socket, set_clock};
use detector_tests::deadline::{PATIENCE, monotonic_seconds, until};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4};
use detector_tests::server::Nginx;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{ensure_answered, ensure_refused, from, start};

/// The entries of `detector list`.
pub(crate) fn entries(lab: &Lab) -> Result<Vec<Value>> {
    let lines = control_ok(lab, &["list", "--format", "json"])?;
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

pub(crate) fn subjects(lab: &Lab) -> Result<Vec<String>> {
    let named = |entry: Value| entry["subject"].as_str().map(str::to_owned).context("no subject");
    entries(lab)?.into_iter().map(named).collect()
}

/// The directory of the one daemon that ran in this lab.
fn state(lab: &Lab) -> Result<PathBuf> {
    let mut all = fs::read_dir(lab.file("state"))?;
    let only = all.next().context("no state")??.path();
    ensure!(all.next().is_none(), "more than one daemon's state");
    Ok(only)
}

fn restart(lab: &Lab, daemon: Daemon) -> Result<Daemon> {
    daemon.stop(Signal::SIGKILL)?;
    Daemon::start(lab, DaemonOptions::default())
}

/// Every kind of entry is in force again, before anything was seen of whom it is about.
#[test]
fn orders_hold_again_after_a_crash() -> Result<()> {
    let (lab, _nginx, daemon) = start()?;
    let python = batch(&lab, &from(CLIENT_V4), &[Kind::Python], 1)?.remove(0);
    let hello = daemon.hello_from(python.port.context("no port")?)?;
    control_ok(&lab, &["block", &OTHER_CLIENT_V4.to_string()])?;
    control_ok(&lab, &["block", "198.51.100.0/24", "--ttl", "7d"])?;
    control_ok(&lab, &["allow", "2001:db8::/32"])?;
    control_ok(&lab, &["block", "--ja4", &hello.forms.ja4])?;
    control_ok(&lab, &["block", "192.0.2.1"])?;
    control_ok(&lab, &["unblock", "192.0.2.1"])?;
    let before = entries(&lab)?;

    let daemon = restart(&lab, daemon)?;
    ensure_refused(&lab, &from(OTHER_CLIENT_V4), "blocked before the crash")?;
    let after = entries(&lab)?;
    let (mut named, mut ends) = (Vec::new(), Vec::new());
    for (list, which) in [(&before, 0), (&after, 1)] {
        named.push(list.iter().map(|entry| (entry["action"].clone(), entry["subject"].clone())).collect::<Vec<_>>());
        let week = list.iter().find(|entry| entry["subject"] == "198.51.100.0/24").context("no prefix")?;
        ends.push(week["expires_in_s"].as_i64().with_context(|| format!("no end in list {which}"))?);
    }
    assert_eq!(named[0], named[1]);
    ensure!((0..60).contains(&(ends[0] - ends[1])), "the ends moved: {ends:?}");

    // The kernel has the key of a client that this daemon never saw: its very first hello is dropped there.
    let report = batch(&lab, &from(CLIENT_V4), &[Kind::Python], 1)?.remove(0);
    ensure!(!report.answered(), "{report:?}");
    let metrics = daemon.metrics(&lab)?;
    ensure!(metrics.sum("detector_kernel_packets_total", &[("reason", "fingerprint")]) > 0.0, "{}", daemon.log());
    assert_eq!(metrics.sum("detector_hello_segments_total", &[("kind", "answer")]), 0.0, "the server has seen a hello");
    assert_eq!(metrics.sum("detector_table_entries", &[("table", "orders")]), 4.0);
    Ok(())
}

/// A JA4 that nobody knew is on the disk as JA4_r once it was seen: after a restart its first hello is dropped.
#[test]
fn a_ja4_is_learnt_for_the_next_start() -> Result<()> {
    let (lab, _nginx, daemon) = start()?;
    let seen = batch(&lab, &from(CLIENT_V4), &[Kind::Python], 1)?.remove(0);
    let forms = daemon.hello_from(seen.port.context("no port")?)?.forms;
    // One that has seen nobody.
    let daemon = restart(&lab, daemon)?;
    let said = control_ok(&lab, &["block", "--ja4", &forms.ja4])?;
    ensure!(said.contains("first sighting"), "{said}");
    batch(&lab, &from(CLIENT_V4), &[Kind::Python], 1)?;
    let log = state(&lab)?.join("operator.log");
    until("the JA4_r on the disk", PATIENCE, || Ok(fs::read_to_string(&log)?.contains(&forms.ja4_r).then_some(())))?;
    let daemon = restart(&lab, daemon)?;
    let report = batch(&lab, &from(CLIENT_V4), &[Kind::Python], 1)?.remove(0);
    ensure!(!report.answered(), "{report:?}");
    assert_eq!(
        daemon.metrics(&lab)?.sum("detector_hello_segments_total", &[("kind", "answer")]),
        0.0,
        "the server has seen a hello"
    );
    Ok(())
}

/// The daemon is killed in the middle of a burst of blocks, again and again: what it acknowledged is there.
#[test]
fn a_burst_of_kills_loses_no_acknowledged_block() -> Result<()> {
    const KILLS: u32 = 24;
    let lab = Lab::new(LabOptions::default())?;
    let mut acknowledged = Vec::new();
    for kill in 0..KILLS {
        let daemon = Daemon::start(&lab, DaemonOptions::default())?;
        let there = subjects(&lab)?;
        let lost: Vec<&String> = acknowledged.iter().filter(|subject| !there.contains(subject)).collect();
        ensure!(lost.is_empty(), "lost before kill {kill}: {lost:?}");
        let before = written(&lab)?;
        let stream = UnixStream::connect(control_socket(&lab))?;
        let burst = std::thread::spawn(move || burst(stream, kill));
        // Whenever that many are there, the next ones are in the middle of being made.
        let target = before + 3 + (kill as usize * 7) % 20;
        until("some blocks", PATIENCE, || Ok((written(&lab)? > target).then_some(())))?;
        daemon.stop(Signal::SIGKILL)?;
        acknowledged.extend(burst.join().ok().context("the burst panicked")?);
    }
    let _daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let there = subjects(&lab)?;
    let lost = acknowledged.iter().filter(|subject| !there.contains(subject)).count();
    show(&format!("{KILLS} kills in bursts of blocks: {lost} of {} acknowledged ones lost", acknowledged.len()));
    assert_eq!(lost, 0);
    ensure!(acknowledged.len() >= 3 * KILLS as usize, "too few to tell");
    Ok(())
}

/// Lines in the log since it was written at the start.
fn written(lab: &Lab) -> Result<usize> {
    let log = state(lab).map(|state| state.join("operator.log"));
    let text = log.and_then(|log| Ok(fs::read_to_string(log)?)).unwrap_or_default();
    Ok(text.lines().count())
}

/// Blocks one address after the other until the daemon is gone; those it said were blocked.
fn burst(stream: UnixStream, round: u32) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut answers = BufReader::new(stream);
    for number in 0..250 {
        let subject = format!("198.{}.{round}.{number}", 18 + round % 2);
        let request = format!("{{\"verb\":\"block\",\"subject\":\"{subject}\",\"ttl\":\"forever\"}}\n");
        let mut answer = String::new();
        let asked = answers.get_mut().write_all(request.as_bytes());
        if asked.is_err() || answers.read_line(&mut answer).is_err() || !answer.contains("\"changed\"") {
            break;
        }
        acknowledged.push(subject);
    }
    acknowledged
}

/// The wall clock jumps a year ahead, and back by two: no verdict ends earlier or later, in this run or the next.
#[test]
fn a_wall_clock_that_jumps_moves_no_verdict() -> Result<()> {
    const TTL: f64 = 5.0;
    let lab = Lab::new(LabOptions::default())?;
    set_clock(&lab, "+0")?;
    let _nginx = Nginx::start(&lab)?;
    let options = DaemonOptions { own_clock: true, ..DaemonOptions::default() };
    let mut daemon = Daemon::start(&lab, options)?;
    control_ok(&lab, &["block", "192.0.2.1", "--ttl", "1h"])?;
    for jump in ["+365d", "-365d"] {
        let asked = monotonic_seconds()?;
        control_ok(&lab, &["block", &CLIENT_V4.to_string(), "--ttl", "5s"])?;
        set_clock(&lab, jump)?;
        // What the daemon says is by its own clock: the jump has reached it.
        let year = if jump.starts_with('+') { "2027" } else { "2025" };
        until("the daemon to see its clock jump", PATIENCE, || {
            let ends = entries(&lab)?.into_iter().map(|entry| entry["until"].to_string());
            Ok(ends.into_iter().all(|end| end.contains(year)).then_some(()))
        })?;
        ensure_refused(&lab, &from(CLIENT_V4), jump)?;
        until("the end of the block", PATIENCE, || {
            let reports = batch(&lab, &from(CLIENT_V4), &[Kind::Python], 1)?;
            Ok(reports.iter().all(|report| report.answered()).then_some(()))
        })?;
        let lasted = monotonic_seconds()? - asked;
        ensure!((TTL..TTL + 8.0).contains(&lasted), "{jump}: a block of {TTL} s was over after {lasted:.1} s");
        show(&format!("wall clock {jump}: a block of {TTL} s was over after {lasted:.1} s"));
        daemon.stop(Signal::SIGKILL)?;
        daemon = Daemon::start(&lab, options)?;
        let left = entries(&lab)?.into_iter().find(|entry| entry["subject"] == "192.0.2.1").context("it is lost")?;
        let left = left["expires_in_s"].as_u64().context("no end")?;
        ensure!((3400..=3600).contains(&left), "{jump}: {left} s are left of an hour after the restart");
    }
    Ok(())
}

/// Damage stops nobody: what can be read holds, the file is kept, and it shows in the metrics.
#[test]
fn a_damaged_log_is_put_aside() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    control_ok(&lab, &["block", "192.0.2.1"])?;
    control_ok(&lab, &["block", "192.0.2.2"])?;
    daemon.stop(Signal::SIGKILL)?;
    let log = state(&lab)?.join("operator.log");
    let text = fs::read_to_string(&log)?;
    fs::write(&log, text.replace("192.0.2.1", "192.0.2.9") + "\0garbage\n")?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    assert_eq!(subjects(&lab)?, ["192.0.2.2"]);
    assert_eq!(daemon.metrics(&lab)?.sum("detector_enforce_orders_total", &[("outcome", "damaged")]), 2.0);
    let names = fs::read_dir(state(&lab)?)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    ensure!(names.iter().any(|name| name.starts_with("operator.log.damaged-")), "{names:?}");
    ensure!(daemon.log().contains("damaged"), "{}", daemon.log());
    let daemon = restart(&lab, daemon)?;
    assert_eq!(daemon.metrics(&lab)?.sum("detector_enforce_orders_total", &[("outcome", "damaged")]), 0.0);
    Ok(())
}

/// A block takes effect though it can't be written; the operator is told, and it is written as soon as that can be.
#[test]
fn a_block_that_cannot_be_written_holds_and_says_so() -> Result<()> {
    let (lab, _nginx, daemon) = start()?;
    let draft = state(&lab)?.join("operator.log.new");
    fs::create_dir(&draft)?;
    let said = control_ok(&lab, &["block", &CLIENT_V4.to_string()])?;
    ensure!(said.contains("note: it is in force, but a restart would lose it"), "{said}");
    ensure_refused(&lab, &from(CLIENT_V4), "blocked, and not on the disk")?;
    ensure!(daemon.metrics(&lab)?.sum("detector_enforce_orders_total", &[("outcome", "failed")]) > 0.0);
    fs::remove_dir(&draft)?;
    until("it to be written", PATIENCE, || Ok((written(&lab)? > 1).then_some(())))?;
    let _daemon = restart(&lab, daemon)?;
    ensure_refused(&lab, &from(CLIENT_V4), "after the restart")?;
    ensure_answered(&lab, &from(OTHER_CLIENT_V4), "another address")
}

/// A block that nobody confirms ends by itself, with the daemon stopped; a confirmed one stays, over a restart too.
#[test]
fn what_nobody_confirms_takes_itself_back() -> Result<()> {
    let (lab, _nginx, daemon) = start()?;
    let client = CLIENT_V4.to_string();
    let none = control(&lab, &["confirm"])?;
    assert_eq!(none.status.code(), Some(2), "nothing waits");
    let asked = monotonic_seconds()?;
    let said = control_ok(&lab, &["block", "10.77.0.0/24", "--ttl", "forever", "--commit-confirm", "4"])?;
    ensure!(said.contains("detector confirm"), "{said}");
    daemon.signal(Signal::SIGSTOP)?;
    ensure_refused(&lab, &from(CLIENT_V4), "not confirmed yet")?;
    until("the block to end", PATIENCE, || {
        Ok(batch(&lab, &from(CLIENT_V4), &[Kind::Python], 1)?.iter().all(|report| report.answered()).then_some(()))
    })?;
    ensure!(monotonic_seconds()? - asked >= 4.0, "it ended early");
    daemon.signal(Signal::SIGCONT)?;
    until("the list to be empty", PATIENCE, || Ok(entries(&lab)?.is_empty().then_some(())))?;
    until("it to be counted", PATIENCE, || {
        Ok((daemon.metrics(&lab)?.sum("detector_enforce_orders_total", &[("outcome", "reverted")]) == 1.0)
            .then_some(()))
    })?;

    // One that stood before comes back.
    control_ok(&lab, &["block", &client, "--ttl", "forever"])?;
    control_ok(&lab, &["block", &client, "--ttl", "1h", "--commit-confirm", "1"])?;
    until("the former block", PATIENCE, || {
        let all = entries(&lab)?;
        Ok((all.len() == 1 && all[0]["until"] == "forever").then_some(()))
    })?;
    control_ok(&lab, &["unblock", &client])?;

    control_ok(&lab, &["block", &client, "--ttl", "1h", "--commit-confirm", "60"])?;
    control_ok(&lab, &["confirm"])?;
    let left = entries(&lab)?[0]["expires_in_s"].as_u64().context("no end")?;
    ensure!((3000..=3600).contains(&left), "{left} s are left of an hour");
    let _daemon = restart(&lab, daemon)?;
    ensure_refused(&lab, &from(CLIENT_V4), "confirmed, and after a restart")?;
    Ok(())
}
