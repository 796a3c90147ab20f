//! Challenges: an operator's, of addresses and prefixes, which hold as they are; and of JA4 values. A connection is steered
//! before its hello is there, so for a JA4 value that is done where its clients are alone: by an automatic verdict on
//! their unit, for as long as that is exclusive to them. Anywhere else such a challenge only counts here.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use detector_common::{
    key::Keys,
    verdict::{Action, REASON_CHALLENGED_JA4},
};

use super::{
    Enforcer, Entry,
    automatic::{Automatic, unit, unit_slot},
    expires_at,
};
use crate::{
    clock::Timestamp,
    fingerprint::Ja4,
    kernel::{Error, Slot, VerdictMaps},
    policy::{
        exclusive::Exclusive,
        rules::{ListedRule, Origin},
    },
};

/// How long a unit's verdict lasts after the latest hello that is challenged.
const LASTS: Duration = Duration::from_secs(600);

/// It is put anew when less than this of it is left.
const RENEWED_BELOW: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Challenge {
    until: Option<Timestamp>,
    hellos: u64,
}

impl Challenge {
    fn live(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Challenged JA4 values, and what is known of units.
#[derive(Debug)]
pub(super) struct Challenges {
    ja4: HashMap<Ja4, Challenge>,
    exclusive: Exclusive,
}

impl Challenges {
    pub(super) fn new(units: usize) -> Self {
        Self { ja4: HashMap::new(), exclusive: Exclusive::new(units) }
    }

    pub(super) fn expire(&mut self, now: Timestamp) {
        self.ja4.retain(|_, challenge| challenge.live(now));
    }
}

/// Whether a verdict is one of those that challenges of JA4 values lead to.
fn follows(entry: &Entry) -> bool {
    entry.origin == Origin::Automatic && entry.reason == REASON_CHALLENGED_JA4
}

impl<M: VerdictMaps> Enforcer<M> {
    /// Challenges a source address or prefix, by the operator's order.
    ///
    /// # Errors
    /// If the table is full.
    pub fn challenge(&mut self, slot: Slot, until: Option<Timestamp>) -> Result<(), Error> {
        self.put(slot, Action::Challenge, Origin::Operator, expires_at(until), None)
    }

    /// Challenges the clients with this JA4.
    ///
    /// # Errors
    /// If there are too many such.
    pub fn challenge_ja4(&mut self, ja4: Ja4, until: Option<Timestamp>) -> Result<(), Error> {
        if self.challenges.ja4.len() >= self.limits.ja4_rules && !self.challenges.ja4.contains_key(&ja4) {
            return Err(Error::Full("ja4_rules"));
        }
        self.challenges.ja4.insert(ja4, Challenge { until, hellos: 0 });
        Ok(())
    }

    /// Takes an operator's challenge back; whether there was one.
    ///
    /// # Errors
    /// The maps'.
    pub fn unchallenge(&mut self, slot: &Slot) -> Result<bool, Error> {
        let there = |entry: &Entry| entry.action == Action::Challenge && entry.origin == Origin::Operator;
        if self.entries.get(slot).is_some_and(there) { self.remove(slot) } else { Ok(false) }
    }

    /// Takes the challenge of a JA4 back, and the verdicts that came of it; whether there was one.
    ///
    /// # Errors
    /// The maps'.
    pub fn unchallenge_ja4(&mut self, ja4: Ja4) -> Result<bool, Error> {
        let found = self.challenges.ja4.remove(&ja4).is_some();
        let of_it = self.entries.iter().filter(|(_, entry)| follows(entry) && entry.ja4 == Some(ja4));
        let of_it: Vec<Slot> = of_it.map(|(slot, _)| *slot).collect();
        for slot in of_it {
            self.remove(&slot)?;
        }
        Ok(found)
    }

    /// The challenged JA4 values.
    pub fn challenged(&self) -> impl Iterator<Item = ListedRule> + '_ {
        self.challenges.ja4.iter().map(|(ja4, challenge)| ListedRule {
            ja4: *ja4,
            origin: Origin::Operator,
            until: challenge.until,
            hits: challenge.hellos,
        })
    }

    /// Whether a JA4 value is one of them.
    #[must_use]
    pub fn is_challenged(&self, ja4: Ja4) -> bool {
        self.challenges.ja4.contains_key(&ja4)
    }

    /// A confirmed hello came, over whatever: new connections of its unit are steered from now on, or no longer.
    ///
    /// # Errors
    /// The maps'.
    pub fn meet(&mut self, client: IpAddr, (ja4, keys): (Ja4, Keys), now: Timestamp) -> Result<(), Error> {
        let exclusive = self.challenges.exclusive.hello(unit(client), keys.stable, now);
        let slot = unit_slot(client);
        let steered = self.entries.get(&slot).filter(|entry| follows(entry)).map(|entry| entry.expires_at);
        if !exclusive && steered.is_some() {
            self.remove(&slot)?;
        }
        let Some(challenge) = self.challenges.ja4.get_mut(&ja4).filter(|challenge| challenge.live(now)) else {
            return Ok(());
        };
        challenge.hellos += 1;
        let lasts = challenge.until.map_or(LASTS, |until| until.since(now).min(LASTS));
        let fresh = |ends: u64| Timestamp::from_nanos(ends).since(now) >= RENEWED_BELOW.min(lasts);
        if !exclusive || steered.is_some_and(fresh) {
            return Ok(());
        }
        let (action, reason) = (Action::Challenge, REASON_CHALLENGED_JA4);
        let verdict = Automatic { action, reason, rate: None, ja4: Some(ja4), ttl: lasts };
        // Another automatic verdict on the unit stays: it is as hard, or harder.
        if steered.is_some() || !self.entries.contains_key(&slot) {
            self.automatic(slot, verdict, now)?;
        }
        Ok(())
    }
}
