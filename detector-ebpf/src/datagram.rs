//! UDP to and from protected ports: QUIC's long headers (RFC 9000 section 17.2) and DTLS handshakes (RFC 9147). Nothing
//! is decrypted here; which datagrams belong together is for userspace to find out.

use aya_ebpf::programs::XdpContext;
use detector_common::{
    counter::Counter,
    event::{EVENT_ANSWER_DATAGRAM, EVENT_DATAGRAM, EVENT_PAYLOAD_MAX, PROOF_NONE},
    flow::FlowKey,
    settings::Settings,
};

use crate::{
    capture::{Event, Look, head},
    count::Counters,
    enforce::now,
    frame::Frame,
    maps::Scratch,
    parse::Packet,
};

/// Enough for a DTLS record header and a handshake type, and for QUIC's version.
const HEAD: usize = 14;
/// Of a datagram that is looked at for its connection IDs only: the two of a long header, 20 bytes each at most, and a
/// DTLS cookie of 255 bytes do not both fit a smaller number.
const HEADERS: usize = 320;

const QUIC_V1: u32 = 0x0000_0001;
const QUIC_V2: u32 = 0x6b33_43cf;
const QUIC_DRAFT_29: u32 = 0xff00_001d;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const HELLO_VERIFY_REQUEST: u8 = 3;

enum Kind {
    Initial,
    Long,
    Dtls(u8),
    Other,
}

#[inline(always)]
fn kind(head: &[u8; HEAD], len: usize) -> Kind {
    if head[0] & 0x80 != 0 && len > 6 {
        let version = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let packet = head[0] >> 4 & 3;
        return match version {
            QUIC_V1 | QUIC_DRAFT_29 if packet == 0 => Kind::Initial,
            // RFC 9369 section 3.2 permutes the types.
            QUIC_V2 if packet == 1 => Kind::Initial,
            QUIC_V1 | QUIC_V2 | QUIC_DRAFT_29 => Kind::Long,
            _ => Kind::Other,
        };
    }
    // A handshake record of epoch 0: not encrypted.
    if head[0] == HANDSHAKE && head[1] == 0xfe && head[3] == 0 && head[4] == 0 && len >= HEAD {
        return Kind::Dtls(head[13]);
    }
    Kind::Other
}

/// Whether a datagram begins a QUIC connection.
#[inline(always)]
pub fn opens(ctx: &XdpContext, packet: &Packet) -> bool {
    let len = packet.len();
    match head::<HEAD>(ctx, packet, len) {
        Some(head) => matches!(kind(&head, len), Kind::Initial),
        None => false,
    }
}

/// Looks at a datagram to a protected port that passes.
#[inline(always)]
pub fn request(
    ctx: &XdpContext,
    settings: &Settings,
    scratch: *mut Scratch,
    key: &FlowKey,
    packet: &Packet,
    counters: Counters,
) -> Look {
    if settings.udp == 0 {
        return Look::Nothing;
    }
    let len = packet.len();
    let Some(head) = head::<HEAD>(ctx, packet, len) else { return Look::Nothing };
    let whole = match kind(&head, len) {
        Kind::Initial | Kind::Dtls(CLIENT_HELLO) => true,
        Kind::Long => false,
        Kind::Dtls(_) | Kind::Other => return Look::Nothing,
    };
    if !crate::protects(settings, &key.destination) {
        return Look::NotOurs;
    }
    if whole {
        counters.add(Counter::HellosStarted);
    }
    describe(scratch, EVENT_DATAGRAM, if whole { EVENT_PAYLOAD_MAX } else { HEADERS });
    Look::Submit
}

#[inline(always)]
fn describe(scratch: *mut Scratch, kind: u8, copy: usize) {
    let event = Event { at: now(), copy: copy as u32, kind, proof: PROOF_NONE, handshake: 0, bare: 0 };
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    unsafe { (*scratch).event = event };
}

/// Looks at a datagram that goes out of a protected port. Whether to submit it.
#[inline(always)]
pub fn answer(frame: &impl Frame, scratch: *mut Scratch, packet: &Packet) -> bool {
    let len = packet.len();
    let Some(head) = head::<HEAD>(frame, packet, len) else { return false };
    match kind(&head, len) {
        Kind::Initial | Kind::Long | Kind::Dtls(SERVER_HELLO | HELLO_VERIFY_REQUEST) => {}
        Kind::Dtls(_) | Kind::Other => return false,
    }
    describe(scratch, EVENT_ANSWER_DATAGRAM, HEADERS);
    true
}
