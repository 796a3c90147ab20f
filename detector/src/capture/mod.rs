//! Room 2: the kernel's events or a capture file in, [`Segment`]s out. Holds nothing between two of them but the read
//! buffer of a capture file.

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

pub mod event;
pub mod frame;
pub mod pcap;

use std::net::SocketAddr;

use crate::clock::Timestamp;

/// A TCP connection, client first. IPv4 addresses are plain, never the mapped form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Who sent the segment.
    pub source: SocketAddr,
    /// Whom it was sent to.
    pub destination: SocketAddr,
}

/// The flags of a TCP header (RFC 9293 section 3.1) that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags {
    /// Synchronize sequence numbers.
    pub syn: bool,
    /// The acknowledgement number counts.
    pub ack: bool,
    /// Reset the connection.
    pub rst: bool,
    /// The sender has no more data.
    pub fin: bool,
}

/// One TCP segment towards a server.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The connection it belongs to.
    pub flow: Flow,
    /// When it was seen.
    pub at: Timestamp,
    /// Sequence number of its first payload byte (of the SYN itself, for a SYN).
    pub seq: u32,
    /// Its flags.
    pub flags: TcpFlags,
    /// Its payload, as far as it was captured.
    pub payload: &'a [u8],
    /// Payload bytes on the wire; more than `payload` holds if the capture cut the frame.
    pub payload_len: usize,
}
