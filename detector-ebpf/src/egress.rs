//! What servers answer: their SYN-ACKs, which prove a client's address when it acknowledges them, and the beginnings of
//! their answers to a hello; and the ends of their connections. Nothing is ever dropped or changed on its way out.

use aya_ebpf::programs::TcContext;
use detector_common::{
    counter::Counter,
    event::{EVENT_ANSWER_SEGMENT, PROOF_NONE},
    flow::{FLOW_TCP, FlowKey},
};

use crate::{
    capture::{Event, head, submit},
    count::Counters,
    datagram,
    enforce::now,
    handshake,
    maps::{SCRATCH, SETTINGS},
    open,
    parse::{self, ACK, RST, SYN, TCP},
};

const FIN: u8 = 0x01;

/// Record header and handshake type.
const HEAD: usize = 6;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
/// A ServerHello with a post-quantum key share takes some 1,200 bytes.
const ANSWER: u32 = 2048;

/// Looks at a frame that goes out.
#[inline(always)]
pub fn frame(ctx: &TcContext, counters: Counters) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    let Ok((key, packet)) = parse::packet(ctx, scratch) else { return };
    if packet.fragment != 0 || !crate::protected_port(key.source_port) {
        return;
    }
    let Some(settings) = SETTINGS.get(0) else { return };
    if packet.protocol != TCP {
        if settings.udp != 0 && crate::protects(settings, &key.source) && datagram::answer(ctx, scratch, packet) {
            submit(ctx, scratch, false, counters);
        }
        return;
    }
    if packet.flags & (SYN | ACK) == SYN | ACK || packet.flags & (FIN | RST) != 0 {
        if !crate::protects(settings, &key.source) {
            return;
        }
        let client = FlowKey {
            source: key.destination,
            destination: key.source,
            source_port: key.destination_port,
            destination_port: key.source_port,
            protocol: FLOW_TCP,
        };
        if packet.flags & (FIN | RST) != 0 {
            open::ends(ctx, scratch, &client, counters);
        } else {
            counters.add(Counter::SynAcks);
            handshake::accepted(ctx, scratch, &client, packet);
        }
        return;
    }
    if settings.answers == 0 {
        return;
    }
    let len = packet.len();
    let Some(head) = head::<HEAD>(ctx, packet, len) else { return };
    if len < HEAD || head[0] != HANDSHAKE || head[1] != 3 || head[5] != SERVER_HELLO {
        return;
    }
    if !crate::protects(settings, &key.source) {
        return;
    }
    let event = Event { at: now(), copy: ANSWER, kind: EVENT_ANSWER_SEGMENT, proof: PROOF_NONE, handshake: 0, bare: 0 };
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    unsafe { (*scratch).event = event };
    submit(ctx, scratch, true, counters);
}
