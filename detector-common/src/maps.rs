//! Names and default sizes of the maps. aya finds a map by the name of its `static`; these are the same words.
//!
//! Pinned maps outlive the build that made them. A value may grow at its end: the next build reads the beginning of the
//! old ones. Any other change of what values mean takes another name.

/// `Array<Settings>`, one entry.
pub const SETTINGS: &str = "SETTINGS";
/// `Array<u64>`, 1024 entries: bit `port % 64` of entry `port / 64` is set for each protected TCP port.
pub const PORTS: &str = "PORTS";
/// `HashMap<Address, u8>`: addresses of this host, or those the configuration names instead.
pub const LOCAL_ADDRESSES: &str = "LOCAL_ADDRESSES";
/// `Array<Mode>`, one entry.
pub const MODE: &str = "MODE";
/// `Array<u64>`, one entry: CLOCK_MONOTONIC nanoseconds of the daemon's last sign of life.
pub const HEARTBEAT: &str = "HEARTBEAT";
/// `Array<Bucket>`, in userspace's memory too: verdicts on addresses, fingerprints and both together.
pub const VERDICTS: &str = "VERDICTS";
/// `HashMap<u64, Stashed>`: verdicts that found no place there, by name.
pub const STASH: &str = "STASH";
/// `Array<u64>`, in userspace's memory too: which parts of the address space [`PREFIXES`] reaches into.
pub const FILTER: &str = "FILTER";
/// `Array<u64>`, the same: which parts [`ALLOW`] and [`NEVER_BLOCK`] reach into.
pub const EXEMPT: &str = "EXEMPT";
/// `HashMap<u64, Rate>`: of the verdicts that limit a rate.
pub const RATES: &str = "RATES";
/// `LruHashMap<FlowKey, u32>`: connections of limited clients that were let in. Private to the program.
pub const ADMITTED: &str = "ADMITTED";
/// `LpmTrie<Address, Verdict>`: verdicts on source prefixes. Lengths count from the first bit of the mapped form: an IPv4
/// `/n` is `96 + n`.
pub const PREFIXES: &str = "PREFIXES";
/// `LpmTrie<Address, Verdict>`: sources that always pass; consulted only when another verdict is about to apply.
pub const ALLOW: &str = "ALLOW";
/// `LpmTrie<Address, u8>`: sources that nothing may be dropped of, found by the daemon in the host's own configuration.
pub const NEVER_BLOCK: &str = "NEVER_BLOCK";
/// `SockHash<u32>`: listening sockets of challenge listeners, by [`crate::steer::challenger`].
pub const CHALLENGERS: &str = "CHALLENGERS";
/// `HashMap<u32, u64>`, by the same: CLOCK_MONOTONIC nanoseconds until which the listener counts as healthy.
pub const HEALTHY_UNTIL: &str = "HEALTHY_UNTIL";
/// `HashMap<FlowKey, ConnectionVerdict>`: verdicts on single connections.
pub const CONNECTIONS: &str = "CONNECTIONS";
/// `LruHashMap<FlowKey, Follow>`: flows whose ClientHello is not complete yet. Private to the program.
pub const FOLLOW: &str = "FOLLOW";
/// `LruHashMap<FlowKey, Waiting>`: bytes of followed flows that came too early. Private to the program.
pub const WAITING: &str = "WAITING";
/// `RingBuf` of [`crate::event::EventHeader`] and payload bytes: of clients whose address is proven, and answers to them.
pub const EVENTS: &str = "EVENTS";
/// The same of clients whose address isn't proven: a flood of forged hellos fills this one only.
pub const UNCONFIRMED: &str = "UNCONFIRMED";
/// `LruHashMap<FlowKey, Handshake>`: SYNs of clients. Private to the programs.
pub const SYNS: &str = "SYNS";
/// `LruHashMap<FlowKey, Handshake>`: SYN-ACKs that went out, by the client's 4-tuple. Private to the programs.
pub const SYN_ACKS: &str = "SYN_ACKS";
/// `LruHashMap<FlowKey, u64>`: connections whose hello came before the proof of their client's address. Private to the
/// programs.
pub const PENDING: &str = "PENDING";
/// `LruHashMap<FlowKey, u8>`: connections that gave a hello, by the client's 4-tuple, until their server ends them. Private to
/// the programs.
pub const OPEN: &str = "OPEN";
/// `PerCpuArray<[u64; COUNTERS_LEN]>`, one entry, indexed by [`crate::counter::Counter`].
pub const COUNTERS: &str = "COUNTERS";

/// Entries of [`PORTS`].
pub const PORT_WORDS: u32 = 1024;
/// Default of `limits.addresses`.
pub const ADDRESSES_MAX: u32 = 100_000;
/// Default of `limits.prefixes` (threats.md T10).
pub const PREFIXES_MAX: u32 = 100_000;
/// Default of `limits.allow`.
pub const ALLOW_MAX: u32 = 10_000;
/// Default of `limits.connections`.
pub const CONNECTIONS_MAX: u32 = 65_536;
/// Default of `limits.quic_sources`.
pub const QUIC_SOURCES_MAX: u32 = 4_096;
/// Default of `limits.ja4_rules`.
pub const JA4_RULES_MAX: u32 = 10_000;
/// Default of `limits.automatic`.
pub const AUTOMATIC_MAX: u32 = 100_000;
/// Default of `limits.rates`.
pub const RATES_MAX: u32 = 10_000;
/// Entries of [`ADMITTED`].
pub const ADMITTED_MAX: u32 = 65_536;
/// Most entries of [`NEVER_BLOCK`].
pub const NEVER_BLOCK_MAX: u32 = 4_096;
/// Buckets of [`VERDICTS`] before userspace says how many: a power of two.
pub const BUCKETS: u32 = 1 << 16;
/// The same of the entries of [`STASH`].
pub const STASH_MAX: u32 = 8_192;
/// Default of `limits.partial_hellos` (threats.md T18).
pub const FOLLOW_MAX: u32 = 65_536;
/// Default of `limits.disordered_hellos` (threats.md T14); some 5 KB each.
pub const WAITING_MAX: u32 = 4_096;
/// Most local addresses.
pub const LOCAL_ADDRESSES_MAX: u32 = 4_096;
/// Default of `limits.handshakes`: entries of each of [`SYNS`] and [`SYN_ACKS`].
pub const HANDSHAKES_MAX: u32 = 65_536;
/// Entries of [`PENDING`].
pub const PENDING_MAX: u32 = 65_536;
/// Default of `limits.known_connections`: entries of [`OPEN`].
pub const OPEN_MAX: u32 = 131_072;
/// Default of `limits.ring_bytes`; a power of two of pages.
pub const RING_BYTES: u32 = 16 * 1024 * 1024;
/// Default of `limits.unconfirmed_ring_bytes`; a power of two of pages.
pub const UNCONFIRMED_RING_BYTES: u32 = 4 * 1024 * 1024;
