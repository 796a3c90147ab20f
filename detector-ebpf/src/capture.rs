//! What has to do with ClientHellos, to userspace. A look at the payload's first bytes decides before anything is
//! copied.
//!
//! A hello in one segment leaves no trace here. One that spans several is followed by its 4-tuple until every byte up
//! to its end was seen, userspace ends it, its segments or time run out (threats.md T13, T18), or a SYN starts
//! another connection. Today's browsers span two.
//!
//! Each packet goes into one of two rings, by whether its client's address is proven: a flood of forged hellos loses
//! nothing of real ones (threats.md T11).

use core::hint::black_box;

use aya_ebpf::programs::XdpContext;
use detector_common::{
    counter::Counter,
    event::{EVENT_PAYLOAD_MAX, EVENT_SEGMENT, EventHeader, PROOF_NONE, SegmentImage, TCP_HEADER_MAX},
    flow::FlowKey,
    key::parser::Parser,
    settings::Settings,
};

use crate::{
    count::Counters,
    enforce::{self, now},
    frame::{Frame, at, load},
    handshake,
    key::{PARSE_EARLY, PARSE_NOTHING, PARSE_ON, PARSE_START, READING_GAPS, READING_NOTHING},
    maps::{EVENTS, FOLLOW, Follow, PENDING, SYN_ACKS, SYNS, Scratch, UNCONFIRMED, WAITING},
    mark, open,
    parse::{ACK, Packet, RST, SYN, TCP},
};

/// Payload bytes that tell a ClientHello: ChangeCipherSpec record (6), record header (5), handshake type (1).
const HEAD: usize = 12;
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// How far from a flow's first byte a segment may lie and still belong to its hello.
pub const WINDOW: u32 = EVENT_PAYLOAD_MAX as u32;

/// The first `N` bytes of the payload, zeros after `len`.
#[inline(always)]
pub fn head<const N: usize>(frame: &impl Frame, packet: &Packet, len: usize) -> Option<[u8; N]> {
    let mut bytes = [0u8; N];
    let n = if len < N { len } else { N };
    // SAFETY: so many bytes fit the array.
    if unsafe { load::<N>(frame, packet.offset(), bytes.as_mut_ptr(), n) } { Some(bytes) } else { None }
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

/// What goes before an event's payload, beside the packet's own.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Event {
    pub at: u64,
    /// Of the packet's payload, how many bytes to copy at most.
    pub copy: u32,
    pub kind: u8,
    pub proof: u8,
    /// 1: the SYN and the SYN-ACK of the connection go along.
    pub handshake: u8,
    /// 1: no payload, not even its length.
    pub bare: u8,
}

/// Sends the packet at hand to userspace, as `scratch.event` says.
#[inline(always)]
pub fn submit(frame: &impl Frame, scratch: *mut Scratch, confirmed: bool, counters: Counters) {
    assemble(frame, scratch);
    send(scratch, confirmed, counters);
}

/// Sends the event that was put together in `scratch`.
#[inline(always)]
pub fn send(scratch: *mut Scratch, confirmed: bool, counters: Counters) {
    let scratch = black_box(scratch);
    if confirmed {
        counters.add(Counter::CapturedConfirmed);
    } else {
        counters.add(Counter::CapturedUnconfirmed);
    }
    // SAFETY: this CPU's map value; so many bytes of it were written just now.
    let sent = unsafe {
        // Hidden and compared as in `frame::load`.
        let payload = black_box(((*scratch).len as usize).wrapping_sub(size_of::<EventHeader>()));
        payload <= EVENT_PAYLOAD_MAX && {
            let bytes = core::slice::from_raw_parts(scratch.cast::<u8>(), size_of::<EventHeader>() + payload);
            if confirmed {
                EVENTS.output::<[u8]>(bytes, 0).is_ok()
            } else {
                UNCONFIRMED.output::<[u8]>(bytes, 0).is_ok()
            }
        }
    };
    match (confirmed, sent) {
        (true, true) => counters.add(Counter::SubmittedConfirmed),
        (true, false) => counters.add(Counter::LostConfirmed),
        (false, true) => counters.add(Counter::SubmittedUnconfirmed),
        (false, false) => counters.add(Counter::LostUnconfirmed),
    }
}

/// Copies the packet's TCP header.
///
/// # Safety
/// `image` is this CPU's map value.
#[inline(always)]
pub unsafe fn image(frame: &impl Frame, packet: &Packet, image: *mut SegmentImage) -> Option<()> {
    let n = packet.network.header_len as usize;
    // SAFETY: the caller's; so many bytes fit.
    unsafe {
        (*image).network = packet.network;
        (*image).payload_len = packet.len() as u32;
        let tcp = (&raw mut (*image).tcp).cast();
        if load::<TCP_HEADER_MAX>(frame, packet.transport(), tcp, n) { Some(()) } else { None }
    }
}

/// Puts an event together in `scratch`; `scratch.len` is its length, or 0 if the frame's bytes can't be read.
#[inline(always)]
pub fn assemble(frame: &impl Frame, scratch: *mut Scratch) {
    let scratch = black_box(scratch);
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    unsafe {
        (*scratch).len = 0;
        if let Some(payload) = payload(frame, scratch) {
            (*scratch).len = (size_of::<EventHeader>() + payload) as u32;
        }
    }
}

/// Writes the event's header and copies its payload: so many bytes of it.
#[inline(always)]
fn payload(frame: &impl Frame, scratch: *mut Scratch) -> Option<usize> {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile; every header field is written.
    unsafe {
        let (event, packet, key) = (&(*scratch).event, &(*scratch).packet, &(*scratch).key);
        let len = if event.bare != 0 { 0 } else { packet.len() };
        let most = event.copy as usize;
        let n = if len < most { len } else { most };
        // Clamped as usize and hidden from LLVM, which would otherwise drop the bound that the verifier wants to see.
        let n = black_box(if n < EVENT_PAYLOAD_MAX { n } else { EVENT_PAYLOAD_MAX });
        if n > EVENT_PAYLOAD_MAX {
            return None;
        }
        let header = &raw mut (*scratch).header;
        (*header).at = event.at;
        (*header).flow = *key;
        (*header).syn_at = 0;
        (*header).syn_ack_at = 0;
        (*header).payload_len = len as u32;
        (*header).captured_len = n as u32;
        (*header).interface = frame.interface();
        (*header).kind = event.kind;
        (*header).proof = event.proof;
        (*header).reserved = [0; 3];
        (*header).hello_seq = 0;
        (*header).key = 0;
        (*header).key_stable = 0;
        (*header).segment.network = packet.network;
        if packet.protocol == TCP {
            image(frame, packet, &raw mut (*header).segment)?;
        }
        if event.handshake != 0 {
            if let Some(syn) = SYNS.get_ptr(key) {
                (*header).syn_at = (*syn).at;
                (*header).syn = (*syn).image;
            }
            if let Some(syn_ack) = SYN_ACKS.get_ptr(key) {
                (*header).syn_ack_at = (*syn_ack).at;
                (*header).syn_ack = (*syn_ack).image;
            }
        }
        let payload = (&raw mut (*scratch).payload).cast();
        if n > 0 && !load::<EVENT_PAYLOAD_MAX>(frame, packet.offset(), payload, n) {
            return None;
        }
        Some(n)
    }
}

/// Hellos that begin in a SYN, of which so many on each CPU in a tick of 67 ms go into the ring of the confirmed: the client
/// proves its address by its next packet only (TCP Fast Open), when a flood may long have cost its hello the other ring.
/// A flood of just these gets no more of that ring.
const OPENINGS: u32 = 64;

/// What a segment is. Kept in memory between its stages ([`State`]): the verifier would otherwise walk the rest of the
/// program for each of the ways that led there.
const NOT_OURS: u32 = 0;
const NOTHING: u32 = 1;
const FOLLOWED: u32 = 2;
const BEGINS: u32 = 3;

/// What one stage of [`segment`] leaves to the next.
#[repr(C)]
pub struct State {
    /// One of the constants above.
    what: u32,
    /// 1: an earlier hello of this connection awaits its proof.
    pending: u32,
    /// `PROOF_*` of the client's address.
    pub proof: u32,
    /// 1: the proof was looked for and found only now.
    late: u32,
    /// 1: the proof may come with the client's next packet.
    pub request: u32,
    /// 1: though nothing is proven, the event goes into the ring of the confirmed.
    pub favoured: u32,
    /// 1: the hello is followed after this segment.
    unfinished: u32,
    /// `PARSE_*`: what the payload is to the hello's keys.
    pub parse: u32,
    /// Bytes at the payload's start that were seen before.
    pub skip: u32,
    /// 1: segments of this hello wait for those before them.
    pub waiting: u32,
    /// Bytes that waited for this segment, and stand behind its payload now.
    pub appended: u32,
    /// What else waits: one of [`crate::waiting`]'s constants.
    pub rest: u32,
    /// Of the loop that reads the hello.
    pub turns: u32,
    /// 1: the packet is dropped for its hello's fingerprint.
    pub blocked: u32,
    /// 1: a hello ends in the packet, and is judged by its keys.
    pub judged: u32,
    /// 1: the flow may be followed.
    marked: u32,
}

/// A later segment of a flow that is followed. `false`: it has nothing to do with that hello.
#[inline(always)]
fn followed(
    settings: &Settings,
    scratch: *mut Scratch,
    key: &FlowKey,
    (seq, len): (u32, u32),
    counters: Counters,
    follow: *mut Follow,
) -> bool {
    // SAFETY: a value of a map, valid until the program ends; the segments of one flow come by one CPU.
    let follow = unsafe { &mut *follow };
    let ahead = seq.wrapping_sub(follow.base);
    let behind = follow.base.wrapping_sub(seq);
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
    // SAFETY: this CPU's map value.
    let scratch = unsafe { &mut *scratch };
    scratch.state.proof = follow.proof;
    scratch.state.unfinished = 1;
    let end = seq.wrapping_add(len);
    scratch.follow.started_at = follow.started_at;
    scratch.follow.base = follow.base;
    scratch.follow.next = follow.next;
    scratch.state.waiting = (follow.parsing == READING_GAPS) as u32;
    let skip = follow.next.wrapping_sub(seq);
    if (skip as i32) < 0 {
        // It overtook another.
        if follow.parsing != READING_NOTHING {
            scratch.state.parse = PARSE_EARLY;
        }
    } else if skip < len {
        scratch.follow.next = end;
        if follow.parsing != READING_NOTHING {
            scratch.state.parse = PARSE_ON;
            scratch.state.skip = skip;
            scratch.follow.parser = follow.parser;
        }
        scratch.state.unfinished = (follow.need == 0 || end.wrapping_sub(follow.base) < follow.need) as u32;
    }
    true
}

/// Says what the segment is, in `scratch.state`.
#[inline(always)]
fn classify(
    ctx: &XdpContext,
    settings: &Settings,
    scratch: *mut Scratch,
    key: &FlowKey,
    packet: &Packet,
    counters: Counters,
) -> u32 {
    let len = packet.len();
    if len == 0 {
        return NOTHING;
    }
    if packet.flags & (SYN | ACK | RST) == 0 {
        counters.add(Counter::SegmentsNoAck);
        return NOTHING;
    }
    // A SYN takes a sequence number itself; with TCP Fast Open data follows (RFC 7413).
    let seq = packet.seq.wrapping_add((packet.flags & (SYN | ACK) == SYN) as u32);
    let Some(mark) = mark::of(settings, key) else { return NOTHING };
    // In memory, the ways to the answer are one to the verifier.
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let may_be_followed = unsafe {
        (*scratch).state.marked = mark::may_be_followed(mark) as u32;
        (*black_box(scratch)).state.marked != 0
    };
    if may_be_followed
        && let Some(follow) = FOLLOW.get_ptr_mut(key)
        && followed(settings, scratch, key, (seq, len as u32), counters, follow)
    {
        return FOLLOWED;
    }
    let first = handshake::first_data(key, mark, seq);
    if first.is {
        counters.add(Counter::FirstData);
    }
    let Some(head) = head::<HEAD>(ctx, packet, len) else {
        if first.is {
            counters.add(Counter::FirstUnparsed);
        }
        return NOTHING;
    };
    // A segment that overtook the first one of its connection says nothing by its own first bytes.
    let overtook = first.is && seq != first.base;
    if !overtook && !begins_hello(&head, len) {
        if first.is {
            counters.add(Counter::FirstNotTls);
        }
        return NOTHING;
    }
    if !crate::protects(settings, &key.destination) {
        return NOT_OURS;
    }
    let need = if overtook { 0 } else { needed(&head, len) };
    let whole = need != 0 && len as u32 >= need;
    if first.is {
        if whole {
            counters.add(Counter::FirstHello);
        } else {
            counters.add(Counter::FirstPartial);
        }
    }
    // SAFETY: this CPU's map value.
    let scratch = unsafe { &mut *scratch };
    scratch.state.unfinished = !whole as u32;
    scratch.follow.base = if first.is { first.base } else { seq };
    scratch.follow.next = if overtook { first.base } else { seq.wrapping_add(len as u32) };
    scratch.follow.need = need;
    if settings.keys == 0 {
        return BEGINS;
    }
    scratch.follow.parser = Parser::new(&settings.seeds);
    scratch.state.parse = if overtook { PARSE_EARLY } else { PARSE_START };
    BEGINS
}

/// Whether a segment has nothing to do with a hello, as most haven't: said by one mark and one byte. The others are looked
/// at closely.
#[inline(always)]
fn is_nothing(ctx: &XdpContext, settings: &Settings, key: &FlowKey, packet: &Packet) -> bool {
    if packet.len() == 0 {
        return true;
    }
    // Two bytes, since of a comparison with the frame's end that says one the verifier learns nothing.
    let (Some(mark), Some(head)) = (mark::of(settings, key), at::<[u8; 2]>(ctx, packet.offset())) else { return false };
    // SAFETY: `at` checked the bytes.
    let first = unsafe { (*head)[0] };
    packet.flags & ACK != 0 && first != HANDSHAKE && first != CHANGE_CIPHER_SPEC && mark::is_quiet(mark)
}

/// What becomes of a packet after the look at it.
#[derive(Clone, Copy, PartialEq)]
pub enum Look {
    /// It is for an address that isn't protected.
    NotOurs,
    /// Nothing to tell.
    Nothing,
    /// To userspace, as `scratch.event` says.
    Submit,
}

/// Looks at a segment to a protected port that passes.
#[inline(always)]
pub fn segment(
    ctx: &XdpContext,
    settings: &Settings,
    scratch: *mut Scratch,
    key: &FlowKey,
    packet: &Packet,
    counters: Counters,
) -> Look {
    let syn = packet.flags & (SYN | ACK) == SYN;
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let state = unsafe { &raw mut (*scratch).state };
    // SAFETY: as above.
    unsafe {
        (*state).pending = 0;
        (*state).proof = PROOF_NONE as u32;
        (*state).late = 0;
        (*state).request = 0;
        (*state).unfinished = 0;
        (*state).parse = PARSE_NOTHING;
        (*state).skip = 0;
        (*state).waiting = 0;
        (*state).appended = 0;
    }
    if syn {
        if !crate::protects(settings, &key.destination) {
            return Look::NotOurs;
        }
        if handshake::is_taken(ctx, key, packet) {
            counters.add(Counter::SynsTaken);
            return Look::Nothing;
        }
        counters.add(Counter::Syns);
        enforce::reopened(ctx, settings, key, packet, counters);
        // A stale entry must not blind the new connection's hello; the same SYN once more ends nothing.
        if let Some(follow) = FOLLOW.get_ptr(key) {
            // SAFETY: a value of a map, valid until the program ends.
            let (base, started_at) = unsafe { ((*follow).base, (*follow).started_at) };
            if base != packet.seq.wrapping_add(1) && FOLLOW.remove(key).is_ok() {
                mark::end(settings, key, started_at.wrapping_add(settings.follow_ns), now());
            }
        }
        if settings.syns != 0 {
            handshake::opened(ctx, settings, scratch, key, packet);
        }
    } else {
        let pending = handshake::pending(key);
        if !pending && is_nothing(ctx, settings, key, packet) {
            return Look::Nothing;
        }
        // SAFETY: as above.
        unsafe { (*state).pending = pending as u32 };
    }
    let what = classify(ctx, settings, scratch, key, packet, counters);
    // SAFETY: as above.
    let (state, event) = unsafe {
        (*state).what = what;
        let scratch = black_box(scratch);
        (&mut (*scratch).state, &mut (*scratch).event)
    };
    if state.what == NOT_OURS {
        return Look::NotOurs;
    }
    if state.what == NOTHING && state.pending == 0 {
        return Look::Nothing;
    }
    if state.proof == PROOF_NONE as u32 {
        handshake::proof(ctx, settings, scratch, key, packet);
        // SAFETY: as above.
        unsafe { (*scratch).state.late = ((*scratch).state.proof != PROOF_NONE as u32) as u32 };
    }
    // SAFETY: as above.
    let state = unsafe { &mut (*black_box(scratch)).state };
    let proven = state.proof != PROOF_NONE as u32;
    if state.pending != 0 && proven {
        let _ = PENDING.remove(key);
    }
    let at = now();
    event.at = at;
    event.kind = EVENT_SEGMENT;
    event.copy = EVENT_PAYLOAD_MAX as u32;
    event.proof = state.proof as u8;
    event.handshake = 1;
    event.bare = 0;
    if state.what == FOLLOWED {
        // Proven only now, it is read from the other ring than the segments before it, and before them. With the SYN it
        // finds its place.
        event.handshake = state.late as u8;
        if proven && let Some(follow) = FOLLOW.get_ptr_mut(key) {
            // SAFETY: a value of a map, valid until the program ends.
            unsafe { (*follow).proof = state.proof };
        }
    } else if state.what == BEGINS {
        counters.add(Counter::HellosStarted);
        if !proven && (state.request != 0 || syn) {
            handshake::await_proof(key, at);
        }
        if !proven && syn {
            // SAFETY: as above.
            state.favoured = unsafe { (*scratch).opened.take(OPENINGS) } as u32;
        }
    } else {
        // The packet itself says nothing; it only proves something.
        if !proven {
            return Look::Nothing;
        }
        event.bare = 1;
    }
    Look::Submit
}

/// While a hello isn't whole, what follows on its connection is captured too.
#[inline(always)]
pub fn follow(settings: &Settings, scratch: *mut Scratch, key: &FlowKey, counters: Counters) {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let scratch = unsafe { &mut *black_box(scratch) };
    // What is dropped never was: its retransmission is read, and dropped, like it.
    if scratch.state.blocked != 0 {
        return;
    }
    if scratch.event.proof != PROOF_NONE {
        open::begins(key);
    }
    // One that began with too few bytes to say where it ends is known to have ended by its keys.
    let finished = scratch.state.unfinished == 0 || scratch.header.key != 0;
    let read = scratch.state.parse != PARSE_NOTHING;
    if scratch.state.waiting != 0 && (finished || read && scratch.follow.parsing != READING_GAPS) {
        let _ = WAITING.remove(key);
    }
    if scratch.state.what == BEGINS {
        if finished {
            return;
        }
        scratch.follow.started_at = scratch.event.at;
        scratch.follow.segments = 1;
        scratch.follow.proof = scratch.state.proof;
        let until = scratch.follow.started_at.wrapping_add(settings.follow_ns);
        if !mark::begin(settings, key, until) || FOLLOW.insert(key, &scratch.follow, 0).is_err() {
            counters.add(Counter::FollowsRefused);
        }
    } else if scratch.state.what == FOLLOWED {
        if finished {
            if FOLLOW.remove(key).is_ok() {
                let until = scratch.follow.started_at.wrapping_add(settings.follow_ns);
                mark::end(settings, key, until, scratch.event.at);
            }
        } else if let Some(follow) = FOLLOW.get_ptr_mut(key) {
            // SAFETY: a value of a map, valid until the program ends.
            unsafe {
                (*follow).next = scratch.follow.next;
                if read {
                    (*follow).parsing = scratch.follow.parsing;
                }
                if scratch.state.parse == PARSE_ON {
                    (*follow).parser = scratch.follow.parser;
                }
            }
        }
    }
}

/// Counts a hello that came in IP fragments: only its first fragment is here, and none is put together.
#[inline(always)]
pub fn fragment(ctx: &XdpContext, packet: &Packet, counters: Counters) {
    let len = packet.len();
    if let Some(head) = head::<HEAD>(ctx, packet, len)
        && begins_hello(&head, len)
    {
        counters.add(Counter::FragmentedHellos);
    }
}
