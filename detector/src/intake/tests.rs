//! The sockets with real senders: processes of this user. Others are for the suites that have root.

use std::{
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixStream},
    },
    path::Path,
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    config::Mode,
    report,
    telemetry::{metrics::Labels, requests::RequestLabels, resources::ResourceLabels},
};

/// For anything that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running intake, and what it hands on: path and client's port of each report, and who told it.
struct Running {
    _directory: tempfile::TempDir,
    settings: Signals,
    metrics: Arc<Metrics>,
    reports: Receiver<(String, Peer)>,
    _reading: Reading,
}

fn settings(directory: &Path) -> Signals {
    let (sockets, streams) =
        (vec![directory.join("a.sock"), directory.join("new/b.sock")], vec![directory.join("s.sock")]);
    Signals { sockets, streams, group: "no-such-group".to_owned(), ..Signals::default() }
}

fn start(change: impl FnOnce(&mut Signals)) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    change(&mut settings);
    let labels = Labels {
        requests: RequestLabels {
            rejected: report::Rejected::ALL.iter().map(|why| why.label()).collect(),
            refused: Refused::ALL.iter().map(|why| why.label()).collect(),
            ..RequestLabels::default()
        },
        resources: ResourceLabels {
            streams: Closed::ALL.iter().map(|why| why.label()).collect(),
            ..ResourceLabels::default()
        },
        ..Labels::default()
    };
    let metrics = Arc::new(Metrics::new(Mode::Observe, labels).unwrap());
    let (sender, reports) = channel();
    let take = move |report: &Report<'_>, peer, _| {
        drop(sender.send((report.path.as_deref().unwrap_or_default().to_owned(), peer)));
    };
    let reading = Intake::bind(&settings).unwrap().start(Arc::clone(&metrics), take, || {}).unwrap();
    Running { _directory: directory, settings, metrics, reports, _reading: reading }
}

impl Running {
    /// The path of the next report.
    fn next(&self) -> String {
        let (path, peer) = self.reports.recv_timeout(PATIENCE).unwrap();
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(peer.pid, i32::try_from(std::process::id()).ok());
        path
    }

    fn send(&self, frame: &str) {
        UnixDatagram::unbound().unwrap().send_to(frame.as_bytes(), &self.settings.sockets[0]).unwrap();
    }

    fn stream(&self) -> UnixStream {
        UnixStream::connect(&self.settings.streams[0]).unwrap()
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited for {what}");
        thread::yield_now();
    }
}

fn frame(path: &str) -> String {
    format!("<190>Nov 22 16:00:00 web nginx: {{\"v\":1,\"path\":\"{path}\"}}")
}

#[test]
fn reports_come_by_datagrams_and_lines() {
    let intake = start(|_| {});
    intake.send(&frame("/1"));
    assert_eq!(intake.next(), "/1");
    let socket = UnixDatagram::unbound().unwrap();
    socket.send_to(frame("/2").as_bytes(), &intake.settings.sockets[1]).unwrap();
    assert_eq!(intake.next(), "/2");
    let mut stream = intake.stream();
    let lines = format!("{}\n{}\n", frame("/3"), frame("/4"));
    let (half, rest) = lines.split_at(70);
    stream.write_all(half.as_bytes()).unwrap();
    stream.write_all(rest.as_bytes()).unwrap();
    assert_eq!((intake.next(), intake.next()), ("/3".to_owned(), "/4".to_owned()));
    stream.write_all(frame("/5").as_bytes()).unwrap();
    drop(stream);
    assert_eq!(intake.next(), "/5", "the last line needs no end");
    assert_eq!(intake.metrics.requests.reports.value(), 5);
    let queue = format!("detector_intake_queue_length {}", queue_length().unwrap());
    assert!(intake.metrics.encode().unwrap().lines().any(|line| line == queue), "{queue}");
}

#[test]
fn what_is_no_report_is_counted_and_hurts_nobody() {
    let intake = start(|_| {});
    let long = format!("{{\"v\":1,\"path\":\"{}\"}}", "x".repeat(report::FRAME_MAX));
    for bad in ["", "nonsense", "{\"v\":2}", "[]", &long] {
        intake.send(bad);
    }
    let mut stream = intake.stream();
    stream.write_all(b"nonsense\n\n{\"v\":1,\"odd\":1,\"port\":\"x\",\"path\":\"/a\"}\n").unwrap();
    assert_eq!(intake.next(), "/a");
    // A line without end ends that stream.
    drop(stream.write_all(long.as_bytes()));
    until("the stream's end", || intake.metrics.resources.streams.value("long") == 1);
    intake.send(&frame("/b"));
    assert_eq!(intake.next(), "/b");
    let rejected = &intake.metrics.requests.rejected;
    let counts = ["long", "malformed", "not_object", "version"].map(|reason| rejected.value(reason));
    assert_eq!(counts, [1, 4, 1, 1]);
    assert_eq!(["unknown", "wrong"].map(|fault| intake.metrics.requests.fields.value(fault)), [1, 1]);
}

#[test]
fn more_than_one_user_may_send_is_not_read() {
    let intake = start(|settings| settings.lines_per_second = 5);
    let mut stream = intake.stream();
    stream.write_all((frame("/a") + "\n").repeat(100).as_bytes()).unwrap();
    drop(stream);
    let metrics = &intake.metrics;
    until("all lines", || metrics.requests.reports.value() + metrics.requests.refused.value("too_fast") == 100);
    // A second may end in between.
    assert!((5..=10).contains(&metrics.requests.reports.value()), "{}", metrics.requests.reports.value());
}

#[test]
fn one_user_has_its_share_of_the_streams() {
    let intake = start(|settings| settings.connections = 8);
    let mut streams: Vec<UnixStream> = (0..2).map(|_| intake.stream()).collect();
    for stream in &mut streams {
        stream.write_all((frame("/a") + "\n").as_bytes()).unwrap();
        intake.next();
    }
    let mut third = intake.stream();
    assert_eq!(third.read(&mut [0]).unwrap(), 0, "it is closed");
    assert_eq!(intake.metrics.resources.streams.value("full"), 1);
    drop(streams);
    until("room for another one", || {
        let mut stream = intake.stream();
        drop(stream.write_all((frame("/b") + "\n").as_bytes()));
        intake.reports.recv_timeout(Duration::from_millis(100)).is_ok()
    });
}

/// threats.md T27, on a small scale.
#[test]
fn a_line_must_end_in_two_seconds() {
    let intake = start(|_| {});
    let (idle, mut slow) = (intake.stream(), intake.stream());
    slow.write_all(b"{\"v\":1,").unwrap();
    let begun = Instant::now();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(slow.read(&mut [0]).unwrap(), 0, "it is closed");
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
    assert_eq!(intake.metrics.resources.streams.value("slow"), 1);
    // One that says nothing may stay.
    (&idle).write_all((frame("/a") + "\n").as_bytes()).unwrap();
    assert_eq!(intake.next(), "/a");
}

/// threats.md T27: 10,000 peers that send a byte of a line and stop; meanwhile an honest server's reports come as fast as
/// ever.
#[test]
fn slow_peers_delay_nobody() {
    const PEERS: usize = 10_000;
    let intake = start(|_| {});
    let path = intake.settings.streams[0].clone();
    let slow = thread::spawn(move || {
        let mut open = std::collections::VecDeque::new();
        for _ in 0..PEERS {
            let mut stream = UnixStream::connect(&path).unwrap();
            drop(stream.write_all(b"{"));
            open.push_back(stream);
            // So many at a time: a process has no more descriptors.
            if open.len() > 500 {
                open.pop_front();
            }
        }
    });
    let mut delays = Vec::new();
    while !slow.is_finished() || delays.len() < 1000 {
        let sent = Instant::now();
        intake.send(&frame("/honest"));
        assert_eq!(intake.next(), "/honest");
        delays.push(sent.elapsed());
    }
    slow.join().unwrap();
    delays.sort_unstable();
    let p99 = delays[delays.len() * 99 / 100];
    println!("{} honest reports beside {PEERS} slow peers: p99 {p99:?}", delays.len());
    assert!(p99 < Duration::from_millis(10), "{p99:?}");
    // Each is closed, or its byte is no report when it goes.
    let (closed, rejected) = (&intake.metrics.resources.streams, &intake.metrics.requests.rejected);
    until("the end of the slow ones", || {
        closed.value("full") + closed.value("slow") + rejected.value("malformed") == PEERS as u64
    });
    assert!(closed.value("full") > 0);
}

#[test]
fn a_socket_is_one_daemons_and_goes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let first = Intake::bind(&settings).unwrap();
    let mode = std::fs::metadata(&settings.sockets[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let mode = std::fs::metadata(directory.path().join("new")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7022, 0, "its directory is nobody else's to write to");
    assert!(matches!(Intake::bind(&settings), Err(Error::Socket(SocketError::Running { .. }))));
    drop(first);
    assert!(!settings.sockets[0].exists() && !settings.streams[0].exists());
    // What a dead daemon left is replaced, something else isn't.
    drop(UnixDatagram::bind(&settings.sockets[0]).unwrap());
    drop(UnixListener::bind(&settings.streams[0]).unwrap());
    drop(Intake::bind(&settings).unwrap());
    std::fs::write(&settings.sockets[0], "").unwrap();
    assert!(matches!(Intake::bind(&settings), Err(Error::Socket(SocketError::NotASocket { .. }))));
}
