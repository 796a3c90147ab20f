//! What one report costs, stage by stage, each by itself: from its datagram to its fields (`receive`, `parse`), then until
//! its hello is found, its client's session and its JA4 value's signals are up to date, at 100,000 live connections and
//! sessions of 1,000 JA4 values, each report of another client by lot. Thread CPU time, since the machine is shared.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use detector::clock::Timestamp;
use detector::config::{Mode, Signals as Settings};
use detector::fingerprint::{Ja4, Transport};
use detector::intake::Intake;
use detector::join::{Bounds, Carrier, Connections, End, Identity, Join, Limits, Outcome, Proxies, Trusted, Tuple};
use detector::report::{self, Report};
use detector::session::{self, Sessions};
use detector::signals::{Request, Signals};
use detector::telemetry::Metrics;
use detector::telemetry::metrics::Labels;
use detector_common::key::Keys;
use serde::de::IgnoredAny;

use crate::clock::{cpu, measure};
use crate::figure::{Figure, median};

const CLIENTS: u64 = 100_000;
const JA4_VALUES: u64 = 1000;
/// Of 100,000 reports; the median counts.
const ROUNDS: usize = 11;
/// What one core is to read in a second.
const READ_WANTED: f64 = 300_000.0;
/// What all after reading may take of a report, µs.
const AFTER_WANTED: f64 = 4.0;

const SERVER: [u8; 4] = [198, 51, 100, 1];
const AGENT: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/136.0.0.0 Safari/537.36";
const HEADERS: &str = "host,sec-ch-ua,sec-ch-ua-mobile,sec-ch-ua-platform,user-agent,accept,sec-fetch-site,cookie";

/// As nginx writes it of a Chrome's request, 1.1 KB; and without what a browser says of itself, as of an API's client.
const BROWSER: &str = r#"<190>Nov 22 16:00:00 web nginx: {"v":1,"ip":"192.0.2.7","port":"40000","sip":"198.51.100.1","sport":"443","t":"1763827200.125","dur":"0.003","age":"12.512","n":"3","host":"shop.example","method":"GET","path":"/catalogue/shoes?page=7&sort=price","proto":"HTTP/2.0","status":"200","bytes":"18231","cache":"MISS","ua":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/136.0.0.0 Safari/537.36","ref":"https://shop.example/catalogue/shoes?page=6&sort=price","acc":"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8","lang":"de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7","enc":"gzip, deflate, br, zstd","ch":"\"Chromium\";v=\"136\", \"Not.A/Brand\";v=\"99\"","ch_mobile":"?0","ch_platform":"\"Linux\"","sf_site":"same-origin","sf_mode":"navigate","sf_dest":"document","sf_user":"?1","hdr":"host,sec-ch-ua,sec-ch-ua-mobile,sec-ch-ua-platform,user-agent,accept,sec-fetch-site,sec-fetch-mode,referer,cookie","cookie":"1","sid":"","xff":""}"#;
const PLAIN: &str = r#"<190>Nov 22 16:00:00 web nginx: {"v":1,"ip":"192.0.2.7","port":"40000","sip":"198.51.100.1","sport":"443","t":"1763827200.125","dur":"0.003","age":"12.512","n":"3","host":"shop.example","method":"GET","path":"/catalogue/shoes?page=7&sort=price","proto":"HTTP/2.0","status":"200","bytes":"18231","cache":"MISS","ua":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/136.0.0.0 Safari/537.36","ref":"https://shop.example/catalogue/shoes?page=6","acc":"*/*","lang":"de-DE,de;q=0.9","enc":"gzip, deflate, br","ch":"","ch_mobile":"","ch_platform":"","sf_site":"same-origin","sf_mode":"cors","sf_dest":"","sf_user":"","hdr":"","cookie":"1","sid":"","xff":""}"#;

/// Datagrams through the real socket.
const SENT: usize = 300_000;

/// CPU nanoseconds of the thread that reads, for each datagram. The sender waits when the queue is full, as no web server
/// does, so that each is read.
fn through_the_socket() -> f64 {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("signals.sock");
    let settings = Settings { sockets: vec![path.clone()], datagrams_per_second: u32::MAX, ..Settings::default() };
    let metrics = Arc::new(Metrics::new(Mode::Observe, Labels::default()).expect("metrics"));
    let (done, ended) = channel();
    let (mut count, mut begun) = (0, 0.0);
    let take = move |report: &Report<'_>, _, _| {
        black_box(report.status);
        if count == 0 {
            begun = cpu();
        }
        count += 1;
        if count == SENT {
            let _ = done.send((cpu() - begun) / SENT as f64);
        }
    };
    let _reading = Intake::bind(&settings).and_then(|intake| intake.start(metrics, take, || {})).expect("a socket");
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.connect(&path).expect("somebody who reads");
    for _ in 0..SENT {
        socket.send(PLAIN.as_bytes()).expect("a datagram sent");
    }
    ended.recv().expect("all of them read")
}

/// All stages.
pub(crate) fn all() -> Vec<Figure> {
    let mut figures = reading();
    figures.extend(after());
    figures
}

fn told(id: &'static str, what: &'static str, value: f64, unit: &'static str) -> Figure {
    Figure { id, what, value, unit, against: "", ratio: None, target: "-".to_owned(), met: None }
}

/// From the datagram to the fields.
fn reading() -> Vec<Figure> {
    let mut mended = String::new();
    let mut parse = |frame: &str| {
        let read = report::read(black_box(frame.as_bytes()), &mut mended).expect("a report");
        black_box(read.report.status);
    };
    let plain_ns = measure(|| parse(PLAIN));
    let browser_ns = measure(|| parse(BROWSER));
    let allocations = allocation_counter::measure(|| parse(PLAIN)).count_total;
    // What no program that reads JSON can do without.
    let json = PLAIN.split_once(": ").map_or(PLAIN, |(_, json)| json);
    let floor_ns = measure(|| drop(black_box(serde_json::from_str::<IgnoredAny>(black_box(json)))));
    let against = |figure: Figure, ns: f64| Figure { against: "nothing kept", ratio: Some(ns / floor_ns), ..figure };
    let per_second = 1e9 / plain_ns;
    let receive_ns = through_the_socket() - plain_ns;
    vec![
        told("P9.receive", "a report's datagram taken, its sender admitted", receive_ns / 1e3, "us"),
        against(told("P9.parse", "its 700 bytes read", plain_ns / 1e3, "us"), plain_ns),
        against(told("P9.parse", "a browser's 1,100 bytes, with escapes", browser_ns / 1e3, "us"), browser_ns),
        told("P9.parse", "their JSON read, nothing kept", floor_ns / 1e3, "us"),
        Figure {
            against: "wanted",
            ratio: Some(per_second / READ_WANTED),
            target: format!(">= {READ_WANTED}"),
            met: Some(per_second >= READ_WANTED),
            ..told("P9.parse", "reports of 700 bytes read in a second", per_second, "1/s")
        },
        Figure {
            target: "0".to_owned(),
            met: Some(allocations == 0),
            ..told("P9.parse", "allocations of one", allocations as f64, "")
        },
    ]
}

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(3_600_000_000_000 + nanos)
}

fn address(client: u64) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + client as u32).into()
}

fn port(client: u64) -> u16 {
    20_000 + (client % 40_000) as u16
}

fn begin(connections: &mut Connections, client: u64) {
    let ja4: Ja4 = format!("t13d1516h2_8daaf6152771_{:012x}", client * client % JA4_VALUES).parse().expect("a JA4");
    let tuple = Tuple {
        client: End::new(address(client), port(client), Carrier::Tcp),
        server: SocketAddr::from((SERVER, 443)),
    };
    let identity = Identity {
        ja4,
        ja4_stable: ja4,
        keys: Keys { key: client, stable: client },
        traits: Default::default(),
        syn_class: None,
        transport: Transport::Tcp,
        syn: Some(at(client)),
        hello: at(client + 1000),
        stream: client as u32,
        void: false,
    };
    connections.begin(tuple, identity, at(client + 2000));
}

/// A report of a client chosen by lot.
fn report(number: u64) -> Report<'static> {
    let client = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % CLIENTS;
    Report {
        client: Some(address(client)),
        client_port: Some(port(client)),
        server: Some(SERVER.into()),
        server_port: Some(443),
        duration: Some(Duration::from_millis(3)),
        connection_age: None,
        connection_requests: Some(100 + number),
        server_name: Some("shop.example".into()),
        path: Some(format!("/catalogue/{}?page={}", number % 977, number % 50).into()),
        protocol: Some("HTTP/2.0".into()),
        status: Some(200),
        cache: Some("MISS".into()),
        user_agent: Some(AGENT.into()),
        referer: Some("https://shop.example/".into()),
        header_names: Some(HEADERS.into()),
        ..Report::default()
    }
}

/// From the fields to where they are kept.
fn after() -> Vec<Figure> {
    let mut connections = Connections::new(Limits::default());
    (0..CLIENTS).for_each(|client| begin(&mut connections, client));
    let mut join = Join::<()>::new(Bounds::default(), Proxies::new(Trusted::new([])));
    let mut sessions = Sessions::new(session::Limits::default());
    let mut signals = Signals::new(2048, (1, 2));
    let mut costs: [Vec<f64>; 4] = Default::default();
    // The first round fills the tables and isn't counted.
    for round in 0..=ROUNDS as u64 {
        let reports: Vec<Report<'_>> = (round * CLIENTS..(round + 1) * CLIENTS).map(report).collect();
        let now = |index: usize| at(20_000_000 + (round * CLIENTS + index as u64) * 8_000);
        let begun = cpu();
        let joined: Vec<_> = reports
            .iter()
            .enumerate()
            .map(|(index, report)| join.report(&mut connections, report, now(index), || (), &mut |(), _| {}))
            .map(|outcome| match outcome {
                Some(Outcome::Joined(subject, found)) => (subject, found),
                other => panic!("{other:?}"),
            })
            .collect();
        let after_join = cpu();
        for (index, (report, (subject, found))) in reports.iter().zip(&joined).enumerate() {
            let key = sessions.key(subject, report);
            let request = sessions.request(report, now(index), found.connection);
            sessions.note(key, &request, now(index));
        }
        let after_session = cpu();
        for (index, (report, (_, found))) in reports.iter().zip(&joined).enumerate() {
            let client = report.client.expect("every report has one");
            signals.note(&Request::of(report, found.identity.ja4, client, false, true), now(index));
        }
        let ended = cpu();
        if round > 0 {
            let [a, b, c, all] = &mut costs;
            for (cost, nanos) in [
                (a, after_join - begun),
                (b, after_session - after_join),
                (c, ended - after_session),
                (all, ended - begun),
            ] {
                cost.push(nanos / reports.len() as f64 / 1e3);
            }
        }
    }
    let stages = [
        ("P9.join", "its hello found"),
        ("P9.session", "its client's session kept"),
        ("P9.signals", "its JA4 value's signals kept"),
        ("P9.after", "all three, 100,000 live sessions"),
    ];
    let costs = stages.into_iter().zip(&mut costs).map(|((id, what), cost)| told(id, what, median(cost), "us"));
    let mut figures: Vec<Figure> = costs.collect();
    if let Some(all) = figures.last_mut() {
        (all.target, all.met) = (format!("<= {AFTER_WANTED}"), Some(all.value <= AFTER_WANTED));
    }
    figures.extend(memory(&sessions, &signals));
    figures
}

/// What the tables take, and how long the largest pauses of the signals are.
fn memory(sessions: &Sessions, signals: &Signals) -> [Figure; 3] {
    let begun = cpu();
    black_box(signals.snapshot(at(0), 0));
    let snapshot_ms = (cpu() - begun) / 1e6;
    let mebibytes = |bytes: usize| bytes as f64 / 1_048_576.0;
    [
        told("P9.memory", "100,000 sessions", mebibytes(sessions.len() * session::BYTES), "MiB"),
        told("P9.memory", "1,000 JA4 values", mebibytes(signals.allocated()), "MiB"),
        told("P9.snapshot", "a snapshot of them", snapshot_ms, "ms"),
    ]
}
