//! Fewer wake-ups, as network cards moderate their interrupts: where very much comes, being woken for each of it costs both
//! sides more than what is to be done. How many came in, how long to let more come before the next look out.

use std::time::Duration;

use crate::clock::Timestamp;

/// A rate is that of so long.
const WINDOW: Duration = Duration::from_millis(10);
/// A sleep isn't worth its own wake-up below.
const SHORTEST: Duration = Duration::from_micros(50);

/// Of one thing that is waited for.
#[derive(Debug)]
pub struct Gather {
    busy: u64,
    longest: Duration,
    since: Timestamp,
    came: u64,
    /// A second.
    rate: u64,
}

impl Gather {
    /// From `busy` a second on, for at most `longest`.
    #[must_use]
    pub fn new(busy: u64, longest: Duration) -> Self {
        Self { busy, longest, since: Timestamp::default(), came: 0, rate: 0 }
    }

    /// After `came` more came, and none is left: how long to leave them alone; at most until `room` more have come.
    pub fn pause(&mut self, came: u64, room: u64, now: Timestamp) -> Option<Duration> {
        self.came += came;
        let passed = now.since(self.since);
        if passed >= WINDOW {
            self.rate = u64::try_from(u128::from(self.came) * 1_000_000_000 / passed.as_nanos()).unwrap_or(u64::MAX);
            (self.since, self.came) = (now, 0);
        }
        if self.rate < self.busy {
            return None;
        }
        let filled = Duration::from_nanos(room.saturating_mul(1_000_000_000) / self.rate.max(1));
        Some(self.longest.min(filled)).filter(|pause| *pause >= SHORTEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// The pause after `for_` of `per_milli` each millisecond.
    fn after(per_milli: u64, for_: u64, room: u64) -> Option<Duration> {
        let (mut gather, mut now) = (Gather::new(5_000, MILLI), Timestamp::from_nanos(1));
        let mut pause = None;
        for _ in 0..for_ {
            now = now.plus(MILLI);
            pause = gather.pause(per_milli, room, now);
        }
        pause
    }

    #[test]
    fn only_much_is_left_alone_and_never_until_it_is_lost() {
        assert_eq!(after(1, 1000, 1024), None, "few");
        assert_eq!(after(100, 5, 1024), None, "it has just begun");
        assert_eq!(after(100, 100, 1024), Some(MILLI));
        assert_eq!(after(100, 100, 50), Some(MILLI / 2), "there is room for no more");
        assert_eq!(after(100, 100, 2), None, "for so few it isn't worth it");
    }

    #[test]
    fn a_lull_ends_it() {
        let mut gather = Gather::new(5_000, MILLI);
        let now = Timestamp::from_nanos(1).plus(WINDOW);
        gather.pause(0, 1024, now);
        assert!(gather.pause(1000, 1024, now.plus(WINDOW)).is_some());
        assert_eq!(gather.pause(1, 1024, now.plus(WINDOW * 100)), None);
    }
}
