//! How many different things there were within the last hour: hashes in, a number out. Distinct sampling (Gibbons 2001)
//! over a sliding window: what is kept is each thing's hash and the minute it was last seen in, all of them while they
//! are few; when they are many, only those whose hash ends with enough zero bits, which is a fair sample.
//!
//! As long as no window has more than 1,568 things the number is exact, but for hashes that are equal by chance (one in
//! 2^24 pairs). Beyond, it is right within a standard error of [`ERROR`]. When things become few, the sample is finer an
//! hour later.
//!
//! Memory: 12 KiB at most.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};

/// Things kept: what a table of 2,048 places holds.
pub(super) const MOST: usize = 1792;
/// When a sample is thinned out there are this many things at least, half of which are left.
const THIN: usize = MOST - MOST / 8;
/// The standard error of a number, as a share of it: one over the root of the smallest sample.
pub const ERROR: f64 = 0.036;

/// Minutes of the window, that which goes on included.
pub(super) const WINDOW: u64 = 60;

/// Zero bits that a hash can be asked for.
const LEVELS: u8 = 32;

/// The upper 24 bits of a hash; the lower ones say whether it is in the sample. Its own hash is as good as any, since
/// it is keyed with what nobody knows.
type Name = [u8; 3];

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Seen {
    /// The minute, its lowest eight bits: what is older than the window goes before they come round.
    minute: u8,
    /// Zero bits at the end of its hash.
    zeros: u8,
}

/// A sliding number of different things.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Distinct {
    /// Zero bits that a hash in the sample ends with.
    level: u8,
    /// The level before, and the minute from which on the sample is one of this level.
    before: Option<(u8, u64)>,
    seen: HashMap<Name, Seen, FixedState>,
    /// When what was too old went last.
    swept: u64,
}

impl Distinct {
    /// Something was there in this minute.
    pub(super) fn note(&mut self, hash: u64, minute: u64) {
        let zeros = (hash as u32).trailing_zeros() as u8;
        if zeros < self.level {
            return;
        }
        let [.., a, b, c] = (hash >> 40).to_be_bytes();
        let seen = Seen { minute: minute as u8, zeros };
        if let Some(known) = self.seen.get_mut(&[a, b, c]) {
            known.minute = seen.minute;
            return;
        }
        if self.seen.len() >= MOST {
            self.make_room(minute);
        }
        if zeros >= self.level {
            self.seen.insert([a, b, c], seen);
        }
    }

    /// How many there were in the window that ends with this minute.
    pub(super) fn count(&self, minute: u64) -> u64 {
        let level = match self.before {
            Some((before, since)) if minute < since.saturating_add(WINDOW) => before.max(self.level),
            _ => self.level,
        };
        let sampled = self.seen.values().filter(|seen| seen.zeros >= level && is_recent(**seen, minute)).count();
        u64::try_from(sampled).unwrap_or(u64::MAX).saturating_mul(1 << level.min(LEVELS))
    }

    /// Forgets what is too old, which has to happen at least every three hours.
    pub(super) fn sweep(&mut self, minute: u64) {
        self.keep(|seen| is_recent(seen, minute));
        self.swept = minute;
        self.before = self.before.filter(|(_, since)| minute < since.saturating_add(WINDOW));
        if self.level > 0 && self.before.is_none() && self.seen.len() < MOST / 8 {
            // Half full after the window, if things come as they did.
            let room = (MOST / 2).checked_div(self.seen.len().max(1)).unwrap_or(1).ilog2();
            let finer = self.level.saturating_sub(u8::try_from(room).unwrap_or(u8::MAX));
            self.before = Some((self.level, minute));
            self.level = finer;
        }
    }

    /// Sweeps, if that wasn't done for half a window.
    pub(super) fn keep_swept(&mut self, minute: u64) {
        if minute.saturating_sub(self.swept) >= WINDOW / 2 {
            self.sweep(minute);
        }
    }

    /// Bytes allocated.
    pub(super) fn allocated(&self) -> usize {
        // hashbrown fills seven of eight places, a power of two of them, and has a byte of its own for each.
        let places = self.seen.capacity().saturating_mul(8).checked_div(7).unwrap_or(0).next_power_of_two();
        places.saturating_mul(size_of::<(Name, Seen)>().saturating_add(1))
    }

    /// Whether it is one that could have been written.
    pub(super) fn is_sound(&self) -> bool {
        self.seen.len() <= MOST && self.level <= LEVELS && self.before.is_none_or(|(level, _)| level <= LEVELS)
    }

    fn make_room(&mut self, minute: u64) {
        self.sweep(minute);
        while self.seen.len() > THIN && self.level < LEVELS {
            self.level = self.level.saturating_add(1);
            let level = self.level;
            self.keep(|seen| seen.zeros >= level);
        }
    }

    /// Into a new table: one that things are taken out of grows although it isn't full.
    fn keep(&mut self, which: impl Fn(Seen) -> bool) {
        self.seen = std::mem::take(&mut self.seen).into_iter().filter(|(_, seen)| which(*seen)).collect();
    }
}

fn is_recent(seen: Seen, minute: u64) -> bool {
    u64::from((minute as u8).wrapping_sub(seen.minute)) < WINDOW
}

#[cfg(test)]
mod tests {
    use siphasher::sip::SipHasher13;

    use super::*;

    fn hash(thing: u64) -> u64 {
        SipHasher13::new_with_keys(1, 2).hash(&thing.to_be_bytes())
    }

    fn noted(things: std::ops::Range<u64>, minute: impl Fn(u64) -> u64) -> Distinct {
        let mut distinct = Distinct::default();
        for thing in things {
            distinct.note(hash(thing), minute(thing));
            distinct.note(hash(thing), minute(thing));
        }
        distinct
    }

    #[test]
    fn few_things_are_counted_exactly() {
        for many in [0, 1, 50, THIN as u64] {
            assert_eq!(noted(0..many, |_| 7).count(7), many);
        }
    }

    #[test]
    fn many_things_are_counted_within_the_error() {
        for many in [2_000, 5_000, 30_000, 200_000, 1_000_000_u64] {
            let distinct = noted(0..many, |_| 7);
            let off = distinct.count(7).abs_diff(many) as f64 / many as f64;
            assert!(off < 3.0 * ERROR, "{many}: {off}");
            assert!(distinct.allocated() <= 12 * 1024, "{}", distinct.allocated());
        }
    }

    #[test]
    fn the_window_slides() {
        // 50 new things each minute.
        let distinct = noted(0..6_000, |thing| thing / 50);
        assert_eq!(noted(0..500, |thing| thing / 50).count(9), 500);
        let off = distinct.count(119).abs_diff(3_000) as f64 / 3_000.0;
        assert!(off < 3.0 * ERROR, "{off}");
        assert_eq!(distinct.count(119 + WINDOW), 0);
    }

    #[test]
    fn after_a_flood_few_things_are_exact_again() {
        let mut distinct = noted(0..1_000_000, |_| 0);
        let minutes = 60 * 12;
        for minute in 1..minutes {
            for thing in 0..20 {
                distinct.note(hash(minute / 10 * 20 + thing), minute);
            }
            distinct.keep_swept(minute);
            let truth = 20 * (minute / 10 - minute.saturating_sub(WINDOW - 1) / 10 + 1);
            // The few that a coarse sample has say little, but never more than chance allows.
            assert!(minute < WINDOW || distinct.count(minute) < 20 * truth, "{minute}: {}", distinct.count(minute));
        }
        assert_eq!(distinct.count(minutes - 1), 20 * 6);
    }
}
