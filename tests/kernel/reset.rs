//! What becomes of a dropped segment of a connection to this host: a RST for its stack, right to the byte, whatever the
//! segment was wrapped in. What can't be one is dropped.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use detector::kernel::Slot;
use detector_common::counter::Counter;
use detector_tests::deadline::{PATIENCE, until};
use etherparse::{Ipv4Header, TcpHeader};

use crate::bench::{Bench, CLIENT, CLIENT_V6, DROP, PASS, Row};
use crate::fixture::{SEEDS, samples};
use crate::framing::{ATOMIC, FIRST, Framing, part, tagged};
use crate::sockets::in_a_namespace;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

const TCP: u8 = 6;
const UDP: u8 = 17;

const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;

/// A program that resets, and blocks both clients.
fn blocking() -> Bench {
    let mut bench = resetting();
    bench.block(Slot::Address(CLIENT), None);
    bench.block(Slot::Address(CLIENT_V6), None);
    bench
}

fn resetting() -> Bench {
    let mut bench = Bench::new();
    bench.set(|settings| settings.resets = u32::MAX);
    bench
}

/// One row of each family.
fn rows(payload: &[u8]) -> [Row; 2] {
    [Row::new(payload), Row::new(payload).v6()]
}

/// A TCP header with `flags` and so many words of options, and the row's payload after it.
fn segment(row: &Row, flags: u8, options: usize) -> Vec<u8> {
    let mut bytes = [row.source.port().to_be_bytes(), row.destination.port().to_be_bytes()].concat();
    bytes.extend(row.seq.to_be_bytes());
    bytes.extend(row.ack.to_be_bytes());
    bytes.extend([(5 + options as u8) << 4, flags, 0xfa, 0xf0, 0xbe, 0xef, 0, 7]);
    bytes.resize(20 + options * 4, 1);
    bytes.extend(&row.payload);
    bytes
}

/// The frame around `upper`, with a right IPv4 header checksum, and where its IP and transport headers begin.
fn wrap(framing: &Framing, row: &Row, protocol: u8, upper: &[u8]) -> (Vec<u8>, usize, usize) {
    let (mut frame, transport) = framing.wrap(row, protocol, upper);
    let ip = 14 + framing.tags.len() * 4;
    if row.source.is_ipv4() {
        let header = ipv4(&frame[ip..]);
        frame[ip + 10..ip + 12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    }
    (frame, ip, transport)
}

fn ipv4(bytes: &[u8]) -> Ipv4Header {
    Ipv4Header::from_slice(bytes).expect("an IPv4 header").0
}

/// The RST that `frame` has to become: its own bytes up to the TCP header but for lengths and checksum, and a bare
/// header.
fn reset(frame: &[u8], ip: usize, transport: usize, row: &Row) -> Vec<u8> {
    let mut expected = frame[..transport].to_vec();
    let mut header = TcpHeader::new(row.source.port(), row.destination.port(), row.seq, 0);
    header.rst = true;
    header.checksum = match (row.source.ip(), row.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = (transport + 20 - ip) as u16;
            expected[ip + 2..ip + 4].copy_from_slice(&length.to_be_bytes());
            let checksum = ipv4(&expected[ip..]).calc_header_checksum();
            expected[ip + 10..ip + 12].copy_from_slice(&checksum.to_be_bytes());
            header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), &[])
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = (transport + 20 - ip - 40) as u16;
            expected[ip + 4..ip + 6].copy_from_slice(&length.to_be_bytes());
            header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), &[])
        }
        mixed => panic!("a row of two families: {mixed:?}"),
    }
    .expect("a short payload");
    expected.extend(header.to_bytes());
    expected
}

/// The segment passes as a RST, and is counted as dropped for `reason` and as made.
fn assert_reset(bench: &mut Bench, framing: &Framing, row: &Row, upper: &[u8], reason: Counter) {
    let (frame, ip, transport) = wrap(framing, row, TCP, upper);
    let before = bench.counters();
    let (action, left) = bench.kernel.test_run_output(&frame).expect("the kernel takes the frame");
    assert_eq!(action, PASS, "{framing:?} {row:?}");
    assert_eq!(left, reset(&frame, ip, transport, row), "{framing:?} {row:?}");
    let after = bench.counters();
    for counter in [reason, Counter::ResetsMade] {
        assert_eq!(after.of(counter), before.of(counter) + 1, "{counter:?}");
    }
    bench.assert_sums();
}

/// The segment is dropped, and no RST comes of it.
fn assert_dropped(bench: &mut Bench, frame: &[u8], what: &str) {
    let before = bench.counters().of(Counter::ResetsMade);
    assert_eq!(bench.run(frame).0, DROP, "{what}");
    assert_eq!(bench.counters().of(Counter::ResetsMade), before, "{what}");
}

#[test]
fn a_blocked_segment_becomes_a_reset_in_every_framing() {
    let mut bench = blocking();
    // Odd numbers, and ones that carry into the checksums.
    let numbers = [0, 1000, 0x7fff_ffff, u32::MAX];
    let extensions = |list: &[(u8, usize)]| Framing { extensions: list.to_vec(), ..Framing::default() };
    for (place, payload) in [0, 1, 517, 1400].into_iter().enumerate() {
        for row in rows(&vec![place as u8; payload]) {
            let row = row.seq(numbers[place]).ack(77);
            let framings = if row.source.is_ipv4() {
                (0..=10).map(|options| Framing { options, ..Framing::default() }).collect()
            } else {
                vec![
                    Framing::default(),
                    extensions(&[(HOP_BY_HOP, 1)]),
                    extensions(&[(DESTINATION, 200)]),
                    extensions(&[(HOP_BY_HOP, 2), (DESTINATION, 3)]),
                    extensions(&[(DESTINATION, 1); 8]),
                    part(ATOMIC),
                ]
            };
            for framing in framings {
                for tags in [vec![], vec![0x8100], vec![0x88a8, 0x8100]] {
                    let framing = Framing { tags, ..framing.clone() };
                    for options in 0..=10 {
                        let upper = segment(&row, ACK, options);
                        assert_reset(&mut bench, &framing, &row, &upper, Counter::DropAddress);
                    }
                }
            }
        }
    }
}

/// Super-frames and jumbo frames lie in several buffers.
#[test]
fn a_frame_of_several_buffers_is_cut_to_one() {
    let mut bench = blocking();
    for len in [3400, 3500, 4000, 8000, 30_000, 60_000] {
        for row in rows(&vec![7; len]) {
            assert_reset(&mut bench, &Framing::default(), &row, &segment(&row, ACK, 3), Counter::DropAddress);
        }
    }
}

#[test]
fn what_may_free_a_socket_becomes_a_reset_and_nothing_else() {
    let mut bench = blocking();
    let plain = Framing::default();
    for row in rows(b"x") {
        for flags in 0..64 {
            let upper = segment(&row, flags, 0);
            if flags & SYN == 0 && flags & (ACK | RST) != 0 {
                assert_reset(&mut bench, &plain, &row, &upper, Counter::DropAddress);
            } else {
                assert_dropped(&mut bench, &wrap(&plain, &row, TCP, &upper).0, &format!("flags {flags:#x}"));
            }
        }
        let upper = segment(&row, ACK, 0);
        assert_dropped(&mut bench, &wrap(&part(FIRST), &row, TCP, &[&upper[..], &[0; 43]].concat()).0, "a fragment");
        assert_dropped(&mut bench, &wrap(&plain, &row, UDP, &[&upper[..4], &[0, 9, 0, 0, 7]].concat()).0, "UDP");
        bench.set(|settings| settings.local_only = 0);
        assert_dropped(&mut bench, &wrap(&plain, &row, TCP, &upper).0, "for whichever host");
        bench.set(|settings| (settings.local_only, settings.resets) = (1, 0));
        assert_dropped(&mut bench, &wrap(&plain, &row, TCP, &upper).0, "turned off");
        bench.set(|settings| settings.resets = u32::MAX);
    }
}

#[test]
fn nothing_that_passes_is_changed() {
    let mut bench = blocking();
    for row in rows(b"GET /") {
        let mut neighbour = row.clone();
        neighbour.source.set_ip(if row.source.is_ipv4() { "192.0.2.8" } else { "2001:db8::8" }.parse().unwrap());
        let mut elsewhere = row.clone();
        elsewhere.destination.set_ip(if row.source.is_ipv4() { "192.0.2.99" } else { "2001:db8::99" }.parse().unwrap());
        for row in [neighbour, elsewhere, row.service(22)] {
            let frame = tagged(&[0x8100]).tcp(&row);
            assert_eq!(bench.kernel.test_run_output(&frame).unwrap(), (PASS, frame), "{row:?}");
        }
    }
    assert_eq!(bench.counters().of(Counter::ResetsMade), 0);
}

/// Every verdict that drops a segment resets its connection; a reset of the client's own passes as it is.
#[test]
fn every_verdict_resets() {
    for row in rows(b"x") {
        let (source, destination) = (row.source, row.destination);
        for (slot, reason) in [
            (Slot::Prefix(format!("{}/31", source.ip()).parse().unwrap()), Counter::DropPrefix),
            (Slot::Connection { source, destination, initial_seq: 999 }, Counter::DropConnection),
        ] {
            let mut bench = resetting();
            bench.block(slot, None);
            assert_reset(&mut bench, &Framing::default(), &row, &segment(&row, ACK, 3), reason);
            if reason == Counter::DropConnection {
                let frame = wrap(&Framing::default(), &row, TCP, &segment(&row, RST | ACK, 3)).0;
                assert_eq!(bench.kernel.test_run_output(&frame).unwrap(), (PASS, frame));
            }
        }
    }
}

/// The server has what came before the hello's last segment, so that it expects just that one's number.
#[test]
fn the_segment_that_completes_a_blocked_hello_becomes_a_reset() {
    let sample = samples().iter().find(|sample| sample.stream.len() > 1500).expect("a hello of a browser");
    let (stream, key) = (&sample.stream, sample.hello.fingerprint.keys.key);
    let mut bench = resetting();
    bench.set(|settings| (settings.keys, settings.seeds) = (1, SEEDS));
    bench.block(Slot::Fingerprint(key), None);
    let mut port = 1000;
    for framing in [Framing::default(), tagged(&[0x8100])] {
        for row in rows(&[]) {
            for cut in [0, 1, 5, 100, 1448, stream.len() - 1] {
                port += 1;
                let row = row.clone().client_port(port);
                let part = |from: usize, to: usize| {
                    Row { payload: stream[from..to].to_vec(), ..row.clone() }.seq(1000 + from as u32)
                };
                if cut > 0 {
                    let first = wrap(&framing, &row, TCP, &segment(&part(0, cut), ACK, 3)).0;
                    assert_eq!(bench.kernel.test_run_output(&first).unwrap(), (PASS, first), "cut at {cut}");
                }
                let last = part(cut, stream.len());
                for _ in 0..2 {
                    assert_reset(&mut bench, &framing, &last, &segment(&last, ACK, 3), Counter::DropFingerprint);
                }
            }
        }
    }
    // In a gap, and with bytes that the server has already: the RST has the number that the server waits for.
    for (port, from) in [(997, 100), (998, 40)] {
        for row in rows(&[]) {
            let row = row.client_port(port);
            let part = |from: usize, to: usize| {
                Row { payload: stream[from..to].to_vec(), ..row.clone() }.seq(1000 + from as u32)
            };
            for passes in [part(0, 100), part(200, stream.len())] {
                assert_eq!(bench.act(&passes.frame()), PASS);
            }
            let next = row.clone().seq(1100);
            let upper = segment(&part(from, 200), ACK, 3);
            assert_reset(&mut bench, &Framing::default(), &next, &upper, Counter::DropFingerprint);
        }
    }
    let whole = Row::new(stream).client_port(999).seq(999);
    let syn = wrap(&Framing::default(), &whole, TCP, &segment(&whole, SYN, 3)).0;
    assert_dropped(&mut bench, &syn, "a whole hello in a SYN: there is no socket yet");
}

/// A flood of blocked segments costs the host so many RSTs in a tick, and no more.
#[test]
fn so_many_are_made_in_a_tick() {
    const SENT: u64 = 2000;
    let mut bench = blocking();
    bench.set(|settings| settings.resets = 3);
    let frame = wrap(&Framing::default(), &Row::new(b"x"), TCP, &segment(&Row::new(b"x"), ACK, 0)).0;
    let passed = (0..SENT).filter(|_| bench.act(&frame) == PASS).count() as u64;
    let counters = bench.counters();
    let (made, limited) = (counters.of(Counter::ResetsMade), counters.of(Counter::ResetsLimited));
    assert_eq!((made, made + limited, counters.of(Counter::DropAddress)), (passed, SENT, SENT));
    assert!((3..SENT / 2).contains(&made), "{made} made");
    until("the next tick", PATIENCE, || Ok((bench.act(&frame) == PASS).then_some(()))).unwrap();
    bench.assert_sums();
}

/// A raw socket can't end its own condemnation: Linux ignores a SYN on a connection that stands, and so does the verdict.
/// When the connection is over, the next one on its ports is free.
#[test]
fn a_forged_syn_ends_no_condemnation() {
    in_a_namespace(|| {
        let mut bench = resetting();
        bench.maps.protect_ports(&[4430]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:4430").unwrap();
        let server: SocketAddr = listener.local_addr().unwrap();
        bench.maps.protect_addresses(vec![server.ip()]).unwrap();
        let mut client = TcpStream::connect(server).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let row = Row { source: client.local_addr().unwrap(), destination: server, ..Row::new(b"x") };
        bench.block(Slot::Connection { source: row.source, destination: server, initial_seq: 999 }, None);

        let syn = Row { payload: Vec::new(), ..row.clone() }.syn().seq(777);
        assert_eq!(bench.row(&syn), (PASS, vec!["protected"]), "Linux answers it with a challenge ACK");
        assert_eq!(bench.counters().of(Counter::SynsTaken), 1);
        assert_reset(&mut bench, &Framing::default(), &row, &segment(&row, ACK, 0), Counter::DropConnection);

        // Closed with bytes unread, the connection is reset: no socket is left on either side.
        client.write_all(b"x").unwrap();
        accepted.peek(&mut [0]).unwrap();
        drop((accepted, client));
        until("the connection to be over", PATIENCE, || {
            assert_eq!(bench.row(&syn), (PASS, vec!["protected"]));
            Ok((bench.counters().of(Counter::ConnectionsReplaced) == 1).then_some(()))
        })
        .unwrap();
        assert_eq!(bench.row(&row), (PASS, vec!["protected"]));
    });
}
