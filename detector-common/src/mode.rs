//! Whether what nobody ordered by hand is carried out. One entry of a map of its own: an operator changes it with one
//! store, with the daemon hung.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{key::mix, verdict::FOREVER};

/// [`Mode::share`] that takes in every address.
pub const WHOLE_SHARE: u32 = 1 << 16;

/// Without a sign of life of the daemon for so many nanoseconds, automatic verdicts are ignored (threats.md T47).
pub const DEAD_MAN_NS: u64 = 60_000_000_000;

/// Of [`Mode::by_operator`].
pub const BY_OPERATOR: u32 = 1;
/// Of [`Mode::by_operator`].
pub const BY_OPERATOR_AFTERWARDS: u32 = 1 << 1;

/// The one entry of the `MODE` array. The entry of zeros, which the array begins with, enforces nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Mode {
    /// 1: verdicts that aren't an operator's hold; 0: they only count.
    pub enforce: u32,
    /// The same from `until` on.
    pub afterwards: u32,
    /// CLOCK_MONOTONIC nanoseconds until which `enforce` is in force, or [`FOREVER`].
    pub until: u64,
    /// Of [`WHOLE_SHARE`]: the share of addresses that automatic verdicts hold for, by a hash of the address.
    pub share: u32,
    /// [`BY_OPERATOR`] if `enforce` is an operator's word, and [`BY_OPERATOR_AFTERWARDS`] if `afterwards` is; else they are
    /// the configuration's, which the next start may change.
    pub by_operator: u32,
}

const _: () = assert!(size_of::<Mode>() == 24);

impl Mode {
    /// One that stays until the next.
    #[must_use]
    pub const fn lasting(enforce: bool, share: u32) -> Self {
        Self { enforce: enforce as u32, afterwards: enforce as u32, until: FOREVER, share, by_operator: 0 }
    }

    /// After an operator's word, which stays until the next one, or holds until a time; then the mode is again what it was
    /// to stay.
    #[must_use]
    pub const fn ordered(self, enforce: bool, until: u64) -> Self {
        // The entry of zeros takes in nobody.
        let share = if self.share == 0 { WHOLE_SHARE } else { self.share };
        let (enforce, stays) = (enforce as u32, until == FOREVER);
        let afterwards = if stays { enforce } else { self.afterwards };
        let by_afterwards = if stays { BY_OPERATOR_AFTERWARDS } else { self.by_operator & BY_OPERATOR_AFTERWARDS };
        Self { enforce, afterwards, until, share, by_operator: BY_OPERATOR | by_afterwards }
    }

    /// After a start with a configuration: that doesn't overrule an operator's word.
    #[must_use]
    pub const fn configured(self, enforce: bool, now: u64) -> Self {
        if self.by_operator & BY_OPERATOR_AFTERWARDS != 0 {
            return self;
        }
        if self.by_operator & BY_OPERATOR != 0 && now < self.until {
            return Self { afterwards: enforce as u32, ..self };
        }
        Self::lasting(enforce, WHOLE_SHARE)
    }

    /// Whether what is in force at `now` is an operator's word.
    #[must_use]
    pub const fn is_operators(&self, now: u64) -> bool {
        self.by_operator & (if now < self.until { BY_OPERATOR } else { BY_OPERATOR_AFTERWARDS }) != 0
    }

    /// Whether verdicts that aren't an operator's hold at `now`, CLOCK_MONOTONIC nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn enforces(&self, now: u64) -> bool {
        (if now < self.until { self.enforce } else { self.afterwards }) != 0
    }

    /// Whether the unit with this name in the table is of the share.
    #[inline(always)]
    #[must_use]
    pub const fn takes_in(&self, unit: u64) -> bool {
        // A name's own bits won't do: of neighbouring addresses they are spread too evenly or too unevenly, and some of
        // them choose the bucket.
        ((mix(unit) >> 48) as u32) < self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableSeeds;

    #[test]
    fn an_operators_word_outlives_the_configuration() {
        let start = Mode::default().configured(false, 5);
        assert!(!start.enforces(5) && !start.is_operators(5));
        let ordered = start.ordered(true, FOREVER);
        assert!(ordered.enforces(9) && ordered.is_operators(9));
        assert_eq!(ordered.configured(false, 9), ordered);
        assert_eq!(start.configured(true, 9), Mode::lasting(true, WHOLE_SHARE));
    }

    #[test]
    fn for_a_time_and_then_as_before() {
        let passing = Mode::lasting(false, 7).ordered(true, 100).ordered(true, 200);
        assert!(passing.enforces(199) && !passing.enforces(200), "not what was to pass, but what was to stay");
        assert!(passing.is_operators(199) && !passing.is_operators(200));
        assert_eq!(passing.share, 7);
        let started = passing.configured(true, 150);
        assert!(started.enforces(199) && started.enforces(200) && !started.is_operators(200));
        assert_eq!(passing.configured(false, 200), Mode::lasting(false, WHOLE_SHARE));
        let back = Mode::lasting(true, 7).ordered(false, FOREVER).ordered(true, 100);
        assert!(!back.enforces(100) && back.is_operators(100));
    }

    /// Over many seeds, of a thousand neighbouring addresses a tenth is as a lottery would choose: 100, and a
    /// variance of 90.
    #[test]
    fn a_share_is_taken_by_lot() {
        let tenth = Mode::lasting(true, WHOLE_SHARE / 10);
        let rounds = 2_000_u64;
        let mut squares = 0;
        for round in 0..rounds {
            let seeds = TableSeeds { ipv4: mix(mix(round)), ..TableSeeds::default() };
            let taken = (0..1_000_u16)
                .filter(|client| {
                    let [high, low] = client.to_be_bytes();
                    let address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 18, high, low];
                    tenth.takes_in(seeds.unit(&address))
                })
                .count();
            assert!((50..=150).contains(&taken), "{taken} of 1,000 under the seed of round {round}");
            squares += taken.abs_diff(100).pow(2) as u64;
        }
        let variance = squares / rounds;
        assert!((75..=105).contains(&variance), "{variance}");
    }
}
