//! The same packets in every format and frame that is read give the same hellos; damaged files say what is wrong.

use std::io::{self, Read};

use detector::capture::frame::{self, Frame, Link, Skipped};
use detector::capture::pcap::{self, CaptureError};
use detector::capture::{Packet, Segment};
use detector::cli::{Format, fingerprint::print};
use detector::clock::Timestamp;
use detector::pipeline::Hello;
use serde_json::Value;

use crate::fixture::{bytes, run_capture};

/// The TCP segment in `frame`.
fn segment<'a>(frame: &Frame<'a>) -> Result<Segment<'a>, Skipped> {
    frame::packet(frame).map(|packet| match packet {
        Packet::Segment(segment) => segment,
        Packet::Datagram(datagram) => panic!("a datagram: {datagram:?}"),
    })
}

const CAPTURES: [&str; 4] = ["chromium-h2.pcap", "curl-hrr-p384.pcap", "firefox-esr-vlan.pcap", "aioquic-h3.pcap"];

/// The frames of a capture: nanoseconds, wire length, bytes.
fn frames(capture: &[u8]) -> Vec<(u64, usize, Vec<u8>)> {
    let mut frames = Vec::new();
    pcap::read(capture, |frame| frames.push((frame.at.as_nanos(), frame.wire_len, frame.bytes.to_vec())))
        .expect("a readable capture");
    frames
}

/// Numbers in one byte order.
struct Order(bool);

impl Order {
    fn u16(&self, number: u16) -> [u8; 2] {
        if self.0 { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    fn u32(&self, number: u32) -> [u8; 4] {
        if self.0 { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    /// draft-ietf-opsawg-pcap section 4.
    fn pcap(&self, frames: &[(u64, usize, Vec<u8>)], nanos: bool) -> Vec<u8> {
        let magic = if nanos { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        let mut file =
            [&self.u32(magic)[..], &self.u16(2), &self.u16(4), &[0; 8], &self.u32(262_144), &self.u32(1)].concat();
        for (at, wire_len, bytes) in frames {
            let fraction = if nanos { at % 1_000_000_000 } else { at % 1_000_000_000 / 1000 };
            for number in [(at / 1_000_000_000) as u32, fraction as u32, bytes.len() as u32, *wire_len as u32] {
                file.extend(self.u32(number));
            }
            file.extend(bytes);
        }
        file
    }

    /// draft-ietf-opsawg-pcapng section 3.1.
    fn block(&self, kind: u32, body: &[u8]) -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let length = self.u32(padded as u32 + 12);
        [&self.u32(kind)[..], &length, body, &vec![0; padded - body.len()], &length].concat()
    }

    fn pcapng(&self, frames: &[(u64, usize, Vec<u8>)], nanos: bool) -> Vec<u8> {
        let section = [&self.u32(0x1a2b_3c4d)[..], &self.u16(1), &self.u16(0), &[0xff; 8]].concat();
        let resolution =
            if nanos { [&self.u16(9)[..], &self.u16(1), &[9, 0, 0, 0], &[0; 4]].concat() } else { Vec::new() };
        let interface = [&self.u16(1)[..], &self.u16(0), &self.u32(262_144), &resolution].concat();
        let mut file = [self.block(0x0a0d_0d0a, &section), self.block(1, &interface)].concat();
        // A kind of block that nobody knows.
        file.extend(self.block(0x7777, b"abc"));
        for (at, wire_len, bytes) in frames {
            let ticks = if nanos { *at } else { at / 1000 };
            let head = [0, (ticks >> 32) as u32, ticks as u32, bytes.len() as u32, *wire_len as u32];
            let head: Vec<u8> = head.into_iter().flat_map(|number| self.u32(number)).collect();
            file.extend(self.block(6, &[&head[..], bytes].concat()));
        }
        file
    }
}

/// A pipe that gives a few bytes at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(7);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn every_format_gives_the_same_hellos() {
    for name in CAPTURES {
        let capture = bytes(&format!("captures/pcaps/{name}"));
        let frames = frames(&capture);
        let wanted: Vec<Hello> = run_capture(&capture).hellos;
        for order in [Order(false), Order(true)] {
            for nanos in [false, true] {
                assert_eq!(run_capture(&order.pcap(&frames, nanos)).hellos, wanted, "{name} pcap");
                assert_eq!(run_capture(&order.pcapng(&frames, nanos)).hellos, wanted, "{name} pcapng");
            }
        }
        let file = Order(false).pcapng(&frames, true);
        assert_eq!(printed(&file[..]), printed(Trickle(&file)), "{name} from a pipe");
        assert_eq!(printed(&capture[..]).0, printed(&file[..]).0, "{name}");
    }
}

/// What the command prints: lines and notes.
fn printed(input: impl Read) -> (String, String) {
    printed_as(Format::Json, input)
}

fn printed_as(format: Format, input: impl Read) -> (String, String) {
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    print(input, format, &[], &mut out, &mut notes).expect("memory takes any bytes");
    (String::from_utf8(out).expect("text"), String::from_utf8(notes).expect("text"))
}

/// A header with JSON's keys in JSON's order, then JSON's values.
#[test]
fn csv_says_what_json_says() {
    for name in CAPTURES {
        let capture = bytes(&format!("captures/pcaps/{name}"));
        let (lines, notes) = printed(&capture[..]);
        let (sheet, csv_notes) = printed_as(Format::Csv, &capture[..]);
        assert_eq!(notes, csv_notes);
        let mut sheet = csv::Reader::from_reader(sheet.as_bytes());
        let mut rows = 0;
        let header = sheet.headers().expect("a header").clone();
        for (row, line) in sheet.records().zip(lines.lines()) {
            let (row, object): (_, Value) = (row.expect("a row"), serde_json::from_str(line).expect("an object"));
            assert_eq!(Some(row.len()), object.as_object().map(serde_json::Map::len));
            let mut after = 0;
            for (key, cell) in header.iter().zip(&row) {
                let at = line.find(&format!("\"{key}\":")).expect("a key of JSON's");
                assert!(at >= after, "{name}: {key} out of order");
                after = at;
                let wanted = match &object[key] {
                    Value::Null => String::new(),
                    Value::String(text) => text.clone(),
                    Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
                    other => other.to_string(),
                };
                assert_eq!(cell, wanted, "{name}: {key}");
            }
            rows += 1;
        }
        assert_eq!(rows, lines.lines().count(), "{name}");
    }
}

/// Who reads the columns by their names finds them also where there is no hello.
#[test]
fn csv_has_its_header_whatever_follows() {
    let capture = bytes(&format!("captures/pcaps/{}", CAPTURES[0]));
    let header = |sheet: &str| sheet.lines().next().map(str::to_owned);
    let (some, _) = printed_as(Format::Csv, &capture[..]);
    let (none, _) = printed_as(Format::Csv, &Order(false).pcap(&[], false)[..]);
    assert!(header(&some).is_some_and(|names| names.starts_with("src_ip,src_port,")), "{some}");
    assert_eq!((header(&none), none.lines().count()), (header(&some), 1));
}

/// Whatever is known first, lines come in the order in which the hellos were completed.
#[test]
fn lines_keep_the_order_of_the_hellos() {
    for name in CAPTURES {
        let capture = bytes(&format!("captures/pcaps/{name}"));
        let place = |line: &str| -> Value { serde_json::from_str(line).expect("an object") };
        let printed = printed(&capture[..]).0;
        let ports: Vec<Value> = printed.lines().map(|line| place(line)["src_port"].clone()).collect();
        let wanted: Vec<Value> =
            run_capture(&capture).hellos.iter().map(|hello| hello.flow.source.port().into()).collect();
        assert_eq!(ports, wanted, "{name}");
    }
}

#[test]
fn a_cut_file_is_read_up_to_the_cut() {
    let capture = bytes("captures/pcaps/curl-openssl.pcap");
    let whole = frames(&capture).len();
    let mut most = 0;
    for length in 24..capture.len() {
        let mut count = 0;
        let summary = pcap::read(&capture[..length], |_| count += 1).expect("what is there is right");
        assert!(count < whole && count >= most);
        assert!(summary.cut_at.is_none_or(|at| (at as usize) < length));
        most = count;
    }
    let (_, notes) = printed(&capture[..capture.len() - 1]);
    assert!(notes.starts_with("warning: the capture is cut off in the block at byte "), "{notes}");
    assert!(notes.lines().last().is_some_and(|line| line.starts_with("hellos: 3; lost: 0; frames: 17; ")), "{notes}");
}

#[test]
fn what_is_no_capture_is_refused_with_a_reason() {
    let read = |bytes: &[u8]| pcap::read(bytes, |_| {});
    assert!(matches!(read(b""), Err(CaptureError::Empty)));
    assert!(matches!(read(b"#!/bin/sh\necho no capture at all\n"), Err(CaptureError::NotACapture)));
    let mut capture = bytes("captures/pcaps/curl-openssl.pcap");
    capture[20] = 105;
    assert!(matches!(read(&capture), Err(CaptureError::LinkType { number: 105 })));
    capture[20] = 1;
    capture[24 + 8..24 + 12].fill(0x7f);
    assert_eq!(read(&capture).expect("it may be cut").cut_at, Some(24));
    let endless = pcap::read((&capture[..]).chain(io::repeat(0x7f)), |_| {});
    assert!(matches!(endless, Err(CaptureError::Damaged { at: 24, .. })));
}

#[test]
fn datagrams_are_read_too() {
    let (lines, notes) = printed(&bytes("captures/pcaps/aioquic-h3.pcap")[..]);
    assert_eq!(lines.matches(r#""transport":"quic""#).count(), 4, "{lines}");
    assert!(notes.starts_with("hellos: 4; lost: 0; ") && notes.contains("skipped: 0"), "{notes}");
}

/// The IP packet of the capture's first hello segment, behind each kind of link header.
#[test]
fn every_link_type_gives_the_same_segment() {
    let capture = bytes("captures/pcaps/curl-openssl.pcap");
    let (at, _, ethernet) = frames(&capture).into_iter().find(|(_, _, bytes)| bytes.len() > 200).expect("a hello");
    let packet = &ethernet[14..];
    let tag = [0x81, 0, 0, 77];
    let cases = [
        (Link::Ethernet, ethernet.clone()),
        (Link::Ethernet, [&ethernet[..12], &tag, &ethernet[12..]].concat()),
        (Link::Ethernet, [&ethernet[..12], &[0x88, 0xa8, 0, 5], &tag, &ethernet[12..]].concat()),
        (Link::Ethernet, [&ethernet[..], &[0; 9]].concat()),
        (Link::Raw, packet.to_vec()),
        (Link::Loopback, [&[2, 0, 0, 0], packet].concat()),
        (Link::Cooked, [&[0; 14][..], &[8, 0], packet].concat()),
        (Link::Cooked2, [&[8, 0][..], &[0; 18], packet].concat()),
    ];
    let at = Timestamp::from_nanos(at);
    let of = |link, bytes: &'_ [u8]| {
        let frame = Frame { link, at, bytes, wire_len: bytes.len() };
        segment(&frame).map(|segment| (segment.flow, segment.seq, segment.payload.to_vec(), segment.payload_len))
    };
    let wanted = of(Link::Ethernet, &ethernet).expect("a segment");
    for (link, bytes) in &cases {
        assert_eq!(of(*link, bytes).as_ref(), Ok(&wanted), "{link:?}");
        // A snap length that cuts the payload, and one that cuts the headers.
        let (_, _, payload, payload_len) = of(*link, &bytes[..bytes.len() - 100]).expect("cut payload");
        assert!(payload.len() < payload_len && payload_len == wanted.3, "{link:?}");
        for length in 0..40 {
            assert!(of(*link, &bytes[..length]).is_err());
        }
    }
    let three = [&ethernet[..12], &tag, &tag, &tag, &ethernet[12..]].concat();
    assert_eq!(of(Link::Ethernet, &three), Err(Skipped::NotIp));
    let mut fragment = ethernet.clone();
    fragment[14 + 6] = 0x20;
    assert_eq!(of(Link::Ethernet, &fragment), Err(Skipped::Fragment));
    // Total length 0: a super-frame of segmentation offload.
    let mut offload = ethernet.clone();
    offload[14 + 2..14 + 4].fill(0);
    assert_eq!(of(Link::Ethernet, &offload), Ok(wanted));
}

/// Extension headers before TCP (RFC 8200 section 4), and fragments.
#[test]
fn ipv6_extension_headers_are_walked() {
    let capture = bytes("captures/pcaps/curl-openssl-ipv6.pcap");
    let (_, _, plain) = frames(&capture).into_iter().find(|(_, _, bytes)| bytes.len() > 200).expect("a hello");
    let with = |next: u8, header: &[u8]| {
        let mut bytes = [&plain[..54], header, &plain[54..]].concat();
        bytes[20] = next;
        let length = u16::from_be_bytes([plain[18], plain[19]]) + header.len() as u16;
        bytes[18..20].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    let of = |bytes: &[u8]| {
        let frame = Frame { link: Link::Ethernet, at: Timestamp::default(), bytes, wire_len: bytes.len() };
        segment(&frame).map(|segment| (segment.flow, segment.payload.to_vec(), segment.payload_len))
    };
    let wanted = of(&plain);
    assert!(wanted.is_ok());
    let options = [6, 0, 1, 4, 0, 0, 0, 0];
    assert_eq!(of(&with(0, &options)), wanted, "hop-by-hop options");
    assert_eq!(of(&with(60, &options)), wanted, "destination options");
    assert_eq!(of(&with(44, &[6, 0, 0, 0, 0, 0, 0, 9])), wanted, "an atomic fragment (RFC 6946)");
    assert_eq!(of(&with(44, &[6, 0, 0, 1, 0, 0, 0, 9])), Err(Skipped::Fragment));
    assert_eq!(of(&with(44, &[6, 0, 0, 8, 0, 0, 0, 9])), Err(Skipped::Fragment));
}
