use std::net::{IpAddr, SocketAddr};

use detector_common::key::Keys;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use super::*;
use crate::fingerprint::{Ja4, Transport};
use crate::join::{Carrier, Connections, Identity, Limits, Reach, Trusted, Tuple};

const SERVER: [u8; 4] = [192, 0, 2, 1];

fn at(micros: u64) -> Timestamp {
    Timestamp::from_nanos(1_000_000_000_000 + micros * 1000)
}

fn micros(duration: u64) -> Duration {
    Duration::from_micros(duration)
}

fn tuple(port: u16) -> Tuple {
    let client = End::new(IpAddr::from([192, 0, 2, 7]), port, Carrier::Tcp);
    Tuple { client, server: SocketAddr::from((SERVER, 443)) }
}

fn identity(who: u64, syn: u64, hello: u64) -> Identity {
    let ja4: Ja4 = format!("t13d1516h2_8daaf6152771_{who:012x}").parse().unwrap();
    let keys = Keys { key: who, stable: who };
    let (syn, hello) = (Some(at(syn)), at(hello));
    let stream = syn.unwrap_or_default().as_nanos() as u32;
    let (traits, syn_class, transport) = (Default::default(), None, Transport::Tcp);
    Identity { ja4, ja4_stable: ja4, keys, traits, syn_class, transport, syn, hello, stream, void: false }
}

fn report(port: u16) -> Report<'static> {
    Report {
        client: Some(IpAddr::from([192, 0, 2, 7])),
        client_port: Some(port),
        server: Some(IpAddr::from(SERVER)),
        server_port: Some(443),
        ..Report::default()
    }
}

/// A join and its table, with what came out late: what was kept, and whose it is.
struct Scene {
    connections: Connections,
    join: Join<usize>,
    late: Vec<(usize, Outcome)>,
}

impl Scene {
    fn new(waiting: usize) -> Self {
        let proxies = Proxies::new(Trusted::new(["10.0.0.0/8".parse().unwrap()]));
        let join = Join::new(Bounds { waiting, ..Bounds::default() }, proxies);
        Self { connections: Connections::new(Limits::default()), join, late: Vec::new() }
    }

    fn report(&mut self, report: &Report<'_>, arrived: Timestamp, kept: usize) -> Option<Outcome> {
        let late = &mut self.late;
        self.join.report(&mut self.connections, report, arrived, || kept, &mut |kept, outcome| {
            late.push((kept, outcome));
        })
    }

    fn begin(&mut self, tuple: Tuple, identity: Identity, now: Timestamp) {
        self.connections.begin(tuple, identity, now);
        let late = &mut self.late;
        self.join.begun(&mut self.connections, &tuple.client, &mut |kept, outcome| late.push((kept, outcome)));
    }

    fn due(&mut self, now: Timestamp) {
        let late = &mut self.late;
        self.join.due(&mut self.connections, now, &mut |kept, outcome| late.push((kept, outcome)));
    }
}

fn who(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Joined(_, found) => Some(found.identity.keys.key),
        _ => None,
    }
}

#[test]
fn a_report_waits_five_seconds_for_its_hello() {
    let mut scene = Scene::new(100);
    let told = |age| Report { connection_age: Some(micros(age)), connection_requests: Some(1), ..report(1) };
    assert_eq!(scene.report(&told(500), at(1000), 0), None);
    scene.due(at(4_000_000));
    assert!(scene.late.is_empty());
    scene.begin(tuple(1), identity(7, 0, 600), at(4_000_001));
    assert_eq!(who(&scene.late[0].1), Some(7));
    assert_eq!(scene.report(&report(2), at(5_000_000), 1), None);
    scene.due(at(9_999_999));
    assert_eq!((scene.late.len(), scene.join.waiting()), (1, 1));
    scene.due(at(10_000_000));
    assert_eq!(scene.late[1], (1, Outcome::Missed(Miss::NoHello)));
    assert_eq!((scene.join.counts().joined, scene.join.counts().missed(Miss::NoHello)), (1, 1));
}

#[test]
fn each_miss_has_its_cause() {
    let mut scene = Scene::new(100);
    let missed = |why| Some(Outcome::Missed(why));
    assert_eq!(scene.report(&Report { client_port: None, ..report(1) }, at(0), 0), missed(Miss::NoTuple));
    assert_eq!(scene.report(&Report { client: None, ..report(1) }, at(0), 0), missed(Miss::NoTuple));
    scene.begin(tuple(1), identity(1, 0, 100), at(100));
    scene.connections.void(&tuple(1), at(100));
    assert_eq!(scene.report(&report(1), at(1000), 0), missed(Miss::Void));
    // One that was before the hello, and one of two.
    scene.begin(tuple(2), identity(2, 1_000_000, 1_000_100), at(1_000_100));
    assert_eq!(scene.report(&Report { duration: Some(micros(900_000)), ..report(2) }, at(1_001_000), 1), None);
    scene.due(at(7_000_000));
    assert_eq!(scene.late.pop(), Some((1, Outcome::Missed(Miss::Expired))));
    scene.begin(tuple(3), identity(3, 7_000_000, 7_000_100), at(7_000_100));
    scene.connections.end(&tuple(3), at(7_001_000));
    scene.begin(tuple(3), identity(4, 7_002_000, 7_002_100), at(7_002_100));
    let relayed = Report { relayed: Some(true), ..report(3) };
    assert_eq!(scene.report(&relayed, at(7_003_000), 0), missed(Miss::Ambiguous));
}

#[test]
fn forged_reports_for_an_address_without_a_connection_are_evidence_of_nothing() {
    let mut scene = Scene::new(1000);
    // The victim has a connection; none of the forged ports is its own.
    scene.begin(tuple(65_000), identity(1, 0, 100), at(100));
    for number in 0..100_000_usize {
        let forged = report((number % 60_000) as u16 + 1);
        assert_eq!(scene.report(&forged, at(200 + number as u64), number), None);
        assert!(scene.join.waiting() <= 1000);
    }
    scene.due(at(60_000_000));
    assert_eq!(scene.late.len(), 100_000);
    assert!(scene.late.iter().all(|(_, outcome)| matches!(outcome, Outcome::Missed(Miss::NoHello | Miss::Evicted))));
    let counts = scene.join.counts();
    assert_eq!((counts.joined, counts.missed(Miss::NoHello)), (0, 1000));
    assert_eq!(counts.missed(Miss::Evicted), 99_000);
}

#[test]
fn only_a_trusted_proxy_says_whom_a_request_is_from() {
    let mut scene = Scene::new(100_000);
    scene.begin(tuple(1), identity(1, 0, 100), at(100));
    for number in 0..10_000_u32 {
        let victim = std::net::Ipv4Addr::from(0xcb00_7100 + number).to_string();
        let forged = Report { forwarded_for: Some(victim.into()), ..report(1) };
        let outcome = scene.report(&forged, at(1000), 0).unwrap();
        let Outcome::Joined(Subject::Client { address, .. }, _) = outcome else { panic!("{outcome:?}") };
        assert_eq!(address, IpAddr::from([192, 0, 2, 7]), "whatever the header says");
    }
    let proxy = Report { client: Some([10, 0, 0, 1].into()), forwarded_for: Some("192.0.2.9".into()), ..report(1) };
    let Some(Outcome::Forwarded(subject)) = scene.report(&proxy, at(1000), 0) else { panic!("not forwarded") };
    assert!(matches!(subject, Subject::Forwarded { address, .. } if address == IpAddr::from([192, 0, 2, 9])));
    assert_eq!(subject.reach(), Reach::Inline);
    let silent = Report { forwarded_for: None, ..proxy };
    assert_eq!(scene.report(&silent, at(1000), 0), Some(Outcome::Missed(Miss::NoClient)));
    assert_eq!((scene.join.counts().joined, scene.join.counts().forwarded), (10_000, 1));
}

/// QUIC hellos are proven late, and nobody sees a QUIC connection's end.
#[test]
fn over_udp_a_report_waits_for_the_hello_that_may_still_come() {
    let udp = |port| {
        let tuple = tuple(port);
        Tuple { client: End { carrier: Carrier::Udp, ..tuple.client }, ..tuple }
    };
    let quic = |who, hello| Identity { transport: Transport::Quic, syn: None, ..identity(who, hello, hello) };
    let told = || Report { protocol: Some("HTTP/3.0".into()), ..report(1) };
    let mut scene = Scene::new(100);
    scene.begin(udp(1), quic(1, 0), at(100));
    assert_eq!(scene.report(&told(), at(50_000), 0), None);
    // Another client used the port again; its request was told of before its hello was proven.
    assert_eq!(scene.report(&told(), at(200_000), 1), None);
    scene.begin(udp(1), quic(2, 190_000), at(210_000));
    let found: Vec<_> = scene.late.drain(..).map(|(kept, outcome)| (kept, who(&outcome))).collect();
    assert_eq!(found, [(0, Some(1)), (1, Some(2))]);
    assert_eq!(scene.report(&told(), at(300_000), 2), None);
    scene.due(at(1_800_000));
    assert_eq!(scene.late.pop().map(|(kept, outcome)| (kept, who(&outcome))), Some((2, Some(2))), "none came");
}

/// A proxy on this host may say which connection a request came over: its client's own, whose hello was seen.
#[test]
fn a_trusted_proxy_may_name_its_clients_own_connection() {
    let mut scene = Scene::new(100);
    scene.begin(tuple(1), identity(1, 0, 100), at(100));
    let hop = Report {
        client: Some([10, 0, 0, 1].into()),
        client_port: Some(50_000),
        server_port: Some(8080),
        // Those of the hop's connection, which are not the client's.
        connection_requests: Some(1),
        connection_age: Some(micros(10)),
        proxied_client: Some([192, 0, 2, 7].into()),
        proxied_client_port: Some(1),
        proxied_server: Some(SERVER.into()),
        proxied_server_port: Some(443),
        ..report(1)
    };
    for _ in 0..2 {
        let outcome = scene.report(&hop, at(60_000_000), 0);
        assert_eq!(outcome.as_ref().and_then(who), Some(1), "each of its requests: {outcome:?}");
    }
    let elsewhere = Report { proxied_client_port: Some(2), ..hop.clone() };
    let outcome = scene.report(&elsewhere, at(60_000_000), 0);
    assert!(matches!(outcome, Some(Outcome::Forwarded(_))), "its hello is nowhere, and not waited for: {outcome:?}");
    scene.connections.void(&tuple(1), at(60_000_000));
    let outcome = scene.report(&hop, at(60_000_000), 0);
    assert!(matches!(outcome, Some(Outcome::Forwarded(_))), "{outcome:?}");
    // Of anybody else that is hearsay.
    let forged = Report { client: Some([203, 0, 113, 1].into()), ..hop };
    assert_eq!(scene.report(&forged, at(60_000_000), 0), None);
    assert_eq!((scene.join.counts().joined, scene.join.counts().forwarded), (2, 2));
}

#[test]
fn a_proxy_that_nobody_configured_is_suspected_and_out_of_the_kernels_reach() {
    let mut scene = Scene::new(100);
    scene.begin(tuple(1), identity(1, 0, 100), at(100));
    let reaches: Vec<Reach> = (0..8)
        .map(|number| {
            let sent = Report { user_agent: Some(format!("program{number}/1.0").into()), ..report(1) };
            match scene.report(&sent, at(1000), 0) {
                Some(Outcome::Joined(subject, _)) => subject.reach(),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    assert_eq!(reaches, [[Reach::Packets; 7].as_slice(), &[Reach::Inline]].concat());
}

/// One connection on a port, times in microseconds.
#[derive(Clone, Debug)]
struct Plan {
    port: u16,
    who: u64,
    /// From the end of the one before on its port to its SYN.
    gap: u64,
    /// From SYN to hello.
    handshake: u64,
    /// Until the daemon knows of its hello.
    confirmed: u64,
    /// For each request: the pause before it, how long it takes, how late its report is.
    requests: Vec<(u64, u64, u64)>,
    /// From the last request to the end.
    linger: u64,
    /// By how much the server's clock is behind.
    behind: u64,
    /// Its server has another program send its reports; else they leave within a millisecond, but for the last.
    relayed: bool,
    /// Its server tells which request of a connection it is, and how old that is.
    numbered: bool,
    /// Its server has a name for each connection.
    named: bool,
    /// How long it is interrupted between a connection's end and its last report.
    interrupted: u64,
}

/// `interrupted`: the longest time.
fn plans(interrupted: u64) -> impl Strategy<Value = Vec<Plan>> {
    // Most gaps, delays and durations are short.
    let short = |most: u64| (0..12_u32, 0..=most).prop_map(|(halvings, value)| value >> halvings);
    // What is relayed is there within a millisecond or two; one in a hundred comes as late as may be.
    let delay = prop_oneof![99 => 0..2_000_u64, 1 => 0..99_000_u64];
    let request = (short(3_000_000), short(10_000_000), delay);
    let times = (short(1_000_000), 200..80_000_u64, prop_oneof![9 => 0..500_u64, 1 => 0..1_000_000_u64]);
    let requests = prop::collection::vec(request, 1..8);
    let interrupted = prop_oneof![99 => 0..1_000_u64, 1 => 0..interrupted];
    let server = (0..20_000_u64, interrupted);
    let plan = (1..6_u16, 0..4_u64, times, requests, short(500_000), server);
    let plan = plan.prop_map(|(port, who, (gap, handshake, confirmed), requests, linger, server)| Plan {
        port,
        who,
        gap: gap + 2_000,
        handshake,
        confirmed,
        requests,
        linger,
        behind: server.0,
        // Each port is for a server of another kind; what is relayed without numbers can't be told apart.
        relayed: port % 3 == 0,
        numbered: port % 3 != 1,
        named: port > 3,
        interrupted: server.1,
    });
    prop::collection::vec(plan, 1..40)
}

/// What the daemon is told, and when.
enum Told {
    Hello(Tuple, Identity),
    End(Tuple, u64),
    Report(Box<Report<'static>>, u64),
}

impl Told {
    fn place(&self) -> u8 {
        match self {
            Self::Hello(..) => 0,
            Self::End(..) => 1,
            Self::Report(..) => 2,
        }
    }
}

/// Everything that happens of these plans, in the order the daemon learns of it.
fn schedule(plans: &[Plan]) -> Vec<(u64, Told)> {
    let (mut free, mut stalled) = ([0; 8], [0; 8]);
    let mut told = Vec::new();
    for plan in plans {
        let syn = free[usize::from(plan.port)] + plan.gap;
        let hello = syn + plan.handshake;
        let tuple = tuple(plan.port);
        // A server that is interrupted serves nobody.
        let mut now = (hello + 100).max(stalled[usize::from(plan.port)] + 1);
        let last = plan.requests.len() - 1;
        for (index, (pause, duration, delay)) in plan.requests.iter().enumerate() {
            let begun = now + pause;
            now = begun + duration;
            let sent = Report {
                // In whole milliseconds, of a clock that is looked at now and then.
                duration: Some(Duration::from_millis((duration + plan.behind) / 1000)),
                connection_age: plan
                    .numbered
                    .then(|| Duration::from_millis((now - syn + plan.behind - plan.handshake / 2) / 1000)),
                connection_requests: plan.numbered.then_some(index as u64 + 1),
                connection: plan.named.then_some(hello),
                relayed: Some(plan.relayed),
                ..report(plan.port)
            };
            // Servers that end a connection before they tell of it, do so with numbers.
            let interrupted = if plan.numbered && index == last { plan.interrupted } else { delay % 1000 };
            let delay = if plan.relayed { *delay } else { interrupted };
            stalled[usize::from(plan.port)] = now + delay;
            told.push((now + delay, Told::Report(Box::new(sent), plan.who)));
        }
        let end = now + plan.linger;
        told.push((end, Told::End(tuple, end)));
        // What the client sends next proves its address: no connection is over before its hello is confirmed.
        let confirmed = (hello + plan.confirmed).min(end);
        told.push((confirmed, Told::Hello(tuple, identity(plan.who, syn, hello))));
        free[usize::from(plan.port)] = end;
    }
    // Hellos before ends before reports of one moment.
    told.sort_by_key(|(when, told)| (*when, told.place()));
    told
}

/// Runs a schedule: reports in all, those joined, and those joined to somebody else.
fn run(plans: &[Plan]) -> (usize, usize, usize) {
    let mut scene = Scene::new(10_000);
    let (mut truths, mut outcomes) = (Vec::new(), Vec::new());
    for (when, told) in schedule(plans) {
        scene.due(at(when));
        match told {
            Told::Hello(tuple, identity) => scene.begin(tuple, identity, at(when)),
            Told::End(tuple, ended) => scene.connections.end(&tuple, at(ended)),
            Told::Report(report, truth) => {
                let number = truths.len();
                truths.push(truth);
                outcomes.extend(scene.report(&report, at(when), number).map(|outcome| (number, outcome)));
            }
        }
    }
    scene.due(at(u64::from(u32::MAX)));
    outcomes.append(&mut scene.late);
    assert_eq!((outcomes.len(), scene.join.waiting()), (truths.len(), 0), "one outcome for each report");
    let joined: Vec<(u64, u64)> =
        outcomes.iter().filter_map(|(number, outcome)| Some((truths[*number], who(outcome)?))).collect();
    (truths.len(), joined.len(), joined.iter().filter(|(truth, found)| truth != found).count())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn no_report_is_ever_joined_to_another_clients_hello(plans in plans(99_000)) {
        let (_, _, wrong) = run(&plans);
        prop_assert_eq!(wrong, 0);
    }
}

#[test]
fn nearly_all_reports_are_joined_though_ports_are_used_again_within_a_second() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut reports, mut joined) = (0, 0);
    for _ in 0..500 {
        let plans = plans(12_000).new_tree(&mut runner).unwrap().current();
        let (all, found, wrong) = run(&plans);
        assert_eq!(wrong, 0);
        (reports, joined) = (reports + all, joined + found);
    }
    let share = f64::from(joined as u32) / f64::from(reports as u32);
    assert!(share >= 0.999, "{joined} of {reports}");
}
