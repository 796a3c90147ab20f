//! QUIC: the captures of real clients, and hellos encrypted here in every shape that RFC 9000 allows.

use std::collections::BTreeMap;
use std::time::Duration;

use detector::capture::Proof;
use detector::fingerprint::Transport;
use detector::fuzzing;
use detector::pipeline::{Cause, Hello, Ignored, Void};
use proptest::prelude::*;
use rustls::Side;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{Keys, Version};

use crate::fixture::{self, Dice, Sample, expected_over, few, samples};
use crate::udp::{Sent, deliver, down, up};

/// The hello that `expected.json` knows of but has no values for: no other implementation reads it, since the capture
/// holds two datagrams of it in one (UDP segmentation offload). Its client is the same as that of its neighbours.
const UNCONFIRMED: (&str, u16) = ("firefox-esr-gro.pcap", 44585);

#[test]
fn every_quic_hello_of_the_captures_is_right() {
    let mut right = 0;
    for (pcap, expected) in expected_over("quic") {
        let said = fixture::run_capture(&fixture::bytes(&format!("captures/pcaps/{pcap}")));
        assert_eq!(said.lost, [], "{pcap}");
        let over_quic = said.hellos.iter().filter(|hello| hello.transport == Transport::Quic);
        let mut hellos: BTreeMap<_, _> =
            over_quic.map(|hello| ((hello.flow.source, hello.flow.destination, hello.index), hello)).collect();
        for expected in &expected {
            let place = ((expected.src, expected.sport).into(), (expected.dst, expected.dport).into(), expected.hello);
            let hello = hellos.remove(&place).unwrap_or_else(|| panic!("not found: {expected:?}"));
            let fingerprint = &hello.fingerprint;
            let said = [&fingerprint.ja3_raw, &fingerprint.ja3, &fingerprint.ja4.to_string(), &fingerprint.ja4_r];
            assert_eq!(said, [&expected.ja3, &expected.ja3_hash, &expected.ja4, &expected.ja4_r], "{expected:?}");
            right += 1;
        }
        hellos.retain(|(client, ..), hello| {
            let is_it = (pcap.as_str(), client.port()) == UNCONFIRMED;
            if is_it {
                assert!(expected.iter().any(|neighbour| neighbour.ja4 == hello.fingerprint.ja4.as_str()));
                right += 1;
            }
            !is_it
        });
        assert!(hellos.is_empty(), "{pcap}: hellos nobody expects: {hellos:?}");
    }
    assert_eq!(right, 60);
}

/// What a message of a TCP sample must give over QUIC: the same, but for the letter of the transport.
fn check(hello: &Hello, sample: &Sample, what: &str) {
    let (is, tcp) = (&hello.fingerprint, &sample.hello.fingerprint);
    let same = |is: &str, tcp: &str| is.starts_with('q') && is[1..] == tcp[1..];
    assert!(same(is.ja4.as_str(), tcp.ja4.as_str()), "{} {what}: {}", sample.name, is.ja4);
    assert!(same(&is.ja4_r, &tcp.ja4_r) && same(&is.ja4_ro, &tcp.ja4_ro), "{} {what}", sample.name);
    assert_eq!((&is.ja3_raw, &is.server_name, &is.alpn), (&tcp.ja3_raw, &tcp.server_name, &tcp.alpn), "{what}");
    assert_eq!((hello.transport, hello.bytes), (Transport::Quic, sample.hello.bytes), "{what}");
}

fn message(sample: &Sample) -> &[u8] {
    &sample.stream[5..]
}

const PING: u8 = 1;

fn varint(value: usize) -> Vec<u8> {
    match value {
        0..=63 => vec![value as u8],
        64..=16_383 => (value as u16 | 0x4000).to_be_bytes().to_vec(),
        _ => (value as u64 | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

fn crypto(offset: usize, bytes: &[u8]) -> Vec<u8> {
    [vec![6], varint(offset), varint(bytes.len()), bytes.to_vec()].concat()
}

/// The sending side of a client.
#[derive(Clone, Debug)]
struct Client {
    version: Version,
    /// What the keys are made of.
    first_id: Vec<u8>,
    /// Whom its packets are for, now.
    destination: Vec<u8>,
    source: Vec<u8>,
    token: Vec<u8>,
    number: u32,
    number_len: usize,
}

impl Client {
    fn new(version: Version, id: &[u8]) -> Self {
        let (first_id, destination) = (id.to_vec(), id.to_vec());
        Self { version, first_id, destination, source: vec![7; 3], token: vec![], number: 0, number_len: 1 }
    }

    /// As after a Retry packet from the server called `id`.
    fn retried(&self, id: &[u8]) -> Self {
        let (first_id, destination) = (id.to_vec(), id.to_vec());
        Self { first_id, destination, token: b"a token".to_vec(), ..self.clone() }
    }

    /// Packet types 0 to 3 of version 1.
    fn long_header(&self, kind: u8, low_bits: u8) -> Vec<u8> {
        let (number, turn) = match self.version {
            Version::V2 => (0x6b33_43cf_u32, 1),
            Version::V1 => (1, 0),
            _ => (0xff00_001d, 0),
        };
        let id = |id: &[u8]| [&[id.len() as u8], id].concat();
        let first = 0xc0 | ((kind + turn) & 3) << 4 | low_bits;
        [vec![first], number.to_be_bytes().to_vec(), id(&self.destination), id(&self.source)].concat()
    }

    /// A packet that only its length is known of.
    fn opaque(&self, kind: u8, length: usize) -> Vec<u8> {
        [self.long_header(kind, 3), varint(length), vec![0xaa; length]].concat()
    }

    /// An Initial packet of `frames`, padded so that it has at least `least` bytes.
    fn initial(&mut self, frames: &[u8], least: usize) -> Vec<u8> {
        let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("a TLS 1.3 suite");
        let quic = suite.quic.expect("a QUIC suite");
        let keys = Keys::initial(self.version, suite, quic, &self.first_id, Side::Client).local;
        let start =
            [self.long_header(0, self.number_len as u8 - 1), varint(self.token.len()), self.token.clone()].concat();
        let overhead = start.len() + 2 + self.number_len + 16;
        let mut payload = frames.to_vec();
        payload.resize(payload.len().max(least.saturating_sub(overhead)).max(4), 0);
        let length = (self.number_len + payload.len() + 16) as u16 | 0x4000;
        let number = &self.number.to_be_bytes()[4 - self.number_len..];
        let mut packet = [&start[..], &length.to_be_bytes(), number].concat();
        let (header_len, number_at) = (packet.len(), packet.len() - self.number_len);
        let tag = keys.packet.encrypt_in_place(self.number.into(), &packet, &mut payload).expect("encrypts");
        packet.extend_from_slice(&payload);
        packet.extend_from_slice(tag.as_ref());
        let sample = packet[number_at + 4..number_at + 20].to_vec();
        let (first, rest) = packet.split_at_mut(1);
        keys.header
            .encrypt_in_place(&sample, &mut first[0], &mut rest[number_at - 1..header_len - 1])
            .expect("protects");
        self.number += 1;
        packet
    }

    /// The whole of `message` in one datagram.
    fn hello(&mut self, message: &[u8]) -> Vec<u8> {
        self.initial(&crypto(0, message), 1200)
    }

    /// What a server called `id` sends back to it.
    fn answer(&self, kind: u8, id: &[u8]) -> Vec<u8> {
        let server = Self { destination: self.source.clone(), source: id.to_vec(), ..self.clone() };
        [server.opaque(kind, 60), vec![0x55; 1100]].concat()
    }
}

const ID: &[u8] = b"original";
const SERVER: &[u8] = b"server's";

/// `message` cut into up to 28 pieces, in random order, with other frames between them.
fn chaos_frames(message: &[u8], dice: &mut Dice) -> Vec<Vec<u8>> {
    let mut cuts: Vec<usize> = (0..dice.below(28)).map(|_| 1 + dice.below(message.len() - 1)).collect();
    cuts.extend([0, message.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    let mut frames: Vec<_> = cuts.windows(2).map(|cut| crypto(cut[0], &message[cut[0]..cut[1]])).collect();
    match dice.below(4) {
        0 => {}
        1 => frames.reverse(),
        _ => dice.shuffle(&mut frames),
    }
    for frame in &mut frames {
        match dice.below(6) {
            0 => frame.insert(0, PING),
            1 => frame.extend(vec![0; dice.below(40)]),
            2 => frame.extend([2, 5, 0, 1, 0, 1, 1]),
            3 => frame.extend([3, 0x40, 70, 1, 0, 2, 1, 1, 9]),
            _ => {}
        }
    }
    frames
}

/// `frames` over one to three Initial packets, each a datagram or two in one, among packets of other types.
fn chaos_flight(client: &mut Client, frames: &[Vec<u8>], dice: &mut Dice) -> Vec<Vec<u8>> {
    let parts = 1 + dice.below(3);
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    for part in frames.chunks(frames.len().div_ceil(parts)) {
        client.number_len = 1 + dice.below(4);
        let before = if dice.below(5) == 0 { client.opaque(1, 30) } else { vec![] };
        let packet = client.initial(&part.concat(), 1200);
        match datagrams.last_mut() {
            Some(last) if dice.below(4) == 0 => last.extend([before, packet].concat()),
            _ => datagrams.push([before, packet].concat()),
        }
    }
    datagrams
}

fn chaos(dice: &mut Dice) -> (&'static Sample, Vec<Sent>, bool) {
    let sample = &samples()[dice.below(samples().len())];
    let frames = chaos_frames(message(sample), dice);
    let version = [Version::V1, Version::V2, Version::V1Draft][dice.below(3)];
    let mut client = Client::new(version, &ID.repeat(3)[..8 + dice.below(13)]);
    client.source.truncate(dice.below(4));
    client.number = dice.below(100) as u32;
    let mut sent = Vec::new();
    let mut retried = false;
    let mut flight = chaos_flight(&mut client, &frames, dice);
    if dice.below(5) == 0 {
        let seen = dice.below(flight.len() + 1);
        sent.extend(flight.drain(..seen).map(up));
        retried = seen > 0;
        if retried {
            sent.push(down(client.answer(3, SERVER)));
        }
        client = client.retried(SERVER);
        flight = chaos_flight(&mut client, &frames, dice);
    }
    let mut flight = flight.into_iter();
    sent.extend(flight.next().map(up));
    if dice.below(3) == 0 {
        // The server answers after the first datagram: the rest comes again, to its ID and with the first one's keys.
        let server = if retried { &b"another"[..] } else { SERVER };
        sent.push(down(client.answer(0, server)));
        client.destination = server.to_vec();
        sent.extend(chaos_flight(&mut client, &frames, dice).into_iter().map(up));
    } else {
        sent.extend(flight.map(up));
        if dice.below(3) == 0 {
            sent.push(sent[dice.below(sent.len())].clone());
        }
        if !retried {
            dice.shuffle(&mut sent);
        }
    }
    (sample, sent, retried)
}

/// threats.md T21.
#[test]
fn ten_thousand_chaos_hellos_are_all_right() {
    let mut dice = Dice(21);
    for turn in 0..10_000 {
        let (sample, sent, retried) = chaos(&mut dice);
        let heard = deliver(&sent);
        let [hello] = &heard.said.hellos[..] else { panic!("turn {turn}: {heard:?}") };
        check(hello, sample, &format!("turn {turn}"));
        // Of a flight that a Retry packet interrupted, the capture may hold a part only.
        let lost = heard.said.causes();
        assert!(lost.is_empty() || retried && lost == [Cause::Truncated], "turn {turn}: {lost:?}");
        assert_eq!(heard.void, [], "turn {turn}");
    }
}

#[test]
fn no_part_of_the_crypto_stream_has_a_fingerprint() {
    let mut dice = Dice(22);
    for _ in 0..2_000 {
        let sample = &samples()[dice.below(samples().len())];
        let mut frames = chaos_frames(message(sample), &mut dice);
        frames.remove(dice.below(frames.len()));
        let mut client = Client::new(Version::V1, ID);
        let flight = if frames.is_empty() { vec![] } else { chaos_flight(&mut client, &frames, &mut dice) };
        let heard = deliver(&flight.into_iter().map(up).collect::<Vec<_>>());
        assert_eq!(heard.said.hellos, []);
    }
    for sample in few() {
        for length in (0..message(sample).len()).step_by(5) {
            let heard = deliver([&up(Client::new(Version::V2, ID).hello(&message(sample)[..length]))]);
            assert_eq!(heard.said.hellos, [], "{} cut at {length}", sample.name);
        }
    }
}

/// Nobody without the keys can change a hello; and whatever comes, each datagram has its fate (`deliver` compares).
#[test]
fn damaged_datagrams_never_give_another_hello() {
    let mut dice = Dice(23);
    let mut hellos = 0;
    for turn in 0..5_000 {
        let (sample, mut sent, _) = chaos(&mut dice);
        for _ in 0..1 + dice.below(4) {
            let at = dice.below(sent.len());
            let datagram = &mut sent[at];
            let length = datagram.bytes.len();
            match dice.below(7) {
                0 => datagram.bytes.truncate(dice.below(length)),
                1 => datagram.cut = dice.below(length + 1),
                2 => datagram.flow = datagram.flow.reversed(),
                3 => drop(sent.remove(at)),
                // In the header, where the lengths are.
                4 if length > 0 => datagram.bytes[dice.below(length.min(50))] = dice.next() as u8,
                5 if length > 0 => datagram.bytes[dice.below(length)] ^= 1 << dice.below(8),
                _ => {
                    let end = (at + 1 + dice.below(3)).min(sent.len());
                    dice.shuffle(&mut sent[at..end]);
                }
            }
            if sent.is_empty() {
                break;
            }
            let cut = |sent: &mut Sent| sent.cut = sent.cut.min(sent.bytes.len());
            sent.iter_mut().for_each(cut);
        }
        let heard = deliver(&sent);
        for hello in &heard.said.hellos {
            check(hello, sample, &format!("turn {turn}"));
            hellos += 1;
        }
    }
    assert!((1_000..5_000).contains(&hellos), "the damage is too light or too heavy: {hellos}");
}

proptest! {
    #[test]
    fn any_frames_in_any_datagrams_have_their_fates(
        flights in prop::collection::vec(
            (0_u8..3, any::<bool>(), prop::collection::vec(any::<u8>(), 0..40), 0_usize..1300),
            0..12,
        ),
    ) {
        let mut client = Client::new(Version::V1, ID);
        let sent: Vec<Sent> = flights
            .into_iter()
            .map(|(kind, from_client, bytes, least)| {
                let bytes = match kind {
                    0 => client.initial(&bytes, least),
                    1 => [client.long_header(0, 0), bytes].concat(),
                    _ => bytes,
                };
                if from_client { up(bytes) } else { down(bytes) }
            })
            .collect();
        deliver(&sent);
        for sent in &sent {
            fuzzing::quic_initial(&sent.bytes);
        }
    }
}

#[test]
fn packet_numbers_go_on_where_one_byte_is_not_enough() {
    let [sample, ..] = few()[..] else { unreachable!() };
    let mut client = Client::new(Version::V1, ID);
    let (head, tail) = message(sample).split_at(500);
    let mut sent = vec![up(client.initial(&crypto(500, tail), 1200))];
    sent.extend((0..300).map(|_| up(client.initial(&[PING], 1200))));
    sent.push(up(client.initial(&crypto(0, head), 1200)));
    let heard = deliver(&sent);
    let [hello] = &heard.said.hellos[..] else { panic!("{heard:?}") };
    check(hello, sample, "");
    assert_eq!((hello.segments, hello.facts.records), (2, 2));
}

#[test]
fn the_server_s_id_proves_the_address() {
    let sample = few()[0];
    let quic = [Proof::QuicPath];
    // (server's ID, what the client calls it then, proven)
    let cases = [(SERVER, SERVER, true), (SERVER, b"another!", false), (b"abc", b"abc", false), (ID, ID, false)];
    for (server, destination, proven) in cases {
        let mut client = Client::new(Version::V1, ID);
        let mut sent = vec![up(client.hello(message(sample))), down(client.answer(0, server))];
        client.destination = destination.to_vec();
        sent.extend([up(client.opaque(2, 40)), up(client.opaque(2, 40))]);
        // The kernel hands on the beginning of such packets only.
        sent[1].cut = 1_000;
        sent[2].cut = 10;
        let heard = deliver(&sent);
        assert_eq!(heard.proven, &quic[..usize::from(proven)], "{server:?} {destination:?}");
        assert_eq!(heard.said.hellos[0].proof, None);
        assert_eq!(heard.said.ignored, [Ignored::NotHello, Ignored::AfterHello, Ignored::AfterHello]);
    }
    // Before the hello is whole.
    let mut client = Client::new(Version::V1, ID);
    let (head, tail) = message(sample).split_at(100);
    let first = up(client.initial(&crypto(0, head), 1200));
    let answer = down(client.answer(0, SERVER));
    client.destination = SERVER.to_vec();
    let heard = deliver([&first, &answer, &up(client.initial(&crypto(100, tail), 1200))]);
    assert_eq!((heard.proven, heard.said.hellos[0].proof), (vec![], Some(Proof::QuicPath)));
}

#[test]
fn a_retry_packet_proves_the_address_and_the_hello_after_it_counts() {
    let [sample, other, ..] = few()[..] else { unreachable!() };
    let mut client = Client::new(Version::V1, ID);
    let first = up(client.hello(message(sample)));
    let retry = down(client.answer(3, SERVER));
    let mut client = client.retried(SERVER);
    let again = up(client.clone().hello(message(sample)));
    let heard = deliver([&first, &retry, &again]);
    assert_eq!((heard.said.hellos.len(), heard.proven), (1, vec![Proof::QuicPath]));
    assert_eq!(heard.said.ignored, [Ignored::NotHello, Ignored::Duplicate]);
    // The server has read nothing before the Retry packet, so that the second is its hello.
    let changed = up(client.hello(message(other)));
    let heard = deliver([&first, &retry, &changed]);
    let [_, second] = &heard.said.hellos[..] else { panic!("{heard:?}") };
    check(second, other, "after the Retry packet");
    assert_eq!((second.proof, heard.void), (Some(Proof::QuicPath), vec![Void::OverlapConflict]));
    // It has read the first if it answers with anything else.
    let initial = down(Client::new(Version::V1, ID).answer(0, SERVER));
    let heard = deliver([&first, &initial, &changed]);
    assert_eq!((heard.said.hellos.len(), heard.void), (1, vec![Void::OverlapConflict]));
    assert_eq!(heard.said.causes(), [Cause::OverlapConflict]);
}

/// A port that is used again at once. Each of these connections sends another hello after a Retry packet, as aioquic does:
/// that voids the first one of its own connection only.
#[test]
fn a_connection_from_a_used_port_is_another_one() {
    let [sample, other, ..] = few()[..] else { unreachable!() };
    let flights = [(ID, SERVER), (&[1; 8], &[2; 8])].map(|(id, server)| {
        let mut client = Client::new(Version::V1, id);
        let first = up(client.hello(message(sample)));
        [first, down(client.answer(3, server)), up(client.retried(server).hello(message(other)))]
    });
    let heard = deliver(flights.iter().flatten());
    let streams: Vec<u32> = heard.said.hellos.iter().map(|hello| hello.stream_seq).collect();
    let &[a, b, c, d] = &streams[..] else { panic!("{heard:?}") };
    assert!(a == b && c == d && a != c, "{streams:?}");
    assert_eq!((heard.voided, heard.void), (vec![a, c], vec![Void::OverlapConflict; 2]));
    // The first one's proof is not the second one's.
    let proofs: Vec<Option<Proof>> = heard.said.hellos.iter().map(|hello| hello.proof).collect();
    assert_eq!(proofs, [None, Some(Proof::QuicPath), None, Some(Proof::QuicPath)]);
}

#[test]
fn a_second_hello_follows_the_first_in_its_stream() {
    let [sample, other, ..] = few()[..] else { unreachable!() };
    let mut client = Client::new(Version::V1, ID);
    let end = message(sample).len();
    let first = up(client.hello(message(sample)));
    let second = up(client.initial(&crypto(end, message(other)), 1200));
    let late = up(client.initial(&crypto(end, &message(other)[..50]), 1200));
    let heard = deliver([&first, &second, &first, &second, &late]);
    let [a, b] = &heard.said.hellos[..] else { panic!("{heard:?}") };
    check(a, sample, "first");
    check(b, other, "second");
    assert_eq!((a.index, b.index), (0, 1));
    assert_eq!(heard.said.ignored, [Ignored::Duplicate; 3]);
}

#[test]
fn connections_on_one_flow_are_told_apart() {
    let [sample, other, ..] = few()[..] else { unreachable!() };
    let mut flights = [(ID, sample), (SERVER, other)].map(|(id, sample)| {
        let mut client = Client::new(Version::V1, id);
        let (head, tail) = message(sample).split_at(90);
        [(0, head), (90, tail)].map(|(offset, bytes)| up(client.initial(&crypto(offset, bytes), 1200)))
    });
    flights[1].reverse();
    let [[a, b], [c, d]] = &flights;
    let heard = deliver([a, c, d, b]);
    let [second, first] = &heard.said.hellos[..] else { panic!("{heard:?}") };
    check(first, sample, "first");
    check(second, other, "second");
}

#[test]
fn what_servers_discard_or_close_over_is_no_hello() {
    let [sample, other, ..] = few()[..] else { unreachable!() };
    let whole = crypto(0, message(sample));
    let new = || Client::new(Version::V1, ID);
    let small = few().into_iter().min_by_key(|sample| sample.stream.len()).expect("some");
    let ignored = [
        (new().initial(&crypto(0, message(small)), 0), Ignored::ShortDatagram),
        (Client::new(Version::V1, b"seven b").hello(message(sample)), Ignored::NotQuic),
        (new().initial(&[PING], 1200), Ignored::NotHello),
        (new().opaque(1, 1200), Ignored::NotHello),
        (vec![0x40; 1200], Ignored::NotQuic),
    ];
    for (datagram, why) in ignored {
        let heard = deliver([&up(datagram)]);
        assert_eq!((heard.said.hellos, heard.said.lost, heard.said.ignored), (vec![], vec![], vec![why]));
    }
    // The fixed bit, the form bit, a damaged body.
    for (at, mask) in [(0, 0x40), (0, 0x80), (900, 1)] {
        let mut datagram = new().hello(message(sample));
        datagram[at] ^= mask;
        let heard = deliver([&up(datagram)]);
        assert_eq!((heard.said.hellos.len(), heard.said.ignored.len()), (0, 1));
    }
    let half = crypto(0, &message(sample)[..99]);
    let lost = [
        (vec![[whole.clone(), vec![8, 0]].concat()], Cause::Malformed),
        (vec![half.clone(), vec![0x1c, 0, 0, 0]], Cause::Reset),
        (vec![half.clone(), crypto(98, b"other bytes")], Cause::OverlapConflict),
        (vec![half.clone(), crypto(60_000, b"far")], Cause::Evasive),
        (vec![crypto(1 << 40, b"far")], Cause::Evasive),
        (vec![crypto(0, &[1, 0xff, 0xff, 0xff])], Cause::Oversize),
        (vec![crypto(0, &[1, 0, 0xff, 0xff])], Cause::Evasive),
        (vec![crypto(0, &[2, 0, 0, 9])], Cause::Malformed),
        (vec![(0..70).flat_map(|hole| crypto(2 * hole + 1, b"x")).collect()], Cause::Evasive),
    ];
    for (frames, cause) in lost {
        let mut client = new();
        let mut sent: Vec<_> = frames.iter().map(|frames| up(client.initial(frames, 1200))).collect();
        sent.push(up(client.hello(message(other))));
        let heard = deliver(&sent);
        assert_eq!((heard.said.hellos.len(), heard.said.causes()), (0, vec![cause]), "{frames:?}");
        assert_eq!(heard.said.ignored, [Ignored::AfterLost]);
        assert!(heard.allocated < 20_000, "memory by claims");
    }
}

#[test]
fn a_hello_that_never_ends_is_lost_after_five_seconds() {
    let sample = few()[0];
    let mut client = Client::new(Version::V1, ID);
    let mut sent = [up(client.initial(&crypto(0, &message(sample)[..99]), 1200)), up(b"anything".to_vec())];
    sent[1].at = Duration::from_millis(5_001);
    assert_eq!(deliver(&sent).said.causes(), [Cause::Timeout]);
}
