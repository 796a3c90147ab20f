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

mod checksum;
pub mod event;
pub mod frame;
pub mod pcap;

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

pub use checksum::Checksum;
use detector_common::key::Keys;

use crate::clock::Timestamp;

/// A TCP connection, client first. IPv4 addresses are plain, never the mapped form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who sent the segment.
    pub source: SocketAddr,
    /// Whom it was sent to.
    pub destination: SocketAddr,
}

impl Flow {
    /// The same connection, seen from the other side.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }
}

impl Hash for Flow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_end(self.source.ip(), self.source.port(), state);
        hash_end(self.destination.ip(), self.destination.port(), state);
    }
}

/// One end of a connection in as few words as it fits in: a dozen tables are asked for each hello's, and std hashes an
/// address in five parts.
#[inline]
pub(crate) fn hash_end<H: Hasher>(address: IpAddr, port: u16, state: &mut H) {
    match address {
        IpAddr::V4(address) => state.write_u64(u64::from(address.to_bits()) << 16 | u64::from(port)),
        IpAddr::V6(address) => {
            state.write_u128(address.to_bits());
            state.write_u16(port);
        }
    }
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

/// What the IP header said of a segment, as far as it tells of the sender's system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// 4 or 6; 0 where nothing is known.
    pub version: u8,
    /// IPv4 time to live, IPv6 hop limit, as it arrived.
    pub ttl: u8,
    /// IPv4 type of service, IPv6 traffic class; the two low bits are ECN (RFC 3168).
    pub traffic_class: u8,
    /// Bytes of IPv4 options, or of IPv6 extension headers.
    pub extra: u8,
    /// IPv4 identification; 0 for IPv6.
    pub id: u16,
    /// IPv4 "don't fragment".
    pub dont_fragment: bool,
    /// IPv4: the reserved flag bit, which must be zero (RFC 791).
    pub reserved: bool,
    /// IPv6: the flow label isn't zero.
    pub flow_label: bool,
}

/// Why it is sure that a client has the address it sends from. Each is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// The host has an established socket for the 4-tuple.
    Established,
    /// The client acknowledged exactly the number of the SYN-ACK that was seen going out.
    Acknowledged,
    /// The client acknowledged a number that is this host's SYN cookie.
    SynCookie,
    /// The host had an established socket for the 4-tuple when it was asked later (sock_diag).
    SockDiag,
    /// QUIC: the client used the connection ID that the server chose (RFC 9000 section 8.1).
    QuicPath,
    /// DTLS: the client sent back the server's cookie (RFC 6347 section 4.2.1).
    DtlsCookie,
}

impl Proof {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::Established, Self::Acknowledged, Self::SynCookie, Self::SockDiag, Self::QuicPath, Self::DtlsCookie];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Acknowledged => "acknowledged",
            Self::SynCookie => "syn_cookie",
            Self::SockDiag => "sock_diag",
            Self::QuicPath => "quic_path",
            Self::DtlsCookie => "dtls_cookie",
        }
    }
}

/// One TCP segment, from a client to a server or back.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The connection it belongs to, its sender first.
    pub flow: Flow,
    /// When it was seen.
    pub at: Timestamp,
    /// Sequence number of its first payload byte (of the SYN itself, for a SYN).
    pub seq: u32,
    /// Acknowledgement number; counts if `flags.ack`.
    pub ack: u32,
    /// Its flags.
    pub flags: TcpFlags,
    /// What stood below it.
    pub network: Network,
    /// Its TCP header, options included; empty where it isn't known.
    pub header: &'a [u8],
    /// Its payload, as far as it was captured.
    pub payload: &'a [u8],
    /// Payload bytes on the wire; more than `payload` holds if the capture cut the frame.
    pub payload_len: usize,
    /// What the kernel found out about its sender's address.
    pub proof: Option<Proof>,
    /// What the kernel read out of the hello that ends in it.
    pub keys: Option<KernelKeys>,
}

/// The keys of a hello, as the kernel computed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelKeys {
    /// Sequence number of the hello's first byte.
    pub first_seq: u32,
    /// Its keys.
    pub keys: Keys,
}

impl Segment<'_> {
    /// Whether its checksum fits.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        checksum::checksum(self)
    }
}

/// One UDP datagram, from a client to a server or back.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The 4-tuple, its sender first.
    pub flow: Flow,
    /// When it was seen.
    pub at: Timestamp,
    /// Its payload, as far as it was captured.
    pub payload: &'a [u8],
    /// Payload bytes on the wire.
    pub payload_len: usize,
}

/// What a frame or an event holds.
#[derive(Clone, Copy, Debug)]
pub enum Packet<'a> {
    /// TCP.
    Segment(Segment<'a>),
    /// UDP.
    Datagram(Datagram<'a>),
}

impl Packet<'_> {
    /// Its 4-tuple, its sender first.
    #[must_use]
    pub const fn flow(&self) -> Flow {
        match self {
            Self::Segment(segment) => segment.flow,
            Self::Datagram(datagram) => datagram.flow,
        }
    }

    /// When it was seen.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Segment(segment) => segment.at,
            Self::Datagram(datagram) => datagram.at,
        }
    }
}
