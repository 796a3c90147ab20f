//! What the programs read once for each packet; written by userspace as a whole.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{key::Seeds, table::TableSeeds};

/// A tick, the time for which RSTs are bounded, is two to this power of nanoseconds: 67 ms.
pub const RESET_TICK_BITS: u32 = 26;

/// [`Settings::in_use`]: single IPv4 addresses.
pub const IN_USE_IPV4: u32 = 1;
/// Single IPv6 addresses.
pub const IN_USE_IPV6: u32 = 1 << 1;
/// IPv6 /64.
pub const IN_USE_SUBNETS: u32 = 1 << 2;
/// IPv4 prefixes.
pub const IN_USE_PREFIXES_IPV4: u32 = 1 << 3;
/// IPv6 prefixes.
pub const IN_USE_PREFIXES_IPV6: u32 = 1 << 4;
/// IPv6 prefixes too short for the filter: every IPv6 packet is looked up in the trie.
pub const IN_USE_PREFIXES_SHORT: u32 = 1 << 5;
/// Connections.
pub const IN_USE_CONNECTIONS: u32 = 1 << 6;
/// Fingerprints, by key.
pub const IN_USE_KEYS: u32 = 1 << 7;
/// Fingerprints, by stable key.
pub const IN_USE_STABLE: u32 = 1 << 8;
/// Units and fingerprints together, by key.
pub const IN_USE_KEY_PAIRS: u32 = 1 << 9;
/// The same by stable key.
pub const IN_USE_STABLE_PAIRS: u32 = 1 << 10;

/// Units' QUIC Initial packets.
pub const IN_USE_INITIALS: u32 = 1 << 11;

/// IPv6 prefixes of [`crate::table::WIDE_BITS`] and fingerprints together, by stable key.
pub const IN_USE_WIDE_PAIRS: u32 = 1 << 12;

/// Those of which the verdicts are in `VERDICTS`.
pub const IN_USE_TABLE: u32 = IN_USE_IPV4
    | IN_USE_IPV6
    | IN_USE_SUBNETS
    | IN_USE_KEYS
    | IN_USE_STABLE
    | IN_USE_KEY_PAIRS
    | IN_USE_STABLE_PAIRS
    | IN_USE_WIDE_PAIRS
    | IN_USE_INITIALS;

/// The one entry of the `SETTINGS` array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    /// 1: only frames to the addresses in `LOCAL_ADDRESSES` are captured or dropped; 0: to any address.
    pub local_only: u32,
    /// `IN_USE_*`: kinds of verdicts of which there are any. Of the others none is looked up.
    pub in_use: u32,
    /// Buckets of `VERDICTS` that are in use, less one.
    pub table_mask: u32,
    /// Another number after each change of `LOCAL_ADDRESSES`; never 0.
    pub addresses: u32,
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
    /// Dropped segments that may become a RST for the host's own stack, on each CPU in a tick of 2^[`RESET_TICK_BITS`]
    /// nanoseconds; 0: none. Only with `local_only`.
    pub resets: u32,
    /// Nanoseconds from a hello's first segment after which the flow is no longer followed (threats.md T18).
    pub follow_ns: u64,
    /// Of the keys.
    pub seeds: Seeds,
    /// Of the names in `VERDICTS`.
    pub table_seeds: TableSeeds,
}

const _: () = assert!(size_of::<Settings>() == 120);
