//! detector's XDP program: captures ClientHellos to the protected ports and applies verdicts. Everything else passes
//! untouched. Any failure here passes the frame too.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))] // for one instruction, in enforce::hit

mod capture;
mod count;
mod enforce;
mod maps;
mod parse;

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use detector_common::{counter::Counter, flow::FlowKey, settings::Settings};

use crate::{
    count::Counters,
    enforce::Decision,
    maps::{LOCAL_ADDRESSES, PORTS, SETTINGS},
};

/// `frags`: super-frames and jumbo frames come in several buffers, and a driver with an MTU above a page attaches no
/// other kind of program.
#[xdp(frags)]
pub fn detector(ctx: XdpContext) -> u32 {
    let Some(counters) = Counters::here() else { return xdp_action::XDP_PASS };
    counters.add(Counter::Packets);
    match frame(&ctx, counters) {
        Decision::Pass(reason) => {
            counters.add(reason);
            xdp_action::XDP_PASS
        }
        Decision::Drop(reason) => {
            counters.add(reason);
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn frame(ctx: &XdpContext, counters: Counters) -> Decision {
    let mut key = MaybeUninit::<FlowKey>::uninit();
    let segment = match parse::segment(ctx, &mut key) {
        Ok(segment) => segment,
        Err(reason) => return Decision::Pass(reason),
    };
    // SAFETY: `segment` wrote all of it.
    let key = unsafe { key.assume_init_ref() };
    if !protected_port(key.destination_port) {
        return Decision::Pass(Counter::PassOtherPort);
    }
    let Some(settings) = SETTINGS.get(0) else { return Decision::Pass(Counter::PassProtected) };
    let decision = enforce::decide(ctx, settings, key, &segment, counters);
    match decision {
        Decision::Pass(reason) if !capture::look(ctx, settings, key, &segment, counters) => {
            // A verdict that passed keeps its own reason.
            Decision::Pass(if matches!(reason, Counter::PassProtected) { Counter::PassOtherAddress } else { reason })
        }
        decision => decision,
    }
}

#[inline(always)]
fn protected_port(port: u16) -> bool {
    PORTS.get(port as u32 >> 6).is_some_and(|word| word >> (port & 63) & 1 == 1)
}

/// Whether the frame is for an address this host protects. Asked only before a hello is captured or a frame dropped.
#[inline(always)]
fn protects(settings: &Settings, key: &FlowKey) -> bool {
    settings.local_only == 0 || LOCAL_ADDRESSES.get_ptr(key.destination).is_some()
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
