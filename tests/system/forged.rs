//! Done when 3 of part 2: while a JA4 is blocked, a flood of forged hellos with that JA4 makes no verdict and no line;
//! real clients with it are blocked, and 1,000 others are all confirmed (threats.md T1, T2, M5). With every way a server
//! may take connections: `deferred`, SYN cookies, Fast Open, and behind DNAT in a namespace of its own. And decoys: a hello
//! that Linux discards is never taken for its client's (T14).
//!
//! The first scene floods with 100,000 forged hellos from 10,000 sources; the others with 20,000, and as many with
//! `DETECTOR_TEST_FULL=1`.

use std::collections::BTreeSet;
use std::env;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Report, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::deadline::PATIENCE;
use detector_tests::figures::show;
use detector_tests::forge::{FORGED_NETWORK, Forger};
use detector_tests::lab::{Lab, LabOptions, SERVER_V4};
use detector_tests::server::Nginx;
use detector_tests::sums;
use serde_json::Value;

use crate::scene::{LONG, SHORT, ja4_of};

const BLOCKED: u32 = 60;

/// How the server takes its connections.
#[derive(Clone, Copy, Default)]
struct Scene {
    /// Parameters of nginx's `listen`.
    listen: &'static str,
    /// Of the server's kernel.
    sysctl: Option<&'static str>,
    /// nginx in a third namespace.
    behind_dnat: bool,
    /// The clients that must all be confirmed.
    others: Option<Kind>,
    /// The egress program is off: the host's own sockets must prove addresses.
    no_egress: bool,
    /// Forged hellos.
    forged: u32,
}

fn full() -> bool {
    env::var_os("DETECTOR_TEST_FULL").is_some_and(|full| full == "1")
}

fn play(name: &str, scene: Scene) -> Result<()> {
    let forged = if full() { 100_000 } else { scene.forged };
    let others = if full() || forged == 100_000 { 1000 } else { 300 };
    let mut lab = Lab::new(LabOptions::default())?;
    if scene.behind_dnat {
        lab.add_backend()?;
    }
    if let Some(setting) = scene.sysctl {
        lab.sysctl(lab.web(), setting)?;
        lab.sysctl(lab.client(), setting)?;
    }
    let _nginx = Nginx::start_with(&lab, scene.listen)?;
    let config = if scene.no_egress { "[capture]\negress = false\n" } else { "" };
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;

    let bot = batch(&lab, &Target::new(SERVER_V4), &[Kind::Python], 1)?;
    let bot_ja4 = ja4_of(&daemon, &bot[0])?;
    control_ok(&lab, &["block", "--ja4", &bot_ja4])?;

    let forger = Forger::start(&lab, &["--count", &forged.to_string(), "--sources", "10000"])?;
    let (blocked, confirmed) = thread::scope(|scope| {
        let blocked = scope.spawn(|| {
            let target = Target { timeout: SHORT, parallel: 12, ..Target::new(SERVER_V4) };
            batch(&lab, &target, &[Kind::Python], BLOCKED)
        });
        let target = Target { timeout: LONG, parallel: 6, ..Target::new(SERVER_V4) };
        let confirmed = batch(&lab, &target, &[scene.others.unwrap_or(Kind::Chrome)], others);
        (blocked.join().expect("a thread of ours"), confirmed)
    });
    let (blocked, confirmed) = (blocked?, confirmed?);
    let sent = forger.finish(2 * LONG)?;
    assert_eq!(sent.hellos, u64::from(forged));

    let hurt: Vec<&Report> = confirmed.iter().filter(|report| !report.answered()).collect();
    ensure!(hurt.is_empty(), "{} of the others got no page: {hurt:?}", hurt.len());
    let ports: BTreeSet<u16> = confirmed.iter().filter_map(|report| report.port).collect();
    let lines = daemon.wait_for("a confirmed hello of every other client", PATIENCE, |events| {
        let seen: BTreeSet<u64> = events.iter().filter(|line| line["action"] == "pass").filter_map(port).collect();
        ports.iter().all(|port| seen.contains(&u64::from(*port))).then(|| events.to_vec())
    });
    let lines = lines.with_context(|| daemon.counted(&lab).unwrap_or_default())?;
    let forged_lines =
        lines.iter().filter(|line| line["src_ip"].as_str().is_some_and(|ip| ip.starts_with(FORGED_NETWORK)));
    assert_eq!(forged_lines.count(), 0, "a forged hello made a line");
    ensure!(lines.iter().all(|line| line["confirmed"].is_string()), "a line without proof");

    let metrics = sums::settled(&lab, &daemon)?;
    let blocks = lines.iter().filter(|line| line["action"] == "block").count();
    let verdicts = metrics.sum("detector_enforce_latency_seconds_count", &[]);
    assert_eq!(verdicts, blocks as f64, "a verdict for each blocked real client, and none beside");
    let standing = |standing| metrics.sum("detector_hello_standings_total", &[("standing", standing)]);
    let unconfirmed = standing("pending_expired") + standing("unconfirmed");
    let waiting = metrics.sum("detector_table_entries", &[("table", "pending_hellos")]);
    let lost = metrics.sum("detector_capture_events_total", &[("class", "unconfirmed"), ("outcome", "lost")]);
    let lost_confirmed = metrics.sum("detector_capture_events_total", &[("class", "confirmed"), ("outcome", "lost")]);
    assert_eq!(lost_confirmed, 0.0, "confirmed events were lost");
    // What came of a forged hello: counted, or lost in the ring of the unconfirmed.
    ensure!(unconfirmed + waiting + lost >= f64::from(forged), "{unconfirmed} + {waiting} + {lost} of {forged}");
    let answered = blocked.iter().filter(|report| report.answered()).count();
    assert_eq!(answered, 0, "of {} blocked clients were answered", blocked.len());
    let dropped = metrics.sum("detector_kernel_packets_total", &[("verdict", "drop"), ("reason", "fingerprint")]);
    ensure!(dropped >= f64::from(BLOCKED), "{dropped} hellos of {BLOCKED} clients were dropped");
    let proofs: Vec<String> = metrics
        .samples()
        .iter()
        .filter(|sample| sample.name == "detector_hello_standings_total" && sample.value > 0.0)
        .filter(|sample| sample.labels["standing"] == "confirmed")
        .map(|sample| format!("{} {}", sample.value, sample.labels["reason"]))
        .collect();
    show(&format!(
        "{name}: {forged} forged hellos in {:.1} s: 0 verdicts, 0 lines; 0 of {BLOCKED} blocked clients answered, {blocks} \
         told; {others} others confirmed ({}), {lost} events of the unconfirmed lost",
        sent.seconds,
        proofs.join(", ")
    ));
    Ok(())
}

fn port(line: &Value) -> Option<u64> {
    line["src_port"].as_u64()
}

#[test]
fn forged_hellos_make_no_verdict() -> Result<()> {
    play("as usual", Scene { forged: 100_000, ..Scene::default() })
}

#[test]
fn with_deferred_accept() -> Result<()> {
    play("deferred", Scene { listen: "deferred", forged: 20_000, ..Scene::default() })
}

#[test]
fn with_syn_cookies() -> Result<()> {
    let sysctl = Some("net.ipv4.tcp_syncookies=2");
    play("SYN cookies", Scene { sysctl, forged: 20_000, ..Scene::default() })
}

#[test]
fn with_fast_open() -> Result<()> {
    let sysctl = Some("net.ipv4.tcp_fastopen=3");
    let others = Some(Kind::Fastopen);
    play("Fast Open", Scene { listen: "fastopen=256", sysctl, others, forged: 20_000, ..Scene::default() })
}

#[test]
fn behind_dnat() -> Result<()> {
    play("behind DNAT", Scene { behind_dnat: true, forged: 20_000, ..Scene::default() })
}

#[test]
fn by_the_hosts_own_sockets() -> Result<()> {
    play("without egress", Scene { no_egress: true, forged: 20_000, ..Scene::default() })?;
    play("without egress, deferred", Scene { no_egress: true, listen: "deferred", forged: 5_000, ..Scene::default() })?;
    let sysctl = Some("net.ipv4.tcp_syncookies=2");
    play("without egress, SYN cookies", Scene { no_egress: true, sysctl, forged: 5_000, ..Scene::default() })
}

/// threats.md T2: 10,000 connections, here 500.
#[test]
fn every_real_connection_is_confirmed() -> Result<()> {
    let connections = if full() { 10_000 } else { 500 };
    for listen in ["", "deferred"] {
        let lab = Lab::new(LabOptions::default())?;
        let _nginx = Nginx::start_with(&lab, listen)?;
        let daemon = Daemon::start(&lab, DaemonOptions::default())?;
        let target = Target { timeout: LONG, parallel: 8, ..Target::new(SERVER_V4) };
        let reports = batch(&lab, &target, &[Kind::Python, Kind::Chrome], connections)?;
        ensure!(reports.iter().all(Report::answered), "not all got their page");
        let metrics = sums::settled(&lab, &daemon)?;
        let standing = |standing| metrics.sum("detector_hello_standings_total", &[("standing", standing)]);
        let (confirmed, expired) = (standing("confirmed"), standing("pending_expired") + standing("unconfirmed"));
        assert_eq!((confirmed, expired), (f64::from(connections), 0.0), "{listen}");
        show(&format!("{connections} real connections, nginx listens {listen:?}: {confirmed} confirmed"));
    }
    Ok(())
}

/// Whoever knows an address and a port in use has a 4-tuple whose socket is established. It proves nothing.
#[test]
fn a_connection_in_use_proves_no_forged_hello() -> Result<()> {
    for config in ["", "[capture]\negress = false\n"] {
        let lab = Lab::new(LabOptions::default())?;
        let _nginx = Nginx::start(&lab)?;
        let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
        let bot = batch(&lab, &Target::new(SERVER_V4), &[Kind::Python], 1)?;
        control_ok(&lab, &["block", "--ja4", &ja4_of(&daemon, &bot[0])?])?;
        let target = Target { timeout: LONG, parallel: 6, ..Target::new(SERVER_V4) };
        let reports = batch(&lab, &target, &[Kind::Takeover], 60)?;
        let hurt: Vec<&Report> = reports.iter().filter(|report| !report.answered()).collect();
        ensure!(hurt.is_empty(), "{config:?}: {} connections were hurt: {hurt:?}", hurt.len());
        let metrics = sums::settled(&lab, &daemon)?;
        let events = daemon.events()?;
        assert_eq!(events.iter().filter(|line| line["server_name"] == "decoy.example").count(), 0, "{config:?}");
        assert_eq!(metrics.sum("detector_enforce_latency_seconds_count", &[]), 0.0, "{config:?}");
        let taken = metrics.sum("detector_kernel_seen_total", &[("kind", "syns_taken")]);
        ensure!(taken >= 60.0, "{config:?}: {taken} of 60 forged SYNs arrived");
    }
    show("hellos forged on 120 connections in use, with the JA4 blocked: 0 verdicts, 0 lines, all 120 went on");
    Ok(())
}

#[test]
fn a_decoy_is_never_taken_for_its_client() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let target = Target { timeout: LONG, parallel: 6, ..Target::new(SERVER_V4) };
    let reports = batch(&lab, &target, &[Kind::DecoyChecksum, Kind::DecoyTimestamp], 1000)?;
    let failed: Vec<&Report> = reports.iter().filter(|report| !report.answered()).collect();
    ensure!(failed.is_empty(), "{} connections failed: {failed:?}", failed.len());
    let lines = daemon.wait_for("a line of each client", PATIENCE, |events| {
        (events.len() >= reports.len()).then(|| events.to_vec())
    })?;
    let decoys = lines.iter().filter(|line| line["server_name"] == "decoy.example").count();
    assert_eq!(decoys, 0, "a decoy was reported as the client");
    assert_eq!(lines.len(), reports.len(), "one line for each connection");
    let metrics = sums::settled(&lab, &daemon)?;
    let ignored = |reason| metrics.sum("detector_hello_segments_total", &[("kind", reason)]);
    let (checksums, timestamps) = (ignored("bad_checksum"), ignored("old_timestamp"));
    ensure!(checksums >= 500.0 && timestamps >= 500.0, "{checksums} bad checksums, {timestamps} old timestamps");
    show(&format!(
        "1000 connections after a decoy: 0 decoys reported ({checksums} by checksum, {timestamps} by timestamp)"
    ));
    Ok(())
}
