//! The checksum of a TCP segment (RFC 9293 section 3.1), as far as the frame carries one that can be tested.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;

use super::Segment;

const TCP: u8 = 6;
/// The checksum's place in the header.
const FIELD: std::ops::Range<usize> = 16..18;

/// What a segment's checksum says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// It fits.
    Valid,
    /// It is the pseudo header's alone: the sender's kernel left the rest to its network card, and the frame never
    /// passed one (veth, loopback, another virtual machine of the same host), or offloads put several frames together.
    Partial,
    /// It doesn't fit: whoever receives the segment discards it.
    Bad,
    /// Header or payload isn't whole here.
    Unknown,
}

/// Sums up `segment`.
pub(super) fn checksum(segment: &Segment<'_>) -> Checksum {
    let header = segment.header;
    let field = header.get(FIELD).and_then(|field| <[u8; 2]>::try_from(field).ok());
    let (Some(field), true) = (field, segment.payload.len() == segment.payload_len) else {
        return Checksum::Unknown;
    };
    let (source, destination) = (segment.flow.source.ip(), segment.flow.destination.ip());
    let mut addresses = Sum16BitWords::new().add_2bytes([0, TCP]);
    addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            addresses.add_4bytes(source.octets()).add_4bytes(destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            addresses.add_16bytes(source.octets()).add_16bytes(destination.octets())
        }
        _ => return Checksum::Unknown,
    };
    let length = u32::try_from(header.len().saturating_add(segment.payload.len())).unwrap_or(u32::MAX);
    let pseudo = addresses.clone().add_4bytes(length.to_be_bytes());
    let whole = pseudo.clone().add_slice(header);
    if whole.add_slice(segment.payload).ones_complement() == 0 {
        return Checksum::Valid;
    }
    // Not complemented, with the length (net/ipv4/tcp_ipv4.c, tcp_v4_send_check) or, for segmentation offload, without.
    let field = u16::from_ne_bytes(field);
    let left = [pseudo.add_2bytes([0, 0]), addresses.add_2bytes([0, 0])];
    if left.iter().any(|sum| !sum.ones_complement() == field) { Checksum::Partial } else { Checksum::Bad }
}
