//! What lists and signals may not do, whatever they say: stop what a host lives by (threats.md T43), hold up verdicts while
//! they are read (T10), or stop anybody before an operator wants it (T48).

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use detector_tests::daemon::{control_ok, control_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_INTERFACE, CLIENT_V4, Lab, SERVER_INTERFACE, SERVER_V4};
use detector_tests::traffic::{Arrivals, Hello, Visit, send};
use serde_json::Value;

use crate::scene::SHORT;
use crate::threats::{Scene, full, whole};

/// Everybody, as an operator may mistype it.
const EVERYBODY: &str = "0.0.0.0/1\n128.0.0.0/1\n::/1\n8000::/1\n";

/// Of the twelve, those that can be a client of the lab.
const PROTECTED: [&str; 9] = [
    "10.77.0.254",
    "10.77.0.253",
    "10.77.0.252",
    "10.77.0.53",
    "fd77::53",
    "192.0.2.10",
    "198.51.100.7",
    "198.51.100.200",
    "10.77.0.22",
];

/// The host's own: nobody else can send from them.
const OWN: [&str; 3] = ["10.77.0.1", "fd77::1", "127.0.0.1"];

/// The routes, resolvers and clients of a host.
fn surroundings(lab: &Lab) -> Result<()> {
    let server = lab.server();
    server.ip("route add default via 10.77.0.254")?;
    server.ip("route add 203.0.113.0/24 nexthop via 10.77.0.252 nexthop via 10.77.0.253")?;
    for network in ["192.0.2.0/24", "198.51.100.0/24"] {
        server.ip(&format!("route add {network} via {CLIENT_V4} dev {SERVER_INTERFACE}"))?;
    }
    for address in PROTECTED {
        let rest = if address.contains(':') { "/64 nodad" } else { "/24" };
        let (length, more) = rest.split_once(' ').unwrap_or((rest, ""));
        lab.client().ip(&format!("address add {address}{length} dev {CLIENT_INTERFACE} {more}"))?;
    }
    Ok(())
}

/// threats.md T43: a list that names everybody, and two axes against each of twelve protected things.
#[test]
fn lists_and_signals_stop_nothing_that_a_host_lives_by() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = |name: &str| directory.path().join(name);
    fs::write(file("everybody"), EVERYBODY)?;
    fs::write(file("resolv.conf"), "nameserver 10.77.0.53\nnameserver fd77::53\n")?;
    let config = format!(
        "[feeds]\nlists.own = {{ class = \"denied\", file = \"{}\" }}\n[enforce]\nresolv_conf = [\"{}\"]\n\
         never_block = [\"192.0.2.10\", \"198.51.100.0/24\"]\n",
        file("everybody").display(),
        file("resolv.conf").display()
    );
    let mut scene = Scene::start(&["--enforce"], &config)?;
    surroundings(&scene.lab)?;
    let library = Hello::recorded("py-requests", false)?;
    // The operator works from there.
    let mut list = scene.lab.server().command(detector_tests::programs::detector()?);
    list.args(["block", "203.0.113.9"]).env("DETECTOR_CONTROL_SOCKET", control_socket(&scene.lab));
    let done = list.env("SSH_CONNECTION", "10.77.0.22 50000 10.77.0.1 22").output()?;
    ensure!(done.status.success(), "{done:?}");
    until("routes to be known", PATIENCE, || {
        Ok((scene.sum("detector_table_entries", &[("table", "never_block_gateway")])? >= 3.0).then_some(()))
    })?;

    let attack = |scene: &mut Scene, times: usize, source: IpAddr| -> Result<(usize, usize)> {
        let visits = (0..times).map(|_| scene.program(0, source, &library, "/trap")).collect();
        Ok(whole(send(&scene.lab, 50.0, Arrivals::Random, visits)?.iter()))
    };
    let anybody: IpAddr = "10.81.0.1".parse()?;
    let (let_in, _) = attack(&mut scene, 20, anybody)?;
    ensure!(let_in <= 5, "anybody else is stopped by that list: {let_in} of 20 were let in");
    for address in PROTECTED {
        let address: IpAddr = address.parse()?;
        let (let_in, all) = attack(&mut scene, 5, address)?;
        ensure!(let_in == all, "{address}: {let_in} of {all} answered: {:?}", scene.explain(address)?);
        let known: Value = scene.explain(address)?.with_context(|| format!("{address} is assessed"))?;
        ensure!(known["action"] == "allow" && known["settled_by"] == "allow-listed", "{known}");
    }
    for address in OWN {
        let known = scene.explain(address.parse()?)?;
        ensure!(known.as_ref().is_none_or(|known| known["action"] == "allow"), "{address}: {known:?}");
    }
    let metrics = scene.daemon.metrics(&scene.lab)?;
    assert_eq!(metrics.sum("detector_enforce_verdicts", &[("kind", "automatic")]), 1.0, "on anybody else");
    let welcome = metrics.sum("detector_score_requests_total", &[("outcome", "definitely_human")]);
    assert_eq!(welcome, 5.0 * PROTECTED.len() as f64, "each is counted");
    // A block by hand of everybody spares them too, in the kernel.
    control_ok(&scene.lab, &["block", "10.77.0.0/24"])?;
    let (let_in, all) = attack(&mut scene, 5, "10.77.0.253".parse()?)?;
    assert_eq!(let_in, all, "a gateway is spared within a prefix");
    ensure!(scene.sum("detector_kernel_packets_total", &[("reason", "never_block")])? > 0.0, "the kernel counts it");
    Ok(())
}

/// Asks on the decision socket all the time, as a web server does: the longest that an answer took.
fn longest_answer(socket: PathBuf, stop: &AtomicBool) -> Result<(Duration, u32)> {
    let mut stream = BufReader::new(UnixStream::connect(&socket).with_context(|| socket.display().to_string())?);
    let question = format!(
        "GET / HTTP/1.1\r\nHost: detector\r\nX-Detector-Client: 10.81.0.1\r\nX-Detector-Client-Port: 50000\r\n\
         X-Detector-Server: {SERVER_V4}\r\nX-Detector-Server-Port: 443\r\nUser-Agent: curl/8\r\n\r\n"
    );
    let (mut longest, mut asked) = (Duration::ZERO, 0);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        stream.get_mut().write_all(question.as_bytes())?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            ensure!(stream.read_line(&mut line)? > 0, "the decision socket was closed");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length])?;
        longest = longest.max(began.elapsed());
        asked += 1;
    }
    Ok((longest, asked))
}

/// threats.md T10: the largest list there may be is read, and one that is larger refused, while people come.
#[test]
fn nobody_waits_while_a_list_is_read() -> Result<()> {
    let list = tempfile::NamedTempFile::new()?;
    let feed = format!("[feeds]\nlists.bad = {{ class = \"abuse\", file = \"{}\" }}\n", list.path().display());
    let config = format!("{feed}[inline]\nsocket = \"DIRECTORY/decision.sock\"\ngroup = \"root\"\n");
    let mut scene = Scene::start(&["--enforce"], &config)?;
    let browser = Hello::recorded("chromium-headful-h2", true)?;
    let prefixes = |count: u32| -> String {
        (0..count)
            .map(|n| format!("{}.{}.{}.{}\n", 30 + (n >> 23), n >> 15 & 255, n >> 7 & 255, n << 1 & 255))
            .collect()
    };
    let shipped = || {
        Ok(Some(scene.sum("detector_table_entries", &[("table", "list_prefixes")])?).filter(|count| *count > 1000.0))
    };
    let (known, too_many) = (until("the shipped ranges", PATIENCE, shipped)?, prefixes(1_000_000));
    let stop = AtomicBool::new(false);
    let socket = scene.lab.file("decision.sock");
    let ((longest, asked), (reached, all)) = thread::scope(|scope| -> Result<_> {
        let asking = scope.spawn(|| longest_answer(socket, &stop));
        let mut read = || -> Result<_> {
            let visits = |scene: &mut Scene| {
                let visits = (0..400).map(|number| scene.person(0, [10, 81, 0, number as u8 | 1].into(), &browser));
                visits.collect::<Vec<Visit>>()
            };
            let (first, second) = (visits(&mut scene), visits(&mut scene));
            fs::write(&list, prefixes(100_000))?;
            let (reached, all) = whole(send(&scene.lab, 100.0, Arrivals::Random, first)?.iter());
            until("the list", PATIENCE, || {
                Ok((scene.sum("detector_table_entries", &[("table", "list_prefixes")])? >= known + 100_000.0)
                    .then_some(()))
            })?;
            fs::write(&list, &too_many)?;
            let (more, others) = whole(send(&scene.lab, 100.0, Arrivals::Random, second)?.iter());
            until("the refusal", PATIENCE, || {
                let refused = scene.sum("detector_files_total", &[("file", "reputation"), ("outcome", "too_many")])?;
                Ok((refused == 1.0).then_some(()))
            })?;
            Ok((reached + more, all + others))
        };
        let read = read();
        stop.store(true, Ordering::Relaxed);
        let asked = asking.join().ok().context("whoever asks panicked")??;
        Ok((asked, read?))
    })?;
    let left_out = scene.sum("detector_score_requests_total", &[("outcome", "behind|budget")])?;
    show(&format!(
        "T10: longest of {asked} answers {longest:?}; {left_out} reports left out; people {reached} of {all}"
    ));
    assert_eq!(reached, all);
    assert_eq!(
        scene.sum("detector_table_entries", &[("table", "list_prefixes")])?,
        known + 100_000.0,
        "the last good one stays"
    );
    // A busy machine has pauses of its own.
    let most = Duration::from_millis(if full() { 50 } else { 250 });
    ensure!(longest < most, "an answer took {longest:?}");
    Ok(())
}

/// threats.md T48: as it is installed, an attack is told of and nothing is dropped.
#[test]
fn as_installed_an_attack_is_told_and_nothing_dropped() -> Result<()> {
    let mut scene = Scene::start(&[], "")?;
    let (browser, library) = (Hello::recorded("chromium-headful-h2", true)?, Hello::recorded("py-requests", false)?);
    let bot = |number: usize| IpAddr::from([10, 82, (number % 50) as u8, 7]);
    let visits = (0..3000).map(|number| match number % 3 {
        0 => scene.program(0, bot(number), &library, "/"),
        1 => scene.program(0, bot(number), &browser, "/trap"),
        _ => scene.person(0, [10, 81, (number % 50) as u8, 7].into(), &browser),
    });
    let visits = visits.map(|visit| Visit { patience: 10 * SHORT, ..visit }).collect();
    let (let_in, all) = whole(send(&scene.lab, 1000.0, Arrivals::Random, visits)?.iter());
    assert_eq!(let_in, all, "somebody was stopped");
    let metrics = scene.daemon.metrics(&scene.lab)?;
    assert_eq!(metrics.sum("detector_kernel_packets_total", &[("verdict", "drop")]), 0.0);
    let blocks = metrics.sum("detector_score_decisions_total", &[("action", "block")]);
    let counted = metrics.sum("detector_kernel_packets_total", &[("reason", "observed")]);
    show(&format!(
        "T48: {all} visits answered, 0 packets dropped; {blocks} would be blocked, the kernel would drop {counted}"
    ));
    ensure!(blocks >= 500.0 && counted > 0.0, "{blocks} blocks told, {counted} packets counted");
    let known = scene.explain(bot(0))?.context("the bot is known")?;
    assert_eq!((known["action"].as_str(), known["only_counts"].as_str()), (Some("block"), Some("the mode is observe")));
    Ok(())
}
