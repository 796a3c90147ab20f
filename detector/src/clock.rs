//! Time as the packet path counts it: one number, handed down as a parameter. Nothing but this file asks the system
//! for the time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds on the clock of the source: CLOCK_MONOTONIC as the kernel gives it for live packets (std's `Instant`
/// can't be compared with that), nanoseconds since 1970 for packets from a capture file. Never compare the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// In nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, zero if that is later: packets of several CPUs may come slightly out of order.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment and `duration` back, or the beginning of time.
    #[must_use]
    pub const fn before(self, duration: Duration) -> Self {
        let nanos = duration.as_nanos();
        Self(if nanos > self.0 as u128 { 0 } else { self.0.saturating_sub(nanos as u64) })
    }

    /// This moment and `duration` on, or the end of time.
    #[must_use]
    pub const fn plus(self, duration: Duration) -> Self {
        let nanos = duration.as_nanos();
        Self(if nanos > u64::MAX as u128 { u64::MAX } else { self.0.saturating_add(nanos as u64) })
    }
}

/// Now, on the clock of live packets.
#[must_use]
pub fn monotonic() -> Timestamp {
    // CLOCK_MONOTONIC can't fail on Linux; a zero would only make everything look early.
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    Timestamp::default().plus(now)
}

/// Now, as people write it: for display only.
#[must_use]
pub fn wall() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
