//! One captured frame in, one [`Packet`] or the reason why there is none out. Ethernet with up to two VLAN tags
//! (IEEE 802.1Q), Linux cooked captures, raw IP and BSD loopback; IPv4 with options, IPv6 with extension headers.
//! Slices of the frame, no copies, no allocation, nothing kept.

use std::net::SocketAddr;

use etherparse::{IpNumber, LaxIpSlice, TcpSlice, UdpSlice};

use super::{Datagram, Flow, Network, Packet, Segment, TcpFlags};
use crate::clock::Timestamp;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// More tags than two are no network that the kernel side would look into either (threats.md T16).
const VLAN_TAGS_MAX: usize = 2;
const UDP_HEADER: usize = 8;

/// What stands before the IP header, by the numbers of <https://www.tcpdump.org/linktypes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// `LINKTYPE_ETHERNET` (1).
    Ethernet,
    /// `LINKTYPE_RAW` (101), `LINKTYPE_IPV4` (228), `LINKTYPE_IPV6` (229) and OpenBSD's 12 and 14.
    Raw,
    /// `LINKTYPE_NULL` (0) and `LINKTYPE_LOOP` (108): four bytes of address family.
    Loopback,
    /// `LINKTYPE_LINUX_SLL` (113): what `tcpdump -i any` wrote.
    Cooked,
    /// `LINKTYPE_LINUX_SLL2` (276): what it writes now.
    Cooked2,
}

impl Link {
    /// From a capture file's number, `None` for link types not read here.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Ethernet),
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            0 | 108 => Some(Self::Loopback),
            113 => Some(Self::Cooked),
            276 => Some(Self::Cooked2),
            _ => None,
        }
    }
}

/// A frame as a capture holds it.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What its bytes begin with.
    pub link: Link,
    /// When it was captured.
    pub at: Timestamp,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
    /// The bytes on the wire; more than `bytes` holds if the capture's snap length cut the frame.
    pub wire_len: usize,
}

/// Why a frame has no segment. Each is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skipped {
    /// Neither IPv4 nor IPv6: ARP, spanning tree, a third VLAN tag.
    NotIp,
    /// A fragment of an IP datagram.
    Fragment,
    /// IP that carries neither TCP nor UDP: ICMP, ...
    OtherProtocol,
    /// Lengths that contradict each other, or a capture cut within the headers.
    Malformed,
}

impl Skipped {
    /// All of them.
    pub const ALL: &[Self] = &[Self::NotIp, Self::Fragment, Self::OtherProtocol, Self::Malformed];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Fragment => "fragment",
            Self::OtherProtocol => "other_protocol",
            Self::Malformed => "malformed_frame",
        }
    }
}

/// The packet in `frame`.
///
/// # Errors
/// The reason why there is none.
pub fn packet<'a>(frame: &Frame<'a>) -> Result<Packet<'a>, Skipped> {
    let packet = ip_packet(frame.link, frame.bytes)?;
    // The link header's length tells the wire length of the IP packet, for packets that don't say it themselves.
    let link_len = frame.bytes.len().saturating_sub(packet.len());
    let packet_wire_len = frame.wire_len.max(frame.bytes.len()).saturating_sub(link_len);

    let (ip, stopped) = LaxIpSlice::from_slice(packet).map_err(|_| Skipped::Malformed)?;
    let payload = ip.payload();
    if payload.fragmented {
        return Err(Skipped::Fragment);
    }
    if stopped.is_some() {
        return Err(Skipped::Malformed);
    }
    let headers_len = packet_headers(packet, payload.payload);
    let transport_len = ip_wire_len(&ip, packet_wire_len).checked_sub(headers_len).ok_or(Skipped::Malformed)?;
    let flow = |source, destination| Flow {
        source: SocketAddr::new(ip.source_addr(), source),
        destination: SocketAddr::new(ip.destination_addr(), destination),
    };
    match payload.ip_number {
        IpNumber::TCP => {
            let tcp = TcpSlice::from_slice(payload.payload).map_err(|_| Skipped::Malformed)?;
            let header = tcp.header_slice();
            let payload_len = transport_len.checked_sub(header.len()).ok_or(Skipped::Malformed)?;
            Ok(Packet::Segment(Segment {
                flow: flow(tcp.source_port(), tcp.destination_port()),
                at: frame.at,
                seq: tcp.sequence_number(),
                ack: tcp.acknowledgment_number(),
                flags: TcpFlags { syn: tcp.syn(), ack: tcp.ack(), rst: tcp.rst(), fin: tcp.fin() },
                network: network(&ip, headers_len),
                header,
                payload: tcp.payload(),
                payload_len: payload_len.max(tcp.payload().len()),
                proof: None,
                keys: None,
            }))
        }
        IpNumber::UDP => {
            let udp = UdpSlice::from_slice_lax(payload.payload).map_err(|_| Skipped::Malformed)?;
            let payload_len = transport_len.checked_sub(UDP_HEADER).ok_or(Skipped::Malformed)?;
            Ok(Packet::Datagram(Datagram {
                flow: flow(udp.source_port(), udp.destination_port()),
                at: frame.at,
                payload: udp.payload(),
                payload_len: payload_len.max(udp.payload().len()),
            }))
        }
        _ => Err(Skipped::OtherProtocol),
    }
}

fn network(ip: &LaxIpSlice<'_>, headers_len: usize) -> Network {
    let extra = |base: usize| u8::try_from(headers_len.saturating_sub(base)).unwrap_or(u8::MAX);
    match ip {
        LaxIpSlice::Ipv4(v4) => {
            let header = v4.header();
            Network {
                version: 4,
                ttl: header.ttl(),
                traffic_class: header.slice().get(1).copied().unwrap_or(0),
                extra: extra(etherparse::Ipv4Header::MIN_LEN),
                id: header.identification(),
                dont_fragment: header.dont_fragment(),
                reserved: header.slice().get(6).is_some_and(|byte| byte & 0x80 != 0),
                flow_label: false,
            }
        }
        LaxIpSlice::Ipv6(v6) => {
            let header = v6.header();
            Network {
                version: 6,
                ttl: header.hop_limit(),
                traffic_class: header.traffic_class(),
                extra: extra(etherparse::Ipv6Header::LEN),
                flow_label: header.flow_label().value() != 0,
                ..Network::default()
            }
        }
    }
}

/// Bytes of IP header and extension headers: those before the TCP header, up to which etherparse cut nothing but
/// the trailing padding.
fn packet_headers(packet: &[u8], transport: &[u8]) -> usize {
    transport.as_ptr().addr().saturating_sub(packet.as_ptr().addr())
}

/// The length of the IP packet on the wire. Zero in the header means that the frame is a super-frame of segmentation
/// offload (IPv4 total length 0; IPv6 payload length 0, RFC 2675): then it is what the frame holds.
fn ip_wire_len(ip: &LaxIpSlice<'_>, packet_wire_len: usize) -> usize {
    match ip {
        LaxIpSlice::Ipv4(v4) => match v4.header().total_len() {
            0 => packet_wire_len,
            length => usize::from(length),
        },
        LaxIpSlice::Ipv6(v6) => match v6.header().payload_length() {
            0 => packet_wire_len,
            length => usize::from(length).saturating_add(etherparse::Ipv6Header::LEN),
        },
    }
}

/// The bytes from the IP header on.
fn ip_packet(link: Link, frame: &[u8]) -> Result<&[u8], Skipped> {
    match link {
        Link::Raw => Ok(frame),
        // The address family has the byte order of the machine that captured; the IP version says as much.
        Link::Loopback => frame.split_first_chunk::<4>().map(|(_, rest)| rest).ok_or(Skipped::Malformed),
        Link::Ethernet => {
            let (_addresses, rest) = frame.split_first_chunk::<12>().ok_or(Skipped::Malformed)?;
            ether_payload(rest)
        }
        Link::Cooked => {
            let (_header, rest) = frame.split_first_chunk::<14>().ok_or(Skipped::Malformed)?;
            ether_payload(rest)
        }
        Link::Cooked2 => {
            let (header, rest) = frame.split_first_chunk::<20>().ok_or(Skipped::Malformed)?;
            let [high, low, ..] = *header;
            ip_or_tag(u16::from_be_bytes([high, low]), rest)
        }
    }
}

/// `bytes` begin with an EtherType.
fn ether_payload(bytes: &[u8]) -> Result<&[u8], Skipped> {
    let (ether_type, rest) = bytes.split_first_chunk::<2>().ok_or(Skipped::Malformed)?;
    ip_or_tag(u16::from_be_bytes(*ether_type), rest)
}

fn ip_or_tag(mut ether_type: u16, mut rest: &[u8]) -> Result<&[u8], Skipped> {
    for _ in 0..=VLAN_TAGS_MAX {
        if ether_type == IPV4 || ether_type == IPV6 {
            return Ok(rest);
        }
        if !VLAN.contains(&ether_type) {
            return Err(Skipped::NotIp);
        }
        let (tag, payload) = rest.split_first_chunk::<4>().ok_or(Skipped::Malformed)?;
        let [_, _, high, low] = *tag;
        ether_type = u16::from_be_bytes([high, low]);
        rest = payload;
    }
    Err(Skipped::NotIp)
}
