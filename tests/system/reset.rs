//! A blocked client costs the server nothing: its connection is gone from the server as soon as it is refused, whatever
//! pieces its hello came in, and the client isn't told. A run that only drops shows what would be left.
//!
//! 100 connections at once; 1,000 with `DETECTOR_TEST_FULL=1`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::IpAddr;
use std::process::{ChildStdin, ChildStdout};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Loop, Target};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_V4, CLIENT_V6, Lab, LabOptions, Namespace, OTHER_CLIENT_V4, SERVER_V4, SERVER_V6};
use detector_tests::link::XdpMode;
use detector_tests::metrics::Metrics;
use detector_tests::process::{Process, output};
use detector_tests::server::{Nginx, PLAIN_PORT, SERVER_NAME};
use detector_tests::sums;
use serde_json::Value;

use crate::fixture::samples;
use crate::scene::{LONG, script};

/// How long the server may keep what a blocked client left there.
const SOON: Duration = Duration::from_secs(1);
/// Only drops.
const CONTROL: &str = "[enforce]\nreset = false\n";

fn count() -> usize {
    if env::var_os("DETECTOR_TEST_FULL").is_some_and(|full| full == "1") { 1000 } else { 100 }
}

/// A running `resets.py`, whose connections last as long as it does.
struct Clients {
    process: Process,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Clients {
    fn start(namespace: &Namespace, arguments: &[&str]) -> Result<Self> {
        let mut process = script(namespace, "resets.py", arguments)?;
        let stdin = process.child().stdin.take().context("no pipe")?;
        let lines = BufReader::new(process.child().stdout.take().context("no pipe")?).lines();
        Ok(Self { process, stdin, lines })
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.lines.next().context("resets.py ended")??)
    }

    /// Closes the connections: those of the clients that were told anything, and what.
    fn finish(mut self) -> Result<Vec<String>> {
        drop(self.stdin);
        let told = serde_json::from_str(&self.lines.next().context("resets.py ended")??)?;
        ensure!(self.process.wait(PATIENCE)?.success(), "resets.py");
        Ok(told)
    }

    /// Closes the connections of blocked clients.
    fn finish_untold(self) -> Result<()> {
        let told = self.finish()?;
        ensure!(told.is_empty(), "{} blocked clients were told something: {told:?}", told.len());
        Ok(())
    }
}

/// A web server with the daemon before it, which has seen a hello and blocks its JA4. What runs in the lab ends before it.
struct Scene {
    daemon: Daemon,
    _nginx: Nginx,
    lab: Lab,
    server: IpAddr,
    client: IpAddr,
}

/// Starts so many clients that send a hello of Chrome's, and waits until they have sent it: their ports, and when.
fn hellos(
    lab: &Lab,
    server: IpAddr,
    client: IpAddr,
    count: usize,
    more: &[&str],
) -> Result<(Clients, Vec<(u16, f64)>)> {
    let file = lab.file("hello");
    let sample = samples().iter().find(|sample| sample.stream.len() > 1700).context("no hello of Chrome's size")?;
    fs::write(&file, &sample.stream)?;
    let (server, client, count) = (server.to_string(), client.to_string(), count.to_string());
    let arguments = ["hellos", "--server", &server, "--source", &client, "--count", &count];
    let arguments = [&arguments[..], &["--hello", file.to_str().context("a path")?], more].concat();
    let mut clients = Clients::start(lab.client(), &arguments)?;
    let sent = serde_json::from_str(&clients.line()?)?;
    Ok((clients, sent))
}

/// Blocks the JA4 of that hello, of which the daemon has seen one from this port.
fn block(lab: &Lab, daemon: &Daemon, port: u16) -> Result<()> {
    let ja4 = daemon.hello_from(port)?.forms.ja4;
    control_ok(lab, &["block", "--force", "--ja4", &ja4]).map(drop)
}

/// Of nginx, beside the question for it.
fn active(lab: &Lab) -> Result<usize> {
    let url = format!("http://127.0.0.1:{PLAIN_PORT}/status");
    let page = output(lab.web().command("curl").args(["-sS", "--fail", "--noproxy", "*", "--max-time", "5", &url]))?;
    let active = page.lines().next().and_then(|line| line.strip_prefix("Active connections: "));
    Ok(active.with_context(|| format!("no stub_status: {page}"))?.trim().parse::<usize>()? - 1)
}

/// The server's sockets of connections with `client`: all but those that only wait for their time to pass.
fn sockets(lab: &Lab, client: IpAddr) -> Result<usize> {
    let client = if client.is_ipv6() { format!("[{client}]") } else { client.to_string() };
    let filter = ["-Htn", "state", "connected", "exclude", "time-wait", "sport", "=", ":443", "dst", &client];
    Ok(output(lab.web().command("ss").args(filter))?.lines().count())
}

fn resets(metrics: &Metrics, outcome: &str) -> usize {
    metrics.sum("detector_kernel_responses_total", &[("response", "reset"), ("outcome", outcome)]) as usize
}

fn dropped(metrics: &Metrics) -> usize {
    metrics.sum("detector_kernel_packets_total", &[("verdict", "drop")]) as usize
}

impl Scene {
    fn start(lab: Lab, server: IpAddr, mode: XdpMode, config: &'static str) -> Result<Self> {
        let nginx = Nginx::start(&lab)?;
        let daemon = Daemon::start(&lab, DaemonOptions { mode: Some(mode), config, ..DaemonOptions::default() })?;
        let client = if server.is_ipv4() { CLIENT_V4 } else { CLIENT_V6 };
        let scene = Self { lab, daemon, _nginx: nginx, server, client };
        let (seen, sent) = scene.hellos(1)?;
        block(&scene.lab, &scene.daemon, sent[0].0)?;
        ensure!(seen.finish()?.len() == 1, "before the block, the server answers");
        scene.await_none(PATIENCE)?;
        Ok(scene)
    }

    fn hellos(&self, count: usize) -> Result<(Clients, Vec<(u16, f64)>)> {
        hellos(&self.lab, self.server, self.client, count, &[])
    }

    /// Waits until the server has nothing of the client's, by its kernel and by nginx.
    fn await_none(&self, limit: Duration) -> Result<()> {
        let mut left = (0, 0);
        let none = until("the server to have no connection of the client's", limit, || {
            left = (sockets(&self.lab, self.client)?, active(&self.lab)?);
            Ok((left == (0, 0)).then_some(()))
        });
        none.with_context(|| format!("{left:?} sockets and nginx connections; {}", self.daemon.log()))
    }

    /// All at once, each cut elsewhere.
    fn play(self, what: &str) -> Result<()> {
        let count = count();
        let (clients, _) = self.hellos(count)?;
        self.await_none(SOON)?;
        clients.finish_untold()?;
        let metrics = sums::settled(&self.lab, &self.daemon)?;
        ensure!(resets(&metrics, "made") >= count, "{} resets", resets(&metrics, "made"));
        ensure!(resets(&metrics, "limited") + resets(&metrics, "failed") == 0);
        ensure!(metrics.sum("detector_kernel_packets_total", &[("reason", "fingerprint")]) >= count as f64);
        show(&format!("{what}: {count} blocked hellos at once, the server has none of them within a second"));
        Ok(())
    }
}

macro_rules! cells {
    ($($name:ident: $mode:ident $address:ident $mtu:literal;)*) => {
        $(
            #[test]
            fn $name() -> Result<()> {
                let lab = Lab::new(LabOptions { mtu: $mtu })?;
                Scene::start(lab, $address, XdpMode::$mode, "")?.play(stringify!($name))
            }
        )*
    };
}

cells! {
    blocked_hellos_leave_nothing_native_ipv4_mtu_576: Native SERVER_V4 576;
    blocked_hellos_leave_nothing_native_ipv4_mtu_1500: Native SERVER_V4 1500;
    blocked_hellos_leave_nothing_native_ipv4_mtu_9000: Native SERVER_V4 9000;
    blocked_hellos_leave_nothing_native_ipv6_mtu_1280: Native SERVER_V6 1280;
    blocked_hellos_leave_nothing_native_ipv6_mtu_1500: Native SERVER_V6 1500;
    blocked_hellos_leave_nothing_generic_ipv4_mtu_576: Generic SERVER_V4 576;
    blocked_hellos_leave_nothing_generic_ipv4_mtu_1500: Generic SERVER_V4 1500;
    blocked_hellos_leave_nothing_generic_ipv6_mtu_1280: Generic SERVER_V6 1280;
    blocked_hellos_leave_nothing_generic_ipv6_mtu_1500: Generic SERVER_V6 1500;
}

/// The connection is another host's, and the frame this one's: it goes where the connection goes.
#[test]
fn behind_dnat_blocked_hellos_leave_nothing() -> Result<()> {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let mut lab = Lab::new(LabOptions::default())?;
        lab.add_backend()?;
        Scene::start(lab, SERVER_V4, mode, "")?.play(&format!("behind DNAT, {}", mode.argument()))?;
    }
    Ok(())
}

/// The control run: with plain drops the server keeps every one of them, through the clients' retransmissions.
#[test]
fn without_resets_the_server_keeps_them_all() -> Result<()> {
    let count = count();
    let scene = Scene::start(Lab::new(LabOptions::default())?, SERVER_V4, XdpMode::Native, CONTROL)?;
    let (clients, _) = scene.hellos(count)?;
    until("every client to have sent its hello three times", LONG, || {
        Ok((dropped(&scene.daemon.metrics(&scene.lab)?) >= 3 * count).then_some(()))
    })?;
    assert_eq!((sockets(&scene.lab, scene.client)?, active(&scene.lab)?), (count, count));
    clients.finish_untold()?;
    let metrics = sums::settled(&scene.lab, &scene.daemon)?;
    assert_eq!(resets(&metrics, "made"), 0);
    show(&format!("control run without resets: the server keeps {count} of {count} connections"));
    Ok(())
}

/// A client at another address has its pages all the while.
#[test]
fn a_neighbour_is_not_hurt() -> Result<()> {
    let scene = Scene::start(Lab::new(LabOptions::default())?, SERVER_V4, XdpMode::Native, "")?;
    let target = Target { source: Some(OTHER_CLIENT_V4), timeout: LONG, parallel: 4, ..Target::new(SERVER_V4) };
    let neighbour = Loop::start(&scene.lab, &target, Kind::Python, Duration::from_millis(20))?;
    neighbour.since(0.0, 4, PATIENCE)?;
    for _ in 0..5 {
        let (clients, sent) = scene.hellos(count())?;
        until("the blocked clients to be gone", SOON, || Ok((sockets(&scene.lab, scene.client)? == 0).then_some(())))?;
        clients.finish_untold()?;
        neighbour.since(sent[0].1, 10, PATIENCE)?;
    }
    let reports = neighbour.stop(LONG)?;
    let hurt: Vec<_> = reports.iter().filter(|report| !report.answered()).collect();
    ensure!(hurt.is_empty(), "the neighbour saw errors: {hurt:?}");
    show(&format!("a neighbour's {} connections meanwhile: all answered", reports.len()));
    Ok(())
}

/// Connections that were open when their address, or its prefix, was blocked end on the server with their next packet.
#[test]
fn kept_connections_of_a_blocked_address_are_closed() -> Result<()> {
    const KEPT: usize = 50;
    for (mode, server, client, blocked) in [
        (XdpMode::Native, SERVER_V4, CLIENT_V4, "10.77.0.2"),
        (XdpMode::Native, SERVER_V6, CLIENT_V6, "fd77::/64"),
        (XdpMode::Generic, SERVER_V4, CLIENT_V4, "10.77.0.2/31"),
        (XdpMode::Generic, SERVER_V6, CLIENT_V6, "fd77::2"),
    ] {
        let lab = Lab::new(LabOptions::default())?;
        let _nginx = Nginx::start(&lab)?;
        let daemon = Daemon::start(&lab, DaemonOptions { mode: Some(mode), ..DaemonOptions::default() })?;
        let (to, from, kept) = (server.to_string(), client.to_string(), KEPT.to_string());
        let arguments = ["kept", "--server", &to, "--source", &from, "--count", &kept, "--name", SERVER_NAME];
        let mut clients = Clients::start(lab.client(), &arguments)?;
        clients.line()?;
        assert_eq!((sockets(&lab, client)?, active(&lab)?), (KEPT, KEPT));
        control_ok(&lab, &["block", blocked])?;
        clients.stdin.write_all(b"\n")?;
        assert_eq!(clients.line()?, "asked");
        until("the server to have closed them", SOON, || {
            Ok(((sockets(&lab, client)?, active(&lab)?) == (0, 0)).then_some(()))
        })
        .with_context(|| daemon.log())?;
        clients.finish_untold()?;
        sums::settled(&lab, &daemon)?;
        show(&format!("{}, block {blocked}: {KEPT} kept connections closed within a second", mode.argument()));
    }
    Ok(())
}

/// performance.md, goal 8: from the hello's last byte in the client's kernel to the server that reads the reset.
#[test]
fn the_server_is_rid_of_a_blocked_hello_in_a_millisecond() -> Result<()> {
    const CONNECTIONS: usize = 200;
    let lab = Lab::new(LabOptions::default())?;
    let mut server = Clients::start(lab.server(), &["serve"])?;
    ensure!(server.line()? == "ready");
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let hellos = |count, more| hellos(&lab, SERVER_V4, CLIENT_V4, count, more);
    let (_seen, sent) = hellos(1, &[])?;
    block(&lab, &daemon, sent[0].0)?;
    let (_clients, sent) = hellos(CONNECTIONS, &["--one-by-one"])?;
    let sent: BTreeMap<u64, f64> = sent.into_iter().map(|(port, at)| (port.into(), at)).collect();
    let mut took = Vec::new();
    while took.len() < CONNECTIONS {
        let line: Value = serde_json::from_str(&server.line()?)?;
        let port = line["port"].as_u64().context("no port")?;
        took.push(line["at"].as_f64().context("no time")? - sent.get(&port).context("an unknown port")?);
    }
    took.sort_by(f64::total_cmp);
    let [median, most] = [took[CONNECTIONS / 2], took[CONNECTIONS - 1]].map(|seconds| seconds * 1e6);
    show(&format!("from the hello to its reset in the server: median {median:.0} µs, most {most:.0} µs"));
    ensure!(median < 1000.0, "median {median:.0} µs");
    Ok(())
}
