//! What a packet may be wrapped in: VLAN tags, IPv4 options, IPv6 extension headers, fragments (threats.md T16). None of
//! it hides a hello or a blocked address, and nothing is dropped for it.

use std::{net::IpAddr, ops::Range};

use detector::kernel::Slot;
use detector_common::{
    counter::Counter,
    event::{NETWORK_DONT_FRAGMENT, NETWORK_FLOW_LABEL, NetworkImage},
};

use crate::bench::{Bench, CLIENT, CLIENT_V6, DROP, PASS, Random, Row, hello};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const EXTENSIONS: [u8; 5] = [HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION, MOBILITY];

const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Which part of its datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// In units of eight bytes.
    offset: u16,
    more: bool,
}

pub(crate) const FIRST: Part = Part { offset: 0, more: true };
const MIDDLE: Part = Part { offset: 5, more: true };
const LAST: Part = Part { offset: 185, more: false };
pub(crate) const ATOMIC: Part = Part { offset: 0, more: false };

/// How a packet is wrapped; IPv4 takes the options, IPv6 the extension headers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Framing {
    pub(crate) tags: Vec<u16>,
    /// IPv4 options, four bytes each.
    pub(crate) options: usize,
    /// Extension headers and the units of eight bytes that each takes.
    pub(crate) extensions: Vec<(u8, usize)>,
    pub(crate) part: Option<Part>,
}

impl Framing {
    /// The frame, and where its transport header begins.
    pub(crate) fn wrap(&self, row: &Row, protocol: u8, upper: &[u8]) -> (Vec<u8>, usize) {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 0]);
        }
        match (row.source.ip(), row.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = 20 + self.options * 4;
                frame.extend([8, 0, 0x40 | (header / 4) as u8, 0x28]);
                frame.extend(((header + upper.len()) as u16).to_be_bytes());
                let place = self.part.map_or(0x4000, |part| part.offset | u16::from(part.more) << 13);
                frame.extend([0x12, 0x34]);
                frame.extend(place.to_be_bytes());
                frame.extend([57, protocol, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.resize(frame.len() + self.options * 4, 1);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut headers = self.extensions.clone();
                headers.extend(self.part.map(|_| (FRAGMENT, 1)));
                let length: usize = headers.iter().map(|(_, units)| units * 8).sum();
                frame.extend([0x86, 0xdd, 0x62, 0x81, 0x23, 0x45]);
                frame.extend(((length + upper.len()) as u16).to_be_bytes());
                frame.extend([headers.first().map_or(protocol, |(kind, _)| *kind), 57]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                for (place, (kind, units)) in headers.iter().enumerate() {
                    let start = frame.len();
                    frame.resize(start + units * 8, 0);
                    frame[start] = headers.get(place + 1).map_or(protocol, |(next, _)| *next);
                    match (*kind, self.part) {
                        (FRAGMENT, Some(part)) => {
                            let word = part.offset << 3 | u16::from(part.more);
                            frame[start + 2..start + 4].copy_from_slice(&word.to_be_bytes());
                        }
                        (AUTHENTICATION, _) => frame[start + 1] = (units * 2 - 2) as u8,
                        _ => frame[start + 1] = (units - 1) as u8,
                    }
                }
            }
            mixed => panic!("a row of two families: {mixed:?}"),
        }
        let transport = frame.len();
        frame.extend(upper);
        // The kernel refuses shorter ones.
        frame.resize(frame.len().max(60), 0);
        (frame, transport)
    }

    pub(crate) fn tcp(&self, row: &Row) -> Vec<u8> {
        self.wrap(row, TCP, &segment(row)).0
    }

    /// What an event says of it.
    fn image(&self, row: &Row) -> NetworkImage {
        let extensions: usize = self.extensions.iter().map(|(_, units)| units * 8).sum();
        let extensions = extensions + if self.part.is_some() { 8 } else { 0 };
        let ipv4 = row.source.is_ipv4();
        NetworkImage {
            version: if ipv4 { 4 } else { 6 },
            ttl: 57,
            traffic_class: 0x28,
            extra: if ipv4 { self.options * 4 } else { extensions.min(255) } as u8,
            id: if ipv4 { 0x1234 } else { 0 },
            flags: if ipv4 { NETWORK_DONT_FRAGMENT } else { NETWORK_FLOW_LABEL },
            header_len: 20,
        }
    }
}

/// The row's TCP header and payload.
fn segment(row: &Row) -> Vec<u8> {
    let start = if row.source.is_ipv4() { 34 } else { 54 };
    row.frame()[start..start + 20 + row.payload.len()].to_vec()
}

/// A datagram with the row's ports and payload.
fn datagram(row: &Row) -> Vec<u8> {
    let mut bytes = [row.source.port().to_be_bytes(), row.destination.port().to_be_bytes()].concat();
    bytes.extend((8 + row.payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(&row.payload);
    bytes
}

pub(crate) fn tagged(tags: &[u16]) -> Framing {
    Framing { tags: tags.to_vec(), ..Framing::default() }
}

fn extended(extensions: &[(u8, usize)]) -> Framing {
    Framing { extensions: extensions.to_vec(), ..Framing::default() }
}

pub(crate) fn part(part: Part) -> Framing {
    Framing { part: Some(part), ..Framing::default() }
}

/// The row's hello is captured whole, and the event says how it was wrapped.
fn assert_captured(bench: &mut Bench, framing: &Framing, row: &Row) {
    assert_eq!(bench.run(&framing.tcp(row)), (PASS, vec!["protected"]), "{framing:?}");
    let events = bench.events();
    assert_eq!(events.len(), 1, "{framing:?}");
    let (header, payload) = &events[0];
    assert_eq!(payload, &row.payload, "{framing:?}");
    assert_eq!(header.segment.network, framing.image(row), "{framing:?}");
}

fn blocking() -> Bench {
    let mut bench = Bench::new();
    bench.block(Slot::Address(CLIENT), None);
    bench.block(Slot::Address(CLIENT_V6), None);
    bench
}

/// One row of each family.
fn rows(payload: &[u8]) -> [Row; 2] {
    [Row::new(payload), Row::new(payload).v6()]
}

#[test]
fn one_tag_or_two_hide_nothing_and_three_pass() {
    let mut bench = Bench::new();
    for row in rows(&hello(600)) {
        for outer in TAGS {
            assert_captured(&mut bench, &tagged(&[outer]), &row);
            for inner in TAGS {
                assert_captured(&mut bench, &tagged(&[outer, inner]), &row);
                let three = tagged(&[outer, inner, 0x8100]).tcp(&row);
                assert_eq!(bench.run(&three), (PASS, vec!["not_ip"]));
            }
        }
    }
    assert!(bench.events().is_empty());
    let mut bench = blocking();
    for row in rows(b"x") {
        for tags in [&[0x8100][..], &[0x88a8, 0x8100]] {
            assert_eq!(bench.run(&tagged(tags).tcp(&row)), (DROP, vec!["address"]));
        }
    }
}

#[test]
fn ipv4_options_of_every_length_hide_nothing() {
    let (mut bench, mut blocking) = (Bench::new(), blocking());
    let row = Row::new(&hello(600));
    for options in 0..=10 {
        for tags in [vec![], vec![0x8100], vec![0x88a8, 0x8100]] {
            let framing = Framing { options, tags, ..Framing::default() };
            assert_captured(&mut bench, &framing, &row);
            assert_eq!(blocking.run(&framing.tcp(&row)), (DROP, vec!["address"]), "{framing:?}");
        }
    }
}

#[test]
fn up_to_eight_extension_headers_are_walked() {
    let (mut bench, mut blocking) = (Bench::new(), blocking());
    let row = Row::new(&hello(600)).v6();
    let mut rows = vec![Framing::default()];
    for kind in EXTENSIONS {
        for units in [1, 2, 5, 32, 100] {
            // An AH says its length in one byte of four-byte words.
            rows.push(extended(&[(kind, units)]));
        }
        rows.push(extended(&[(kind, 1); 8]));
    }
    rows.push(extended(&[EXTENSIONS, EXTENSIONS].concat()[..8].iter().map(|kind| (*kind, 3)).collect::<Vec<_>>()));
    rows.push(Framing { tags: vec![0x88a8, 0x8100], ..extended(&[(DESTINATION, 2); 8]) });
    rows.push(part(ATOMIC));
    rows.push(Framing { part: Some(ATOMIC), ..extended(&[(DESTINATION, 2); 7]) });
    for framing in rows {
        assert_captured(&mut bench, &framing, &row);
        assert_eq!(blocking.run(&framing.tcp(&row)), (DROP, vec!["address"]), "{framing:?}");
    }
    for kind in EXTENSIONS {
        let nine = extended(&[(kind, 1); 9]).tcp(&row);
        assert_eq!(bench.run(&nine), (PASS, vec!["other_protocol"]));
    }
    assert!(bench.events().is_empty());
}

#[test]
fn a_chain_that_ends_early_is_malformed() {
    let mut bench = blocking();
    let row = Row::new(b"x").v6();
    for (kind, count) in EXTENSIONS.iter().flat_map(|kind| [(*kind, 1), (*kind, 4), (*kind, 8)]) {
        let (frame, transport) = extended(&vec![(kind, 2); count]).wrap(&row, TCP, &segment(&row));
        for len in [transport - 16, transport - 9, transport - 1, transport, transport + 19] {
            if len >= 60 {
                assert_eq!(bench.run(&frame[..len]), (PASS, vec!["malformed"]), "{kind} {count} {len}");
            }
        }
    }
    // A header that says it is longer than the frame.
    let (mut frame, _) = extended(&[(DESTINATION, 1)]).wrap(&row, TCP, &segment(&row));
    frame[55] = 255;
    assert_eq!(bench.run(&frame), (PASS, vec!["malformed"]));
}

#[test]
fn of_fragments_only_the_first_to_a_protected_port_is_dropped() {
    let mut bench = blocking();
    for tags in [vec![], vec![0x8100], vec![0x88a8, 0x8100]] {
        let within = |what: Part| Framing { tags: tags.clone(), ..part(what) };
        for row in rows(&[7; 64]) {
            let mut free = row.clone();
            free.source.set_ip(if row.source.is_ipv4() { "192.0.2.8" } else { "2001:db8::8" }.parse().unwrap());
            for (protocol, upper) in [(TCP, segment(&row)), (UDP, datagram(&row))] {
                let mut fate = |row: &Row, what, upper: &[u8]| bench.run(&within(what).wrap(row, protocol, upper).0);
                assert_eq!(fate(&row, FIRST, &upper), (DROP, vec!["address"]), "{protocol}");
                assert_eq!(fate(&row, MIDDLE, &upper), (PASS, vec!["fragment"]), "{protocol}");
                assert_eq!(fate(&row, LAST, &upper), (PASS, vec!["fragment"]), "{protocol}");
                assert_eq!(fate(&free, FIRST, &upper), (PASS, vec!["fragment"]), "{protocol}");
                let mut other = upper.clone();
                other[2..4].copy_from_slice(&22u16.to_be_bytes());
                assert_eq!(fate(&row, FIRST, &other), (PASS, vec!["other_port"]), "{protocol}");
                assert_eq!(fate(&row, MIDDLE, &other), (PASS, vec!["fragment"]), "{protocol}");
            }
            let icmp = within(FIRST).wrap(&row, ICMP, &[8; 64]).0;
            assert_eq!(bench.run(&icmp), (PASS, vec!["other_protocol"]));
        }
    }
}

/// Linux puts together an IPv4 datagram whose first fragment ends within the TCP header.
#[test]
fn a_tiny_first_fragment_is_dropped_by_its_ports() {
    let mut bench = blocking();
    for row in rows(b"") {
        // With twelve bytes of options.
        let mut upper = segment(&row);
        upper[12] = 0x80;
        upper.resize(32, 1);
        for len in [8, 16, 24, 32] {
            let (frame, _) = part(FIRST).wrap(&row, TCP, &upper[..len]);
            assert_eq!(bench.run(&frame), (DROP, vec!["address"]), "{len} bytes");
            let other = row.clone().service(22);
            let (frame, _) = part(FIRST).wrap(&other, TCP, &segment(&other)[..len.min(20)]);
            assert_eq!(bench.run(&frame), (PASS, vec!["other_port"]), "{len} bytes");
        }
        let (frame, _) = part(FIRST).wrap(&row, TCP, &upper[..4]);
        assert_eq!(bench.run(&frame), (PASS, vec!["malformed"]), "Linux drops it");
    }
}

#[test]
fn a_hello_in_a_first_fragment_is_counted_and_not_captured() {
    let mut bench = Bench::new();
    for (place, row) in rows(&hello(600)).iter().enumerate() {
        for tags in [vec![], vec![0x8100]] {
            let framing = Framing { tags, ..part(FIRST) };
            assert_eq!(bench.run(&framing.tcp(row)), (PASS, vec!["fragment"]));
        }
        assert_eq!(bench.counters().of(Counter::FragmentedHellos), place as u64 * 2 + 2);
        assert_eq!(bench.run(&part(FIRST).tcp(&Row { payload: b"GET /".to_vec(), ..row.clone() })).0, PASS);
    }
    assert_eq!(bench.counters().of(Counter::FragmentedHellos), 4);
    assert!(bench.events().is_empty());
}

/// One generated frame, and what must become of it.
struct Generated {
    frame: Vec<u8>,
    blocked: bool,
    /// Dropped if and only if in this range: `0..1` passes, `1..2` is dropped, `0..2` either.
    dropped: Range<u32>,
    what: String,
}

fn generate(random: &mut Random) -> Generated {
    let blocked = random.below(2) == 0;
    let port = random.one_of(&[443, 8443, 22, 80]);
    let mut row = Row::new(&hello(random.one_of(&[20, 300, 1200]))).service(port);
    if random.below(2) == 0 {
        row = row.v6();
    }
    if !blocked {
        row.source.set_ip(if row.source.is_ipv4() { "192.0.2.8" } else { "2001:db8::8" }.parse().unwrap());
    }
    let extensions = (0..random.below(10)).map(|_| (random.one_of(&EXTENSIONS), 1 + random.below(6)));
    let framing = Framing {
        extensions: extensions.collect(),
        tags: (0..random.below(4)).map(|_| random.one_of(&TAGS)).collect(),
        options: random.below(11),
        part: random.one_of(&[None, None, Some(FIRST), Some(MIDDLE), Some(LAST), Some(ATOMIC)]),
    };
    let (protocol, mut upper) = if random.below(2) == 0 { (TCP, segment(&row)) } else { (UDP, datagram(&row)) };
    if framing.part == Some(FIRST) {
        upper.truncate(8 + random.below(upper.len() / 8) / 8 * 8);
    }
    let (mut frame, transport) = framing.wrap(&row, protocol, &upper);
    let headers = framing.extensions.len() + usize::from(framing.part.is_some());
    let walked = framing.tags.len() <= 2 && (row.source.is_ipv4() || headers <= 8);
    let begins = framing.part.is_none_or(|part| part.offset == 0);
    let drop = blocked && walked && begins && matches!(port, 443 | 8443);
    let cut = random.below(2) == 0 && frame.len() > 60;
    if cut {
        frame.truncate(60 + random.below(frame.len() - 60));
    }
    // Where the frame ends before its IP header says, Linux takes none of it.
    let dropped = match (drop, cut && frame.len() < transport + 20) {
        (false, _) => 0..1,
        (true, true) => 0..2,
        (true, false) => 1..2,
    };
    let what = format!("{framing:?} of {protocol} from {} to {port}, cut: {cut}", row.source);
    Generated { frame, blocked, dropped, what }
}

#[test]
fn ten_thousand_framings_are_dropped_by_verdict_only() {
    let mut bench = blocking();
    let mut random = Random::new(16);
    let (mut dropped, mut complete) = (0, 0);
    for _ in 0..10_000 {
        let generated = generate(&mut random);
        let drop = u32::from(bench.act(&generated.frame) == DROP);
        assert!(generated.dropped.contains(&drop), "{drop} of {:?}: {}", generated.dropped, generated.what);
        dropped += u64::from(drop);
        complete += u64::from(generated.dropped.start);
        if generated.blocked {
            continue;
        }
        bench.events();
    }
    bench.assert_sums();
    let counters = bench.counters();
    assert_eq!(counters.of(Counter::DropAddress), dropped);
    assert_eq!(counters.of(Counter::Packets), 10_000);
    assert!(complete > 500, "{complete} had to be dropped");
    println!("10,000 framings: {dropped} dropped, each by its verdict; {complete} had to be");
}

/// threats.md T19. Whatever became of its other bytes, a frame that is dropped holds the blocked address.
#[test]
fn a_hundred_thousand_mutants_are_dropped_by_verdict_only() {
    let mut bench = blocking();
    let mut random = Random::new(19);
    let mut dropped = 0;
    for place in 0..100_000 {
        let Generated { mut frame, blocked, what, .. } = generate(&mut random);
        for _ in 0..=random.below(6) {
            let place = random.below(frame.len().min(140));
            frame[place] = random.below(256) as u8;
        }
        if place % 10 == 0 {
            frame.iter_mut().skip(12 + random.below(30)).for_each(|byte| *byte = random.below(256) as u8);
        }
        if bench.act(&frame) == DROP {
            dropped += 1;
            let named = |address: &[u8]| frame.windows(address.len()).any(|bytes| bytes == address);
            let source = named(&[192, 0, 2, 7]) || named(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
            assert!(source, "dropped without the blocked source: {frame:02x?}; {blocked}: {what}");
        }
        if place % 100 == 0 {
            bench.events();
        }
    }
    bench.assert_sums();
    let counters = bench.counters();
    assert_eq!(counters.of(Counter::DropAddress), dropped);
    assert_eq!(counters.of(Counter::Packets), 100_000);
    assert!(dropped > 1000, "{dropped} dropped");
    println!("100,000 mutants: {dropped} dropped, each from the blocked address");
}
