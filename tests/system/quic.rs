//! Done when 2 of part 2: real QUIC and DTLS through the live daemon. Each handshake that the server counts is one
//! hello that is told, with the corpus' JA4 and the proof of its client's address; forged hellos are counted, and none
//! is told.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use detector::capture::{Flow, Packet, frame, pcap};
use detector::quic::{Kind as PacketKind, LongHeader, Opener, Version};
use detector_tests::capture::Tcpdump;
use detector_tests::clients::{Kind, Report, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok, offline};
use detector_tests::datagrams::{Dtls, Http3, chromium_version, dtls_certificate, dtls_handshake, protocols};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::hello::by_place;
use detector_tests::lab::{CLIENT_INTERFACE, CLIENT_V4, Lab, LabOptions, SERVER_INTERFACE, SERVER_V4, SERVER_V6};
use detector_tests::metrics::Metrics;
use detector_tests::process::{Process, output};
use detector_tests::programs;
use detector_tests::server::Nginx;
use detector_tests::sums;
use serde_json::Value;

use crate::scene::SHORT;

/// Handshakes of each client.
const HANDSHAKES: u32 = 50;

macro_rules! cells {
    ($($name:ident: $kind:ident $address:ident $version:ident retry $retry:literal;)*) => {
        $(
            #[test]
            fn $name() -> Result<()> {
                aioquic(Kind::$kind, $address, Version::$version, $retry)
            }
        )*
    };
}

cells! {
    aioquic_is_told_as_the_server_counts: Aioquic SERVER_V4 V1 retry false;
    aioquic_over_ipv6: Aioquic SERVER_V6 V1 retry false;
    aioquic_in_version_2: AioquicV2 SERVER_V4 V2 retry false;
    aioquic_after_a_retry_packet: Aioquic SERVER_V4 V1 retry true;
}

fn aioquic(kind: Kind, address: IpAddr, version: Version, retry: bool) -> Result<()> {
    let scene = Scene::start(retry)?;
    let reports = batch(&scene.lab, &Target { parallel: 2, ..Target::new(address) }, &[kind], HANDSHAKES)?;
    ensure!(reports.iter().all(Report::answered), "not all got their page: {reports:?}");
    let seen = scene.check()?;
    ensure!(seen.void == if retry { seen.handshakes } else { 0 }, "{} void hellos", seen.void);
    ensure!(seen.versions == [version], "other versions: {:?}", seen.versions);
    let ports: BTreeSet<u16> = reports.iter().filter_map(|report| report.port).collect();
    ensure!(seen.ports == ports, "ports {:?} against {ports:?}", seen.ports);
    // Without a session to resume, all are the same.
    let corpus = corpus("aioquic-h3", |_| true)?;
    ensure!(seen.ja4.len() == 1 && seen.ja4.is_subset(&corpus), "{:?} against the corpus' {corpus:?}", seen.ja4);
    let how = if retry { "Retry" } else { "no Retry" };
    let Seen { handshakes, void, .. } = seen;
    show(&format!("aioquic {version:?} to {address}, {how}: {handshakes} handshakes, as many hellos, {void} void"));
    Ok(())
}

/// A client's address and port are used again at once, by a connection that is proven by a Retry packet of its own: no
/// hello is taken for another connection's.
#[test]
fn connections_from_ports_used_before_are_told_apart() -> Result<()> {
    let scene = Scene::start(true)?;
    scene.lab.sysctl(scene.lab.client(), "net.ipv4.ip_local_port_range=40000 40003")?;
    let reports = batch(&scene.lab, &Target::new(SERVER_V4), &[Kind::Aioquic], HANDSHAKES)?;
    ensure!(reports.iter().all(Report::answered), "not all got their page: {reports:?}");
    let seen = scene.check()?;
    ensure!(seen.ports.len() <= 4, "other ports than those: {:?}", seen.ports);
    ensure!((seen.handshakes, seen.void) == (HANDSHAKES as usize, HANDSHAKES as usize), "{} void hellos", seen.void);
    Ok(())
}

#[test]
fn chromium_is_told_as_the_server_counts() -> Result<()> {
    let scene = Scene::start(false)?;
    scene.http3.visit(&scene.lab, SERVER_V4, HANDSHAKES as usize)?;
    let seen = scene.check()?;
    ensure!(seen.handshakes >= HANDSHAKES as usize, "{} handshakes", seen.handshakes);
    ensure!(seen.out_of_order > 0, "no client sent the pieces of its hello out of order");
    let version = chromium_version()?;
    let corpus = corpus("chromium-h3", |recorded| recorded.split('.').next() == Some(version.as_str()))?;
    let compared = if corpus.is_empty() {
        "not in the corpus"
    } else {
        ensure!(seen.ja4.is_subset(&corpus), "{:?} against the corpus' {corpus:?}", seen.ja4);
        "with the corpus' JA4"
    };
    let Seen { handshakes, out_of_order, .. } = seen;
    show(&format!(
        "Chromium {version}: {handshakes} handshakes, as many hellos, {compared}; pieces out of order in {out_of_order}"
    ));
    Ok(())
}

/// The JA4 values of the captures whose name begins with `name`, of versions that are `wanted`.
fn corpus(name: &str, wanted: impl Fn(&str) -> bool) -> Result<BTreeSet<String>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures");
    let labels: Vec<Value> = serde_json::from_slice(&fs::read(directory.join("labels.json"))?)?;
    let named = labels.iter().filter(|label| label["name"].as_str().is_some_and(|its| its.starts_with(name)));
    let of_version = named.filter(|label| label["version"].as_str().is_some_and(&wanted));
    let captures: BTreeSet<&str> = of_version.filter_map(|label| label["pcap"].as_str()).collect();
    let expected: Vec<Value> = serde_json::from_slice(&fs::read(directory.join("expected.json"))?)?;
    let of_them = expected.iter().filter(|hello| hello["pcap"].as_str().is_some_and(|pcap| captures.contains(pcap)));
    Ok(of_them.filter_map(|hello| hello["ja4"].as_str().map(str::to_owned)).collect())
}

struct Scene {
    lab: Lab,
    http3: Http3,
    tcpdump: Tcpdump,
    daemon: Daemon,
}

/// What was seen of the clients.
struct Seen {
    handshakes: usize,
    /// Hellos that were told as not the server's.
    void: usize,
    ports: BTreeSet<u16>,
    ja4: BTreeSet<String>,
    versions: Vec<Version>,
    /// Hellos whose pieces came in another order than they have in it.
    out_of_order: usize,
}

impl Scene {
    fn start(retry: bool) -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let http3 = Http3::start(&lab, retry)?;
        let tcpdump = Tcpdump::start(&lab)?;
        let daemon = Daemon::start(&lab, DaemonOptions::default())?;
        Ok(Self { lab, http3, tcpdump, daemon })
    }

    /// What holds for all clients: one hello for each handshake, confirmed; all as tcpdump has it; the sums.
    fn check(self) -> Result<Seen> {
        let Self { lab, http3, tcpdump, daemon } = self;
        let handshakes = http3.handshakes()?.len();
        let complete = ensure_sums(&lab, &daemon)?;
        let lines = daemon.wait_for("a line for each hello", PATIENCE, |events| {
            (events.len() as f64 >= complete).then(|| events.to_vec())
        })?;
        for line in &lines {
            ensure!(line["transport"] == "quic" && line["confirmed"] == "quic_path" && line["hello"] == 0, "{line}");
        }
        // aioquic sends another hello after a Retry packet: the first is void then.
        let told: Vec<&Value> = lines.iter().filter(|line| line["void"].is_null()).collect();
        let all = lines.iter().map(|line| format!("{} {}", line["src_port"], line["void"])).collect::<Vec<_>>();
        ensure!(told.len() == handshakes, "{} hellos of {handshakes} handshakes; all: {all:?}", told.len());
        let void = lines.len() - told.len();
        let ports = told.iter().filter_map(|line| u16::try_from(line["src_port"].as_u64()?).ok()).collect();
        let ja4 = told.iter().filter_map(|line| line["ja4"].as_str().map(str::to_owned)).collect();

        let capture = tcpdump.finish(&lab)?;
        let (live, recorded) = (by_place(&lines)?, by_place(&offline(&capture)?)?);
        ensure!(live == recorded, "live and from tcpdump's file:\n{live:?}\n{recorded:?}");
        let (versions, out_of_order) = pieces(&capture)?;
        Ok(Seen { handshakes, void, ports, ja4, versions, out_of_order })
    }
}

/// The versions of the Initial packets of a capture, and the flows whose pieces are out of order.
fn pieces(capture: &Path) -> Result<(Vec<Version>, usize)> {
    let mut versions = Vec::new();
    let mut flows: BTreeMap<String, (Vec<detector::quic::Known>, Vec<u64>)> = BTreeMap::new();
    let mut opener = Opener::default();
    pcap::read(File::open(capture)?, |frame| {
        let Ok(Packet::Datagram(datagram)) = frame::packet(frame) else { return };
        let Some(LongHeader { version, kind: PacketKind::Initial, .. }) = LongHeader::parse(datagram.payload) else {
            return;
        };
        if !versions.contains(&version) {
            versions.push(version);
        }
        let (known, offsets) = flows.entry(name(&datagram.flow)).or_default();
        if let Some(opened) = opener.open(datagram.payload, known.clone().into_iter()) {
            known.push(opened.known);
            offsets.extend(opened.pieces.iter().map(|piece| piece.offset));
        }
    })?;
    Ok((versions, flows.values().filter(|(_, offsets)| !offsets.is_sorted()).count()))
}

fn name(flow: &Flow) -> String {
    format!("{} {}", flow.source, flow.destination)
}

/// Waits until nothing is in flight and the sums hold; returns how many hellos were complete.
fn ensure_sums(lab: &Lab, daemon: &Daemon) -> Result<f64> {
    until("no hello to be held", PATIENCE, || {
        let metrics = daemon.metrics(lab)?;
        Ok((metrics.sum("detector_table_entries", &[("table", "pending_hellos")]) == 0.0).then_some(()))
    })?;
    let metrics = sums::settled(lab, daemon)?;
    let lines = metrics.sum("detector_queue_items_total", &[("queue", "hello_lines"), ("outcome", "written")]);
    ensure!(lines == standing(&metrics, "confirmed"), "{lines} lines");
    Ok(complete(&metrics))
}

fn complete(metrics: &Metrics) -> f64 {
    metrics.sum("detector_hello_outcomes_total", &[("outcome", "complete")])
}

fn standing(metrics: &Metrics, standing: &str) -> f64 {
    metrics.sum("detector_hello_standings_total", &[("standing", standing)])
}

fn lost(metrics: &Metrics) -> f64 {
    let lost = |class| metrics.sum("detector_capture_events_total", &[("class", class), ("outcome", "lost")]);
    lost("confirmed") + lost("unconfirmed")
}

/// Real connections amid forged ones.
const REAL: u32 = 20;

/// threats.md T3 has 1,000,000 forged Initials: too many for each run, since a server in Python has to answer them.
#[test]
fn forged_initials_are_never_told() -> Result<()> {
    let full = env::var_os("DETECTOR_TEST_FULL").is_some_and(|full| full == "1");
    let least = if full { 1_000_000 } else { 20_000 };
    let lab = Lab::new(LabOptions::default())?;
    // The answers to the forged addresses really go out. Behind XDP most of what is forged is dropped, since a server in
    // Python would be busy with nothing else.
    lab.server().ip("route add 198.18.0.0/15 via 10.77.0.2")?;
    let rules = format!(
        "table netdev forged {{ chain in {{ type filter hook ingress device {SERVER_INTERFACE} priority 0; \
         ip saddr 198.18.0.0/15 limit rate over 200/second drop; }}; }}"
    );
    output(lab.server().command("nft").arg(rules))?;
    // With Retry, as servers do under such a load.
    let http3 = Http3::start(&lab, true)?;
    let tcpdump = Tcpdump::start(&lab)?;
    let recorded = batch(&lab, &Target::new(SERVER_V4), &[Kind::Aioquic], 1)?;
    ensure!(recorded.iter().all(Report::answered), "{recorded:?}");
    let (initial, sent) = (lab.file("initial"), lab.file("forged"));
    fs::write(&initial, first_initial(&tcpdump.finish(&lab)?)?)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;

    let mac = lab.server().command("cat").arg(format!("/sys/class/net/{SERVER_INTERFACE}/address")).output()?.stdout;
    let mut command = lab.client().command(programs::python()?);
    command.arg("-B").arg(programs::script("forge_initials.py")).args(["--interface", CLIENT_INTERFACE]);
    command.args(["--mac", String::from_utf8(mac)?.trim(), "--destination", &SERVER_V4.to_string()]);
    command.args(["--count", &least.to_string(), "--rate", "5000"]).arg("--initial").arg(&initial);
    command.stdin(Stdio::piped()).stdout(File::create(&sent)?);
    let mut forger = Process::start("forge_initials.py", &mut command)?;
    let stop = forger.child().stdin.take().context("no pipe")?;
    until("forged hellos in the daemon", PATIENCE, || Ok((complete(&daemon.metrics(&lab)?) >= 1000.0).then_some(())))?;
    let target = Target { parallel: 4, ..Target::new(SERVER_V4) };
    let reports = batch(&lab, &target, &[Kind::Aioquic], REAL)?;
    drop(stop);
    ensure!(reports.iter().all(Report::answered), "not all got their page: {reports:?}");
    let ended = forger.wait(PATIENCE * if full { 60 } else { 3 })?;
    ensure!(ended.success(), "forge_initials.py: {ended}");
    let forged: f64 = fs::read_to_string(&sent)?.trim().parse()?;

    let complete = ensure_sums(&lab, &daemon)?;
    let metrics = daemon.metrics(&lab)?;
    let lost = lost(&metrics);
    let told = daemon.events()?;
    let real: BTreeSet<u64> = reports.iter().filter_map(|report| report.port.map(u64::from)).collect();
    for line in &told {
        ensure!(line["src_ip"] == CLIENT_V4.to_string() && line["confirmed"] == "quic_path", "{line}");
    }
    let valid = told.iter().filter(|line| line["void"].is_null());
    let ports: BTreeSet<u64> = valid.filter_map(|line| line["src_port"].as_u64()).collect();
    ensure!(ports == real, "told are {ports:?}, real were {real:?}");
    ensure!(http3.handshakes()?.len() == recorded.len() + reports.len(), "the server counts other handshakes");
    let confirmed = standing(&metrics, "confirmed");
    ensure!(confirmed == told.len() as f64, "{confirmed} confirmed, {} told", told.len());
    // Each forged hello was read and held, unless the kernel had no room for it.
    let read = complete - confirmed;
    ensure!(read <= forged && read + lost >= forged, "{read} of {forged} forged hellos, {lost} events lost");
    ensure!(can_send(daemon.id())?.is_empty(), "the daemon has sockets that send datagrams");
    show(&format!(
        "{read} forged Initials read, {lost} events lost, 0 told; {REAL} real connections amid them confirmed"
    ));
    Ok(())
}

/// The first Initial of a capture, from the beginning of the UDP payload.
fn first_initial(capture: &Path) -> Result<Vec<u8>> {
    let mut initial = None;
    pcap::read(File::open(capture)?, |frame| {
        if let Ok(Packet::Datagram(datagram)) = frame::packet(frame)
            && LongHeader::parse(datagram.payload).is_some()
        {
            initial.get_or_insert_with(|| datagram.payload.to_vec());
        }
    })?;
    initial.context("no Initial in the capture")
}

/// The process' sockets that could send a frame or a datagram: a process without any has sent none.
fn can_send(process: u32) -> Result<Vec<String>> {
    let mut sockets = BTreeSet::new();
    for descriptor in fs::read_dir(format!("/proc/{process}/fd"))? {
        // One may be closed meanwhile.
        let Ok(target) = fs::read_link(descriptor?.path()) else { continue };
        let target = target.to_string_lossy();
        sockets.extend(target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).map(str::to_owned));
    }
    ensure!(!sockets.is_empty(), "a daemon has sockets");
    let mut sending = Vec::new();
    for (kind, inode_column) in [("udp", 9), ("udp6", 9), ("raw", 9), ("raw6", 9), ("packet", 8)] {
        let table = fs::read_to_string(format!("/proc/{process}/net/{kind}"))?;
        let inodes = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(inode_column));
        sending.extend(inodes.filter(|inode| sockets.contains(*inode)).map(|inode| format!("{kind} {inode}")));
    }
    Ok(sending)
}

/// The JA4 values of hellos told so far over a transport.
fn told(daemon: &Daemon, transport: &str) -> Result<BTreeSet<String>> {
    let events = daemon.events()?;
    let lines = events.iter().filter(|line| line["transport"] == transport);
    Ok(lines.filter_map(|line| line["ja4"].as_str().map(str::to_owned)).collect())
}

/// Packets the program dropped for this reason.
fn dropped(lab: &Lab, daemon: &Daemon, reason: &str) -> Result<f64> {
    let labels = [("verdict", "drop"), ("reason", reason)];
    Ok(daemon.metrics(lab)?.sum("detector_kernel_packets_total", &labels))
}

/// Done when 6 of part 3. A first connection over QUIC, from which the program is to learn, gets as far as its handshake.
#[test]
fn a_browser_whose_quic_is_blocked_falls_back_to_tcp_and_meets_the_verdict_there() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let http3 = Http3::start(&lab, false)?;
    let nginx = Nginx::start_beside(&lab, http3.certificate())?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let visit = |profile: &str| output(&mut http3.choosing(&lab, SERVER_V4, profile)?);

    let page = visit("free")?;
    let free = protocols(&page);
    ensure!(free.last() == Some(&"h3"), "Chromium doesn't turn to QUIC by itself: {page}");
    daemon.wait_for("Chromium's hello over QUIC", PATIENCE, |events| {
        events.iter().any(|line| line["transport"] == "quic").then_some(())
    })?;
    let (quic, tcp) = (told(&daemon, "quic")?, told(&daemon, "tcp")?);
    ensure!(quic.len() == 1 && !tcp.is_empty(), "{quic:?} and {tcp:?}");
    for ja4 in &quic {
        control_ok(&lab, &["block", "--force", "--ja4", ja4])?;
    }
    let page = visit("learning")?;
    ensure!(protocols(&page).last() == Some(&"h2"), "{page}");
    ensure!(dropped(&lab, &daemon, "connection")? > 0.0, "no datagram of the blocked connection was dropped");

    let (handshakes, initials) = (http3.handshakes()?.len(), dropped(&lab, &daemon, "initial")?);
    // It sees what is left of what comes in.
    let tcpdump = Tcpdump::start(&lab)?;
    let page = visit("blocked")?;
    let blocked = protocols(&page);
    ensure!(!blocked.is_empty() && blocked.iter().all(|protocol| *protocol == "h2"), "{page}");
    ensure!(dropped(&lab, &daemon, "initial")? > initials, "Chromium didn't try QUIC");
    ensure!(http3.handshakes()?.len() == handshakes, "a handshake over QUIC");
    ensure!(first_initial(&tcpdump.finish(&lab)?).is_err(), "a datagram that begins a QUIC connection got through");

    for ja4 in &tcp {
        control_ok(&lab, &["block", "--force", "--ja4", ja4])?;
    }
    let answered = nginx.answered()?.len();
    let printed = lab.file("refused");
    let mut command = http3.choosing(&lab, SERVER_V4, "refused")?;
    command.stdin(Stdio::null()).stdout(File::create(&printed)?).stderr(Stdio::null());
    let browser = Process::start("chromium", &mut command)?;
    // The hello itself by its fingerprint, what is sent again also by its connection.
    let all = || Ok::<_, anyhow::Error>(dropped(&lab, &daemon, "fingerprint")? + dropped(&lab, &daemon, "connection")?);
    let before = all()?;
    until("Chromium's hello to be dropped, and sent again", PATIENCE, || Ok((all()? >= before + 3.0).then_some(())))
        .with_context(|| daemon.log())?;
    drop(browser);
    ensure!(nginx.answered()?.len() == answered && fs::read_to_string(&printed)?.is_empty(), "Chromium got its page");
    let neighbours = batch(&lab, &Target::new(SERVER_V4), &[Kind::Curl, Kind::Firefox], 6)?;
    ensure!(neighbours.iter().all(Report::answered), "others at the same address: {neighbours:?}");
    sums::settled(&lab, &daemon)?;
    show(&format!("Chromium free {free:?}, its QUIC blocked {blocked:?}, its TCP too: no page"));
    Ok(())
}

#[test]
fn a_blocked_client_over_quic_gets_no_second_handshake_and_its_neighbour_over_tcp_goes_on() -> Result<()> {
    for address in [SERVER_V4, SERVER_V6] {
        let lab = Lab::new(LabOptions::default())?;
        let http3 = Http3::start(&lab, false)?;
        let _nginx = Nginx::start_beside(&lab, http3.certificate())?;
        let daemon = Daemon::start(&lab, DaemonOptions::default())?;
        let target = Target { timeout: SHORT, ..Target::new(address) };
        let ask = |kind, count| batch(&lab, &target, &[kind], count);
        let reports = batch(&lab, &Target::new(address), &[Kind::Aioquic], 1)?;
        ensure!(reports.iter().all(Report::answered), "{reports:?}");
        let ja4 = daemon.hello_from(reports[0].port.context("no port")?)?.forms.ja4;
        control_ok(&lab, &["block", "--ja4", &ja4])?;
        // From this one the program learns.
        ask(Kind::Aioquic, 1)?;
        until("a verdict on its source", PATIENCE, || {
            let verdicts = daemon.metrics(&lab)?.sum("detector_enforce_verdicts", &[("kind", "quic_source")]);
            Ok((verdicts == 1.0).then_some(()))
        })?;
        let handshakes = http3.handshakes()?.len();
        let reports = ask(Kind::Aioquic, 3)?;
        ensure!(reports.iter().all(|report| !report.answered()), "{reports:?}");
        ensure!(http3.handshakes()?.len() == handshakes, "a handshake of a blocked client");
        ensure!(dropped(&lab, &daemon, "initial")? >= 3.0);
        let reports = batch(&lab, &Target::new(address), &[Kind::Curl], 3)?;
        ensure!(reports.iter().all(Report::answered), "{reports:?}");
        control_ok(&lab, &["unblock", "--ja4", &ja4])?;
        let reports = batch(&lab, &Target::new(address), &[Kind::Aioquic], 1)?;
        ensure!(reports.iter().all(Report::answered), "unblocked: {reports:?}");
    }
    Ok(())
}

#[test]
fn dtls_is_told_when_the_cookie_came_back() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let certificate = dtls_certificate(&lab)?;
    let tcpdump = Tcpdump::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let mut handshakes = 0;
    for version in [Dtls::V1_2, Dtls::V1_0] {
        for address in [SERVER_V4, SERVER_V6] {
            for _ in 0..3 {
                dtls_handshake(&lab, &certificate, version, address)?;
                handshakes += 1;
            }
        }
    }
    ensure_sums(&lab, &daemon)?;
    let lines = daemon.wait_for("two lines for each handshake", PATIENCE, |events| {
        (events.len() >= 2 * handshakes).then(|| events.to_vec())
    })?;
    ensure!(lines.len() == 2 * handshakes, "{} hellos of {handshakes} handshakes", lines.len());
    for (version, wanted) in [("dd2", handshakes), ("dd1", handshakes)] {
        let of = |line: &&Value| line["ja4"].as_str().is_some_and(|ja4| ja4.starts_with(version));
        ensure!(lines.iter().filter(of).count() == wanted, "not {wanted} of {version}: {lines:?}");
    }
    for line in &lines {
        ensure!(line["transport"] == "dtls" && line["confirmed"] == "dtls_cookie" && line["void"].is_null(), "{line}");
    }
    // The one without a cookie, and the one with it.
    for index in [0, 1] {
        ensure!(lines.iter().filter(|line| line["hello"] == index).count() == handshakes, "hello {index}: {lines:?}");
    }
    let (live, recorded) = (by_place(&lines)?, by_place(&offline(&tcpdump.finish(&lab)?)?)?);
    ensure!(live == recorded, "live and from tcpdump's file:\n{live:?}\n{recorded:?}");
    show(&format!("DTLS 1.2 and 1.0 over IPv4 and IPv6: {handshakes} handshakes, two hellos each, all confirmed"));
    Ok(())
}
