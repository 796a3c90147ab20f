//! What is known of a connection before and around its hello: its SYN, its first data, the server's answers; and UDP,
//! which knows nothing of connections.

use std::time::Instant;

use detector::{
    capture::event,
    flow::Limits,
    pipeline::{Outcome, Pipeline},
};
use detector_common::{
    counter::Counter,
    event::{
        EVENT_ANSWER_DATAGRAM, EVENT_ANSWER_SEGMENT, EVENT_DATAGRAM, EVENT_END, EVENT_SEGMENT, PROOF_ACKNOWLEDGED,
        PROOF_NONE,
    },
};

use zerocopy::IntoBytes as _;

use crate::{
    bench::{Bench, PASS, Row, hello},
    fixture::samples,
};

/// `TCX_NEXT` of linux/bpf.h: on to whoever is next.
const NEXT: u32 = u32::MAX;
/// Bytes of a datagram that is captured for its connection IDs only.
const HEADERS: usize = 320;

/// The row's ports and payload as a UDP datagram.
pub(crate) fn udp(row: &Row) -> Vec<u8> {
    let mut frame = row.frame();
    let len = row.payload.len() as u16;
    if row.source.is_ipv4() {
        frame.truncate(34);
        frame[16..18].copy_from_slice(&(28 + len).to_be_bytes());
        frame[23] = 17;
    } else {
        frame.truncate(54);
        frame[18..20].copy_from_slice(&(8 + len).to_be_bytes());
        frame[20] = 17;
    }
    for port in [row.source.port(), row.destination.port(), 8 + row.payload.len() as u16, 0] {
        frame.extend(port.to_be_bytes());
    }
    frame.extend(&row.payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn payloads(bench: &mut Bench) -> Vec<Vec<u8>> {
    bench.events().into_iter().map(|(_, payload)| payload).collect()
}

#[test]
fn the_first_data_after_a_syn_is_told_once_by_kind() {
    for (payload, kind) in [
        (hello(600), Counter::FirstHello),
        (hello(600)[..300].to_vec(), Counter::FirstPartial),
        (hello(600)[..3].to_vec(), Counter::FirstPartial),
        (b"GET / HTTP/1.1".to_vec(), Counter::FirstNotTls),
    ] {
        let mut bench = Bench::new();
        bench.row(&Row::new(&[]).syn().seq(999));
        assert_eq!(bench.counters().of(Counter::Syns), 1);
        // The handshake's last segment isn't data.
        bench.row(&Row::new(&[]));
        assert_eq!(bench.counters().of(Counter::FirstData), 0);
        bench.row(&Row::new(&payload));
        bench.row(&Row::new(b"more of it").seq(1000 + payload.len() as u32));
        let counters = bench.counters();
        assert_eq!((counters.of(Counter::FirstData), counters.of(kind)), (1, 1), "{kind:?}");
    }
    let mut bench = Bench::new();
    bench.row(&Row::new(&hello(600)));
    assert_eq!(bench.counters().of(Counter::FirstData), 0, "without a SYN nobody knows what is first");
}

#[test]
fn a_segment_that_overtakes_the_first_is_captured_and_followed() {
    let mut bench = Bench::new();
    let whole = hello(1800);
    bench.row(&Row::new(&[]).syn().seq(999));
    for (from, to) in [(600, 1200), (1200, 1800), (0, 600)] {
        bench.row(&Row::new(&whole[from..to]).seq(1000 + from as u32));
        assert_eq!(payloads(&mut bench), [&whole[from..to]]);
    }
    let counters = bench.counters();
    assert_eq!((counters.of(Counter::FirstPartial), counters.of(Counter::HellosStarted)), (1, 1));
    // Far from the connection's first byte: of another connection, and no hello.
    let mut bench = Bench::new();
    bench.row(&Row::new(&[]).syn().seq(999));
    bench.row(&Row::new(&whole[600..]).seq(500_000));
    assert!(bench.events().is_empty());
}

#[test]
fn data_in_a_syn_is_captured() {
    let mut bench = Bench::new();
    for row in [Row::new(&hello(600)).syn().seq(999), Row::new(&hello(600)).v6().syn().seq(999)] {
        assert_eq!(bench.row(&row), (PASS, vec!["protected"]));
        let [(header, payload)] = bench.events().try_into().unwrap();
        assert_eq!(payload, row.payload);
        assert!(header.syn_at != 0 && header.syn.tcp == header.segment.tcp, "it is its own SYN");
    }
    assert_eq!(bench.counters().of(Counter::FirstHello), 2);
    // The beginning of a hello in the SYN, the rest after it.
    let whole = hello(1800);
    bench.row(&Row::new(&whole[..600]).client_port(40_001).syn().seq(999));
    bench.row(&Row::new(&whole[600..]).client_port(40_001).seq(1600));
    assert_eq!(payloads(&mut bench).concat(), whole);
}

#[test]
fn data_without_ack_is_counted_and_not_captured() {
    let mut bench = Bench::new();
    let row = Row { acks: false, ..Row::new(&hello(600)) };
    assert_eq!(bench.row(&row), (PASS, vec!["protected"]));
    assert_eq!(bench.row(&Row { payload: Vec::new(), ..row }), (PASS, vec!["protected"]));
    assert_eq!(bench.counters().of(Counter::SegmentsNoAck), 1);
    assert!(bench.events().is_empty());
}

#[test]
fn what_acknowledges_the_syn_ack_is_proven() {
    let mut bench = Bench::new();
    let whole = hello(1800);
    for base in [Row::new(&[]), Row::new(&[]).v6()] {
        let row = |payload: &[u8]| Row { payload: payload.to_vec(), ..base.clone() };
        let syn_ack = Row { syn: true, ..row(&[]).back().seq(5000).ack(1000) };
        let before = bench.counters().of(Counter::SynAcks);
        assert_eq!(bench.kernel.test_run_egress(&syn_ack.frame()).unwrap(), NEXT);
        assert_eq!(bench.counters().of(Counter::SynAcks), before + 1);
        for (first, proof) in [
            (row(&hello(600)).ack(5001), PROOF_ACKNOWLEDGED),
            (row(&hello(600)).ack(5000), PROOF_NONE),
            (row(&hello(600)).ack(5002), PROOF_NONE),
            (row(&hello(600)).ack(5001).client_port(40_001), PROOF_NONE),
            (row(&hello(600)).ack(5001).seq(900_000), PROOF_NONE),
        ] {
            let confirmed = bench.counters().of(Counter::SubmittedConfirmed);
            bench.row(&first);
            let [(header, payload)] = bench.events().try_into().unwrap();
            assert_eq!((header.proof, header.kind, &payload), (proof, EVENT_SEGMENT, &first.payload), "{first:?}");
            let confirmed = bench.counters().of(Counter::SubmittedConfirmed) - confirmed;
            assert_eq!(confirmed, u64::from(proof != PROOF_NONE), "{first:?}");
            assert_eq!(header.syn_ack_at != 0, first.source.port() == 40_000, "the SYN-ACK goes along");
        }
        // The pieces of a hello are as proven as its first one.
        for (place, piece) in whole.chunks(900).enumerate() {
            bench.row(&row(piece).ack(5001).seq(1000 + place as u32 * 900));
            assert_eq!(bench.events()[0].0.proof, PROOF_ACKNOWLEDGED);
        }
    }
}

/// The daemon reads what is proven first, and so the end of this hello before its beginning.
#[test]
fn a_hello_that_is_proven_on_its_way_is_read_whole() {
    let whole = samples().iter().map(|sample| &sample.stream).find(|stream| stream.len() > 1500).expect("a long hello");
    let (first, second) = whole.split_at(900);
    for base in [Row::new(&[]), Row::new(&[]).v6()] {
        let mut bench = Bench::new();
        let row = |payload: &[u8]| Row { payload: payload.to_vec(), ..base.clone() };
        bench.row(&row(&[]).syn().seq(999));
        bench.row(&row(first).ack(5001));
        let syn_ack = Row { syn: true, ..row(&[]).back().seq(5000).ack(1000) };
        assert_eq!(bench.kernel.test_run_egress(&syn_ack.frame()).unwrap(), NEXT);
        bench.row(&row(second).ack(5001).seq(1900));
        let events = bench.events();
        let proofs: Vec<u8> = events.iter().map(|(header, _)| header.proof).collect();
        assert_eq!(proofs, [PROOF_ACKNOWLEDGED, PROOF_NONE]);
        let (mut pipeline, mut hellos) = (Pipeline::new(Limits::default()), 0);
        for (header, payload) in events {
            let bytes = [header.as_bytes(), &payload].concat();
            assert!(event::packets(&bytes, &mut |packet| pipeline.take(packet, &mut |outcome| {
                hellos += usize::from(matches!(outcome, Outcome::Hello(_)));
            })));
        }
        assert_eq!(hellos, 1);
    }
}

#[test]
fn a_server_hello_is_captured_on_its_way_out() {
    let mut bench = Bench::new();
    let mut server_hello = hello(120);
    server_hello[5] = 2;
    for (payload, captured) in [(server_hello, true), (hello(600), false), (b"HTTP/1.1 200 OK".to_vec(), false)] {
        for row in [Row::new(&payload).back(), Row::new(&payload).v6().back()] {
            assert_eq!(bench.kernel.test_run_egress(&row.frame()).unwrap(), NEXT);
            let events = bench.events();
            assert_eq!(events.len(), usize::from(captured));
            for (header, bytes) in events {
                assert_eq!((header.kind, &bytes), (EVENT_ANSWER_SEGMENT, &payload));
                assert_eq!((header.flow.source_port, header.flow.destination_port), (443, 40_000));
            }
            let mut elsewhere = row;
            elsewhere.source.set_port(80);
            assert_eq!(bench.kernel.test_run_egress(&elsewhere.frame()).unwrap(), NEXT);
            assert!(bench.events().is_empty(), "not from a protected port");
        }
    }
    bench.set(|settings| settings.answers = 0);
    let mut off = hello(120);
    off[5] = 2;
    assert_eq!(bench.kernel.test_run_egress(&Row::new(&off).back().frame()).unwrap(), NEXT);
    assert!(bench.events().is_empty());
    bench.assert_sums();
}

/// A long header (RFC 9000 section 17.2) and what follows it.
pub(crate) fn quic(first: u8, version: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(version.to_be_bytes());
    bytes.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
    bytes.resize(len, 0x5a);
    bytes
}

/// A DTLS record (RFC 9147 section 4) of one handshake message.
pub(crate) fn dtls(version: u8, epoch: u8, message: u8) -> Vec<u8> {
    let mut bytes = vec![22, 0xfe, version, 0, epoch, 0, 0, 0, 0, 0, 0, 1, 44, message];
    bytes.resize(13 + 300, 7);
    bytes
}

#[test]
fn datagrams_are_captured_by_their_first_bytes() {
    const V1: u32 = 1;
    const V2: u32 = 0x6b33_43cf;
    const DRAFT_29: u32 = 0xff00_001d;
    let mut bench = Bench::new();
    for (what, payload, captured) in [
        ("an Initial", quic(0xc0, V1, 1200), 1200),
        ("a jumbo Initial", quic(0xcf, V1, 2800), 2800),
        ("an Initial of draft 29", quic(0xc3, DRAFT_29, 1200), 1200),
        ("an Initial of version 2", quic(0xd0, V2, 1200), 1200),
        ("0-RTT", quic(0xd0, V1, 1200), HEADERS),
        ("a Handshake", quic(0xe0, V1, 1200), HEADERS),
        ("a Handshake of version 2", quic(0xf0, V2, 1200), HEADERS),
        ("a short Handshake", quic(0xe0, V1, 100), 100),
        ("another version", quic(0xc0, 0x1a2a_3a4a, 1200), 0),
        ("version negotiation", quic(0xc0, 0, 1200), 0),
        ("a short header", vec![0x41; 1200], 0),
        ("a datagram of one byte", vec![0xc0], 0),
        ("an empty datagram", Vec::new(), 0),
        ("DNS", vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 0x77, 0x77], 0),
        ("a DTLS 1.2 ClientHello", dtls(0xfd, 0, 1), 313),
        ("a DTLS 1.0 ClientHello", dtls(0xff, 0, 1), 313),
        ("another DTLS message", dtls(0xfd, 0, 16), 0),
        ("a DTLS record of epoch 1", dtls(0xfd, 1, 1), 0),
    ] {
        let row = Row::new(&payload);
        assert_eq!(bench.run(&udp(&row)), (PASS, vec!["protected"]), "{what}");
        let events = bench.events();
        assert_eq!(events.len(), usize::from(captured > 0), "{what}");
        for (header, bytes) in events {
            assert_eq!(bytes, payload[..captured], "{what}");
            assert_eq!((header.kind, header.proof), (EVENT_DATAGRAM, PROOF_NONE), "{what}");
            assert_eq!((header.payload_len as usize, header.captured_len as usize), (payload.len(), captured));
        }
        assert_eq!(bench.run(&udp(&row.service(53))), (PASS, vec!["other_port"]), "{what}");
    }
    for (what, payload, captured) in [
        ("the server's Initial", quic(0xc0, V1, 1200), HEADERS),
        ("a short header", vec![0x41; 1200], 0),
        ("a HelloVerifyRequest", dtls(0xff, 0, 3), 313),
        ("a ServerHello", dtls(0xfd, 0, 2), 313),
        ("a ClientHello", dtls(0xfd, 0, 1), 0),
    ] {
        assert_eq!(bench.kernel.test_run_egress(&udp(&Row::new(&payload).back())).unwrap(), NEXT, "{what}");
        let events = bench.events();
        assert_eq!(events.len(), usize::from(captured > 0), "{what}");
        for (header, bytes) in events {
            assert_eq!((header.kind, &bytes[..]), (EVENT_ANSWER_DATAGRAM, &payload[..captured]), "{what}");
        }
    }
    bench.set(|settings| settings.udp = 0);
    assert_eq!(bench.run(&udp(&Row::new(&quic(0xc0, V1, 1200)))), (PASS, vec!["protected"]));
    assert_eq!(bench.kernel.test_run_egress(&udp(&Row::new(&quic(0xc0, V1, 1200)).back())).unwrap(), NEXT);
    assert!(bench.events().is_empty());
}

/// threats.md T9: 1,000,000 SYNs, fifteen times what the table of SYNs holds, cost no hello that is under way.
/// The server's own FIN or RST, once, of a connection whose client is proven and gave a hello. The client's, and any of
/// another connection, say nothing: anybody can send those.
#[test]
fn the_server_tells_that_a_connection_ended() {
    let mut bench = Bench::new();
    let ends = |bench: &mut Bench, row: &Row| {
        assert_eq!(bench.kernel.test_run_egress(&row.frame()).unwrap(), NEXT);
        let events = bench.events();
        assert!(events.iter().all(|(header, payload)| header.kind == EVENT_END && payload.is_empty()));
        events.len()
    };
    for (base, last) in [
        (Row::new(&[]), Row::new(&[]).back().fin()),
        (Row::new(&[]).v6(), Row::new(b"an alert, and the end").v6().back().fin()),
        (Row::new(&[]), Row::new(&[]).back().rst()),
    ] {
        assert_eq!(ends(&mut bench, &last), 0, "no hello yet");
        let row = |payload: &[u8]| Row { payload: payload.to_vec(), ..base.clone() };
        // Of two segments, as browsers send it.
        bench.row(&row(&[]).syn().seq(999));
        bench.kernel.test_run_egress(&Row { syn: true, ..row(&[]).back().seq(5000).ack(1000) }.frame()).unwrap();
        bench.row(&row(&hello(1800)[..1400]).ack(5001));
        bench.row(&row(&hello(1800)[1400..]).seq(2400).ack(5001));
        assert!(bench.events().iter().all(|(header, _)| header.proof == PROOF_ACKNOWLEDGED));
        bench.row(&row(&[]).fin().seq(2800));
        bench.row(&row(&[]).rst().seq(2800));
        assert!(bench.events().is_empty(), "the client's word");
        let other = Row { destination: (last.destination.ip(), 40_001).into(), ..last.clone() };
        assert_eq!(ends(&mut bench, &other), 0, "another connection");
        assert_eq!(ends(&mut bench, &last), 1);
        assert_eq!(ends(&mut bench, &last), 0, "its retransmission");
    }
    bench.row(&Row::new(&hello(600)));
    bench.events();
    assert_eq!(ends(&mut bench, &Row::new(&[]).back().fin()), 0, "its client isn't proven");
}

#[test]
fn a_flood_of_syns_costs_no_hello_under_way() {
    const HELLOS: u16 = 1000;
    const SYNS: u32 = 1_000_000;
    let mut bench = Bench::new();
    bench.set(|settings| settings.follow_ns = 60_000_000_000);
    let whole = hello(1800);
    for port in 0..HELLOS {
        bench.act(&Row::new(&whole[..1400]).client_port(10_000 + port).frame());
        bench.events();
    }
    let mut syn = Row::new(&[]).syn().frame();
    let started = Instant::now();
    for number in 0..SYNS {
        // The source address' last three bytes, and its port.
        syn[27..30].copy_from_slice(&number.to_be_bytes()[1..]);
        syn[34..36].copy_from_slice(&(number as u16 | 1).to_be_bytes());
        assert_eq!(bench.act(&syn), PASS);
    }
    let took = started.elapsed();
    let mut kept = 0;
    for port in 0..HELLOS {
        bench.act(&Row::new(&whole[1400..]).client_port(10_000 + port).seq(2400).frame());
        kept += usize::from(payloads(&mut bench) == [&whole[1400..]]);
    }
    assert_eq!(bench.counters().of(Counter::Syns), u64::from(SYNS));
    bench.assert_sums();
    assert!(kept * 100 >= usize::from(HELLOS) * 99, "{kept} of {HELLOS}");
    println!("{SYNS} SYNs in {took:?}: {kept} of {HELLOS} hellos under way captured to their end");
}
