//! What the fuzz targets in `tests/fuzz` call: hostile bytes in, nothing out, no panic and no broken promise on the
//! way. Kept here so that the targets are one line each and the tests run the same code on stable Rust.

mod doors;
mod scoring;

use std::net::SocketAddr;

use detector_common::key::parser::{Parser, Step, Window};
use detector_common::key::{Keys, Seeds};
use rustls::Side;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{Keys as QuicKeys, Version};

use crate::capture::{Datagram, Flow, Network, Packet, Segment, TcpFlags, event, frame, pcap};
use crate::clock::Timestamp;
use crate::fingerprint::key::keys as keys_of;
use crate::fingerprint::{Fingerprinter, Ja4, Transport};
use crate::line::HelloLine;
use crate::pipeline::{Limits, Outcome, Pipeline};
use crate::quic::{self, LongHeader};
use crate::report::{self, Report};
use crate::tls::Parsed;
use crate::tls::dtls;
use crate::tls::hello;
use crate::tls::record::{self, Deframer};

pub use self::doors::{broker, control, question, stream};
pub use self::scoring::{list, scoring};

/// A stream of records: the deframer says the same of the whole as of its growing prefixes, and is never past them.
pub fn record(stream: &[u8]) {
    for new in [Deframer::new, Deframer::after_retry] {
        let whole = new().advance(stream);
        let mut grown = new();
        let mut last = Parsed::Incomplete;
        for length in 0..=stream.len() {
            last = grown.advance(&stream[..length]);
            if last != Parsed::Incomplete {
                break;
            }
        }
        assert_eq!(whole, last, "pieces change what a stream is");
        if let Parsed::Complete(extent) = whole {
            let message = record::message(stream, &extent, &mut Vec::new()).len();
            assert_eq!(message, extent.message, "the message is not what its extent says");
        }
    }
    for size in [1, 2, 7, stream.len() / 2 + 1, stream.len() + 1] {
        keys(stream, size);
    }
}

/// A hello's stream in pieces of `size`: what the kernel reads in it is what userspace does, or nothing.
fn keys(stream: &[u8], size: usize) {
    let seeds = Seeds { cipher: 1, extension: 2, signature: 3, rest: 4 };
    let mut scratch = Vec::new();
    let ours = match Deframer::new().advance(stream) {
        Parsed::Complete(extent) => match hello::parse(record::message(stream, &extent, &mut scratch)) {
            Parsed::Complete(hello) => Some((extent, keys_of(&hello, Transport::Tcp, &seeds))),
            Parsed::Incomplete | Parsed::Rejected(_) => None,
        },
        Parsed::Incomplete | Parsed::Rejected(_) => None,
    };
    match (read_keys(stream.chunks(size), &seeds), ours) {
        ((Step::Done, kernels), Some((_, ours))) => assert_eq!(kernels, ours, "one hello, two keys"),
        ((Step::Beyond, _), ours) => {
            assert!(ours.is_none_or(|(extent, _)| extent.records > 1), "a hello in one record")
        }
        (_, None) => {}
        ((step, _), Some(_)) => panic!("{step:?} of a whole hello"),
    }
}

/// What the kernel reads of a hello in these segments: the last step, and the keys if that is [`Step::Done`].
pub fn read_keys<'a>(segments: impl IntoIterator<Item = &'a [u8]>, seeds: &Seeds) -> (Step, Keys) {
    let mut parser = Parser::new(seeds);
    let mut step = Step::More;
    let mut window = Bytes::default();
    for segment in segments {
        window.0.clear();
        window.0.extend_from_slice(parser.kept());
        window.0.extend_from_slice(segment);
        let end = u32::try_from(window.0.len()).unwrap_or(u32::MAX);
        step = Step::On;
        while step == Step::On {
            step = parser.step(&window, end, seeds);
        }
        if step != Step::More {
            break;
        }
    }
    (step, parser.keys(seeds))
}

/// A segment's window.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Window for Bytes {
    fn bytes<const N: usize>(&self, at: u32) -> [u8; N] {
        let place = usize::try_from(at).ok().and_then(|at| self.0.get(at..)?.first_chunk());
        *place.expect("the parser stays in its window")
    }
}

/// A handshake message: it is parsed, and what it gives keeps the promises of JA4's grammar and of one line per hello.
pub fn hello(message: &[u8]) {
    let Parsed::Complete(hello) = hello::parse(message) else { return };
    let fingerprint = Fingerprinter::default().fingerprint(&hello, Transport::Tcp);
    for ja4 in [fingerprint.ja4, fingerprint.ja4_o, fingerprint.ja4_stable] {
        assert_eq!(ja4.as_str().parse::<Ja4>(), Ok(ja4), "outside the grammar");
    }
    let text = fingerprint.alpn.iter().chain(&fingerprint.server_name);
    for printed in text.chain([&fingerprint.ja3_raw, &fingerprint.ja4_r, &fingerprint.ja4_ro]) {
        assert!(printed.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "unprintable");
    }
}

/// A frame of a web server: what it says is in the report's own form again, and says the same there.
pub fn report(frame: &[u8]) {
    let mut mended = String::new();
    let Ok(read) = report::read(frame, &mut mended) else { return };
    let text = serde_json::to_string(&read.report).expect("a report is plain data");
    if text.len() > report::FRAME_MAX {
        return; // Escapes made it longer.
    }
    let mut unmended = String::new();
    let again = report::read(text.as_bytes(), &mut unmended).expect("a written report is one");
    assert_eq!((again.unknown, again.wrong), (0, 0), "a written report has what doesn't belong there");
    // These pass through floating point, which rounds the last digit of what no clock shows.
    let exact =
        |report: Report<'_>| format!("{:?}", Report { time: None, duration: None, connection_age: None, ..report });
    assert_eq!(exact(again.report), exact(read.report), "written and read, it is another");
}

/// Segments of one flow, cut out of `script`: flags, sequence number, length and payload of each in turn. Each gets
/// exactly one fate.
pub fn reassembly(script: &[u8]) {
    let limits = Limits { segments_per_flow: 64, holes_per_flow: 8, ..Limits::default() };
    let mut pipeline = Pipeline::new(limits);
    let mut pushed = 0_u64;
    let mut told = 0_u64;
    let mut lines = 0_usize;
    let mut out = |outcome: Outcome| {
        told += match outcome {
            Outcome::Hello(hello) => {
                lines += serde_json::to_string(&HelloLine::from(&*hello)).map_or(0, |line| line.lines().count());
                u64::from(hello.segments)
            }
            Outcome::Lost { segments, .. } => u64::from(segments),
            Outcome::Ignored(_) => 1,
            Outcome::Proven { .. } | Outcome::Answer(_) | Outcome::Void { .. } => 0,
        };
    };
    let flow = Flow {
        source: SocketAddr::from(([192, 0, 2, 1], 40_000)),
        destination: SocketAddr::from(([192, 0, 2, 2], 443)),
    };
    let mut rest = script;
    while let Some(([flags, high, low, length], next)) = rest.split_first_chunk() {
        let (payload, next) = next.split_at(usize::from(*length).min(next.len()));
        rest = next;
        let bit = |number: u8| flags >> number & 1 == 1;
        let segment = Segment {
            flow,
            at: Timestamp::from_nanos(pushed * 1_000_000 * u64::from(flags >> 4)),
            // Around the place where sequence numbers wrap.
            seq: u32::from(u16::from_be_bytes([*high, *low])).wrapping_sub(100),
            ack: 0,
            flags: TcpFlags { syn: bit(0), fin: bit(1), rst: bit(2), ack: true },
            network: Network::default(),
            header: &[],
            payload,
            payload_len: payload.len() + usize::from(bit(3)),
            proof: None,
            keys: None,
        };
        let segment = Segment { flags: TcpFlags { ack: !segment.flags.syn, ..segment.flags }, ..segment };
        pipeline.push(&segment, &mut out);
        pushed += 1;
    }
    pipeline.finish(&mut out);
    assert_eq!(pushed, told, "a segment without a fate, or with two");
    assert_eq!(pipeline.partial_bytes(), 0, "the books don't balance");
}

/// One datagram of a QUIC client, as it is and as the sender whose keys everybody can make would encrypt it: its pieces
/// lie in it, and it has its fate in a pipeline.
pub fn quic_initial(datagram: &[u8]) {
    let mut opener = quic::Opener::default();
    let id = LongHeader::parse(datagram).map(|header| header.destination).unwrap_or_default();
    let known = quic::Known { id, largest: datagram.len() as u64 };
    if let Some(opened) = opener.open(datagram, std::iter::once(known)) {
        let bytes: usize = opened.pieces.iter().map(|piece| opener.bytes(piece).len()).sum();
        assert!(bytes < datagram.len() && opened.packets > 0, "more came out than went in");
    }
    let sealed = seal(datagram);
    let opened = opener.open(&sealed, std::iter::empty());
    assert_eq!(opened.map(|opened| opened.packets), Some(1), "a packet that was sealed right can't be opened");
    datagrams(&[datagram, &sealed]);
}

/// `frames` in an Initial packet of version 1, encrypted as a client does it (RFC 9001 section 5): so that what is
/// behind the encryption is fuzzed too.
fn seal(frames: &[u8]) -> Vec<u8> {
    const ID: [u8; 8] = *b"fuzzing!";
    let suite = TLS13_AES_128_GCM_SHA256.tls13();
    let Some((suite, algorithm)) = suite.and_then(|suite| Some((suite, suite.quic?))) else { return Vec::new() };
    let keys = QuicKeys::initial(Version::V1, suite, algorithm, &ID, Side::Client).local;
    let mut payload = frames.to_vec();
    payload.resize(frames.len().clamp(1200, 16_000), 0);
    // One byte of packet number and 16 of tag.
    let length = (payload.len() + 17) as u16 | 0x4000;
    let mut packet = [&[0xc0, 0, 0, 0, 1, 8][..], &ID, &[0, 0], &length.to_be_bytes(), &[0]].concat();
    let number_at = packet.len() - 1;
    let tag = keys.packet.encrypt_in_place(0, &packet, &mut payload);
    packet.extend(payload);
    packet.extend(tag.iter().flat_map(|tag| tag.as_ref()));
    let sample = packet[number_at + 4..][..16].to_vec();
    let (first, rest) = packet.split_at_mut(1);
    let _cannot_fail = keys.header.encrypt_in_place(&sample, &mut first[0], &mut rest[number_at - 1..number_at]);
    packet
}

/// Datagrams of DTLS records, each after its length of two bytes: the fragments fit their messages, and each datagram
/// has its fate in a pipeline.
pub fn dtls(script: &[u8]) {
    let mut pieces = vec![script];
    let mut rest = script;
    while let Some(([high, low], next)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(next.len());
        let (piece, next) = next.split_at(length);
        pieces.push(piece);
        rest = next;
    }
    for fragment in pieces.iter().flat_map(|piece| dtls::handshake_records(piece)).flat_map(dtls::fragments) {
        let end = fragment.offset as usize + fragment.bytes.len();
        assert!(end <= fragment.length as usize, "a fragment beyond its message");
    }
    datagrams(&pieces);
}

/// Each of `payloads`, from the client and every third from the server, gets exactly one fate.
fn datagrams(payloads: &[&[u8]]) {
    let client = Flow {
        source: SocketAddr::from(([192, 0, 2, 1], 40_000)),
        destination: SocketAddr::from(([192, 0, 2, 2], 443)),
    };
    let mut pipeline = Pipeline::new(Limits::default());
    let mut told = 0;
    let mut out = |outcome: Outcome| {
        told += match outcome {
            Outcome::Hello(hello) => hello.segments as usize,
            Outcome::Lost { segments, .. } => segments as usize,
            Outcome::Ignored(_) => 1,
            Outcome::Proven { .. } | Outcome::Answer(_) | Outcome::Void { .. } => 0,
        };
    };
    for (number, payload) in payloads.iter().enumerate() {
        let flow = if number % 3 == 2 { client.reversed() } else { client };
        let at = Timestamp::from_nanos(number as u64 * 1_000_000);
        let datagram = Datagram { flow, at, payload, payload_len: payload.len() };
        pipeline.take(&Packet::Datagram(datagram), &mut out);
    }
    pipeline.finish(&mut out);
    assert_eq!(payloads.len(), told, "a datagram without a fate, or with two");
    assert_eq!(pipeline.partial_bytes(), 0, "the books don't balance");
}

/// A capture file, and the same bytes as an event of the ring.
pub fn capture(bytes: &[u8]) {
    let mut pipeline = Pipeline::new(Limits::default());
    let mut ignore = |_: Outcome| {};
    let _unreadable = pcap::read(bytes, |frame| {
        if let Ok(packet) = frame::packet(frame) {
            pipeline.take(&packet, &mut ignore);
        }
    });
    let _whole = event::packets(bytes, &mut |packet| pipeline.take(packet, &mut ignore));
    pipeline.finish(&mut ignore);
}
