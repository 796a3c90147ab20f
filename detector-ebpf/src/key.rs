//! The keys of the hello at hand, where its last segment passes: the payload that was copied for userspace in,
//! `detector_common::key::Keys` out, in the event's header. A hello over several segments is read on from where the one
//! before ended, in order only: whatever else comes is left to userspace, and counted.

use core::{ffi::c_void, hint::black_box, mem::offset_of};

use aya_ebpf::helpers::bpf_loop;
use detector_common::{
    counter::Counter,
    event::{EVENT_PAYLOAD_MAX, EventHeader},
    key::{
        Keys, Seeds,
        parser::{KEPT, Parser, Step, Window},
    },
    settings::Settings,
};

use crate::{count::Counters, maps::Scratch};

/// [`crate::capture::State::parse`]: nothing.
pub const PARSE_NOTHING: u32 = 0;
/// The beginning of a hello.
pub const PARSE_START: u32 = 1;
/// The next bytes of the hello in `scratch.follow`.
pub const PARSE_ON: u32 = 2;

/// Steps within one segment.
const STEPS: u32 = 128;

/// The window's place in [`Scratch`]: the keys stand right before the payload, and are written when it has been read.
const WINDOW: usize = offset_of!(EventHeader, key);
/// Bytes of the window; a power of two.
const WINDOW_LEN: u32 = EVENT_PAYLOAD_MAX as u32;

const _: () = assert!(WINDOW + KEPT as usize == size_of::<EventHeader>());
const _: () = assert!(offset_of!(Scratch, payload) == size_of::<EventHeader>());

/// The keys of the hello that ends in the segment at hand; no `Option`, of which LLVM copies the part that isn't there.
pub struct Found {
    /// 1: one does, and `keys` are its keys.
    pub complete: u32,
    pub keys: Keys,
}

/// Kept bytes and payload.
struct Bytes(*const u8);

impl Window for Bytes {
    #[inline(always)]
    fn bytes<const N: usize>(&self, at: u32) -> [u8; N] {
        // SAFETY: masked, it lies in the window; so do the 16 bytes that follow, or in `scratch` behind it.
        unsafe { self.0.add((at & (WINDOW_LEN - 1)) as usize).cast::<[u8; N]>().read() }
    }
}

/// Reads what the segment at hand has of its hello.
#[inline(always)]
pub fn read(settings: &Settings, scratch: *mut Scratch, counters: Counters) -> Found {
    const NOT: Found = Found { complete: 0, keys: Keys { key: 0, stable: 0 } };
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let (scratch, window) = unsafe {
        let scratch = black_box(scratch);
        (&mut *scratch, scratch.cast::<u8>().add(WINDOW))
    };
    if scratch.state.parse == PARSE_NOTHING {
        scratch.follow.parsing = 0;
        return NOT;
    }
    if scratch.state.parse == PARSE_START {
        scratch.follow.parser = Parser::new(&settings.seeds);
    }
    let mut step = Step::Beyond;
    if scratch.len != 0 && scratch.header.captured_len <= WINDOW_LEN - KEPT {
        // SAFETY: the keys' own bytes.
        unsafe { window.cast::<[u8; KEPT as usize]>().write(*scratch.follow.parser.kept()) };
        step = walk(&mut scratch.follow.parser, window, KEPT + scratch.header.captured_len, &settings.seeds);
        scratch.header.key = 0;
        scratch.header.key_stable = 0;
    }
    scratch.follow.parsing = 0;
    match step {
        Step::More if scratch.header.captured_len == scratch.header.payload_len => scratch.follow.parsing = 1,
        Step::On | Step::More | Step::Beyond => counters.add(Counter::KeysBeyond),
        Step::Malformed => counters.add(Counter::KeysMalformed),
        Step::Done => {
            counters.add(Counter::KeysComputed);
            let keys = scratch.follow.parser.keys(&settings.seeds);
            scratch.header.hello_seq = scratch.follow.base;
            scratch.header.key = keys.key;
            scratch.header.key_stable = keys.stable;
            return Found { complete: 1, keys };
        }
    }
    NOT
}

/// What [`walk`] hands to each of its steps.
struct Walk {
    parser: *mut Parser,
    seeds: *const Seeds,
    window: Bytes,
    end: u32,
    step: Step,
}

/// Steps to the segment's end.
#[inline(always)]
fn walk(parser: *mut Parser, window: *const u8, end: u32, seeds: &Seeds) -> Step {
    let mut walk = Walk { parser, seeds, window: Bytes(window), end, step: Step::On };
    // SAFETY: `step` takes what it is given here, which outlives the loop.
    unsafe { bpf_loop(STEPS, step as *const () as *mut c_void, (&raw mut walk).cast(), 0) };
    walk.step
}

/// 1 ends the loop.
extern "C" fn step(_: u32, walk: *mut Walk) -> i64 {
    // SAFETY: as `walk` made it.
    let walk = unsafe { &mut *walk };
    // SAFETY: as above.
    let (parser, seeds) = unsafe { (&mut *walk.parser, &*walk.seeds) };
    walk.step = parser.step(&walk.window, walk.end, seeds);
    (walk.step != Step::On) as i64
}
