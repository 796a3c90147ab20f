//! Room 3: pieces of a byte stream in, the stream as far as it is whole out. One direction, mid-stream starts, no
//! sockets and no clock, after the design of quinn's assembler: what is kept is bounded in bytes *allocated*, per
//! flow, per source and in all (threats.md T13, T17, T18), and the oldest goes first.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod aged;
pub mod assembler;
pub mod partials;

pub use aged::Aged;

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// The bounds of everything that is remembered between two segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Hellos in progress, in all.
    pub partial_hellos: usize,
    /// Hellos in progress of one source: an IPv4 address or an IPv6 /64.
    pub partials_per_source: usize,
    /// Bytes allocated for hellos in progress, in all.
    pub partial_bytes: usize,
    /// Stream bytes of one flow, from its first byte to the end of its hello.
    pub bytes_per_flow: usize,
    /// Segments of one hello.
    pub segments_per_flow: u32,
    /// Gaps between the bytes of one hello.
    pub holes_per_flow: usize,
    /// How long a hello may take from its first segment.
    pub partial_age: Duration,
    /// Flows remembered after their hello, and flows remembered by their SYN: each this many.
    pub finished_flows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            partial_hellos: 65_536,
            partials_per_source: 64,
            partial_bytes: 64 * 1024 * 1024,
            bytes_per_flow: 16 * 1024,
            segments_per_flow: 4096,
            // A hello that arrives in one-byte segments in any order is to be read (issue 2), and that opens up to
            // one gap for each two bytes. A flow with more gaps than half its segments can't be completed within
            // `segments_per_flow`; gaps cost eight bytes each, counted in `partial_bytes`.
            holes_per_flow: 2048,
            partial_age: Duration::from_secs(10),
            finished_flows: 65_536,
        }
    }
}

/// Who is answerable for a flow's memory: an IPv4 address, or the /64 that one IPv6 subscriber has (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => {
                const NETWORK: u128 = !0 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & NETWORK))
            }
        })
    }
}
