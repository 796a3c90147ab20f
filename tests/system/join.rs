//! Every request finds its handshake: what a real web server tells is put together with the ClientHello of its
//! connection, of clients of many kinds behind one address (issue 5, "Done when" 1); how it is behind a proxy,
//! `tests/system/proxies.rs` tells.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use detector_tests::curl;
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::deadline::{PATIENCE, monotonic_seconds, until};
use detector_tests::figures::show;
use detector_tests::lab::{Lab, LabOptions};
use detector_tests::mixed::{self, Connection, Reports};
use detector_tests::process::Process;
use detector_tests::reporters::{self, Reporter};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Clients that differ in their hello.
const KINDS: [&str; 6] = ["curl", "old", "gnutls", "chrome", "safari", "python"];
/// The part of the configuration: as many reports kept as may be.
const SIGNALS: &str = "[signals]\ngroup = \"www-data\"\nrecent = 4096\n";
/// The client's ports: so few that each is used again and again, within a second.
const PORTS: &str = "net.ipv4.ip_local_port_range=40000 40299";

/// Of requests that may miss their hello.
const ONE_IN_A_THOUSAND: usize = 1;
/// The same of requests on ports that others used a millisecond before, told to a daemon that was asleep: what can't be told
/// apart by then is nobody's, and counted so.
const FIFTY_IN_A_THOUSAND: usize = 50;

/// A web server that reports to a live daemon.
struct Scene {
    reports: Reports,
    _origin: Process,
    _server: Reporter,
    daemon: Daemon,
    lab: Lab,
}

impl Scene {
    fn start(ports: Option<&str>, server: impl FnOnce(&Lab) -> Result<Reporter>) -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        if let Some(ports) = ports {
            lab.sysctl(lab.client(), ports)?;
        }
        // A port that its client has closed is free at once.
        lab.sysctl(lab.client(), "net.ipv4.tcp_max_tw_buckets=0")?;
        lab.sysctl(lab.server(), &queue()?)?;
        let daemon = Daemon::start(&lab, DaemonOptions { config: SIGNALS, ..DaemonOptions::default() })?;
        let (server, origin) = (server(&lab)?, reporters::origin(&lab)?);
        let reports = Reports::follow(&lab, "reports")?;
        Ok(Self { reports, _origin: origin, _server: server, daemon, lab })
    }

    /// The JA4 of each kind: of the one hello that comes when it asks alone.
    fn known(&self, kinds: &[&'static str]) -> Result<BTreeMap<&'static str, String>> {
        let mut known = BTreeMap::new();
        for kind in kinds {
            let before = self.daemon.events()?.len();
            mixed::ask(&self.lab, &format!("--kinds {kind} --run alone"))?;
            let hello = self.daemon.wait_for("its hello", PATIENCE, |hellos| hellos.get(before).cloned())?;
            known.insert(*kind, hello["ja4"].as_str().context("a JA4")?.to_owned());
        }
        let different: BTreeSet<&String> = known.values().collect();
        ensure!(different.len() == kinds.len(), "two kinds look the same: {known:?}");
        Ok(known)
    }

    /// Each request of these connections was joined to its own client's hello, or, in so many cases of a thousand, to none.
    fn check(&self, connections: &[Connection], known: &BTreeMap<&'static str, String>, most: usize) -> Result<()> {
        let all = connections.iter().flat_map(|one| one.paths.iter().map(|path| (one.kind.as_str(), path.as_str())));
        let (kinds, paths): (Vec<&str>, Vec<&str>) = all.unzip();
        let mut missed = BTreeMap::<String, usize>::new();
        let mut example = None;
        for (kind, seen) in kinds.iter().zip(self.reports.of(&paths)?) {
            match &seen.ja4 {
                Some(ja4) => {
                    ensure!(*ja4 == known[kind] && seen.join == "joined", "{kind} is taken for another: {seen:?}")
                }
                None => {
                    *missed.entry(seen.join.clone()).or_default() += 1;
                    example.get_or_insert(seen);
                }
            }
        }
        let joined = paths.len() - missed.values().sum::<usize>();
        show(&format!(
            "{joined} of {} requests over {} connections joined; {missed:?}",
            paths.len(),
            connections.len()
        ));
        ensure!(
            missed.values().sum::<usize>() * 1000 <= most * paths.len(),
            "{joined} of {}: {missed:?} {example:?}",
            paths.len()
        );
        self.counted(&missed)
    }

    /// Every report that came is counted under what became of it.
    fn counted(&self, missed: &BTreeMap<String, usize>) -> Result<()> {
        let metrics = until("no report to wait", PATIENCE, || {
            let metrics = self.daemon.metrics(&self.lab)?;
            Ok((metrics.sum("detector_table_entries", &[("table", "waiting_reports")]) == 0.0).then_some(metrics))
        })?;
        let came = metrics.sum("detector_intake_frames_total", &[("outcome", "report")]);
        ensure!(metrics.sum("detector_join_reports_total", &[]) == came, "{}", self.daemon.counted(&self.lab)?);
        for (outcome, count) in missed {
            let counted = metrics.sum("detector_join_reports_total", &[("outcome", outcome)]);
            ensure!(counted >= *count as f64, "{count} {outcome}, {counted} of them counted");
        }
        ensure!(metrics.unread() == 0.0, "{}", self.daemon.counted(&self.lab)?);
        Ok(())
    }
}

/// The queue's length that `dist/` has operators set.
fn queue() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/sysctl.d/60-detector.conf");
    let text = fs::read_to_string(path)?;
    let line = text.lines().find(|line| line.starts_with("net.")).context("a setting")?;
    Ok(line.replace(' ', ""))
}

/// How often each kind asks, how much each time, and seconds that a download and a WebSocket last. No more at a time than
/// the daemon keeps for whoever follows.
fn size() -> (u32, u32, u32) {
    if env::var_os("DETECTOR_TEST_FULL").is_some() { (7, 240, 60) } else { (1, 150, 5) }
}

/// Has each of these kinds ask, as often as the size says, and waits until all of it is told.
fn ask_often(scene: &Scene, kinds: &[&str]) -> Result<Vec<Connection>> {
    let (rounds, requests, _) = size();
    let mut connections = Vec::new();
    for round in 0..rounds {
        let ask = format!("--kinds {} --requests {requests} --run {round}", kinds.join(","));
        let asked = mixed::ask(&scene.lab, &ask)?;
        scene.reports.of(&asked.iter().flat_map(|one| one.paths.iter().map(String::as_str)).collect::<Vec<_>>())?;
        connections.extend(asked);
    }
    Ok(connections)
}

/// All kinds over HTTP/1.1 and HTTP/2, on new connections and old ones, ports used again by chance and on purpose, beside
/// a long download and a WebSocket.
fn joins(server: impl FnOnce(&Lab) -> Result<Reporter>) -> Result<()> {
    let scene = Scene::start(Some(PORTS), server)?;
    let known = scene.known(&[&KINDS[..], &["few"]].concat())?;
    let (_, _, seconds) = size();
    let beside = format!(
        "--kinds= --download old {seconds} --websocket python {seconds} \
         --reuse python curl 20000 10 --reuse curl few 21000 10 --reuse few python 22000 10"
    );
    let (often, beside) = thread::scope(|scope| {
        let beside = scope.spawn(|| mixed::ask(&scene.lab, &beside));
        (ask_often(&scene, &KINDS), beside.join().expect("a thread of ours"))
    });
    let (often, beside) = (often?, beside?);
    reused_within_a_second(&beside)?;
    scene.check(&[often, beside].concat(), &known, ONE_IN_A_THOUSAND)
}

/// Of each two connections on one port the second began within a second, by a client of another kind.
fn reused_within_a_second(connections: &[Connection]) -> Result<()> {
    let on_a_port = |one: &&Connection| one.paths[0].split('/').nth(2).is_some_and(|number| number.contains('-'));
    let mut pairs = BTreeMap::<&str, Vec<&Connection>>::new();
    for one in connections.iter().filter(on_a_port) {
        pairs.entry(one.paths[0].split('/').nth(2).unwrap_or_default()).or_default().push(one);
    }
    ensure!(pairs.len() == 30, "{} ports", pairs.len());
    for (port, pair) in pairs {
        let [first, second] = pair[..] else { anyhow::bail!("{port}: {pair:?}") };
        ensure!(first.kind != second.kind && second.began - first.ended < 1.0, "{port}: {pair:?}");
    }
    Ok(())
}

#[test]
fn each_request_to_nginx_finds_its_handshake() -> Result<()> {
    joins(|lab| Reporter::nginx(lab, false))
}

#[test]
fn each_request_to_haproxy_finds_its_handshake() -> Result<()> {
    joins(Reporter::haproxy)
}

/// Over QUIC, beside TCP, to a server that tells neither its own address nor a connection's age. Each connection has a port of
/// its own, but for chance; of one that is used again at once, a request may be nobody's, and is never another's.
#[test]
fn each_request_to_caddy_over_http3_finds_its_handshake() -> Result<()> {
    const OVER_QUIC: [&str; 3] = ["http3", "http3few", "curl"];
    let scene = Scene::start(None, Reporter::caddy)?;
    let known = scene.known(&OVER_QUIC)?;
    ensure!(known["http3"].starts_with('q') && known["curl"].starts_with('t'), "{known:?}");
    scene.check(&ask_often(&scene, &OVER_QUIC)?, &known, ONE_IN_A_THOUSAND)?;
    let again = mixed::ask(&scene.lab, "--reuse http3 http3few 20000 5")?;
    let known_of: Vec<&str> =
        again.iter().flat_map(|one| one.paths.iter().map(|_| known[&*one.kind].as_str())).collect();
    let paths: Vec<&str> = again.iter().flat_map(|one| one.paths.iter().map(String::as_str)).collect();
    for (seen, known) in scene.reports.of(&paths)?.iter().zip(known_of) {
        let missed = seen.ja4.is_none() && ["void", "ambiguous"].contains(&&*seen.join);
        ensure!(missed || seen.ja4.as_deref() == Some(known), "{seen:?}");
    }
    Ok(())
}

/// A report counts from when it was sent. While the daemon stands still its clients come, go, and come again from the same
/// port as others: it finds all that waiting, and must not take one for the other.
#[test]
fn reports_that_waited_are_joined_as_if_they_had_not() -> Result<()> {
    const STOPPED: f64 = 2.0;
    let mut scene = Scene::start(Some(PORTS), |lab| Reporter::nginx(lab, false))?;
    let known = scene.known(&["curl", "few", "python"])?;
    scene.daemon.signal(Signal::SIGSTOP)?;
    let stopped = monotonic_seconds()?;
    let connections =
        mixed::ask(&scene.lab, "--reuse python curl 20000 5 --reuse few python 21000 5 --reuse curl few 22000 5")?;
    until("two seconds to be over", PATIENCE, || Ok((monotonic_seconds()? - stopped >= STOPPED).then_some(())))?;
    scene.daemon.signal(Signal::SIGCONT)?;
    // The one before was left without an answer.
    scene.reports = Reports::follow(&scene.lab, "reports since")?;
    scene.check(&connections, &known, FIFTY_IN_A_THOUSAND)
}

/// What is told of each JA4 is what its clients did.
#[test]
fn requests_are_told_of_with_their_ja4() -> Result<()> {
    const CONNECTIONS: u64 = 10;
    let scene = Scene::start(Some(PORTS), |lab| Reporter::nginx(lab, false))?;
    let kinds: [(&str, &[&str], f64); 3] =
        [("one", &["--http1.1"], 0.0), ("two", &["--http2"], 1.0), ("old", &["--http1.1", "--tls-max", "1.2"], 0.0)];
    let mut ports = Vec::new();
    for (name, more, h2) in kinds {
        let paths = [0, 1, 2].map(|number| format!("/{name}/{number}"));
        let mut port = 0;
        for _ in 0..CONNECTIONS {
            let paths = paths.each_ref().map(String::as_str);
            port = curl::ask(&scene.lab, &paths, &[more, &["--user-agent", name]].concat())?;
        }
        ports.push((name, port, h2));
    }
    until("all reports", PATIENCE, || {
        let joined = scene.daemon.metrics(&scene.lab)?.sum("detector_join_reports_total", &[("outcome", "joined")]);
        Ok((joined >= (3 * 3 * CONNECTIONS) as f64).then_some(()))
    })?;
    for (name, port, h2) in ports {
        let ja4 = scene.daemon.hello_from(port)?.forms.ja4;
        let told: Value = serde_json::from_str(&control_ok(&scene.lab, &["signals", &ja4, "--format", "json"])?)?;
        let hour = &told["last_hour"];
        ensure!(hour["requests"] == 3 * CONNECTIONS && hour["paths"] == 3 && hour["uas"] == 1, "{name}: {told}");
        ensure!(told["h2h3_ratio_1h"] == h2 && told["ranked"] == 3 && hour["ips"] == 1, "{name}: {told}");
    }
    let clients = scene.daemon.metrics(&scene.lab)?.sum("detector_table_entries", &[("table", "sessions")]);
    ensure!(clients == 3.0, "{clients} clients");
    Ok(())
}
