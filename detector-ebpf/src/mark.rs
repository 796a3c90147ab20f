//! What goes on at a flow's place, found by a hash of its 4-tuple: whether its connection has just begun, and whether a
//! hello may be followed there. For most packets neither, so that one load spares them the tables of SYNs and of followed
//! flows. Flows that share a place only cost each other look-ups there.
//!
//! That a flow is followed is never missed. Its count goes up before its entry is there, and down after that was removed;
//! what nobody takes back (an entry that made room for another, or that userspace removed) ends with the time for which
//! hellos are followed at all. Memory: 4 MiB.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use detector_common::{flow::FlowKey, settings::Settings};

use crate::{enforce::exchange, maps::MARKS};

/// Entries of [`MARKS`]; a power of two.
pub const MARKS_LEN: u32 = 1 << 18;

/// Tries to change a word while other CPUs change it too.
const TRIES: usize = 4;

/// Low bits of [`Mark::followed`], which hold the count.
const COUNT_BITS: u32 = 16;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// How long before the time is over a count is left to it: no other CPU may have ended the word meanwhile.
const EDGE_NS: u64 = 1_000_000_000;

/// A place.
#[repr(C)]
pub struct Mark {
    /// How many flows are followed here, and above that the CLOCK_MONOTONIC time up to which any of them may be, in
    /// units of 2^16 nanoseconds.
    followed: u64,
    /// 1 from a connection's SYN to its first data.
    pub recent: u64,
}

/// The place of a flow. Under a secret seed: nobody can choose an address and a port that share another client's.
#[inline(always)]
pub fn of(settings: &Settings, key: &FlowKey) -> Option<*mut Mark> {
    let ports = (key.source_port as u64) << 16 | key.destination_port as u64;
    let mixed = settings.table_seeds.address(&key.source).wrapping_add(ports.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    MARKS.get_ptr_mut((mixed >> (64 - MARKS_LEN.trailing_zeros())) as u32)
}

/// Whether nothing goes on there.
#[inline(always)]
pub fn is_quiet(mark: *mut Mark) -> bool {
    // SAFETY: a value of a map, valid until the program ends.
    unsafe { (*mark).recent == 0 && (&raw const (*mark).followed).read_volatile() & COUNT == 0 }
}

/// Whether a flow there may be followed.
#[inline(always)]
pub fn may_be_followed(mark: *mut Mark) -> bool {
    // SAFETY: a value of a map, valid until the program ends; the helper has no preconditions.
    unsafe {
        let word = &raw mut (*mark).followed;
        let seen = word.read_volatile();
        if seen & COUNT == 0 {
            return false;
        }
        if bpf_ktime_get_coarse_ns() >> COUNT_BITS <= seen >> COUNT_BITS {
            return true;
        }
        // Whoever begins one meanwhile has changed the word.
        let _ = exchange(word, seen, 0);
        true
    }
}

/// Before a flow's entry is made, which ends `until`, CLOCK_MONOTONIC nanoseconds. `false`: it can't be followed.
#[inline(always)]
pub fn begin(settings: &Settings, key: &FlowKey, until: u64) -> bool {
    let Some(mark) = of(settings, key) else { return false };
    for _ in 0..TRIES {
        // SAFETY: a value of a map, valid until the program ends.
        unsafe {
            let word = &raw mut (*mark).followed;
            let seen = word.read_volatile();
            if seen & COUNT == COUNT {
                return false;
            }
            let (theirs, ours) = (seen >> COUNT_BITS, until >> COUNT_BITS);
            let latest = if theirs > ours { theirs } else { ours };
            if exchange(word, seen, (latest << COUNT_BITS) | ((seen & COUNT) + 1)) == seen {
                return true;
            }
        }
    }
    false
}

/// After the entry of a flow that would have ended `until` was removed.
#[inline(always)]
pub fn end(settings: &Settings, key: &FlowKey, until: u64, now: u64) {
    if now + EDGE_NS >= until {
        return;
    }
    let Some(mark) = of(settings, key) else { return };
    for _ in 0..TRIES {
        // SAFETY: a value of a map, valid until the program ends.
        unsafe {
            let word = &raw mut (*mark).followed;
            let seen = word.read_volatile();
            if seen & COUNT == 0 || exchange(word, seen, seen - 1) == seen {
                return;
            }
        }
    }
}
