//! A frame in, its transport header's place and 4-tuple out. Ethernet with up to two VLAN tags, IPv4 with options, IPv6
//! with up to eight extension headers, TCP and UDP. Of IP fragments, only the first has ports (threats.md T16).
//!
//! The usual frame is read at fixed offsets. Offsets that vary before the IP header or after its extension headers go
//! through memory the verifier doesn't follow ([`launder`]): else it walks the rest of the program for each of them.

use core::hint::black_box;

use detector_common::{
    counter::Counter,
    event::{NETWORK_DONT_FRAGMENT, NETWORK_FLOW_LABEL, NETWORK_RESERVED, NetworkImage},
    flow::{FLOW_TCP, FLOW_UDP, FlowKey},
};

use crate::{
    frame::{Frame, at},
    maps::Scratch,
};

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
pub const IPV4: usize = 20;
pub const IPV6: usize = 40;
pub const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// A fragment but the last holds a multiple of so many bytes (RFC 791 section 3.1).
const LEAST_FRAGMENT: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// Extension headers that are walked (threats.md T16).
const EXTENSION_HEADERS: usize = 8;
/// No offset of a header is larger: Ethernet, two tags, IPv6, eight extension headers of 2,048 bytes.
const OFFSET_MASK: usize = 0x7fff;

/// A packet's place in its frame.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Packet {
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgement number.
    pub ack: u32,
    /// Bytes from the frame's start to the IP header.
    ip: u32,
    /// Bytes from the frame's start to the transport header.
    transport: u32,
    /// Bytes from the frame's start to the payload.
    offset: u32,
    /// Payload bytes by the IP header, or by the frame where that doesn't say (a super-frame of "BIG TCP").
    len: u32,
    /// What the IP header says.
    pub network: NetworkImage,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// TCP flags.
    pub flags: u8,
    /// 1: the first fragment of a datagram; its payload isn't all here.
    pub fragment: u8,
    pub reserved: u8,
}

impl Packet {
    /// Bytes from the frame's start to the IP header.
    #[inline(always)]
    pub fn ip(&self) -> usize {
        self.ip as usize & OFFSET_MASK
    }

    /// Bytes from the frame's start to the transport header.
    #[inline(always)]
    pub fn transport(&self) -> usize {
        self.transport as usize & OFFSET_MASK
    }

    /// Bytes from the frame's start to the payload.
    #[inline(always)]
    pub fn offset(&self) -> usize {
        self.offset as usize & OFFSET_MASK
    }

    /// Payload bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

/// The same number, as one of which the verifier knows nothing but the mask.
#[inline(always)]
fn launder(scratch: *mut Scratch, offset: usize) -> usize {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    unsafe {
        let slot = &raw mut (*scratch).offset;
        slot.write_volatile(offset as u64);
        slot.read_volatile() as usize & OFFSET_MASK
    }
}

/// Four bytes as they stand. Packets are not aligned, and LLVM would take them one by one.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn word(bytes: *const u8) -> u32 {
    // SAFETY: the caller's.
    unsafe {
        #[cfg(target_arch = "bpf")]
        {
            let word: u64;
            core::arch::asm!(
                "{word} = *(u32 *)({bytes} + 0)",
                bytes = in(reg) bytes,
                word = lateout(reg) word,
                options(pure, readonly, nostack)
            );
            word as u32
        }
        #[cfg(not(target_arch = "bpf"))]
        bytes.cast::<u32>().read_unaligned()
    }
}

#[inline(always)]
fn is_vlan(kind: u16) -> bool {
    matches!(kind, 0x8100 | 0x88a8 | 0x9100)
}

/// The EtherType after the VLAN tags, and where the IP header begins.
#[inline(always)]
fn network(frame: &impl Frame, scratch: *mut Scratch) -> Option<(u16, usize)> {
    let ethernet = at::<[u8; ETHERNET]>(frame, 0)?;
    // SAFETY: `at` checked the bytes.
    let kind = unsafe { u16::from_be_bytes([(*ethernet)[12], (*ethernet)[13]]) };
    if !is_vlan(kind) {
        return Some((kind, ETHERNET));
    }
    let tag = at::<[u8; VLAN_TAG]>(frame, ETHERNET)?;
    // SAFETY: `at` checked the bytes.
    let kind = unsafe { u16::from_be_bytes([(*tag)[2], (*tag)[3]]) };
    if !is_vlan(kind) {
        return Some((kind, launder(scratch, ETHERNET + VLAN_TAG)));
    }
    let tag = at::<[u8; VLAN_TAG]>(frame, ETHERNET + VLAN_TAG)?;
    // SAFETY: `at` checked the bytes.
    let kind = unsafe { u16::from_be_bytes([(*tag)[2], (*tag)[3]]) };
    Some((kind, launder(scratch, ETHERNET + 2 * VLAN_TAG)))
}

/// What follows the fixed IP header.
struct Upper {
    protocol: u8,
    offset: usize,
    /// The first fragment of several.
    first: bool,
}

/// Walks IPv6 extension headers (RFC 8200 section 4). An error is the reason to pass the frame.
#[inline(always)]
fn extensions(frame: &impl Frame, scratch: *mut Scratch, next: u8, offset: usize) -> Result<Upper, Counter> {
    let mut upper = Upper { protocol: next, offset, first: false };
    for _ in 0..EXTENSION_HEADERS {
        let length = match upper.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => 8,
            AUTHENTICATION => 4,
            FRAGMENT => 0,
            _ => return Ok(upper),
        };
        let Some(header) = at::<[u8; 8]>(frame, upper.offset) else { return Err(Counter::PassMalformed) };
        // SAFETY: `at` checked the bytes.
        let header = unsafe { &*header };
        upper.protocol = header[0];
        let size = match length {
            8 => (header[1] as usize + 1) * 8,
            4 => (header[1] as usize + 2) * 4,
            _ => {
                if header[2] != 0 || header[3] & 0xf8 != 0 {
                    return Err(Counter::PassFragment);
                }
                // An atomic fragment (RFC 6946) is a whole datagram.
                upper.first |= header[3] & 1 != 0;
                8
            }
        };
        upper.offset = launder(scratch, upper.offset + size);
    }
    // One more of them than are walked.
    match upper.protocol {
        TCP | UDP => Ok(upper),
        _ => Err(Counter::PassOtherProtocol),
    }
}

/// The packet in a frame, and its 4-tuple, in `scratch`: read back from memory, the many ways through this function are
/// one to the verifier. An error is the reason to pass the frame.
#[inline(always)]
pub fn packet<'a>(frame: &impl Frame, scratch: *mut Scratch) -> Result<(&'a FlowKey, &'a Packet), Counter> {
    let Some((kind, ip_offset)) = network(frame, scratch) else { return Err(Counter::PassNotIp) };
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let key = unsafe { (&raw mut (*scratch).key).cast::<u32>() };
    let (upper, ip_payload_end, network) = match kind {
        0x0800 => {
            let Some(ip) = at::<[u8; IPV4]>(frame, ip_offset) else { return Err(Counter::PassMalformed) };
            // SAFETY: `at` checked the bytes, and the key has ten words.
            unsafe {
                let address = ip.cast::<u8>();
                // By rows of RFC 791 section 3.1.
                let [row0, row1, row2] = [0, 4, 8].map(|at| u32::from_be(word(address.add(at))));
                let header = (row0 >> 24 & 0x0f) as usize * 4;
                if row0 >> 28 != 4 || header < IPV4 {
                    return Err(Counter::PassMalformed);
                }
                // Not the first fragment.
                if row1 & 0x1fff != 0 {
                    return Err(Counter::PassFragment);
                }
                let mapped = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
                key.write(0);
                key.add(1).write(0);
                key.add(2).write(mapped);
                key.add(3).write(word(address.add(12)));
                key.add(4).write(0);
                key.add(5).write(0);
                key.add(6).write(mapped);
                key.add(7).write(word(address.add(16)));
                let total = (row0 & 0xffff) as usize;
                let end = if total == 0 { None } else { Some(ip_offset + total) };
                let dont_fragment = if row1 & 0x4000 != 0 { NETWORK_DONT_FRAGMENT } else { 0 };
                let reserved = if row1 & 0x8000 != 0 { NETWORK_RESERVED } else { 0 };
                let network = NetworkImage {
                    version: 4,
                    ttl: (row2 >> 24) as u8,
                    traffic_class: (row0 >> 16) as u8,
                    extra: (header - IPV4) as u8,
                    id: (row1 >> 16) as u16,
                    flags: dont_fragment | reserved,
                    header_len: 0,
                };
                let protocol = (row2 >> 16) as u8;
                let upper = Upper { protocol, offset: ip_offset + header, first: row1 & 0x2000 != 0 };
                (upper, end, network)
            }
        }
        0x86dd => {
            let Some(ip) = at::<[u8; IPV6]>(frame, ip_offset) else { return Err(Counter::PassMalformed) };
            // SAFETY: `at` checked the bytes, and the key has ten words.
            unsafe {
                let ip = &*ip;
                if ip[0] >> 4 != 6 {
                    return Err(Counter::PassMalformed);
                }
                let address = ip.as_ptr();
                key.write(word(address.add(8)));
                key.add(1).write(word(address.add(12)));
                key.add(2).write(word(address.add(16)));
                key.add(3).write(word(address.add(20)));
                key.add(4).write(word(address.add(24)));
                key.add(5).write(word(address.add(28)));
                key.add(6).write(word(address.add(32)));
                key.add(7).write(word(address.add(36)));
                let length = u16::from_be_bytes([ip[4], ip[5]]) as usize;
                let end = if length == 0 { None } else { Some(ip_offset + IPV6 + length) };
                let label = ip[1] & 0x0f | ip[2] | ip[3];
                let mut network = NetworkImage {
                    version: 6,
                    ttl: ip[7],
                    traffic_class: ip[0] << 4 | ip[1] >> 4,
                    extra: 0,
                    id: 0,
                    flags: if label != 0 { NETWORK_FLOW_LABEL } else { 0 },
                    header_len: 0,
                };
                let fixed = ip_offset + IPV6;
                let upper = if ip[6] == TCP || ip[6] == UDP {
                    Upper { protocol: ip[6], offset: fixed, first: false }
                } else {
                    let upper = extensions(frame, scratch, ip[6], fixed)?;
                    let extra = upper.offset.wrapping_sub(fixed);
                    network.extra = if extra > 255 { 255 } else { extra as u8 };
                    upper
                };
                (upper, end, network)
            }
        }
        _ => return Err(Counter::PassNotIp),
    };
    let (ports, offset, seq, ack, flags, header_len) = match upper.protocol {
        // Linux puts together what begins with eight bytes of a TCP header: the ports, by which it is dropped or not.
        TCP if upper.first && ip_payload_end.is_some_and(|end| end < upper.offset + TCP_HEADER) => {
            let Some(header) = at::<[u8; LEAST_FRAGMENT]>(frame, upper.offset) else {
                return Err(Counter::PassMalformed);
            };
            // SAFETY: `at` checked the bytes.
            let ports = unsafe { word(header.cast()) };
            (ports, upper.offset + TCP_HEADER, 0, 0, 0, 0)
        }
        TCP => {
            let Some(header) = at::<[u8; TCP_HEADER]>(frame, upper.offset) else {
                return Err(Counter::PassMalformed);
            };
            // SAFETY: `at` checked the bytes.
            let [ports, seq, ack, row3] = unsafe { [0, 4, 8, 12].map(|at| word(header.cast::<u8>().add(at))) };
            let row3 = u32::from_be(row3);
            let length = (row3 >> 28) as usize * 4;
            if length < TCP_HEADER {
                return Err(Counter::PassMalformed);
            }
            (ports, upper.offset + length, u32::from_be(seq), u32::from_be(ack), (row3 >> 16) as u8, length as u8)
        }
        UDP => {
            let Some(header) = at::<[u8; UDP_HEADER]>(frame, upper.offset) else {
                return Err(Counter::PassMalformed);
            };
            // SAFETY: `at` checked the bytes.
            let ports = unsafe { word(header.cast()) };
            (ports, upper.offset + UDP_HEADER, 0, 0, 0, 0)
        }
        _ => return Err(Counter::PassOtherProtocol),
    };
    let protocol = if upper.protocol == UDP { FLOW_UDP } else { FLOW_TCP };
    // SAFETY: the key has ten words.
    unsafe {
        // The source's in the first bytes.
        let ports = u32::from_be(ports);
        key.add(8).cast::<u16>().write((ports >> 16) as u16);
        key.add(8).cast::<u16>().add(1).write(ports as u16);
        key.add(9).write(protocol);
    }
    let len = match ip_payload_end {
        // The first fragment may end within the header.
        Some(end) if end < offset && upper.first && end >= upper.offset + LEAST_FRAGMENT => 0,
        Some(end) if end < offset => return Err(Counter::PassMalformed),
        Some(end) => end - offset,
        None => frame.len().saturating_sub(offset),
    };
    // SAFETY: as above; what is read back was written here.
    unsafe {
        (*scratch).packet = Packet {
            seq,
            ack,
            ip: ip_offset as u32,
            transport: upper.offset as u32,
            offset: offset as u32,
            len: len as u32,
            network: NetworkImage { header_len, ..network },
            protocol: upper.protocol,
            flags,
            fragment: upper.first as u8,
            reserved: 0,
        };
        let scratch = black_box(scratch);
        Ok((&(*scratch).key, &(*scratch).packet))
    }
}
