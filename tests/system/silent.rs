//! Clients of which nothing comes after their hello: it completes the handshake, so that there is no socket yet when it
//! is captured, and their ACKs are lost. Without the egress program only a question to the host tells that they are real.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::forge::{FORGED_NETWORK, Forger};
use detector_tests::lab::{Lab, LabOptions, SERVER_V4, SERVER_V6};
use detector_tests::metrics::Metrics;
use detector_tests::process::{Process, output};
use detector_tests::server::Nginx;
use detector_tests::sums;

use crate::scene::{LONG, script};

/// Of each scene.
const CLIENTS: usize = 20;

/// A lab that loses what its clients send without data, and a web server in it.
fn scene() -> Result<(Lab, Nginx)> {
    let lab = Lab::new(LabOptions::default())?;
    let nginx = Nginx::start(&lab)?;
    let lost = "tcp dport 443 tcp flags & (syn | ack) == ack meta length < 100 drop";
    let rule = format!("table inet lost {{ chain out {{ type filter hook output priority 0; {lost}; }}; }}");
    output(lab.client().command("nft").arg(rule))?;
    Ok((lab, nginx))
}

/// Starts the clients: they last as long as the process. Their ports.
fn silent(lab: &Lab, server: IpAddr) -> Result<(Process, BTreeSet<u64>)> {
    let arguments = ["--server", &server.to_string(), "--count", &CLIENTS.to_string()];
    let mut process = script(lab.client(), "silent.py", &arguments)?;
    let mut line = String::new();
    BufReader::new(process.child().stdout.take().context("no pipe")?).read_line(&mut line)?;
    let ports: BTreeSet<u64> = serde_json::from_str(&line).with_context(|| format!("silent.py: `{line}`"))?;
    ensure!(ports.len() == CLIENTS, "{ports:?}");
    Ok((process, ports))
}

fn found(metrics: &Metrics, outcome: &str) -> f64 {
    metrics.sum("detector_checks_total", &[("check", "socket"), ("outcome", outcome)])
}

#[test]
fn a_client_of_which_nothing_more_comes_is_confirmed_by_its_socket() -> Result<()> {
    let (lab, _nginx) = scene()?;
    let config = "[capture]\negress = false\n";
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    for server in [SERVER_V4, SERVER_V6] {
        let (_clients, ports) = silent(&lab, server)?;
        let lines = daemon.wait_for("a line of each silent client", PATIENCE, |lines| {
            let theirs = |line: &&serde_json::Value| line["dst_ip"] == server.to_string();
            let lines: Vec<_> = lines.iter().filter(theirs).cloned().collect();
            (lines.len() >= CLIENTS).then_some(lines)
        })?;
        let told: BTreeSet<u64> = lines.iter().filter_map(|line| line["src_port"].as_u64()).collect();
        ensure!(told == ports && lines.len() == CLIENTS, "{told:?}, not {ports:?}");
        ensure!(lines.iter().all(|line| line["confirmed"] == "sock_diag"), "{lines:?}");
    }
    let before = sums::settled(&lab, &daemon)?;
    let proven = |metrics: &Metrics| {
        metrics.sum("detector_hello_standings_total", &[("standing", "judged"), ("reason", "sock_diag")])
    };
    assert_eq!((proven(&before), found(&before, "established")), (2.0 * CLIENTS as f64, 2.0 * CLIENTS as f64));

    // Forged ones, half of them after a SYN that the server has answered: there is half a connection, and no client.
    Forger::start(&lab, &["--count", "2000", "--sources", "1000"])?.finish(LONG)?;
    let after = until("the end of the forged hellos", PATIENCE, || {
        let metrics = sums::settled(&lab, &daemon)?;
        let complete = metrics
            .sum("detector_hello_standings_total", &[("standing", "confirmed|pending_expired|unconfirmed")])
            - 2.0 * CLIENTS as f64;
        let lost = metrics.sum("detector_capture_events_total", &[("class", "unconfirmed"), ("outcome", "lost")]);
        Ok((complete + lost >= 2000.0).then_some(metrics))
    })
    .with_context(|| daemon.log())?;
    let half_open = found(&after, "other");
    ensure!(half_open > 0.0, "no half-open connection was asked for: {:?}", after.samples());
    assert_eq!((proven(&after), found(&after, "established")), (proven(&before), found(&before, "established")));
    let lines = daemon.events()?;
    let forged = |line: &&serde_json::Value| line["src_ip"].as_str().is_some_and(|ip| ip.starts_with(FORGED_NETWORK));
    assert_eq!(lines.iter().filter(forged).count(), 0, "a forged hello made a line");
    assert_eq!(found(&after, "failed"), 0.0);
    show(&format!(
        "{} silent clients confirmed by their sockets, 0 of 2000 forged ones; {half_open} of those half open, {} \
         without any socket",
        2 * CLIENTS,
        found(&after, "absent")
    ));
    Ok(())
}

#[test]
fn turned_off_no_socket_is_asked_for() -> Result<()> {
    let (lab, _nginx) = scene()?;
    let config = "[capture]\negress = false\nsock_diag = false\n";
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    let (_clients, _) = silent(&lab, SERVER_V4)?;
    let metrics = until("the end of their time", PATIENCE, || {
        let metrics = daemon.metrics(&lab)?;
        let expired = metrics.sum("detector_hello_standings_total", &[("standing", "pending_expired")]);
        Ok((expired >= CLIENTS as f64).then_some(metrics))
    })?;
    assert_eq!(metrics.sum("detector_checks_total", &[("check", "socket")]), 0.0);
    assert_eq!(metrics.sum("detector_hello_standings_total", &[("standing", "judged")]), 0.0);
    Ok(())
}
