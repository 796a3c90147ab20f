//! `detector fingerprint` over several copies of all captures in one file, as `cargo xtask bench offline` measures it.

use detector::capture::pcap;
use detector::cli::Exit;
use detector::cli::{Format, fingerprint::print};
use detector_tests::copies::Captures;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::fixture;

const COPIES: usize = 3;

fn copies() -> (Captures, Vec<u8>) {
    let captures = Captures::read(&fixture::path("captures")).expect("the captures");
    let mut file = Vec::new();
    let packets = captures.write(COPIES, &mut file).expect("a capture in memory");
    assert_eq!(packets, COPIES as u64 * 5902);
    (captures, file)
}

#[test]
fn every_hello_of_every_copy_is_right() {
    let (captures, file) = copies();
    let (mut lines, mut notes) = (Vec::new(), Vec::new());
    let exit = print(&file[..], Format::Json, &[], &mut lines, &mut notes).expect("a readable capture");
    let notes = String::from_utf8_lossy(&notes);
    assert_eq!(exit, Exit::Done, "{notes}");
    assert!(
        notes.contains(&format!("hellos: {}; lost: 0; frames: {};", captures.hellos(COPIES), 5902 * COPIES)),
        "{notes}"
    );
    let tally = captures.check(COPIES, &lines[..]).expect("hello lines");
    assert_eq!((tally.expected, tally.right), (COPIES * 843, COPIES * 843), "{tally}");
    assert_eq!((tally.wrong, tally.extra, tally.unknown), (0, 0, COPIES), "{tally}");
}

#[test]
fn what_is_wrong_missing_or_told_twice_is_not_right() {
    let (captures, file) = copies();
    let mut lines = Vec::new();
    print(&file[..], Format::Json, &[], &mut lines, Vec::new()).expect("a readable capture");
    let text = String::from_utf8(lines).expect("JSON");
    let mut lines: Vec<&str> = text.lines().collect();
    let wrong = lines[0].replacen("\"ja4\":\"", "\"ja4\":\"x", 1);
    lines[0] = &wrong;
    lines[2] = lines[1];
    lines.pop();
    let tally = captures.check(COPIES, lines.join("\n").as_bytes()).expect("hello lines");
    assert_eq!((tally.expected - tally.right, tally.wrong, tally.extra), (3, 1, 1), "{tally}");
}

/// What a frame's checksums say: that of the IP header, and that of TCP or UDP.
fn checksums(frame: &[u8]) -> (bool, bool) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame of the captures");
    let header = match &packet.net {
        Some(NetSlice::Ipv4(v4)) => v4.header().to_header().calc_header_checksum() == v4.header().header_checksum(),
        _ => true,
    };
    let transport = match (&packet.net, &packet.transport) {
        (Some(NetSlice::Ipv4(v4)), Some(TransportSlice::Tcp(tcp))) => {
            tcp.calc_checksum_ipv4(v4.header().source(), v4.header().destination()).ok() == Some(tcp.checksum())
        }
        (Some(NetSlice::Ipv6(v6)), Some(TransportSlice::Tcp(tcp))) => {
            tcp.calc_checksum_ipv6(v6.header().source(), v6.header().destination()).ok() == Some(tcp.checksum())
        }
        (Some(NetSlice::Ipv4(v4)), Some(TransportSlice::Udp(udp))) => {
            let header = udp.to_header();
            header.calc_checksum_ipv4_raw(v4.header().source(), v4.header().destination(), udp.payload()).ok()
                == Some(udp.checksum())
        }
        (Some(NetSlice::Ipv6(v6)), Some(TransportSlice::Udp(udp))) => {
            let header = udp.to_header();
            header.calc_checksum_ipv6_raw(v6.header().source(), v6.header().destination(), udp.payload()).ok()
                == Some(udp.checksum())
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    };
    (header, transport)
}

#[test]
fn copies_have_the_checksums_of_the_original_and_clients_of_their_own() {
    let mut originals = Vec::new();
    let mut names: Vec<_> = std::fs::read_dir(fixture::path("captures/pcaps"))
        .expect("the captures")
        .map(|entry| entry.expect("the captures").path())
        .collect();
    names.sort_unstable();
    for name in names {
        let file = std::fs::File::open(&name).expect("a capture");
        pcap::read(file, |frame| originals.push(frame.bytes.to_vec())).expect("a readable capture");
    }
    let (_, file) = copies();
    let (mut at, mut clients, mut index) = (None, std::collections::BTreeMap::new(), 0);
    let mut right = [0; 2];
    pcap::read(&file[..], |frame| {
        let original = &originals[index % originals.len()];
        assert_eq!(checksums(frame.bytes), checksums(original), "packet {index}");
        right[usize::from(checksums(original).1)] += 1;
        // One address differs, and the checksums; nothing else.
        let differ = frame.bytes.iter().zip(original).filter(|(new, old)| new != old).count();
        assert!(differ <= 2 + 2 + 2, "packet {index}: {differ} bytes");
        let packet = detector::capture::frame::packet(frame).expect("TCP or UDP");
        let flow = packet.flow();
        let client = if flow.destination.port() > flow.source.port() { flow.destination } else { flow.source };
        assert!(*clients.entry(client.ip()).or_insert(index / originals.len()) == index / originals.len());
        if let Some(before) = at.replace(frame.at) {
            assert!(frame.at.since(before) < std::time::Duration::from_secs(600));
        }
        index += 1;
    })
    .expect("a readable capture");
    assert_eq!(clients.len(), COPIES * 328);
    assert!(right[0] > 0 && right[1] > 0, "both kinds of checksum are among them: {right:?}");
}
