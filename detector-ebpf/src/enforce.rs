//! The verdict on a packet, before anything else is done with it; and on the hello that ends in it. A host without
//! verdicts pays one comparison, one with verdicts on addresses a cache line.
//!
//! Of several verdicts that match the hardest applies, so that one which only observes hides no other. It applies to
//! frames for an address this host protects, after the never-block set and the allow list had their say: their tries are
//! consulted here only, so ordinary packets never pay for them.

use aya_ebpf::{
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    maps::lpm_trie::Key,
    programs::XdpContext,
};
use aya_log_ebpf::debug;
use core::hint::black_box;
use detector_common::{
    counter::Counter,
    flow::FlowKey,
    mode::DEAD_MAN_NS,
    settings::{
        IN_USE_CONNECTIONS, IN_USE_INITIALS, IN_USE_IPV4, IN_USE_IPV6, IN_USE_KEY_PAIRS, IN_USE_KEYS,
        IN_USE_PREFIXES_IPV4, IN_USE_PREFIXES_IPV6, IN_USE_PREFIXES_SHORT, IN_USE_STABLE, IN_USE_STABLE_PAIRS,
        IN_USE_SUBNETS, IN_USE_WIDE_PAIRS, Settings,
    },
    table::{self, CELLS, HITS_MAX, WIDE_BITS, Word, exempt_place, filter_place, initials, is_ipv4, neighbour, pair},
    verdict::{Action, FOREVER, ORIGIN_AUTOMATIC, ORIGIN_OPERATOR, Verdict},
};

use crate::{
    count::Counters,
    datagram,
    maps::{
        ADMITTED, ALLOW, CONNECTIONS, EXEMPT, FILTER, HEARTBEAT, MODE, NEVER_BLOCK, PREFIXES, RATES, STASH, Scratch,
        VERDICTS,
    },
    parse::{ACK, Packet, RST, SYN, TCP},
    search,
};

/// All bits of an address.
pub const WHOLE: u32 = 128;

/// Kinds of verdicts that, beside prefixes, any packet is looked up among.
const OF_ANY_PACKET: u32 = IN_USE_IPV4 | IN_USE_IPV6 | IN_USE_SUBNETS | IN_USE_CONNECTIONS | IN_USE_INITIALS;

/// Tries to take a token while other CPUs take some too. After them the connection is let in.
const TRIES: usize = 4;

/// What to do with the frame.
pub enum Decision {
    /// Count it by this [`Counter`], and go on.
    Pass(u32),
    /// Count it so, and drop it.
    Drop(u32),
    /// The same, but the host's own stack may have to know: [`crate::reset`].
    Reset(u32),
}

/// What the verdicts that match a packet come to, one after the other.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Found {
    /// The hardest [`Action`].
    pub action: u32,
    /// The [`Counter`] of a drop by it.
    pub drop: u32,
    /// Of a limited rate: its entry in `RATES`.
    pub limit: u64,
    /// 1: the packet is to an address that isn't protected.
    pub elsewhere: u32,
    pub reserved: u32,
    /// Place of a cell in its bucket, between its finding and its use; see `parse::launder`.
    pub place: u64,
}

/// Every verdict in force has a TTL or is forever; the coarse clock (4 ms at 250 Hz) is exact enough and costs a
/// seventh of the fine one.
#[inline(always)]
pub fn coarse() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Whether a verdict still says something; for those without an end nobody looks at the clock.
#[inline(always)]
pub fn is_live(word: Word) -> bool {
    word.expires_at() == FOREVER || word.is_live(coarse())
}

/// CLOCK_MONOTONIC, for what is written into events.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// `lock add`: entries are shared between CPUs, and core has no atomics for this target.
///
/// # Safety
/// `hits` is in a value of a map, eight-byte aligned.
#[inline(always)]
unsafe fn hit(hits: *mut u64) {
    // SAFETY: the caller's.
    unsafe {
        #[cfg(target_arch = "bpf")]
        core::arch::asm!("lock *(u64 *)({hits} + 0) += {one}", hits = in(reg) hits, one = in(reg) 1u64);
        #[cfg(not(target_arch = "bpf"))]
        hits.write(hits.read() + 1);
    }
}

/// The same in a bucket, as far as [`HITS_MAX`].
///
/// # Safety
/// `hits` is in a value of a map, four-byte aligned.
#[inline(always)]
unsafe fn hit_cell(hits: *mut u32) {
    // SAFETY: the caller's.
    unsafe {
        if hits.read_volatile() < HITS_MAX {
            #[cfg(target_arch = "bpf")]
            core::arch::asm!("lock *(u32 *)({hits} + 0) += {one}", hits = in(reg) hits, one = in(wreg) 1u32);
            #[cfg(not(target_arch = "bpf"))]
            hits.write(hits.read() + 1);
        }
    }
}

/// Puts `new` in the place of `old`; what was there, which is `old` if that was done.
///
/// # Safety
/// `at` is in a value of a map, eight-byte aligned.
#[inline(always)]
pub unsafe fn exchange(at: *mut u64, old: u64, new: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        #[cfg(target_arch = "bpf")]
        {
            let seen: u64;
            core::arch::asm!(
                "r0 = cmpxchg_64({at} + 0, r0, {new})",
                at = in(reg) at,
                new = in(reg) new,
                inlateout("r0") old => seen
            );
            seen
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            let seen = at.read();
            if seen == old {
                at.write(new);
            }
            seen
        }
    }
}

/// What a live verdict does, which for `unit` may be only to count: an [`Action`].
#[inline(always)]
pub fn effect(unit: u64, action: u8, origin: u8) -> u32 {
    if action > Action::Block as u8 || (origin != ORIGIN_OPERATOR && !in_force(unit, origin)) {
        Action::Observe as u32
    } else {
        action as u32
    }
}

/// Takes a live verdict into account.
#[inline(always)]
fn weigh(scratch: *mut Scratch, unit: u64, action: u8, origin: u8, limit: u64, drop: u32) {
    let action = effect(unit, action, origin);
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let found = unsafe { &mut (*scratch).found };
    if action > found.action {
        found.action = action;
        found.drop = drop;
        found.limit = limit;
    }
}

/// Whether verdicts that aren't an operator's hold.
#[inline(always)]
fn in_force(unit: u64, origin: u8) -> bool {
    let now = coarse();
    let Some(mode) = MODE.get(0) else { return false };
    if !mode.enforces(now) {
        return false;
    }
    if origin != ORIGIN_AUTOMATIC {
        return true;
    }
    let Some(beat) = HEARTBEAT.get(0) else { return false };
    mode.takes_in(unit) && now < beat.wrapping_add(DEAD_MAN_NS)
}

/// Looks for the verdict with `name`, and takes it into account. Not inlined: there are many to look for.
#[inline(never)]
fn look_up(settings: &Settings, scratch: *mut Scratch, name: u64, unit: u64, drop: u32) {
    look_up_here(settings, scratch, name, unit, drop);
}

/// The same inlined, for the one that any packet may need.
#[inline(always)]
fn look_up_here(settings: &Settings, scratch: *mut Scratch, name: u64, unit: u64, drop: u32) {
    let home = table::bucket(name, settings.table_mask);
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let place = unsafe { &raw mut (*scratch).found.place };
    for bucket in [home, neighbour(home)] {
        let Some(bucket) = VERDICTS.get_ptr_mut(bucket) else { return };
        // SAFETY: values of maps, valid until the program ends.
        let found = unsafe { search::find(bucket, name, place) };
        if found.word != 0 {
            let word = Word(found.word);
            if is_live(word) && is_ours(settings, scratch) {
                // SAFETY: as above; there are fewer cells than the mask allows, and after the last one the bucket goes on.
                unsafe {
                    let cell = black_box(place.read_volatile() as usize) & CELLS;
                    hit_cell((&raw mut (*bucket).hits).cast::<u32>().add(cell));
                }
                weigh(scratch, unit, word.action(), word.origin(), name, drop);
            }
            return;
        }
        if !found.elsewhere {
            return;
        }
    }
    let Some(stashed) = STASH.get_ptr_mut(&name) else { return };
    // SAFETY: a value of a map, valid until the program ends.
    let word = Word(unsafe { (*stashed).word });
    if is_live(word) && is_ours(settings, scratch) {
        // SAFETY: as above.
        unsafe { hit(&raw mut (*stashed).hits) };
        weigh(scratch, unit, word.action(), word.origin(), name, drop);
    }
}

/// Whether the packet is one that verdicts are about: to an address this host protects.
#[inline(always)]
fn is_ours(settings: &Settings, scratch: *mut Scratch) -> bool {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let scratch = unsafe { &mut *scratch };
    let destination: [u32; 4] = zerocopy::transmute!(scratch.key.destination);
    // Most packets are for the address that the last one was for.
    let known = &mut scratch.protected;
    let mut ours = known.version == settings.addresses && known.address == destination;
    if !ours {
        ours = crate::protects(settings, &scratch.key.destination);
        if ours {
            (known.address, known.version) = (destination, settings.addresses);
        }
    }
    scratch.found.elsewhere = !ours as u32;
    ours
}

/// The same of a verdict that stands in another map.
#[inline(always)]
fn consider(settings: &Settings, scratch: *mut Scratch, unit: u64, verdict: *mut Verdict, drop: Counter) {
    // SAFETY: a value of a map, valid until the program ends.
    unsafe {
        if coarse() < (*verdict).expires_at && is_ours(settings, scratch) {
            hit(&raw mut (*verdict).hits);
            weigh(scratch, unit, (*verdict).action, (*verdict).origin, (*verdict).limit, drop as u32);
        }
    }
}

#[inline(always)]
fn in_filter(key: &FlowKey) -> bool {
    let place = filter_place(&key.source);
    FILTER.get(place >> 6).is_some_and(|word| word >> (place & 63) & 1 == 1)
}

/// Whether the trie of prefixes may have one with this source.
#[inline(always)]
fn may_have_prefix(settings: &Settings, key: &FlowKey, ipv4: bool) -> bool {
    if ipv4 {
        return settings.in_use & IN_USE_PREFIXES_IPV4 != 0 && in_filter(key);
    }
    settings.in_use & IN_USE_PREFIXES_SHORT != 0 || settings.in_use & IN_USE_PREFIXES_IPV6 != 0 && in_filter(key)
}

/// The decision on a packet to a protected port.
#[inline(always)]
pub fn decide(
    ctx: &XdpContext,
    settings: &Settings,
    scratch: *mut Scratch,
    key: &FlowKey,
    packet: &Packet,
) -> Decision {
    if settings.in_use == 0 {
        return Decision::Pass(Counter::PassProtected as u32);
    }
    let ipv4 = is_ipv4(&key.source);
    if settings.in_use & OF_ANY_PACKET == 0 && !may_have_prefix(settings, key, ipv4) {
        return Decision::Pass(Counter::PassProtected as u32);
    }
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    unsafe { ((*scratch).found.action, (*scratch).found.elsewhere) = (0, 0) };
    let seeds = &settings.table_seeds;
    if ipv4 {
        if settings.in_use & IN_USE_IPV4 != 0 {
            let name = seeds.address(&key.source);
            look_up_here(settings, scratch, name, name, Counter::DropAddress as u32);
        }
    } else {
        if settings.in_use & IN_USE_SUBNETS != 0 {
            let name = seeds.unit(&key.source);
            look_up(settings, scratch, name, name, Counter::DropPrefix as u32);
        }
        if settings.in_use & IN_USE_IPV6 != 0 {
            let (name, unit) = (seeds.address(&key.source), seeds.unit(&key.source));
            look_up(settings, scratch, name, unit, Counter::DropAddress as u32);
        }
    }
    if may_have_prefix(settings, key, ipv4)
        && let Some(verdict) = PREFIXES.get(Key::new(WHOLE, key.source))
    {
        let verdict = core::ptr::from_ref(verdict).cast_mut();
        consider(settings, scratch, seeds.unit(&key.source), verdict, Counter::DropPrefix);
    }
    if settings.in_use & IN_USE_CONNECTIONS != 0 {
        connection(settings, scratch, key, packet);
    }
    if settings.in_use & IN_USE_INITIALS != 0 && packet.protocol != TCP && datagram::opens(ctx, packet) {
        let unit = seeds.unit(&key.source);
        look_up(settings, scratch, initials(unit), unit, Counter::DropInitial as u32);
    }
    conclude(ctx, scratch, key, packet, Counter::PassProtected as u32)
}

/// Takes the verdict on a packet's connection into account.
#[inline(always)]
fn connection(settings: &Settings, scratch: *mut Scratch, key: &FlowKey, packet: &Packet) {
    if let Some(entry) = CONNECTIONS.get_ptr_mut(key) {
        // SAFETY: a value of a map, valid until the program ends.
        let (verdict, initial_seq) = unsafe { (&raw mut (*entry).verdict, (*entry).initial_seq) };
        // A SYN with another number is perhaps of the next connection: see `reopened`. A reset passes: it frees the
        // server's socket, which is all this verdict wants. A datagram has no flags: all of its 4-tuple are meant.
        let next = packet.flags & (SYN | ACK) == SYN && packet.seq != initial_seq;
        if !next && packet.flags & RST == 0 {
            consider(settings, scratch, settings.table_seeds.unit(&key.source), verdict, Counter::DropConnection);
        }
    }
}

/// A SYN on a 4-tuple on which the host has no connection. With another initial sequence number than that of a condemned
/// connection it begins the next one there, perhaps of another client behind the same NAT: the verdict ends.
#[inline(always)]
pub fn reopened(ctx: &XdpContext, settings: &Settings, key: &FlowKey, packet: &Packet, counters: Counters) {
    if settings.in_use & IN_USE_CONNECTIONS != 0
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

/// The decision on the packet in which a hello ends whose keys are in the event's header.
#[inline(always)]
pub fn fingerprint(
    ctx: &XdpContext,
    settings: &Settings,
    scratch: *mut Scratch,
    key: &FlowKey,
    packet: &Packet,
) -> Decision {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let (exact, stable, reason) = unsafe {
        let scratch = &mut *scratch;
        (scratch.found.action, scratch.found.elsewhere) = (0, 0);
        (scratch.header.key, scratch.header.key_stable, scratch.reason)
    };
    let any = IN_USE_KEYS | IN_USE_STABLE | IN_USE_KEY_PAIRS | IN_USE_STABLE_PAIRS | IN_USE_WIDE_PAIRS;
    if settings.in_use & any == 0 {
        return Decision::Pass(reason);
    }
    let seeds = &settings.table_seeds;
    let unit = seeds.unit(&key.source);
    let (exact, stable) = (seeds.key(exact), seeds.stable(stable));
    if settings.in_use & IN_USE_KEYS != 0 {
        look_up(settings, scratch, exact, unit, Counter::DropFingerprint as u32);
    }
    if settings.in_use & IN_USE_STABLE != 0 {
        look_up(settings, scratch, stable, unit, Counter::DropFingerprint as u32);
    }
    if settings.in_use & IN_USE_KEY_PAIRS != 0 {
        look_up(settings, scratch, pair(unit, exact), unit, Counter::DropPair as u32);
    }
    if settings.in_use & IN_USE_STABLE_PAIRS != 0 {
        look_up(settings, scratch, pair(unit, stable), unit, Counter::DropPair as u32);
    }
    if settings.in_use & IN_USE_WIDE_PAIRS != 0 && !is_ipv4(&key.source) {
        for bits in WIDE_BITS {
            look_up(settings, scratch, pair(seeds.wide(&key.source, bits), stable), unit, Counter::DropPair as u32);
        }
    }
    conclude(ctx, scratch, key, packet, reason)
}

/// What the verdicts that were found do to the packet; `reason` if there is none.
#[inline(always)]
fn conclude(ctx: &XdpContext, scratch: *mut Scratch, key: &FlowKey, packet: &Packet, reason: u32) -> Decision {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile. Read back from memory, the ways
    // through the tables are one to the verifier.
    let found = unsafe { &(*black_box(scratch)).found };
    let (action, drop, limit) = (found.action, found.drop, found.limit);
    if action == 0 {
        return Decision::Pass(if found.elsewhere != 0 { Counter::PassOtherAddress as u32 } else { reason });
    }
    if may_be_exempt(key) {
        if NEVER_BLOCK.get(Key::new(WHOLE, key.source)).is_some() {
            return Decision::Pass(Counter::PassNeverBlock as u32);
        }
        if allowed(key) {
            return Decision::Pass(Counter::PassAllowed as u32);
        }
    }
    if action == Action::Block as u32 {
        return Decision::Drop(drop);
    }
    if action == Action::RateLimit as u32 {
        if opens(ctx, scratch, packet) && !admitted(key, packet, limit) {
            return Decision::Drop(Counter::DropRateLimit as u32);
        }
        return Decision::Pass(Counter::PassLimited as u32);
    }
    if action == Action::Challenge as u32 {
        return Decision::Pass(Counter::PassChallenged as u32);
    }
    Decision::Pass(Counter::PassObserved as u32)
}

/// Whether a trie of what isn't dropped may have this source.
#[inline(always)]
fn may_be_exempt(key: &FlowKey) -> bool {
    let place = exempt_place(&key.source);
    EXEMPT.get(place >> 6).is_none_or(|word| word >> (place & 63) & 1 == 1)
}

/// Whether an allow entry overrules.
#[inline(always)]
fn allowed(key: &FlowKey) -> bool {
    match ALLOW.get(Key::new(WHOLE, key.source)) {
        Some(verdict) => {
            let verdict = core::ptr::from_ref(verdict).cast_mut();
            // SAFETY: a value of a map, valid until the program ends.
            unsafe {
                if coarse() < (*verdict).expires_at {
                    hit(&raw mut (*verdict).hits);
                    return true;
                }
            }
            false
        }
        None => false,
    }
}

/// Whether the packet is of a connection that isn't accepted yet: its SYN, its hello, or a QUIC Initial packet. Only such
/// are limited.
#[inline(always)]
fn opens(ctx: &XdpContext, scratch: *mut Scratch, packet: &Packet) -> bool {
    if packet.protocol != TCP {
        return datagram::opens(ctx, packet);
    }
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let judged = unsafe { (*scratch).state.judged };
    packet.flags & (SYN | ACK) == SYN || judged != 0
}

/// Whether a client whose new connections are limited may have this one.
#[inline(always)]
fn admitted(key: &FlowKey, packet: &Packet, limit: u64) -> bool {
    // The same packet once more is the same connection.
    if let Some(seq) = ADMITTED.get_ptr(key) {
        // SAFETY: a value of a map, valid until the program ends.
        if packet.protocol != TCP || unsafe { *seq } == packet.seq {
            return true;
        }
    }
    // One without its rate limits nothing.
    let Some(rate) = RATES.get_ptr_mut(&limit) else { return true };
    let now = now();
    for _ in 0..TRIES {
        // SAFETY: a value of a map, valid until the program ends.
        unsafe {
            let due_at = &raw mut (*rate).due_at;
            let due = due_at.read_volatile();
            let at = if due > now { due } else { now };
            if at - now > (*rate).tolerance_ns {
                return false;
            }
            if exchange(due_at, due, at + (*rate).interval_ns) == due {
                break;
            }
        }
    }
    let _ = ADMITTED.insert(key, &packet.seq, 0);
    true
}
