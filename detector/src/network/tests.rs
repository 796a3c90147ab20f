use super::*;

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_nanos(1_000_000_000_000_000 + (seconds * 1e9) as u64)
}

fn from(address: &str, seconds: f64) -> Observation {
    Observation {
        at: at(seconds),
        address: address.parse().unwrap(),
        fingerprint: Some(1),
        kind: 1,
        session: None,
        asn: None,
        country: None,
        page: true,
    }
}

fn octets(number: u64) -> String {
    format!("198.{}.{}.7", 18 + number / 256, number % 256)
}

#[test]
fn rates_are_those_of_a_minute() {
    let mut network = Network::new(Limits::default());
    let mut view = View::default();
    for second in 0..1800 {
        view = network.note(&from(&format!("192.0.2.{}", second % 8), f64::from(second)));
    }
    assert!((55.0..65.0).contains(&view.prefix.per_minute), "{view:?}");
    assert!((7.0..8.0).contains(&view.address.per_minute), "{view:?}");
    assert!((55.0..65.0).contains(&view.fingerprint.per_minute), "{view:?}");
    assert_eq!(view.asn, None);
    let later = network.note(&from("192.0.2.1", 1800.0 + 3600.0));
    assert!(later.prefix.per_minute < 1.0, "{later:?}");
}

#[test]
fn shares_of_what_was_stopped_need_some_requests() {
    let mut network = Network::new(Limits::default());
    let seen = Observation { asn: Some(64_500), ..from("2001:db8::1", 0.0) };
    network.note(&seen);
    network.stopped(&seen);
    assert_eq!(network.note(&seen).prefix.stopped, 0.0);
    let mut view = View::default();
    for number in 0..100 {
        let seen = Observation { address: format!("2001:db8:0:{number:x}::1").parse().unwrap(), ..seen };
        view = network.note(&seen);
        if number % 2 == 0 {
            network.stopped(&seen);
        }
    }
    let shares = [view.prefix.stopped, view.asn.unwrap().stopped, view.fingerprint.stopped];
    assert!(shares.iter().all(|share| (0.45..0.55).contains(share)), "{view:?}");
    assert_eq!(view.address.stopped, 0.0);
}

#[test]
fn a_clock_behind_many_addresses_is_told_from_people() {
    let (mut robots, mut people) = (Network::new(Limits::default()), Network::new(Limits::default()));
    let (mut robot, mut person) = (View::default(), View::default());
    let mut now = 0.0;
    for number in 0..100 {
        robot = robots.note(&from(&octets(number), number as f64));
        // Pauses between independent people are distributed exponentially.
        let even = (detector_common::key::mix(number) >> 11) as f64 / (1_u64 << 53) as f64;
        now += -(1.0 - even).ln();
        person = people.note(&from(&octets(number), now));
    }
    assert!(robot.pace.unwrap() < 0.05, "{robot:?}");
    assert!(person.pace.unwrap() > 0.5, "{person:?}");
    assert!((75..130).contains(&robot.networks), "{robot:?}");
}

#[test]
fn kinds_at_an_address_are_counted_for_an_hour_at_most() {
    let mut network = Network::new(Limits::default());
    for kind in 0..50 {
        let seen = Observation { kind, ..from("192.0.2.1", 0.0) };
        network.note(&seen);
        network.shown(&seen);
        network.note(&Observation { kind: 1000 + kind, ..seen });
    }
    let clients = network.note(&from("192.0.2.1", 1.0)).clients;
    assert!((40..62).contains(&clients), "those who browse, and no others: {clients}");
    assert_eq!(network.note(&from("192.0.2.2", 0.0)).clients, 0);
    assert_eq!(network.note(&from("192.0.2.1", 3601.0)).clients, 0);
}

#[test]
fn a_session_is_followed_through_networks_and_countries() {
    let mut network = Network::new(Limits::default());
    let mut seen = |address: &str, asn, country: &[u8; 2], seconds| {
        let seen = Observation { session: Some(9), asn, country: Some(*country), ..from(address, seconds) };
        let view = network.note(&seen);
        (view.session_networks, view.session_countries)
    };
    assert_eq!(seen("192.0.2.1", None, b"DE", 0.0), (1, 1));
    assert_eq!(seen("192.0.2.200", None, b"DE", 1.0), (1, 1), "within one network");
    assert_eq!(seen("2001:db8::1", None, b"DE", 2.0), (2, 1));
    assert_eq!(seen("198.51.100.1", Some(64_500), b"FR", 3.0), (3, 2));
    assert_eq!(seen("203.0.113.1", Some(64_500), b"FR", 4.0), (3, 2), "one provider is one network");
    assert_eq!(seen("203.0.113.1", Some(64_500), b"FR", 700.0), (1, 1), "ten minutes later");
}

#[test]
fn tables_are_bounded() {
    let mut network = Network::new(Limits { addresses: 16, fingerprints: 4 });
    for number in 0..10_000 {
        let fingerprint = Some(detector_common::key::mix(number));
        let seen =
            Observation { fingerprint, session: fingerprint, asn: Some(number as u32), ..from(&octets(number), 0.0) };
        network.note(&seen);
    }
    let lengths = [network.addresses.len(), network.prefixes.len(), network.sessions.len()];
    assert_eq!((lengths, network.fingerprints.len(), network.systems.len()), ([16; 3], 4, 4));
}
