//! How many browsers a verdict would hit: the confirmed hellos of browser families of the last ten minutes in, the share
//! of them that a verdict matches out. Of each minute an even sample is kept (reservoir sampling, Vitter 1985, algorithm
//! R), whatever comes: a share of 5 % of 4,096 is then right within 0.7 percentage points, 19 times of 20.
//!
//! Memory: eleven times the sample's size, 56 bytes each.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::clock::Timestamp;
use crate::fingerprint::Ja4;

/// What is remembered.
pub const WINDOW: Duration = Duration::from_secs(600);
/// Of which each of these is sampled for itself.
const STEP: Duration = Duration::from_secs(60);
/// Fewer hellos than these say nothing about a share: a single one is 100 %.
pub const LEAST: u64 = 20;

#[derive(Clone, Debug)]
struct Minute {
    begins: Timestamp,
    hellos: u64,
    sample: Vec<(Ja4, IpAddr)>,
}

/// The hellos of the last ten minutes.
#[derive(Debug)]
pub struct Window {
    /// Oldest first.
    minutes: VecDeque<Minute>,
    /// Of a minute.
    sample_max: usize,
    dice: u64,
}

impl Window {
    /// Without any. `dice` is anything nobody else knows.
    #[must_use]
    pub fn new(sample_max: usize, dice: u64) -> Self {
        Self { minutes: VecDeque::new(), sample_max: sample_max.max(1), dice: dice | 1 }
    }

    /// A confirmed hello of a browser family.
    pub fn note(&mut self, ja4: Ja4, source: IpAddr, now: Timestamp) {
        if self.minutes.back().is_none_or(|last| now.since(last.begins) >= STEP) {
            self.forget(now);
            self.minutes.push_back(Minute { begins: now, hellos: 0, sample: Vec::new() });
        }
        let random = self.random();
        let Some(minute) = self.minutes.back_mut() else { return };
        minute.hellos += 1;
        if minute.sample.len() < self.sample_max {
            minute.sample.push((ja4, source));
        } else if let Some(place) = minute.sample.get_mut((random % minute.hellos) as usize) {
            *place = (ja4, source);
        }
    }

    /// As it is now.
    pub fn recent(&mut self, now: Timestamp) -> Recent {
        self.forget(now);
        Recent { minutes: self.minutes.iter().cloned().collect() }
    }

    fn forget(&mut self, now: Timestamp) {
        while self.minutes.front().is_some_and(|first| now.since(first.begins) >= WINDOW) {
            self.minutes.pop_front();
        }
    }

    /// xorshift64 (Marsaglia 2003): nobody gains by guessing it.
    fn random(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice
    }
}

/// What verdicts are about, looked up by a hello.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    ja4: HashSet<Ja4>,
    /// An address is a prefix of full length.
    prefixes: HashSet<IpNet>,
    /// Of IPv4 and IPv6 prefixes.
    lengths: [BTreeSet<u8>; 2],
}

impl Targets {
    /// Adds the clients with a JA4 value.
    pub fn add_ja4(&mut self, ja4: Ja4) {
        self.ja4.insert(ja4);
    }

    /// Adds the clients in a prefix.
    pub fn add_prefix(&mut self, prefix: IpNet) {
        self.prefixes.insert(prefix);
        let [v4, v6] = &mut self.lengths;
        let lengths = if matches!(prefix, IpNet::V4(_)) { v4 } else { v6 };
        lengths.insert(prefix.prefix_len());
    }

    fn matches(&self, ja4: Ja4, source: IpAddr) -> bool {
        let [v4, v6] = &self.lengths;
        let lengths = if source.is_ipv4() { v4 } else { v6 };
        let within =
            |length: &u8| IpNet::new(source, *length).is_ok_and(|prefix| self.prefixes.contains(&prefix.trunc()));
        self.ja4.contains(&ja4) || lengths.iter().any(within)
    }
}

/// The hellos of ten minutes, at one moment.
#[derive(Clone, Debug)]
pub struct Recent {
    minutes: Vec<Minute>,
}

impl Recent {
    /// How many there were.
    #[must_use]
    pub fn hellos(&self) -> u64 {
        self.minutes.iter().map(|minute| minute.hellos).sum()
    }

    /// The share of them, 0 to 1, that these verdicts would have matched; `None` if there were too few to say.
    #[must_use]
    pub fn share(&self, targets: &Targets) -> Option<f64> {
        let hellos = self.hellos();
        if hellos < LEAST {
            return None;
        }
        let matched = |minute: &Minute| {
            let hits = minute.sample.iter().filter(|(ja4, source)| targets.matches(*ja4, *source)).count();
            hits as f64 / minute.sample.len().max(1) as f64 * minute.hellos as f64
        };
        Some(self.minutes.iter().map(matched).sum::<f64>() / hellos as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ja4(number: u64) -> Ja4 {
        format!("t13d1516h2_8daaf6152771_{number:012x}").parse().unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn on(ja4: Ja4) -> Targets {
        let mut targets = Targets::default();
        targets.add_ja4(ja4);
        targets
    }

    fn within(prefix: &str) -> Targets {
        let mut targets = Targets::default();
        targets.add_prefix(prefix.parse().unwrap());
        targets
    }

    #[test]
    fn shares_are_right_by_fingerprint_and_by_prefix() {
        let mut window = Window::new(4096, 7);
        for number in 0..100 {
            window.note(ja4(number % 10), IpAddr::from([10, 0, 0, (number % 20) as u8]), at(number));
        }
        let recent = window.recent(at(100));
        assert_eq!((recent.hellos(), recent.share(&on(ja4(3)))), (100, Some(0.1)));
        assert_eq!(recent.share(&within("10.0.0.7/32")), Some(0.05));
        assert_eq!(recent.share(&within("10.0.0.16/30")), Some(0.2));
        assert_eq!(recent.share(&within("0.0.0.0/0")), Some(1.0));
        assert_eq!(recent.share(&within("::/1")), Some(0.0));
    }

    #[test]
    fn ten_minutes_are_remembered_and_no_more() {
        let mut window = Window::new(4096, 7);
        (0..40).for_each(|second| window.note(ja4(1), IpAddr::from([10, 0, 0, 1]), at(second)));
        (0..60).for_each(|second| window.note(ja4(2), IpAddr::from([10, 0, 0, 1]), at(300 + second)));
        assert_eq!(window.recent(at(590)).share(&on(ja4(1))), Some(0.4));
        assert_eq!(window.recent(at(610)).share(&on(ja4(1))), Some(0.0));
        assert_eq!(window.recent(at(1000)).share(&on(ja4(2))), None, "too few to say");
    }

    #[test]
    fn a_sample_tells_the_share_of_all() {
        let mut window = Window::new(1024, 7);
        // One in ten, in the last tenth of the minute only: whoever keeps the first ones, or the last ones, is wrong.
        for number in 0..100_000_u64 {
            let which = u64::from(number >= 90_000);
            window.note(ja4(which), IpAddr::from([10, 0, 0, 1]), Timestamp::from_nanos(number));
        }
        let share = window.recent(at(1)).share(&on(ja4(1))).unwrap();
        assert!((0.07..0.13).contains(&share), "{share}");
    }
}
