//! Operators' verdicts on requests, not packets: subjects in; what a web server is told of a request of one client, out.
//!
//! The hardest that applies holds, unless the client's address is on the allow list or never blocked. Memory: as many
//! verdicts as [`Verdicts::new`] was told, some 100 bytes each, and as many allow entries as the packets' allow list has.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use ipnet::IpNet;

use super::{subject::Subject, terms::Measure, ttl::Ttl};
use crate::{clock::Timestamp, fingerprint::Ja4};

/// What a web server is told of a request. In order of hardness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ruling {
    /// To be answered.
    Allow,
    /// To be answered with a challenge.
    Challenge,
    /// Not to be answered.
    Deny,
}

impl Ruling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Challenge, Self::Deny];

    /// The word in the answer's header, and the metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Challenge => "challenge",
            Self::Deny => "deny",
        }
    }
}

/// What a verdict on requests does. In order of hardness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// Counts them.
    Observe,
    /// Has them answered with a challenge.
    Challenge,
    /// Has them refused.
    Block,
}

impl Order {
    /// What a block with this measure does to requests; `None` if it can't be done to them.
    #[must_use]
    pub const fn of(measure: Measure) -> Option<Self> {
        match measure {
            Measure::Block => Some(Self::Block),
            Measure::Observe => Some(Self::Observe),
            Measure::RateLimit(_) => None,
        }
    }

    const fn ruling(self) -> Ruling {
        match self {
            Self::Observe => Ruling::Allow,
            Self::Challenge => Ruling::Challenge,
            Self::Block => Ruling::Deny,
        }
    }
}

/// A challenge and a block are two orders about one subject, which are given and taken back each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Or one that only counts.
    Block,
    /// A challenge.
    Challenge,
}

impl From<Order> for Kind {
    fn from(order: Order) -> Self {
        if order == Order::Challenge { Self::Challenge } else { Self::Block }
    }
}

/// A verdict, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// About whom, in the short form.
    pub subject: Subject,
    /// What it does.
    pub order: Order,
    /// Until when; `None` is forever.
    pub until: Option<Timestamp>,
    /// Requests that it decided.
    pub hits: u64,
}

impl Listed {
    /// The time that is left.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> Ttl {
        self.until.map_or(Ttl::Forever, |until| Ttl::For(until.since(now)))
    }
}

/// Whom a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whom {
    Source(IpNet),
    Client(Ja4),
    Both(IpNet, Ja4),
}

impl Whom {
    fn of(subject: &Subject) -> Option<Self> {
        Some(match (subject.as_prefix(), subject.as_ja4()) {
            (Some(prefix), None) => Self::Source(prefix),
            (None, Some(ja4)) => Self::Client(ja4),
            (Some(unit), Some(ja4)) => Self::Both(unit, ja4),
            (None, None) => return None,
        })
    }

    fn subject(self) -> Subject {
        match self {
            Self::Source(prefix) => Subject::from(prefix),
            Self::Client(ja4) => Subject::Ja4(ja4),
            Self::Both(unit, ja4) => Subject::Pair(unit, Box::new(Subject::Ja4(ja4))),
        }
    }
}

#[derive(Debug)]
struct Verdict {
    order: Order,
    until: Option<Timestamp>,
    hits: AtomicU64,
}

/// How many prefixes there are of each length: an address is looked for once under each.
#[derive(Debug, Default)]
struct Lengths(BTreeMap<(bool, u8), usize>);

impl Lengths {
    fn of(prefix: IpNet) -> (bool, u8) {
        (matches!(prefix, IpNet::V6(_)), prefix.prefix_len())
    }

    fn add(&mut self, prefix: IpNet) {
        *self.0.entry(Self::of(prefix)).or_default() += 1;
    }

    fn remove(&mut self, prefix: IpNet) {
        if let Some(count) = self.0.get_mut(&Self::of(prefix)) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&Self::of(prefix));
            }
        }
    }

    /// The prefixes around `address`, of every length that there is.
    fn around(&self, address: IpAddr) -> impl Iterator<Item = IpNet> {
        let lengths = self.0.keys().filter(move |(v6, _)| *v6 == address.is_ipv6());
        lengths.filter_map(move |(_, length)| IpNet::new(address, *length).ok()).map(|prefix| prefix.trunc())
    }
}

/// Prefixes whose clients pass, until when.
#[derive(Debug, Default)]
struct Spared {
    until: HashMap<IpNet, Option<Timestamp>>,
    lengths: Lengths,
}

impl Spared {
    fn put(&mut self, prefix: IpNet, until: Option<Timestamp>) {
        if self.until.insert(prefix, until).is_none() {
            self.lengths.add(prefix);
        }
    }

    fn remove(&mut self, prefix: IpNet) {
        if self.until.remove(&prefix).is_some() {
            self.lengths.remove(prefix);
        }
    }

    fn has(&self, address: IpAddr, now: Timestamp) -> bool {
        self.lengths.around(address).any(|prefix| self.until.get(&prefix).is_some_and(|until| live(*until, now)))
    }
}

/// The verdicts on requests that are in force.
#[derive(Debug)]
pub struct Verdicts {
    most: usize,
    verdicts: HashMap<(Whom, Kind), Verdict>,
    /// Of those on prefixes.
    lengths: Lengths,
    allow: Spared,
    never_block: Spared,
}

/// A table that takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {0} verdicts on requests, as many as may be")]
pub struct Full(pub usize);

impl Verdicts {
    /// Without any; room for `most`.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            verdicts: HashMap::new(),
            lengths: Lengths::default(),
            allow: Spared::default(),
            never_block: Spared::default(),
        }
    }

    /// How many there are, ended ones that nobody has cleared included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }

    /// Puts a verdict in force, in the place of an older one of its kind about the same.
    ///
    /// # Errors
    /// When there are too many.
    pub fn put(&mut self, subject: &Subject, order: Order, until: Option<Timestamp>) -> Result<(), Full> {
        let Some(whom) = Whom::of(subject) else { return Ok(()) };
        let (key, full) = ((whom, Kind::from(order)), self.verdicts.len() >= self.most);
        if full && !self.verdicts.contains_key(&key) {
            return Err(Full(self.most));
        }
        let before = self.verdicts.insert(key, Verdict { order, until, hits: AtomicU64::new(0) });
        if let (Whom::Source(prefix), None) = (whom, before) {
            self.lengths.add(prefix);
        }
        Ok(())
    }

    /// Whether there is a verdict of this kind about a subject.
    #[must_use]
    pub fn has(&self, subject: &Subject, kind: Kind, now: Timestamp) -> bool {
        let verdict = Whom::of(subject).and_then(|whom| self.verdicts.get(&(whom, kind)));
        verdict.is_some_and(|verdict| live(verdict.until, now))
    }

    /// Takes a verdict back; what it was, if it was still in force.
    pub fn remove(&mut self, subject: &Subject, kind: Kind, now: Timestamp) -> Option<Listed> {
        let whom = Whom::of(subject)?;
        let Verdict { order, until, hits } = self.verdicts.remove(&(whom, kind))?;
        if let Whom::Source(prefix) = whom {
            self.lengths.remove(prefix);
        }
        let hits = hits.into_inner();
        live(until, now).then(|| Listed { subject: whom.subject(), order, until, hits })
    }

    /// Lets clients of these addresses pass, whatever else is said.
    pub fn allow(&mut self, prefix: IpNet, until: Option<Timestamp>) {
        self.allow.put(prefix, until);
    }

    /// No longer.
    pub fn unallow(&mut self, prefix: IpNet) {
        self.allow.remove(prefix);
    }

    /// Makes these what is never blocked.
    pub fn never_block(&mut self, prefixes: impl IntoIterator<Item = IpNet>) {
        self.never_block = Spared::default();
        for prefix in prefixes {
            self.never_block.put(prefix, None);
        }
    }

    /// Clears what has ended.
    pub fn expire(&mut self, now: Timestamp) {
        let Self { verdicts, lengths, allow, .. } = self;
        verdicts.retain(|(whom, _), verdict| {
            let stays = live(verdict.until, now);
            if let (Whom::Source(prefix), false) = (*whom, stays) {
                lengths.remove(prefix);
            }
            stays
        });
        allow.until.retain(|prefix, until| {
            let stays = live(*until, now);
            if !stays {
                allow.lengths.remove(*prefix);
            }
            stays
        });
    }

    /// Whether the allow list or the never-block set has an address.
    #[must_use]
    pub fn spares(&self, address: IpAddr, now: Timestamp) -> bool {
        self.never_block.has(address, now) || self.allow.has(address, now)
    }

    /// What is to become of a request from this address, of a client with this JA4 if that is known. Counts it.
    #[must_use]
    pub fn decide(&self, address: IpAddr, ja4: Option<Ja4>, now: Timestamp) -> Ruling {
        if self.spares(address, now) {
            return Ruling::Allow;
        }
        let sources = self.lengths.around(address).map(Whom::Source);
        let client = ja4.map(Whom::Client);
        let both = ja4.and_then(|ja4| Some(Whom::Both(unit(address)?, ja4)));
        let whom = sources.chain(client).chain(both);
        let verdicts =
            whom.flat_map(|whom| [Kind::Block, Kind::Challenge].map(|kind| self.verdicts.get(&(whom, kind))));
        let hardest = verdicts.flatten().filter(|verdict| live(verdict.until, now)).max_by_key(|verdict| verdict.order);
        hardest.map_or(Ruling::Allow, |verdict| {
            verdict.hits.fetch_add(1, Ordering::Relaxed);
            verdict.order.ruling()
        })
    }

    /// All verdicts in force.
    pub fn list(&self, now: Timestamp) -> impl Iterator<Item = Listed> + '_ {
        let in_force = self.verdicts.iter().filter(move |(_, verdict)| live(verdict.until, now));
        in_force.map(|((whom, _), Verdict { order, until, hits })| Listed {
            subject: whom.subject(),
            order: *order,
            until: *until,
            hits: hits.load(Ordering::Relaxed),
        })
    }
}

fn live(until: Option<Timestamp>, now: Timestamp) -> bool {
    until.is_none_or(|until| now < until)
}

/// What a pair names of an address: all of it, or the /64 within which a client can choose any (threats.md T45).
fn unit(address: IpAddr) -> Option<IpNet> {
    let length = if address.is_ipv4() { 32 } else { 64 };
    IpNet::new(address, length).ok().map(|unit| unit.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JA4: &str = "t13d1516h2_8daaf6152771_e5627efa2ab1";
    const OTHER: &str = "t13d1516h2_8daaf6152771_d8a2da3f94cd";

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_nanos(secs * 1_000_000_000)
    }

    fn verdicts(orders: &[(&str, Order)]) -> Verdicts {
        let mut verdicts = Verdicts::new(8);
        for (subject, order) in orders {
            verdicts.put(&subject.parse().unwrap(), *order, Some(at(60))).unwrap();
        }
        verdicts
    }

    fn ruling(verdicts: &Verdicts, address: &str, ja4: Option<&str>) -> Ruling {
        verdicts.decide(address.parse().unwrap(), ja4.map(|ja4| ja4.parse().unwrap()), at(1))
    }

    #[test]
    fn each_kind_of_subject_names_its_clients_and_no_others() {
        let pair = format!("192.0.2.9+{JA4}");
        for (subject, hit, missed) in [
            ("192.0.2.7", ("192.0.2.7", None), ("192.0.2.8", None)),
            ("192.0.2.0/24", ("192.0.2.7", Some(OTHER)), ("192.0.3.7", Some(JA4))),
            ("2001:db8::/48", ("2001:db8::7", None), ("2001:db8:1::7", None)),
            (JA4, ("192.0.2.7", Some(JA4)), ("192.0.2.7", Some(OTHER))),
            (JA4, ("2001:db8::7", Some(JA4)), ("2001:db8::7", None)),
            (&pair, ("192.0.2.9", Some(JA4)), ("192.0.2.9", Some(OTHER))),
            (&pair, ("192.0.2.9", Some(JA4)), ("192.0.2.8", Some(JA4))),
        ] {
            let verdicts = verdicts(&[(subject, Order::Block)]);
            assert_eq!(ruling(&verdicts, hit.0, hit.1), Ruling::Deny, "{subject} {hit:?}");
            assert_eq!(ruling(&verdicts, missed.0, missed.1), Ruling::Allow, "{subject} {missed:?}");
        }
        let unit = verdicts(&[(&format!("2001:db8:0:5::/64+{JA4}"), Order::Block)]);
        assert_eq!(ruling(&unit, "2001:db8:0:5::77", Some(JA4)), Ruling::Deny);
    }

    #[test]
    fn the_hardest_holds_and_alone_is_counted() {
        let verdicts = verdicts(&[
            ("192.0.2.7", Order::Observe),
            ("192.0.2.0/24", Order::Challenge),
            (JA4, Order::Block),
            ("192.0.2.8", Order::Observe),
        ]);
        assert_eq!(ruling(&verdicts, "192.0.2.7", Some(JA4)), Ruling::Deny);
        assert_eq!(ruling(&verdicts, "192.0.2.7", None), Ruling::Challenge);
        let mut hits: Vec<(Order, u64)> = verdicts.list(at(1)).map(|listed| (listed.order, listed.hits)).collect();
        hits.sort_unstable();
        assert_eq!(hits, [(Order::Observe, 0), (Order::Observe, 0), (Order::Challenge, 1), (Order::Block, 1)]);
    }

    #[test]
    fn the_allow_list_and_what_is_never_blocked_win() {
        let mut verdicts = verdicts(&[("0.0.0.0/0", Order::Block), (JA4, Order::Block)]);
        verdicts.allow("192.0.2.0/25".parse().unwrap(), Some(at(60)));
        verdicts.never_block(["198.51.100.7/32".parse().unwrap()]);
        for spared in ["192.0.2.7", "198.51.100.7"] {
            assert_eq!(ruling(&verdicts, spared, Some(JA4)), Ruling::Allow, "{spared}");
        }
        assert_eq!(ruling(&verdicts, "192.0.2.130", None), Ruling::Deny);
        verdicts.unallow("192.0.2.0/25".parse().unwrap());
        verdicts.never_block([]);
        for hit in ["192.0.2.7", "198.51.100.7"] {
            assert_eq!(ruling(&verdicts, hit, None), Ruling::Deny, "{hit}");
        }
    }

    #[test]
    fn what_has_ended_does_not_apply_and_makes_room() {
        let mut verdicts = verdicts(&[("192.0.2.7", Order::Block), (JA4, Order::Challenge)]);
        verdicts.allow("192.0.2.9/32".parse().unwrap(), Some(at(60)));
        let address = "192.0.2.7".parse().unwrap();
        assert_eq!(verdicts.decide(address, None, at(59)), Ruling::Deny);
        assert_eq!(verdicts.decide(address, Some(JA4.parse().unwrap()), at(60)), Ruling::Allow);
        assert_eq!(verdicts.list(at(60)).count(), 0);
        assert_eq!(verdicts.remove(&JA4.parse().unwrap(), Kind::Challenge, at(60)), None);
        verdicts.expire(at(60));
        assert!(verdicts.is_empty() && verdicts.lengths.0.is_empty() && verdicts.allow.until.is_empty());
    }

    #[test]
    fn a_full_table_takes_a_new_order_about_what_it_has() {
        let subjects: Vec<String> = (0..8).map(|last| format!("192.0.2.{last}")).collect();
        let orders: Vec<(&str, Order)> = subjects.iter().map(|subject| (subject.as_str(), Order::Block)).collect();
        let mut verdicts = verdicts(&orders);
        let [known, new] = ["192.0.2.3", "192.0.2.9"].map(|subject| subject.parse::<Subject>().unwrap());
        assert_eq!(verdicts.put(&new, Order::Block, None), Err(Full(8)));
        assert_eq!(verdicts.put(&known, Order::Observe, None), Ok(()));
        assert_eq!(verdicts.put(&known, Order::Challenge, None), Err(Full(8)), "a challenge is another order");
        let taken = verdicts.remove(&known, Kind::Block, at(1)).unwrap();
        assert_eq!((taken.order, taken.left(at(1))), (Order::Observe, Ttl::Forever));
        assert_eq!(verdicts.put(&new, Order::Block, None), Ok(()));
    }
}
