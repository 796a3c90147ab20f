//! Proxies that nobody configured: one address and fingerprint that sends the User-Agents of [`FAMILIES`] families of
//! programs within an hour. A program has its own fingerprint, however many people behind a NAT use it; so many that
//! share one have somebody in between. Requests in, whether that may be a proxy out; and the list of those addresses.
//!
//! Memory: [`Candidates`] 100 bytes for each of its bound, [`Suspected`] 60.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use foldhash::fast::RandomState;
use ipnet::IpNet;
use lru::LruCache;

use crate::clock::Timestamp;

/// So many families of programs with one fingerprint on one address are a proxy's clients.
pub const FAMILIES: usize = 8;

/// How long a family counts after its last request, and an address after it was last suspected.
pub const WINDOW: Duration = Duration::from_secs(3600);

/// Half of a hash of a program's name.
pub(super) type Family = NonZeroU32;

/// A family, and when it was last seen.
type Seen = Option<(Family, Timestamp)>;

/// A client becomes the first in the table's order no more often: to move it is to write to its neighbours, which no
/// cache has.
const PLACED: Duration = Duration::from_secs(10);

/// What is thought of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// It is one, or few.
    None,
    /// It is a proxy, which was not thought of it before.
    Begins,
    /// It still is.
    Stays,
}

#[derive(Debug, Default)]
struct Candidate {
    families: [Seen; FAMILIES],
    suspected: bool,
    /// When it became the first in the table's order.
    placed: Timestamp,
}

/// Clients whose families are counted: the one that was silent longest goes first, but for [`PLACED`].
#[derive(Debug)]
pub(super) struct Candidates(LruCache<u64, Candidate, RandomState>);

impl Candidates {
    pub(super) fn new(most: usize) -> Self {
        Self(LruCache::with_hasher(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN), RandomState::default()))
    }

    /// A program of this family sent a request. Whether so many have within the hour; `client` is a hash of address and
    /// fingerprint.
    pub(super) fn note(&mut self, client: u64, family: Option<Family>, now: Timestamp) -> Suspicion {
        let moves = self.0.peek(&client).is_none_or(|known| now.since(known.placed) >= PLACED);
        if moves {
            self.0.get_or_insert_mut(client, Default::default).placed = now;
        }
        let Some(candidate) = self.0.peek_mut(&client) else { return Suspicion::None };
        let seen = &mut candidate.families;
        let counts = |place: &Seen| place.is_some_and(|(_, at)| now.since(at) < WINDOW);
        if let Some(family) = family {
            let own = seen.iter().position(|place| place.is_some_and(|(known, _)| known == family));
            let place = own.or_else(|| seen.iter().position(|place| !counts(place)));
            if let Some(place) = place.and_then(|place| seen.get_mut(place)) {
                *place = Some((family, now));
            }
        }
        let before = std::mem::replace(&mut candidate.suspected, seen.iter().all(counts));
        match (before, candidate.suspected) {
            (_, false) => Suspicion::None,
            (false, true) => Suspicion::Begins,
            (true, true) => Suspicion::Stays,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The addresses that may be proxies. Packets of theirs are those of many people.
#[derive(Debug)]
pub struct Suspected {
    most: usize,
    /// Until when.
    addresses: BTreeMap<IpAddr, Timestamp>,
}

impl Suspected {
    /// With room for so many; beyond them none is added until one's time is over.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { most, addresses: BTreeMap::new() }
    }

    /// One may be a proxy. Whether that is news.
    pub fn note(&mut self, address: IpAddr, now: Timestamp) -> bool {
        let until = now.plus(WINDOW);
        if let Some(known) = self.addresses.get_mut(&address) {
            *known = until;
            return false;
        }
        if self.addresses.len() >= self.most {
            self.expire(now);
        }
        self.addresses.len() < self.most && self.addresses.insert(address, until).is_none()
    }

    /// Forgets those whose hour is over.
    pub fn expire(&mut self, now: Timestamp) {
        self.addresses.retain(|_, until| now < *until);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Those in a prefix, in the order of their numbers.
    pub fn within(&self, prefix: IpNet) -> impl Iterator<Item = IpAddr> {
        self.addresses.range(prefix.network()..=prefix.broadcast()).map(|(address, _)| *address)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn family(number: u32) -> Option<Family> {
        NonZeroU32::new(number)
    }

    #[test]
    fn families_count_for_an_hour() {
        let mut candidates = Candidates::new(10);
        let mut note = |family, now| candidates.note(7, family, now);
        for number in 1..FAMILIES as u32 {
            assert_eq!(note(family(number), at(10)), Suspicion::None);
        }
        assert_eq!(note(family(8), at(3610)), Suspicion::None, "the others were there an hour ago");
        for number in 1..FAMILIES as u32 - 1 {
            assert_eq!(note(family(number), at(4000)), Suspicion::None);
        }
        assert_eq!(note(family(7), at(4001)), Suspicion::Begins);
        assert_eq!(note(family(99), at(7000)), Suspicion::Stays, "eight of them, and a ninth");
        assert_eq!(note(None, at(7209)), Suspicion::Stays);
        assert_eq!(note(None, at(7210)), Suspicion::None, "the eighth was there an hour ago");
    }

    #[test]
    fn a_flood_of_clients_is_bounded() {
        let mut candidates = Candidates::new(100);
        assert!((0..1000).all(|client| candidates.note(client, None, at(1)) == Suspicion::None));
        assert_eq!(candidates.len(), 100);
        let mut suspected = Suspected::new(100);
        let news = (0..1000).filter(|&number| suspected.note(IpAddr::from(u32::to_be_bytes(number)), at(1))).count();
        assert_eq!((news, suspected.len()), (100, 100));
        assert!(suspected.note(IpAddr::from([192, 0, 2, 7]), at(3601)), "the others' hour is over");
        assert_eq!(suspected.len(), 1);
    }

    #[test]
    fn they_are_found_in_prefixes() {
        let mut suspected = Suspected::new(10);
        for text in ["192.0.2.7", "192.0.2.200", "198.51.100.1", "2001:db8::7"] {
            assert!(suspected.note(text.parse().unwrap(), at(1)));
            assert!(!suspected.note(text.parse().unwrap(), at(2)));
        }
        let within = |prefix: &str| {
            suspected.within(prefix.parse().unwrap()).map(|address| address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(within("192.0.2.0/24"), ["192.0.2.7", "192.0.2.200"]);
        assert_eq!(within("192.0.2.7/32"), ["192.0.2.7"]);
        assert_eq!(within("192.0.2.8/32"), [""; 0]);
        assert_eq!(within("::/0"), ["2001:db8::7"]);
        assert_eq!(within("0.0.0.0/0").len(), 3);
    }
}
