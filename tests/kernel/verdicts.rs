//! What is dropped: what a live verdict names, on a protected port of a protected address, and no more.

use detector::kernel::{Slot, VerdictMaps as _};
use detector_common::{
    counter::Counter,
    verdict::{Action, ORIGIN_OPERATOR, ORIGIN_RULE},
};
use detector_tests::deadline::{PATIENCE, until};

use crate::bench::{Bench, CLIENT, CLIENT_V6, DROP, PASS, Row};

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
    bench.set(|settings| settings.enforce = 1);
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
