//! A frame in, its TCP connection out. Ethernet, IPv4 with options, IPv6 without extension headers, TCP.
//!
//! Fixed offsets are read behind one check each, before any variable one: LLVM deletes a constant check that a variable
//! one implies, and the verifier can't follow that reasoning.

use core::mem::MaybeUninit;

use aya_ebpf::programs::XdpContext;
use detector_common::{counter::Counter, flow::FlowKey};

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_FRAGMENT: u8 = 44;

/// A TCP segment's place in its frame.
pub struct Segment {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    /// Bytes from the frame's start to the TCP header.
    pub tcp: usize,
    /// Bytes from the frame's start to the payload.
    pub offset: usize,
    /// Payload bytes by the IP header; `None` where it doesn't say (a super-frame of IPv6 or IPv4 "BIG TCP").
    pub len: Option<usize>,
}

/// A `T` at `offset`, if the frame's linear part holds it.
#[inline(always)]
pub fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*const T> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + offset + size_of::<T>() > end { None } else { Some((start + offset) as *const T) }
}

#[inline(always)]
fn word(bytes: *const u8) -> u32 {
    // SAFETY: the caller checked four bytes; packets are not aligned.
    unsafe { bytes.cast::<u32>().read_unaligned() }
}

/// Writes the key whole; an error is the reason to pass the frame.
#[inline(always)]
pub fn segment(ctx: &XdpContext, key: &mut MaybeUninit<FlowKey>) -> Result<Segment, Counter> {
    let Some(ethernet) = at::<[u8; ETHERNET]>(ctx, 0) else { return Err(Counter::PassNotIp) };
    // SAFETY: `at` checked the bytes.
    let kind = unsafe { u16::from_be_bytes([(*ethernet)[12], (*ethernet)[13]]) };
    let key = key.as_mut_ptr().cast::<u32>();
    let (tcp, ip_payload_end) = match kind {
        0x0800 => {
            let Some(ip) = at::<[u8; IPV4]>(ctx, ETHERNET) else { return Err(Counter::PassMalformed) };
            // SAFETY: `at` checked the bytes, and the key has ten words.
            unsafe {
                let ip = &*ip;
                if ip[0] >> 4 != 4 || ip[0] & 0x0f < 5 {
                    return Err(Counter::PassMalformed);
                }
                if ip[9] != PROTOCOL_TCP {
                    return Err(Counter::PassNotTcp);
                }
                // More fragments, or not the first one (RFC 791 section 3.1).
                if ip[6] & 0x3f != 0 || ip[7] != 0 {
                    return Err(Counter::PassFragment);
                }
                let mapped = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
                let address = ip.as_ptr();
                key.write(0);
                key.add(1).write(0);
                key.add(2).write(mapped);
                key.add(3).write(word(address.add(12)));
                key.add(4).write(0);
                key.add(5).write(0);
                key.add(6).write(mapped);
                key.add(7).write(word(address.add(16)));
                let total = u16::from_be_bytes([ip[2], ip[3]]) as usize;
                let end = if total == 0 { None } else { Some(ETHERNET + total) };
                (ETHERNET + (ip[0] & 0x0f) as usize * 4, end)
            }
        }
        0x86dd => {
            let Some(ip) = at::<[u8; IPV6]>(ctx, ETHERNET) else { return Err(Counter::PassMalformed) };
            // SAFETY: `at` checked the bytes, and the key has ten words.
            unsafe {
                let ip = &*ip;
                if ip[0] >> 4 != 6 {
                    return Err(Counter::PassMalformed);
                }
                if ip[6] == PROTOCOL_FRAGMENT {
                    return Err(Counter::PassFragment);
                }
                if ip[6] != PROTOCOL_TCP {
                    return Err(Counter::PassNotTcp);
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
                let end = if length == 0 { None } else { Some(ETHERNET + IPV6 + length) };
                (ETHERNET + IPV6, end)
            }
        }
        _ => return Err(Counter::PassNotIp),
    };
    let Some(header) = at::<[u8; TCP]>(ctx, tcp) else { return Err(Counter::PassMalformed) };
    // SAFETY: `at` checked the bytes, and the key has ten words.
    let header = unsafe {
        let header = &*header;
        let source_port = u16::from_be_bytes([header[0], header[1]]);
        let destination_port = u16::from_be_bytes([header[2], header[3]]);
        key.add(8).cast::<u16>().write(source_port);
        key.add(8).cast::<u16>().add(1).write(destination_port);
        key.add(9).write(0);
        header
    };
    let length = (header[12] >> 4) as usize * 4;
    let offset = tcp + length;
    let len = match ip_payload_end {
        Some(end) if length < TCP || end < offset => return Err(Counter::PassMalformed),
        Some(end) => Some(end - offset),
        None => None,
    };
    Ok(Segment {
        seq: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        ack: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
        flags: header[13],
        tcp,
        offset,
        len,
    })
}
