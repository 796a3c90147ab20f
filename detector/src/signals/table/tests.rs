use super::*;
use crate::signals::NotASnapshot;

const MINUTE: u64 = 60;

fn ja4(number: u64) -> Ja4 {
    format!("t13d1516h2_8daaf6152771_{number:012x}").parse().unwrap()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

fn from(ja4: Ja4, client: u32) -> Request<'static> {
    Request {
        ja4,
        address: std::net::Ipv4Addr::from(client).into(),
        user_agent: Some("curl/8.0"),
        path: Some("/"),
        h2h3: client.is_multiple_of(2),
        cacheable: client.is_multiple_of(4),
        heuristic: true,
        browser: false,
        again: false,
    }
}

fn figures(signals: &mut Signals, ja4: Ja4, now: Timestamp) -> Option<Figures> {
    let ranking = signals.ranking(now);
    signals.figures(&ranking, ja4)
}

#[test]
fn shares_ranks_and_quantiles() {
    let mut signals = Signals::new(100, (1, 2));
    // The n-th value has n requests of n addresses; the fifth as many as the fourth.
    for number in 1..=4_u32 {
        (0..number).for_each(|client| signals.note(&from(ja4(number.into()), client), at(100)));
    }
    (0..4).for_each(|client| signals.note(&from(ja4(5), client), at(100)));
    let Figures { ten, last_hour, ranked, baseline_24h, .. } = figures(&mut signals, ja4(4), at(101)).unwrap();
    assert_eq!((ten.h2h3_ratio_1h, ten.cache_ratio_1h), (0.5, 0.25));
    assert_eq!((ten.heuristic_ratio_1h, ten.browser_ratio_1h), (1.0, 0.0));
    assert_eq!((ten.reqs_rank_1h, ten.ips_rank_1h, ten.uas_rank_1h, ten.paths_rank_1h), (1, 1, 1, 1));
    assert_eq!((ten.reqs_quantile_1h, ten.ips_quantile_1h), (1.0, 1.0));
    assert_eq!((last_hour, ranked), (Volume { requests: 4, ips: 4, uas: 1, paths: 1 }, 5));
    assert_eq!(baseline_24h, None);
    let third = figures(&mut signals, ja4(3), at(101)).unwrap().ten;
    assert_eq!((third.reqs_rank_1h, third.ips_rank_1h, third.reqs_quantile_1h), (3, 3, 0.6));
    assert_eq!(figures(&mut signals, ja4(6), at(101)), None);
    assert_eq!(figures(&mut signals, ja4(4), at(101 + 3600)), None, "an hour later there was nothing");
}

#[test]
fn a_client_of_ipv6_is_its_prefix() {
    let mut signals = Signals::new(100, (1, 2));
    for host in 0..1000_u128 {
        let address = std::net::Ipv6Addr::from_bits(0x2001_0db8_0000_0000_0000_0000_0000_0000 + host * 7).into();
        signals.note(&Request { address, ..from(ja4(1), 0) }, at(1));
    }
    assert_eq!(figures(&mut signals, ja4(1), at(1)).unwrap().last_hour.ips, 1);
}

#[test]
fn baselines_are_means_over_past_hours() {
    let mut signals = Signals::new(100, (1, 2));
    // 30 hours: one request a minute from two addresses; then 20 silent ones.
    for minute in 0..30 * 60 {
        signals.note(&from(ja4(1), (minute % 2) as u32 + 1), at(minute * MINUTE));
    }
    let now = at(30 * 3600);
    signals.note(&from(ja4(1), 1), now);
    let Figures { baseline_24h, baseline_7d, .. } = figures(&mut signals, ja4(1), now).unwrap();
    let (day, week) = (baseline_24h.unwrap(), baseline_7d.unwrap());
    assert_eq!((day.hours, day.requests, day.ips, day.uas, day.h2h3_ratio), (24, 60.0, 2.0, 1.0, 0.5));
    assert_eq!((week.hours, week.requests), (30, 60.0));
    let now = at(50 * 3600);
    signals.note(&from(ja4(1), 1), now);
    let day = figures(&mut signals, ja4(1), now).unwrap().baseline_24h.unwrap();
    // 20 hours, the first with a request, and the last 4 of the 30.
    assert_eq!((day.hours, day.requests), (24, (4.0 * 60.0 + 1.0) / 24.0));
    signals.note(&from(ja4(2), 1), at(300 * 3600));
    assert_eq!(signals.len(), 1, "a week of silence ends it");
}

#[test]
fn made_up_values_never_push_out_what_comes_often() {
    let mut signals = Signals::new(200, (1, 2));
    // 50 values share half of all requests, each 1 % of them: more than one in 200.
    for number in 0..100_000_u64 {
        let now = at(number / 100);
        signals.note(&from(ja4(1_000_000 + number), 1), now);
        signals.note(&from(ja4(number % 50), number as u32), now);
    }
    assert_eq!((signals.len(), signals.evicted() > 90_000), (200, true));
    for number in 0..50 {
        let requests = figures(&mut signals, ja4(number), at(1000)).unwrap().last_hour.requests;
        assert!(requests >= 1900, "{number}: {requests} of 2,000");
    }
}

#[test]
fn the_state_of_many_values_with_many_clients_is_bounded() {
    let mut signals = Signals::new(50, (1, 2));
    let mut request = 0_u32;
    let mut sizes = Vec::new();
    for round in 0..4 {
        for _ in 0..500_000 {
            request += 1;
            let (agent, path) = (format!("a{request}"), format!("/{request}"));
            let who = from(ja4(u64::from(request % 50)), request);
            let who = Request { user_agent: Some(&agent), path: Some(&path), ..who };
            signals.note(&who, at(round * 800 + u64::from(request % 800)));
        }
        sizes.push(signals.allocated());
    }
    assert!(sizes.iter().all(|size| *size <= 50 * 47 * 1024), "{sizes:?}");
    assert_eq!(sizes[1], sizes[3], "flat");
}

#[test]
fn a_snapshot_is_read_back_as_it_was_written() {
    let mut signals = Signals::new(100, (1, 2));
    for client in 0..20_000_u32 {
        let path = format!("/{client}");
        let request = Request { path: Some(&path), ..from(ja4(u64::from(client % 7)), client) };
        signals.note(&request, at(7200 + u64::from(client / 10)));
    }
    let now = at(9200);
    let bytes = signals.snapshot(now, 1_000_000);
    // After a boot: the clock is another one, 90 s have passed.
    let booted = at(30);
    let mut restored = Signals::restore(&bytes, 100, booted, 1_000_090).unwrap();
    for number in 0..7 {
        let (before, after) =
            (figures(&mut signals, ja4(number), at(9290)), figures(&mut restored, ja4(number), booted));
        assert!(before.is_some());
        assert_eq!(before, after);
    }
    // What comes after is counted as if nothing had been.
    signals.note(&from(ja4(3), 5), at(9300));
    restored.note(&from(ja4(3), 5), at(40));
    assert_eq!(figures(&mut signals, ja4(3), at(9300)), figures(&mut restored, ja4(3), at(40)));
    let mut later = Signals::restore(&bytes, 100, booted, 1_000_000 + 2 * 3600).unwrap();
    assert_eq!(figures(&mut later, ja4(3), booted), None, "it was off for two hours");
    assert_eq!(Signals::restore(&bytes, 3, booted, 1_000_000).unwrap().len(), 3);
}

#[test]
fn damaged_snapshots_are_refused() {
    let mut signals = Signals::new(100, (1, 2));
    (0..500).for_each(|client| signals.note(&from(ja4(1), client), at(1)));
    let bytes = signals.snapshot(at(1), 1);
    let read = |bytes: &[u8]| Signals::restore(bytes, 100, at(1), 1).map(|signals| signals.len());
    assert_eq!(read(&bytes), Ok(1));
    for end in 0..bytes.len() {
        assert!(read(&bytes[..end]).is_err());
    }
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x10;
        let kind = if place < 8 { NotASnapshot::Kind } else { NotASnapshot::Damaged };
        assert_eq!(read(&damaged), Err(kind));
    }
}

proptest::proptest! {
    #[test]
    fn whatever_is_signed_never_panics(rest: Vec<u8>) {
        use sha2::Digest as _;
        let bytes = [b"dsignal\x01", &sha2::Sha256::digest(&rest)[..], &rest].concat();
        if let Ok(mut signals) = Signals::restore(&bytes, 10, at(1), 1) {
            signals.note(&from(ja4(1), 1), at(2));
            signals.ranking(at(3));
        }
    }
}
