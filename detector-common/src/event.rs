//! One item of the ring buffer: a TCP segment that carries a piece of a ClientHello.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow::FlowKey;

/// The most payload bytes one event carries. A ClientHello is stored up to this size (threats.md T13, T17); what a
/// frame holds beyond it is counted in [`EventHeader::payload_len`] and not copied.
pub const EVENT_PAYLOAD_MAX: usize = 16 * 1024;

/// This segment is the first of its flow that was captured: it begins like a ClientHello.
pub const EVENT_FLAG_FIRST: u16 = 1;
/// The program follows this flow: later segments of it arrive until userspace or the program ends the following.
pub const EVENT_FLAG_FOLLOWED: u16 = 2;

/// Stands before the payload bytes of each event.
///
/// | bytes | field | order |
/// | --- | --- | --- |
/// | 0..8 | `at` | host |
/// | 8..48 | `flow` | see [`FlowKey`] |
/// | 48..52 | `seq` | host |
/// | 52..56 | `ack` | host |
/// | 56..60 | `payload_len` | host |
/// | 60..64 | `captured_len` | host |
/// | 64..68 | `interface` | host |
/// | 68..70 | `flags` | host |
/// | 70 | `tcp_flags` | |
/// | 71 | `reserved` | zero |
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventHeader {
    /// CLOCK_MONOTONIC nanoseconds when XDP saw the frame.
    pub at: u64,
    /// The connection.
    pub flow: FlowKey,
    /// TCP sequence number of the first payload byte, host byte order.
    pub seq: u32,
    /// TCP acknowledgement number, host byte order.
    pub ack: u32,
    /// TCP payload bytes in the frame, by the IP header's length.
    pub payload_len: u32,
    /// Payload bytes that follow this header: `min(payload_len, EVENT_PAYLOAD_MAX)` or fewer.
    pub captured_len: u32,
    /// Index of the interface the frame came in by.
    pub interface: u32,
    /// `EVENT_FLAG_*`.
    pub flags: u16,
    /// The TCP header's flag byte (RFC 9293 section 3.1: CWR ECE URG ACK PSH RST SYN FIN, FIN lowest).
    pub tcp_flags: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<EventHeader>() == 72);
