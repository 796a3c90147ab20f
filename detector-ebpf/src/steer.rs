//! Which socket takes a new connection: the challenge listener's, where a verdict in force says so. The kernel asks at the
//! SYN, before there is a hello, so only verdicts on addresses and prefixes steer; connections that stand are never asked
//! for. Whatever is missing or fails, no socket is chosen here, and the kernel finds the site's own.
//!
//! May run in the middle of the XDP program, when that asks for a socket, and of itself, when a packet comes amid another
//! look-up: so nothing here uses the CPU's scratch memory.

use aya_ebpf::{EbpfContext as _, maps::lpm_trie::Key, programs::SkLookupContext};
use detector_common::{
    counter::Counter,
    flow::Address,
    settings::{
        IN_USE_IPV4, IN_USE_IPV6, IN_USE_PREFIXES_IPV4, IN_USE_PREFIXES_IPV6, IN_USE_PREFIXES_SHORT, IN_USE_SUBNETS,
        Settings,
    },
    steer::challenger,
    table::{self, Word, is_ipv4, neighbour},
    verdict::Action,
};

use crate::{
    count::Counters,
    enforce::{WHOLE, coarse, effect, is_live},
    maps::{ALLOW, ASKING, CHALLENGERS, HEALTHY_UNTIL, NEVER_BLOCK, PREFIXES, SETTINGS, STASH, VERDICTS},
    parse::TCP,
    search,
};

/// `AF_INET6`.
const IPV6: u32 = 10;

/// The word between the zeros and an IPv4 address in its mapped form.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// Chooses the challenge listener's socket, or none.
#[inline(always)]
pub fn choose(ctx: &SkLookupContext) {
    let lookup = ctx.lookup;
    // SAFETY: the kernel's own, valid while the program runs. Volatile: the kernel allows no wider loads than these.
    let (family, protocol, port, arrived_at) = unsafe {
        (
            (&raw const (*lookup).family).read_volatile(),
            (&raw const (*lookup).protocol).read_volatile(),
            (&raw const (*lookup).local_port).read_volatile() as u16,
            (&raw const (*lookup).ingress_ifindex).read_volatile(),
        )
    };
    if protocol != TCP as u32 || !crate::protected_port(port) {
        return;
    }
    let Some(settings) = SETTINGS.get(0) else { return };
    if settings.in_use == 0 {
        return;
    }
    let (source, destination) = addresses(ctx, family);
    if hardest(settings, &source) != Action::Challenge as u32 || !crate::protects(settings, &destination) {
        return;
    }
    let outcome = outcome(ctx, challenger(port, family == IPV6), &source);
    // A look-up for another program, or for somebody who asks what sockets there are, is no connection.
    let asked = arrived_at == 0 || ASKING.get(0).is_some_and(|asking| *asking != 0);
    if !asked && let Some(counters) = Counters::here() {
        counters.add_at(outcome);
    }
}

/// The client's address and the server's.
#[inline(always)]
fn addresses(ctx: &SkLookupContext, family: u32) -> (Address, Address) {
    let lookup = ctx.lookup;
    let (mut source, mut destination) = ([0; 4], [0; 4]);
    // All of both families, of which the absent one reads as zeros: where only one is read, LLVM computes which, and the
    // verifier wants fixed places.
    // SAFETY: as in `choose`.
    let (ipv4_source, ipv4_destination) = unsafe {
        for word in 0..4 {
            source[word] = (&raw const (*lookup).remote_ip6[word]).read_volatile();
            destination[word] = (&raw const (*lookup).local_ip6[word]).read_volatile();
        }
        ((&raw const (*lookup).remote_ip4).read_volatile(), (&raw const (*lookup).local_ip4).read_volatile())
    };
    if family != IPV6 {
        source = [0, 0, MAPPED, ipv4_source];
        destination = [0, 0, MAPPED, ipv4_destination];
    }
    (zerocopy::transmute!(source), zerocopy::transmute!(destination))
}

/// The hardest [`Action`] that is in force against an address: what the XDP program finds for its packets.
#[inline(always)]
fn hardest(settings: &Settings, source: &Address) -> u32 {
    let seeds = &settings.table_seeds;
    let (in_use, unit) = (settings.in_use, seeds.unit(source));
    let mut hardest = 0;
    let prefixes = if is_ipv4(source) {
        if in_use & IN_USE_IPV4 != 0 {
            hardest = in_table(settings, unit, unit);
        }
        IN_USE_PREFIXES_IPV4
    } else {
        if in_use & IN_USE_SUBNETS != 0 {
            hardest = in_table(settings, unit, unit);
        }
        if in_use & IN_USE_IPV6 != 0 {
            hardest = hardest.max(in_table(settings, seeds.address(source), unit));
        }
        IN_USE_PREFIXES_IPV6 | IN_USE_PREFIXES_SHORT
    };
    if in_use & prefixes != 0
        && let Some(verdict) = PREFIXES.get(Key::new(WHOLE, *source))
        && coarse() < verdict.expires_at
    {
        hardest = hardest.max(effect(unit, verdict.action, verdict.origin));
    }
    hardest
}

/// What the verdict with `name` in the table does for `unit`; 0 if there is none. Not inlined: there are three to look
/// for.
#[inline(never)]
fn in_table(settings: &Settings, name: u64, unit: u64) -> u32 {
    let word = Word(find(settings, name));
    if word.0 == 0 || !is_live(word) { 0 } else { effect(unit, word.action(), word.origin()) }
}

/// The word of the verdict with `name`; 0 if there is none.
#[inline(always)]
fn find(settings: &Settings, name: u64) -> u64 {
    let home = table::bucket(name, settings.table_mask);
    let mut place = 0;
    for bucket in [home, neighbour(home)] {
        let Some(bucket) = VERDICTS.get_ptr(bucket) else { return 0 };
        // SAFETY: a value of a map, valid until the program ends, and a variable of this function's.
        let found = unsafe { search::find(bucket, name, &raw mut place) };
        if found.word != 0 || !found.elsewhere {
            return found.word;
        }
    }
    // SAFETY: a value of a map, valid until the program ends.
    STASH.get_ptr(&name).map_or(0, |stashed| unsafe { (*stashed).word })
}

/// Sends a connection under a challenge to the listener with this key. The [`Counter`] of what came of it.
#[inline(always)]
fn outcome(ctx: &SkLookupContext, listener: u32, source: &Address) -> u32 {
    let key = Key::new(WHOLE, *source);
    if NEVER_BLOCK.get(&key).is_some() || ALLOW.get(&key).is_some_and(|verdict| coarse() < verdict.expires_at) {
        return Counter::SteerSpared as u32;
    }
    let until = HEALTHY_UNTIL.get_ptr(&listener);
    // SAFETY: a value of a map, valid until the program ends.
    if until.is_none_or(|until| coarse() >= unsafe { until.read_volatile() }) {
        return Counter::SteerUnhealthy as u32;
    }
    match CHALLENGERS.redirect_sk_lookup(SkLookupContext::new(ctx.as_ptr().cast()), listener, 0) {
        Ok(()) => Counter::Steered as u32,
        Err(_) => Counter::SteerFailed as u32,
    }
}
