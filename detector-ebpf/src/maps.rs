//! The maps, by the names of `detector_common::maps`. Their sizes here are defaults; userspace sets the configured
//! ones before loading.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use detector_common::{
    counter::COUNTERS_LEN,
    event::{EVENT_PAYLOAD_MAX, EventHeader},
    flow::{Address, FlowKey},
    maps::{
        ADDRESSES_MAX, ALLOW_MAX, CONNECTIONS_MAX, FOLLOW_MAX, LOCAL_ADDRESSES_MAX, PORT_WORDS, PREFIXES_MAX,
        RING_BYTES,
    },
    settings::Settings,
    verdict::{ConnectionVerdict, Verdict},
};

/// `BPF_F_NO_PREALLOC`: memory is taken by the entry, since most hosts hold a handful; the kernel demands it of tries.
const NO_PREALLOC: u32 = 1;

/// A flow whose ClientHello is not complete yet.
#[repr(C)]
pub struct Follow {
    /// CLOCK_MONOTONIC nanoseconds of its first segment.
    pub started_at: u64,
    /// Sequence number of the hello's first byte.
    pub base: u32,
    /// The sequence number up to which every byte was seen.
    pub next: u32,
    /// Bytes from `base` to the end of the hello; 0 while not known (several records, or a first segment too short).
    pub need: u32,
    /// Segments captured.
    pub segments: u32,
}

/// Where an event is put together, since the verifier allows only 512 bytes of stack.
#[repr(C)]
pub struct Scratch {
    pub header: EventHeader,
    pub payload: [u8; EVENT_PAYLOAD_MAX],
}

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
pub static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, 0);
#[map]
pub static LOCAL_ADDRESSES: HashMap<Address, u8> = HashMap::with_max_entries(LOCAL_ADDRESSES_MAX, NO_PREALLOC);
#[map]
pub static ADDRESSES: HashMap<Address, Verdict> = HashMap::with_max_entries(ADDRESSES_MAX, NO_PREALLOC);
#[map]
pub static PREFIXES: LpmTrie<Address, Verdict> = LpmTrie::with_max_entries(PREFIXES_MAX, NO_PREALLOC);
#[map]
pub static ALLOW: LpmTrie<Address, Verdict> = LpmTrie::with_max_entries(ALLOW_MAX, NO_PREALLOC);
#[map]
pub static CONNECTIONS: HashMap<FlowKey, ConnectionVerdict> = HashMap::with_max_entries(CONNECTIONS_MAX, NO_PREALLOC);
#[map]
pub static FOLLOW: LruHashMap<FlowKey, Follow> = LruHashMap::with_max_entries(FOLLOW_MAX, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
#[map]
pub static COUNTERS: PerCpuArray<[u64; COUNTERS_LEN as usize]> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
