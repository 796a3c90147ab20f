//! The verdict maps, the settings and the counters, as the kernel has them.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
};
use detector_common::{
    counter::COUNTERS_LEN,
    flow::{Address, FLOW_TCP, FLOW_UDP, FlowKey, MAPPED_PREFIX_BITS},
    maps,
    mode::Mode,
    settings::{IN_USE_TABLE, Settings},
    table::{EXEMPT_WORDS, FILTER_WORDS, Stashed, TableSeeds, WIDE_BITS, Word, initials, pair},
    verdict::{Action, ConnectionVerdict, ORIGIN_AUTOMATIC, Rate, Verdict},
};
use ipnet::IpNet;

use super::{
    Counters, Error, Slot, VerdictMaps, pins,
    shape::io_error,
    shared::Shared,
    table::{BUCKET_WORDS, Filter, Stash, Table, Trie},
};
use crate::clock::{Timestamp, monotonic};

/// aya's marker for a type of `detector_common`. Not a feature of that crate: features unify over the workspace, and
/// the eBPF crate would get aya and std.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);
// SAFETY: `repr(C)`, integers only; the zerocopy derives prove that there is no padding.
unsafe impl aya::Pod for Plain<Settings> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Verdict> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<ConnectionVerdict> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<FlowKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Mode> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Stashed> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Rate> {}

/// The form every map uses for an address.
pub(super) fn mapped(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn prefix_key(prefix: &IpNet) -> Key<Address> {
    let extra = if matches!(prefix, IpNet::V4(_)) { MAPPED_PREFIX_BITS } else { 0 };
    Key::new(extra + u32::from(prefix.prefix_len()), mapped(prefix.network()))
}

/// The address of the form that maps use.
fn unmapped(address: &Address) -> IpAddr {
    IpAddr::from(*address).to_canonical()
}

/// The prefix of a trie's key.
fn prefix_of(key: &Key<Address>) -> IpNet {
    let address = unmapped(&key.data());
    let length = key.prefix_len();
    let length = if address.is_ipv4() { length.saturating_sub(MAPPED_PREFIX_BITS) } else { length };
    IpNet::new(address, u8::try_from(length).unwrap_or(u8::MAX)).unwrap_or_else(|_| IpNet::from(address))
}

fn flow_key(source: SocketAddr, destination: SocketAddr, protocol: u32) -> Plain<FlowKey> {
    Plain(FlowKey {
        source: mapped(source.ip()),
        destination: mapped(destination.ip()),
        source_port: source.port(),
        destination_port: destination.port(),
        protocol,
    })
}

/// Where maps are taken from.
pub(super) enum Source<'a> {
    /// The object, as this process has loaded it.
    Object(&'a mut Ebpf),
    /// A directory where they are pinned. That they have the right shapes, [`pins::Pins`] has seen to.
    Pinned(&'a Path),
}

impl Source<'_> {
    fn map(&mut self, name: &'static str) -> Result<Map, Error> {
        match self {
            Self::Object(ebpf) => ebpf.take_map(name).ok_or_else(|| Error::Map(name, "it is missing".to_owned())),
            Self::Pinned(directory) => {
                let path = directory.join(name);
                let map = MapData::from_pin(&path).and_then(Map::from_map_data);
                map.map_err(|error| pins::refused(&path, io_error(error)))
            }
        }
    }
}

/// Takes the map `name`.
pub(super) fn take<M>(source: &mut Source<'_>, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map>,
    M::Error: std::fmt::Display,
{
    M::try_from(source.map(name)?).map_err(|error| Error::Map(name, error.to_string()))
}

/// Seeds that nobody else knows.
fn random_seeds() -> TableSeeds {
    // std seeds it from the system; it needs no further dependency.
    let state = RandomState::new();
    let [ipv4, ipv6, subnet, key, stable] = [1_u8, 2, 3, 4, 5].map(|which| state.hash_one(which));
    TableSeeds { ipv4, ipv6, subnet, key, stable }
}

/// Takes the array `name`, mapped into memory: `words` for each of its entries.
fn take_shared(source: &mut Source<'_>, name: &'static str, words: usize) -> Result<Shared, Error> {
    let Map::Array(data) = source.map(name)? else { return Err(Error::Map(name, "it is no array".to_owned())) };
    Shared::new(name, data, words)
}

/// The stash as the kernel has it.
struct KernelStash(HashMap<MapData, u64, Plain<Stashed>>);

impl Stash for KernelStash {
    fn put(&mut self, name: u64, entry: Stashed) -> Result<(), Error> {
        self.0.insert(name, Plain(entry), 0).map_err(|error| table_error("addresses", &error))
    }

    fn remove(&mut self, name: u64) -> Result<(), Error> {
        removed(self.0.remove(&name))
    }

    fn get(&self, name: u64) -> Option<Stashed> {
        self.0.get(&name, 0).ok().map(|entry| entry.0)
    }
}

/// Where a slot stands.
enum Place {
    /// In the table, by its name.
    Table(u64),
    /// In the trie of prefixes.
    Prefix(IpNet),
    /// In the trie of what is allowed.
    Allow(IpNet),
    /// In the trie of what nothing is dropped of.
    NeverBlock(IpNet),
    /// In the map of connections.
    Connection(Plain<FlowKey>, u32),
}

/// The maps that userspace writes.
pub struct Maps {
    settings: Array<MapData, Plain<Settings>>,
    mode: Array<MapData, Plain<Mode>>,
    heartbeat: Array<MapData, u64>,
    ports: Array<MapData, u64>,
    local: HashMap<MapData, Address, u8>,
    table: Table<Shared, KernelStash>,
    seeds: TableSeeds,
    filter: Filter<Shared>,
    exempt: Filter<Shared>,
    rates: HashMap<MapData, u64, Plain<Rate>>,
    prefixes: LpmTrie<MapData, Address, Plain<Verdict>>,
    allow: LpmTrie<MapData, Address, Plain<Verdict>>,
    never_block: LpmTrie<MapData, Address, u8>,
    connections: HashMap<MapData, Plain<FlowKey>, Plain<ConnectionVerdict>>,
    follow: HashMap<MapData, Plain<FlowKey>, [u8; 128]>,
    /// As last written.
    written: Settings,
    /// `IN_USE_*` of an earlier process: what it has put into the table can't be read back.
    inherited: u32,
    /// What `local` holds.
    own: Vec<IpAddr>,
    /// The settings' number of it.
    own_version: u32,
}

impl Maps {
    pub(super) fn new(source: &mut Source<'_>) -> Result<Self, Error> {
        let verdicts = take_shared(source, maps::VERDICTS, BUCKET_WORDS)?;
        let filter = take_shared(source, maps::FILTER, 1)?;
        let exempt = take_shared(source, maps::EXEMPT, 1)?;
        for (name, shared, least) in [
            (maps::VERDICTS, &verdicts, 2 * BUCKET_WORDS),
            (maps::FILTER, &filter, FILTER_WORDS as usize),
            (maps::EXEMPT, &exempt, EXEMPT_WORDS as usize),
        ] {
            if shared.as_ref().len() < least {
                return Err(Error::Map(name, format!("it has {} words instead of {least}", shared.as_ref().len())));
            }
        }
        let settings: Array<MapData, Plain<Settings>> = take(source, maps::SETTINGS)?;
        // Of zeros, unless the maps are pinned and an earlier process has written to them.
        let written = settings.get(&0, 0).map_err(|error| Error::System("reading settings", error.to_string()))?.0;
        let seeds = if written.table_seeds == TableSeeds::default() { random_seeds() } else { written.table_seeds };
        let mut maps = Self {
            settings,
            mode: take(source, maps::MODE)?,
            heartbeat: take(source, maps::HEARTBEAT)?,
            ports: take(source, maps::PORTS)?,
            local: take(source, maps::LOCAL_ADDRESSES)?,
            table: Table::new(verdicts, KernelStash(take(source, maps::STASH)?), written.table_mask),
            seeds,
            filter: Filter::new(filter),
            exempt: Filter::new(exempt),
            rates: take(source, maps::RATES)?,
            prefixes: take(source, maps::PREFIXES)?,
            allow: take(source, maps::ALLOW)?,
            never_block: take(source, maps::NEVER_BLOCK)?,
            connections: take(source, maps::CONNECTIONS)?,
            follow: take(source, maps::FOLLOW)?,
            written,
            inherited: written.in_use & IN_USE_TABLE,
            own: Vec::new(),
            // Not the one of an earlier process.
            own_version: next_version(written.addresses),
        };
        let stashed: Vec<u64> = maps.table.stash().0.keys().filter_map(Result::ok).collect();
        maps.table.take_up(stashed)?;
        let prefixes = maps.prefixes.keys().filter_map(Result::ok);
        prefixes.for_each(|key| maps.filter.add(Trie::Prefixes, prefix_of(&key)));
        let allowed = maps.allow.keys().filter_map(Result::ok);
        allowed.for_each(|key| maps.exempt.add(Trie::Allow, prefix_of(&key)));
        let never_blocked = maps.never_block.keys().filter_map(Result::ok);
        never_blocked.for_each(|key| maps.exempt.add(Trie::NeverBlock, prefix_of(&key)));
        Ok(maps)
    }

    /// The settings as they are: of zeros, unless the maps are pinned and were in use before.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.written
    }

    /// The verdicts of an earlier process, by the slots that can be read back: all but those in the table.
    #[must_use]
    pub fn entries(&self) -> Vec<(Slot, Verdict)> {
        let allowed =
            self.allow.iter().filter_map(Result::ok).map(|(key, value)| (Slot::Allow(prefix_of(&key)), value.0));
        let prefixes =
            self.prefixes.iter().filter_map(Result::ok).map(|(key, value)| (Slot::Prefix(prefix_of(&key)), value.0));
        let connections = self.connections.iter().filter_map(Result::ok).map(|(Plain(key), Plain(value))| {
            let source = SocketAddr::new(unmapped(&key.source), key.source_port);
            let destination = SocketAddr::new(unmapped(&key.destination), key.destination_port);
            let slot = if key.protocol == FLOW_UDP {
                Slot::Datagrams { source, destination }
            } else {
                Slot::Connection { source, destination, initial_seq: value.initial_seq }
            };
            (slot, value.verdict)
        });
        allowed.chain(prefixes).chain(connections).collect()
    }

    /// Puts verdicts of another table into this one: each by its name, with its hits. What has ended is left out.
    pub(super) fn carry_over(&mut self, verdicts: impl Iterator<Item = (u64, Word, u64)>) -> Result<(), Error> {
        let now = monotonic().as_nanos();
        for (name, word, hits) in verdicts.filter(|(_, word, _)| word.is_live(now)) {
            self.make_room()?;
            self.table.carry_over(name, word, hits, now)?;
        }
        Ok(())
    }

    /// For one more verdict in the table.
    fn make_room(&mut self) -> Result<(), Error> {
        if self.table.is_dense() {
            self.table.grow();
            self.write_settings(self.written)?;
            self.table.settle()?;
        }
        Ok(())
    }

    fn place(&self, slot: &Slot) -> Place {
        let unit = |prefix: &IpNet| self.seeds.unit(&mapped(prefix.network()));
        match slot {
            Slot::Address(address) => Place::Table(self.seeds.address(&mapped(*address))),
            Slot::Prefix(prefix) => match Slot::whole(prefix) {
                Some(address) => Place::Table(self.seeds.address(&mapped(address))),
                None if Slot::is_unit(prefix) => Place::Table(unit(prefix)),
                None => Place::Prefix(*prefix),
            },
            Slot::Fingerprint(key) => Place::Table(self.seeds.key(*key)),
            Slot::Stable(stable) => Place::Table(self.seeds.stable(*stable)),
            Slot::Pair(prefix, key) => Place::Table(pair(unit(prefix), self.seeds.key(*key))),
            Slot::StablePair(prefix, stable) => {
                let bits = prefix.prefix_len().into();
                let place = if WIDE_BITS.contains(&bits) {
                    self.seeds.wide(&mapped(prefix.network()), bits)
                } else {
                    unit(prefix)
                };
                Place::Table(pair(place, self.seeds.stable(*stable)))
            }
            Slot::Allow(prefix) => Place::Allow(*prefix),
            Slot::NeverBlock(prefix) => Place::NeverBlock(*prefix),
            Slot::Connection { source, destination, initial_seq } => {
                Place::Connection(flow_key(*source, *destination, FLOW_TCP), *initial_seq)
            }
            Slot::Datagrams { source, destination } => Place::Connection(flow_key(*source, *destination, FLOW_UDP), 0),
            Slot::Initials(prefix) => Place::Table(initials(unit(prefix))),
        }
    }

    /// The key of a slot's entry in the map of rates; of slots that are not in the table, under the same seeds.
    fn rate_key(&self, place: &Place) -> u64 {
        match place {
            Place::Table(name) => *name,
            Place::Prefix(prefix) | Place::Allow(prefix) | Place::NeverBlock(prefix) => {
                let length = prefix_key(prefix).prefix_len();
                pair(self.seeds.address(&mapped(prefix.network())), u64::from(length))
            }
            Place::Connection(key, _) => pair(self.seeds.address(&key.0.source), u64::from(key.0.source_port)),
        }
    }

    /// What the map says of itself goes along with every writing.
    fn write_settings(&mut self, settings: Settings) -> Result<(), Error> {
        let table_mask = self.table.mask();
        let in_use = settings.in_use | self.inherited;
        let addresses = self.own_version;
        let settings = Settings { table_mask, addresses, in_use, table_seeds: self.seeds, ..settings };
        if settings != self.written {
            let result = self.settings.set(0, Plain(settings), 0);
            result.map_err(|error| Error::System("writing settings", error.to_string()))?;
            self.written = settings;
        }
        Ok(())
    }

    /// Protects these TCP ports and no others.
    ///
    /// # Errors
    /// The kernel's, which has none for this map.
    pub fn protect_ports(&mut self, ports: &[u16]) -> Result<(), Error> {
        let mut words = vec![0u64; maps::PORT_WORDS as usize];
        for &port in ports {
            if let Some(word) = words.get_mut(usize::from(port >> 6)) {
                *word |= 1 << (port & 63);
            }
        }
        for (index, word) in (0u32..).zip(words) {
            self.ports.set(index, word, 0).map_err(|error| Error::System("protecting ports", error.to_string()))?;
        }
        Ok(())
    }

    /// Makes these the protected addresses. Returns whether anything changed.
    ///
    /// # Errors
    /// [`Error::Full`] above 4,096 addresses.
    pub fn protect_addresses(&mut self, addresses: Vec<IpAddr>) -> Result<bool, Error> {
        if addresses == self.own {
            return Ok(false);
        }
        let known: Vec<Address> = self.local.keys().filter_map(Result::ok).collect();
        for address in &addresses {
            self.local.insert(mapped(*address), 1, 0).map_err(|error| table_error("addresses", &error))?;
        }
        let wanted: Vec<Address> = addresses.iter().copied().map(mapped).collect();
        for gone in known.iter().filter(|address| !wanted.contains(address)) {
            // Gone already is as good.
            let _ = self.local.remove(gone);
        }
        self.own = addresses;
        // After the change: who asked before asks once more.
        self.own_version = next_version(self.own_version);
        self.write_settings(self.written)?;
        Ok(true)
    }
}

/// Never 0, which the program begins with.
fn next_version(version: u32) -> u32 {
    version.checked_add(1).unwrap_or(1)
}

fn table_error(table: &'static str, error: &MapError) -> Error {
    if let MapError::SyscallError(syscall) = error
        && matches!(
            syscall.io_error.raw_os_error().map(nix::errno::Errno::from_raw),
            Some(nix::errno::Errno::E2BIG | nix::errno::Errno::ENOSPC | nix::errno::Errno::ENOMEM)
        )
    {
        return Error::Full(table);
    }
    Error::System("writing a verdict map", error.to_string())
}

/// A missing entry is what removing wants.
fn removed(result: Result<(), MapError>) -> Result<(), Error> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::System("removing a verdict", error.to_string())),
    }
}

impl VerdictMaps for Maps {
    fn put(&mut self, slot: &Slot, verdict: Verdict) -> Result<(), Error> {
        let place = self.place(slot);
        let limit = if verdict.action == Action::RateLimit as u8 { self.rate_key(&place) } else { 0 };
        let verdict = Verdict { limit, ..verdict };
        let result = match place {
            Place::Table(name) => {
                self.make_room()?;
                let result = self.table.put(name, Word::new(&verdict), monotonic().as_nanos());
                return result.map_err(|error| match error {
                    Error::Full(_) => Error::Full(slot.table()),
                    error => error,
                });
            }
            Place::Prefix(prefix) => {
                self.filter.add(Trie::Prefixes, prefix);
                self.prefixes.insert(&prefix_key(&prefix), Plain(verdict), 0)
            }
            Place::Allow(prefix) => {
                self.exempt.add(Trie::Allow, prefix);
                self.allow.insert(&prefix_key(&prefix), Plain(verdict), 0)
            }
            Place::NeverBlock(prefix) => {
                self.exempt.add(Trie::NeverBlock, prefix);
                let written = self.never_block.insert(&prefix_key(&prefix), 1, 0);
                return written.map_err(|error| {
                    let what =
                        format!("`{prefix}` does not fit, {} prefixes are the most: {error}", maps::NEVER_BLOCK_MAX);
                    Error::System("writing what is never blocked", what)
                });
            }
            Place::Connection(key, initial_seq) => {
                let value = ConnectionVerdict { verdict, initial_seq, reserved: 0 };
                self.connections.insert(key, Plain(value), 0)
            }
        };
        result.map_err(|error| table_error(slot.table(), &error))
    }

    fn remove(&mut self, slot: &Slot) -> Result<(), Error> {
        let place = self.place(slot);
        removed(self.rates.remove(&self.rate_key(&place)))?;
        removed(match place {
            Place::Table(name) => return self.table.remove(name),
            Place::Prefix(prefix) => {
                let result = self.prefixes.remove(&prefix_key(&prefix));
                self.filter.remove(Trie::Prefixes, &prefix);
                result
            }
            Place::Allow(prefix) => {
                let result = self.allow.remove(&prefix_key(&prefix));
                self.exempt.remove(Trie::Allow, &prefix);
                result
            }
            Place::NeverBlock(prefix) => {
                let result = self.never_block.remove(&prefix_key(&prefix));
                self.exempt.remove(Trie::NeverBlock, &prefix);
                result
            }
            Place::Connection(key, _) => self.connections.remove(&key),
        })
    }

    fn sweep(&mut self, known: &mut dyn Iterator<Item = &Slot>, automatic: bool) -> Result<usize, Error> {
        let names = known.filter_map(|slot| match self.place(slot) {
            Place::Table(name) => Some(name),
            _ => None,
        });
        let names = names.collect();
        self.table.sweep(&names, |word| (word.origin() == ORIGIN_AUTOMATIC) == automatic)
    }

    fn set_rate(&mut self, slot: &Slot, rate: Rate) -> Result<(), Error> {
        let key = self.rate_key(&self.place(slot));
        self.rates.insert(key, Plain(rate), 0).map_err(|error| table_error("rates", &error))
    }

    fn verdict(&self, slot: &Slot) -> Option<Verdict> {
        let verdict = match self.place(slot) {
            Place::Table(name) => {
                let (word, hits) = self.table.verdict(name)?;
                return Some(Verdict {
                    expires_at: word.expires_at(),
                    hits,
                    limit: 0,
                    action: word.action(),
                    origin: word.origin(),
                    reason: word.reason(),
                    reserved: Default::default(),
                });
            }
            // A trie's look-up answers with the longest match, which is the prefix itself while it is there.
            Place::Prefix(prefix) => self.prefixes.get(&prefix_key(&prefix), 0).ok()?.0,
            Place::Allow(prefix) => self.allow.get(&prefix_key(&prefix), 0).ok()?.0,
            Place::NeverBlock(_) => return None,
            Place::Connection(key, _) => self.connections.get(&key, 0).ok()?.0.verdict,
        };
        Some(verdict)
    }

    fn set(&mut self, settings: Settings) -> Result<(), Error> {
        self.write_settings(settings)
    }

    fn set_mode(&mut self, mode: Mode) -> Result<(), Error> {
        self.mode.set(0, Plain(mode), 0).map_err(|error| Error::System("writing the mode", error.to_string()))
    }

    fn mode(&self) -> Result<Mode, Error> {
        let read = self.mode.get(&0, 0).map(|mode| mode.0);
        read.map_err(|error| Error::System("reading the mode", error.to_string()))
    }

    fn beat(&mut self, now: Timestamp) -> Result<(), Error> {
        let result = self.heartbeat.set(0, now.as_nanos(), 0);
        result.map_err(|error| Error::System("writing the sign of life", error.to_string()))
    }

    fn tidy(&mut self) {
        self.filter.tidy();
        self.exempt.tidy();
    }

    fn end_follow(&mut self, source: SocketAddr, destination: SocketAddr) {
        // The program may have ended it itself: nothing is lost either way.
        let _ = self.follow.remove(&flow_key(source, destination, FLOW_TCP));
    }
}

/// The program's counters.
pub struct CounterMap(PerCpuArray<MapData, [u64; COUNTERS_LEN as usize]>);

impl CounterMap {
    pub(super) fn new(source: &mut Source<'_>) -> Result<Self, Error> {
        take(source, maps::COUNTERS).map(Self)
    }

    /// Their sums over the CPUs.
    ///
    /// # Errors
    /// The kernel's, which has none for this map.
    pub fn read(&self) -> Result<Counters, Error> {
        let per_cpu = self.0.get(&0, 0).map_err(|error| Error::System("reading counters", error.to_string()))?;
        let mut sums = vec![0u64; COUNTERS_LEN as usize];
        for cpu in per_cpu.iter() {
            for (sum, value) in sums.iter_mut().zip(cpu) {
                *sum = sum.wrapping_add(*value);
            }
        }
        Ok(Counters::new(sums))
    }
}
