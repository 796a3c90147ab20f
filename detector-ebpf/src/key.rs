//! The keys of a hello, in the segment in which its last byte comes: the payload that was copied for userspace in, the
//! keys of `detector_common` in the event's header out. A hello over several segments is read on from where the one
//! before ended; what came too early stands behind the payload by then ([`waiting`]). What can't be read so is left to
//! userspace, and counted. Memory: [`Parser`], in the entry of the followed flow.

use core::{ffi::c_void, hint::black_box, mem::offset_of};

use aya_ebpf::{helpers::bpf_loop, programs::XdpContext};
use detector_common::{
    counter::Counter,
    event::{EVENT_PAYLOAD_MAX, EventHeader},
    flow::FlowKey,
    key::{
        Seeds,
        parser::{KEPT, Parser, Step, Window},
    },
    settings::Settings,
};

use crate::{
    count::Counters,
    maps::Scratch,
    waiting::{self, BEHIND, BEYOND, NOTHING},
};

/// [`crate::capture::State::parse`]: nothing.
pub const PARSE_NOTHING: u32 = 0;
/// The beginning of a hello.
pub const PARSE_START: u32 = 1;
/// The next bytes of the hello in `scratch.follow`.
pub const PARSE_ON: u32 = 2;
/// Bytes of it that overtook others.
pub const PARSE_EARLY: u32 = 3;

/// [`crate::maps::Follow::parsing`]: the hello is left to userspace.
pub const READING_NOTHING: u32 = 0;
/// Every byte up to `next` was read.
pub const READING_ALL: u32 = 1;
/// The same; others, behind a gap, wait in [`crate::maps::WAITING`].
pub const READING_GAPS: u32 = 2;

/// Where the window begins in [`Scratch`]: what an earlier segment left stands where the keys will, right before the
/// payload.
const WINDOW: usize = offset_of!(EventHeader, key);
/// Bytes of the window; a power of two.
const WINDOW_LEN: u32 = EVENT_PAYLOAD_MAX as u32;

const _: () = assert!(WINDOW + KEPT as usize == size_of::<EventHeader>());
const _: () = assert!(offset_of!(Scratch, payload) == size_of::<EventHeader>());

/// Turns of the loop over one segment: they bound what one that is made for it can cost. A segment of 1,460 bytes with
/// nothing but ciphers takes 23.
const TURNS: u32 = 32;
/// The same with what had waited for it.
const TURNS_ALL: u32 = 96;
/// Steps of the parser in one turn, which costs a call.
const STEPS: u32 = 8;

/// The window.
struct Bytes(*const u8);

impl Window for Bytes {
    #[inline(always)]
    fn bytes<const N: usize>(&self, at: u32) -> [u8; N] {
        // SAFETY: masked, it lies in the window; at most 16 bytes behind that are more of `Scratch`.
        unsafe { self.0.add((at & (WINDOW_LEN - 1)) as usize).cast::<[u8; N]>().read() }
    }
}

/// Makes the window of the segment at hand ready: before its new bytes those that were kept of the segments before, after
/// them what has waited for it. What the stages after this have to know is in `scratch.state`.
#[inline(always)]
fn open(scratch: &mut Scratch, window: *mut u8, key: &FlowKey) {
    scratch.state.rest = NOTHING;
    scratch.state.turns = TURNS;
    if scratch.state.waiting != 0 {
        scratch.state.rest = waiting::append(scratch, key);
        scratch.state.turns = TURNS_ALL;
        scratch.follow.next = scratch.follow.next.wrapping_add(scratch.state.appended);
    }
    let skip = scratch.state.skip;
    // SAFETY: the window is that of this CPU's map value.
    unsafe {
        let kept = kept(window, skip);
        if skip != 0 {
            // Bytes of the payload, which is for userspace.
            scratch.own = kept.read();
        }
        kept.write(*scratch.follow.parser.kept());
    }
    scratch.follow.parser.skip(skip);
}

/// Where in the window the bytes that were kept have their place.
///
/// # Safety
/// `window` is that of this CPU's map value.
#[inline(always)]
unsafe fn kept(window: *mut u8, skip: u32) -> *mut [u8; KEPT as usize] {
    // SAFETY: the caller's; masked, so many bytes of it are the window's.
    unsafe { window.add((skip & (WINDOW_LEN - 1)) as usize).cast() }
}

/// Reads what the segment at hand has of its hello. The keys of one that ends with it are in the event's header then.
#[inline(always)]
pub fn read(ctx: &XdpContext, settings: &Settings, scratch: *mut Scratch, key: &FlowKey, counters: Counters) {
    {
        // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
        let (scratch, window) = unsafe { (&mut *scratch, scratch.cast::<u8>().add(WINDOW)) };
        scratch.follow.parsing = READING_NOTHING;
        match scratch.state.parse {
            PARSE_NOTHING => return,
            PARSE_EARLY => {
                if waiting::keep(ctx, scratch, key) {
                    scratch.follow.parsing = READING_GAPS;
                } else {
                    counters.add(Counter::KeysEvicted);
                }
                return;
            }
            _ => open(scratch, window, key),
        }
    }
    // SAFETY: as above.
    let (scratch, window) = unsafe {
        let scratch = black_box(scratch);
        (&mut *scratch, scratch.cast::<u8>().add(WINDOW))
    };
    let (captured, seeds) = (scratch.header.captured_len, &settings.seeds);
    let mut step = Step::Beyond;
    if scratch.len != 0 && captured <= WINDOW_LEN - KEPT {
        let end = KEPT + captured + scratch.state.appended;
        step = walk(&mut scratch.follow.parser, window, end, scratch.state.turns, seeds);
    }
    let skip = scratch.state.skip;
    if skip != 0 {
        // SAFETY: as above.
        unsafe { kept(window, skip).write(scratch.own) };
    }
    scratch.header.key = 0;
    scratch.header.key_stable = 0;
    match step {
        Step::More if captured == scratch.header.payload_len => match scratch.state.rest {
            NOTHING => scratch.follow.parsing = READING_ALL,
            BEHIND => scratch.follow.parsing = READING_GAPS,
            BEYOND => counters.add(Counter::KeysDisordered),
            _ => counters.add(Counter::KeysEvicted),
        },
        Step::On | Step::More | Step::Beyond => counters.add(Counter::KeysBeyond),
        Step::Malformed => counters.add(Counter::KeysMalformed),
        Step::Done => {
            counters.add(Counter::KeysComputed);
            let (parser, keys) = (&scratch.follow.parser, scratch.follow.parser.keys(seeds));
            scratch.header.hello_seq = scratch.follow.base.wrapping_add(parser.start());
            scratch.header.key = keys.key;
            scratch.header.key_stable = keys.stable;
        }
    }
}

/// What [`walk`] hands to its turns.
struct Walk {
    parser: *mut Parser,
    seeds: *const Seeds,
    window: Bytes,
    end: u32,
    step: Step,
}

/// Steps to the segment's end, or until its turns are over. By `bpf_loop`, whose body the verifier walks once and not
/// once for each turn.
#[inline(always)]
fn walk(parser: *mut Parser, window: *const u8, end: u32, turns: u32, seeds: &Seeds) -> Step {
    let mut walk = Walk { parser, seeds, window: Bytes(window), end, step: Step::On };
    // SAFETY: `turn` takes what it is given here, which outlives the loop.
    unsafe { bpf_loop(turns, turn as *const () as *mut c_void, (&raw mut walk).cast(), 0) };
    walk.step
}

/// Some steps; 1 ends the loop.
extern "C" fn turn(_: u32, walk: *mut Walk) -> i64 {
    // SAFETY: as `walk` made it.
    let walk = unsafe { &mut *walk };
    for _ in 0..STEPS {
        // SAFETY: as above. Read back from memory, the ways through a step are one to the verifier.
        let (parser, seeds) = unsafe { (&mut *black_box(walk.parser), &*walk.seeds) };
        match parser.step(&walk.window, walk.end, seeds) {
            Step::On => {}
            step => {
                walk.step = step;
                return 1;
            }
        }
    }
    0
}
