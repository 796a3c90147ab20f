//! A blocked segment becomes a RST for the host's own stack, so that the server's socket is freed at once and doesn't
//! wait for a client that gets no answer. In: the packet at hand, which is to be dropped. Out: the frame, cut after a bare
//! TCP header with its number; to the client nothing is ever sent.
//!
//! Linux takes a RST at exactly the number it expects next (RFC 5961 section 3.2), and takes it without a timestamp, so
//! every segment of a condemned connection becomes one until one lands. Whoever forges a segment gains nothing: with the
//! right number a forged RST would have done, and one that is off is discarded, or answered with a challenge ACK at the
//! host's own rate (net.ipv4.tcp_invalid_ratelimit), as its data would have been. A SYN is dropped, for there is no socket
//! yet; so is what goes on to another host.
//!
//! Without ACK the RST needs no acknowledgement number: a half-open connection checks that, and connection tracking takes
//! it either way. Options go too; Linux wants none but those of a signed connection (RFC 5925), which stays open.
//!
//! The checksum is always whole. Where the frame comes from a neighbour on this machine that left its checksum to the
//! card, Linux doesn't look at it.
//!
//! A RST costs the stack more than a drop does, so each CPU makes only so many in a tick ([`RESET_TICK_BITS`]).

use aya_ebpf::{
    helpers::{bpf_ktime_get_coarse_ns, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use core::hint::black_box;
use detector_common::{
    counter::Counter,
    settings::{RESET_TICK_BITS, Settings},
};

use crate::{
    count::Counters,
    frame::{Frame, at},
    maps::{SCRATCH, SETTINGS, Scratch},
    parse::{ACK, IPV4, IPV6, Packet, RST, SYN, TCP, TCP_HEADER},
};

/// What a CPU has made of its share.
#[repr(C)]
pub struct Budget {
    /// The tick that `taken` is of.
    tick: u64,
    /// What was taken of it.
    taken: u32,
    reserved: u32,
}

impl Budget {
    /// Takes one, of so many in a tick.
    #[inline(always)]
    pub fn take(&mut self, most: u32) -> bool {
        // SAFETY: the helper has no preconditions.
        let tick = unsafe { bpf_ktime_get_coarse_ns() } >> RESET_TICK_BITS;
        if self.tick != tick {
            (self.tick, self.taken) = (tick, 0);
        }
        if self.taken >= most {
            return false;
        }
        self.taken += 1;
        true
    }
}

/// Makes a RST of the packet at hand. `false`: it has to be dropped; its bytes mean nothing any more.
#[inline(always)]
pub fn rewrite(ctx: &XdpContext, counters: Counters) -> bool {
    let (Some(scratch), Some(settings)) = (SCRATCH.get_ptr_mut(0), SETTINGS.get(0)) else { return false };
    let scratch = black_box(scratch);
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let packet = unsafe { &(*scratch).packet };
    if !wanted(settings, packet) {
        return false;
    }
    // SAFETY: as above.
    if !unsafe { (*scratch).resets.take(settings.resets) } {
        counters.add(Counter::ResetsLimited);
        return false;
    }
    if !cut(ctx, packet) || !write(ctx, scratch) {
        counters.add(Counter::ResetsFailed);
        return false;
    }
    counters.add(Counter::ResetsMade);
    true
}

/// Whether there may be a socket to free: on this host, of a connection that has begun. What has neither ACK nor RST,
/// Linux discards.
#[inline(always)]
pub fn wanted(settings: &Settings, packet: &Packet) -> bool {
    settings.resets != 0
        && settings.local_only != 0
        && packet.protocol == TCP
        && packet.fragment == 0
        && packet.flags & SYN == 0
        && packet.flags & (ACK | RST) != 0
}

/// Cuts the frame after a TCP header without options. The frame's pointers are to be taken anew after this.
#[inline(always)]
fn cut(ctx: &XdpContext, packet: &Packet) -> bool {
    let (len, end) = (ctx.len(), packet.transport() + TCP_HEADER);
    // SAFETY: the context is the program's own; the helper checks the length, and frees the buffers it empties.
    len >= end && (len == end || unsafe { bpf_xdp_adjust_tail(ctx.ctx, -((len - end) as i32)) } == 0)
}

/// Writes the headers of the RST over those of the segment.
#[inline(always)]
fn write(ctx: &XdpContext, scratch: *mut Scratch) -> bool {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let (key, packet) = unsafe { (&(*scratch).key, &(*scratch).packet) };
    let end = packet.transport() + TCP_HEADER;
    if packet.network.version == 4 {
        let Some(header) = at::<[u8; IPV4]>(ctx, packet.ip()) else { return false };
        // SAFETY: `at` checked the bytes.
        let header = unsafe { &mut *header.cast_mut() };
        let (old, new) = ([header[2], header[3]], ((end - packet.ip()) as u16).to_be_bytes());
        [header[2], header[3]] = new;
        // RFC 1624: a header that was wrong stays so, and Linux discards it.
        let sum = !u16::from_ne_bytes([header[10], header[11]]) as u64;
        let sum = !fold(sum + !u16::from_ne_bytes(old) as u64 + u16::from_ne_bytes(new) as u64);
        [header[10], header[11]] = sum.to_ne_bytes();
    } else {
        let Some(header) = at::<[u8; IPV6]>(ctx, packet.ip()) else { return false };
        // SAFETY: `at` checked the bytes.
        let header = unsafe { &mut *header.cast_mut() };
        [header[4], header[5]] = ((end - packet.ip() - IPV6) as u16).to_be_bytes();
    }
    let Some(header) = at::<[u8; TCP_HEADER]>(ctx, packet.transport()) else { return false };
    let header = header.cast_mut().cast::<u32>();
    let source: [u32; 4] = zerocopy::transmute!(key.source);
    let destination: [u32; 4] = zerocopy::transmute!(key.destination);
    // What stands before an IPv4 address in its mapped form adds nothing to a sum of this kind.
    let addresses = source.iter().chain(&destination).fold(0, |sum, word| sum + *word as u64);
    let pseudo = u32::from_ne_bytes([0, TCP, 0, TCP_HEADER as u8]);
    let flags = u32::from_ne_bytes([(TCP_HEADER as u8 / 4) << 4, RST, 0, 0]);
    // SAFETY: `at` checked the bytes: ports, sequence number, acknowledgement, flags and window, checksum and urgent.
    unsafe {
        let (ports, seq) = (header.read_unaligned(), packet.seq.to_be());
        let sum = fold(addresses + pseudo as u64 + ports as u64 + seq as u64 + flags as u64);
        header.add(1).write_unaligned(seq);
        header.add(2).write_unaligned(0);
        header.add(3).write_unaligned(flags);
        let [high, low] = (!sum).to_ne_bytes();
        header.add(4).write_unaligned(u32::from_ne_bytes([high, low, 0, 0]));
    }
    true
}

/// A sum of native words to one of 16 bits (RFC 1071; the order of bytes doesn't matter to it). Of fewer than 2^16 words.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
