//! Which fingerprints people were seen with at one address, within the last half hour to hour.

use std::time::Duration;

use smallvec::SmallVec;

use crate::clock::Timestamp;

/// Fingerprints of half an hour: of more nobody's is told apart.
const MOST: usize = 64;
const HALF_HOUR: Duration = Duration::from_secs(1800);

/// Of an address. Memory: 4 bytes for each fingerprint, 512 at most.
#[derive(Debug, Default)]
pub(super) struct Shown {
    since: Timestamp,
    /// Of this half hour and the one before.
    seen: [SmallVec<[u32; 2]>; 2],
}

impl Shown {
    /// Somebody with this fingerprint browsed as people do; `fingerprint`: a hash that spreads evenly.
    pub(super) fn add(&mut self, fingerprint: u64, now: Timestamp) {
        self.age(now);
        let [current, _] = &mut self.seen;
        let short = (fingerprint >> 32) as u32;
        if current.len() < MOST && !current.contains(&short) {
            current.push(short);
        }
    }

    /// Whether somebody did, or it can't be said that nobody did.
    pub(super) fn has(&mut self, fingerprint: u64, now: Timestamp) -> bool {
        self.age(now);
        let short = (fingerprint >> 32) as u32;
        self.seen.iter().any(|seen| seen.len() >= MOST || seen.contains(&short))
    }

    fn age(&mut self, now: Timestamp) {
        let age = now.since(self.since);
        if age >= HALF_HOUR {
            let [current, _] = std::mem::take(&mut self.seen);
            let before = if age < HALF_HOUR.saturating_mul(2) { current } else { SmallVec::new() };
            (self.since, self.seen) = (now, [SmallVec::new(), before]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_an_hour_and_of_too_many_everybodys() {
        let at = |seconds: u64| Timestamp::default().plus(Duration::from_secs(100_000 + seconds));
        let name = |number: u64| number << 32;
        let mut shown = Shown::default();
        shown.add(name(1), at(0));
        assert!(shown.has(name(1), at(1)) && !shown.has(name(2), at(1)));
        assert!(shown.has(name(1), at(1900)), "of the half hour before");
        assert!(!shown.has(name(1), at(3800)));
        (0..100).for_each(|number| shown.add(name(number), at(4000)));
        assert!(shown.has(name(999), at(4001)), "it can't be told apart");
    }
}
