//! How many different things were seen within the last half hour to hour: linear counting (Whang 1990), right within 10 %
//! up to 200, and of more it says 1,400 at most.

use detector_common::key::mix;

use crate::clock::Timestamp;

const BITS: usize = 256;
const WORDS: usize = BITS / 64;
const HALF_HOUR_S: u64 = 1800;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kinds {
    half: u64,
    /// Of this half hour and the one before.
    seen: [[u64; WORDS]; 2],
}

impl Kinds {
    pub(super) fn add(&mut self, hash: u64, now: Timestamp) {
        self.age(now);
        // Of a fast hash the lower bits alone are no lottery.
        let bit = (mix(hash) as usize) & BITS.saturating_sub(1);
        let [current, _] = &mut self.seen;
        if let Some(word) = current.get_mut(bit / 64) {
            *word |= 1 << (bit & 63);
        }
    }

    /// Forgets what is out of the window.
    pub(super) fn age(&mut self, now: Timestamp) {
        let half = now.since(Timestamp::default()).as_secs().checked_div(HALF_HOUR_S).unwrap_or(0);
        if half > self.half {
            let [current, _] = self.seen;
            let before = if half == self.half.saturating_add(1) { current } else { Default::default() };
            (self.half, self.seen) = (half, [Default::default(), before]);
        }
    }

    pub(super) fn count(&self) -> u32 {
        let [current, before] = &self.seen;
        let unset: u32 = current.iter().zip(before).map(|(a, b)| (a | b).count_zeros()).sum();
        let bits = BITS as f32;
        (bits * (bits / unset.max(1) as f32).ln()).round() as u32
    }
}
