//! The JA4 values that are watched, and what is counted of each.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::distinct::{Distinct, WINDOW};
use super::figures::{Baseline, Figures, Hour, Volume};
use super::minutes::{Counts, Minutes};
use super::ranking::Ranking;
use super::request::Request;
use crate::clock::Timestamp;
use crate::fingerprint::Ja4;

/// Hours of the longer baseline.
pub(super) const WEEK: usize = 168;
/// Of the shorter one.
const DAY: usize = 24;

/// Minutes in an hour.
const HOUR: u64 = 60;

/// Values with few requests that are found at one time, so that a flood of new ones costs one search for so many.
const VICTIMS: usize = 64;

/// What is counted of one JA4 value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Value {
    pub(super) minutes: Minutes,
    pub(super) ips: Distinct,
    pub(super) uas: Distinct,
    pub(super) paths: Distinct,
    /// Past hours, the newest last.
    pub(super) hours: VecDeque<Hour>,
    /// The weight of the value whose place it took, and when: it counts for an hour.
    pub(super) inherited: (u64, u64),
}

/// JA4 values and their signals.
#[derive(Debug)]
pub struct Signals {
    pub(super) most: usize,
    pub(super) values: HashMap<Ja4, Value, RandomState>,
    /// Keys of the hashes: nobody else may choose what is counted as one.
    pub(super) keys: (u64, u64),
    /// Seconds between the clock that is passed in and the one here, which goes on from start to start.
    pub(super) shift: i64,
    /// The latest minute that was told.
    pub(super) minute: u64,
    /// Those with fewest requests when they were searched for, and how many; the fewest last.
    victims: Vec<(u64, Ja4)>,
    evicted: u64,
}

impl Signals {
    /// Of `most` JA4 values. `keys` are anything nobody else knows.
    #[must_use]
    pub fn new(most: usize, keys: (u64, u64)) -> Self {
        let values = HashMap::with_hasher(RandomState::default());
        Self { most: most.max(1), values, keys, shift: 0, minute: 0, victims: Vec::new(), evicted: 0 }
    }

    /// JA4 values watched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Values given up for others.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Bytes allocated for the values.
    #[must_use]
    pub fn allocated(&self) -> usize {
        let value = |value: &Value| {
            let sketches = [&value.ips, &value.uas, &value.paths].map(Distinct::allocated);
            let hours = value.hours.capacity().saturating_mul(size_of::<Hour>());
            let minutes = (WINDOW as usize).saturating_mul(size_of::<Counts>());
            sketches.iter().sum::<usize>().saturating_add(hours).saturating_add(minutes)
        };
        let slots = self.values.capacity().saturating_mul(size_of::<(Ja4, Value)>().saturating_add(1));
        self.values.values().map(value).sum::<usize>().saturating_add(slots)
    }

    /// A request came at `now`.
    pub fn note(&mut self, request: &Request<'_>, now: Timestamp) {
        self.advance(now);
        let (keys, minute) = (self.keys, self.minute);
        if let Some(value) = self.values.get_mut(&request.ja4) {
            return value.note(request, keys, minute);
        }
        self.admit(request.ja4);
        if let Some(value) = self.values.get_mut(&request.ja4) {
            value.note(request, keys, minute);
        }
    }

    /// How all values stand at `now`. Reads everything there is: for once in a while.
    pub fn ranking(&mut self, now: Timestamp) -> Ranking {
        self.advance(now);
        let minute = self.minute;
        Ranking::new(self.values.iter_mut().map(|(ja4, value)| {
            value.minutes.advance(minute);
            (*ja4, value.minutes.sum(), value.volume(minute))
        }))
    }

    /// Everything about a value, as it stands in `ranking`; `None` if it had no request in the last hour.
    #[must_use]
    pub fn figures(&self, ranking: &Ranking, ja4: Ja4) -> Option<Figures> {
        let (ten, last_hour) = ranking.of(ja4)?;
        let hours = self.values.get(&ja4).map(|value| &value.hours);
        Some(Figures {
            ja4: ja4.to_string(),
            ten,
            last_hour,
            ranked: u32::try_from(ranking.len()).unwrap_or(u32::MAX),
            baseline_24h: hours.and_then(|hours| Baseline::of(hours.iter(), DAY)),
            baseline_7d: hours.and_then(|hours| Baseline::of(hours.iter(), WEEK)),
        })
    }

    /// Seconds on the clock here.
    pub(super) fn seconds(&self, now: Timestamp) -> u64 {
        now.since(Timestamp::default()).as_secs().saturating_add_signed(self.shift)
    }

    /// It is `now`: hours that passed become part of the baselines.
    fn advance(&mut self, now: Timestamp) {
        let minute = self.seconds(now).checked_div(60).unwrap_or(0);
        if minute <= self.minute {
            return;
        }
        let hour = |minute: u64| minute.checked_div(HOUR).unwrap_or(0);
        let (last, current) = (hour(self.minute), hour(minute));
        if last < current {
            self.end_hours(last, current);
        }
        self.minute = minute;
    }

    /// The hours from `last` up to before `current` are over.
    fn end_hours(&mut self, last: u64, current: u64) {
        let oldest = current.saturating_sub(WEEK as u64).max(last);
        for value in self.values.values_mut() {
            for hour in oldest..current {
                value.end_hour(hour.saturating_mul(HOUR).saturating_add(HOUR.saturating_sub(1)));
            }
        }
        self.values.retain(|_, value| value.hours.iter().any(|hour| hour.counts.requests > 0));
        self.victims.clear();
    }

    /// Makes a place for a value, that of the one with the fewest requests if need be.
    fn admit(&mut self, ja4: Ja4) {
        let mut weight = 0;
        while self.values.len() >= self.most {
            let Some((was, victim)) = self.victims.pop() else {
                self.find_victims();
                continue;
            };
            let minute = self.minute;
            // Unless it had more since.
            if self.values.get_mut(&victim).is_some_and(|value| value.weight(minute) <= was) {
                self.values.remove(&victim);
                self.evicted = self.evicted.saturating_add(1);
                weight = was;
            }
        }
        self.values.insert(ja4, Value::new(self.minute, weight));
    }

    fn find_victims(&mut self) {
        let minute = self.minute;
        let mut weights: Vec<(u64, Ja4)> =
            self.values.iter_mut().map(|(ja4, value)| (value.weight(minute), *ja4)).collect();
        let place = VICTIMS.min(weights.len()).saturating_sub(1);
        weights.select_nth_unstable(place);
        weights.truncate(VICTIMS);
        weights.sort_unstable_by(|a, b| b.cmp(a));
        self.victims = weights;
    }
}

impl Value {
    fn note(&mut self, request: &Request<'_>, keys: (u64, u64), minute: u64) {
        let hash = |bytes: &[u8]| SipHasher13::new_with_keys(keys.0, keys.1).hash(bytes);
        let one = Counts {
            requests: 1,
            h2h3: request.h2h3.into(),
            heuristic: request.heuristic.into(),
            browser: request.browser.into(),
            cacheable: request.cacheable.into(),
        };
        self.minutes.note(one, minute);
        if !request.again {
            let address = match request.address.to_canonical() {
                IpAddr::V4(address) => hash(&address.octets()),
                // A client can choose any address of its /64.
                IpAddr::V6(address) => hash(&address.to_bits().wrapping_shr(64).to_be_bytes()),
            };
            self.ips.note(address, minute);
            if let Some(agent) = request.user_agent {
                self.uas.note(hash(agent.as_bytes()), minute);
            }
        }
        if let Some(path) = request.path {
            self.paths.note(hash(path.as_bytes()), minute);
        }
    }

    fn new(minute: u64, weight: u64) -> Self {
        Self {
            minutes: Minutes::new(minute),
            ips: Distinct::default(),
            uas: Distinct::default(),
            paths: Distinct::default(),
            hours: VecDeque::new(),
            inherited: (weight, minute),
        }
    }

    fn weight(&mut self, minute: u64) -> u64 {
        self.minutes.advance(minute);
        let (inherited, since) = self.inherited;
        let inherited = if minute < since.saturating_add(WINDOW) { inherited } else { 0 };
        inherited.saturating_add(self.minutes.sum().requests.into())
    }

    fn volume(&self, minute: u64) -> Volume {
        Volume {
            requests: self.minutes.sum().requests.into(),
            ips: self.ips.count(minute),
            uas: self.uas.count(minute),
            paths: self.paths.count(minute),
        }
    }

    /// An hour ended with this minute.
    fn end_hour(&mut self, minute: u64) {
        self.minutes.advance(minute);
        let volume = self.volume(minute);
        for sketch in [&mut self.ips, &mut self.uas, &mut self.paths] {
            sketch.keep_swept(minute);
        }
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        if self.hours.len() >= WEEK {
            self.hours.pop_front();
        }
        self.hours.push_back(Hour {
            counts: self.minutes.sum(),
            ips: narrow(volume.ips),
            uas: narrow(volume.uas),
            paths: narrow(volume.paths),
        });
    }
}

#[cfg(test)]
mod tests;
