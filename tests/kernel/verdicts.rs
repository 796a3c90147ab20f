//! What is dropped: what a live verdict names, on a protected port of a protected address, and no more.

use std::{net::IpAddr, time::Duration};

use detector::{
    clock::{Timestamp, monotonic},
    kernel::{Slot, VerdictMaps as _},
};
use detector_common::{
    counter::Counter,
    mode::{Mode, WHOLE_SHARE},
    settings::IN_USE_IPV4,
    verdict::{Action, FOREVER, ORIGIN_AUTOMATIC, ORIGIN_OPERATOR, ORIGIN_RULE, Rate, Verdict},
};
use detector_tests::deadline::{PATIENCE, until};

use crate::{
    bench::{Bench, CLIENT, CLIENT_V6, DROP, PASS, Row},
    states::{dtls, quic, udp},
};

fn connection(row: &Row, initial_seq: u32) -> Slot {
    Slot::Connection { source: row.source, destination: row.destination, initial_seq }
}

#[test]
fn a_blocked_address_is_dropped_on_protected_ports_only() {
    let mut bench = Bench::new();
    bench.block(Slot::Address(CLIENT), None);
    bench.block(Slot::Address(CLIENT_V6), None);
    for row in [Row::new(b"x"), Row::new(b"x").v6(), Row::new(&[]).syn(), Row::new(&[]).rst()] {
        assert_eq!(bench.row(&row), (DROP, vec!["address"]), "{row:?}");
    }
    assert_eq!(bench.row(&Row::new(b"x").service(22)), (PASS, vec!["other_port"]), "SSH is out of reach");
    let mut elsewhere = Row::new(b"x");
    elsewhere.destination.set_ip("192.0.2.99".parse().unwrap());
    assert_eq!(bench.row(&elsewhere), (PASS, vec!["other_address"]));
    let mut neighbour = Row::new(b"x");
    neighbour.source.set_ip("192.0.2.8".parse().unwrap());
    assert_eq!(bench.row(&neighbour), (PASS, vec!["protected"]));
    assert_eq!(bench.maps.hits(&Slot::Address(CLIENT)), Some(3));
    bench.maps.remove(&Slot::Address(CLIENT)).unwrap();
    assert_eq!(bench.row(&Row::new(b"x")), (PASS, vec!["protected"]));
}

#[test]
fn a_blocked_prefix_reaches_to_its_edges() {
    let mut bench = Bench::new();
    bench.block(Slot::Prefix("192.0.2.4/30".parse().unwrap()), None);
    bench.block(Slot::Prefix("2001:db8::/64".parse().unwrap()), None);
    for (address, action) in [("192.0.2.3", PASS), ("192.0.2.4", DROP), ("192.0.2.7", DROP), ("192.0.2.8", PASS)] {
        let mut row = Row::new(b"x");
        row.source.set_ip(address.parse().unwrap());
        assert_eq!(bench.row(&row).0, action, "{address}");
    }
    for (address, action) in [("2001:db8::ffff", DROP), ("2001:db8:0:1::7", PASS)] {
        let mut row = Row::new(b"x").v6();
        row.source.set_ip(address.parse().unwrap());
        assert_eq!(bench.row(&row).0, action, "{address}");
    }
}

#[test]
fn all_of_ipv4_can_be_blocked_and_ipv6_goes_on() {
    let mut bench = Bench::new();
    bench.block(Slot::Prefix("0.0.0.0/0".parse().unwrap()), None);
    assert_eq!(bench.row(&Row::new(b"x")), (DROP, vec!["prefix"]));
    assert_eq!(bench.row(&Row::new(b"x").v6()), (PASS, vec!["protected"]));
    assert_eq!(bench.row(&Row::new(b"x").service(22)), (PASS, vec!["other_port"]));
}

#[test]
fn the_allow_list_wins_over_every_verdict() {
    let mut bench = Bench::new();
    let row = Row::new(b"x");
    bench.put(Slot::Allow("192.0.2.0/28".parse().unwrap()), Action::Allow, ORIGIN_OPERATOR, None);
    for slot in [Slot::Address(CLIENT), Slot::Prefix("192.0.2.7/32".parse().unwrap()), connection(&row, 999)] {
        bench.block(slot, None);
        assert_eq!(bench.row(&row), (PASS, vec!["allowed"]), "{slot:?}");
    }
    bench.maps.remove(&Slot::Allow("192.0.2.0/28".parse().unwrap())).unwrap();
    assert_eq!(bench.row(&row).0, DROP);
}

#[test]
fn the_kernel_ends_a_verdict_by_itself() {
    let mut bench = Bench::new();
    bench.block(Slot::Address(CLIENT), Some(1));
    assert_eq!(bench.row(&Row::new(b"x")).0, DROP);
    until("the verdict to end", PATIENCE, || Ok((bench.row(&Row::new(b"x")).0 == PASS).then_some(()))).unwrap();
    assert_eq!(bench.maps.hits(&Slot::Address(CLIENT)).map(|hits| hits > 0), Some(true), "nobody removed it");
}

#[test]
fn an_expired_allow_entry_allows_nothing() {
    let mut bench = Bench::new();
    bench.block(Slot::Address(CLIENT), None);
    bench.put(Slot::Allow("192.0.2.7/32".parse().unwrap()), Action::Allow, ORIGIN_OPERATOR, Some(0));
    // The kernel's coarse clock may be some milliseconds behind.
    until("the allow entry to end", PATIENCE, || Ok((bench.row(&Row::new(b"x")).0 == DROP).then_some(()))).unwrap();
}

#[test]
fn a_rule_of_the_configuration_holds_only_while_enforcing() {
    let mut bench = Bench::new();
    let row = Row::new(b"x");
    bench.put(connection(&row, 999), Action::Block, ORIGIN_RULE, None);
    assert_eq!(bench.row(&row), (PASS, vec!["observed"]));
    bench.enforce(true, WHOLE_SHARE);
    assert_eq!(bench.row(&row), (DROP, vec!["connection"]));
}

#[test]
fn a_verdict_on_a_connection_hits_nothing_else() {
    let mut bench = Bench::new();
    let row = Row::new(b"x");
    bench.block(connection(&row, 999), None);
    assert_eq!(bench.row(&row), (DROP, vec!["connection"]));
    assert_eq!(bench.row(&Row::new(b"x").client_port(40_001)), (PASS, vec!["protected"]), "another client of the NAT");
    assert_eq!(bench.row(&Row::new(&[]).rst()), (PASS, vec!["protected"]), "a reset frees the server's socket");
    // Its own SYN again is the same connection; one with another number is the port's next owner.
    assert_eq!(bench.row(&Row::new(&[]).syn().seq(999)), (DROP, vec!["connection"]));
    assert_eq!(bench.row(&Row::new(&[]).syn().seq(777_777)), (PASS, vec!["protected"]));
    assert_eq!(bench.row(&Row::new(b"x").seq(777_778)), (PASS, vec!["protected"]));
    assert_eq!(bench.counters().of(Counter::ConnectionsReplaced), 1);
}

const QUIC_V1: u32 = 1;
const QUIC_V2: u32 = 0x6b33_43cf;

/// What goes over UDP besides QUIC Initial packets.
fn other_datagrams() -> [(&'static str, Vec<u8>); 7] {
    [
        ("a Handshake packet", quic(0xe0, QUIC_V1, 1200)),
        ("0-RTT", quic(0xd0, QUIC_V1, 1200)),
        ("a short header", vec![0x41; 1200]),
        ("version negotiation", quic(0xc0, 0, 1200)),
        ("a DTLS ClientHello", dtls(0xfd, 0, 1)),
        ("DNS", vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 0x77, 0x77]),
        ("one byte", vec![0xc0]),
    ]
}

#[test]
fn a_verdict_on_a_udp_connection_hits_every_datagram_of_it_and_nothing_else() {
    for family in [Row::new, |payload: &[u8]| Row::new(payload).v6()] {
        let mut bench = Bench::new();
        let Row { source, destination, .. } = family(b"");
        bench.block(Slot::Datagrams { source, destination }, None);
        for (what, payload) in other_datagrams().into_iter().chain([("an Initial", quic(0xc0, QUIC_V1, 1200))]) {
            let row = family(&payload);
            assert_eq!(bench.run(&udp(&row)), (DROP, vec!["connection"]), "{what}");
            let other = (PASS, vec!["protected"]);
            assert_eq!(bench.run(&udp(&row.clone().client_port(40_001))), other, "{what} of another client of the NAT");
            assert_eq!(bench.run(&udp(&row.clone().service(8443))), other, "{what} to another port");
        }
        assert_eq!(bench.maps.hits(&Slot::Datagrams { source, destination }), Some(8));
        // The same numbers are another connection over TCP, with a verdict of its own or none.
        assert_eq!(bench.row(&family(b"x")), (PASS, vec!["protected"]));
        bench.block(connection(&family(b"x"), 999), None);
        assert_eq!(bench.row(&family(b"x")), (DROP, vec!["connection"]));
        bench.maps.remove(&Slot::Datagrams { source, destination }).unwrap();
        assert_eq!(bench.run(&udp(&family(b"x"))), (PASS, vec!["protected"]));
        assert_eq!(bench.row(&family(b"x")), (DROP, vec!["connection"]), "the verdict on the TCP connection stays");
    }
}

#[test]
fn a_source_without_quic_loses_its_initial_packets_and_nothing_else() {
    for (slot, family, neighbour) in [
        ("192.0.2.7/32", Row::new as fn(&[u8]) -> Row, "192.0.2.8"),
        ("2001:db8::/64", |payload: &[u8]| Row::new(payload).v6(), "2001:db8:0:1::7"),
    ] {
        let mut bench = Bench::new();
        let slot = Slot::Initials(slot.parse().unwrap());
        bench.block(slot, None);
        for (what, payload) in [
            ("an Initial", quic(0xc0, QUIC_V1, 1200)),
            ("a jumbo Initial", quic(0xcf, QUIC_V1, 2800)),
            ("an Initial of version 2", quic(0xd0, QUIC_V2, 1200)),
            ("an Initial of draft 29", quic(0xc3, 0xff00_001d, 1200)),
        ] {
            let row = family(&payload);
            for row in [row.clone(), row.clone().client_port(40_001), row.clone().service(8443)] {
                assert_eq!(bench.run(&udp(&row)), (DROP, vec!["initial"]), "{what}");
            }
            assert_eq!(bench.run(&udp(&row.clone().service(53))), (PASS, vec!["other_port"]), "{what}");
            assert_eq!(bench.row(&row), (PASS, vec!["protected"]), "its bytes over TCP");
            let mut neighbours = row;
            neighbours.source.set_ip(neighbour.parse().unwrap());
            assert_eq!(bench.run(&udp(&neighbours)), (PASS, vec!["protected"]), "{what}");
        }
        for (what, payload) in other_datagrams() {
            assert_eq!(bench.run(&udp(&family(&payload))), (PASS, vec!["protected"]), "{what}");
        }
        assert_eq!(bench.row(&family(&[]).syn()), (PASS, vec!["protected"]));
        assert_eq!(bench.maps.hits(&slot), Some(12));
        bench.put(Slot::Allow("::/0".parse().unwrap()), Action::Allow, ORIGIN_OPERATOR, None);
        assert_eq!(bench.run(&udp(&family(&quic(0xc0, QUIC_V1, 1200)))), (PASS, vec!["allowed"]));
    }
}

#[test]
fn by_a_rule_of_the_configuration_initial_packets_are_dropped_only_while_enforcing() {
    let mut bench = Bench::new();
    let initial = udp(&Row::new(&quic(0xc0, QUIC_V1, 1200)));
    bench.put(Slot::Initials("192.0.2.7/32".parse().unwrap()), Action::Block, ORIGIN_RULE, Some(60));
    assert_eq!(bench.run(&initial), (PASS, vec!["observed"]));
    bench.enforce(true, WHOLE_SHARE);
    assert_eq!(bench.run(&initial), (DROP, vec!["initial"]));
    bench.put(Slot::NeverBlock("192.0.2.7/32".parse().unwrap()), Action::Allow, ORIGIN_OPERATOR, None);
    assert_eq!(bench.run(&initial), (PASS, vec!["never_block"]));
}

/// As many addresses.
fn clients(count: u32) -> impl Iterator<Item = IpAddr> {
    (0..count).map(|client| IpAddr::from((u32::from_be_bytes([198, 18, 0, 0]) + client).to_be_bytes()))
}

fn from(address: IpAddr) -> Row {
    let mut row = Row::new(b"x");
    row.source.set_ip(address);
    row
}

#[test]
fn automatic_verdicts_hold_in_their_mode_for_their_share_while_the_daemon_lives() {
    let mut bench = Bench::new();
    let count = 1_000;
    for client in clients(count) {
        bench.put(Slot::Address(client), Action::Block, ORIGIN_AUTOMATIC, Some(600));
    }
    bench.block(Slot::Address(CLIENT), None);
    let dropped = |bench: &mut Bench| {
        assert_eq!(bench.row(&Row::new(b"x")), (DROP, vec!["address"]), "an operator's holds always");
        clients(count).filter(|client| bench.act(&from(*client).frame()) == DROP).count()
    };
    bench.enforce(true, WHOLE_SHARE);
    assert_eq!(dropped(&mut bench), count as usize);
    bench.enforce(false, WHOLE_SHARE);
    assert_eq!(dropped(&mut bench), 0);
    bench.enforce(true, WHOLE_SHARE / 10);
    let tenth = dropped(&mut bench);
    assert!((50..=150).contains(&tenth), "{tenth} of {count} in a tenth");
    bench.enforce(true, 0);
    assert_eq!(dropped(&mut bench), 0);
    // For a while, then something else.
    let soon = monotonic().plus(Duration::from_secs(3)).as_nanos();
    let brief = Mode { enforce: 1, afterwards: 0, until: soon, share: WHOLE_SHARE, by_operator: 1 };
    bench.maps.set_mode(brief).unwrap();
    let first = clients(1).next().unwrap();
    assert_eq!(bench.row(&from(first)).0, DROP);
    until("the mode to end", PATIENCE, || Ok((bench.row(&from(first)).0 == PASS).then_some(()))).unwrap();
    // The dead man's hand.
    bench.enforce(true, WHOLE_SHARE);
    let long = Duration::from_secs(61);
    // A machine that has just been started was not silent for so long.
    let up = || Ok((monotonic().since(Timestamp::default()) > long).then_some(()));
    until("the machine to be up for a minute", 2 * long, up).unwrap();
    let silence = |seconds: u64| Timestamp::from_nanos(monotonic().as_nanos() - seconds * 1_000_000_000);
    bench.maps.beat(silence(58)).unwrap();
    assert_eq!(dropped(&mut bench), count as usize);
    bench.maps.beat(silence(61)).unwrap();
    assert_eq!(dropped(&mut bench), 0);
}

#[test]
fn an_ipv6_verdict_takes_in_its_64_and_no_neighbour() {
    let mut bench = Bench::new();
    bench.block(Slot::Prefix("2001:db8:0:5::/64".parse().unwrap()), None);
    for (address, action) in [
        ("2001:db8:0:5::1", DROP),
        ("2001:db8:0:5:ffff:ffff:ffff:ffff", DROP),
        ("2001:db8:0:4:ffff:ffff:ffff:ffff", PASS),
        ("2001:db8:0:6::", PASS),
    ] {
        let mut row = Row::new(b"x").v6();
        row.source.set_ip(address.parse().unwrap());
        assert_eq!(bench.row(&row).0, action, "{address}");
    }
}

#[test]
fn the_hardest_of_several_verdicts_applies() {
    let mut bench = Bench::new();
    bench.put(Slot::Address(CLIENT), Action::Observe, ORIGIN_OPERATOR, None);
    assert_eq!(bench.row(&Row::new(b"x")), (PASS, vec!["observed"]));
    bench.put(Slot::Prefix("192.0.2.0/24".parse().unwrap()), Action::Challenge, ORIGIN_OPERATOR, None);
    assert_eq!(bench.row(&Row::new(b"x")), (PASS, vec!["challenged"]));
    bench.put(Slot::Prefix("192.0.2.0/28".parse().unwrap()), Action::Block, ORIGIN_AUTOMATIC, Some(60));
    assert_eq!(bench.row(&Row::new(b"x")), (PASS, vec!["observed"]), "the longest prefix, in mode observe");
    bench.enforce(true, WHOLE_SHARE);
    assert_eq!(bench.row(&Row::new(b"x")), (DROP, vec!["prefix"]));
    bench.put(Slot::NeverBlock("192.0.2.7/32".parse().unwrap()), Action::Allow, ORIGIN_OPERATOR, None);
    assert_eq!(bench.row(&Row::new(b"x")), (PASS, vec!["never_block"]));
}

#[test]
fn a_table_of_many_is_right_about_every_address() {
    let mut bench = Bench::new();
    // Three fifths of the cells and some: many buckets are full.
    let blocked: Vec<IpAddr> = clients(300_000).collect();
    let put = |bench: &mut Bench, address| {
        let verdict = Verdict::new(Action::Block, ORIGIN_OPERATOR, 1, FOREVER);
        bench.maps.put(&Slot::Address(address), verdict).expect("room in the table");
    };
    for address in &blocked {
        put(&mut bench, *address);
    }
    bench.set(|settings| settings.in_use = IN_USE_IPV4);
    for address in blocked.iter().step_by(7) {
        assert_eq!(bench.act(&from(*address).frame()), DROP, "{address}");
    }
    for other in (0..20_000u32).map(|n| IpAddr::from([203, 0, (n >> 8) as u8, n as u8])) {
        assert_eq!(bench.act(&from(other).frame()), PASS, "{other}");
    }
    for address in blocked.iter().step_by(2) {
        bench.maps.remove(&Slot::Address(*address)).unwrap();
    }
    for (place, address) in blocked.iter().enumerate().step_by(7) {
        let expected = if place % 2 == 0 { PASS } else { DROP };
        assert_eq!(bench.act(&from(*address).frame()), expected, "{address}");
    }
}

#[test]
fn new_connections_come_at_the_agreed_rate_and_accepted_ones_go_on() {
    let mut bench = Bench::new();
    let slot = Slot::Address(CLIENT);
    let rate = Rate { due_at: 0, interval_ns: 50_000_000, tolerance_ns: 100_000_000 };
    bench.maps.set_rate(&slot, rate).unwrap();
    bench.put(slot, Action::RateLimit, ORIGIN_OPERATOR, None);
    let syn = |port: u16, seq| Row::new(&[]).syn().client_port(port).seq(seq);
    let start = monotonic();
    let (mut port, mut passed) = (0u16, 0u32);
    let lasted = until("three seconds of SYNs", PATIENCE, || {
        port += 1;
        passed += u32::from(bench.act(&syn(port, 7).frame()) == PASS);
        let lasted = monotonic().since(start);
        Ok((lasted >= Duration::from_secs(3)).then_some(lasted))
    });
    // A burst of two and the one that is due, then twenty a second.
    let agreed = 3.0 + lasted.unwrap().as_secs_f64() * 20.0;
    assert!((f64::from(passed) / agreed - 1.0).abs() < 0.05, "{passed} passed of {agreed:.0}");
    assert!(u32::from(port) > 2 * passed, "there were more to limit");
    assert_eq!(bench.row(&syn(1, 7)), (PASS, vec!["limited"]), "the same SYN once more");
    for _ in 0..100 {
        assert_eq!(bench.row(&Row::new(b"x").client_port(1)), (PASS, vec!["limited"]), "a connection that was let in");
    }
    let dropped = (1..=port).map(|port| bench.row(&syn(port, 9))).find(|(action, _)| *action == DROP);
    assert_eq!(dropped, Some((DROP, vec!["rate_limit"])));
}
