//! So many a second and no more, for threads that wait for nobody: the generic cell rate algorithm (ITU-T I.371) on one
//! number. Two that ask at the same moment may both get what one would.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;

/// Parts of a second's worth that may be taken at once.
const BURSTS: u64 = 10;
const SECOND: u64 = 1_000_000_000;

/// What is left of so many a second.
#[derive(Debug)]
pub(super) struct Budget {
    /// Nanoseconds from one to the next.
    interval: AtomicU64,
    /// When the next is due that comes as fast as may be and no faster.
    next: AtomicU64,
}

impl Budget {
    pub(super) fn per_second(count: u32) -> Self {
        let this = Self { interval: AtomicU64::default(), next: AtomicU64::new(0) };
        this.set(count);
        this
    }

    /// So many a second from now on.
    pub(super) fn set(&self, count: u32) {
        self.interval.store(SECOND / u64::from(count.max(1)), Ordering::Relaxed);
    }

    /// Takes one, if it may be.
    pub(super) fn take(&self, now: Timestamp) -> bool {
        let (now, next) = (now.as_nanos(), self.next.load(Ordering::Relaxed));
        if next > now.saturating_add(SECOND / BURSTS) {
            return false;
        }
        self.next.store(next.max(now).saturating_add(self.interval.load(Ordering::Relaxed)), Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_and_a_burst_pass() {
        let budget = Budget::per_second(1000);
        let passed = |from: u64, count: u64, step: u64| {
            (0..count).filter(|number| budget.take(Timestamp::from_nanos(from + number * step))).count()
        };
        let start = 5 * SECOND;
        assert_eq!(passed(start, 50, 0), 50, "what comes at once");
        let second = passed(start + SECOND, 100_000, 10_000);
        assert!((1099..=1101).contains(&second), "{second} of 100,000 in a second");
        let slow = passed(start + 10 * SECOND, 900, SECOND / 900);
        assert_eq!(slow, 900, "fewer all pass");
    }
}
