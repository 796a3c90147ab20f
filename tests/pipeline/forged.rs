//! What is forged changes nothing of real clients: threats.md T1, T2 and T4, and what Linux would discard (T14).
//!
//! 100,000 forged hellos; 1,000,000, as T1 says, with `DETECTOR_TEST_FULL=1`.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use detector::capture::{Flow, Proof, Segment, TcpFlags};
use detector::clock::Timestamp;
use detector::connection::{Connections, Event, Limits as ConnectionLimits};
use detector::pipeline::{Cause, Ignored, Limits, Outcome, Pipeline, Void};

use crate::fixture::{Dice, SEEDS, Said, data, few, flow, syn};

const BASE: u32 = 5000;
/// A server's initial sequence number.
const SERVER: u32 = 900_000;

fn number(dice: &mut Dice) -> u32 {
    (dice.next() >> 32) as u32
}

fn syn_ack(flow: Flow, base: u32) -> Segment<'static> {
    let flags = TcpFlags { syn: true, ack: true, ..TcpFlags::default() };
    Segment { flags, ack: base, ..data(flow.reversed(), SERVER, &[]) }
}

/// A segment of a client that has seen the SYN-ACK.
fn acknowledging<'a>(segment: Segment<'a>) -> Segment<'a> {
    Segment { ack: SERVER + 1, ..segment }
}

/// The pipeline and what holds its hellos; who was confirmed.
struct Host {
    pipeline: Pipeline,
    connections: Connections,
    confirmed: Vec<(Flow, String)>,
    settled: BTreeMap<&'static str, u64>,
    hellos: u64,
}

impl Host {
    fn new() -> Self {
        Self {
            pipeline: Pipeline::seeded(Limits::default(), SEEDS),
            connections: Connections::new(ConnectionLimits { answers: false, ..ConnectionLimits::default() }),
            confirmed: Vec::new(),
            settled: BTreeMap::new(),
            hellos: 0,
        }
    }

    fn take(&mut self, segment: &Segment<'_>) {
        let Self { pipeline, connections, confirmed, settled, hellos } = self;
        let mut note = |event: Event<'_>| match event {
            Event::Confirmed(hello, _) => confirmed.push((hello.flow, hello.fingerprint.ja4.to_string())),
            Event::Settled(last) => *settled.entry(last.standing.label()).or_default() += 1,
        };
        let now = segment.at;
        connections.expire(now, usize::MAX, &mut note);
        pipeline.push(segment, &mut |outcome| match outcome {
            Outcome::Hello(hello) => {
                *hellos += 1;
                connections.hello(hello, now, &mut note);
            }
            Outcome::Proven { flow, stream, proof } => connections.proven(flow, stream, proof, now, &mut note),
            Outcome::Void { flow, stream, why } => connections.void((flow, stream), why, now, &mut note),
            Outcome::Lost { .. } | Outcome::Ignored(_) | Outcome::Answer(_) => {}
        });
    }
}

fn forger(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0xc612_0000 + number))
}

/// T1: forged hellos from 100,000 sources, half after a SYN that was answered; every thousandth of the time a real
/// connection from one of 100 of those addresses, of the same hello.
#[test]
fn t1_forged_hellos_confirm_nothing_and_real_ones_are_confirmed() {
    let full = std::env::var_os("DETECTOR_TEST_FULL").is_some_and(|full| full == "1");
    let count: u32 = if full { 1_000_000 } else { 100_000 };
    let stream = few()[0].stream.clone();
    let mut dice = Dice(1);
    let mut host = Host::new();
    let mut real = HashSet::new();
    for turn in 0..count {
        let at = Timestamp::from_nanos(u64::from(turn) * 10_000);
        let server = SocketAddr::from(([192, 0, 2, 1], 443));
        let port = u16::try_from(1024 + turn / 100_000).unwrap();
        let flow = Flow { source: SocketAddr::new(forger(turn % 100_000), port), destination: server };
        let base = number(&mut dice);
        if turn % 2 == 0 {
            host.take(&Segment { at, ..syn(flow, base) });
            host.take(&Segment { at, ..syn_ack(flow, base) });
        }
        // A blind guess of what the server said.
        host.take(&Segment { at, ack: SERVER + 2 + number(&mut dice) % 1_000_000, ..data(flow, base, &stream) });
        if turn % (count / 1000) == 0 {
            let source = SocketAddr::new(
                forger(turn / (count / 1000) % 100),
                50_000 + port + u16::try_from(real.len()).unwrap(),
            );
            let flow = Flow { source, destination: server };
            host.take(&Segment { at, ..syn(flow, BASE) });
            host.take(&Segment { at, ..syn_ack(flow, BASE) });
            host.take(&acknowledging(Segment { at, ..data(flow, BASE, &stream) }));
            real.insert(flow);
        }
    }
    let confirmed: HashSet<Flow> = host.confirmed.iter().map(|(flow, _)| *flow).collect();
    assert_eq!(real.len(), 1000);
    assert_eq!(confirmed, real, "all real ones, and nobody else");
    assert_eq!(host.confirmed.len(), 1000, "each once");
    let pending = u64::try_from(host.connections.pending()).unwrap();
    assert_eq!(host.hellos, host.settled.values().sum::<u64>() + pending, "each hello has one standing");
    assert_eq!(host.settled["confirmed"], 1000);
    assert!(host.connections.pending() <= ConnectionLimits::default().pending);
}

/// T2: where the proof comes only with a later packet (the ACK race, deferred accept), it confirms the hello that waits;
/// after a second nothing does.
#[test]
fn t2_a_proof_with_the_next_packet_confirms_within_a_second() {
    let stream = few()[0].stream.clone();
    let mut host = Host::new();
    for number in 0..10_000_u16 {
        let at = |millis: u64| Timestamp::from_nanos((u64::from(number) * 2_000 + millis) * 1_000_000);
        let flow = flow(u32::from(number), 1000 + number);
        host.take(&Segment { at: at(0), ..syn(flow, BASE) });
        host.take(&Segment { at: at(0), ..data(flow, BASE, &stream) });
        let late = number % 10 == 9;
        let proof = Some(Proof::Established);
        let after = if late { 1500 } else { 1 };
        let next = u32::try_from(stream.len()).unwrap();
        host.take(&Segment { at: at(after), proof, ..data(flow, BASE + next, &[]) });
    }
    let end = Timestamp::from_nanos(0).plus(Duration::from_secs(30_000));
    host.take(&Segment { at: end, ..syn(flow(1, 1), 1) });
    assert_eq!(host.settled, [("confirmed", 9000), ("pending_expired", 1000)].into(), "in time, and too late");
}

/// T4: forged segments with random numbers on live connections, hellos among them, change no fingerprint.
#[test]
fn t4_segments_forged_into_live_connections_change_no_fingerprint() {
    let samples = few();
    let (real, other) = (&samples[0], &samples[1]);
    assert_ne!(real.hello.fingerprint.ja4, other.hello.fingerprint.ja4);
    let mut dice = Dice(4);
    let mut said = Said::default();
    let mut pipeline = Pipeline::seeded(Limits::default(), SEEDS);
    let mut forged = 0;
    for turn in 0..100_u16 {
        let flow = flow(u32::from(turn), 2000 + turn);
        let base = number(&mut dice);
        let mut take = |segment: &Segment<'_>| pipeline.push(segment, &mut |outcome| said.note(outcome));
        take(&syn(flow, base));
        take(&syn_ack(flow, base));
        let (head, tail) = real.stream.split_at(real.stream.len() / 2);
        let tail_seq = base.wrapping_add(u32::try_from(head.len()).unwrap());
        for moment in 0..3 {
            match moment {
                1 => take(&acknowledging(data(flow, base, head))),
                2 => take(&acknowledging(data(flow, tail_seq, tail))),
                _ => {}
            }
            for _ in 0..34 {
                // Far from the window with all but a chance of one in 65,536; a SYN now and then.
                let seq = base.wrapping_add(1 << 20).wrapping_add(number(&mut dice) >> 1);
                if number(&mut dice).is_multiple_of(8) {
                    take(&syn(flow, seq));
                } else {
                    take(&Segment { ack: number(&mut dice), ..data(flow, seq, &other.stream) });
                }
                forged += 1;
            }
        }
    }
    assert!(forged >= 10_000);
    assert_eq!(said.hellos.len(), 100, "each client's, and no other");
    assert!(said.hellos.iter().all(|hello| hello.fingerprint == real.hello.fingerprint));
    assert!(said.hellos.iter().all(|hello| hello.proof == Some(Proof::Acknowledged)));
    assert_eq!(said.lost, []);
}

#[test]
fn what_linux_discards_is_not_read() {
    let samples = few();
    let (real, decoy) = (&samples[0], &samples[1]);
    let flow = flow(1, 40_000);
    let no_ack = Segment { flags: TcpFlags::default(), ..data(flow, BASE, &decoy.stream) };
    let mut said = Said::default();
    let mut pipeline = Pipeline::seeded(Limits::default(), SEEDS);
    for segment in [syn(flow, BASE), no_ack, acknowledging(data(flow, BASE, &real.stream))] {
        pipeline.push(&segment, &mut |outcome| said.note(outcome));
    }
    assert_eq!(said.hellos.len(), 1);
    assert_eq!(said.hellos[0].fingerprint, real.hello.fingerprint);
    assert!(said.ignored.contains(&Ignored::NoAck));
}

/// A decoy that got through, by a low TTL say, is found out by the real hello after it.
#[test]
fn other_bytes_after_a_hello_void_it() {
    let samples = few();
    let flow = flow(1, 40_000);
    for again in [&samples[0], &samples[1]] {
        let mut voids = Vec::new();
        let mut pipeline = Pipeline::seeded(Limits::default(), SEEDS);
        for segment in [syn(flow, BASE), data(flow, BASE, &samples[0].stream), data(flow, BASE, &again.stream)] {
            pipeline.push(&segment, &mut |outcome| {
                if let Outcome::Void { flow, stream, why } = outcome {
                    voids.push((flow, stream, why));
                }
            });
        }
        let changed = again.stream != samples[0].stream;
        assert_eq!(voids, if changed { vec![(flow, BASE, Void::OverlapConflict)] } else { vec![] });
    }
}

/// T18: among incomplete hellos, those of proven clients are given up last.
#[test]
fn the_oldest_unproven_hello_goes_first() {
    let stream = &few()[0].stream;
    let (head, tail) = stream.split_at(600);
    let limits = Limits { partial_hellos: 10, ..Limits::default() };
    let mut said = Said::default();
    let mut pipeline = Pipeline::seeded(limits, SEEDS);
    let mut take = |segment: &Segment<'_>| pipeline.push(segment, &mut |outcome| said.note(outcome));
    let honest = flow(1, 1);
    for segment in [syn(honest, BASE), syn_ack(honest, BASE), acknowledging(data(honest, BASE, head))] {
        take(&segment);
    }
    for number in 2..1000 {
        take(&data(flow(number, 1), 7, head));
    }
    take(&acknowledging(data(honest, BASE + 600, tail)));
    assert_eq!(said.hellos.len(), 1, "the oldest of all, but proven");
    assert_eq!(said.lost.len(), 998 - 9, "of the others all but the nine that still fit beside it");
    assert!(said.causes().iter().all(|cause| *cause == Cause::Evicted));
}
