//! Which of two listening sockets takes a connection over the loopback of a namespace: the site's, or the challenge
//! listener's, which is bound elsewhere.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    time::Duration,
};

use detector::{
    clock::{Timestamp, monotonic},
    kernel::{Listener, Places, Slot, Steering, VerdictMaps as _},
};
use detector_common::{
    counter::Counter,
    mode::WHOLE_SHARE,
    steer::HEALTHY_NS,
    verdict::{Action, ORIGIN_AUTOMATIC, ORIGIN_OPERATOR, ORIGIN_RULE},
};
use detector_tests::deadline::{PATIENCE, until};

use crate::{
    bench::Bench,
    sockets::{in_a_namespace, run},
};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Short prefixes of `::1` would take in all of IPv4.
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));

/// The program, attached for a listener that is healthy for a minute; and the site.
struct Steered {
    bench: Bench,
    steering: Steering,
    places: Places,
    challenger: Option<TcpListener>,
    sites: [TcpListener; 3],
}

impl Steered {
    fn new() -> Self {
        run("ip", "address add fd77::1/64 dev lo nodad");
        let mut bench = Bench::new();
        bench.maps.protect_addresses(vec![V4, V6]).unwrap();
        let mut steering = bench.kernel.steering().unwrap();
        let challenger = TcpListener::bind("[::]:18443").unwrap();
        let listener = Listener::of(challenger.as_fd()).unwrap();
        assert!(listener.ipv4 && listener.ipv6);
        let places = steering.add(challenger.as_fd(), listener, &[443]).unwrap().unwrap();
        let sites = ["127.0.0.1:443", "[fd77::1]:443", "127.0.0.1:8443"].map(|site| TcpListener::bind(site).unwrap());
        for socket in sites.iter().chain([&challenger]) {
            socket.set_nonblocking(true).unwrap();
        }
        let mut steered = Self { bench, steering, places, challenger: Some(challenger), sites };
        steered.healthy_for(Duration::from_secs(60));
        steered
    }

    fn healthy_for(&mut self, time: Duration) {
        self.steering.set_healthy(&self.places, monotonic().plus(time)).unwrap();
    }

    /// Whether the challenge listener takes a connection to this port, and how it was counted.
    fn connect_to(&mut self, server: IpAddr, port: u16) -> (bool, Option<Counter>) {
        let all = [Counter::Steered, Counter::SteerSpared, Counter::SteerUnhealthy, Counter::SteerFailed];
        let before = self.bench.counters();
        let _client = TcpStream::connect((server, port)).unwrap();
        let steered = until("a listener to take the connection", PATIENCE, || {
            let site = self.sites.iter().any(|site| site.accept().is_ok());
            let challenger = self.challenger.as_ref().is_some_and(|challenger| challenger.accept().is_ok());
            Ok((site || challenger).then_some(challenger))
        });
        let after = self.bench.counters();
        let counted: u64 = all.iter().map(|counter| after.of(*counter) - before.of(*counter)).sum();
        assert!(counted <= 1, "one connection is counted {counted} times");
        (steered.unwrap(), all.into_iter().find(|counter| after.of(*counter) != before.of(*counter)))
    }

    fn connect(&mut self, server: IpAddr) -> (bool, Option<Counter>) {
        self.connect_to(server, 443)
    }
}

const STEERED: (bool, Option<Counter>) = (true, Some(Counter::Steered));
const SITE: (bool, Option<Counter>) = (false, None);

fn prefix(text: &str) -> Slot {
    Slot::Prefix(text.parse().unwrap())
}

#[test]
fn a_challenge_in_force_is_steered() {
    in_a_namespace(|| {
        let mut steered = Steered::new();
        assert_eq!(steered.connect(V4), SITE);
        for (slot, server, other) in [
            (Slot::Address(V4), V4, V6),
            (prefix("127.0.0.0/8"), V4, V6),
            (Slot::Address(V6), V6, V4),
            (prefix("fd77::/64"), V6, V4),
            (prefix("fd77::/48"), V6, V4),
            (prefix("fd00::/8"), V6, V4),
        ] {
            steered.bench.put(slot, Action::Challenge, ORIGIN_OPERATOR, None);
            assert_eq!(steered.connect(server), STEERED, "{slot:?}");
            assert_eq!(steered.connect(other), SITE, "{slot:?}");
            steered.bench.maps.remove(&slot).unwrap();
            assert_eq!(steered.connect(server), SITE, "{slot:?}");
        }
        steered.bench.put(Slot::Address(V4), Action::Challenge, ORIGIN_OPERATOR, Some(1));
        assert_eq!(steered.connect(V4), STEERED);
        until("the challenge to end", PATIENCE, || Ok((steered.connect(V4) == SITE).then_some(()))).unwrap();
    });
}

#[test]
fn nothing_but_a_challenge_in_force_is_steered() {
    in_a_namespace(|| {
        let mut steered = Steered::new();
        for action in [Action::Observe, Action::RateLimit, Action::Block] {
            steered.bench.put(Slot::Address(V4), action, ORIGIN_OPERATOR, None);
            assert_eq!(steered.connect(V4), SITE, "{action:?}");
        }
        steered.bench.put(Slot::Address(V4), Action::Challenge, ORIGIN_OPERATOR, None);
        assert_eq!(steered.connect_to(V4, 8443), (false, Some(Counter::SteerUnhealthy)), "a port without a listener");
        steered.bench.put(prefix("127.0.0.0/8"), Action::Block, ORIGIN_OPERATOR, None);
        assert_eq!(steered.connect(V4), SITE, "the hardest applies");
        steered.bench.maps.remove(&prefix("127.0.0.0/8")).unwrap();
        steered.bench.maps.protect_addresses(vec![V6]).unwrap();
        assert_eq!(steered.connect(V4), SITE, "to an address that isn't protected");
    });
}

#[test]
fn what_nobody_ordered_is_steered_only_while_enforcing() {
    in_a_namespace(|| {
        let mut steered = Steered::new();
        for origin in [ORIGIN_RULE, ORIGIN_AUTOMATIC] {
            steered.bench.enforce(false, WHOLE_SHARE);
            steered.bench.put(Slot::Address(V4), Action::Challenge, origin, None);
            assert_eq!(steered.connect(V4), SITE);
            steered.bench.enforce(true, WHOLE_SHARE);
            assert_eq!(steered.connect(V4), STEERED);
        }
        steered.bench.enforce(true, 0);
        assert_eq!(steered.connect(V4), SITE, "not of the share");
        steered.bench.enforce(true, WHOLE_SHARE);
        steered.bench.maps.beat(Timestamp::default()).unwrap();
        assert_eq!(steered.connect(V4), SITE, "the daemon is silent");
    });
}

#[test]
fn who_is_allowed_or_never_blocked_meets_the_site() {
    in_a_namespace(|| {
        let mut steered = Steered::new();
        steered.bench.put(Slot::Address(V4), Action::Challenge, ORIGIN_OPERATOR, None);
        for slot in [Slot::Allow("127.0.0.0/8".parse().unwrap()), Slot::NeverBlock("127.0.0.1/32".parse().unwrap())] {
            steered.bench.put(slot, Action::Allow, ORIGIN_OPERATOR, None);
            assert_eq!(steered.connect(V4), (false, Some(Counter::SteerSpared)), "{slot:?}");
            steered.bench.maps.remove(&slot).unwrap();
            assert_eq!(steered.connect(V4), STEERED, "{slot:?}");
        }
    });
}

#[test]
fn without_a_healthy_listener_everybody_meets_the_site() {
    in_a_namespace(|| {
        let mut steered = Steered::new();
        steered.bench.put(Slot::Address(V4), Action::Challenge, ORIGIN_OPERATOR, None);
        steered.healthy_for(Duration::from_nanos(HEALTHY_NS));
        assert_eq!(steered.connect(V4), STEERED);
        let unhealthy = (false, Some(Counter::SteerUnhealthy));
        until("its health to end by itself", Duration::from_secs(2), || {
            Ok((steered.connect(V4) == unhealthy).then_some(()))
        })
        .unwrap();
        steered.healthy_for(Duration::from_secs(60));
        assert_eq!(steered.connect(V4), STEERED);
        steered.challenger = None;
        assert_eq!(steered.connect(V4), (false, Some(Counter::SteerFailed)), "the kernel let go of a closed socket");
        steered.steering.remove(&steered.places);
        assert_eq!(steered.connect(V4), SITE, "the program is gone with its last listener");
    });
}

#[test]
fn a_place_is_one_listeners() {
    in_a_namespace(|| {
        let mut steered = Steered::new();
        let other = TcpListener::bind("127.0.0.1:18444").unwrap();
        let listener = Listener::of(other.as_fd()).unwrap();
        assert!(listener.ipv4 && !listener.ipv6);
        assert!(steered.steering.add(other.as_fd(), listener, &[8443, 443]).unwrap().is_none(), "443 is taken");
        let ports: Vec<u16> = (1..=128).collect();
        let error = steered.steering.add(other.as_fd(), listener, &ports).unwrap_err().to_string();
        assert!(error.contains("limits.challenge_listeners"), "{error}");
        let places = steered.steering.add(other.as_fd(), listener, &[8443]).unwrap().unwrap();
        steered.steering.remove(&steered.places);
        steered.places = places;
        steered.healthy_for(Duration::from_secs(60));
        other.set_nonblocking(true).unwrap();
        steered.challenger = Some(other);
        steered.bench.put(Slot::Address(V4), Action::Challenge, ORIGIN_OPERATOR, None);
        assert_eq!(steered.connect_to(V4, 8443), STEERED);
        let unhealthy = (false, Some(Counter::SteerUnhealthy));
        assert_eq!(steered.connect(V4), unhealthy, "it has no listener any more");
    });
}
