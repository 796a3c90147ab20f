//! What is known of a connection before its hello: the SYN, the SYN-ACK, and whether the client has the address it
//! sends from (threats.md T1, T2). Every table here is an LRU of its own, so that a flood of SYNs costs nothing but
//! what SYNs told (T9).

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::{bpf_ktime_get_coarse_ns, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie},
    programs::XdpContext,
};
use detector_common::{
    event::{PROOF_ACKNOWLEDGED, PROOF_ESTABLISHED, PROOF_SYN_COOKIE},
    flow::FlowKey,
    settings::Settings,
};

use crate::{
    capture::{self, WINDOW},
    enforce::now,
    frame::{Frame, at},
    maps::{ASKING, PENDING, PENDING_UNTIL, SYN_ACKS, SYNS, Scratch},
    mark::{self, Mark},
    parse::{ACK, Packet, SYN},
};

/// States of include/net/tcp_states.h.
const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_RECV: u32 = 3;
const TCP_FIN_WAIT1: u32 = 4;
const TCP_FIN_WAIT2: u32 = 5;
const TCP_CLOSE_WAIT: u32 = 8;
const TCP_LAST_ACK: u32 = 9;
const TCP_LISTEN: u32 = 10;
const TCP_CLOSING: u32 = 11;
const TCP_NEW_SYN_RECV: u32 = 12;

/// The network namespace of the interface.
const CURRENT_NETNS: u64 = u64::MAX;

/// How long a hello's proof is looked for in the packets that follow it (threats.md T2).
const PROOF_WITHIN: u64 = 1_000_000_000;

/// Whether a segment is the first data of its connection; no `Option`, of which LLVM copies the part that isn't there.
pub struct First {
    pub is: bool,
    /// Sequence number of the connection's first byte; 0 if it isn't known.
    pub base: u32,
}

#[inline(always)]
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A SYN: kept until the hello.
#[inline(always)]
pub fn opened(ctx: &XdpContext, settings: &Settings, scratch: *mut Scratch, key: &FlowKey, packet: &Packet) {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    unsafe {
        let handshake = &raw mut (*scratch).handshake;
        (*handshake).at = now();
        if capture::image(ctx, packet, &raw mut (*handshake).image).is_none() {
            return;
        }
        if SYNS.insert(key, &*handshake, 0).is_err() {
            return;
        }
    }
    if let Some(mark) = mark::of(settings, key) {
        // SAFETY: a value of a map; one word is written whole.
        unsafe { (*mark).recent = 1 };
    }
}

/// A SYN-ACK that goes out on the connection `key`, which is client first.
#[inline(always)]
pub fn accepted(frame: &impl Frame, scratch: *mut Scratch, key: &FlowKey, packet: &Packet) {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    unsafe {
        let handshake = &raw mut (*scratch).handshake;
        (*handshake).at = now();
        if capture::image(frame, packet, &raw mut (*handshake).image).is_some() {
            // A full table takes the place of its oldest; a failure costs this proof only.
            let _ = SYN_ACKS.insert(key, &*handshake, 0);
        }
    }
}

/// Whether this is the first data segment of a connection whose SYN was seen. Told once. Its mark says whether it is worth
/// a look into the table of SYNs, for most packets are no first ones.
#[inline(always)]
pub fn first_data(key: &FlowKey, mark: *mut Mark, seq: u32) -> First {
    const NOT: First = First { is: false, base: 0 };
    // SAFETY: values of maps, valid until the program ends.
    unsafe {
        if (*mark).recent == 0 {
            return NOT;
        }
        let Some(syn) = SYNS.get_ptr(key) else { return NOT };
        let base = number(&(*syn).image.tcp, 4).wrapping_add(1);
        if seq.wrapping_sub(base) >= WINDOW {
            return NOT;
        }
        (*mark).recent = 0;
        First { is: true, base }
    }
}

/// Whether the segment may be of the connection whose SYN was seen. Without a look at SYNs every one may be.
#[inline(always)]
fn follows_syn(settings: &Settings, key: &FlowKey, packet: &Packet) -> bool {
    if settings.syns == 0 {
        return true;
    }
    let Some(syn) = SYNS.get_ptr(key) else { return false };
    // SAFETY: a value of a map, valid until the program ends.
    let base = unsafe { number(&(*syn).image.tcp, 4) }.wrapping_add(1);
    packet.seq.wrapping_sub(base) < WINDOW
}

/// Looks for the proof that the sender of a segment has its address, and says so in `scratch.state`.
#[inline(always)]
pub fn proof(ctx: &XdpContext, settings: &Settings, scratch: *mut Scratch, key: &FlowKey, packet: &Packet) {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let state = unsafe { &mut (*scratch).state };
    if packet.flags & ACK != 0
        && let Some(syn_ack) = SYN_ACKS.get_ptr(key)
    {
        // SAFETY: a value of a map, valid until the program ends.
        let (seq, ack) = unsafe { (number(&(*syn_ack).image.tcp, 4), number(&(*syn_ack).image.tcp, 8)) };
        if packet.ack == seq.wrapping_add(1) && packet.seq.wrapping_sub(ack) < WINDOW {
            state.proof = PROOF_ACKNOWLEDGED as u32;
            return;
        }
    }
    // An established socket says nothing about a hello that isn't near the beginning of its connection: to somebody
    // who forged it, any 4-tuple in use will do.
    let near = follows_syn(settings, key, packet);
    match socket(ctx, key, packet) {
        ESTABLISHED if near => state.proof = PROOF_ESTABLISHED as u32,
        SYN_RECEIVED => state.request = 1,
        COOKIE => state.proof = PROOF_SYN_COOKIE as u32,
        _ => {}
    }
}

/// Whether the host has a connection on the 4-tuple of a SYN already, which that SYN can't end: Linux answers it with a
/// challenge ACK (RFC 5961 section 4). It is forged, or its client has forgotten the connection and will reset it.
#[inline(always)]
pub fn is_taken(ctx: &XdpContext, key: &FlowKey, packet: &Packet) -> bool {
    socket(ctx, key, packet) == ESTABLISHED
}

#[inline(always)]
fn tuple(key: &FlowKey, version: u8) -> (bpf_sock_tuple, u32) {
    let source: [u32; 4] = zerocopy::transmute!(key.source);
    let destination: [u32; 4] = zerocopy::transmute!(key.destination);
    let (sport, dport) = (key.source_port.to_be(), key.destination_port.to_be());
    if version == 4 {
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr: source[3], daddr: destination[3], sport, dport };
        let size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
        (bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv4 } }, size)
    } else {
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr: source, daddr: destination, sport, dport };
        let size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32;
        (bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } }, size)
    }
}

/// What the host has for a segment: none of the following.
const OTHER: u32 = 0;
/// A connection that is established, or was.
const ESTABLISHED: u32 = 1;
/// A connection whose SYN-ACK isn't acknowledged yet.
const SYN_RECEIVED: u32 = 2;
/// A listening socket whose SYN cookie the segment acknowledges.
const COOKIE: u32 = 3;

/// Asks the host's own sockets.
#[inline(always)]
fn socket(ctx: &XdpContext, key: &FlowKey, packet: &Packet) -> u32 {
    let (mut tuple, size) = tuple(key, packet.network.version);
    // SAFETY: the tuple is whole for its size; the socket is released below, on every path.
    unsafe {
        // The kernel may run the steering program for the answer, which is no connection to count.
        let asking = ASKING.get_ptr_mut(0);
        if let Some(asking) = asking {
            asking.write_volatile(1);
        }
        let socket = bpf_skc_lookup_tcp(ctx.as_ptr(), &raw mut tuple, size, CURRENT_NETNS, 0);
        if let Some(asking) = asking {
            asking.write_volatile(0);
        }
        if socket.is_null() {
            return OTHER;
        }
        let found = match (*socket).state {
            TCP_ESTABLISHED | TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING => {
                ESTABLISHED
            }
            TCP_SYN_RECV | TCP_NEW_SYN_RECV => SYN_RECEIVED,
            TCP_LISTEN if packet.flags & SYN == 0 && cookie(ctx, socket.cast(), packet) => COOKIE,
            _ => OTHER,
        };
        bpf_sk_release(socket.cast());
        found
    }
}

/// Whether the segment acknowledges a SYN cookie of this host.
///
/// # Safety
/// `socket` is held.
#[inline(always)]
unsafe fn cookie(ctx: &XdpContext, socket: *mut core::ffi::c_void, packet: &Packet) -> bool {
    const TCP: usize = 20;
    let Some(tcp) = at::<[u8; TCP]>(ctx, packet.transport()) else { return false };
    // SAFETY: `at` checked the bytes of both headers.
    unsafe {
        if packet.network.version == 4 {
            let Some(ip) = at::<[u8; 20]>(ctx, packet.ip()) else { return false };
            bpf_tcp_check_syncookie(socket, ip.cast_mut().cast(), 20, tcp.cast_mut().cast(), TCP as u32) == 0
        } else {
            let Some(ip) = at::<[u8; 40]>(ctx, packet.ip()) else { return false };
            bpf_tcp_check_syncookie(socket, ip.cast_mut().cast(), 40, tcp.cast_mut().cast(), TCP as u32) == 0
        }
    }
}

/// The hello of this connection came before the proof: its next packets are asked for it.
#[inline(always)]
pub fn await_proof(key: &FlowKey, at: u64) {
    let until = at + PROOF_WITHIN;
    if PENDING.insert(key, &until, 0).is_ok()
        && let Some(latest) = PENDING_UNTIL.get_ptr_mut(0)
    {
        // SAFETY: a value of a map; CPUs that race here write nearly the same.
        unsafe { *latest = until };
    }
}

/// Whether an earlier hello of this connection awaits its proof. Costs one load while no hello does.
#[inline(always)]
pub fn pending(key: &FlowKey) -> bool {
    let Some(latest) = PENDING_UNTIL.get_ptr_mut(0) else { return false };
    // SAFETY: values of maps, valid until the program ends; the helper has no preconditions.
    unsafe {
        if *latest == 0 {
            return false;
        }
        let now = bpf_ktime_get_coarse_ns();
        if now > *latest {
            *latest = 0;
            return false;
        }
        let Some(until) = PENDING.get_ptr(key) else { return false };
        if now <= *until {
            return true;
        }
    }
    let _ = PENDING.remove(key);
    false
}
