//! Which claims to be a crawler DNS has confirmed: an address has a name below the crawler's domain, and that name leads
//! back to the address. In: claims, answers. Out: the claims to look up. Who asks DNS is elsewhere, and never in the way
//! of a request.
//!
//! Memory: [`Limits::known`] answers and [`Limits::waiting`] claims, some 64 bytes each.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use foldhash::fast::RandomState;
use lru::LruCache;

use super::crawlers::CrawlerId;
use crate::clock::Timestamp;

/// Bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Answers remembered.
    pub known: usize,
    /// Claims that wait to be looked up.
    pub waiting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { known: 16_384, waiting: 256 }
    }
}

/// A claim: that this address is that crawler's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// Whose.
    pub address: IpAddr,
    /// Which.
    pub crawler: CrawlerId,
}

/// What DNS says to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is true.
    Confirmed,
    /// It isn't.
    Denied,
    /// Nobody answered.
    Failed,
}

impl Answer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Confirmed, Self::Denied, Self::Failed];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }

    /// How long it holds. A crawler's own addresses stay; a forger's answer costs it nothing, so it is asked seldom; a
    /// resolver may be back soon.
    const fn holds(self) -> Duration {
        match self {
            Self::Confirmed => Duration::from_secs(24 * 3600),
            Self::Denied => Duration::from_secs(3600),
            Self::Failed => Duration::from_secs(300),
        }
    }
}

/// What is known, and what waits.
#[derive(Debug)]
pub struct Confirm {
    limits: Limits,
    known: LruCache<Check, (Answer, Timestamp), RandomState>,
    waiting: VecDeque<Check>,
    /// Those that wait or are being looked up.
    asked: HashSet<Check, RandomState>,
    dropped: u64,
}

impl Confirm {
    /// Nothing is known.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let most = NonZeroUsize::new(limits.known).unwrap_or(NonZeroUsize::MIN);
        Self {
            limits,
            known: LruCache::with_hasher(most, RandomState::default()),
            waiting: VecDeque::new(),
            asked: HashSet::default(),
            dropped: 0,
        }
    }

    /// What is known of a claim. One of which nothing is waits to be looked up, if there is room.
    pub fn ask(&mut self, check: Check, now: Timestamp) -> Option<Answer> {
        if let Some((answer, until)) = self.known.get(&check)
            && now < *until
        {
            return Some(*answer);
        }
        if !self.asked.contains(&check) {
            if self.waiting.len() < self.limits.waiting {
                self.asked.insert(check);
                self.waiting.push_back(check);
            } else {
                self.dropped = self.dropped.saturating_add(1);
            }
        }
        None
    }

    /// The next one to look up.
    pub fn take(&mut self) -> Option<Check> {
        self.waiting.pop_front()
    }

    /// One was looked up.
    pub fn answered(&mut self, check: Check, answer: Answer, now: Timestamp) {
        self.asked.remove(&check);
        self.known.put(check, (answer, now.plus(answer.holds())));
    }

    /// Answers remembered, and claims for which there was no room.
    #[must_use]
    pub fn counts(&self) -> (usize, u64) {
        (self.known.len(), self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: u8) -> Check {
        Check { address: IpAddr::from([192, 0, 2, host]), crawler: CrawlerId::new(3) }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn each_claim_is_looked_up_once() {
        let mut confirm = Confirm::new(Limits::default());
        for _ in 0..1000 {
            assert_eq!(confirm.ask(check(1), at(0)), None);
        }
        assert_eq!((confirm.take(), confirm.take()), (Some(check(1)), None));
        assert_eq!(confirm.ask(check(1), at(1)), None, "it is being looked up");
        assert_eq!(confirm.take(), None);
        confirm.answered(check(1), Answer::Confirmed, at(2));
        assert_eq!(confirm.ask(check(1), at(3)), Some(Answer::Confirmed));
        let other = Check { crawler: CrawlerId::new(4), ..check(1) };
        assert_eq!(confirm.ask(other, at(3)), None, "of another crawler nothing is said");
    }

    #[test]
    fn answers_end_and_are_asked_for_again() {
        for (answer, holds) in [(Answer::Confirmed, 86_400), (Answer::Denied, 3600), (Answer::Failed, 300)] {
            let mut confirm = Confirm::new(Limits::default());
            confirm.answered(check(1), answer, at(0));
            assert_eq!(confirm.ask(check(1), at(holds - 1)), Some(answer));
            assert_eq!(confirm.ask(check(1), at(holds)), None);
            assert_eq!(confirm.take(), Some(check(1)));
        }
    }

    /// threats.md T6: forged claims from anywhere fill nothing.
    #[test]
    fn a_flood_of_claims_is_bounded_and_counted() {
        let mut confirm = Confirm::new(Limits { known: 8, waiting: 4 });
        for host in 0..=255 {
            confirm.ask(check(host), at(0));
        }
        assert_eq!(confirm.counts(), (0, 252));
        while let Some(check) = confirm.take() {
            confirm.answered(check, Answer::Denied, at(1));
        }
        for host in 0..=255 {
            confirm.answered(check(host), Answer::Denied, at(1));
        }
        assert_eq!(confirm.counts().0, 8);
    }
}
