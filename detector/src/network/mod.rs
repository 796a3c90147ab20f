//! Room 11: requests with where they come from in, how the networks and the fingerprint of each stand out. In constant
//! time, whatever comes.
//!
//! Memory: the entries of [`Limits`], 100 to 300 bytes each, where very many kinds of people are 900. Of each table the one
//! that was silent longest makes room.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod decayed;
mod kinds;
mod pace;
mod roaming;
mod shown;
mod siblings;
mod view;

use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::num::NonZeroUsize;

use foldhash::fast::RandomState;
use ipnet::IpNet;
use lru::LruCache;

use crate::clock::Timestamp;
use crate::join::Subject;
use decayed::Decayed;
use kinds::Kinds;
use pace::Pace;
use roaming::Roaming;
use shown::Shown;
pub use siblings::Siblings;
pub use view::{Rates, View};

/// The bounds of the tables, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Addresses, and as many networks and sessions.
    pub addresses: usize,
    /// Fingerprints, and as many autonomous systems.
    pub fingerprints: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { addresses: 65_536, fingerprints: 4096 }
    }
}

/// A request, and where it comes from. Hashes are of whoever tells, and must spread evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When it began.
    pub at: Timestamp,
    /// The client's address.
    pub address: IpAddr,
    /// A hash of its fingerprint; `None` behind a proxy.
    pub fingerprint: Option<u64>,
    /// A hash of the fingerprint and of the User-Agent: what kind of client it is.
    pub kind: u64,
    /// A hash of the site's own session id, if it has one.
    pub session: Option<u64>,
    /// The autonomous system, if that is known.
    pub asn: Option<u32>,
    /// The country, ISO 3166-1, if that is known.
    pub country: Option<[u8; 2]>,
    /// It is for a page, not for what belongs to one.
    pub page: bool,
}

impl Observation {
    /// A client's request, whose session, system and country aren't known. `hasher` is the same for all.
    #[must_use]
    pub fn of(subject: &Subject, agent: Option<&str>, page: bool, at: Timestamp, hasher: &impl BuildHasher) -> Self {
        let (address, fingerprint, kind) = match subject {
            Subject::Client { address, ja4_stable, .. } => {
                (*address, Some(hasher.hash_one(ja4_stable)), hasher.hash_one((ja4_stable, agent)))
            }
            Subject::Forwarded { address, agent, headers } => (*address, None, hasher.hash_one((agent, headers))),
        };
        Self { at, address, fingerprint, kind, session: None, asn: None, country: None, page }
    }
}

#[derive(Debug, Default)]
struct Address {
    requests: Decayed,
    kinds: Kinds,
    shown: Shown,
}

#[derive(Debug, Default)]
struct Fingerprint {
    requests: Decayed,
    networks: Kinds,
    pages: Pace,
}

/// What is known of networks, fingerprints and sessions.
#[derive(Debug)]
pub struct Network {
    addresses: LruCache<IpNet, Address, RandomState>,
    prefixes: LruCache<IpNet, Decayed, RandomState>,
    systems: LruCache<u32, Decayed, RandomState>,
    fingerprints: LruCache<u64, Fingerprint, RandomState>,
    sessions: LruCache<u64, Roaming, RandomState>,
    random: RandomState,
}

impl Network {
    /// Without any.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            addresses: table(limits.addresses),
            prefixes: table(limits.addresses),
            systems: table(limits.fingerprints),
            fingerprints: table(limits.fingerprints),
            sessions: table(limits.addresses),
            random: RandomState::default(),
        }
    }

    /// A request came. How its networks and its fingerprint stand with it.
    pub fn note(&mut self, seen: &Observation) -> View {
        let Observation { at, .. } = *seen;
        let (unit, prefix) = (unit(seen.address), prefix(seen.address));
        self.addresses.get_or_insert_mut(unit, Address::default).requests.add(at);
        self.prefixes.get_or_insert_mut(prefix, Decayed::default).add(at);
        if let Some(number) = seen.asn {
            self.systems.get_or_insert_mut(number, Decayed::default).add(at);
        }
        if let Some(hash) = seen.fingerprint {
            let fingerprint = self.fingerprints.get_or_insert_mut(hash, Fingerprint::default);
            fingerprint.requests.add(at);
            fingerprint.networks.add(self.random.hash_one(prefix), at);
            if seen.page {
                fingerprint.pages.note(at);
            }
        }
        if let Some(session) = seen.session {
            let network = self.random.hash_one(seen.asn.map_or(Ok(prefix), Err));
            self.sessions.get_or_insert_mut(session, Roaming::default).note(network, seen.country, at);
        }
        self.look(seen)
    }

    /// The same of a request that is counted already, or will be.
    pub fn look(&mut self, seen: &Observation) -> View {
        let Observation { at, .. } = *seen;
        let prefix = prefix(seen.address);
        let mut view = View { session_networks: 1, session_countries: 1, ..View::default() };
        if let Some(address) = self.addresses.peek_mut(&unit(seen.address)) {
            address.kinds.age(at);
            (view.address, view.clients) = (address.requests.rates(at), address.kinds.count());
            view.shared = seen.fingerprint.is_some_and(|fingerprint| address.shown.has(fingerprint, at));
        }
        view.prefix = self.prefixes.peek(&prefix).map(|requests| requests.rates(at)).unwrap_or_default();
        view.asn = seen.asn.and_then(|number| self.systems.peek(&number)).map(|requests| requests.rates(at));
        if let Some(fingerprint) = seen.fingerprint.and_then(|hash| self.fingerprints.peek_mut(&hash)) {
            fingerprint.networks.age(at);
            view.fingerprint = fingerprint.requests.rates(at);
            (view.networks, view.pace) = (fingerprint.networks.count(), fingerprint.pages.regularity());
        }
        if let Some(roaming) = seen.session.and_then(|session| self.sessions.peek(&session)) {
            (view.session_networks, view.session_countries) = roaming.count(at);
        }
        view
    }

    /// A request like this came from somebody who browses as people do. Nobody else's kind is counted: to change the
    /// User-Agent makes no crowd.
    pub fn shown(&mut self, seen: &Observation) {
        if let Some(address) = self.addresses.peek_mut(&unit(seen.address)) {
            address.kinds.add(self.random.hash_one(seen.kind), seen.at);
            if let Some(fingerprint) = seen.fingerprint {
                address.shown.add(fingerprint, seen.at);
            }
        }
    }

    /// A request like this was stopped, or is to be.
    pub fn stopped(&mut self, seen: &Observation) {
        let at = seen.at;
        let address = self.addresses.peek_mut(&unit(seen.address)).map(|address| &mut address.requests);
        let prefix = self.prefixes.peek_mut(&prefix(seen.address));
        let system = seen.asn.and_then(|number| self.systems.peek_mut(&number));
        let fingerprint = seen.fingerprint.and_then(|hash| self.fingerprints.peek_mut(&hash));
        let fingerprint = fingerprint.map(|fingerprint| &mut fingerprint.requests);
        [address, prefix, system, fingerprint].into_iter().flatten().for_each(|requests| requests.stop(at));
    }
}

/// The prefix within which a client can choose any address.
fn unit(address: IpAddr) -> IpNet {
    within(address, 32, 64)
}

/// The smallest prefix that is one network's own.
fn prefix(address: IpAddr) -> IpNet {
    within(address, 24, 48)
}

fn within(address: IpAddr, v4: u8, v6: u8) -> IpNet {
    let address = address.to_canonical();
    let bits = if address.is_ipv4() { v4 } else { v6 };
    IpNet::new(address, bits).map_or_else(|_| address.into(), |net| net.trunc())
}

fn table<K: Hash + Eq, V>(most: usize) -> LruCache<K, V, RandomState> {
    LruCache::with_hasher(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN), RandomState::default())
}

#[cfg(test)]
mod tests;
