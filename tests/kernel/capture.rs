//! What is captured: hellos and nothing else, whole and in order.

use std::time::Instant;

use detector_common::{
    counter::Counter,
    event::{EVENT_PAYLOAD_MAX, EventHeader},
};
use detector_tests::figures::show;

use crate::bench::{Bench, PASS, Row, hello};

/// The sequence number of an event's segment.
fn seq(header: &EventHeader) -> u32 {
    let tcp = header.segment.tcp;
    u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])
}

#[test]
fn the_kernel_accepts_the_program_under_its_licence() {
    let start = Instant::now();
    let mut bench = Bench::new();
    let took = start.elapsed();
    let facts = bench.kernel.facts().unwrap();
    for facts in facts {
        assert!(facts.gpl_compatible, "the licence string must let it call GPL-only helpers");
        assert!(facts.verified_instructions < 250_000, "{} verified instructions", facts.verified_instructions);
    }
    let [xdp, egress] = facts.map(|facts| facts.verified_instructions);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let release = release.trim();
    show(&format!("Linux {release}: {xdp} and {egress} instructions verified, programs and maps loaded in {took:.1?}"));
}

#[test]
fn a_hello_in_one_segment_arrives_whole_and_leaves_no_trace() {
    let mut bench = Bench::new();
    for row in [Row::new(&hello(517)), Row::new(&hello(517)).v6()] {
        assert_eq!(bench.row(&row), (PASS, vec!["protected"]));
        let [(header, payload)] = bench.events().try_into().unwrap();
        assert_eq!(payload, row.payload);
        assert_eq!(seq(&header), 1000);
        assert_eq!((header.flow.source_port, header.flow.destination_port), (40_000, 443));
        assert_eq!(std::net::Ipv6Addr::from(header.flow.source).to_canonical(), row.source.ip());
        assert_eq!((header.payload_len, header.captured_len), (517, 517));
        // Data after it is nobody's business.
        bench.row(&Row { seq: 1517, payload: vec![23, 3, 3, 0, 64, 9], ..row });
        assert_eq!(bench.events().len(), 0);
    }
}

#[test]
fn a_hello_is_followed_over_segments_of_any_size() {
    for size in [1, 2, 5, 8, 11, 40, 524] {
        let mut bench = Bench::new();
        bench.set(|settings| settings.segments_per_flow = 4096);
        let whole = hello(1800);
        let mut seen = Vec::new();
        for (place, piece) in whole.chunks(size).enumerate() {
            let row = Row::new(piece).seq(1000 + (place * size) as u32);
            assert_eq!(bench.row(&row), (PASS, vec!["protected"]));
            seen.extend(bench.events().into_iter().flat_map(|(_, payload)| payload));
        }
        assert_eq!(seen, whole, "in pieces of {size}");
        bench.row(&Row::new(b"GET / HTTP/1.1").seq(2800));
        // The length stands in the first nine bytes; where a first segment is shorter, userspace ends it.
        let followed = usize::from(size < 9);
        assert_eq!(bench.events().len(), followed, "it ended with the hello's last byte, in pieces of {size}");
    }
}

#[test]
fn pieces_that_overtake_each_other_all_arrive() {
    let mut bench = Bench::new();
    let whole = hello(1800);
    let piece = |place: usize| Row::new(&whole[place * 300..(place + 1) * 300]).seq(1000 + place as u32 * 300);
    for place in [0, 3, 1, 5, 4, 2] {
        bench.row(&piece(place));
    }
    let events = bench.events();
    assert_eq!(events.len(), 6);
    for (header, payload) in events {
        let start = (seq(&header) - 1000) as usize;
        assert_eq!(payload, whole[start..start + 300]);
    }
}

#[test]
fn a_super_frame_arrives_whole_up_to_the_bound() {
    let mut bench = Bench::new();
    for len in [4000, 9000, EVENT_PAYLOAD_MAX, 20_000] {
        let row = Row::new(&hello(len)).client_port(len as u16);
        assert_eq!(bench.row(&row), (PASS, vec!["protected"]));
        let [(header, payload)] = bench.events().try_into().unwrap();
        assert_eq!(header.payload_len as usize, len);
        assert_eq!(payload, row.payload[..len.min(EVENT_PAYLOAD_MAX)]);
    }
}

#[test]
fn what_is_no_hello_is_not_copied() {
    let mut bench = Bench::new();
    let server_hello = [22, 3, 3, 0, 90, 2, 0, 0, 86, 3, 3, 0];
    let second_flight = [20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 53, 7];
    let key_exchange = [22, 3, 3, 0, 70, 16, 0, 0, 66, 65, 4, 1];
    for payload in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x", &server_hello, &second_flight, &key_exchange, &[0x16, 2]]
    {
        assert_eq!(bench.row(&Row::new(payload)), (PASS, vec!["protected"]));
    }
    assert_eq!(bench.events().len(), 0);
    assert_eq!(bench.counters().of(Counter::CapturedUnconfirmed), 0);
}

#[test]
fn a_second_hello_after_change_cipher_spec_is_captured() {
    let mut bench = Bench::new();
    let mut payload = vec![20, 3, 3, 0, 1, 1];
    payload.extend(hello(600));
    bench.row(&Row::new(&payload).seq(5000));
    let [(_, captured)] = bench.events().try_into().unwrap();
    assert_eq!(captured, payload);
}

#[test]
fn an_abandoned_hello_blinds_no_later_one_on_its_ports() {
    let mut bench = Bench::new();
    let whole = hello(1800);
    bench.row(&Row::new(&whole[..900]));
    // With its SYN seen, and without.
    bench.row(&Row::new(&[]).syn().seq(1100));
    bench.row(&Row::new(&whole[..900]).seq(1101));
    bench.row(&Row::new(&whole[..700]).seq(900_000));
    let events = bench.events();
    assert_eq!(events.len(), 3);
    assert_eq!(bench.counters().of(Counter::HellosStarted), 3, "each begins a hello of its own");
}

#[test]
fn following_ends_with_its_segments() {
    let mut bench = Bench::new();
    let whole = hello(1800);
    for (place, piece) in whole.chunks(10).enumerate() {
        bench.row(&Row::new(piece).seq(1000 + place as u32 * 10));
    }
    assert_eq!(bench.events().len(), 64, "as many as the settings say");
    assert_eq!(bench.counters().of(Counter::FollowsExpired), 1);
}

#[test]
fn a_full_ring_loses_events_by_count_and_passes_frames() {
    let mut bench = Bench::new();
    for port in 0..400 {
        assert_eq!(bench.row(&Row::new(&hello(3000)).client_port(port + 1)).0, PASS);
    }
    let counters = bench.counters();
    assert!(counters.of(Counter::LostUnconfirmed) > 0, "1 MiB doesn't hold 400 of 3 KB: {counters:?}");
    assert_eq!(bench.events().len() as u64, counters.of(Counter::SubmittedUnconfirmed));
}

#[test]
fn only_the_protected_ports_of_the_protected_addresses_are_looked_at() {
    let mut bench = Bench::new();
    assert_eq!(bench.row(&Row::new(&hello(517)).service(80)), (PASS, vec!["other_port"]));
    assert_eq!(bench.row(&Row::new(&hello(517)).service(8443)), (PASS, vec!["protected"]));
    assert_eq!(bench.events().len(), 1);
    let mut elsewhere = Row::new(&hello(517));
    elsewhere.destination.set_ip("192.0.2.99".parse().unwrap());
    assert_eq!(bench.row(&elsewhere), (PASS, vec!["other_address"]));
    assert_eq!(bench.events().len(), 0);
    bench.set(|settings| settings.local_only = 0);
    assert_eq!(bench.row(&elsewhere), (PASS, vec!["protected"]));
    assert_eq!(bench.events().len(), 1);
}

#[test]
fn everything_else_passes_by_its_cause() {
    let mut bench = Bench::new();
    let hello = Row::new(&hello(517)).frame();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = hello.clone();
        change(&mut frame);
        frame
    };
    let rows: [(&str, Vec<u8>); 8] = [
        ("not_ip", changed(&|frame| frame[12..14].copy_from_slice(&[0x08, 0x06]))),
        ("not_ip", changed(&|frame| frame[12..14].copy_from_slice(&[0x81, 0x00]))),
        ("other_protocol", changed(&|frame| frame[23] = 1)),
        ("fragment", changed(&|frame| frame[20] = 0x20)),
        ("fragment", changed(&|frame| frame[21] = 5)),
        ("malformed", changed(&|frame| frame[14] = 0x44)),
        ("malformed", changed(&|frame| frame[46] = 0x10)),
        ("malformed", changed(&|frame| frame[16..18].copy_from_slice(&[0, 30]))),
    ];
    for (cause, frame) in rows {
        assert_eq!(bench.run(&frame), (PASS, vec![cause]));
    }
    assert_eq!(bench.events().len(), 0);
}
