//! Room 14: decisions in, entries of the kernel's verdict maps out. Keeps a copy of what the kernel holds, so that an
//! entry's end is known, a full table is an answer and not a surprise, and `detector list` needs no walk over maps.
//!
//! The kernel ends every verdict by itself at its time; this room only clears away what has ended. Memory: as many
//! entries as the kernel's tables take.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use detector_common::{
    key::{Keys, Seeds},
    settings::{IN_USE_TABLE, Settings},
    verdict::{
        Action, FOREVER, ORIGIN_AUTOMATIC, ORIGIN_OPERATOR, ORIGIN_RULE, REASON_COMMAND, REASON_DENY_JA4, REASON_NONE,
        Rate, Verdict,
    },
};
use ipnet::IpNet;

use self::{
    automatic::{Automatics, unit},
    challenge::Challenges,
};
use crate::{
    clock::Timestamp,
    fingerprint::{Ja4, Transport},
    kernel::{Error, Slot, VerdictMaps},
    policy::{
        rules::{Decision, Origin, Rules},
        terms::RateLimit,
    },
};

pub mod automatic;
pub mod challenge;
pub mod handover;
pub mod store;

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
    /// Verdicts on sources' QUIC Initial packets.
    pub quic_sources: usize,
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

/// How long a source's new QUIC connections are dropped after one with a blocked JA4 value. Nothing in an Initial packet
/// that the program could read says whose it is, so others behind the same address do without QUIC meanwhile: they
/// connect over TCP, and are judged by what they are.
pub const INITIALS_VERDICT: Duration = Duration::from_secs(60);

/// What `detector list` shows of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it stands.
    pub slot: Slot,
    /// Of the fingerprint it is about.
    pub ja4: Option<Ja4>,
    /// What it does.
    pub action: Action,
    /// Who wanted it.
    pub origin: Origin,
    /// Until when; `None` is forever.
    pub until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    action: Action,
    origin: Origin,
    /// A `REASON_*`.
    reason: u8,
    rate: Option<RateLimit>,
    expires_at: u64,
    /// Tells entries with one expiry apart.
    id: u64,
    /// Of the fingerprint it is about, or whose rule it came from.
    ja4: Option<Ja4>,
    /// It came from a rule on that, and isn't told by itself.
    by_rule: bool,
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
    /// On sources' QUIC Initial packets.
    pub quic_source: usize,
    /// On JA4 values.
    pub ja4: usize,
    /// On fingerprints from one place.
    pub pair: usize,
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
            Slot::Connection { .. } | Slot::Datagrams { .. } => Some(&mut self.connection),
            Slot::Initials(_) => Some(&mut self.quic_source),
            Slot::Pair(..) => Some(&mut self.pair),
            Slot::NeverBlock(_) | Slot::Fingerprint(_) | Slot::Stable(_) | Slot::StablePair(..) => None,
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
    /// Written without an error.
    beats: u64,
    /// No hash table: one of 100,000 entries takes tens of milliseconds to grow, and hellos wait meanwhile.
    entries: BTreeMap<Slot, Entry>,
    /// By expiry, then by age.
    expiry: Expiry,
    /// The same of verdicts on connections, of which the first is given up when the table is full.
    connection_expiry: Expiry,
    /// The same of sources' QUIC Initial packets.
    initials_expiry: Expiry,
    counts: Counts,
    /// What came of each rule on a JA4 value.
    by_ja4: HashMap<Ja4, HashSet<Slot>>,
    /// What the program lets pass whatever it is told.
    never_block: HashSet<IpNet>,
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

fn action_of(code: u8) -> Action {
    let actions = [Action::Allow, Action::Challenge, Action::RateLimit, Action::Block];
    actions.into_iter().find(|known| *known as u8 == code).unwrap_or(Action::Observe)
}

/// A rate as the kernel counts it.
fn kernel_rate(limit: RateLimit) -> Rate {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Rate { due_at: 0, interval_ns: nanos(limit.interval()), tolerance_ns: nanos(limit.tolerance()) }
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
            beats: 0,
            entries: BTreeMap::new(),
            expiry: Expiry::new(),
            connection_expiry: Expiry::new(),
            initials_expiry: Expiry::new(),
            counts: Counts::default(),
            by_ja4: HashMap::new(),
            never_block: HashSet::new(),
            in_use: HashMap::new(),
            next_id: 0,
            evicted: 0,
        })
    }

    /// Takes into the books what an earlier process has put into the maps, and clears away what has ended.
    ///
    /// # Errors
    /// The maps'.
    pub fn adopt(&mut self, found: Vec<(Slot, Verdict)>, now: Timestamp) -> Result<(), Error> {
        for (slot, verdict) in found {
            let Verdict { expires_at, action, origin, reason, .. } = verdict;
            if expires_at <= now.as_nanos() {
                self.maps.remove(&slot)?;
                continue;
            }
            let action = action_of(action);
            let origin = match origin {
                ORIGIN_OPERATOR => Origin::Operator,
                ORIGIN_RULE => Origin::Rule,
                _ => Origin::Automatic,
            };
            let by_rule = matches!(slot, Slot::Connection { .. } | Slot::Datagrams { .. });
            self.enter(slot, Entry { action, origin, reason, rate: None, expires_at, id: 0, ja4: None, by_rule })?;
        }
        Ok(())
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut M {
        &mut self.maps
    }

    /// Under which the program's keys are made.
    #[must_use]
    pub fn seeds(&self) -> &Seeds {
        &self.settings.seeds
    }

    /// How many verdicts there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { ja4: self.rules.len(), automatic: self.automatics.len(), ..self.counts }
    }

    /// Verdicts on connections, and on sources' QUIC Initial packets, given up for newer ones.
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
        let known = self.by_ja4.get(&ja4).into_iter().flatten();
        let known = known.filter_map(|slot| if let Slot::Fingerprint(key) = slot { Some(*key) } else { None });
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

    /// Puts in force what an operator wants of a slot other than to block it; or of a fingerprint from one place.
    ///
    /// # Errors
    /// If the table is full, or that of rates.
    pub fn order(
        &mut self,
        slot: Slot,
        (action, rate): (Action, Option<RateLimit>),
        ja4: Option<Ja4>,
        until: Option<Timestamp>,
    ) -> Result<(), Error> {
        self.check_room(&slot)?;
        if let (Some(ja4), Slot::Fingerprint(_)) = (ja4, slot) {
            // One thing is done with one fingerprint.
            self.unblock_ja4(ja4)?;
        }
        if let Some(rate) = rate {
            self.maps.set_rate(&slot, kernel_rate(rate))?;
        }
        let (origin, reason, expires_at) = (Origin::Operator, REASON_COMMAND, expires_at(until));
        let entry = Entry { action, origin, reason, rate, expires_at, id: 0, ja4, by_rule: false };
        self.install(slot, Verdict::new(action, ORIGIN_OPERATOR, reason, expires_at), entry)
    }

    /// Makes these what no verdict reaches. What doesn't fit is left out, the rest holds.
    ///
    /// # Errors
    /// If the table is full; the maps'.
    pub fn never_block(&mut self, prefixes: Vec<IpNet>) -> Result<(), Error> {
        let wanted: HashSet<IpNet> = prefixes.into_iter().collect();
        let gone: Vec<IpNet> = self.never_block.difference(&wanted).copied().collect();
        for prefix in gone {
            self.maps.remove(&Slot::NeverBlock(prefix))?;
            self.never_block.remove(&prefix);
        }
        let verdict = Verdict::new(Action::Allow, ORIGIN_OPERATOR, REASON_NONE, FOREVER);
        for prefix in wanted {
            if !self.never_block.contains(&prefix) {
                self.maps.put(&Slot::NeverBlock(prefix), verdict)?;
                self.never_block.insert(prefix);
            }
        }
        Ok(())
    }

    /// Takes back a block or an allow entry; whether there was one.
    ///
    /// # Errors
    /// The maps'.
    pub fn remove(&mut self, slot: &Slot) -> Result<bool, Error> {
        let Some(entry) = self.entries.remove(slot) else { return self.remove_unknown(slot) };
        self.unlist(slot, &entry);
        self.maps.remove(slot)?;
        self.changed(slot, &entry, -1)?;
        Ok(true)
    }

    /// What an earlier process has put into the table is in no book: names can't be read back.
    fn remove_unknown(&mut self, slot: &Slot) -> Result<bool, Error> {
        let found = slot.in_use() & IN_USE_TABLE != 0 && self.maps.hits(slot).is_some();
        if found {
            self.maps.remove(slot)?;
        }
        Ok(found)
    }

    /// All orders are in force again: what else an earlier process left in the table, but automatic verdicts, ends. How many.
    ///
    /// # Errors
    /// The maps'.
    pub fn sweep(&mut self) -> Result<usize, Error> {
        self.maps.sweep(&mut self.entries.keys(), false)
    }

    /// Takes back an operator's block of a JA4, and the verdicts on connections that came of it; whether there was one.
    ///
    /// # Errors
    /// The maps'.
    pub fn unblock_ja4(&mut self, ja4: Ja4) -> Result<bool, Error> {
        let mut found = self.rules.unblock(ja4);
        let configured = |slot: &&Slot| self.entries.get(slot).is_some_and(|entry| entry.origin == Origin::Rule);
        let whole = |slot: &&Slot| {
            use Slot::{Connection, Datagrams, Fingerprint, Initials, Stable};
            matches!(slot, Connection { .. } | Datagrams { .. } | Initials(_) | Fingerprint(_) | Stable(_))
        };
        let all = self.by_ja4.get(&ja4).into_iter().flatten();
        let of_it: Vec<Slot> = all.filter(|slot| whole(slot) && !configured(slot)).copied().collect();
        for slot in of_it {
            found |= self.entries.get(&slot).is_some_and(|entry| !entry.by_rule);
            self.remove(&slot)?;
        }
        Ok(found)
    }

    /// Makes these the configuration's rules. What came of those that aren't among them any more ends.
    ///
    /// # Errors
    /// The maps'; then the rules are as they were, and what has ended comes again with the next hello.
    pub fn configure(&mut self, ja4: &HashSet<Ja4>) -> Result<(), Error> {
        let gone = self.rules.iter().filter(|rule| rule.origin == Origin::Rule && !ja4.contains(&rule.ja4));
        let slots = gone.flat_map(|rule| self.by_ja4.get(&rule.ja4).into_iter().flatten().copied());
        let by_rule =
            |slot: &Slot| self.entries.get(slot).is_some_and(|entry| entry.by_rule && entry.origin == Origin::Rule);
        let slots: Vec<Slot> = slots.filter(by_rule).collect();
        for slot in slots {
            self.remove(&slot)?;
        }
        self.rules.configure(ja4.iter().copied());
        Ok(())
    }

    /// The slots of a fingerprint from one place, and of the fingerprint alone: verdicts of their own, not of a rule.
    pub fn slots_of(&self, ja4: Ja4, unit: Option<IpNet>) -> impl Iterator<Item = Slot> + '_ {
        let slots = self.by_ja4.get(&ja4).into_iter().flatten().copied();
        slots.filter(move |slot| match slot {
            Slot::Pair(prefix, _) | Slot::StablePair(prefix, _) => unit == Some(*prefix),
            Slot::Fingerprint(_) | Slot::Stable(_) => {
                unit.is_none() && self.entries.get(slot).is_some_and(|entry| !entry.by_rule)
            }
            _ => false,
        })
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
            let slot = Slot::Connection { source, destination, initial_seq };
            self.put_connection(slot, origin, until, ja4, now)?;
            self.arm(keys.key, ja4, origin, expires_at(until))?;
        }
        Ok(decision)
    }

    /// Judges the hello of a QUIC or DTLS connection. All datagrams of a blocked one are dropped from here on, and, of QUIC,
    /// all that begin another one from the same source: a browser turns to TCP then.
    ///
    /// # Errors
    /// The maps'.
    pub fn judge_datagrams(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        transport: Transport,
        (ja4, keys): (Ja4, Keys),
        now: Timestamp,
    ) -> Result<Decision, Error> {
        self.recall(source.ip(), keys, now)?;
        let decision = self.rules.decide(ja4, now);
        if let Decision::Block { origin, until } = decision {
            self.put_connection(Slot::Datagrams { source, destination }, origin, until, ja4, now)?;
            if transport == Transport::Quic {
                self.put_initials(Slot::Initials(unit(source.ip())), origin, until, ja4, now)?;
            }
        }
        Ok(decision)
    }

    /// Blocks a connection by a rule. For room, the one goes that would end first.
    fn put_connection(
        &mut self,
        slot: Slot,
        origin: Origin,
        until: Option<Timestamp>,
        ja4: Ja4,
        now: Timestamp,
    ) -> Result<(), Error> {
        let ends = expires_at(until).min(now.plus(CONNECTION_VERDICT_MAX).as_nanos());
        match self.put(slot, Action::Block, origin, ends, Some(ja4)) {
            Err(Error::Full(_)) if self.evict_first(&slot)? => self.put(slot, Action::Block, origin, ends, Some(ja4)),
            result => result,
        }
    }

    /// Blocks a source's QUIC Initial packets for a while, the same way. A table that is full of other verdicts
    /// is no failure, for the connection at hand is blocked.
    fn put_initials(
        &mut self,
        slot: Slot,
        origin: Origin,
        until: Option<Timestamp>,
        ja4: Ja4,
        now: Timestamp,
    ) -> Result<(), Error> {
        let operators = |entry: &Entry| entry.origin == Origin::Operator;
        if origin != Origin::Operator && self.entries.get(&slot).is_some_and(operators) {
            // It holds in every mode.
            return Ok(());
        }
        let ends = expires_at(until).min(now.plus(INITIALS_VERDICT).as_nanos());
        let full = self.counts.quic_source >= self.limits.quic_sources && !self.entries.contains_key(&slot);
        if full && !self.evict_first(&slot)? {
            return Ok(());
        }
        match self.put(slot, Action::Block, origin, ends, Some(ja4)) {
            Err(Error::Full(_)) => Ok(()),
            result => result,
        }
    }

    /// Gives the kernel a sign of life, and clears away what has ended, `most` of each kind of end at a time. Whether there may be more.
    ///
    /// # Errors
    /// The maps'.
    pub fn expire(&mut self, now: Timestamp, most: usize) -> Result<bool, Error> {
        if now.since(self.beat) >= BEAT_EVERY {
            self.beat = now;
            self.maps.beat(now)?;
            self.beats += 1;
            self.maps.tidy();
        }
        self.rules.expire(now);
        self.challenges.expire(now);
        let ended = (now.as_nanos(), u64::MAX);
        let slots =
            |expiry: &Expiry| -> Vec<Slot> { expiry.range(..=ended).take(most).map(|(_, slot)| *slot).collect() };
        let due = [&self.expiry, &self.connection_expiry, &self.initials_expiry].map(slots);
        let more = due.iter().any(|slots| slots.len() == most);
        for slot in due.into_iter().flatten() {
            self.remove(&slot)?;
        }
        Ok(more)
    }

    /// How many signs of life the kernel has got.
    #[must_use]
    pub const fn beats(&self) -> u64 {
        self.beats
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
        self.entries.iter().filter(|(_, entry)| !entry.by_rule).map(|(slot, entry)| Listed {
            slot: *slot,
            ja4: entry.ja4,
            action: entry.action,
            origin: entry.origin,
            until: until(entry.expires_at),
        })
    }

    /// What a verdict does, and in whose name.
    #[must_use]
    pub fn told(&self, slot: &Slot) -> Option<(Action, Option<RateLimit>, Origin)> {
        self.entries.get(slot).map(|entry| (entry.action, entry.rate, entry.origin))
    }

    /// Packets that a verdict decided.
    pub fn hits(&self, slot: &Slot) -> u64 {
        self.maps.hits(slot).unwrap_or(0)
    }

    /// The rules on fingerprints.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    fn expiry_of(&mut self, slot: &Slot) -> &mut Expiry {
        match slot {
            Slot::Connection { .. } | Slot::Datagrams { .. } => &mut self.connection_expiry,
            Slot::Initials(_) => &mut self.initials_expiry,
            _ => &mut self.expiry,
        }
    }

    /// Gives up the verdict that would end first of those that share the room with `slot`.
    fn evict_first(&mut self, slot: &Slot) -> Result<bool, Error> {
        let Some(slot) = self.expiry_of(slot).values().next().copied() else { return Ok(false) };
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
        self.check_room(&slot)?;
        let entry = Entry { action, origin, reason, rate: None, expires_at, id: 0, ja4, by_rule: ja4.is_some() };
        self.install(slot, Verdict::new(action, origin_code, reason, expires_at), entry)
    }

    /// Whether an operator may have one more of a kind.
    fn check_room(&self, slot: &Slot) -> Result<(), Error> {
        let (used, most) = match slot {
            Slot::Address(_) => (self.counts.address, self.limits.addresses),
            Slot::Prefix(_) => (self.counts.prefix, self.limits.prefixes),
            Slot::Pair(..) => (self.counts.pair, self.limits.ja4_rules),
            // The kernel's tables have as many entries as the configuration says.
            _ => (0, usize::MAX),
        };
        let replaces = self.entries.get(slot).is_some_and(|old| old.origin != Origin::Automatic);
        if used >= most && !replaces { Err(Error::Full(slot.table())) } else { Ok(()) }
    }

    /// Into the maps, then into the books.
    fn install(&mut self, slot: Slot, verdict: Verdict, entry: Entry) -> Result<(), Error> {
        self.maps.put(&slot, verdict)?;
        self.enter(slot, entry)
    }

    fn enter(&mut self, slot: Slot, entry: Entry) -> Result<(), Error> {
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
        if let Some(ja4) = entry.ja4 {
            self.by_ja4.entry(ja4).or_default().insert(slot);
        }
        Ok(())
    }

    fn unlist(&mut self, slot: &Slot, entry: &Entry) {
        self.expiry_of(slot).remove(&(entry.expires_at, entry.id));
        if entry.origin == Origin::Automatic {
            self.automatics.gone(entry);
        }
        if let Some(ja4) = entry.ja4
            && let Some(of_it) = self.by_ja4.get_mut(&ja4)
        {
            of_it.remove(slot);
            if of_it.is_empty() {
                self.by_ja4.remove(&ja4);
            }
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
