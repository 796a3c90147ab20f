//! A connection as both sides name it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address in network byte order; IPv4 as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2), so that one map serves
/// both families. The kernel drops IPv6 packets with such a source (since Linux 5.4), so the two can't be confused.
pub type Address = [u8; 16];

/// Bits of an IPv4 prefix that the mapped form puts in front.
pub const MAPPED_PREFIX_BITS: u32 = 96;

/// [`FlowKey::protocol`]: TCP.
pub const FLOW_TCP: u32 = 0;
/// UDP, by its number in the IP header.
pub const FLOW_UDP: u32 = 17;

/// The 4-tuple of a packet from the client to the server.
///
/// | bytes | field | order |
/// | --- | --- | --- |
/// | 0..16 | `source` | network |
/// | 16..32 | `destination` | network |
/// | 32..34 | `source_port` | host |
/// | 34..36 | `destination_port` | host |
/// | 36..40 | `protocol` | host |
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowKey {
    /// The client.
    pub source: Address,
    /// The server.
    pub destination: Address,
    /// The client's port, host byte order.
    pub source_port: u16,
    /// The server's port, host byte order.
    pub destination_port: u16,
    /// [`FLOW_TCP`] or [`FLOW_UDP`]: one connection of each may have the same ports.
    pub protocol: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 40);
