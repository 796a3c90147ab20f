//! detector's programs. `detector`, at XDP: captures ClientHellos to the protected ports and applies verdicts;
//! everything else passes untouched. `detector_egress`, at tcx: sees what servers answer. `detector_steer`, at the look-up
//! of a listening socket: sends new connections to a challenge listener. Any failure here passes the frame too.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))] // for one instruction, in enforce::hit
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value, keys and entries are copied to the stack byte by byte"
)]

mod capture;
mod count;
mod datagram;
mod egress;
mod enforce;
mod frame;
mod handshake;
mod key;
mod maps;
mod mark;
mod open;
mod parse;
mod reset;
mod search;
mod steer;
mod waiting;

use aya_ebpf::{
    bindings::{sk_action, xdp_action},
    macros::{classifier, sk_lookup, xdp},
    programs::{SkLookupContext, TcContext, XdpContext},
};
use core::hint::black_box;

use detector_common::{
    counter::Counter,
    event::PROOF_NONE,
    flow::{Address, FlowKey},
    settings::Settings,
};

use crate::{
    capture::Look,
    count::Counters,
    enforce::Decision,
    maps::{LOCAL_ADDRESSES, PORTS, SCRATCH, SETTINGS, Scratch},
    parse::Packet,
};

/// `frags`: super-frames and jumbo frames come in several buffers, and a driver with an MTU above a page attaches no
/// other kind of program.
#[xdp(frags)]
#[inline(always)] // Into the entry that the macro makes: on many processors a return costs what ten instructions do.
pub fn detector(ctx: XdpContext) -> u32 {
    let Some(counters) = Counters::here() else { return xdp_action::XDP_PASS };
    counters.add(Counter::Packets);
    match frame(&ctx, counters) {
        Decision::Pass(reason) => {
            counters.add_at(reason);
            xdp_action::XDP_PASS
        }
        Decision::Drop(reason) => {
            counters.add_at(reason);
            xdp_action::XDP_DROP
        }
        Decision::Reset(reason) => {
            counters.add_at(reason);
            if reset::rewrite(&ctx, counters) { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
        }
    }
}

#[inline(always)]
fn frame(ctx: &XdpContext, counters: Counters) -> Decision {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return Decision::Pass(Counter::PassMalformed as u32) };
    let (key, packet) = match parse::packet(ctx, scratch) {
        Ok(found) => found,
        Err(reason) => return Decision::Pass(reason as u32),
    };
    if !protected_port(key.destination_port) {
        return Decision::Pass(Counter::PassOtherPort as u32);
    }
    let Some(settings) = SETTINGS.get(0) else { return Decision::Pass(Counter::PassProtected as u32) };
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    unsafe {
        let state = &mut (*scratch).state;
        (state.blocked, state.judged, state.favoured) = (0, 0, 0);
    }
    let reason = match enforce::decide(ctx, settings, scratch, key, packet) {
        Decision::Pass(reason) => reason,
        // What floods are made of costs no look at the maps of resets.
        Decision::Drop(reason) if !reset::wanted(settings, packet) => return Decision::Drop(reason),
        Decision::Drop(reason) | Decision::Reset(reason) => return Decision::Reset(reason),
    };
    // SAFETY: as above. In memory, the ways through the tables of verdicts are one to the verifier.
    let reason = unsafe {
        (*scratch).reason = reason;
        (*black_box(scratch)).reason
    };
    // A verdict that passed keeps its own reason.
    let plain = reason == Counter::PassProtected as u32;
    if packet.fragment != 0 {
        capture::fragment(ctx, packet, counters);
        return Decision::Pass(if plain { Counter::PassFragment as u32 } else { reason });
    }
    let look = if packet.protocol == parse::TCP {
        capture::segment(ctx, settings, scratch, key, packet, counters)
    } else {
        datagram::request(ctx, settings, scratch, key, packet, counters)
    };
    if look == Look::Submit {
        capture::assemble(ctx, scratch);
        if packet.protocol == parse::TCP {
            key::read(ctx, settings, scratch, key, counters);
            judge(ctx, settings, scratch, key, packet);
            capture::follow(settings, scratch, key, counters);
        }
        // SAFETY: as above.
        let confirmed = unsafe {
            let scratch = &*black_box(scratch);
            scratch.event.proof != PROOF_NONE || scratch.state.favoured != 0
        };
        capture::send(scratch, confirmed, counters);
    }
    // SAFETY: as above.
    let (blocked, reason) = unsafe {
        let scratch = &*black_box(scratch);
        (look == Look::Submit && scratch.state.blocked != 0, scratch.reason)
    };
    if blocked {
        return Decision::Reset(reason);
    }
    Decision::Pass(if plain && look == Look::NotOurs { Counter::PassOtherAddress as u32 } else { reason })
}

/// What the hello that ends in the packet at hand, if one does, has to expect: in `scratch`.
#[inline(always)]
fn judge(ctx: &XdpContext, settings: &Settings, scratch: *mut Scratch, key: &FlowKey, packet: &Packet) {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    if unsafe { (*black_box(scratch)).header.key } == 0 {
        return;
    }
    // SAFETY: as above.
    unsafe { (*scratch).state.judged = 1 };
    let decision = enforce::fingerprint(ctx, settings, scratch, key, packet);
    // SAFETY: as above.
    let scratch = unsafe { &mut *black_box(scratch) };
    match decision {
        Decision::Pass(reason) => scratch.reason = reason,
        Decision::Drop(reason) | Decision::Reset(reason) => {
            scratch.reason = reason;
            scratch.state.blocked = 1;
            // For the reset: what comes before is no news to the server.
            scratch.packet.seq = scratch.packet.seq.wrapping_add(scratch.state.skip);
        }
    }
}

/// Lets every frame go on to whoever is next.
const TCX_NEXT: i32 = -1;

/// Sees what goes out of an interface; never changes it.
#[classifier]
#[inline(always)]
pub fn detector_egress(ctx: TcContext) -> i32 {
    if let Some(counters) = Counters::here() {
        counters.add(Counter::EgressPackets);
        egress::frame(&ctx, counters);
    }
    TCX_NEXT
}

/// Chooses the socket of a new connection, or leaves that to the kernel; refuses none.
#[sk_lookup]
pub fn detector_steer(ctx: SkLookupContext) -> u32 {
    steer::choose(&ctx);
    sk_action::SK_PASS
}

#[inline(always)]
fn protected_port(port: u16) -> bool {
    PORTS.get(port as u32 >> 6).is_some_and(|word| word >> (port & 63) & 1 == 1)
}

/// Whether this host protects the address. Asked only before something is captured or dropped.
#[inline(always)]
fn protects(settings: &Settings, address: &Address) -> bool {
    settings.local_only == 0 || LOCAL_ADDRESSES.get_ptr(address).is_some()
}

/// For the host this crate is only checked and linted; features unify over the workspace, and std comes along.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel knows this string for GPL-compatible, and no other spelling of it (threats.md M8).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
