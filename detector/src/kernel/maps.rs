//! The verdict maps, the settings and the counters, as the kernel has them.

use std::net::{IpAddr, SocketAddr};

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, lpm_trie::Key},
};
use detector_common::{
    counter::COUNTERS_LEN,
    flow::{Address, FlowKey, MAPPED_PREFIX_BITS},
    maps,
    settings::Settings,
    verdict::{ConnectionVerdict, Verdict},
};
use ipnet::IpNet;

use super::{Counters, Error, Slot, VerdictMaps};

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

fn flow_key(source: SocketAddr, destination: SocketAddr) -> Plain<FlowKey> {
    Plain(FlowKey {
        source: mapped(source.ip()),
        destination: mapped(destination.ip()),
        source_port: source.port(),
        destination_port: destination.port(),
        reserved: 0,
    })
}

/// Takes the map `name` out of the object.
pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<aya::maps::Map>,
    M::Error: std::fmt::Display,
{
    let map = ebpf.take_map(name).ok_or_else(|| Error::Map(name, "it is missing".to_owned()))?;
    M::try_from(map).map_err(|error| Error::Map(name, error.to_string()))
}

/// The maps that userspace writes.
pub struct Maps {
    settings: Array<MapData, Plain<Settings>>,
    ports: Array<MapData, u64>,
    local: HashMap<MapData, Address, u8>,
    addresses: HashMap<MapData, Address, Plain<Verdict>>,
    prefixes: LpmTrie<MapData, Address, Plain<Verdict>>,
    allow: LpmTrie<MapData, Address, Plain<Verdict>>,
    connections: HashMap<MapData, Plain<FlowKey>, Plain<ConnectionVerdict>>,
    fingerprints: HashMap<MapData, u64, Plain<Verdict>>,
    follow: HashMap<MapData, Plain<FlowKey>, [u8; 128]>,
    /// What `local` holds.
    own: Vec<IpAddr>,
}

impl Maps {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            settings: take(ebpf, maps::SETTINGS)?,
            ports: take(ebpf, maps::PORTS)?,
            local: take(ebpf, maps::LOCAL_ADDRESSES)?,
            addresses: take(ebpf, maps::ADDRESSES)?,
            prefixes: take(ebpf, maps::PREFIXES)?,
            allow: take(ebpf, maps::ALLOW)?,
            connections: take(ebpf, maps::CONNECTIONS)?,
            fingerprints: take(ebpf, maps::FINGERPRINTS)?,
            follow: take(ebpf, maps::FOLLOW)?,
            own: Vec::new(),
        })
    }

    /// The settings as they are: of zeros, unless the maps are pinned and were in use before.
    ///
    /// # Errors
    /// The kernel's, which has none for this map.
    pub fn settings(&self) -> Result<Settings, Error> {
        let settings =
            self.settings.get(&0, 0).map_err(|error| Error::System("reading settings", error.to_string()))?;
        Ok(settings.0)
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
        Ok(true)
    }
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
        let result = match slot {
            Slot::Address(address) => self.addresses.insert(mapped(*address), Plain(verdict), 0),
            Slot::Prefix(prefix) => self.prefixes.insert(&prefix_key(prefix), Plain(verdict), 0),
            Slot::Allow(prefix) => self.allow.insert(&prefix_key(prefix), Plain(verdict), 0),
            Slot::Connection { source, destination, initial_seq } => {
                let value = ConnectionVerdict { verdict, initial_seq: *initial_seq, reserved: 0 };
                self.connections.insert(flow_key(*source, *destination), Plain(value), 0)
            }
            Slot::Fingerprint(key) => self.fingerprints.insert(key, Plain(verdict), 0),
        };
        result.map_err(|error| table_error(slot.table(), &error))
    }

    fn remove(&mut self, slot: &Slot) -> Result<(), Error> {
        removed(match slot {
            Slot::Address(address) => self.addresses.remove(&mapped(*address)),
            Slot::Prefix(prefix) => self.prefixes.remove(&prefix_key(prefix)),
            Slot::Allow(prefix) => self.allow.remove(&prefix_key(prefix)),
            Slot::Connection { source, destination, .. } => self.connections.remove(&flow_key(*source, *destination)),
            Slot::Fingerprint(key) => self.fingerprints.remove(key),
        })
    }

    fn hits(&self, slot: &Slot) -> Option<u64> {
        let verdict = match slot {
            Slot::Address(address) => self.addresses.get(&mapped(*address), 0).ok()?.0,
            // A trie's look-up answers with the longest match, which is the prefix itself while it is there.
            Slot::Prefix(prefix) => self.prefixes.get(&prefix_key(prefix), 0).ok()?.0,
            Slot::Allow(prefix) => self.allow.get(&prefix_key(prefix), 0).ok()?.0,
            Slot::Connection { source, destination, .. } => {
                self.connections.get(&flow_key(*source, *destination), 0).ok()?.0.verdict
            }
            Slot::Fingerprint(key) => self.fingerprints.get(key, 0).ok()?.0,
        };
        Some(verdict.hits)
    }

    fn set(&mut self, settings: Settings) -> Result<(), Error> {
        self.settings.set(0, Plain(settings), 0).map_err(|error| Error::System("writing settings", error.to_string()))
    }

    fn end_follow(&mut self, source: SocketAddr, destination: SocketAddr) {
        // The program may have ended it itself: nothing is lost either way.
        let _ = self.follow.remove(&flow_key(source, destination));
    }
}

/// The program's counters.
pub struct CounterMap(PerCpuArray<MapData, [u64; COUNTERS_LEN as usize]>);

impl CounterMap {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        take(ebpf, maps::COUNTERS).map(Self)
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
