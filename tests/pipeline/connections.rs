//! Hellos are held until they are proven and answered, and none is lost or told twice, whatever comes in between.

use std::collections::BTreeMap;
use std::time::Duration;

use detector::capture::{Flow, Network, Packet, Proof, frame, pcap};
use detector::clock::Timestamp;
use detector::connection::{ASK_AFTER, ASK_EVERY, Connections, Event, Limits, PER_FLOW, Settled, Standing};
use detector::fingerprint::Transport;
use detector::line::HelloLine;
use detector::pipeline::{Answer, Hello, Limits as PipelineLimits, Outcome, Pipeline, Syn, Void, answer};
use detector::signature::SynSignature;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fixture::{bytes, expected, few, flow};

const ACK: Proof = Proof::Acknowledged;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * 1_000_000)
}

/// A hello without a proof, whose SYN was seen. `first_seq` tells it from others.
fn hello(flow: Flow, stream_seq: u32, index: u32, first_seq: u32) -> Hello {
    Hello { flow, stream_seq, index, first_seq, proof: None, ..few()[0].hello.clone() }
}

/// The answer to [`hello`].
fn answer_to(hello: &Hello) -> Answer {
    Answer {
        flow: hello.flow,
        at: at(0),
        retry: false,
        version: 0x0304,
        session_id: hello.offer.session_id.clone(),
        cipher_suite: *hello.offer.cipher_suites.last().expect("it offers some"),
        ja3s_raw: String::new(),
        ja3s: "theirs".to_owned(),
    }
}

/// What was said, with the `first_seq` of whom.
#[derive(Default)]
struct Said {
    confirmed: Vec<u32>,
    settled: Vec<Settled>,
}

impl Said {
    fn note(&mut self, event: Event<'_>) {
        match event {
            Event::Confirmed(hello, _) => self.confirmed.push(hello.first_seq),
            Event::Settled(settled) => self.settled.push(*settled),
        }
    }

    /// Whom, how, and whether void.
    fn settled(&self) -> Vec<(u32, Standing, Option<Void>)> {
        self.settled.iter().map(|settled| (settled.hello.first_seq, settled.standing, settled.void)).collect()
    }
}

/// Calls a method of `$connections` that says something to `$said`.
macro_rules! tell {
    ($connections:ident.$method:ident($($argument:expr),*) => $said:ident) => {
        $connections.$method($($argument,)* &mut |event: Event<'_>| $said.note(event))
    };
}

#[test]
fn no_packet_waits_for_the_end_of_a_flood() {
    let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
    for number in 0..10_000 {
        tell!(connections.hello(Box::new(hello(flow(2, number), 9, 0, 1)), at(0)) => said);
    }
    // All of them are due, and none goes at the cost of this one.
    let client = hello(flow(1, 1), 9, 0, 2);
    tell!(connections.hello(Box::new(Hello { proof: Some(ACK), ..client }), at(2000)) => said);
    assert_eq!(said.confirmed, [2]);
    assert!((1..100).contains(&said.settled.len()), "{} settled by one packet", said.settled.len());
    let before = said.settled.len();
    assert!(tell!(connections.expire(at(2000), 64) => said));
    assert_eq!(said.settled.len() - before, 64);
    while tell!(connections.expire(at(2000), 64) => said) {}
    assert_eq!((said.settled.len(), connections.pending()), (10_000, 1));
}

#[test]
fn a_hello_is_confirmed_at_once_and_settled_when_answered() {
    let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
    let (waiting, known) = (hello(flow(1, 1), 9, 0, 1), hello(flow(1, 2), 9, 0, 2));
    tell!(connections.hello(Box::new(waiting.clone()), at(0)) => said);
    tell!(connections.hello(Box::new(Hello { proof: Some(ACK), ..known.clone() }), at(1)) => said);
    assert_eq!((said.confirmed.as_slice(), said.settled.len()), (&[2][..], 0));
    tell!(connections.proven(waiting.flow, Some(9), Proof::SynCookie, at(2)) => said);
    assert_eq!((said.confirmed.as_slice(), said.settled.len()), (&[2, 1][..], 0));
    assert!(tell!(connections.answer(answer_to(&waiting), at(3)) => said));
    assert!(!tell!(connections.answer(answer_to(&waiting), at(3)) => said), "it was answered");
    assert_eq!(said.settled(), [(1, Standing::Confirmed(Proof::SynCookie), None)]);
    assert_eq!(said.settled[0].answer, Some(answer_to(&waiting)));
    // The other's answer never comes.
    tell!(connections.expire(at(1000), usize::MAX) => said);
    assert_eq!(connections.pending(), 1);
    tell!(connections.expire(at(1001), usize::MAX) => said);
    assert_eq!(said.settled()[1..], [(2, Standing::Confirmed(ACK), None)]);
    assert_eq!((said.settled[1].answer.as_ref(), said.settled[1].number), (None, 1));
}

#[test]
fn without_answers_a_confirmed_hello_is_settled() {
    let limits = Limits { answers: false, ..Limits::default() };
    let (mut connections, mut said) = (Connections::new(limits), Said::default());
    tell!(connections.hello(Box::new(hello(flow(1, 1), 9, 0, 1)), at(0)) => said);
    tell!(connections.proven(flow(1, 1), None, ACK, at(1)) => said);
    assert_eq!((said.confirmed.as_slice(), connections.pending()), (&[1][..], 0));
    assert_eq!(said.settled(), [(1, Standing::Confirmed(ACK), None)]);
}

#[test]
fn a_proof_that_comes_too_late_confirms_nothing() {
    for (when, standing) in [(999, Standing::Confirmed(ACK)), (1000, Standing::PendingExpired)] {
        let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
        tell!(connections.hello(Box::new(hello(flow(1, 1), 9, 0, 1)), at(0)) => said);
        tell!(connections.proven(flow(1, 1), None, ACK, at(when)) => said);
        tell!(connections.finish() => said);
        assert_eq!(said.settled(), [(1, standing, None)]);
        assert_eq!(said.confirmed.len(), usize::from(standing.proof().is_some()));
    }
}

/// The end of a capture isn't the end of a hello's time.
#[test]
fn what_is_held_at_the_end_is_unconfirmed() {
    let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
    for port in 1..=3 {
        tell!(connections.hello(Box::new(hello(flow(1, port), 9, 0, port.into())), at(0)) => said);
    }
    tell!(connections.finish() => said);
    assert_eq!(said.settled(), [1, 2, 3].map(|port| (port, Standing::Unconfirmed, None)));
}

#[test]
fn a_retry_answers_the_first_hello_and_the_server_hello_the_second() {
    let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
    let (first, second) = (hello(flow(1, 1), 9, 0, 1), hello(flow(1, 1), 9, 1, 2));
    tell!(connections.hello(Box::new(first.clone()), at(0)) => said);
    let retry = Answer { retry: true, ja3s: "retry".to_owned(), ..answer_to(&first) };
    assert!(tell!(connections.answer(retry.clone(), at(1)) => said));
    tell!(connections.hello(Box::new(second.clone()), at(2)) => said);
    assert!(!tell!(connections.answer(retry, at(3)) => said), "the second isn't answered by a retry");
    tell!(connections.proven(flow(1, 1), None, ACK, at(3)) => said);
    assert_eq!(said.confirmed, [1, 2], "a proof is about both");
    assert!(tell!(connections.answer(answer_to(&second), at(4)) => said));
    let answers: Vec<_> = said.settled.iter().map(|it| it.answer.as_ref().map(|answer| answer.ja3s.as_str())).collect();
    assert_eq!(answers, [Some("retry"), Some("theirs")]);
    assert_eq!(said.settled.iter().filter(|settled| settled.void.is_some()).count(), 0);
    // Without the retry in sight, the ServerHello still goes to the second.
    for hello in [&first, &second] {
        tell!(connections.hello(Box::new(Hello { proof: Some(ACK), ..hello.clone() }), at(5)) => said);
    }
    assert!(tell!(connections.answer(answer_to(&second), at(6)) => said));
    assert_eq!(said.settled.last().map(|settled| settled.hello.index), Some(1));
}

#[test]
fn another_stream_on_the_same_4_tuple_is_not_confirmed() {
    let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
    let (real, mut forged) = (hello(flow(1, 1), 9, 0, 1), hello(flow(1, 1), 5_000_000, 0, 2));
    forged.offer.session_id = [7; 32].into();
    tell!(connections.hello(Box::new(real.clone()), at(0)) => said);
    tell!(connections.hello(Box::new(forged.clone()), at(1)) => said);
    tell!(connections.proven(flow(1, 1), None, ACK, at(2)) => said);
    assert_eq!(said.confirmed, [1]);
    assert!(tell!(connections.answer(answer_to(&real), at(3)) => said));
    tell!(connections.expire(at(2000), usize::MAX) => said);
    let wanted = [(1, Standing::Confirmed(ACK), None), (2, Standing::PendingExpired, Some(Void::Desync))];
    assert_eq!(said.settled(), wanted);
    // A proof that tells its stream may come for the later one.
    let mut said = Said::default();
    tell!(connections.hello(Box::new(real), at(3000)) => said);
    tell!(connections.hello(Box::new(forged), at(3000)) => said);
    tell!(connections.proven(flow(1, 1), Some(5_000_000), ACK, at(3001)) => said);
    assert_eq!(said.confirmed, [2]);
}

#[test]
fn a_void_hello_is_never_confirmed() {
    let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
    for port in 1..=2 {
        tell!(connections.hello(Box::new(hello(flow(1, port), 9, 0, port.into())), at(0)) => said);
    }
    tell!(connections.void((flow(1, 1), 9), Void::OverlapConflict, at(1)) => said);
    let strange = Answer { cipher_suite: 0xfefe, ..answer_to(&hello(flow(1, 2), 9, 0, 2)) };
    assert!(tell!(connections.answer(strange, at(1)) => said));
    for port in 1..=2 {
        tell!(connections.proven(flow(1, port), None, ACK, at(2)) => said);
    }
    assert_eq!(said.settled(), [(2, Standing::Confirmed(ACK), Some(Void::Desync))]);
    tell!(connections.release(flow(1, 1)) => said);
    assert_eq!(said.settled()[1..], [(1, Standing::Confirmed(ACK), Some(Void::OverlapConflict))]);
    assert_eq!(said.confirmed, [0; 0]);
}

/// A port that is used again at once, while the hello of its last connection still waits for an answer.
#[test]
fn what_voids_a_hello_is_nothing_to_that_of_another_connection() {
    let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
    for stream in [9, 10] {
        tell!(connections.hello(Box::new(hello(flow(1, 1), stream, 0, stream)), at(0)) => said);
        tell!(connections.proven(flow(1, 1), Some(stream), ACK, at(1)) => said);
    }
    tell!(connections.void((flow(1, 1), 10), Void::OverlapConflict, at(2)) => said);
    tell!(connections.release(flow(1, 1)) => said);
    let wanted = [(9, None), (10, Some(Void::OverlapConflict))];
    assert_eq!(said.settled(), wanted.map(|(number, void)| (number, Standing::Confirmed(ACK), void)));
}

/// However often a port is used again over UDP: what gives way is a hello that only waited for what doesn't come.
#[test]
fn the_first_hello_of_a_port_used_again_and_again_waits_for_its_proof() {
    let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
    for stream in 0..20 {
        let hello = Hello { transport: Transport::Quic, ..hello(flow(1, 1), stream, 0, stream) };
        tell!(connections.hello(Box::new(hello), at(0)) => said);
        tell!(connections.proven(flow(1, 1), Some(stream), ACK, at(1)) => said);
    }
    assert_eq!(said.confirmed, (0..20).collect::<Vec<_>>());
    assert!(connections.pending() < 10);
    tell!(connections.release(flow(1, 1)) => said);
    assert!(said.settled.iter().all(|settled| settled.standing == Standing::Confirmed(ACK) && settled.void.is_none()));
}

#[test]
fn a_hello_that_waits_long_is_asked_for_once() {
    assert_eq!((ASK_AFTER, ASK_EVERY), (Duration::from_millis(300), Duration::from_millis(50)));
    let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
    for (port, millis) in [(1, 1000), (2, 1010), (3, 1100)] {
        tell!(connections.hello(Box::new(hello(flow(1, port), 9, 0, port.into())), at(millis)) => said);
    }
    assert_eq!(connections.overdue(at(1349)), [], "they haven't waited long");
    assert_eq!(connections.overdue(at(1350)), [(flow(1, 1), 9), (flow(1, 2), 9)], "the longest first");
    assert_eq!(connections.overdue(at(1399)), [], "each once");
    tell!(connections.proven(flow(1, 2), Some(9), Proof::SockDiag, at(1399)) => said);
    assert_eq!(said.confirmed, [2]);
    assert_eq!(connections.overdue(at(1450)), [(flow(1, 3), 9)]);
    tell!(connections.expire(at(5000), usize::MAX) => said);
    let wanted = [
        (1, Standing::PendingExpired, None),
        (3, Standing::PendingExpired, None),
        (2, Standing::Confirmed(Proof::SockDiag), None),
    ];
    assert_eq!(said.settled(), wanted);
}

/// What a socket can't prove: that of another connection, of one nobody saw begin, of none at all.
#[test]
fn only_a_socket_of_the_hellos_own_connection_is_asked_for() {
    let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
    let proven = Hello { proof: Some(ACK), ..hello(flow(1, 1), 9, 0, 1) };
    let quic = Hello { transport: Transport::Quic, ..hello(flow(1, 3), 9, 0, 3) };
    let unbegun = Hello { syn: None, ..hello(flow(1, 2), 9, 0, 2) };
    for hello in [proven, unbegun, quic, hello(flow(1, 9), 9, 0, 9)] {
        tell!(connections.hello(Box::new(hello), at(0)) => said);
    }
    // Two connections on one 4-tuple, neither of them proven.
    tell!(connections.hello(Box::new(hello(flow(1, 4), 9, 0, 4)), at(0)) => said);
    tell!(connections.hello(Box::new(hello(flow(1, 4), 5_000_000, 0, 4)), at(0)) => said);
    // A forged one, then that of the address' owner, which is proven, answered and gone.
    let owner = hello(flow(1, 5), 5_000_000, 0, 5);
    tell!(connections.hello(Box::new(hello(flow(1, 5), 9, 0, 5)), at(0)) => said);
    tell!(connections.hello(Box::new(Hello { proof: Some(ACK), ..owner.clone() }), at(1)) => said);
    assert!(tell!(connections.answer(answer_to(&owner), at(2)) => said));
    // The same, and the owner's own hello was not seen.
    tell!(connections.hello(Box::new(hello(flow(1, 6), 9, 0, 6)), at(0)) => said);
    tell!(connections.proven(flow(1, 6), Some(5_000_000), ACK, at(2)) => said);
    // One that was proven and one that was released while they waited.
    for port in [7, 8] {
        tell!(connections.hello(Box::new(hello(flow(1, port), 9, 0, port.into())), at(2)) => said);
    }
    tell!(connections.proven(flow(1, 7), Some(9), ACK, at(2)) => said);
    tell!(connections.release(flow(1, 8)) => said);
    assert_eq!(connections.overdue(at(900)), [(flow(1, 9), 9)]);
    // Where nobody asks, none is named.
    let mut connections = Connections::new(Limits { asks: 0, ..Limits::default() });
    tell!(connections.hello(Box::new(hello(flow(1, 9), 9, 0, 9)), at(0)) => said);
    assert_eq!(connections.overdue(at(900)), []);
}

/// A second of a flood, 100 hellos in each millisecond, then quiet; a real hello before it and one after it.
#[test]
fn a_flood_of_waiting_hellos_costs_a_bounded_number_of_look_ups() {
    let (mut connections, mut said) =
        (Connections::new(Limits { pending: 1 << 20, ..Limits::default() }), Said::default());
    let (before, after) = (flow(1 << 20, 1), flow(1 << 20, 2));
    let mut asked = Vec::new();
    for millis in 0..3000_u64 {
        if [0, 1200].contains(&millis) {
            let flow = if millis == 0 { before } else { after };
            tell!(connections.hello(Box::new(hello(flow, 9, 0, 1)), at(1000 + millis)) => said);
        }
        if (100..1100).contains(&millis) {
            for number in 0..100 {
                let source = flow(u32::try_from(millis).expect("small"), number);
                tell!(connections.hello(Box::new(hello(source, 9, 0, 2)), at(1000 + millis)) => said);
            }
        }
        let named = connections.overdue(at(1000 + millis));
        assert!(named.len() <= 64);
        asked.extend(named.into_iter().map(|(flow, _)| (millis, flow)));
        tell!(connections.expire(at(1000 + millis), usize::MAX) => said);
    }
    let when = |flow: Flow| asked.iter().find(|(_, asked)| *asked == flow).map(|(millis, _)| *millis);
    assert!(when(before).is_some_and(|millis| millis <= 350), "{:?}", when(before));
    assert!(when(after).is_some_and(|millis| (1500..=1550).contains(&millis)), "{:?}", when(after));
    assert!((19 * 64..=21 * 64 + 2).contains(&asked.len()), "{} asked of 100,002", asked.len());
    // All parts of the flood have had their turns.
    for part in (400..1400).step_by(100) {
        let turns = asked.iter().filter(|(millis, _)| (part..part + 100).contains(millis)).count();
        assert!((64..=192).contains(&turns), "{turns} in the 100 ms from {part}");
    }
}

/// Forged hellos push out forged ones: those that are confirmed stay.
#[test]
fn a_flood_is_bounded_and_the_oldest_unconfirmed_goes_first() {
    let limits = Limits { pending: 100, ..Limits::default() };
    let (mut connections, mut said) = (Connections::new(limits), Said::default());
    for number in 0..50_000_u32 {
        let source = flow(number, 1);
        let proof = number.is_multiple_of(1000).then_some(ACK);
        tell!(connections.hello(Box::new(Hello { proof, ..hello(source, 9, 0, number) }), at(0)) => said);
        assert!(connections.pending() <= 100);
    }
    assert_eq!(said.confirmed.len(), 50);
    let unconfirmed: Vec<u32> = said.settled().iter().map(|(number, ..)| *number).collect();
    assert!(unconfirmed.is_sorted() && unconfirmed.iter().all(|number| !number.is_multiple_of(1000)));
    assert!(said.settled.iter().all(|settled| settled.standing == Standing::Unconfirmed));
    assert_eq!(unconfirmed.len(), 50_000 - 100);
    // One 4-tuple can't hold more than its share, and a confirmed one not be pushed out by it.
    let mut said = Said::default();
    let own = flow(60_000, 1);
    tell!(connections.hello(Box::new(Hello { proof: Some(ACK), ..hello(own, 9, 0, 60_000) }), at(1)) => said);
    for number in 0..50 {
        tell!(connections.hello(Box::new(hello(own, 60_000 + number, 0, number)), at(1)) => said);
    }
    tell!(connections.release(own) => said);
    let last = &said.settled()[said.settled.len() - PER_FLOW..];
    assert_eq!(last[0], (60_000, Standing::Confirmed(ACK), None));
    assert_eq!(last[1..].iter().map(|(number, ..)| *number).collect::<Vec<_>>(), [47, 48, 49]);
}

#[test]
fn a_line_says_what_became_of_a_hello() {
    let (mut connections, mut said) = (Connections::new(Limits::default()), Said::default());
    let network = Network { version: 4, ttl: 60, ..Network::default() };
    let header = [0, 1, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 4, 0, 0, 0, 0, 0, 2, 4, 5, 180];
    let signature = SynSignature::parse(&network, &header).expect("a header");
    let hello = Hello { at: at(7), syn: Some(Syn { at: at(5), signature }), ..hello(flow(1, 1), 9, 0, 1) };
    let keys = ["syn", "syn_class", "syn_to_hello_us", "ja3s", "confirmed", "void"];
    let last = |line: &HelloLine<'_>| {
        let line = serde_json::to_value(line).expect("an object");
        keys.map(|key| line[key].clone())
    };
    let syn = json!("4:60+4:0:1460:1024,0:mss:id-:0");
    let wanted = [syn.clone(), json!("scanner"), json!(2000), Value::Null, Value::Null, Value::Null];
    assert_eq!(last(&HelloLine::from(&hello)), wanted);

    tell!(connections.hello(Box::new(hello.clone()), at(7)) => said);
    tell!(connections.proven(hello.flow, None, ACK, at(8)) => said);
    tell!(connections.answer(Answer { session_id: [7; 32].into(), ..answer_to(&hello) }, at(9)) => said);
    let wanted = [syn, json!("scanner"), json!(2000), json!("theirs"), json!("acknowledged"), json!("desync")];
    assert_eq!(last(&HelloLine::from(&said.settled[0])), wanted);
}

/// Every ServerHello of the captures finds its hello.
#[test]
fn the_captures_answers_find_their_hellos() {
    let (mut answered, mut settled, mut retries) = (0, 0, 0);
    for name in expected().keys() {
        let (mut pipeline, mut connections) =
            (Pipeline::new(PipelineLimits::default()), Connections::new(Limits::default()));
        let mut said = Said::default();
        pcap::read(&bytes(&format!("captures/pcaps/{name}"))[..], |frame| {
            let Ok(packet @ Packet::Segment(segment)) = frame::packet(frame) else { return };
            pipeline.take(&packet, &mut |outcome| {
                if let Outcome::Hello(hello) = outcome {
                    let hello = Box::new(Hello { proof: Some(ACK), ..*hello });
                    tell!(connections.hello(hello, segment.at) => said);
                }
            });
            if let Some(answer) = answer(segment.flow, segment.at, segment.payload) {
                assert!(tell!(connections.answer(answer, segment.at) => said), "{name}");
            }
        })
        .expect("a readable capture");
        tell!(connections.finish() => said);
        for settled in &said.settled {
            assert_eq!(settled.void, None, "{name}");
            retries += usize::from(settled.answer.as_ref().is_some_and(|answer| answer.retry));
        }
        answered += said.settled.iter().filter(|settled| settled.answer.is_some()).count();
        settled += said.settled.len();
    }
    assert_eq!((settled, answered, retries), (784, 766, 9));
}

/// One thing that happens, on a few 4-tuples.
#[derive(Clone, Debug)]
enum Happening {
    Hello { port: u16, stream: u32, index: u32, proof: bool },
    Proven { port: u16, stream: Option<u32> },
    Answer { port: u16, fits: bool, retry: bool },
    Void { port: u16, stream: u32 },
    Release { port: u16 },
    Time { millis: u64 },
}

fn happening() -> impl Strategy<Value = Happening> {
    let port = 0..4_u16;
    prop_oneof![
        4 => (port.clone(), 0..2_u32, 0..2_u32, prop::bool::weighted(0.2))
            .prop_map(|(port, stream, index, proof)| Happening::Hello { port, stream, index, proof }),
        2 => (port.clone(), prop::option::of(0..2_u32)).prop_map(|(port, stream)| Happening::Proven { port, stream }),
        2 => (port.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(port, fits, retry)| Happening::Answer { port, fits, retry }),
        1 => (port.clone(), 0..2_u32).prop_map(|(port, stream)| Happening::Void { port, stream }),
        1 => port.prop_map(|port| Happening::Release { port }),
        2 => (0..700_u64).prop_map(|millis| Happening::Time { millis }),
    ]
}

proptest! {
    #[test]
    fn the_sum_is_exact(
        happenings in prop::collection::vec(happening(), 0..80),
        pending in 0..9_usize,
        answers in any::<bool>(),
    ) {
        let mut connections = Connections::new(Limits { pending, answers, ..Limits::default() });
        let mut said = Said::default();
        let (mut now, mut came) = (0, BTreeMap::new());
        for happening in happenings {
            let time = at(now);
            match happening {
                Happening::Hello { port, stream, index, proof } => {
                    let number = came.len() as u32;
                    came.insert(number, now);
                    let hello = Hello { proof: proof.then_some(ACK), ..hello(flow(1, port), stream, index, number) };
                    tell!(connections.hello(Box::new(hello), time) => said);
                }
                Happening::Proven { port, stream } => {
                    tell!(connections.proven(flow(1, port), stream, ACK, time) => said);
                }
                Happening::Answer { port, fits, retry } => {
                    let mut answer = Answer { retry, ..answer_to(&hello(flow(1, port), 0, 0, 0)) };
                    if !fits {
                        answer.session_id = [7; 32].into();
                    }
                    tell!(connections.answer(answer, time) => said);
                }
                Happening::Void { port, stream } => {
                    tell!(connections.void((flow(1, port), stream), Void::OverlapConflict, time) => said);
                }
                Happening::Release { port } => tell!(connections.release(flow(1, port)) => said),
                Happening::Time { millis } => {
                    now += millis;
                    tell!(connections.expire(at(now), usize::MAX) => said);
                }
            }
            prop_assert_eq!(came.len(), said.settled.len() + connections.pending());
            prop_assert!(connections.pending() <= pending);
        }
        // Both times are up.
        tell!(connections.expire(at(now + 2000), usize::MAX) => said);
        prop_assert_eq!(connections.pending(), 0);

        let mut numbers: Vec<u32> = said.settled.iter().map(|settled| settled.hello.first_seq).collect();
        numbers.sort_unstable();
        prop_assert_eq!(numbers, came.keys().copied().collect::<Vec<_>>(), "each once");
        for settled in &said.settled {
            let number = settled.hello.first_seq;
            prop_assert_eq!(settled.number, u64::from(number));
            let times = said.confirmed.iter().filter(|confirmed| **confirmed == number).count();
            match (settled.standing.proof(), settled.void) {
                (Some(_), None) => prop_assert_eq!(times, 1),
                // It may have become void later.
                (Some(_), Some(_)) => prop_assert!(times <= 1),
                (None, _) => prop_assert_eq!(times, 0),
            }
            prop_assert!(settled.answer.is_some() || settled.void != Some(Void::Desync));
        }
    }
}
