//! One item of a ring buffer: a TCP segment or UDP datagram that has to do with a ClientHello, with what the kernel knows
//! about its connection.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow::FlowKey;

/// The most payload bytes one event carries. A ClientHello is stored up to this size (threats.md T13, T17); what a
/// frame holds beyond it is counted in [`EventHeader::payload_len`] and not copied.
pub const EVENT_PAYLOAD_MAX: usize = 16 * 1024;

/// The most bytes of a TCP header (RFC 9293 section 3.1).
pub const TCP_HEADER_MAX: usize = 60;

/// [`EventHeader::kind`]: a segment from a client; payload if it carries a piece of a hello, none if it only proves the
/// client's address.
pub const EVENT_SEGMENT: u8 = 0;
/// [`EventHeader::kind`]: a segment from the server: a SYN-ACK, or the beginning of its answer.
pub const EVENT_ANSWER_SEGMENT: u8 = 1;
/// [`EventHeader::kind`]: a UDP datagram from a client.
pub const EVENT_DATAGRAM: u8 = 2;
/// [`EventHeader::kind`]: the first bytes of a UDP datagram from the server.
pub const EVENT_ANSWER_DATAGRAM: u8 = 3;
/// [`EventHeader::kind`]: the server has ended a connection that gave a hello, by this segment: FIN or RST. No payload.
pub const EVENT_END: u8 = 4;

/// [`EventHeader::proof`]: nothing proves the client's address yet.
pub const PROOF_NONE: u8 = 0;
/// The socket look-up found a connection that is established, or was.
pub const PROOF_ESTABLISHED: u8 = 1;
/// The client acknowledged exactly the SYN-ACK that was seen going out.
pub const PROOF_ACKNOWLEDGED: u8 = 2;
/// The kernel's check of the acknowledged SYN cookie agreed.
pub const PROOF_SYN_COOKIE: u8 = 3;

/// [`NetworkImage::flags`]: IPv4 "don't fragment".
pub const NETWORK_DONT_FRAGMENT: u8 = 1;
/// [`NetworkImage::flags`]: IPv4's reserved flag bit.
pub const NETWORK_RESERVED: u8 = 2;
/// [`NetworkImage::flags`]: the IPv6 flow label isn't zero.
pub const NETWORK_FLOW_LABEL: u8 = 4;

/// What the IP header said.
///
/// | bytes | field | order |
/// | --- | --- | --- |
/// | 0 | `version` | |
/// | 1 | `ttl` | |
/// | 2 | `traffic_class` | |
/// | 3 | `extra` | |
/// | 4..6 | `id` | host |
/// | 6 | `flags` | |
/// | 7 | `header_len` | |
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NetworkImage {
    /// 4 or 6; 0: nothing is known.
    pub version: u8,
    /// IPv4 time to live, IPv6 hop limit.
    pub ttl: u8,
    /// IPv4 type of service, IPv6 traffic class.
    pub traffic_class: u8,
    /// Bytes of IPv4 options or IPv6 extension headers.
    pub extra: u8,
    /// IPv4 identification, host byte order; 0 for IPv6.
    pub id: u16,
    /// `NETWORK_*`.
    pub flags: u8,
    /// Bytes of the TCP header after this.
    pub header_len: u8,
}

/// A segment's headers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SegmentImage {
    /// The IP header's part of it.
    pub network: NetworkImage,
    /// The TCP header in network byte order; `network.header_len` bytes of it count.
    pub tcp: [u8; TCP_HEADER_MAX],
    /// Payload bytes of the segment, by the IP header's length.
    pub payload_len: u32,
}

const _: () = assert!(size_of::<SegmentImage>() == 72);

/// Stands before the payload bytes of each event.
///
/// | bytes | field | order |
/// | --- | --- | --- |
/// | 0..8 | `at` | host |
/// | 8..48 | `flow` | see [`FlowKey`] |
/// | 48..56 | `syn_at` | host |
/// | 56..60 | `payload_len` | host |
/// | 60..64 | `captured_len` | host |
/// | 64..68 | `interface` | host |
/// | 68 | `kind` | |
/// | 69 | `proof` | |
/// | 70..76 | `reserved` | zero |
/// | 76..80 | `hello_seq` | host |
/// | 80..152 | `segment` | see [`SegmentImage`] |
/// | 152..224 | `syn` | see [`SegmentImage`] |
/// | 224..296 | `syn_ack` | see [`SegmentImage`] |
/// | 296..304 | `syn_ack_at` | host |
/// | 304..312 | `key` | host |
/// | 312..320 | `key_stable` | host |
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventHeader {
    /// CLOCK_MONOTONIC nanoseconds when the program saw the frame.
    pub at: u64,
    /// The packet's 4-tuple, its sender first.
    pub flow: FlowKey,
    /// CLOCK_MONOTONIC nanoseconds when the connection's SYN was seen; 0: it wasn't, and `syn` says nothing.
    pub syn_at: u64,
    /// TCP or UDP payload bytes in the frame, by the IP header's length.
    pub payload_len: u32,
    /// Payload bytes that follow this header: `min(payload_len, EVENT_PAYLOAD_MAX)` or fewer.
    pub captured_len: u32,
    /// Index of the interface the frame came in by.
    pub interface: u32,
    /// `EVENT_*`.
    pub kind: u8,
    /// `PROOF_*`.
    pub proof: u8,
    /// Zero.
    pub reserved: [u16; 3],
    /// TCP sequence number of the first byte of the hello that `key` is of, host byte order.
    pub hello_seq: u32,
    /// The segment's own headers; for a datagram nothing.
    pub segment: SegmentImage,
    /// The headers of the connection's SYN.
    pub syn: SegmentImage,
    /// The headers of the server's SYN-ACK.
    pub syn_ack: SegmentImage,
    /// CLOCK_MONOTONIC nanoseconds when the SYN-ACK was seen; 0: it wasn't, and `syn_ack` says nothing.
    pub syn_ack_at: u64,
    /// [`crate::key::Keys::key`] of the hello that ends in this segment; 0: none does, or the program couldn't read it.
    pub key: u64,
    /// [`crate::key::Keys::stable`] of it; 0 like `key`.
    pub key_stable: u64,
}

const _: () = assert!(size_of::<EventHeader>() == 320);
