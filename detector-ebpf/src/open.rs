//! Connections that gave a hello, until their server ends them: userspace remembers the hello for so long. Only the server's
//! own FIN or RST counts. Anybody can send the client's, with a number that the server ignores: a client that did so
//! would be rid of its fingerprint and keep its connection.

use aya_ebpf::programs::TcContext;
use detector_common::{
    event::{EVENT_END, PROOF_NONE},
    flow::FlowKey,
};

use crate::{
    capture::{Event, submit},
    count::Counters,
    enforce::now,
    maps::{OPEN, Scratch},
};

/// The client has its address, and gave a hello.
#[inline(always)]
pub fn begins(key: &FlowKey) {
    if OPEN.get_ptr(key).is_none() {
        let _ = OPEN.insert(key, &1, 0);
    }
}

/// The server ends a connection, of which `client` is the client's 4-tuple: told once.
#[inline(always)]
pub fn ends(ctx: &TcContext, scratch: *mut Scratch, client: &FlowKey, counters: Counters) {
    if OPEN.remove(client).is_err() {
        return;
    }
    let event = Event { at: now(), copy: 0, kind: EVENT_END, proof: PROOF_NONE, handshake: 0, bare: 1 };
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    unsafe { (*scratch).event = event };
    submit(ctx, scratch, true, counters);
}
