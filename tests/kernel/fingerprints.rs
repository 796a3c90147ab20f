//! Verdicts on fingerprints: the segment that completes a hello with a blocked one never reaches the server, however
//! often and in whatever pieces it comes; everything else does.

use detector::kernel::Slot;
use detector_common::mode::WHOLE_SHARE;
use detector_common::verdict::{Action, ORIGIN_OPERATOR, ORIGIN_RULE};
use detector_tests::deadline::{PATIENCE, until};

use ipnet::IpNet;

use crate::fixture::{SEEDS, Sample, samples};
use crate::{
    bench::{Bench, CLIENT, DROP, PASS, Row},
    states::udp,
};

/// The first byte's sequence number.
const BASE: u32 = 1000;

/// A hello of one segment and one of two, with other fingerprints, as their clients sent them; and the second one's key.
fn hellos() -> (&'static [u8], &'static [u8], u64) {
    let key = |sample: &Sample| sample.hello.fingerprint.keys.key;
    let short = samples().iter().find(|sample| sample.stream.len() < 700).expect("a short hello in the captures");
    let long = samples().iter().find(|sample| sample.stream.len() > 1500 && key(sample) != key(short));
    let long = long.expect("a long one");
    (&short.stream, &long.stream, key(long))
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.set(|settings| {
        (settings.keys, settings.seeds, settings.segments_per_flow) = (1, SEEDS, 64);
    });
    bench
}

const BLOCKED: (u32, &str) = (DROP, "fingerprint");
const PASSED: (u32, &str) = (PASS, "protected");

fn run(bench: &mut Bench, row: &Row) -> (u32, &'static str) {
    let (action, reasons) = bench.row(row);
    (action, reasons[0])
}

#[test]
fn a_blocked_hello_never_gets_through_whole_or_in_pieces() {
    let (short, long, key) = hellos();
    for v6 in [false, true] {
        let mut bench = bench();
        bench.block(Slot::Fingerprint(key), None);
        let client = |payload: &[u8], port| {
            let row = Row::new(payload).client_port(port).seq(BASE);
            if v6 { row.v6() } else { row }
        };
        assert_eq!(run(&mut bench, &client(long, 1)), BLOCKED);
        assert_eq!(run(&mut bench, &client(long, 1)), BLOCKED, "its retransmission");
        assert_eq!(run(&mut bench, &client(short, 2)), PASSED, "another fingerprint");
        for (port, cut) in (10..).zip((1..long.len()).step_by(7)) {
            let (first, second) = (client(&long[..cut], port), client(&long[cut..], port).seq(BASE + cut as u32));
            assert_eq!(run(&mut bench, &first), PASSED, "cut at {cut}");
            assert_eq!(run(&mut bench, &second), BLOCKED, "cut at {cut}");
            assert_eq!(run(&mut bench, &second), BLOCKED, "cut at {cut}: its retransmission");
            assert_eq!(run(&mut bench, &first), PASSED, "cut at {cut}: a retransmission that says nothing new");
            assert_eq!(run(&mut bench, &client(long, port)), BLOCKED, "cut at {cut}: all of it once more");
            assert_eq!(run(&mut bench, &second), BLOCKED, "cut at {cut}: after all that");
        }
        bench.assert_sums();
    }
}

#[test]
fn what_is_blocked_is_told_to_userspace_all_the_same() {
    let (_, long, key) = hellos();
    let mut bench = bench();
    bench.block(Slot::Fingerprint(key), None);
    assert_eq!(run(&mut bench, &Row::new(long).seq(BASE)), BLOCKED);
    let events = bench.events();
    assert_eq!((events.len(), events[0].0.key, &events[0].1), (1, key, &long.to_vec()));
}

#[test]
fn a_verdict_on_a_fingerprint_keeps_to_its_mode_its_end_and_the_allow_list() {
    let (_, long, key) = hellos();
    let slot = Slot::Fingerprint(key);
    let row = |port| Row::new(long).client_port(port).seq(BASE);
    let mut bench = bench();
    bench.enforce(false, WHOLE_SHARE);
    bench.put(slot, Action::Block, ORIGIN_RULE, None);
    assert_eq!(run(&mut bench, &row(1)), (PASS, "observed"));
    bench.put(slot, Action::Block, ORIGIN_OPERATOR, None);
    assert_eq!(run(&mut bench, &row(2)), BLOCKED, "an operator's holds in every mode");
    bench.put(Slot::Allow(CLIENT.into()), Action::Allow, ORIGIN_OPERATOR, None);
    assert_eq!(run(&mut bench, &row(3)), (PASS, "allowed"));

    let mut bench = self::bench();
    bench.put(slot, Action::Block, ORIGIN_OPERATOR, Some(1));
    assert_eq!(run(&mut bench, &row(1)), BLOCKED);
    let mut port = 2;
    let ended = until("the verdict's end", PATIENCE, || {
        port += 1;
        Ok((run(&mut bench, &row(port)) == PASSED).then_some(()))
    });
    ended.expect("a verdict that ends");
}

#[test]
fn a_verdict_on_a_fingerprint_from_one_source_hits_neither_its_neighbours_nor_its_other_clients() {
    let (short, long, key) = hellos();
    let stable = samples().iter().map(|sample| sample.hello.fingerprint.keys).find(|keys| keys.key == key);
    let stable = stable.expect("the long hello's own").stable;
    let (v4, v6): (IpNet, IpNet) = (CLIENT.into(), "2001:db8::/64".parse().unwrap());
    for (slot, is_v6) in [
        (Slot::Pair(v4, key), false),
        (Slot::StablePair(v4, stable), false),
        (Slot::Pair(v6, key), true),
        (Slot::StablePair(v6, stable), true),
    ] {
        let mut bench = bench();
        bench.block(slot, None);
        let client = |payload: &[u8], port, host: &str| {
            let mut row = Row::new(payload).client_port(port).seq(BASE);
            if is_v6 {
                row = row.v6();
            }
            if !host.is_empty() {
                row.source.set_ip(host.parse().unwrap());
            }
            row
        };
        assert_eq!(run(&mut bench, &client(long, 1, "")), (DROP, "pair"), "{slot:?}");
        assert_eq!(run(&mut bench, &client(short, 2, "")), PASSED, "{slot:?}: another client behind the address");
        let (same, neighbour) = if is_v6 { ("2001:db8::99", "2001:db8:0:1::7") } else { ("", "192.0.2.8") };
        assert_eq!(run(&mut bench, &client(long, 3, same)), (DROP, "pair"), "{slot:?}: the same unit");
        assert_eq!(run(&mut bench, &client(long, 4, neighbour)), PASSED, "{slot:?}: the neighbour");
    }
    let mut bench = bench();
    bench.block(Slot::Stable(stable), None);
    assert_eq!(run(&mut bench, &Row::new(long).seq(BASE)), BLOCKED);
    assert_eq!(run(&mut bench, &Row::new(short).client_port(2).seq(BASE)), PASSED);
}

/// threats.md T45: all of a /56, or of a /48, with one fingerprint, and nothing beside it.
#[test]
fn a_verdict_on_a_fingerprint_from_a_wider_prefix_ends_at_its_edge() {
    let (short, long, key) = hellos();
    let stable = samples().iter().map(|sample| sample.hello.fingerprint.keys).find(|keys| keys.key == key);
    let stable = stable.expect("the long hello's own").stable;
    for (prefix, inside, beside) in [
        ("2001:db8:0:ab00::/56", "2001:db8:0:abff:1::7", "2001:db8:0:ac00::7"),
        ("2001:db8::/56", "2001:db8::7", "2001:db8:0:100::7"),
        ("2001:db8:7::/48", "2001:db8:7:ffff:1::7", "2001:db8:8::7"),
    ] {
        let mut bench = bench();
        let client = |payload: &[u8], port, host: &str| {
            let mut row = Row::new(payload).client_port(port).seq(BASE).v6();
            row.source.set_ip(host.parse().unwrap());
            row
        };
        assert_eq!(run(&mut bench, &client(long, 1, inside)), PASSED, "{prefix}: before");
        bench.block(Slot::StablePair(prefix.parse().unwrap(), stable), None);
        assert_eq!(run(&mut bench, &client(long, 2, inside)), (DROP, "pair"), "{prefix}");
        assert_eq!(run(&mut bench, &client(short, 3, inside)), PASSED, "{prefix}: another client in it");
        assert_eq!(run(&mut bench, &client(long, 4, beside)), PASSED, "{prefix}: beside it");
        assert_eq!(run(&mut bench, &Row::new(long).client_port(5).seq(BASE)), PASSED, "{prefix}: IPv4");
    }
}

#[test]
fn a_blocked_hello_says_nothing_about_the_datagrams_after_it() {
    let (_, long, key) = hellos();
    let mut bench = bench();
    bench.block(Slot::Fingerprint(key), None);
    assert_eq!(run(&mut bench, &Row::new(long).seq(BASE)), BLOCKED);
    // A QUIC Initial packet's first bytes.
    let mut initial = vec![0xc0, 0, 0, 0, 1];
    initial.resize(1200, 0);
    assert_eq!(bench.run(&udp(&Row::new(&initial))).0, PASS);
}
