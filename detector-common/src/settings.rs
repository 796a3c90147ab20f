//! What the programs read once for each packet; written by userspace as a whole.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::key::Seeds;

/// A tick, the time for which RSTs are bounded, is two to this power of nanoseconds: 67 ms.
pub const RESET_TICK_BITS: u32 = 26;

/// The one entry of the `SETTINGS` array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    /// 1: verdicts of [`crate::verdict::ORIGIN_RULE`] hold; 0: they only count.
    pub enforce: u32,
    /// 1: only frames to the addresses in `LOCAL_ADDRESSES` are captured or dropped; 0: to any address.
    pub local_only: u32,
    /// 1 while `ADDRESSES` has entries, 0 otherwise: an empty map costs no look-up.
    pub addresses: u32,
    /// The same of `PREFIXES`.
    pub prefixes: u32,
    /// The same of `CONNECTIONS`.
    pub connections: u32,
    /// The most segments one flow is followed for (threats.md T13).
    pub segments_per_flow: u32,
    /// 1: SYNs are kept for the hello that follows; 0: not.
    pub syns: u32,
    /// 1: servers' answers are captured; 0: not.
    pub answers: u32,
    /// 1: UDP to protected ports is looked into; 0: not.
    pub udp: u32,
    /// 1: the program computes the keys of hellos; 0: not.
    pub keys: u32,
    /// 1 while `FINGERPRINTS` has entries, 0 otherwise.
    pub fingerprints: u32,
    /// Dropped segments that may become a RST for the host's own stack, on each CPU in a tick of 2^[`RESET_TICK_BITS`]
    /// nanoseconds; 0: none. Only with `local_only`.
    pub resets: u32,
    /// Nanoseconds from a hello's first segment after which the flow is no longer followed (threats.md T18).
    pub follow_ns: u64,
    /// Of the keys.
    pub seeds: Seeds,
}

const _: () = assert!(size_of::<Settings>() == 88);
