//! Programs that the benchmark of the kernel's side measures against, or with: an object of its own, which the daemon has
//! nothing of.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(clippy::needless_borrows_for_generic_args, reason = "by value, keys are copied to the stack byte by byte")]

#[path = "../search.rs"]
mod search;

use core::hint::black_box;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::bpf_ktime_get_coarse_ns,
    macros::{map, xdp},
    maps::{Array, HashMap, PerCpuArray},
    programs::XdpContext,
};
use detector_common::{
    flow::Address,
    maps::{BUCKETS, STASH_MAX},
    settings::Settings,
    table::{self, Bucket, CELLS, Stashed, Word, neighbour},
};

const MMAPABLE: u32 = 1 << 10;
const NO_PREALLOC: u32 = 1;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// 16-bit words of an IPv4 header without options.
const IPV4_WORDS: usize = 10;

// The daemon's, by their pins.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static VERDICTS: Array<Bucket> = Array::with_max_entries(BUCKETS, MMAPABLE);
#[map]
static STASH: HashMap<u64, Stashed> = HashMap::with_max_entries(STASH_MAX, NO_PREALLOC);

/// What userspace asks for, all in host byte order: the first source address, how many there are, and the index of the
/// interface that the frames go to.
#[map]
static PLAN: Array<u32> = Array::with_max_entries(3, 0);
/// The state of the random numbers, and the cell that was found.
#[map]
static STATE: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

#[xdp]
pub fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// `frags`, as all that is to be on an interface whose peer sends super-frames.
#[xdp(frags)]
pub fn drop(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// The next source address, in host byte order: one of the plan's, at random.
#[inline(always)]
fn source(state: *mut u64) -> Option<u32> {
    let (first, count) = (*PLAN.get(0)?, *PLAN.get(1)?);
    // SAFETY: this CPU's map value.
    let random = unsafe {
        let next = (*state as u32).wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *state = next as u64;
        next ^ (next >> 16)
    };
    Some(first.wrapping_add(((random as u64 * count as u64) >> 32) as u32))
}

/// Looks for the verdict on a random address, as the daemon's program does: dropped if there is one.
#[xdp]
pub fn look_up(_: XdpContext) -> u32 {
    match verdict() {
        // SAFETY: the helper has no preconditions.
        Some(word) if word.is_live(unsafe { bpf_ktime_get_coarse_ns() }) => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn verdict() -> Option<Word> {
    let state = STATE.get_ptr_mut(0)?.cast::<u64>();
    let source = source(state)?;
    let settings = SETTINGS.get(0)?;
    let mut address: Address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    [address[12], address[13], address[14], address[15]] = source.to_be_bytes();
    let name = settings.table_seeds.address(&address);
    let home = table::bucket(name, settings.table_mask);
    // SAFETY: a value of a map, valid until the program ends; its second word is there for this.
    let place = unsafe { state.add(1) };
    for bucket in [home, neighbour(home)] {
        let bucket = VERDICTS.get_ptr_mut(bucket)?;
        // SAFETY: values of maps, valid until the program ends; nothing else counts while the benchmark runs.
        unsafe {
            let found = search::find(bucket, name, place);
            if found.word != 0 {
                let cell = black_box(place.read_volatile() as usize) & CELLS;
                *(&raw mut (*bucket).hits).cast::<u32>().add(cell) += 1;
                return Some(Word(found.word));
            }
            if !found.elsewhere {
                return None;
            }
        }
    }
    let stashed = STASH.get_ptr(&name)?;
    // SAFETY: a value of a map, valid until the program ends.
    Some(Word(unsafe { (*stashed).word }))
}

/// The same without the look-up.
#[xdp]
pub fn draw(_: XdpContext) -> u32 {
    match STATE.get_ptr_mut(0).and_then(|state| source(state.cast())) {
        Some(0) => xdp_action::XDP_ABORTED,
        _ => xdp_action::XDP_PASS,
    }
}

/// Gives the frame a random source address, and sends it on to the plan's interface.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    send(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn send(ctx: &XdpContext) -> Option<u32> {
    let state = STATE.get_ptr_mut(0)?.cast::<u64>();
    let source = source(state)?;
    let interface = *PLAN.get(2)?;
    let start = ctx.data() + ETHERNET;
    if start + 2 * IPV4_WORDS > ctx.data_end() {
        return None;
    }
    let words = start as *mut u16;
    // SAFETY: the header's bytes are in the frame, and two bytes are all that a load here needs to be aligned to.
    unsafe {
        let bytes = source.to_be_bytes();
        words.add(6).write_unaligned(u16::from_ne_bytes([bytes[0], bytes[1]]));
        words.add(7).write_unaligned(u16::from_ne_bytes([bytes[2], bytes[3]]));
        words.add(5).write_unaligned(0);
        let mut sum = 0u32;
        for word in 0..IPV4_WORDS {
            sum += words.add(word).read_unaligned() as u32;
        }
        sum = (sum >> 16) + (sum & 0xffff);
        sum += sum >> 16;
        words.add(5).write_unaligned(!(sum as u16));
        Some(aya_ebpf::helpers::bpf_redirect(interface, 0) as u32)
    }
}

/// For the host this crate is only checked and linted.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// As the daemon's object has it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
