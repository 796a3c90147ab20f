//! The bytes of ClientHellos, to userspace. A look at the payload's first bytes decides before anything is copied.
//!
//! A hello in one segment leaves no trace here. One that spans several is followed by its 4-tuple until every byte up
//! to its end was seen in order, userspace ends it, its segments or time run out (threats.md T13, T18), or a SYN starts
//! another connection. Today's browsers span two.

use core::{hint::black_box, mem::MaybeUninit};

use aya_ebpf::{EbpfContext as _, helpers::bpf_xdp_load_bytes, programs::XdpContext};
use detector_common::{
    counter::Counter,
    event::{EVENT_PAYLOAD_MAX, EventHeader},
    flow::FlowKey,
    settings::Settings,
};

use crate::{
    count::Counters,
    enforce::now,
    maps::{EVENTS, FOLLOW, Follow, SCRATCH},
    parse::{ACK, SYN, Segment},
};

/// Payload bytes that tell a ClientHello: ChangeCipherSpec record (6), record header (5), handshake type (1).
const HEAD: usize = 12;
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// How far behind a flow's first captured byte a segment may still belong to it: an earlier one that was overtaken.
const WINDOW: u32 = EVENT_PAYLOAD_MAX as u32;

/// The payload's first bytes, zeros after `len`.
#[inline(always)]
fn head(ctx: &XdpContext, segment: &Segment, len: usize) -> Option<[u8; HEAD]> {
    let mut bytes = [0u8; HEAD];
    // A constant length for the usual case; the rest byte counts are rare.
    let n = black_box(if len < HEAD { len } else { HEAD });
    if n == 0 || n > HEAD {
        return None;
    }
    // SAFETY: `n` bytes fit the array; the helper checks the frame, its fragments included.
    let result = unsafe { bpf_xdp_load_bytes(ctx.ctx, segment.offset as u32, bytes.as_mut_ptr().cast(), n as u32) };
    if result == 0 { Some(bytes) } else { None }
}

/// Whether the payload's first bytes, `len` of them known, can be a ClientHello's (RFC 8446 sections 4 and 5.1). After
/// a HelloRetryRequest the client may put a ChangeCipherSpec record before its second one (appendix D.4).
#[inline(always)]
fn begins_hello(head: &[u8; HEAD], len: usize) -> bool {
    if head[0] == HANDSHAKE {
        return (len < 2 || head[1] == 3) && (len < 6 || head[5] == CLIENT_HELLO);
    }
    head[0] == CHANGE_CIPHER_SPEC
        && len > 6
        && head[1] == 3
        && head[4] == 1
        && head[5] == 1
        && head[6] == HANDSHAKE
        && (len < 12 || head[11] == CLIENT_HELLO)
}

/// Bytes from the payload's start to the hello's end, 0 if the first bytes don't say: the handshake message spans
/// records, or its length isn't here yet.
#[inline(always)]
fn needed(head: &[u8; HEAD], len: usize) -> u32 {
    if head[0] != HANDSHAKE || len < 9 {
        return 0;
    }
    let record = (head[3] as u32) << 8 | head[4] as u32;
    let message = (head[6] as u32) << 16 | (head[7] as u32) << 8 | head[8] as u32;
    if message + 4 <= record { message + 9 } else { 0 }
}

/// Sends a segment to userspace.
#[inline(always)]
fn submit(ctx: &XdpContext, key: &FlowKey, segment: &Segment, len: usize, at: u64, counters: Counters) {
    counters.add(Counter::SegmentsCaptured);
    let sent = emit(ctx, key, segment, len, at).is_some();
    counters.add(if sent { Counter::SegmentsSubmitted } else { Counter::SegmentsLost });
}

#[inline(always)]
fn emit(ctx: &XdpContext, key: &FlowKey, segment: &Segment, len: usize, at: u64) -> Option<()> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // Clamped as usize and hidden from LLVM, which would otherwise drop the bound that the verifier wants to see.
    let n = black_box(if len < EVENT_PAYLOAD_MAX { len } else { EVENT_PAYLOAD_MAX });
    if n == 0 || n > EVENT_PAYLOAD_MAX {
        return None;
    }
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile; every header field is written.
    unsafe {
        let header = &raw mut (*scratch).header;
        (*header).at = at;
        (*header).flow = *key;
        (*header).syn_at = 0;
        (*header).payload_len = len as u32;
        (*header).captured_len = n as u32;
        (*header).interface = (*ctx.ctx).ingress_ifindex;
        (*header).kind = 0;
        (*header).proof = 0;
        (*header).reserved = 0;
        (*header).segment.network.header_len = 20;
        if bpf_xdp_load_bytes(ctx.as_ptr().cast(), segment.tcp as u32, (&raw mut (*header).segment.tcp).cast(), 20) != 0
        {
            return None;
        }
        let payload = (&raw mut (*scratch).payload).cast();
        if bpf_xdp_load_bytes(ctx.as_ptr().cast(), segment.offset as u32, payload, n as u32) != 0 {
            return None;
        }
        let event = core::slice::from_raw_parts(scratch.cast::<u8>(), size_of::<EventHeader>() + n);
        EVENTS.output::<[u8]>(event, 0).ok()
    }
}

/// A later segment of a flow that is followed. `false`: it has nothing to do with that hello.
#[inline(always)]
fn followed(
    ctx: &XdpContext,
    settings: &Settings,
    key: &FlowKey,
    segment: &Segment,
    len: usize,
    counters: Counters,
    follow: *mut Follow,
) -> bool {
    // SAFETY: a value of a map, valid until the program ends; the segments of one flow come by one CPU.
    let follow = unsafe { &mut *follow };
    let ahead = segment.seq.wrapping_sub(follow.base);
    let behind = follow.base.wrapping_sub(segment.seq);
    if ahead >= WINDOW && behind > WINDOW {
        return false;
    }
    let at = now();
    if follow.segments >= settings.segments_per_flow || at.wrapping_sub(follow.started_at) > settings.follow_ns {
        let _ = FOLLOW.remove(key);
        counters.add(Counter::FollowsExpired);
        return false;
    }
    follow.segments += 1;
    if segment.seq == follow.next {
        follow.next = follow.next.wrapping_add(len as u32);
        if follow.need != 0 && follow.next.wrapping_sub(follow.base) >= follow.need {
            let _ = FOLLOW.remove(key);
        }
    }
    submit(ctx, key, segment, len, at, counters);
    true
}

/// Looks at a segment to a protected port that passes. `false`: it is a hello to an address that isn't protected.
#[inline(always)]
pub fn look(ctx: &XdpContext, settings: &Settings, key: &FlowKey, segment: &Segment, counters: Counters) -> bool {
    if segment.flags & (SYN | ACK) == SYN {
        // A stale entry must not blind the new connection's hello.
        if FOLLOW.get_ptr(key).is_some() {
            let _ = FOLLOW.remove(key);
        }
        return true;
    }
    let len = match segment.len {
        Some(len) => len,
        // SAFETY: the context is the program's own.
        None => unsafe { aya_ebpf::helpers::bpf_xdp_get_buff_len(ctx.ctx) as usize }.saturating_sub(segment.offset),
    };
    if len == 0 {
        return true;
    }
    if let Some(follow) = FOLLOW.get_ptr_mut(key)
        && followed(ctx, settings, key, segment, len, counters, follow)
    {
        return true;
    }
    let Some(head) = head(ctx, segment, len) else { return true };
    if !begins_hello(&head, len) {
        return true;
    }
    if !crate::protects(settings, key) {
        return false;
    }
    counters.add(Counter::HellosStarted);
    let at = now();
    let need = needed(&head, len);
    if need == 0 || (len as u32) < need {
        let mut follow = MaybeUninit::<Follow>::uninit();
        let entry = follow.as_mut_ptr();
        // SAFETY: every field is written before the value is used.
        let follow = unsafe {
            (*entry).started_at = at;
            (*entry).base = segment.seq;
            (*entry).next = segment.seq.wrapping_add(len as u32);
            (*entry).need = need;
            (*entry).segments = 1;
            follow.assume_init_ref()
        };
        if FOLLOW.insert(key, follow, 0).is_err() {
            counters.add(Counter::FollowsRefused);
        }
    }
    submit(ctx, key, segment, len, at, counters);
    true
}
