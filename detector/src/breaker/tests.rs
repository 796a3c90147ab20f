use super::*;
use proptest::prelude::*;

const RULE: u16 = 7;
const SITE: u64 = 9;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos((10_000 + seconds) * 1_000_000_000)
}

/// So many people are seen in this second, of whom the first so many are stopped.
fn people(breaker: &mut Breaker, second: u64, seen: u64, stopped: u64) {
    for client in 0..seen {
        let stopped_by = (client < stopped).then_some(RULE);
        breaker.note(Seen { client: detector_common::key::mix(client), site: SITE, stopped_by }, at(second));
    }
}

fn tick(breaker: &mut Breaker, second: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    breaker.tick(at(second), &mut |change| changes.push(change));
    changes
}

#[test]
fn a_rule_that_stops_people_opens_its_breaker_its_sites_and_that_of_all() {
    let mut breaker = Breaker::new(Settings::default());
    people(&mut breaker, 0, 200, 12);
    let mut opened = tick(&mut breaker, 1);
    opened.sort_by_key(|change| format!("{:?}", change.scope));
    let open = |scope| Change { scope, state: State::Open };
    assert_eq!(opened, [open(Scope::All), open(Scope::Rule(RULE)), open(Scope::Site(SITE))]);
    assert_eq!(breaker.permits(RULE, SITE), Permit::Observe);
    assert_eq!(breaker.permits_any(), Permit::Observe);
    assert_eq!(breaker.troubled().count(), 3);
}

#[test]
fn another_site_goes_on_when_one_is_harmed() {
    let mut breaker = Breaker::new(Settings::default());
    for client in 0..2000_u64 {
        let client = detector_common::key::mix(1_000_000 + client);
        breaker.note(Seen { client, site: 1, stopped_by: None }, at(0));
    }
    people(&mut breaker, 0, 40, 20);
    tick(&mut breaker, 1);
    assert_eq!(breaker.permits(RULE, SITE), Permit::Observe);
    assert_eq!((breaker.permits(RULE, 1), breaker.permits_any()), (Permit::Enforce, Permit::Enforce));
}

#[test]
fn five_percent_in_a_minute_and_twenty_in_ten() {
    let mut breaker = Breaker::new(Settings::default());
    people(&mut breaker, 0, 200, 10);
    assert_eq!(tick(&mut breaker, 1), [], "5 %, and not over it");
    // Nobody is stopped in the last minute, and over a fifth of all within ten.
    let slow = Settings { fast_share: 1.0, ..Settings::default() };
    let mut breaker = Breaker::new(slow);
    people(&mut breaker, 0, 100, 20);
    people(&mut breaker, 300, 100, 0);
    assert_eq!(tick(&mut breaker, 301), [], "20 %, and not over it");
    people(&mut breaker, 302, 100, 21);
    assert_eq!(tick(&mut breaker, 500).len(), 3);
    assert_eq!(breaker.permits_any(), Permit::Observe);
}

#[test]
fn few_people_open_nothing() {
    let mut breaker = Breaker::new(Settings::default());
    people(&mut breaker, 0, 4, 4);
    assert_eq!(tick(&mut breaker, 1), []);
    people(&mut breaker, 0, 5, 5);
    assert!(!tick(&mut breaker, 1).is_empty());
}

#[test]
fn it_closes_by_steps_and_any_harm_opens_it_anew() {
    let mut breaker = Breaker::new(Settings::default());
    people(&mut breaker, 0, 100, 50);
    tick(&mut breaker, 1);
    people(&mut breaker, 299, 100, 50);
    assert_eq!(tick(&mut breaker, 300), [], "five minutes after it opened, not before");
    assert_eq!(tick(&mut breaker, 301).len(), 3);
    assert_eq!(breaker.permits_any(), Permit::Share(0.01));
    people(&mut breaker, 330, 100, 50);
    assert_eq!(tick(&mut breaker, 331).len(), 3, "what a probe would do counts");
    assert_eq!(breaker.permits_any(), Permit::Observe);
    tick(&mut breaker, 631);
    for (second, permit) in [(690, 0.01), (691, 0.01), (751, 0.01), (810, 0.01)] {
        people(&mut breaker, second, 100, 1);
        tick(&mut breaker, second);
        assert_eq!(breaker.permits_any(), Permit::Share(permit), "{second}");
    }
    tick(&mut breaker, 811);
    assert_eq!(breaker.permits_any(), Permit::Enforce);
}

#[test]
fn volume_alarms_and_opens_nothing() {
    let mut breaker = Breaker::new(Settings::default());
    people(&mut breaker, 0, 200, 0);
    for _ in 0..60_000 {
        breaker.verdict(at(0));
    }
    assert!(breaker.is_alarmed(at(59)) && !breaker.is_alarmed(at(60)));
    let minute = (0..2000).map(|_| {
        breaker.verdict(at(60));
        breaker.is_alarmed(at(60))
    });
    assert_eq!(minute.filter(|alarmed| !alarmed).count(), 1000, "the next minute has as many again");
    assert_eq!(tick(&mut breaker, 1), []);
    assert_eq!(breaker.permits(RULE, SITE), Permit::Enforce);
}

#[test]
fn sites_are_bounded() {
    let mut breaker = Breaker::new(Settings { sites: 8, ..Settings::default() });
    for site in 0..1000 {
        breaker.note(Seen { client: site, site, stopped_by: Some(site as u16) }, at(0));
    }
    assert_eq!((breaker.sites.len(), breaker.rules.len()), (8, 8));
}

proptest! {
    /// Whatever happens: open lasts its time, closing takes its probes, and without people stopped nothing opens.
    #[test]
    fn states_follow_the_rule(steps in proptest::collection::vec((1_u64..120, 0_u64..60, 0_u64..60), 1..200)) {
        let settings = Settings::default();
        let mut breaker = Breaker::new(settings);
        let (mut second, mut state, mut since, mut harmed) = (0, State::Closed, 0, 0);
        for (pause, seen, stopped) in steps {
            second += pause;
            people(&mut breaker, second, seen, stopped.min(seen));
            harmed = if stopped.min(seen) > 0 { second } else { harmed };
            let all = tick(&mut breaker, second).into_iter().find(|change| change.scope == Scope::All);
            let Some(Change { state: next, .. }) = all else { continue };
            match (state, next) {
                (State::Closed | State::HalfOpen, State::Open) => {
                    prop_assert!(second - harmed <= settings.window.as_secs());
                    prop_assert!(harmed > 0);
                }
                (State::Open, State::HalfOpen) => prop_assert!(second - since >= settings.open.as_secs()),
                (State::HalfOpen, State::Closed) => {
                    prop_assert!(second - since >= settings.probe.as_secs() * u64::from(settings.probes));
                }
                other => prop_assert!(false, "{other:?}"),
            }
            (state, since) = (next, second);
        }
    }
}
