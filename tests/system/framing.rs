//! Framings on a real wire (threats.md T14, T16): tagged frames of real clients, and segments in every order with overlaps
//! that contradict each other, against what the server's own kernel hands its application.
//!
//! 720 orders and 300 overlaps; 1,000 with `DETECTOR_TEST_FULL=1`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Report, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok, offline};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::lab::{
    CLIENT_INTERFACE, CLIENT_V4, CLIENT_V6, Lab, LabOptions, Namespace, OTHER_CLIENT_V4, SERVER_INTERFACE, SERVER_V4,
    SERVER_V6,
};
use detector_tests::process::{Process, output};
use detector_tests::server::Nginx;
use detector_tests::sums;
use etherparse::PacketBuilder;
use serde_json::Value;

use crate::scene::{LONG, ja4_of, script};

/// An address of nobody's, behind the client's end of the wire.
const SENDER: &str = "10.77.0.9";

/// Pushes a tag of VLAN ID 0 onto what the client sends, while the pipe is open.
fn tag(lab: &Lab) -> Result<(Process, ChildStdin)> {
    output(lab.client().command("ethtool").args(["-K", CLIENT_INTERFACE, "tx-vlan-hw-insert", "off"]))?;
    let mut process = script(lab.client(), "tags.py", &[CLIENT_INTERFACE])?;
    let open = process.child().stdin.take().context("no pipe")?;
    let mut line = String::new();
    BufReader::new(process.child().stdout.take().context("no pipe")?).read_line(&mut line)?;
    ensure!(line == "ready\n", "tags.py: `{line}`");
    Ok((process, open))
}

#[test]
fn a_tag_hides_no_hello() -> Result<()> {
    const KINDS: [Kind; 2] = [Kind::Curl, Kind::Python];
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let seen = lab.file("tagged.pcap");
    for address in [SERVER_V4, SERVER_V6] {
        let target = Target { timeout: LONG, parallel: 4, ..Target::new(address) };
        let mut plain = BTreeMap::new();
        for report in batch(&lab, &target, &KINDS, 2)? {
            plain.insert(report.kind, ja4_of(&daemon, &report)?);
        }
        let tags = tag(&lab)?;
        let kinds = [KINDS[0], KINDS[1], Kind::Chrome];
        // That they are tagged: it ends with its hundredth frame.
        let mut tcpdump = lab.server().command("tcpdump");
        tcpdump.args(["-i", SERVER_INTERFACE, "-Q", "in", "-c", "100", "-Z", "root", "-U", "-w"]).arg(&seen);
        tcpdump.args(["vlan"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut tcpdump = Process::start("tcpdump", &mut tcpdump)?;
        let reports = batch(&lab, &target, &kinds, 30)?;
        ensure!(tcpdump.wait(PATIENCE)?.success(), "fewer than 100 tagged frames");
        drop(tags);
        ensure!(reports.iter().all(Report::answered), "{reports:?}");
        for report in reports {
            let ja4 = ja4_of(&daemon, &report)?;
            // Every hello of Chrome's is another: that it is told at all, over two segments, is what counts.
            let same = plain.get(&report.kind).is_none_or(|plain| *plain == ja4);
            ensure!(same, "{:?}: {ja4}, but untagged {plain:?}", report.kind);
        }
    }
    sums::settled(&lab, &daemon)?;
    show("60 connections over tagged frames: each hello told, as untagged");
    Ok(())
}

/// What a server told so far, a line for each thing it got.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Value>>>);

impl Heard {
    fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts a server that only reads.
fn listen(lab: &Lab, name: &str) -> Result<(Process, Heard)> {
    let mut process = script(lab.server(), name, &["serve"])?;
    let mut lines = BufReader::new(process.child().stdout.take().context("no pipe")?).lines();
    ensure!(lines.next().with_context(|| format!("{name} ended"))??.contains("ready"));
    let heard = Heard::default();
    let sink = heard.clone();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()) {
            sink.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
    Ok((process, heard))
}

/// The MAC addresses of the server's and the client's ends of the wire, as the scripts take them.
fn macs(lab: &Lab) -> Result<[String; 2]> {
    let address = |namespace: &Namespace, interface| -> Result<String> {
        let shown: Value = serde_json::from_str(&namespace.ip(&format!("-json link show {interface}"))?)?;
        Ok(shown[0]["address"].as_str().context("a veth has an address")?.to_owned())
    };
    Ok([address(lab.server(), SERVER_INTERFACE)?, address(lab.client(), CLIENT_INTERFACE)?])
}

/// A connection's port and the bytes the server read of it.
fn read(line: &Value) -> Option<(u16, Vec<u8>)> {
    let hex = line["bytes"].as_str()?;
    let bytes = (0..hex.len() / 2).map(|place| u8::from_str_radix(hex.get(place * 2..place * 2 + 2)?, 16).ok());
    Some((u16::try_from(line["port"].as_u64()?).ok()?, bytes.collect::<Option<_>>()?))
}

/// The JA4 of each connection's bytes, where they are a hello: each in one segment, read by `detector fingerprint`.
fn values(lab: &Lab, heard: &BTreeMap<u16, Vec<u8>>) -> Result<BTreeMap<u16, String>> {
    // A pcap file of Ethernet frames, native byte order (https://www.tcpdump.org/manpages/pcap-savefile.5.html).
    let mut file: Vec<u8> = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_ne_bytes).concat();
    for (port, bytes) in heard {
        let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let packet = packet.ipv4([10, 77, 0, 9], [10, 77, 0, 1], 64).tcp(*port, 443, 1001, 64_240).ack(1);
        let mut frame = Vec::new();
        packet.write(&mut frame, bytes)?;
        let len = u32::try_from(frame.len())?;
        file.extend([1, 0, len, len].map(u32::to_ne_bytes).concat());
        file.extend(frame);
    }
    let path = lab.file("heard.pcap");
    fs::write(&path, file)?;
    Ok(offline(&path)?.iter().filter_map(by_port).collect())
}

fn by_port(line: &Value) -> Option<(u16, String)> {
    Some((u16::try_from(line["src_port"].as_u64()?).ok()?, line["ja4"].as_str()?.to_owned()))
}

/// Runs `overlaps.py send` to its end: what it printed.
fn send_overlaps(lab: &Lab, more: &[&str]) -> Result<String> {
    let [server, client] = macs(lab)?;
    lab.server().ip(&format!("neighbour replace {SENDER} lladdr {client} dev {SERVER_INTERFACE}"))?;
    let macs = format!("{server},{client}");
    let to = SERVER_V4.to_string();
    let arguments = ["send", "--interface", CLIENT_INTERFACE, "--macs", &macs, "--source", SENDER, "--server", &to];
    let mut sender = script(lab.client(), "overlaps.py", &[&arguments[..], more].concat())?;
    ensure!(sender.wait(4 * LONG)?.success(), "overlaps.py");
    let mut said = String::new();
    sender.child().stdout.take().context("no pipe")?.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn what_is_told_is_what_the_server_read() -> Result<()> {
    const ORDERS: usize = 720;
    let full = env::var_os("DETECTOR_TEST_FULL").is_some_and(|full| full == "1");
    let overlaps = if full { 1000 } else { 300 };
    let lab = Lab::new(LabOptions::default())?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let (_server, heard) = listen(&lab, "overlaps.py")?;
    let said = send_overlaps(&lab, &["--overlaps", &overlaps.to_string()])?;
    ensure!(said.contains(&format!("\"made\": {}", ORDERS + overlaps)), "overlaps.py: {said}");

    let heard = until("the server to have read all", PATIENCE, || {
        let heard: BTreeMap<u16, Vec<u8>> = heard.all().iter().filter_map(read).collect();
        Ok((heard.len() == ORDERS + overlaps).then_some(heard))
    })?;
    let real = values(&lab, &heard)?;
    until("an outcome of each connection", PATIENCE, || {
        let metrics = daemon.metrics(&lab)?;
        let outcomes = metrics.sum("detector_hello_outcomes_total", &[]) as usize;
        let judged = metrics.sum("detector_table_entries", &[("table", "pending_hellos")]) == 0.0;
        Ok((judged && outcomes >= ORDERS + overlaps).then_some(()))
    })
    .with_context(|| daemon.log())?;
    let metrics = sums::settled(&lab, &daemon)?;
    let written =
        metrics.sum("detector_queue_items_total", &[("queue", "hello_lines"), ("outcome", "written")]) as usize;
    let lines =
        daemon.wait_for("the lines written", PATIENCE, |lines| (lines.len() >= written).then(|| lines.to_vec()))?;
    let told: BTreeMap<u16, String> = lines.iter().filter_map(by_port).collect();
    ensure!(lines.len() == told.len(), "a connection has two lines");
    let wrong: Vec<_> = told.iter().filter(|(port, ja4)| real.get(port) != Some(ja4)).collect();
    ensure!(wrong.is_empty(), "{} told other than what the server read: {wrong:?}", wrong.len());
    let ordered = told.keys().filter(|port| usize::from(**port) < 20_000 + ORDERS).count();
    ensure!(ordered == ORDERS, "{ordered} of {ORDERS} orders told");
    let conflicts = metrics.sum("detector_hello_outcomes_total", &[("outcome", "overlap_conflict")]);
    let void = metrics.sum("detector_hello_standings_total", &[("standing", "void")]);
    let untold = heard.len() - told.len();
    ensure!(untold as f64 <= conflicts + void, "{untold} not told, {conflicts} conflicts, {void} void");
    show(&format!(
        "{ORDERS} orders and {overlaps} overlaps: {} told as the server read them, {untold} not told ({conflicts} \
         conflicts, {void} void), 0 wrong",
        told.len()
    ));
    Ok(())
}

/// Segments that contradict each other are no way past a verdict on a JA4: the program reads what the server would. Linux's
/// choice between those that wait hangs on the shape of its tree too, which nobody sees: one in 500 may be another.
#[test]
fn overlaps_get_no_blocked_hello_to_the_server() -> Result<()> {
    const FIRST: u16 = 30_000;
    let full = env::var_os("DETECTOR_TEST_FULL").is_some_and(|full| full == "1");
    let overlaps = if full { 3000 } else { 600 };
    let lab = Lab::new(LabOptions::default())?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let (_server, heard) = listen(&lab, "overlaps.py")?;
    send_overlaps(&lab, &["--orders", "1", "--overlaps", "0"])?;
    let ja4 = daemon.hello_from(20_000)?.forms.ja4;
    control_ok(&lab, &["block", "--force", "--ja4", &ja4])?;
    let (count, port) = (overlaps.to_string(), FIRST.to_string());
    // Those that are blocked end in silence.
    send_overlaps(&lab, &["--orders", "0", "--overlaps", &count, "--port", &port, "--patience", "1"])?;
    let metrics = sums::settled(&lab, &daemon)?;
    let dropped = metrics.sum("detector_kernel_packets_total", &[("reason", "fingerprint")]) as usize;
    let heard: BTreeMap<u16, Vec<u8>> =
        heard.all().iter().filter_map(read).filter(|(port, _)| *port >= FIRST).collect();
    let whole = values(&lab, &heard)?;
    let through: Vec<_> = whole.iter().filter(|(_, read)| **read == ja4).collect();
    ensure!(through.len() * 500 <= overlaps, "{} blocked hellos reached the server: {through:?}", through.len());
    ensure!(dropped >= overlaps / 10 && !whole.is_empty(), "{dropped} dropped, {} read", whole.len());
    show(&format!(
        "{overlaps} hellos of two kinds mixed up: {dropped} dropped, {} read by the server, {} of the blocked kind",
        whole.len(),
        through.len()
    ));
    Ok(())
}

#[test]
fn fragments_of_a_blocked_address_never_complete_at_a_protected_port() -> Result<()> {
    /// Of a datagram that was sent in fragments, and of the one after them.
    const FRAGMENTED: u64 = 1400;
    const WHOLE: u64 = 4;
    const FREE_V6: &str = "fd77::3";
    let lab = Lab::new(LabOptions::default())?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let (_server, heard) = listen(&lab, "fragments.py")?;
    let (blocked_v4, blocked_v6, free_v4) = (CLIENT_V4.to_string(), CLIENT_V6.to_string(), OTHER_CLIENT_V4.to_string());
    for address in [&blocked_v4, &blocked_v6] {
        control_ok(&lab, &["block", address])?;
    }
    let macs = macs(&lab)?.join(",");
    // Those that are free last: when their whole datagrams are there, all else is that will ever be.
    let sources = [&blocked_v4, &blocked_v6, &free_v4, FREE_V6].join(",");
    let servers = [SERVER_V4.to_string(), SERVER_V6.to_string()].join(",");
    let arguments = ["--interface", CLIENT_INTERFACE, "--macs", &macs, "--sources", &sources, "--servers", &servers];
    let mut sender = script(lab.client(), "fragments.py", &[&["send"], &arguments[..]].concat())?;
    ensure!(sender.wait(LONG)?.success(), "fragments.py");
    let count = |port: u64, source: &str, size: u64| {
        let all = heard.all();
        all.iter().filter(|line| line["port"] == port && line["from"] == source && line["size"] == size).count()
    };
    until("the last datagrams", PATIENCE, || {
        let last = [443, 444].iter().all(|port| count(*port, &free_v4, WHOLE) + count(*port, FREE_V6, WHOLE) == 2);
        Ok(last.then_some(()))
    })?;
    for (source, protected) in [(&*blocked_v4, 0), (&blocked_v6, 0), (&free_v4, 2), (FREE_V6, 2)] {
        assert_eq!(count(443, source, FRAGMENTED), protected, "{source} to the protected port");
        assert_eq!(count(443, source, WHOLE), protected / 2, "{source} to the protected port, whole");
        assert_eq!(count(444, source, FRAGMENTED), 2, "{source} to another port");
        assert_eq!(count(444, source, WHOLE), 1, "{source} to another port, whole");
    }
    let metrics = sums::settled(&lab, &daemon)?;
    // The first fragments in two orders and the whole one, of each family.
    assert_eq!(metrics.sum("detector_kernel_packets_total", &[("verdict", "drop")]), 6.0);
    show(
        "fragments of blocked addresses: 0 datagrams at the protected port, none lost at the other, 6 packets dropped",
    );
    Ok(())
}
