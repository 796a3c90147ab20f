//! Verdicts that nobody ordered by hand: what watches clients wants them, or a program on the operator's behalf. Each has an
//! end, so many are new in a second, and of too many the mildest that ends first goes (threats.md T8). One that had to go
//! is remembered, and comes back with its client's next hello.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroUsize, time::Duration};

use detector_common::{
    key::Keys,
    table::WIDE_BITS,
    verdict::{Action, ORIGIN_AUTOMATIC, Verdict},
};
use ipnet::IpNet;
use lru::LruCache;

use super::{Enforcer, Entry, kernel_rate};
use crate::{
    clock::Timestamp,
    fingerprint::Ja4,
    kernel::{Error, Slot, VerdictMaps},
    policy::{rules::Origin, terms::RateLimit},
};

/// The longest an automatic verdict lasts (threats.md T49).
pub const AUTOMATIC_TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// An automatic verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Automatic {
    /// What it does.
    pub action: Action,
    /// Why: a `REASON_*`.
    pub reason: u8,
    /// Of [`Action::RateLimit`]: how fast new connections may come.
    pub rate: Option<RateLimit>,
    /// Of a fingerprint's slot: whose it is.
    pub ja4: Option<Ja4>,
    /// For how long; [`AUTOMATIC_TTL_MAX`] at most.
    pub ttl: Duration,
}

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// In force, as far as the mode lets it.
    InForce,
    /// Not needed: an operator has said what to do there.
    Overruled,
    /// Not put: there were too many new ones in this second.
    TooFast,
}

/// What is remembered of one that had to go.
#[derive(Clone, Copy, Debug)]
struct Evicted {
    verdict: Automatic,
    expires_at: Timestamp,
}

/// How much an automatic verdict matters: hardness, end, age. No two have the same.
pub type Worth = (Action, u64, u64);

/// The automatic verdicts among the entries.
#[derive(Debug)]
pub(super) struct Automatics {
    most: usize,
    per_second: u32,
    pub(super) by_worth: BTreeMap<Worth, Slot>,
    evicted: LruCache<Slot, Evicted>,
    /// New ones of the second that began then.
    second: Timestamp,
    new: u32,
    pub(super) evictions: u64,
    pub(super) too_fast: u64,
}

impl Automatics {
    pub(super) fn new(most: usize, per_second: u32) -> Self {
        let evicted = LruCache::new(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN));
        let second = Timestamp::default();
        Self { most, per_second, by_worth: BTreeMap::new(), evicted, second, new: 0, evictions: 0, too_fast: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.by_worth.len()
    }

    pub(super) fn added(&mut self, slot: Slot, entry: &Entry) {
        self.by_worth.insert((entry.action, entry.expires_at, entry.id), slot);
        self.evicted.pop(&slot);
    }

    pub(super) fn gone(&mut self, entry: &Entry) {
        self.by_worth.remove(&(entry.action, entry.expires_at, entry.id));
    }

    /// Whether one more is within the rate.
    fn may_add(&mut self, now: Timestamp) -> bool {
        if now.since(self.second) >= Duration::from_secs(1) {
            (self.second, self.new) = (now, 0);
        }
        let may = self.new < self.per_second;
        if may {
            self.new += 1;
        } else {
            self.too_fast += 1;
        }
        may
    }
}

/// What an automatic verdict on a client is about: its IPv4 address, or its IPv6 /64, within which it can choose any
/// (threats.md T45).
#[must_use]
pub fn unit(address: IpAddr) -> IpNet {
    let prefix = match address {
        IpAddr::V4(_) => IpNet::from(address),
        IpAddr::V6(_) => IpNet::new_assert(address, 64),
    };
    prefix.trunc()
}

/// The slot of a whole unit.
#[must_use]
pub fn unit_slot(address: IpAddr) -> Slot {
    if address.is_ipv4() { Slot::Address(address) } else { Slot::Prefix(unit(address)) }
}

impl<M: VerdictMaps> Enforcer<M> {
    /// Puts an automatic verdict in force.
    ///
    /// # Errors
    /// The maps'.
    pub fn automatic(&mut self, slot: Slot, verdict: Automatic, now: Timestamp) -> Result<Placed, Error> {
        let old = self.entries.get(&slot).map(|entry| entry.origin);
        if old.is_some_and(|origin| origin != Origin::Automatic) {
            return Ok(Placed::Overruled);
        }
        if !self.automatics.may_add(now) {
            return Ok(Placed::TooFast);
        }
        if old.is_none() && self.automatics.len() >= self.automatics.most {
            self.evict_automatic(now)?;
        }
        let expires_at = now.plus(verdict.ttl.min(AUTOMATIC_TTL_MAX)).as_nanos();
        if let Some(rate) = verdict.rate {
            self.maps.set_rate(&slot, kernel_rate(rate))?;
        }
        let entry = Entry {
            action: verdict.action,
            origin: Origin::Automatic,
            reason: verdict.reason,
            rate: verdict.rate,
            expires_at,
            id: 0,
            ja4: verdict.ja4,
            by_rule: false,
        };
        self.install(slot, Verdict::new(verdict.action, ORIGIN_AUTOMATIC, verdict.reason, expires_at), entry)?;
        Ok(Placed::InForce)
    }

    /// Gives up the automatic verdict that matters least.
    fn evict_automatic(&mut self, now: Timestamp) -> Result<(), Error> {
        let Some(slot) = self.automatics.by_worth.values().next().copied() else { return Ok(()) };
        if let Some(entry) = self.entries.get(&slot) {
            let expires_at = Timestamp::from_nanos(entry.expires_at);
            let ttl = expires_at.since(now);
            let verdict =
                Automatic { action: entry.action, reason: entry.reason, rate: entry.rate, ja4: entry.ja4, ttl };
            self.automatics.evicted.put(slot, Evicted { verdict, expires_at });
        }
        self.automatics.evictions += 1;
        self.remove(&slot).map(drop)
    }

    /// A hello came: what was decided about its client and had to go holds again.
    pub(super) fn recall(&mut self, client: IpAddr, keys: Keys, now: Timestamp) -> Result<(), Error> {
        if self.automatics.evicted.is_empty() {
            return Ok(());
        }
        let wide = WIDE_BITS.iter().filter(|_| client.is_ipv6()).filter_map(|bits| u8::try_from(*bits).ok());
        let wide = wide.map(|bits| Slot::StablePair(IpNet::new_assert(client, bits).trunc(), keys.stable));
        let own = [unit_slot(client), Slot::Stable(keys.stable), Slot::StablePair(unit(client), keys.stable)];
        for slot in own.into_iter().chain(wide) {
            let Some(Evicted { verdict, expires_at }) = self.automatics.evicted.pop(&slot) else { continue };
            if now < expires_at {
                self.automatic(slot, Automatic { ttl: expires_at.since(now), ..verdict }, now)?;
            }
        }
        Ok(())
    }
}
