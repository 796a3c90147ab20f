//! The verdict on a packet, before anything else is done with it. A host without verdicts pays three comparisons.
//!
//! A verdict only applies to frames for an address this host protects, after the allow list had its say: its trie is
//! consulted here only, so ordinary packets never pay for it.

use aya_ebpf::programs::XdpContext;
use aya_ebpf::{
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    maps::lpm_trie::Key,
};
use aya_log_ebpf::debug;
use detector_common::{
    counter::Counter,
    flow::FlowKey,
    settings::Settings,
    verdict::{Action, ORIGIN_RULE, Verdict},
};

use crate::{
    count::Counters,
    maps::{ADDRESSES, ALLOW, CONNECTIONS, FINGERPRINTS, PREFIXES},
    parse::{ACK, Packet, RST, SYN, TCP},
};

/// All bits of an address.
const WHOLE: u32 = 128;

/// What to do with the frame.
pub enum Decision {
    /// Count it by this [`Counter`], and go on.
    Pass(u32),
    /// Count it so, and drop it.
    Drop(Counter),
}

/// Every verdict in force has a TTL or is forever; the coarse clock (4 ms at 250 Hz) is exact enough and costs a
/// seventh of the fine one.
#[inline(always)]
fn live(verdict: *mut Verdict) -> bool {
    // SAFETY: a value of a map, valid until the program ends.
    unsafe { bpf_ktime_get_coarse_ns() < (*verdict).expires_at }
}

/// `lock add`: entries are shared between CPUs, and core has no atomics for this target.
#[inline(always)]
fn hit(verdict: *mut Verdict) {
    // SAFETY: a value of a map, eight-byte aligned by its type.
    unsafe {
        let hits = &raw mut (*verdict).hits;
        #[cfg(target_arch = "bpf")]
        core::arch::asm!("lock *(u64 *)({hits} + 0) += {one}", hits = in(reg) hits, one = in(reg) 1u64);
        #[cfg(not(target_arch = "bpf"))]
        hits.write(hits.read() + 1);
    }
}

#[inline(always)]
fn matching(settings: &Settings, key: &FlowKey, packet: &Packet) -> Option<(*mut Verdict, Counter)> {
    if settings.addresses != 0
        && let Some(verdict) = ADDRESSES.get_ptr_mut(&key.source)
        && live(verdict)
    {
        return Some((verdict, Counter::DropAddress));
    }
    if settings.prefixes != 0
        && let Some(verdict) = PREFIXES.get(Key::new(WHOLE, key.source))
    {
        let verdict = core::ptr::from_ref(verdict).cast_mut();
        if live(verdict) {
            return Some((verdict, Counter::DropPrefix));
        }
    }
    if settings.connections != 0
        && packet.protocol == TCP
        && let Some(entry) = CONNECTIONS.get_ptr_mut(key)
    {
        // SAFETY: a value of a map, valid until the program ends.
        let (verdict, initial_seq) = unsafe { (&raw mut (*entry).verdict, (*entry).initial_seq) };
        if packet.flags & (SYN | ACK) == SYN && packet.seq != initial_seq {
            // Perhaps of the next connection: see `reopened`.
            return None;
        }
        // A reset passes: it frees the server's socket, which is all this verdict wants.
        if packet.flags & RST == 0 && live(verdict) {
            return Some((verdict, Counter::DropConnection));
        }
    }
    None
}

/// A SYN on a 4-tuple on which the host has no connection. With another initial sequence number than that of a condemned
/// connection it begins the next one there, perhaps of another client behind the same NAT: the verdict ends.
#[inline(always)]
pub fn reopened(ctx: &XdpContext, settings: &Settings, key: &FlowKey, packet: &Packet, counters: Counters) {
    if settings.connections != 0
        && let Some(entry) = CONNECTIONS.get_ptr(key)
    {
        // SAFETY: a value of a map, valid until the program ends.
        if packet.seq != unsafe { (*entry).initial_seq } {
            let _ = CONNECTIONS.remove(key);
            counters.add(Counter::ConnectionsReplaced);
            debug!(ctx, "verdict on a connection from port {} ended by a new SYN", key.source_port);
        }
    }
}

/// Whether an allow entry overrules.
#[inline(always)]
fn allowed(key: &FlowKey) -> bool {
    match ALLOW.get(Key::new(WHOLE, key.source)) {
        Some(verdict) => {
            let verdict = core::ptr::from_ref(verdict).cast_mut();
            if live(verdict) {
                hit(verdict);
                return true;
            }
            false
        }
        None => false,
    }
}

/// The decision on a packet to a protected port.
#[inline(always)]
pub fn decide(settings: &Settings, key: &FlowKey, packet: &Packet) -> Decision {
    let Some((verdict, drop)) = matching(settings, key, packet) else {
        return Decision::Pass(Counter::PassProtected as u32);
    };
    if !crate::protects(settings, &key.destination) {
        return Decision::Pass(Counter::PassOtherAddress as u32);
    }
    apply(settings, key, verdict, drop)
}

/// What a verdict that matches does to the packet.
#[inline(always)]
fn apply(settings: &Settings, key: &FlowKey, verdict: *mut Verdict, drop: Counter) -> Decision {
    if allowed(key) {
        return Decision::Pass(Counter::PassAllowed as u32);
    }
    hit(verdict);
    // SAFETY: a value of a map, valid until the program ends.
    let (action, origin) = unsafe { ((*verdict).action, (*verdict).origin) };
    if action != Action::Block as u8 || (origin == ORIGIN_RULE && settings.enforce == 0) {
        return Decision::Pass(Counter::PassObserved as u32);
    }
    Decision::Drop(drop)
}

/// The decision on the packet in which the hello with `fingerprint` ends; `reason` if nothing is against it.
#[inline(always)]
pub fn fingerprint(settings: &Settings, key: &FlowKey, fingerprint: u64, reason: u32) -> Decision {
    if settings.fingerprints != 0
        && let Some(verdict) = FINGERPRINTS.get_ptr_mut(&fingerprint)
        && live(verdict)
    {
        return apply(settings, key, verdict, Counter::DropFingerprint);
    }
    Decision::Pass(reason)
}

/// CLOCK_MONOTONIC, for what is written into events.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
