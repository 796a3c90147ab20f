//! The table of verdicts that a packet is looked up in: those on addresses, on fingerprints, and on both together. A hash
//! table in an array that userspace maps into its memory: the program reads it and counts what matched, one look-up costs
//! one cache line, and a verdict is in force with a store, not with a system call.
//!
//! What a verdict is about stands there as a 64-bit name: for IPv4 addresses and IPv6 /64 it is one to one, for the rest
//! a hash under secret seeds, with a chance of 2^-64 for any two to be the same. A cell holds the name XORed with the
//! verdict's word beside that word. A reader that sees the one of an old verdict and the other of a new one finds a name
//! that nothing has: so no order of stores or loads matters, on any CPU, and no verdict ever has another one's end.
//! (The trick is R. Hyatt's and T. Mann's, "A lock-less transposition table implementation", ICGA Journal 25, 2002.)
//!
//! A bucket is one cache line. What finds its own bucket full goes to the [`neighbour`], and then to the stash, a small hash
//! map. A bucket says by [`Bucket::elsewhere`] which of its names to look for there, so that a name that isn't in the
//! table costs one cache line too, but for one in thirty or so of those whose bucket overflowed.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    flow::Address,
    key::mix,
    verdict::{FOREVER, Verdict},
};

/// Cells of a bucket. With two of three taken one verdict in twenty finds no place in its bucket or the neighbour, with five
/// of six one in ten.
pub const CELLS: usize = 3;

/// A place for one verdict. Empty: both are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Cell {
    /// The name XOR `word`.
    pub check: u64,
    /// A [`Word`].
    pub word: u64,
}

/// A cache line.
///
/// | bytes | field | order |
/// | --- | --- | --- |
/// | 0..48 | `cells` | host |
/// | 48..60 | `hits` | host |
/// | 60..64 | `elsewhere` | host |
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Bucket {
    /// In no order.
    pub cells: [Cell; CELLS],
    /// Packets that each cell's verdict matched, up to [`HITS_MAX`]. Added to by the kernel.
    pub hits: [u32; CELLS],
    /// The [`elsewhere`] bits of the names that are to be looked for in the neighbour, or if this is the neighbour, in the
    /// stash.
    pub elsewhere: u32,
    /// Says nothing.
    #[cfg(feature = "wide-verdicts")]
    pub more: [u64; CELLS],
}

const _: () = assert!(size_of::<Bucket>() == 64 || cfg!(feature = "wide-verdicts"));

/// Where hits are counted no further. Far enough below the end that all CPUs which look at the same moment may add one.
pub const HITS_MAX: u32 = u32::MAX - (1 << 16);

/// Value of the stash: a verdict whose bucket and neighbour are full.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Stashed {
    /// A [`Word`].
    pub word: u64,
    /// Packets it matched. Added to by the kernel.
    pub hits: u64,
}

/// Secret numbers, drawn once for each making of the table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TableSeeds {
    /// Of IPv4 addresses.
    pub ipv4: u64,
    /// Of IPv6 addresses.
    pub ipv6: u64,
    /// Of IPv6 /64.
    pub subnet: u64,
    /// Of [`crate::key::Keys::key`].
    pub key: u64,
    /// Of [`crate::key::Keys::stable`].
    pub stable: u64,
}

/// Bits of the IPv6 prefixes, wider than a unit, that a verdict may be about together with a fingerprint (threats.md T45).
pub const WIDE_BITS: [u32; 2] = [56, 48];

/// 0 names nothing: an empty cell would have it.
#[inline(always)]
const fn name(hash: u64) -> u64 {
    if hash == 0 { 1 } else { hash }
}

#[inline(always)]
const fn half(address: &Address, at: usize) -> u64 {
    u64::from_ne_bytes([
        address[at],
        address[at + 1],
        address[at + 2],
        address[at + 3],
        address[at + 4],
        address[at + 5],
        address[at + 6],
        address[at + 7],
    ])
}

/// Whether the address is an IPv4 one in its mapped form.
#[inline(always)]
#[must_use]
pub const fn is_ipv4(address: &Address) -> bool {
    half(address, 0) == 0 && half(address, 8) & IPV4_MASK == IPV4_MARK
}

const IPV4_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
const IPV4_MARK: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);

impl TableSeeds {
    /// The name of a single address.
    #[inline(always)]
    #[must_use]
    pub const fn address(&self, address: &Address) -> u64 {
        let lower = half(address, 8);
        if is_ipv4(address) {
            return name(mix(lower ^ self.ipv4));
        }
        name(mix(mix(half(address, 0) ^ self.ipv6).wrapping_add(lower)))
    }

    /// The name of the unit that automatic verdicts are about: an IPv4 address, an IPv6 /64.
    #[inline(always)]
    #[must_use]
    pub const fn unit(&self, address: &Address) -> u64 {
        if is_ipv4(address) {
            return self.address(address);
        }
        name(mix(half(address, 0) ^ self.subnet))
    }

    /// The name of an IPv6 prefix wider than a unit, by any address in it; `bits`: one of [`WIDE_BITS`].
    #[inline(always)]
    #[must_use]
    pub const fn wide(&self, address: &Address, bits: u32) -> u64 {
        let prefix = half(address, 0) & (u64::MAX << (64 - bits)).to_be();
        pair(name(mix(prefix ^ self.subnet)), bits as u64)
    }

    /// The name of a fingerprint, by its `key`.
    #[inline(always)]
    #[must_use]
    pub const fn key(&self, key: u64) -> u64 {
        name(mix(key ^ self.key))
    }

    /// The name of a fingerprint, by its `key_stable`.
    #[inline(always)]
    #[must_use]
    pub const fn stable(&self, stable: u64) -> u64 {
        name(mix(stable ^ self.stable))
    }
}

/// The name of a unit and a fingerprint together, by their names.
#[inline(always)]
#[must_use]
pub const fn pair(unit: u64, fingerprint: u64) -> u64 {
    name(mix(unit.wrapping_add(mix(fingerprint))))
}

/// The bit of a name in [`Bucket::elsewhere`].
#[inline(always)]
#[must_use]
pub const fn elsewhere(name: u64) -> u32 {
    1 << (name >> 59)
}

/// The bucket for what finds its own full; of the neighbour the neighbour is that one.
#[inline(always)]
#[must_use]
pub const fn neighbour(bucket: u32) -> u32 {
    bucket ^ 1
}

/// Stands in the place of a fingerprint's name, and is none: those are never 0.
const INITIALS: u64 = 0;

/// The name of a unit's QUIC Initial packets, by the unit's.
#[inline(always)]
#[must_use]
pub const fn initials(unit: u64) -> u64 {
    pair(unit, INITIALS)
}

/// The bucket of a name; `mask`: the number of those in use, less one.
#[inline(always)]
#[must_use]
pub const fn bucket(name: u64, mask: u32) -> u32 {
    name as u32 & mask
}

/// A time is counted in units of two to this power of nanoseconds, about a millisecond.
const TICK_BITS: u32 = 20;
const UNTIL_BITS: u32 = 42;
const NEVER_ENDS: u64 = (1 << UNTIL_BITS) - 1;
const ACTION_BITS: u32 = 4;
const ORIGIN_BITS: u32 = 4;
const REASON_BITS: u32 = 8;
/// Set in every word, so that none is 0.
const PRESENT: u64 = 1 << 63;

/// What a verdict says, in 64 bits.
///
/// | bits | what |
/// | --- | --- |
/// | 0..42 | its end: CLOCK_MONOTONIC in units of 2^20 ns, rounded up; all ones: forever |
/// | 42..46 | [`crate::verdict::Action`] |
/// | 46..50 | `ORIGIN_*` |
/// | 50..58 | `REASON_*` |
/// | 58..63 | zero |
/// | 63 | one |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

impl Word {
    /// Of a verdict.
    #[must_use]
    pub const fn new(verdict: &Verdict) -> Self {
        let until = if verdict.expires_at == FOREVER {
            NEVER_ENDS
        } else {
            // Rounded up: no verdict ends early. A later end than fits is forever.
            let ticks = (verdict.expires_at >> TICK_BITS) + 1;
            if ticks < NEVER_ENDS { ticks } else { NEVER_ENDS }
        };
        let action = (verdict.action as u64) << UNTIL_BITS;
        let origin = (verdict.origin as u64) << (UNTIL_BITS + ACTION_BITS);
        let reason = (verdict.reason as u64) << (UNTIL_BITS + ACTION_BITS + ORIGIN_BITS);
        Self(PRESENT | until | action | origin | reason)
    }

    /// Whether it still says something at `now`, CLOCK_MONOTONIC nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn is_live(self, now: u64) -> bool {
        now >> TICK_BITS < self.0 & NEVER_ENDS || self.0 & NEVER_ENDS == NEVER_ENDS
    }

    /// The verdict's end in CLOCK_MONOTONIC nanoseconds, or [`FOREVER`].
    #[inline(always)]
    #[must_use]
    pub const fn expires_at(self) -> u64 {
        let until = self.0 & NEVER_ENDS;
        if until == NEVER_ENDS { FOREVER } else { until << TICK_BITS }
    }

    /// An [`crate::verdict::Action`].
    #[inline(always)]
    #[must_use]
    pub const fn action(self) -> u8 {
        (self.0 >> UNTIL_BITS) as u8 & ((1 << ACTION_BITS) - 1)
    }

    /// An `ORIGIN_*`.
    #[inline(always)]
    #[must_use]
    pub const fn origin(self) -> u8 {
        (self.0 >> (UNTIL_BITS + ACTION_BITS)) as u8 & ((1 << ORIGIN_BITS) - 1)
    }

    /// A `REASON_*`.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> u8 {
        (self.0 >> (UNTIL_BITS + ACTION_BITS + ORIGIN_BITS)) as u8
    }
}

const _: () = assert!(UNTIL_BITS + ACTION_BITS + ORIGIN_BITS + REASON_BITS <= 63);

/// Bits of the filter in front of the trie of prefixes.
pub const FILTER_BITS: u32 = 24;
/// Entries of the filter: words of 64 bits.
pub const FILTER_WORDS: u32 = 1 << (FILTER_BITS - 6);

/// Bits of the filter in front of the tries of what isn't dropped: each stands for 256 places of the other one, an IPv4 /16.
pub const EXEMPT_BITS: u32 = 16;
/// Its entries: words of 64 bits, 8 KiB in all, for a packet that is to be dropped finds them in the nearest cache.
pub const EXEMPT_WORDS: u32 = 1 << (EXEMPT_BITS - 6);

/// The place of an address in that filter.
#[inline(always)]
#[must_use]
pub const fn exempt_place(address: &Address) -> u32 {
    filter_place(address) >> (FILTER_BITS - EXEMPT_BITS)
}

/// Bits of the shortest IPv6 prefix that has a place of its own in the filter.
pub const FILTER_IPV6_BITS: u32 = 32;

/// The place in the filter of the /24 that an IPv4 address is in, or of the /32 of an IPv6 one: set while the trie has a
/// prefix that reaches into it. Two IPv6 /32 that share a place only cost each other a look into the trie.
#[inline(always)]
#[must_use]
pub const fn filter_place(address: &Address) -> u32 {
    if is_ipv4(address) {
        return (address[12] as u32) << 16 | (address[13] as u32) << 8 | address[14] as u32;
    }
    let network = u32::from_ne_bytes([address[0], address[1], address[2], address[3]]);
    network.wrapping_mul(0x9e37_79b1) >> (32 - FILTER_BITS)
}
