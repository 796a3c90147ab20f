//! Counts of the last hour, minute by minute: exact. Memory: 1.2 KiB.

use serde::{Deserialize, Serialize};

use super::distinct::WINDOW;

/// What is counted of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) requests: u32,
    pub(super) h2h3: u32,
    pub(super) heuristic: u32,
    pub(super) browser: u32,
    pub(super) cacheable: u32,
}

impl Counts {
    fn each(self, other: Self, with: impl Fn(u32, u32) -> u32) -> Self {
        Self {
            requests: with(self.requests, other.requests),
            h2h3: with(self.h2h3, other.h2h3),
            heuristic: with(self.heuristic, other.heuristic),
            browser: with(self.browser, other.browser),
            cacheable: with(self.cacheable, other.cacheable),
        }
    }
}

/// Counts of [`WINDOW`] minutes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Minutes {
    /// That of minute `m` at `m % WINDOW`.
    ring: Box<[Counts]>,
    newest: u64,
    #[serde(skip)]
    sum: Counts,
}

impl Minutes {
    pub(super) fn new(minute: u64) -> Self {
        Self {
            ring: vec![Counts::default(); WINDOW as usize].into_boxed_slice(),
            newest: minute,
            sum: Counts::default(),
        }
    }

    /// Counts one request.
    pub(super) fn note(&mut self, one: Counts, minute: u64) {
        self.advance(minute);
        self.sum = self.sum.each(one, u32::saturating_add);
        if let Some(place) = self.ring.get_mut((self.newest % WINDOW) as usize) {
            *place = place.each(one, u32::saturating_add);
        }
    }

    /// Forgets the minutes that are out of the window which ends with this one.
    pub(super) fn advance(&mut self, minute: u64) {
        let passed = minute.saturating_sub(self.newest).min(WINDOW);
        for step in 0..passed {
            let at = (minute.saturating_sub(step) % WINDOW) as usize;
            if let Some(old) = self.ring.get_mut(at).map(std::mem::take) {
                self.sum = self.sum.each(old, u32::saturating_sub);
            }
        }
        self.newest = self.newest.max(minute);
    }

    /// Of the window.
    pub(super) const fn sum(&self) -> Counts {
        self.sum
    }

    /// Makes the sum anew, which isn't written; `false` if this is nothing that could have been written.
    pub(super) fn restore(&mut self, minute: u64) -> bool {
        self.sum = self.ring.iter().fold(Counts::default(), |sum, one| sum.each(*one, u32::saturating_add));
        self.ring.len() == WINDOW as usize && self.newest <= minute
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_counts_for_an_hour() {
        let one = Counts { requests: 1, h2h3: 1, ..Counts::default() };
        let mut minutes = Minutes::new(100);
        for minute in [100, 100, 101, 159] {
            minutes.note(one, minute);
        }
        let requests = |minutes: &mut Minutes, minute| {
            minutes.advance(minute);
            minutes.sum().requests
        };
        assert_eq!(requests(&mut minutes, 159), 4);
        assert_eq!(requests(&mut minutes, 160), 2);
        minutes.note(one, 90);
        assert_eq!(requests(&mut minutes, 161), 2, "a late one counts now");
        assert_eq!(requests(&mut minutes, 5000), 0);
    }
}
