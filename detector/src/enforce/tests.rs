//! The verdicts against maps in memory: what is in force is what the kernel was told.

use std::time::Duration;

use detector_common::settings::{IN_USE_INITIALS, IN_USE_IPV4, IN_USE_KEYS};

use super::{
    automatic::{AUTOMATIC_TTL_MAX, Automatic, Placed, unit_slot},
    handover::{Handed, TakenOver},
    *,
};
use crate::kernel::memory::MemoryMaps;

const JA4: &str = "t13d1516h2_8daaf6152771_d8a2da3f94cd";

const LIMITS: Limits = Limits {
    addresses: 8,
    prefixes: 8,
    ja4_rules: 4,
    quic_sources: 2,
    automatic: 4,
    automatic_per_second: 1_000,
    units: 8,
};

/// Keys that are one number.
fn keys(key: u64) -> Keys {
    Keys { key, stable: key }
}

fn enforcer(capacity: usize) -> Enforcer<MemoryMaps> {
    Enforcer::new(MemoryMaps::new(capacity), Settings::default(), Rules::default(), LIMITS).unwrap()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

fn client(port: u16) -> (SocketAddr, SocketAddr) {
    (SocketAddr::from(([192, 0, 2, 7], port)), SocketAddr::from(([192, 0, 2, 1], 443)))
}

#[test]
fn a_block_is_in_the_maps_until_it_ends_or_is_taken_back() {
    let mut enforcer = enforcer(8);
    let address: IpAddr = "192.0.2.7".parse().unwrap();
    enforcer.block_address(address, Some(at(10))).unwrap();
    assert_eq!(enforcer.maps().settings.in_use, IN_USE_IPV4, "the program must look into the table");
    let verdict = enforcer.maps().verdicts[&Slot::Address(address)];
    assert_eq!((verdict.expires_at, verdict.action), (at(10).as_nanos(), Action::Block as u8));

    enforcer.expire(at(9), 64).unwrap();
    assert_eq!(enforcer.counts().address, 1);
    enforcer.expire(at(10), 64).unwrap();
    assert_eq!(enforcer.counts().address, 0);
    assert!(enforcer.maps().verdicts.is_empty());
    assert_eq!(enforcer.maps().settings.in_use, 0, "an empty table costs no look-up");

    enforcer.block_address(address, None).unwrap();
    assert!(enforcer.remove(&Slot::Address(address)).unwrap());
    assert!(!enforcer.remove(&Slot::Address(address)).unwrap(), "there was nothing left to take back");
}

#[test]
fn a_repeated_block_has_the_latest_ttl() {
    let mut enforcer = enforcer(8);
    let address: IpAddr = "2001:db8::7".parse().unwrap();
    enforcer.block_address(address, Some(at(10))).unwrap();
    enforcer.block_address(address, Some(at(100))).unwrap();
    enforcer.expire(at(50), 64).unwrap();
    assert_eq!(enforcer.counts().address, 1);
}

#[test]
fn a_hello_with_a_blocked_ja4_blocks_its_connection_only() {
    let mut enforcer = enforcer(8);
    let (source, destination) = client(40_000);
    let ja4: Ja4 = JA4.parse().unwrap();
    assert_eq!(enforcer.judge(source, destination, 7, (ja4, keys(9)), at(0)).unwrap(), Decision::Pass);
    enforcer.block_ja4(ja4, None, Some(at(20))).unwrap();
    let decision = enforcer.judge(source, destination, 7, (ja4, keys(9)), at(1)).unwrap();
    assert_eq!(decision, Decision::Block { origin: Origin::Operator, until: Some(at(20)) });
    let slot = Slot::Connection { source, destination, initial_seq: 7 };
    assert_eq!(enforcer.maps().verdicts[&slot].expires_at, at(20).as_nanos());
    assert_eq!(enforcer.list().count(), 0, "connections are not listed one by one");

    assert!(enforcer.unblock_ja4(ja4).unwrap());
    assert!(enforcer.maps().verdicts.is_empty(), "unblocking restores connections too");
    assert_eq!(enforcer.judge(source, destination, 7, (ja4, keys(9)), at(2)).unwrap(), Decision::Pass);
}

#[test]
fn a_rule_that_lasts_forever_makes_verdicts_that_end() {
    let mut enforcer = enforcer(8);
    let (source, destination) = client(40_000);
    let ja4: Ja4 = JA4.parse().unwrap();
    enforcer.block_ja4(ja4, None, None).unwrap();
    enforcer.judge(source, destination, 7, (ja4, keys(9)), at(5)).unwrap();
    let slot = Slot::Connection { source, destination, initial_seq: 7 };
    let end = at(5).plus(CONNECTION_VERDICT_MAX);
    assert_eq!(enforcer.maps().verdicts[&slot].expires_at, end.as_nanos());
    enforcer.expire(end.plus(Duration::from_secs(1)), 64).unwrap();
    assert_eq!(enforcer.counts(), Counts { ja4: 1, ..Counts::default() });
}

#[test]
fn a_full_table_gives_up_the_oldest_connection_and_refuses_more_addresses() {
    let mut enforcer = enforcer(2);
    let ja4: Ja4 = JA4.parse().unwrap();
    enforcer.block_ja4(ja4, None, None).unwrap();
    for port in [1, 2, 3] {
        let (source, destination) = client(port);
        enforcer.judge(source, destination, 7, (ja4, keys(9)), at(u64::from(port))).unwrap();
    }
    assert_eq!(enforcer.counts().connection, 2);
    assert_eq!(enforcer.evicted(), 1);
    let (source, destination) = client(1);
    assert!(!enforcer.maps().verdicts.contains_key(&Slot::Connection { source, destination, initial_seq: 7 }));

    enforcer.block_address("192.0.2.1".parse().unwrap(), None).unwrap();
    enforcer.block_address("192.0.2.2".parse().unwrap(), None).unwrap();
    let error = enforcer.block_address("192.0.2.3".parse().unwrap(), None).unwrap_err();
    assert!(error.to_string().contains("limits.addresses"), "{error}");
    assert_eq!(enforcer.counts().address, 2);
}

#[test]
fn a_blocked_quic_hello_ends_its_connection_and_its_sources_new_ones_for_a_minute() {
    let mut enforcer = enforcer(64);
    let ja4: Ja4 = JA4.parse().unwrap();
    let server = client(1).1;
    let quic = |enforcer: &mut Enforcer<MemoryMaps>, source, transport, seconds| {
        enforcer.judge_datagrams(source, server, transport, (ja4, keys(9)), at(seconds)).unwrap()
    };
    let host = |last: u8, port| SocketAddr::from(([192, 0, 2, last], port));
    let initials = |last: u8| Slot::Initials(unit(host(last, 0).ip()));
    assert_eq!(quic(&mut enforcer, host(7, 1), Transport::Quic, 0), Decision::Pass);
    assert!(enforcer.maps().verdicts.is_empty());
    enforcer.block_ja4(ja4, None, Some(at(1_000))).unwrap();

    quic(&mut enforcer, host(6, 1), Transport::Dtls, 1);
    let dtls = Slot::Datagrams { source: host(6, 1), destination: server };
    assert_eq!(enforcer.until(&dtls), Some(Some(at(1_000))));
    assert_eq!(enforcer.until(&initials(6)), None, "DTLS isn't QUIC");

    quic(&mut enforcer, host(7, 1), Transport::Quic, 1);
    assert_eq!(enforcer.until(&Slot::Datagrams { source: host(7, 1), destination: server }), Some(Some(at(1_000))));
    assert_eq!(enforcer.until(&initials(7)), Some(Some(at(61))));
    quic(&mut enforcer, host(7, 2), Transport::Quic, 30);
    assert_eq!(enforcer.until(&initials(7)), Some(Some(at(90))), "from the latest sighting on");
    let counts = enforcer.counts();
    assert_eq!((counts.connection, counts.quic_source), (3, 1));
    assert!(!enforcer.maps().verdicts.contains_key(&Slot::Fingerprint(9)), "the program reads no keys over UDP");

    // Of more sources than may be, the one goes whose verdict would end first.
    quic(&mut enforcer, host(8, 1), Transport::Quic, 31);
    quic(&mut enforcer, host(9, 1), Transport::Quic, 32);
    assert_eq!((enforcer.counts().quic_source, enforcer.evicted()), (2, 1));
    assert_eq!(enforcer.until(&initials(7)), None);
    enforcer.expire(at(91), 64).unwrap();
    assert_eq!((enforcer.counts().quic_source, enforcer.until(&initials(9))), (1, Some(Some(at(92)))));
    enforcer.expire(at(92), 64).unwrap();
    assert_eq!(enforcer.maps().settings.in_use & IN_USE_INITIALS, 0);

    quic(&mut enforcer, host(9, 2), Transport::Quic, 100);
    assert!(enforcer.unblock_ja4(ja4).unwrap());
    assert!(enforcer.maps().verdicts.is_empty(), "unblocking restores QUIC too");
}

#[test]
fn a_rule_of_the_configuration_says_so_to_the_kernel() {
    let ja4: Ja4 = JA4.parse().unwrap();
    let mut rules = Rules::default();
    rules.configure([ja4]);
    let mut enforcer = Enforcer::new(MemoryMaps::new(8), Settings::default(), rules, LIMITS).unwrap();
    let (source, destination) = client(9);
    enforcer.judge(source, destination, 7, (ja4, keys(9)), at(0)).unwrap();
    let slot = Slot::Connection { source, destination, initial_seq: 7 };
    assert_eq!(enforcer.maps().verdicts[&slot].origin, ORIGIN_RULE);
    assert!(!enforcer.unblock_ja4(ja4).unwrap(), "the operator didn't block it; the configuration did");
}

#[test]
fn a_fingerprint_is_armed_at_once_if_it_was_seen_and_at_first_sighting_otherwise() {
    let mut enforcer = enforcer(8);
    let ja4: Ja4 = JA4.parse().unwrap();
    let armed = |enforcer: &mut Enforcer<MemoryMaps>, key| {
        enforcer.maps().verdicts.get(&Slot::Fingerprint(key)).map(|verdict| verdict.expires_at)
    };
    enforcer.block_ja4(ja4, Some(9), Some(at(20))).unwrap();
    assert_eq!(armed(&mut enforcer, 9), Some(at(20).as_nanos()));
    assert_eq!(enforcer.maps().settings.in_use & IN_USE_KEYS, IN_USE_KEYS);
    // JA4 is a short hash: what it stands for may have another key.
    let (source, destination) = client(40_000);
    enforcer.judge(source, destination, 7, (ja4, keys(10)), at(1)).unwrap();
    assert_eq!(armed(&mut enforcer, 10), Some(at(20).as_nanos()));
    // Asked for again, for longer.
    enforcer.block_ja4(ja4, None, Some(at(30))).unwrap();
    assert_eq!((armed(&mut enforcer, 9), armed(&mut enforcer, 10)), (Some(at(30).as_nanos()), Some(at(30).as_nanos())));
    assert_eq!(enforcer.list().count(), 0, "the rule is listed, not what it is armed with");
    enforcer.expire(at(30), 64).unwrap();
    assert!(enforcer.maps().verdicts.is_empty());
    assert_eq!(enforcer.maps().settings.in_use & IN_USE_KEYS, 0);
}

fn block_for(seconds: u64) -> Automatic {
    Automatic { action: Action::Block, reason: 3, rate: None, ja4: None, ttl: Duration::from_secs(seconds) }
}

#[test]
fn of_too_many_automatic_verdicts_the_mildest_that_ends_first_goes_and_comes_back_with_its_client() {
    let mut enforcer = enforcer(64);
    let host = |last: u8| IpAddr::from([198, 51, 100, last]);
    enforcer.block_address(host(200), None).unwrap();
    for last in 1..=4 {
        let verdict = block_for(100 - u64::from(last));
        assert_eq!(enforcer.automatic(unit_slot(host(last)), verdict, at(1)).unwrap(), Placed::InForce);
    }
    assert_eq!(enforcer.automatic(unit_slot(host(200)), block_for(9), at(1)).unwrap(), Placed::Overruled);
    enforcer.automatic(unit_slot(host(5)), block_for(500), at(1)).unwrap();
    assert_eq!((enforcer.counts().automatic, enforcer.counts().address), (4, 1));
    assert_eq!(enforcer.until(&unit_slot(host(4))), None, "it would have ended first");
    assert_eq!(enforcer.automatic_lost(), (1, 0));

    let ja4: Ja4 = JA4.parse().unwrap();
    let source = SocketAddr::new(host(4), 40_000);
    enforcer.judge(source, client(1).1, 7, (ja4, keys(9)), at(2)).unwrap();
    assert_eq!(
        enforcer.until(&unit_slot(host(4))),
        Some(Some(at(97))),
        "its client came again, and its end is as it was"
    );
    assert_eq!(enforcer.counts().automatic, 4);
}

#[test]
fn automatic_verdicts_end_within_a_day_and_come_so_many_a_second() {
    let limits = Limits { automatic_per_second: 2, ..LIMITS };
    let mut enforcer = Enforcer::new(MemoryMaps::new(64), Settings::default(), Rules::default(), limits).unwrap();
    let slot = |last: u8| unit_slot(IpAddr::from([198, 51, 100, last]));
    let long = block_for(1 << 40);
    assert_eq!(enforcer.automatic(slot(1), long, at(1)).unwrap(), Placed::InForce);
    assert_eq!(enforcer.until(&slot(1)), Some(Some(at(1).plus(AUTOMATIC_TTL_MAX))));
    assert_eq!(enforcer.automatic(slot(2), long, at(1)).unwrap(), Placed::InForce);
    assert_eq!(enforcer.automatic(slot(3), long, at(1)).unwrap(), Placed::TooFast);
    assert_eq!(enforcer.automatic(slot(3), long, at(2)).unwrap(), Placed::InForce);
    assert_eq!(enforcer.automatic_lost(), (0, 1));
}

/// What is told to the next daemon holds on, and can be listed and taken back; nothing else that is automatic does.
#[test]
fn automatic_verdicts_are_handed_from_one_daemon_to_the_next() {
    let slot = |number: u8| Slot::Address([192, 0, 2, number].into());
    let ja4 = Some(JA4.parse().unwrap());
    let rate = Some("10/s".parse().unwrap());
    let mut first = enforcer(8);
    first.automatic(slot(1), Automatic { ja4, ..block_for(60) }, at(0)).unwrap();
    let limit = Automatic { action: Action::RateLimit, rate, ..block_for(9) };
    first.automatic(slot(2), limit, at(0)).unwrap();
    first.automatic(slot(3), block_for(60), at(0)).unwrap();
    first.block_address([192, 0, 2, 9].into(), None).unwrap();
    let (mut handed, mut after) = (Vec::new(), None);
    for pages in 1.. {
        let (some, next) = first.automatics(after, 2);
        handed.extend(some);
        after = next;
        if next.is_none() {
            assert_eq!(pages, 2, "three, two at a time");
            break;
        }
    }
    handed.sort_by_key(|handed| handed.slot);
    assert_eq!(handed.iter().map(|handed| handed.slot).collect::<Vec<_>>(), [slot(1), slot(2), slot(3)]);

    let maps = std::mem::replace(first.maps(), MemoryMaps::new(8));
    let mut next = Enforcer::new(maps, Settings::default(), Rules::default(), LIMITS).unwrap();
    handed.pop();
    handed.push(Handed { slot: slot(7), rate: None, ja4: None });
    let taken = next.take_over(handed, at(10)).unwrap();
    assert_eq!(taken, TakenOver { kept: 1, ended: 2 }, "one has ended, one isn't told of, one isn't there");
    assert_eq!(next.automatic_lost().0, 2);
    let listed: Vec<Listed> = next.list().collect();
    let [Listed { slot: found, ja4: its, action: Action::Block, origin: Origin::Automatic, until }] = listed[..] else {
        panic!("{listed:?}")
    };
    assert_eq!((found, its, until), (slot(1), ja4, Some(at(60))));
    assert!(next.maps().verdicts.contains_key(&slot(9)), "operators' orders are somebody else's affair");
    assert_eq!((next.counts().automatic, next.maps().settings.in_use), (1, IN_USE_IPV4));
    assert!(next.remove(&slot(1)).unwrap());
    assert!(!next.maps().verdicts.contains_key(&slot(1)));
}

#[test]
fn a_million_addresses_of_one_64_are_one_verdict() {
    let mut enforcer = enforcer(64);
    for host in 0..1_000_000u64 {
        let address =
            IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(host.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_be_bytes());
        enforcer.automatic(unit_slot(address), block_for(60), at(host / 500)).unwrap();
    }
    assert_eq!((enforcer.counts().automatic, enforcer.maps().verdicts.len()), (1, 1));
    assert_eq!(enforcer.automatic_lost(), (0, 0));
}

/// So many confirmed hellos of a client, whose stable key is `family`.
fn meet(enforcer: &mut Enforcer<MemoryMaps>, count: u32, client: IpAddr, ja4: Ja4, family: u64, now: Timestamp) {
    for _ in 0..count {
        enforcer.meet(client, (ja4, keys(family)), now).unwrap();
    }
}

#[test]
fn a_challenged_ja4_is_steered_while_it_is_alone() {
    let mut enforcer = enforcer(64);
    let (ja4, other): (Ja4, Ja4) = (JA4.parse().unwrap(), "t13d1516h2_8daaf6152771_02713d6af862".parse().unwrap());
    let client: IpAddr = "2001:db8::7".parse().unwrap();
    let neighbour: IpAddr = "2001:db8::8".parse().unwrap();
    let slot = unit_slot(client);
    let end = |enforcer: &mut Enforcer<MemoryMaps>| enforcer.until(&slot).map(|until| until.unwrap());
    enforcer.challenge_ja4(ja4, Some(at(10_000))).unwrap();
    meet(&mut enforcer, 19, client, ja4, 1, at(5_000));
    assert_eq!(end(&mut enforcer), None);
    meet(&mut enforcer, 1, neighbour, ja4, 1, at(5_001));
    assert_eq!(end(&mut enforcer), Some(at(5_601)), "the /64 is one unit");
    let verdict = enforcer.maps().verdicts[&slot];
    assert_eq!((verdict.action, verdict.origin), (Action::Challenge as u8, ORIGIN_AUTOMATIC));
    meet(&mut enforcer, 1, client, ja4, 1, at(5_100));
    assert_eq!(end(&mut enforcer), Some(at(5_601)), "not anew for each hello");
    meet(&mut enforcer, 1, client, ja4, 1, at(5_400));
    assert_eq!(end(&mut enforcer), Some(at(6_000)));
    meet(&mut enforcer, 1, client, other, 1, at(5_401));
    assert_eq!(end(&mut enforcer), Some(at(6_000)), "the same family, resuming a session");
    meet(&mut enforcer, 1, neighbour, other, 2, at(5_402));
    assert_eq!(end(&mut enforcer), None, "another family");
    assert!(enforcer.maps().verdicts.is_empty());
    meet(&mut enforcer, 30, client, ja4, 1, at(5_403));
    assert_eq!(end(&mut enforcer), None, "not before an hour has passed");
    meet(&mut enforcer, 20, client, ja4, 1, at(9_500));
    assert_eq!(end(&mut enforcer), Some(at(10_000)), "no longer than the challenge itself");
    let hits: Vec<u64> = enforcer.challenged().map(|rule| rule.hits).collect();
    assert_eq!(hits, [72]);
    assert!(enforcer.unchallenge_ja4(ja4).unwrap());
    assert_eq!(end(&mut enforcer), None, "taken back with the challenge");
}

#[test]
fn what_an_operator_said_about_an_address_stays() {
    let mut enforcer = enforcer(64);
    let ja4: Ja4 = JA4.parse().unwrap();
    let client: IpAddr = "192.0.2.7".parse().unwrap();
    enforcer.challenge_ja4(ja4, None).unwrap();
    enforcer.challenge(unit_slot(client), None).unwrap();
    meet(&mut enforcer, 30, client, ja4, 1, at(5_000));
    meet(&mut enforcer, 1, client, ja4, 2, at(5_001));
    assert_eq!(enforcer.maps().verdicts[&unit_slot(client)].origin, ORIGIN_OPERATOR);
    assert!(enforcer.unchallenge(&unit_slot(client)).unwrap());
    enforcer.block_address(client, None).unwrap();
    assert!(!enforcer.unchallenge(&unit_slot(client)).unwrap(), "a block is no challenge");
    assert_eq!(enforcer.action(&unit_slot(client)), Some(Action::Block));
}

#[test]
fn the_kernel_gets_a_sign_of_life_each_second() {
    let mut enforcer = enforcer(8);
    for tenth in 100..200 {
        let now = Timestamp::from_nanos(tenth * 100_000_000);
        enforcer.expire(now, 64).unwrap();
        assert!(now.since(enforcer.maps().beat) < Duration::from_secs(1));
    }
    assert_eq!(enforcer.beats(), 10);
}
