//! One item of the kernel's ring buffer in, one [`Segment`] out. The layout is `detector_common::event`'s; payload is
//! borrowed from the ring, nothing is stored.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use detector_common::event::EventHeader;
use detector_common::flow::{Address, FlowKey};
use zerocopy::FromBytes;

use super::{Flow, Segment, TcpFlags};
use crate::clock::Timestamp;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The segment that `event` carries, or `None` if the bytes are too short for what their header promises: the object
/// in the kernel and this program are then not of the same build.
#[must_use]
pub fn segment(event: &[u8]) -> Option<Segment<'_>> {
    // A copy: the ring aligns its items, a test's byte vector doesn't.
    let (header, rest) = EventHeader::read_from_prefix(event).ok()?;
    let payload = rest.get(..usize::try_from(header.captured_len).ok()?)?;
    let payload_len = usize::try_from(header.payload_len).ok()?.max(payload.len());
    Some(Segment {
        flow: flow(&header.flow),
        at: Timestamp::from_nanos(header.at),
        seq: header.seq,
        flags: TcpFlags {
            syn: header.tcp_flags & SYN != 0,
            ack: header.tcp_flags & ACK != 0,
            rst: header.tcp_flags & RST != 0,
            fin: header.tcp_flags & FIN != 0,
        },
        payload,
        payload_len,
    })
}

/// The connection of `key`, IPv4 addresses in their plain form.
#[must_use]
pub fn flow(key: &FlowKey) -> Flow {
    Flow {
        source: SocketAddr::new(address(key.source), key.source_port),
        destination: SocketAddr::new(address(key.destination), key.destination_port),
    }
}

fn address(bytes: Address) -> IpAddr {
    let address = Ipv6Addr::from(bytes);
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn header() -> EventHeader {
        let mapped = |last| {
            let mut address = [0; 16];
            address[10] = 0xff;
            address[11] = 0xff;
            address[12] = 10;
            address[15] = last;
            address
        };
        EventHeader {
            at: 7,
            flow: FlowKey {
                source: mapped(1),
                destination: mapped(2),
                source_port: 40_000,
                destination_port: 443,
                reserved: 0,
            },
            seq: 9,
            ack: 0,
            payload_len: 5,
            captured_len: 3,
            interface: 1,
            flags: 0,
            tcp_flags: 0x18,
            reserved: 0,
        }
    }

    #[test]
    fn an_event_becomes_a_segment_with_plain_addresses() {
        let bytes = [header().as_bytes(), b"abcdef"].concat();
        let segment = segment(&bytes).unwrap();
        assert_eq!(segment.flow.source.to_string(), "10.0.0.1:40000");
        assert_eq!(segment.payload, b"abc");
        assert_eq!(segment.payload_len, 5);
        assert!(segment.flags.ack && !segment.flags.syn);
    }

    #[test]
    fn short_events_are_refused() {
        let bytes = [header().as_bytes(), b"abc"].concat();
        for length in 0..bytes.len() {
            assert!(segment(&bytes[..length]).is_none());
        }
    }
}
