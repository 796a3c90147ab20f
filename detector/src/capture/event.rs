//! One item of the kernel's ring buffers in, its packets out: the segment or datagram, and before it the SYN and the
//! SYN-ACK of its connection if the kernel knows them. The layout is `detector_common::event`'s; payload is borrowed from the ring, and
//! nothing is stored.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use detector_common::event::{
    EVENT_ANSWER_DATAGRAM, EVENT_ANSWER_SEGMENT, EVENT_DATAGRAM, EVENT_END, EVENT_SEGMENT, EventHeader,
    NETWORK_DONT_FRAGMENT, NETWORK_FLOW_LABEL, NETWORK_RESERVED, PROOF_ACKNOWLEDGED, PROOF_ESTABLISHED,
    PROOF_SYN_COOKIE, SegmentImage,
};
use detector_common::flow::{Address, FlowKey};
use detector_common::key::Keys;
use zerocopy::FromBytes;

use super::{Datagram, Flow, KernelKeys, Network, Packet, Proof, Segment, TcpFlags};
use crate::clock::Timestamp;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;

/// Hands over the packets of `event`, oldest first. `false` if its bytes aren't what their header promises: the object
/// in the kernel and this program are then not of the same build.
#[must_use]
pub fn packets(event: &[u8], each: &mut impl FnMut(&Packet<'_>)) -> bool {
    // A copy: the ring aligns its items, a test's byte vector doesn't.
    let Ok((header, rest)) = EventHeader::read_from_prefix(event) else { return false };
    let captured = usize::try_from(header.captured_len).unwrap_or(usize::MAX);
    let Some(payload) = rest.get(..captured) else { return false };
    let payload_len = usize::try_from(header.payload_len).unwrap_or(usize::MAX).max(payload.len());
    let flow = flow(&header.flow);
    let at = Timestamp::from_nanos(header.at);
    match header.kind {
        EVENT_SEGMENT | EVENT_ANSWER_SEGMENT => {
            if header.syn_at != 0
                && let Some(syn) = segment(flow, Timestamp::from_nanos(header.syn_at), &header.syn)
            {
                each(&Packet::Segment(syn));
            }
            if header.syn_ack_at != 0
                && let Some(syn_ack) =
                    segment(flow.reversed(), Timestamp::from_nanos(header.syn_ack_at), &header.syn_ack)
            {
                each(&Packet::Segment(syn_ack));
            }
            let Some(segment) = segment(flow, at, &header.segment) else { return false };
            let (proof, keys) = (proof(header.proof), keys(&header));
            each(&Packet::Segment(Segment { payload, payload_len, proof, keys, ..segment }));
        }
        EVENT_DATAGRAM | EVENT_ANSWER_DATAGRAM => {
            each(&Packet::Datagram(Datagram { flow, at, payload, payload_len }));
        }
        _ => return false,
    }
    true
}

/// Of an event that says so: the connection that its server has ended, client first, and when.
#[must_use]
pub fn end(event: &[u8]) -> Option<(Flow, Timestamp)> {
    let (header, _) = EventHeader::read_from_prefix(event).ok()?;
    (header.kind == EVENT_END).then(|| (flow(&header.flow).reversed(), Timestamp::from_nanos(header.at)))
}

fn segment(flow: Flow, at: Timestamp, image: &SegmentImage) -> Option<Segment<'_>> {
    let header = image.tcp.get(..usize::from(image.network.header_len))?;
    let fixed = header.first_chunk::<TCP_HEADER>()?;
    let [_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, _, flags, ..] = *fixed;
    let network = image.network;
    Some(Segment {
        flow,
        at,
        seq: u32::from_be_bytes([s0, s1, s2, s3]),
        ack: u32::from_be_bytes([a0, a1, a2, a3]),
        flags: TcpFlags { syn: flags & SYN != 0, ack: flags & ACK != 0, rst: flags & RST != 0, fin: flags & FIN != 0 },
        network: Network {
            version: network.version,
            ttl: network.ttl,
            traffic_class: network.traffic_class,
            extra: network.extra,
            id: network.id,
            dont_fragment: network.flags & NETWORK_DONT_FRAGMENT != 0,
            reserved: network.flags & NETWORK_RESERVED != 0,
            flow_label: network.flags & NETWORK_FLOW_LABEL != 0,
        },
        header,
        payload: &[],
        payload_len: usize::try_from(image.payload_len).unwrap_or(usize::MAX),
        proof: None,
        keys: None,
    })
}

const fn proof(code: u8) -> Option<Proof> {
    match code {
        PROOF_ESTABLISHED => Some(Proof::Established),
        PROOF_ACKNOWLEDGED => Some(Proof::Acknowledged),
        PROOF_SYN_COOKIE => Some(Proof::SynCookie),
        _ => None,
    }
}

fn keys(header: &EventHeader) -> Option<KernelKeys> {
    let keys = Keys { key: header.key, stable: header.key_stable };
    (keys.key != 0).then_some(KernelKeys { first_seq: header.hello_seq, keys })
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
    use detector_common::{
        event::{NetworkImage, PROOF_NONE, TCP_HEADER_MAX},
        flow::FLOW_TCP,
    };
    use zerocopy::IntoBytes;

    use super::*;

    fn image(seq: u32, flags: u8) -> SegmentImage {
        let mut tcp = [0; TCP_HEADER_MAX];
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        tcp[12] = 0x50;
        tcp[13] = flags;
        SegmentImage {
            network: NetworkImage { version: 4, ttl: 64, header_len: 20, ..NetworkImage::default() },
            tcp,
            payload_len: 0,
        }
    }

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
                protocol: FLOW_TCP,
            },
            syn_at: 5,
            payload_len: 5,
            captured_len: 3,
            interface: 1,
            kind: EVENT_SEGMENT,
            proof: PROOF_NONE,
            reserved: [0; 3],
            hello_seq: 0,
            segment: image(9, 0x18),
            syn: image(8, 0x02),
            syn_ack: image(70, 0x12),
            syn_ack_at: 6,
            key: 0,
            key_stable: 0,
        }
    }

    #[test]
    fn an_event_becomes_its_handshake_and_a_segment_with_plain_addresses() {
        let bytes = [header().as_bytes(), b"abcdef"].concat();
        let mut seen = Vec::new();
        assert!(packets(&bytes, &mut |packet| {
            let Packet::Segment(segment) = packet else { panic!("a datagram") };
            let payload = (segment.payload.to_vec(), segment.payload_len);
            seen.push((segment.flow.source.to_string(), segment.seq, segment.flags.syn, segment.flags.ack, payload));
        }));
        let client = || "10.0.0.1:40000".to_owned();
        assert_eq!(seen[0], (client(), 8, true, false, (Vec::new(), 0)));
        assert_eq!(seen[1], ("10.0.0.2:443".to_owned(), 70, true, true, (Vec::new(), 0)));
        assert_eq!(seen[2], (client(), 9, false, true, (b"abc".to_vec(), 5)));
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn short_events_are_refused() {
        let bytes = [header().as_bytes(), b"abc"].concat();
        for length in 0..bytes.len() {
            assert!(!packets(&bytes[..length], &mut |_| panic!("a packet of {length} bytes")));
        }
        let unknown = EventHeader { kind: 9, ..header() };
        assert!(!packets(&[unknown.as_bytes(), b"abc"].concat(), &mut |_| panic!("a packet of an unknown kind")));
    }
}
