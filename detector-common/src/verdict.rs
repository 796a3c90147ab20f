//! What an entry of a verdict map says.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Never expires.
pub const FOREVER: u64 = u64::MAX;

/// What a verdict does to the packets it matches. Values of [`Verdict::action`]; any other value passes.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Passes, whatever else matches.
    Allow = 0,
    /// Passes, and is counted as what would have been blocked.
    Observe = 1,
    /// Dropped.
    Block = 2,
}

/// Written by the operator: holds in every mode.
pub const ORIGIN_OPERATOR: u8 = 0;
/// Written by a rule of the configuration: holds only while [`crate::settings::Settings::enforce`] is 1.
pub const ORIGIN_RULE: u8 = 1;

/// Value of the address and prefix maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Verdict {
    /// CLOCK_MONOTONIC nanoseconds from which this entry says nothing any more, or [`FOREVER`]. The kernel compares
    /// it with its own clock, so a verdict ends on time with the daemon stopped.
    pub expires_at: u64,
    /// Packets this entry decided. Added to by the kernel.
    pub hits: u64,
    /// An [`Action`].
    pub action: u8,
    /// `ORIGIN_*`.
    pub origin: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

const _: () = assert!(size_of::<Verdict>() == 24);

/// Value of the connection map: a verdict on one TCP connection, told from a later one on the same 4-tuple by its
/// initial sequence number (RFC 9293 section 3.4.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConnectionVerdict {
    /// The verdict.
    pub verdict: Verdict,
    /// The client's initial sequence number, host byte order. A SYN with another one ends the verdict.
    pub initial_seq: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ConnectionVerdict>() == 32);
