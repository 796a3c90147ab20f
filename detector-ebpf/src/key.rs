//! The keys of a hello, in the segment in which it ends: the payload that was copied for userspace in, the keys of
//! `detector_common` in the event's header out. A hello over several segments is read on from where the one before
//! ended, as long as they come in order; everything else is left to userspace, and counted. Memory: [`Parser`], in the
//! entry of the followed flow.

use core::{ffi::c_void, hint::black_box, mem::offset_of};

use aya_ebpf::helpers::bpf_loop;
use detector_common::{
    counter::Counter,
    event::{EVENT_PAYLOAD_MAX, EventHeader},
    key::{
        Seeds,
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

/// Reads what the segment at hand has of its hello. The keys of one that ends in it are in the event's header then.
#[inline(always)]
pub fn read(settings: &Settings, scratch: *mut Scratch, counters: Counters) {
    // SAFETY: this CPU's map value, of which no other program run has the use meanwhile.
    let (scratch, window) = unsafe {
        let scratch = black_box(scratch);
        (&mut *scratch, scratch.cast::<u8>().add(WINDOW))
    };
    let (parse, seeds) = (scratch.state.parse, &settings.seeds);
    scratch.follow.parsing = 0;
    if parse == PARSE_NOTHING {
        return;
    }
    let captured = scratch.header.captured_len;
    let mut step = Step::Beyond;
    if scratch.len != 0 && captured <= WINDOW_LEN - KEPT {
        if parse == PARSE_START {
            scratch.follow.parser = Parser::new(seeds);
        }
        // SAFETY: the keys' own bytes.
        unsafe { window.cast::<[u8; KEPT as usize]>().write(*scratch.follow.parser.kept()) };
        step = walk(&mut scratch.follow.parser, window, KEPT + captured, seeds);
        scratch.header.key = 0;
        scratch.header.key_stable = 0;
    }
    match step {
        Step::More if captured == scratch.header.payload_len => scratch.follow.parsing = 1,
        Step::On | Step::More | Step::Beyond => counters.add(Counter::KeysBeyond),
        Step::Malformed => counters.add(Counter::KeysMalformed),
        Step::Done => {
            counters.add(Counter::KeysComputed);
            let keys = scratch.follow.parser.keys(seeds);
            scratch.header.hello_seq = scratch.follow.base;
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
fn walk(parser: *mut Parser, window: *const u8, end: u32, seeds: &Seeds) -> Step {
    let mut walk = Walk { parser, seeds, window: Bytes(window), end, step: Step::On };
    // SAFETY: `turn` takes what it is given here, which outlives the loop.
    unsafe { bpf_loop(TURNS, turn as *const () as *mut c_void, (&raw mut walk).cast(), 0) };
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
