//! How many people were seen, and how many of them newly stopped, since a moment: exact up to [`MOST`], then by an even
//! sample of them (adaptive sampling by hash, Wegman in Flajolet 1990). Memory: 24 bytes each.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::clock::Timestamp;

/// People kept. A share of 5 % of so many is right within 1.4 percentage points, 19 times of 20.
const MOST: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Person {
    seen: Timestamp,
    stopped: Option<Timestamp>,
}

/// The people of a window.
#[derive(Debug, Default)]
pub(super) struct People {
    /// Only those are kept whose hash ends in so many zeros.
    level: u32,
    kept: HashMap<u64, Person, RandomState>,
}

impl People {
    /// Somebody was seen, and newly stopped or not.
    pub(super) fn note(&mut self, client: u64, stopped: bool, now: Timestamp) {
        if client.trailing_zeros() < self.level {
            return;
        }
        let person = self.kept.entry(client).or_insert(Person { seen: now, stopped: None });
        person.seen = person.seen.max(now);
        if stopped {
            person.stopped = person.stopped.max(Some(now));
        }
        while self.kept.len() > MOST && self.level < u64::BITS {
            self.level = self.level.saturating_add(1);
            let level = self.level;
            self.kept.retain(|client, _| client.trailing_zeros() >= level);
        }
    }

    /// Forgets who wasn't seen for so long.
    pub(super) fn forget(&mut self, now: Timestamp, window: Duration) {
        self.kept.retain(|_, person| now.since(person.seen) < window);
        if self.kept.len() < MOST / 4 {
            self.level = self.level.saturating_sub(1);
        }
    }

    /// Those seen since then, and those stopped.
    pub(super) fn count(&self, since: Timestamp) -> (f32, f32) {
        let (seen, stopped) = self.kept.values().fold((0_u32, 0_u32), |(seen, stopped), person| {
            let was_stopped = person.stopped.is_some_and(|at| at >= since);
            (seen.saturating_add(u32::from(person.seen >= since)), stopped.saturating_add(u32::from(was_stopped)))
        });
        let factor = (self.level as f32).exp2();
        (seen as f32 * factor, stopped as f32 * factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_tells_the_shares_of_all() {
        let mut people = People::default();
        for client in 0..100_000_u64 {
            let hash = detector_common::key::mix(client);
            people.note(hash, client % 5 == 0, Timestamp::from_nanos(1));
            people.note(hash, false, Timestamp::from_nanos(2));
        }
        let (seen, stopped) = people.count(Timestamp::default());
        assert!(people.kept.len() <= MOST);
        assert!((90_000.0..110_000.0).contains(&seen), "{seen}");
        assert!((0.16..0.24).contains(&(stopped / seen)), "{}", stopped / seen);
        people.forget(Timestamp::from_nanos(20), Duration::from_nanos(5));
        assert_eq!(people.count(Timestamp::default()), (0.0, 0.0));
    }
}
