//! What an entry of a verdict map says.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Never expires.
pub const FOREVER: u64 = u64::MAX;

/// What a verdict does to the packets it matches, from the mildest to the hardest: of several the hardest applies. Values
/// of [`Verdict::action`]; any other value passes.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Passes, whatever else matches. Only in the allow list.
    Allow = 0,
    /// Passes, and is counted as what would have been blocked.
    Observe = 1,
    /// Passes here; new connections go to the challenge listener where there is one.
    Challenge = 2,
    /// So many new connections in a time pass; those beyond are dropped. Packets of accepted ones pass.
    RateLimit = 3,
    /// Dropped.
    Block = 4,
}

/// Written by the operator: holds in every mode.
pub const ORIGIN_OPERATOR: u8 = 0;
/// Written by a rule of the configuration: holds only in mode enforce (`crate::mode::Mode`).
pub const ORIGIN_RULE: u8 = 1;
/// Written by what watches clients, or by a program on the operator's behalf: holds only in mode enforce, for the share of
/// addresses that it takes in, while the daemon lives. Always has an end.
pub const ORIGIN_AUTOMATIC: u8 = 2;

/// [`Verdict::reason`]: none was given.
pub const REASON_NONE: u8 = 0;
/// A person's command.
pub const REASON_COMMAND: u8 = 1;
/// `deny.ja4` of the configuration.
pub const REASON_DENY_JA4: u8 = 2;
/// A program's request, such as fail2ban's.
pub const REASON_EXTERNAL: u8 = 3;
/// The scoring engine's.
pub const REASON_SCORE: u8 = 4;

/// A challenged JA4 value: its clients are alone at the address.
pub const REASON_CHALLENGED_JA4: u8 = 8;

/// Value of the tries, and part of the connection map's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Verdict {
    /// CLOCK_MONOTONIC nanoseconds from which this entry says nothing any more, or [`FOREVER`]. The kernel compares
    /// it with its own clock, so a verdict ends on time with the daemon stopped.
    pub expires_at: u64,
    /// Packets it matched. Added to by the kernel.
    pub hits: u64,
    /// Of [`Action::RateLimit`]: the key of its entry in the map of rates.
    pub limit: u64,
    /// An [`Action`].
    pub action: u8,
    /// `ORIGIN_*`.
    pub origin: u8,
    /// `REASON_*`.
    pub reason: u8,
    /// Zero.
    pub reserved: [u8; RESERVED],
}

/// Bytes of [`Verdict::reserved`].
const RESERVED: usize = if cfg!(feature = "wide-verdicts") { 13 } else { 5 };

const _: () = assert!(size_of::<Verdict>() == 27 + RESERVED);

impl Verdict {
    /// One without hits.
    #[must_use]
    pub const fn new(action: Action, origin: u8, reason: u8, expires_at: u64) -> Self {
        Self { expires_at, hits: 0, limit: 0, action: action as u8, origin, reason, reserved: [0; RESERVED] }
    }
}

/// Value of the connection map: a verdict on one TCP connection, told from a later one on the same 4-tuple by its
/// initial sequence number (RFC 9293 section 3.4.1); or on all datagrams of a UDP 4-tuple.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConnectionVerdict {
    /// The client's initial sequence number, host byte order. A SYN with another one ends the verdict.
    /// Of UDP: zero.
    pub initial_seq: u32,
    /// Zero.
    pub reserved: u32,
    /// The verdict: last, since it may grow.
    pub verdict: Verdict,
}

const _: () = assert!(size_of::<ConnectionVerdict>() == 8 + size_of::<Verdict>());

/// Value of the map of rates: how fast new connections may come, by the generic cell rate algorithm (ITU-T I.371
/// section A). All CPUs share one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Rate {
    /// CLOCK_MONOTONIC nanoseconds at which the next connection is due at the agreed rate. Written by the kernel.
    pub due_at: u64,
    /// Nanoseconds from one connection to the next.
    pub interval_ns: u64,
    /// How far ahead of that a burst may run, in nanoseconds.
    pub tolerance_ns: u64,
}

const _: () = assert!(size_of::<Rate>() == 24);
