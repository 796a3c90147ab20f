//! threats.md T25: very many kinds of clients at very many addresses, while Prometheus scrapes. What the metrics say of
//! them stays small, and so does the daemon; the most frequent ones are told on the command line, and there alone.
//!
//! Their way in is the real one: SYN, SYN-ACK and hello of each connection are frames on the wire, through XDP, egress, ring
//! and pipeline; of each address' first connection a web server tells too, on the signal socket, with a User-Agent and a
//! path of its own. Only sockets and TLS are missing: behind the programs the frames are dropped.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok, signal_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::drafts::Dice;
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_INTERFACE, Lab, LabOptions, Namespace, SERVER_INTERFACE, SERVER_V4};
use detector_tests::metrics::Metrics;
use detector_tests::process::output;
use detector_tests::sums;
use detector_tests::traffic::Hello;
use etherparse::PacketBuilder;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};
use serde_json::Value;

use crate::threats::full;

/// Where the clients are; the network has room for a million.
const NETWORK: &str = "10.80.0.0/12";
const FIRST: u32 = 0x0a50_0000;
/// The first port of each.
const PORT: u16 = 1024;
const METRICS: &str = "127.0.0.1:9464";

/// Ciphers and extensions that nobody has, from here on: so many of the former, and as many of the latter as it takes.
const CODE: u16 = 0x2000;
const CIPHERS: u64 = 2500;
/// What they stand for in the recorded hello: a cipher, and an extension without a body.
const CIPHER: [u8; 2] = [0xc0, 0x24];
const EXTENSION: [u8; 4] = [0, 0x17, 0, 0];

/// Hellos from one scrape to the next.
const SCRAPED: u64 = 1000;
/// Hellos on the wire that the daemon hasn't said it has read: a sixth of what its ring holds.
const AHEAD: u64 = 3 * SCRAPED;
/// Scrapes before the first and after the last of them.
const IDLE: u32 = 50;

/// The most that a scrape may have, and bytes of the daemon's memory: half of what its service may take.
const SERIES: usize = 500;
const SCRAPE_BYTES: usize = 100 * 1024;
const MEMORY: f64 = 1024.0 * 1024.0 * 1024.0;
/// What the command line tells of.
const TOLD: usize = 50;

/// One end of the wire, for whole frames.
struct Wire {
    socket: OwnedFd,
    mac: [u8; 6],
}

impl Wire {
    /// Opens it in the namespace of this thread.
    fn open(interface: &str) -> Result<Self> {
        let mut found = getifaddrs()?.filter(|found| found.interface_name == interface);
        let link = found.find_map(|found| found.address?.as_link_addr().copied());
        let link = link.with_context(|| format!("no link address of `{interface}`"))?;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)?;
        bind(socket.as_raw_fd(), &link)?;
        Ok(Self { socket, mac: link.addr().context("a veth has an address")? })
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                // The queue is full.
                Err(Errno::ENOBUFS) => thread::yield_now(),
                Err(error) => return Err(error).context("can't send a frame"),
            }
        }
    }
}

/// Puts this thread into a namespace.
fn enter(namespace: &Namespace) -> Result<()> {
    let path = format!("/run/netns/{}", namespace.name());
    Ok(setns(fs::File::open(&path).context(path)?, CloneFlags::CLONE_NEWNET)?)
}

/// A hello in which a cipher and an extension stand for a number.
struct Numbered {
    record: Vec<u8>,
    cipher: usize,
    extension: usize,
}

impl Numbered {
    fn new() -> Result<Self> {
        let record = Hello::recorded("py-requests", false)?.bytes(&mut Dice(25));
        // After the random and the session's name, which may hold any bytes.
        let ciphers = 44 + usize::from(record[43]);
        let find = |what: &[u8]| {
            let place = record[ciphers..].windows(what.len()).position(|bytes| bytes == what);
            place.map(|place| ciphers + place).with_context(|| format!("no {what:?} in the hello"))
        };
        Ok(Self { cipher: find(&CIPHER)?, extension: find(&EXTENSION)?, record })
    }

    fn set(&mut self, number: u64) -> &[u8] {
        let code = |number: u64| (CODE + number as u16).to_be_bytes();
        self.record[self.cipher..][..2].copy_from_slice(&code(number % CIPHERS));
        self.record[self.extension..][..2].copy_from_slice(&code(number / CIPHERS));
        &self.record
    }
}

/// How many there are.
#[derive(Clone, Copy)]
struct Crowd {
    ja4_values: u64,
    addresses: u64,
}

impl Crowd {
    fn client(self, number: u64) -> (Ipv4Addr, u16) {
        let address = Ipv4Addr::from(FIRST + (number % self.addresses) as u32);
        (address, PORT + (number / self.addresses) as u16)
    }

    /// Sends them all, no more than [`AHEAD`] of what is `read`; rings the bell for each scrape.
    fn come(self, lab: &Lab, read: &AtomicU64, bell: Sender<()>) -> Result<()> {
        enter(lab.server())?;
        let server = Wire::open(SERVER_INTERFACE)?;
        enter(lab.client())?;
        let client = Wire::open(CLIENT_INTERFACE)?;
        let reports = UnixDatagram::unbound()?;
        reports.connect(signal_socket(lab))?;
        let IpAddr::V4(site) = SERVER_V4 else { unreachable!("an IPv4 address") };
        let (there, back) = ((client.mac, server.mac), (server.mac, client.mac));
        let (mut hello, mut frame) = (Numbered::new()?, Vec::new());
        for number in 0..self.ja4_values {
            let (address, port) = self.client(number);
            let [seq, answer] = [number as u32, !number as u32];
            let from = |(from, to): ([u8; 6], [u8; 6]), source: Ipv4Addr, destination: Ipv4Addr| {
                PacketBuilder::ethernet2(from, to).ipv4(source.octets(), destination.octets(), 64)
            };
            let syn = from(there, address, site).tcp(port, 443, seq, 64_240).syn();
            let syn_ack = from(back, site, address).tcp(443, port, answer, 64_240).syn().ack(seq.wrapping_add(1));
            let first = from(there, address, site).tcp(port, 443, seq.wrapping_add(1), 64_240);
            let first = first.ack(answer.wrapping_add(1)).psh();
            for (wire, segment, payload) in
                [(&client, syn, &[][..]), (&server, syn_ack, &[][..]), (&client, first, hello.set(number))]
            {
                frame.clear();
                segment.write(&mut frame, payload)?;
                wire.send(&frame)?;
            }
            if number < self.addresses {
                let report = format!(
                    "{{\"v\":1,\"ip\":\"{address}\",\"port\":{port},\"sip\":\"{site}\",\"sport\":443,\"n\":1,\
                     \"host\":\"shop.test\",\"method\":\"GET\",\"proto\":\"HTTP/1.1\",\"status\":200,\
                     \"path\":\"/{number}\",\"ua\":\"program/{number}\"}}"
                );
                reports.send(report.as_bytes())?;
            }
            if number % SCRAPED == 0 {
                bell.send(()).context("nobody scrapes any more")?;
                until("the daemon to read on", PATIENCE, || {
                    Ok((number < read.load(Ordering::Relaxed) + AHEAD).then_some(()))
                })?;
            }
        }
        Ok(())
    }
}

/// One scrape: the text, and how long it took.
fn scrape() -> Result<(String, Duration)> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(METRICS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: detector\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let took = began.elapsed();
    let (head, text) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok((text.to_owned(), took))
}

fn resident_bytes(daemon: &Daemon) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? * 1024.0)
}

/// The most that any scrape had, and how long they took.
#[derive(Default)]
struct Scrapes {
    took: Vec<Duration>,
    series: usize,
    bytes: usize,
    memory: f64,
}

impl Scrapes {
    /// One more. Returns it.
    fn add(&mut self, daemon: &Daemon) -> Result<Metrics> {
        let (text, took) = scrape()?;
        let metrics = Metrics::parse(&text)?;
        self.took.push(took);
        self.series = self.series.max(metrics.samples().len());
        self.bytes = self.bytes.max(text.len());
        self.memory = self.memory.max(resident_bytes(daemon)?);
        let leaks = ["t13d", "10.8", "program/", "shop.test"];
        let mut labels = metrics.samples().iter().flat_map(|sample| sample.labels.values());
        let leaked = labels.find(|value| leaks.iter().any(|leak| value.contains(leak)));
        ensure!(leaked.is_none(), "a client is a label: {leaked:?}");
        Ok(metrics)
    }

    /// One more, for which so many hellos are read, or lost.
    fn count(&mut self, daemon: &Daemon) -> Result<u64> {
        let metrics = self.add(daemon)?;
        let complete = metrics.sum("detector_hello_outcomes_total", &[("outcome", "complete")]);
        let lost = metrics.sum("detector_capture_events_total", &[("class", "confirmed"), ("outcome", "lost")]);
        Ok((complete + lost) as u64)
    }

    fn quantile(&mut self, share: f64) -> f64 {
        self.took.sort();
        let last = self.took.len() - 1;
        self.took[(last as f64 * share) as usize].as_secs_f64() * 1e3
    }
}

#[test]
fn millions_of_clients_are_few_figures() -> Result<()> {
    let crowd = if full() {
        Crowd { ja4_values: 5_000_000, addresses: 1_000_000 }
    } else {
        Crowd { ja4_values: 50_000, addresses: 10_000 }
    };
    let lab = Lab::new(LabOptions::default())?;
    lab.sysctl(lab.server(), "net.unix.max_dgram_qlen=4096")?;
    // No stack answers: neither the server's to hellos, nor the clients' to what a server of theirs would send.
    for (namespace, interface, of) in
        [(lab.server(), SERVER_INTERFACE, "saddr"), (lab.client(), CLIENT_INTERFACE, "daddr")]
    {
        let rules = format!(
            "table netdev crowd {{ chain in {{ type filter hook ingress device {interface} priority 0; \
             ip {of} {NETWORK} drop; }}; }}"
        );
        output(namespace.command("nft").arg(rules))?;
        // A wire without a queue drops what comes while the other end is busy.
        let queue = ["qdisc", "replace", "dev", interface, "root", "pfifo", "limit", "1000"];
        output(namespace.command("tc").args(queue))?;
    }
    let daemon = Daemon::start(&lab, DaemonOptions { quiet: true, ..DaemonOptions::default() })?;
    let (before, read) = (resident_bytes(&daemon)?, AtomicU64::new(0));
    let began = Instant::now();
    let [mut floor, mut scrapes, mut after] = thread::scope(|scope| -> Result<_> {
        let [mut floor, mut scrapes, mut after] = <[Scrapes; 3]>::default();
        let (bell, rung) = channel();
        let (lab, daemon, read) = (&lab, &daemon, &read);
        let scraping = scope.spawn(move || -> Result<_> {
            enter(lab.server())?;
            for _ in 0..IDLE {
                floor.add(daemon)?;
            }
            for () in rung {
                read.store(scrapes.count(daemon)?, Ordering::Relaxed);
            }
            until("the last hello", PATIENCE, || Ok((scrapes.count(daemon)? >= crowd.ja4_values).then_some(())))?;
            for _ in 0..IDLE {
                after.add(daemon)?;
            }
            Ok([floor, scrapes, after])
        });
        let coming = scope.spawn(move || crowd.come(lab, read, bell));
        let came = coming.join().map_err(|_| anyhow!("the crowd's thread panicked"))?;
        let scraped = scraping.join().map_err(|_| anyhow!("the scraper's thread panicked"))?;
        // Who came in vain says so because nobody scraped.
        let scraped = scraped?;
        came?;
        Ok(scraped)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    // Each waits a second for the server's answer, which doesn't come.
    let metrics = until("every hello to be told", PATIENCE, || {
        let metrics = sums::settled(&lab, &daemon)?;
        Ok((metrics.sum("detector_table_entries", &[("table", "pending_hellos")]) == 0.0).then_some(metrics))
    })?;
    let confirmed = metrics.sum("detector_hello_standings_total", &[("standing", "confirmed")]);
    assert_eq!(confirmed, crowd.ja4_values as f64, "hellos of proven clients");
    let reports = metrics.sum("detector_intake_frames_total", &[("outcome", "report")]);
    assert_eq!(reports, crowd.addresses as f64, "reports");
    let joined = metrics.sum("detector_join_reports_total", &[("outcome", "joined")]);

    let most = |of: fn(&Scrapes) -> f64| [&floor, &scrapes, &after].into_iter().map(of).fold(0.0, f64::max);
    let (series, bytes) = (most(|scrapes| scrapes.series as f64), most(|scrapes| scrapes.bytes as f64));
    let memory = most(|scrapes| scrapes.memory);
    ensure!(series <= SERIES as f64, "{series} series");
    ensure!(bytes <= SCRAPE_BYTES as f64, "{bytes} bytes");
    ensure!(memory <= MEMORY, "{memory} bytes of memory");
    let told: Value = serde_json::from_str(&control_ok(&lab, &["status", "--format", "json"])?)?;
    let told = told["fingerprints"].as_array().context("no fingerprints")?.len();
    ensure!((1..=TOLD).contains(&told), "{told} fingerprints are told");
    show(&format!(
        "{} JA4 values from {} addresses in {seconds:.0} s, {reports} reports, {joined} joined: {series} series, {:.1} KiB \
         a scrape; memory {:.0} MiB, {:.0} before; {} scrapes meanwhile p50 {:.1} ms, p99 {:.1} ms (target 100), idle \
         before {:.1} and {:.1} ms, after {:.1} and {:.1} ms",
        crowd.ja4_values,
        crowd.addresses,
        bytes / 1024.0,
        memory / 1024.0 / 1024.0,
        before / 1024.0 / 1024.0,
        scrapes.took.len(),
        scrapes.quantile(0.5),
        scrapes.quantile(0.99),
        floor.quantile(0.5),
        floor.quantile(0.99),
        after.quantile(0.5),
        after.quantile(0.99),
    ));
    Ok(())
}
