//! The maps, by the names of `detector_common::maps`. Their sizes here are defaults; userspace sets the configured
//! ones before loading.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash},
};
use detector_common::{
    counter::COUNTERS_LEN,
    event::{EVENT_PAYLOAD_MAX, EventHeader, SegmentImage},
    flow::{Address, FlowKey},
    key::parser::{KEPT, Parser},
    maps::{
        ADMITTED_MAX, ALLOW_MAX, BUCKETS, CONNECTIONS_MAX, FOLLOW_MAX, HANDSHAKES_MAX, LOCAL_ADDRESSES_MAX,
        NEVER_BLOCK_MAX, OPEN_MAX, PENDING_MAX, PORT_WORDS, PREFIXES_MAX, RATES_MAX, RING_BYTES, STASH_MAX,
        UNCONFIRMED_RING_BYTES, WAITING_MAX,
    },
    mode::Mode,
    settings::Settings,
    steer::CHALLENGERS_MAX,
    table::{Bucket, EXEMPT_WORDS, FILTER_WORDS, Stashed},
    verdict::{ConnectionVerdict, Rate, Verdict},
};

use crate::{
    capture::{Event, State},
    enforce::Found,
    mark::{MARKS_LEN, Mark},
    parse::Packet,
    reset::Budget,
    waiting::Waiting,
};

/// `BPF_F_NO_PREALLOC`: memory is taken by the entry, since most hosts hold a handful; the kernel demands it of tries.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`: userspace has it in its own memory.
const MMAPABLE: u32 = 1 << 10;

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
    /// `PROOF_*` of the client's address.
    pub proof: u32,
    /// One of [`crate::key`]'s `READING_*`: what `parser` has read.
    pub parsing: u32,
    pub parser: Parser,
}

/// The address that was last found among this host's, and when: [`detector_common::settings::Settings::addresses`].
#[repr(C)]
pub struct Protected {
    pub address: [u32; 4],
    pub version: u32,
    pub reserved: u32,
}

/// A SYN or a SYN-ACK.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Handshake {
    /// CLOCK_MONOTONIC nanoseconds.
    pub at: u64,
    pub image: SegmentImage,
}

/// Where an event is put together, since the verifier allows only 512 bytes of stack.
#[repr(C)]
pub struct Scratch {
    pub header: EventHeader,
    pub payload: [u8; EVENT_PAYLOAD_MAX],
    /// Where an entry of the handshake tables is put together.
    pub handshake: Handshake,
    /// The same of the followed flows; and what is known of the hello at hand.
    pub follow: Follow,
    /// The packet at hand.
    pub key: FlowKey,
    pub packet: Packet,
    /// What goes into the event.
    pub event: Event,
    /// Between the stages of `capture::segment`.
    pub state: State,
    /// The decision's reason, between its making and its counting.
    pub reason: u32,
    pub reserved: u32,
    /// See `parse::launder`.
    pub offset: u64,
    /// Bytes of the event.
    pub len: u32,
    pub reserved_len: u32,
    /// What the verdicts that match the packet come to.
    pub found: Found,
    /// Outlives the packet.
    pub resets: Budget,
    /// Hellos in SYNs that went into the ring of the confirmed.
    pub opened: Budget,
    /// Likewise.
    pub protected: Protected,
    /// What a new entry of [`WAITING`] begins as: nothing but its base is ever written here.
    pub blank: Waiting,
    /// Of the payload, while the parser's bytes stand in their place.
    pub own: [u8; KEPT as usize],
}

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
pub static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, 0);
#[map]
pub static LOCAL_ADDRESSES: HashMap<Address, u8> = HashMap::with_max_entries(LOCAL_ADDRESSES_MAX, NO_PREALLOC);
#[map]
pub static MODE: Array<Mode> = Array::with_max_entries(1, 0);
#[map]
pub static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);
#[map]
pub static VERDICTS: Array<Bucket> = Array::with_max_entries(BUCKETS, MMAPABLE);
#[map]
pub static STASH: HashMap<u64, Stashed> = HashMap::with_max_entries(STASH_MAX, NO_PREALLOC);
#[map]
pub static FILTER: Array<u64> = Array::with_max_entries(FILTER_WORDS, MMAPABLE);
#[map]
pub static EXEMPT: Array<u64> = Array::with_max_entries(EXEMPT_WORDS, MMAPABLE);
#[map]
pub static RATES: HashMap<u64, Rate> = HashMap::with_max_entries(RATES_MAX, NO_PREALLOC);
#[map]
pub static ADMITTED: LruHashMap<FlowKey, u32> = LruHashMap::with_max_entries(ADMITTED_MAX, 0);
#[map]
pub static PREFIXES: LpmTrie<Address, Verdict> = LpmTrie::with_max_entries(PREFIXES_MAX, NO_PREALLOC);
#[map]
pub static ALLOW: LpmTrie<Address, Verdict> = LpmTrie::with_max_entries(ALLOW_MAX, NO_PREALLOC);
#[map]
pub static NEVER_BLOCK: LpmTrie<Address, u8> = LpmTrie::with_max_entries(NEVER_BLOCK_MAX, NO_PREALLOC);
#[map]
pub static CHALLENGERS: SockHash<u32> = SockHash::with_max_entries(CHALLENGERS_MAX, 0);
#[map]
pub static HEALTHY_UNTIL: HashMap<u32, u64> = HashMap::with_max_entries(CHALLENGERS_MAX, 0);
/// 1 while the XDP program of this CPU asks for a socket: the kernel then runs the steering program for the answer.
#[map]
pub static ASKING: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static CONNECTIONS: HashMap<FlowKey, ConnectionVerdict> = HashMap::with_max_entries(CONNECTIONS_MAX, NO_PREALLOC);
#[map]
pub static FOLLOW: LruHashMap<FlowKey, Follow> = LruHashMap::with_max_entries(FOLLOW_MAX, 0);
#[map]
pub static WAITING: LruHashMap<FlowKey, Waiting> = LruHashMap::with_max_entries(WAITING_MAX, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
#[map]
pub static UNCONFIRMED: RingBuf = RingBuf::with_byte_size(UNCONFIRMED_RING_BYTES, 0);
#[map]
pub static SYNS: LruHashMap<FlowKey, Handshake> = LruHashMap::with_max_entries(HANDSHAKES_MAX, 0);
#[map]
pub static SYN_ACKS: LruHashMap<FlowKey, Handshake> = LruHashMap::with_max_entries(HANDSHAKES_MAX, 0);
#[map]
pub static PENDING: LruHashMap<FlowKey, u64> = LruHashMap::with_max_entries(PENDING_MAX, 0);
#[map]
pub static OPEN: LruHashMap<FlowKey, u8> = LruHashMap::with_max_entries(OPEN_MAX, 0);
/// CLOCK_MONOTONIC nanoseconds until which some hello awaits its proof; 0: none does.
#[map]
pub static PENDING_UNTIL: Array<u64> = Array::with_max_entries(1, 0);
/// By a hash of the flow.
#[map]
pub static MARKS: Array<Mark> = Array::with_max_entries(MARKS_LEN, 0);
#[map]
pub static COUNTERS: PerCpuArray<[u64; COUNTERS_LEN as usize]> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
