//! What overtook the rest of its hello: segments that came too early in, their bytes out once those before them are there
//! (threats.md T14). Memory: an entry of [`ROOM`] bytes for each hello that comes out of order, in an LRU table.
//!
//! Of two bytes for one place the one counts that Linux takes (tcp_data_queue_ofo() of net/ipv4/tcp_input.c). Bytes in
//! sequence win over those that wait, which are never changed by them: a segment that is dropped leaves no trace. Of those
//! that wait the segment wins that begins first, and one that begins where another ends is one with it. That is not all:
//! whether Linux joins two segments hangs on the driver's buffers, and which it compares on the shape of its tree. Of
//! hellos made of segments that contradict each other at random, 2 of 3,000 were read otherwise. Who sends other bytes for
//! one place has no fingerprint in userspace.

use core::{ffi::c_void, hint::black_box};

use aya_ebpf::{helpers::bpf_loop, programs::XdpContext};
use detector_common::flow::FlowKey;

use crate::{
    frame::load,
    maps::{Scratch, WAITING},
};

/// Bytes that are kept of a hello: as far as a segment may get ahead of the first that is missing. A power of two.
const ROOM: u32 = 4096;
/// Bits of a word.
const WORD: u32 = 64;
const WORDS: u32 = ROOM / WORD;
type Bits = [u64; WORDS as usize];
/// Bytes that one call copies from a frame.
const CHUNK: u32 = 512;
/// Bytes that one turn copies to the payload.
const BLOCK: u32 = 64;

/// An entry. A place is the distance of a byte from `base`.
#[repr(C)]
pub struct Waiting {
    /// Sequence number of the byte that was missing first.
    base: u32,
    /// The place behind the last that came, kept or not.
    top: u32,
    /// The places whose bytes are here, a bit each.
    here: Bits,
    /// The places where a segment that is here ended.
    ends: Bits,
    /// Each by its place; at the last ones, a whole chunk fits too.
    bytes: [u8; (ROOM + CHUNK) as usize],
}

/// What waits behind the segment at hand and the bytes that [`append`] put after it: nothing.
pub const NOTHING: u32 = 0;
/// Something, behind a gap.
pub const BEHIND: u32 = 1;
/// Something that was too far ahead to be kept.
pub const BEYOND: u32 = 2;
/// Nobody knows: the entry had to make room for another.
pub const EVICTED: u32 = 3;

/// Places of an entry, to go through word by word.
struct Places {
    waiting: *mut Waiting,
    from: u32,
    /// Not one of them.
    to: u32,
    /// The first whose byte isn't here, or `to`.
    free: u32,
}

impl Places {
    /// Which word is looked at in a turn, and which of its bits are among the places; none ends the loop.
    #[inline(always)]
    fn word(&self, turn: u32) -> (usize, u64) {
        let word = self.from / WORD + turn;
        let start = word * WORD;
        if start >= self.to {
            return (0, 0);
        }
        let low = if turn == 0 { self.from % WORD } else { 0 };
        let high = if self.to - start < WORD { self.to - start } else { WORD };
        ((word & (WORDS - 1)) as usize, u64::MAX.wrapping_shl(low) & u64::MAX.wrapping_shr(WORD - high))
    }
}

extern "C" fn find(turn: u32, places: *mut Places) -> i64 {
    // SAFETY: as `free` made it.
    let places = unsafe { &mut *places };
    let (word, bits) = places.word(turn);
    // SAFETY: a value of a map, valid until the program ends.
    let free = unsafe { !(*places.waiting).here[word] } & bits;
    if free != 0 {
        // LLVM would make a look-up in a table of `trailing_zeros`.
        let below = black_box(free & free.wrapping_neg()) - 1;
        places.free = (places.from / WORD + turn) * WORD + below.count_ones();
    }
    (free != 0 || bits == 0) as i64
}

extern "C" fn mark(turn: u32, places: *mut Places) -> i64 {
    // SAFETY: as `keep` made it.
    let places = unsafe { &mut *places };
    let (word, bits) = places.word(turn);
    // SAFETY: a value of a map, valid until the program ends; the segments of one flow come by one CPU.
    unsafe { (*places.waiting).here[word] |= bits };
    (bits == 0) as i64
}

/// The first of the places `from..to` whose byte isn't here, or `to`.
#[inline(always)]
fn free(waiting: *mut Waiting, from: u32, to: u32) -> u32 {
    let mut places = Places { waiting, from, to, free: to };
    // SAFETY: `find` takes what it is given here, which outlives the loop.
    unsafe { bpf_loop(WORDS, find as *const () as *mut c_void, (&raw mut places).cast(), 0) };
    places.free
}

/// A place's bit and its word.
///
/// # Safety
/// `bits` is in a value of a map.
#[inline(always)]
unsafe fn bit(bits: *mut Bits, place: u32) -> (u64, *mut u64) {
    // Hidden from LLVM, which would drop the mask where it knows better than the verifier of Linux 6.1.
    let word = black_box(place / WORD) & (WORDS - 1);
    // SAFETY: the caller's; masked, the word is one of them.
    unsafe { (1u64.wrapping_shl(place % WORD), bits.cast::<u64>().add(word as usize)) }
}

/// # Safety
/// `bits` is in a value of a map.
#[inline(always)]
unsafe fn has(bits: *mut Bits, place: u32) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let (bit, word) = self::bit(bits, place);
        *word & bit != 0
    }
}

/// Keeps what the segment at hand has ahead of `scratch.follow.next`. `false`: the flow's entry is gone, or there is no
/// room for one.
#[inline(always)]
pub fn keep(ctx: &XdpContext, scratch: &mut Scratch, key: &FlowKey) -> bool {
    if scratch.state.waiting == 0 {
        scratch.blank.base = scratch.follow.next;
        if WAITING.insert(key, &scratch.blank, 0).is_err() {
            return false;
        }
    }
    let Some(waiting) = WAITING.get_ptr_mut(key) else { return false };
    let packet = &scratch.packet;
    // SAFETY: a value of a map, valid until the program ends; the segments of one flow come by one CPU.
    let first = unsafe { packet.seq.wrapping_sub((*waiting).base) };
    let end = first + packet.len() as u32;
    // SAFETY: as above.
    unsafe {
        if (*waiting).top < end {
            (*waiting).top = end;
        }
    }
    let to = if end < ROOM { end } else { ROOM };
    if first >= to {
        return true;
    }
    let free = free(waiting, first, to);
    // SAFETY: as above.
    let (joins, within) = unsafe {
        let (here, ends) = (&raw mut (*waiting).here, &raw mut (*waiting).ends);
        (has(ends, first), has(here, first) && has(here, first.wrapping_sub(1)))
    };
    // A segment that has nothing new is discarded; one that begins within another is cut.
    let from = if within && !joins { free } else { first };
    if free >= to && !joins || !copy(ctx, packet.offset() as u32 + from - first, waiting, from, to) {
        return true;
    }
    // SAFETY: as above.
    unsafe {
        let (bit, word) = bit(&raw mut (*waiting).ends, to);
        if to < ROOM {
            *word |= bit;
        }
    }
    let mut places = Places { waiting, from, to, free: to };
    // SAFETY: `mark` takes what it is given here, which outlives the loop.
    unsafe { bpf_loop(WORDS, mark as *const () as *mut c_void, (&raw mut places).cast(), 0) };
    true
}

/// Copies bytes of the frame to the places `from..to`.
#[inline(always)]
fn copy(ctx: &XdpContext, offset: u32, waiting: *mut Waiting, from: u32, to: u32) -> bool {
    let mut done = 0;
    for _ in 0..ROOM / CHUNK {
        let left = to - from - done;
        if left == 0 {
            break;
        }
        let n = if left < CHUNK { left } else { CHUNK };
        // SAFETY: a value of a map, valid until the program ends; a chunk fits at every place.
        unsafe {
            // Hidden: as in `bit`.
            let place = black_box(from + done) & (ROOM - 1);
            let place = (&raw mut (*waiting).bytes).cast::<u8>().add(place as usize);
            if !load::<{ CHUNK as usize }>(ctx, (offset + done) as usize, place, n as usize) {
                return false;
            }
        }
        done += n;
    }
    true
}

/// Bytes on their way to the payload.
struct Move {
    from: *const u8,
    to: *mut u8,
    /// Where the first comes from, and goes to.
    source: u32,
    target: u32,
    count: u32,
}

/// Moves a block; more than is asked for of the last one.
extern "C" fn block(turn: u32, bytes: *mut Move) -> i64 {
    // SAFETY: as `append` made it.
    let bytes = unsafe { &*bytes };
    let done = turn * BLOCK;
    if done >= bytes.count {
        return 1;
    }
    for word in 0..BLOCK / 8 {
        let source = (black_box(bytes.source + done) & (ROOM - 1)) + word * 8;
        let target = ((bytes.target + done) & (PAYLOAD - 1)) + word * 8;
        // SAFETY: what is masked lies in its array, and a block behind it there is more of the same value.
        unsafe { word_to(bytes.from.add(source as usize), bytes.to.add(target as usize)) };
    }
    0
}

/// Eight bytes from anywhere to anywhere: LLVM would take them one by one.
///
/// # Safety
/// Both are there.
#[inline(always)]
unsafe fn word_to(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        #[cfg(target_arch = "bpf")]
        core::arch::asm!(
            "{word} = *(u64 *)({from} + 0)",
            "*(u64 *)({to} + 0) = {word}",
            from = in(reg) from,
            to = in(reg) to,
            word = out(reg) _,
        );
        #[cfg(not(target_arch = "bpf"))]
        to.cast::<[u8; 8]>().write(from.cast::<[u8; 8]>().read());
    }
}

/// Bytes of [`Scratch::payload`]; a power of two.
const PAYLOAD: u32 = detector_common::event::EVENT_PAYLOAD_MAX as u32;

/// Puts what waits right behind the segment at hand after its payload, which ends at `scratch.follow.next`;
/// `scratch.state.appended` says how many that were. What else waits.
#[inline(always)]
pub fn append(scratch: &mut Scratch, key: &FlowKey) -> u32 {
    let captured = scratch.header.captured_len;
    let Some(waiting) = WAITING.get_ptr_mut(key) else { return EVICTED };
    // SAFETY: a value of a map, valid until the program ends; the segments of one flow come by one CPU.
    let (first, top) = unsafe { (scratch.follow.next.wrapping_sub((*waiting).base), (*waiting).top) };
    if first >= top {
        return NOTHING;
    }
    let to = if top < ROOM { top } else { ROOM };
    let end = free(waiting, first, to);
    let count = if first < to { end - first } else { 0 };
    if count + captured > PAYLOAD - BLOCK {
        return BEYOND;
    }
    // SAFETY: both are values of maps, valid until the program ends.
    let (from, to) = unsafe { ((&raw const (*waiting).bytes).cast(), (&raw mut scratch.payload).cast()) };
    let mut bytes = Move { from, to, source: first, target: captured, count };
    // SAFETY: `block` takes what it is given here, which outlives the loop.
    unsafe { bpf_loop(ROOM / BLOCK, block as *const () as *mut c_void, (&raw mut bytes).cast(), 0) };
    scratch.state.appended = count;
    match first + count {
        end if end >= top => NOTHING,
        end if end >= ROOM => BEYOND,
        _ => BEHIND,
    }
}
