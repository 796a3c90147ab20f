//! A blocked hello gets no ServerHello in whatever order its segments come, the first time too; one that isn't blocked is
//! served in the same orders. Over a real nginx, IPv4 and IPv6, 100 connections each; and with a byte that contradicts
//! another, which voids the fingerprint in userspace.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::IpAddr;
use std::process::{ChildStdin, ChildStdout};

use anyhow::{Context as _, Result, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_INTERFACE, Lab, LabOptions, Namespace, SERVER_INTERFACE, SERVER_V4, SERVER_V6};
use detector_tests::process::Process;
use detector_tests::server::Nginx;
use detector_tests::sums;
use serde_json::Value;

use crate::fixture::{Sample, samples};
use crate::scene::script;

const COUNT: usize = 100;
/// Addresses of nobody's, behind the client's end of the wire.
const SENDERS: [&str; 4] = ["10.77.0.9", "10.77.0.10", "fd77::9", "fd77::10"];

/// A running `disorder.py`.
struct Clients {
    process: Process,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Clients {
    fn line(&mut self) -> Result<Value> {
        Ok(serde_json::from_str(&self.lines.next().context("disorder.py ended")??)?)
    }

    /// Sends `what`: on how many connections a server has answered by now.
    fn send(&mut self, what: &str) -> Result<usize> {
        writeln!(self.stdin, "{what}")?;
        Ok(usize::try_from(self.line()?["served"].as_u64().context("a number")?)?)
    }

    fn finish(mut self) -> Result<()> {
        drop(self.stdin);
        ensure!(self.process.wait(PATIENCE)?.success(), "disorder.py");
        Ok(())
    }
}

struct Scene {
    daemon: Daemon,
    _nginx: Nginx,
    lab: Lab,
    macs: String,
    ports: u16,
}

impl Scene {
    fn start() -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let nginx = Nginx::start(&lab)?;
        let daemon = Daemon::start(&lab, DaemonOptions::default())?;
        let mac = |namespace: &Namespace, interface| -> Result<String> {
            let shown: Value = serde_json::from_str(&namespace.ip(&format!("-json link show {interface}"))?)?;
            Ok(shown[0]["address"].as_str().context("a veth has an address")?.to_owned())
        };
        let (server, client) = (mac(lab.server(), SERVER_INTERFACE)?, mac(lab.client(), CLIENT_INTERFACE)?);
        for sender in SENDERS {
            lab.server().ip(&format!("neighbour replace {sender} lladdr {client} dev {SERVER_INTERFACE}"))?;
        }
        Ok(Self { daemon, _nginx: nginx, lab, macs: format!("{server},{client}"), ports: 20_000 })
    }

    /// Opens so many connections from `source`, and the first one's port.
    fn open(&mut self, source: &str, sample: &Sample, count: usize, more: &[&str]) -> Result<(Clients, u16)> {
        let file = self.lab.file("hello");
        fs::write(&file, &sample.stream)?;
        let server = if source.parse::<IpAddr>()?.is_ipv4() { SERVER_V4 } else { SERVER_V6 };
        let (server, count, port) = (server.to_string(), count.to_string(), self.ports.to_string());
        self.ports += 1000;
        let hello = file.to_str().context("a path")?;
        let arguments =
            ["--interface", CLIENT_INTERFACE, "--macs", &self.macs, "--source", source, "--server", &server];
        let arguments = [&arguments[..], &["--hello", hello, "--count", &count, "--port", &port], more].concat();
        let mut process = script(self.lab.client(), "disorder.py", &arguments)?;
        let stdin = process.child().stdin.take().context("no pipe")?;
        let lines = BufReader::new(process.child().stdout.take().context("no pipe")?).lines();
        let mut clients = Clients { process, stdin, lines };
        clients.line()?;
        Ok((clients, port.parse()?))
    }

    /// Each connection is answered in the end; the first one's port.
    fn ensure_served(&mut self, source: &str, sample: &Sample, count: usize) -> Result<u16> {
        let (mut clients, port) = self.open(source, sample, count, &[])?;
        let mut served = 0;
        until("an answer to each hello", PATIENCE, || {
            served = clients.send("send")?;
            Ok((served == count).then_some(()))
        })
        .with_context(|| format!("{served} of {count} served over {source}; {}", self.daemon.log()))?;
        clients.finish()?;
        Ok(port)
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(self.daemon.metrics(&self.lab)?.sum(name, labels))
    }

    /// Sends until so many more were dropped for their fingerprint, and twice more: none is ever answered.
    fn ensure_refused(&self, clients: &mut Clients, what: &str, count: usize) -> Result<()> {
        let dropped = || self.sum("detector_kernel_packets_total", &[("reason", "fingerprint")]);
        let before = dropped()?;
        until("each hello to be dropped", PATIENCE, || {
            let served = clients.send(what)?;
            ensure!(served == 0, "{served} of {count} blocked hellos were answered");
            Ok((dropped()? >= before + count as f64).then_some(()))
        })?;
        for _ in 0..2 {
            let served = clients.send(what)?;
            ensure!(served == 0, "{served} of {count} blocked hellos were answered when they came again");
        }
        Ok(())
    }
}

#[test]
fn no_order_of_its_segments_gets_a_blocked_hello_answered() -> Result<()> {
    let large = |sample: &&Sample| sample.stream.len() > 1700;
    let chrome = samples().iter().find(large).context("no hello of Chrome's size")?;
    let ja4 = |sample: &Sample| sample.hello.fingerprint.ja4;
    let other = samples().iter().filter(large).find(|sample| ja4(sample) != ja4(chrome)).context("no other")?;
    let mut scene = Scene::start()?;
    for source in ["10.77.0.9", "fd77::9"] {
        let port = scene.ensure_served(source, chrome, COUNT)?;
        scene.daemon.hello_from(port)?;
    }
    control_ok(&scene.lab, &["block", "--force", "--ja4", &ja4(chrome).to_string()])?;
    for source in ["10.77.0.10", "fd77::10"] {
        let (mut clients, _) = scene.open(source, chrome, COUNT, &[])?;
        scene.ensure_refused(&mut clients, "send", COUNT)?;
        clients.finish()?;
        scene.ensure_served(source, other, COUNT)?;
    }
    for source in ["10.77.0.10", "fd77::10"] {
        // Of one source it keeps 64 unfinished ones.
        let given_up = |scene: &Scene| -> Result<f64> {
            let outcome = |outcome| scene.sum("detector_hello_outcomes_total", &[("outcome", outcome)]);
            Ok(outcome("overlap_conflict")? + outcome("evicted")?)
        };
        let before = given_up(&scene)?;
        let (mut clients, _) = scene.open(source, chrome, COUNT, &["--decoy"])?;
        until("userspace to give up each of them", PATIENCE, || {
            ensure!(clients.send("send")? == 0, "nobody has the beginning");
            Ok((given_up(&scene)? >= before + COUNT as f64).then_some(()))
        })?;
        scene.ensure_refused(&mut clients, "rest", COUNT)?;
        clients.finish()?;
    }
    let metrics = sums::settled(&scene.lab, &scene.daemon)?;
    assert_eq!(metrics.sum("detector_hello_keys_total", &[("side", "userspace"), ("outcome", "mismatch")]), 0.0);
    assert_eq!(metrics.sum("detector_hello_keys_total", &[("side", "kernel"), ("outcome", "evicted")]), 0.0);
    show("a blocked hello in segments of any order: 0 of 400 answered, 200 of them after a decoy; 400 others all were");
    Ok(())
}
