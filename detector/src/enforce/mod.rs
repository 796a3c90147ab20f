//! Room 11: decisions in, entries of the kernel's verdict maps out. Keeps a copy of what the kernel holds, so that an
//! entry's end is known, a full table is an answer and not a surprise, and `detector list` needs no walk over maps.
//!
//! The kernel ends every verdict by itself at its time; this room only clears away what has ended. Memory: as many
//! entries as the kernel's tables take.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use detector_common::{
    key::Keys,
    settings::Settings,
    verdict::{
        Action, FOREVER, ORIGIN_AUTOMATIC, ORIGIN_OPERATOR, ORIGIN_RULE, REASON_COMMAND, REASON_DENY_JA4, REASON_NONE,
        Rate, Verdict,
    },
};
use ipnet::IpNet;

use self::{automatic::Automatics, challenge::Challenges};
use crate::{
    clock::Timestamp,
    fingerprint::Ja4,
    kernel::{Error, Slot, VerdictMaps},
    policy::rules::{Decision, Origin, Rules},
};

pub mod automatic;
pub mod challenge;

#[cfg(test)]
mod tests;

/// How often the kernel gets a sign of life, and what can wait is done.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Operators' verdicts on single addresses.
    pub addresses: usize,
    /// Their verdicts on prefixes.
    pub prefixes: usize,
    /// Their rules on JA4 values.
    pub ja4_rules: usize,
    /// Automatic verdicts.
    pub automatic: usize,
    /// New automatic verdicts in a second.
    pub automatic_per_second: u32,
    /// Units of which it is remembered whether their clients are all of one family.
    pub units: usize,
}

/// The longest a verdict on one connection lasts, whatever its rule says: long after the client has given up, and short
/// enough that forgotten ones don't fill the table.
pub const CONNECTION_VERDICT_MAX: Duration = Duration::from_secs(3600);

/// What `detector list` shows of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it stands.
    pub slot: Slot,
    /// What it does.
    pub action: Action,
    /// Who wanted it.
    pub origin: Origin,
    /// Until when; `None` is forever.
    pub until: Option<Timestamp>,
    /// Packets it decided.
    pub hits: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    action: Action,
    origin: Origin,
    /// A `REASON_*`.
    reason: u8,
    rate: Option<Rate>,
    expires_at: u64,
    /// Tells entries with one expiry apart.
    id: u64,
    /// The rule that a connection's verdict came from.
    ja4: Option<Ja4>,
}

type Expiry = BTreeMap<(u64, u64), Slot>;

/// Entries in force, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// On single addresses.
    pub address: usize,
    /// On prefixes.
    pub prefix: usize,
    /// On the allow list.
    pub allow: usize,
    /// On single connections.
    pub connection: usize,
    /// On JA4 values.
    pub ja4: usize,
    /// Automatic ones, on whatever.
    pub automatic: usize,
}

impl Counts {
    /// The one that `slot` counts for.
    fn of(&mut self, slot: &Slot) -> Option<&mut usize> {
        match slot {
            Slot::Address(_) => Some(&mut self.address),
            Slot::Prefix(_) => Some(&mut self.prefix),
            Slot::Allow(_) => Some(&mut self.allow),
            Slot::Connection { .. } => Some(&mut self.connection),
            Slot::NeverBlock(_) | Slot::Fingerprint(_) | Slot::Stable(_) | Slot::Pair(..) | Slot::StablePair(..) => {
                None
            }
        }
    }
}

/// The verdicts.
#[derive(Debug)]
pub struct Enforcer<M> {
    maps: M,
    settings: Settings,
    rules: Rules,
    limits: Limits,
    automatics: Automatics,
    challenges: Challenges,
    beat: Timestamp,
    entries: HashMap<Slot, Entry>,
    /// By expiry, then by age.
    expiry: Expiry,
    /// The same of verdicts on connections, of which the first is given up when the table is full.
    connection_expiry: Expiry,
    counts: Counts,
    /// Verdicts by their bit of `Settings::in_use`.
    in_use: HashMap<u32, usize>,
    next_id: u64,
    evicted: u64,
}

fn expires_at(until: Option<Timestamp>) -> u64 {
    until.map_or(FOREVER, Timestamp::as_nanos)
}

fn until(expires_at: u64) -> Option<Timestamp> {
    (expires_at != FOREVER).then(|| Timestamp::from_nanos(expires_at))
}

impl<M: VerdictMaps> Enforcer<M> {
    /// Starts with no verdicts, and writes the settings.
    ///
    /// # Errors
    /// The maps'.
    pub fn new(mut maps: M, settings: Settings, rules: Rules, limits: Limits) -> Result<Self, Error> {
        maps.set(settings)?;
        Ok(Self {
            maps,
            settings,
            rules,
            limits,
            automatics: Automatics::new(limits.automatic, limits.automatic_per_second),
            challenges: Challenges::new(limits.units),
            beat: Timestamp::default(),
            entries: HashMap::new(),
            expiry: Expiry::new(),
            connection_expiry: Expiry::new(),
            counts: Counts::default(),
            in_use: HashMap::new(),
            next_id: 0,
            evicted: 0,
        })
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut M {
        &mut self.maps
    }

    /// How many verdicts there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { ja4: self.rules.len(), automatic: self.automatics.len(), ..self.counts }
    }

    /// Connection verdicts given up for newer ones.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Automatic verdicts given up for others; and those that weren't put, since there were too many in their second.
    #[must_use]
    pub fn automatic_lost(&self) -> (u64, u64) {
        (self.automatics.evictions, self.automatics.too_fast)
    }

    /// Blocks a source address.
    ///
    /// # Errors
    /// If the table is full.
    pub fn block_address(&mut self, address: IpAddr, until: Option<Timestamp>) -> Result<(), Error> {
        self.put(Slot::Address(address), Action::Block, Origin::Operator, expires_at(until), None)
    }

    /// Blocks a source prefix.
    ///
    /// # Errors
    /// If the table is full.
    pub fn block_prefix(&mut self, prefix: IpNet, until: Option<Timestamp>) -> Result<(), Error> {
        self.put(Slot::Prefix(prefix), Action::Block, Origin::Operator, expires_at(until), None)
    }

    /// Puts a source prefix on the allow list.
    ///
    /// # Errors
    /// If the table is full.
    pub fn allow(&mut self, prefix: IpNet, until: Option<Timestamp>) -> Result<(), Error> {
        self.put(Slot::Allow(prefix), Action::Allow, Origin::Operator, expires_at(until), None)
    }

    /// Blocks every connection whose hello has this JA4. `key`: that of a hello with it, if one was seen; with that the
    /// program drops the next one itself. Otherwise it learns it when it comes.
    ///
    /// # Errors
    /// If there are too many such rules; the maps'.
    pub fn block_ja4(&mut self, ja4: Ja4, key: Option<u64>, until: Option<Timestamp>) -> Result<(), Error> {
        // A repeated one takes no more room.
        if self.rules.operator_rules() >= self.limits.ja4_rules && !self.rules.unblock(ja4) {
            return Err(Error::Full("ja4_rules"));
        }
        self.rules.block(ja4, until);
        let known = self.entries.iter().filter(|(_, entry)| entry.ja4 == Some(ja4));
        let known = known.filter_map(|(slot, _)| if let Slot::Fingerprint(key) = slot { Some(*key) } else { None });
        let keys: Vec<u64> = key.into_iter().chain(known).collect();
        for key in keys {
            self.arm(key, ja4, Origin::Operator, expires_at(until))?;
        }
        Ok(())
    }

    /// Has the program itself drop the hellos with `key`, whose JA4 is `ja4`, from now on. A full table is no failure: this
    /// one goes on to be dropped by its connections.
    fn arm(&mut self, key: u64, ja4: Ja4, origin: Origin, expires_at: u64) -> Result<(), Error> {
        let slot = Slot::Fingerprint(key);
        let same = |entry: &Entry| entry.origin == origin && entry.expires_at == expires_at;
        if self.entries.get(&slot).is_some_and(same) {
            return Ok(());
        }
        match self.put(slot, Action::Block, origin, expires_at, Some(ja4)) {
            Err(Error::Full(_)) => Ok(()),
            result => result,
        }
    }

    /// Takes back a block or an allow entry; whether there was one.
    ///
    /// # Errors
    /// The maps'.
    pub fn remove(&mut self, slot: &Slot) -> Result<bool, Error> {
        let Some(entry) = self.entries.remove(slot) else { return Ok(false) };
        self.unlist(slot, &entry);
        self.maps.remove(slot)?;
        self.changed(slot, &entry, -1)?;
        Ok(true)
    }

    /// Takes back an operator's block of a JA4, and the verdicts on connections that came of it; whether there was one.
    ///
    /// # Errors
    /// The maps'.
    pub fn unblock_ja4(&mut self, ja4: Ja4) -> Result<bool, Error> {
        let found = self.rules.unblock(ja4);
        let of_it: Vec<Slot> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.ja4 == Some(ja4) && entry.origin == Origin::Operator)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in of_it {
            self.remove(&slot)?;
        }
        Ok(found)
    }

    /// Judges the hello of a connection, and all others with its key; a block is in force when this returns.
    ///
    /// # Errors
    /// The maps'.
    pub fn judge(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        initial_seq: u32,
        (ja4, keys): (Ja4, Keys),
        now: Timestamp,
    ) -> Result<Decision, Error> {
        self.recall(source.ip(), keys, now)?;
        let decision = self.rules.decide(ja4, now);
        if let Decision::Block { origin, until } = decision {
            let longest = now.plus(CONNECTION_VERDICT_MAX).as_nanos();
            let slot = Slot::Connection { source, destination, initial_seq };
            let ends = expires_at(until).min(longest);
            match self.put(slot, Action::Block, origin, ends, Some(ja4)) {
                Err(Error::Full(_)) if self.evict_connection()? => {
                    self.put(slot, Action::Block, origin, ends, Some(ja4))?;
                }
                result => result?,
            }
            self.arm(keys.key, ja4, origin, expires_at(until))?;
        }
        Ok(decision)
    }

    /// Gives the kernel a sign of life, and clears away what has ended, `most` connections and `most` others at a time. Whether there may be more.
    ///
    /// # Errors
    /// The maps'.
    pub fn expire(&mut self, now: Timestamp, most: usize) -> Result<bool, Error> {
        if now.since(self.beat) >= BEAT_EVERY {
            self.beat = now;
            self.maps.beat(now)?;
            self.maps.tidy();
        }
        self.rules.expire(now);
        self.challenges.expire(now);
        let ended = (now.as_nanos(), u64::MAX);
        let slots =
            |expiry: &Expiry| -> Vec<Slot> { expiry.range(..=ended).take(most).map(|(_, slot)| *slot).collect() };
        let (others, connections) = (slots(&self.expiry), slots(&self.connection_expiry));
        let more = others.len() == most || connections.len() == most;
        for slot in others.into_iter().chain(connections) {
            self.remove(&slot)?;
        }
        Ok(more)
    }

    /// What a verdict does; `None` if there is none.
    #[must_use]
    pub fn action(&self, slot: &Slot) -> Option<Action> {
        self.entries.get(slot).map(|entry| entry.action)
    }

    /// When a verdict ends: `None` if there is none, `Some(None)` never.
    #[must_use]
    pub fn until(&self, slot: &Slot) -> Option<Option<Timestamp>> {
        self.entries.get(slot).map(|entry| until(entry.expires_at))
    }

    /// Every verdict but those that come of rules: on connections, and on fingerprints.
    pub fn list(&self) -> impl Iterator<Item = Listed> + '_ {
        self.entries.iter().filter(|(slot, _)| !matches!(slot, Slot::Connection { .. } | Slot::Fingerprint(_))).map(
            |(slot, entry)| Listed {
                slot: *slot,
                action: entry.action,
                origin: entry.origin,
                until: until(entry.expires_at),
                hits: self.maps.hits(slot).unwrap_or(0),
            },
        )
    }

    /// The rules on fingerprints.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    fn expiry_of(&mut self, slot: &Slot) -> &mut Expiry {
        if matches!(slot, Slot::Connection { .. }) { &mut self.connection_expiry } else { &mut self.expiry }
    }

    /// Gives up the connection verdict that would end first.
    fn evict_connection(&mut self) -> Result<bool, Error> {
        let Some(slot) = self.connection_expiry.values().next().copied() else { return Ok(false) };
        self.evicted += 1;
        self.remove(&slot)
    }

    fn put(
        &mut self,
        slot: Slot,
        action: Action,
        origin: Origin,
        expires_at: u64,
        ja4: Option<Ja4>,
    ) -> Result<(), Error> {
        let (origin_code, reason) = match origin {
            Origin::Operator => (ORIGIN_OPERATOR, REASON_COMMAND),
            Origin::Rule => (ORIGIN_RULE, REASON_DENY_JA4),
            Origin::Automatic => (ORIGIN_AUTOMATIC, REASON_NONE),
        };
        let (used, most) = match slot {
            Slot::Address(_) => (self.counts.address, self.limits.addresses),
            Slot::Prefix(_) => (self.counts.prefix, self.limits.prefixes),
            // The kernel's tables have as many entries as the configuration says.
            _ => (0, usize::MAX),
        };
        let replaces = self.entries.get(&slot).is_some_and(|old| old.origin != Origin::Automatic);
        if used >= most && !replaces {
            return Err(Error::Full(slot.table()));
        }
        let entry = Entry { action, origin, reason, rate: None, expires_at, id: 0, ja4 };
        self.install(slot, Verdict::new(action, origin_code, reason, expires_at), entry)
    }

    /// Into the maps, then into the books.
    fn install(&mut self, slot: Slot, verdict: Verdict, entry: Entry) -> Result<(), Error> {
        self.maps.put(&slot, verdict)?;
        self.next_id += 1;
        let entry = Entry { id: self.next_id, ..entry };
        self.expiry_of(&slot).insert((entry.expires_at, entry.id), slot);
        if entry.origin == Origin::Automatic {
            self.automatics.added(slot, &entry);
        }
        // Counted before the old one is uncounted: the program never hears of none between the two.
        self.changed(&slot, &entry, 1)?;
        if let Some(old) = self.entries.insert(slot, entry) {
            self.unlist(&slot, &old);
            self.changed(&slot, &old, -1)?;
        }
        Ok(())
    }

    fn unlist(&mut self, slot: &Slot, entry: &Entry) {
        self.expiry_of(slot).remove(&(entry.expires_at, entry.id));
        if entry.origin == Origin::Automatic {
            self.automatics.gone(entry);
        }
    }

    /// Keeps the counts, and tells the program when there is the first of a kind of verdicts, or none any more: it looks for
    /// no others.
    fn changed(&mut self, slot: &Slot, entry: &Entry, by: isize) -> Result<(), Error> {
        // Automatic ones are counted by themselves.
        if entry.origin != Origin::Automatic
            && let Some(count) = self.counts.of(slot)
        {
            *count = count.saturating_add_signed(by);
        }
        let kind = slot.in_use();
        let count = self.in_use.entry(kind).or_default();
        *count = count.saturating_add_signed(by);
        let in_use = if *count > 0 { self.settings.in_use | kind } else { self.settings.in_use & !kind };
        if in_use != self.settings.in_use {
            self.settings.in_use = in_use;
            self.maps.set(self.settings)?;
        }
        Ok(())
    }
}
