//! P9 of the performance targets, by stage: what one report costs after it is read, until its hello is found, its client's
//! session and its JA4 value's signals are up to date, at 100,000 live connections and sessions of 1,000 JA4 values,
//! each report of another client by lot. Thread CPU time, since the machine is shared: the median of 11 rounds of
//! 100,000 reports. `--json PATH` writes the figures too.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use detector::clock::Timestamp;
use detector::fingerprint::{Ja4, Transport};
use detector::join::{Bounds, Carrier, Connections, End, Identity, Join, Limits, Outcome, Proxies, Trusted, Tuple};
use detector::report::Report;
use detector::session::{self, Sessions};
use detector::signals::{Request, Signals};
use detector_common::key::Keys;
use nix::time::{ClockId, clock_gettime};

#[expect(dead_code, reason = "no hello is wanted here")]
mod figure;
use figure::{Figure, median};

const CLIENTS: u64 = 100_000;
const JA4_VALUES: u64 = 1000;
const ROUNDS: usize = 11;
/// What all of it may take of a report, µs.
const WANTED: f64 = 4.0;

const SERVER: [u8; 4] = [198, 51, 100, 1];
const AGENT: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/136.0.0.0 Safari/537.36";
const HEADERS: &str = "host,sec-ch-ua,sec-ch-ua-mobile,sec-ch-ua-platform,user-agent,accept,sec-fetch-site,cookie";

/// CPU nanoseconds of this thread.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a thread has a CPU clock");
    time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
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

fn main() {
    let mut connections = Connections::new(Limits::default());
    (0..CLIENTS).for_each(|client| begin(&mut connections, client));
    let mut join = Join::<()>::new(Bounds::default(), Proxies::new(Trusted::new([])));
    let mut sessions = Sessions::new(session::Limits::default());
    let mut signals = Signals::new(2048, (1, 2));
    let mut costs: [Vec<f64>; 4] = Default::default();
    let mut figures = Vec::new();
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
            black_box(sessions.note(key, &request, now(index)));
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
        ("P9.join", "a report's hello found"),
        ("P9.session", "its client's session kept"),
        ("P9.signals", "its JA4 value's signals kept"),
        ("P9.after", "all three, 100,000 live sessions"),
    ];
    for (index, ((id, what), cost)) in stages.into_iter().zip(&mut costs).enumerate() {
        let value = median(cost);
        let is_sum = index == 3;
        let target = if is_sum { format!("<= {WANTED}") } else { "-".to_owned() };
        let met = is_sum.then_some(value <= WANTED);
        figures.push(Figure { id, what, value, unit: "us", against: "", ratio: None, target, met });
    }
    figures.extend(memory(&sessions, &signals));
    figure::print(&figures);
}

/// What the tables take, and how long the largest pauses of the signals are.
fn memory(sessions: &Sessions, signals: &Signals) -> [Figure; 3] {
    let told = |id, what, value: f64, unit| Figure {
        id,
        what,
        value,
        unit,
        against: "",
        ratio: None,
        target: "-".to_owned(),
        met: None,
    };
    let begun = cpu();
    black_box(signals.snapshot(at(0), 0));
    let snapshot_ms = (cpu() - begun) / 1e6;
    let mebibytes = |bytes: usize| bytes as f64 / 1_048_576.0;
    [
        told("P9.sessions", "memory of 100,000 sessions", mebibytes(sessions.len() * session::BYTES), "MiB"),
        told("P9.values", "memory of 1,000 JA4 values", mebibytes(signals.allocated()), "MiB"),
        told("P9.snapshot", "a snapshot of them", snapshot_ms, "ms"),
    ]
}
