//! Whether what nobody ordered by hand is carried out. One entry of a map of its own: an operator changes it with one
//! store, with the daemon hung.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::verdict::FOREVER;

/// [`Mode::share`] that takes in every address.
pub const WHOLE_SHARE: u32 = 1 << 16;

/// Without a sign of life of the daemon for so many nanoseconds, automatic verdicts are ignored (threats.md T47).
pub const DEAD_MAN_NS: u64 = 60_000_000_000;

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
    /// 1: written by an operator, and not to be replaced by the configuration's; 0: by the daemon at its start.
    pub by_operator: u32,
}

const _: () = assert!(size_of::<Mode>() == 24);

impl Mode {
    /// One that stays until the next.
    #[must_use]
    pub const fn lasting(enforce: bool, share: u32) -> Self {
        Self { enforce: enforce as u32, afterwards: enforce as u32, until: FOREVER, share, by_operator: 0 }
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
        // The upper bits: the lower ones choose the bucket.
        ((unit >> 48) as u32) < self.share
    }
}
