//! The JA4 values that were seen lately: a hello in, how often its like came, who sends such, and what is done about it
//! out. Memory: `limits.fingerprints` of them, each with its JA4_r and the last server name.

use std::cmp::Reverse;

use detector_common::{key::Keys, verdict::Action as KernelAction};
use lru::LruCache;

use super::Verdicts;
use crate::{
    admin::protocol::{self, Action, NAME_MAX, TOP_MAX},
    clock::{Timestamp, monotonic},
    family,
    fingerprint::{Fingerprint, Ja4, Ja4Raw},
    kernel::VerdictMaps,
    pipeline::Hello,
    policy::{families, rules::Origin},
};

/// JA4 values in a status.
const STATUS: usize = 8;

/// How long [`Lately`] looks back.
const LATELY_NS: u64 = protocol::LATELY_S * 1_000_000_000;

/// Those seen lately, the latest first.
pub(in crate::daemon) type SeenLately = LruCache<Ja4, Seen>;

/// Which of them are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Top {
    /// A few, with most hellos since they are remembered.
    Ever,
    /// More of them, with most hellos in the last seconds, and then ever.
    Lately,
}

/// One of them.
pub(in crate::daemon) struct Seen {
    /// Of the latest hello.
    pub(super) keys: Keys,
    /// `None` if it is longer than any that is read.
    pub(super) ja4_r: Option<Ja4Raw>,
    /// It is a browser's.
    browser: bool,
    /// Who sends such hellos, and of what kind that is.
    family: Option<(&'static str, &'static str)>,
    hellos: u64,
    lately: Lately,
    last_client: std::net::IpAddr,
    last_server_name: Option<String>,
    last_seen: Timestamp,
}

/// How many came in the last ten seconds, from the counts of these ten and of the ten before.
#[derive(Clone, Copy, Debug, Default)]
struct Lately {
    slice: u64,
    before: u64,
    this: u64,
}

impl Lately {
    fn note(&mut self, now: Timestamp) {
        self.turn(now);
        self.this += 1;
    }

    /// As if the earlier ones had come evenly.
    fn count(mut self, now: Timestamp) -> u64 {
        self.turn(now);
        let left = LATELY_NS - now.as_nanos() % LATELY_NS;
        self.this + self.before.saturating_mul(left / 1_000_000) / (LATELY_NS / 1_000_000)
    }

    fn turn(&mut self, now: Timestamp) {
        let slice = now.as_nanos() / LATELY_NS;
        match slice.saturating_sub(self.slice) {
            0 => return,
            1 => self.before = self.this,
            _ => self.before = 0,
        }
        (self.slice, self.this) = (slice, 0);
    }
}

impl<M: VerdictMaps> Verdicts<M> {
    /// A confirmed hello came.
    pub(super) fn remember(&mut self, hello: &Hello, now: Timestamp) {
        let Fingerprint { ja4, ja4_r, ja4_stable, traits, .. } = &hello.fingerprint;
        let source = hello.flow.source.ip();
        let fresh = || Seen {
            keys: Keys::default(),
            ja4_r: ja4_r.parse().ok(),
            browser: families::find(*ja4).is_some(),
            family: family::shipped().find(*ja4_stable, traits).named(),
            hellos: 0,
            lately: Lately::default(),
            last_client: source,
            last_server_name: None,
            last_seen: now,
        };
        let seen = self.seen.get_or_insert_mut(*ja4, fresh);
        if seen.browser {
            self.browsers.note(*ja4, source, now);
        }
        seen.keys = hello.fingerprint.keys;
        seen.hellos += 1;
        seen.lately.note(now);
        seen.last_client = source;
        seen.last_seen = now;
        if hello.fingerprint.server_name != seen.last_server_name {
            seen.last_server_name.clone_from(&hello.fingerprint.server_name);
        }
    }

    /// The first of those that were seen lately.
    pub(super) fn top(&self, top: Top) -> Vec<protocol::Fingerprint> {
        let now = monotonic();
        let rank = |seen: &Seen| match top {
            Top::Ever => (0, seen.hellos),
            Top::Lately => (seen.lately.count(now), seen.hellos),
        };
        let most = if top == Top::Ever { STATUS } else { TOP_MAX };
        type Ranked<'a> = (Reverse<(u64, u64)>, &'a Ja4, &'a Seen);
        let order = |a: &Ranked<'_>, b: &Ranked<'_>| (a.0, a.1).cmp(&(b.0, b.1));
        let mut ranked: Vec<Ranked<'_>> =
            self.seen.iter().map(|(ja4, seen)| (Reverse(rank(seen)), ja4, seen)).collect();
        if ranked.len() > most {
            ranked.select_nth_unstable_by(most, order);
            ranked.truncate(most);
        }
        ranked.sort_unstable_by(order);
        ranked.into_iter().map(|(_, ja4, seen)| self.told(*ja4, seen, now)).collect()
    }

    fn told(&self, ja4: Ja4, seen: &Seen, now: Timestamp) -> protocol::Fingerprint {
        let name = |name: &String| name.chars().take(NAME_MAX).collect();
        protocol::Fingerprint {
            ja4: ja4.to_string(),
            family: seen.family.map(|(family, _)| family.to_owned()),
            kind: seen.family.map(|(_, kind)| kind.to_owned()),
            verdict: self.on(ja4, now),
            hellos: seen.hellos,
            hellos_lately: seen.lately.count(now),
            last_client: Some(seen.last_client),
            last_server_name: seen.last_server_name.as_ref().map(name),
            last_seen_s: now.since(seen.last_seen).as_secs(),
        }
    }

    /// What is done to all clients with this JA4.
    fn on(&self, ja4: Ja4, now: Timestamp) -> Option<Action> {
        match self.enforcer.rules().find(ja4, now) {
            Some(Origin::Rule) if !self.is_enforcing() => return Some(Action::Observe),
            Some(_) => return Some(Action::Block),
            None if self.enforcer.is_challenged(ja4) => return Some(Action::Challenge),
            None => {}
        }
        let slot = self.enforcer.slots_of(ja4, None).next()?;
        self.enforcer.action(&slot).map(action)
    }
}

/// The word that operators know it by.
pub(super) const fn action(action: KernelAction) -> Action {
    match action {
        KernelAction::Allow => Action::Allow,
        KernelAction::Observe => Action::Observe,
        KernelAction::Challenge => Action::Challenge,
        KernelAction::RateLimit => Action::RateLimit,
        KernelAction::Block => Action::Block,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_came_in_the_last_ten_seconds_is_counted() {
        let at = |millis: u64| Timestamp::default().plus(Duration::from_millis(millis));
        let mut lately = Lately::default();
        (0..10).for_each(|second| lately.note(at(20_000 + second * 1000)));
        assert_eq!(lately.count(at(29_500)), 10);
        assert_eq!(lately.count(at(30_000)), 10);
        assert_eq!(lately.count(at(35_000)), 5);
        assert_eq!(lately.count(at(40_000)), 0);
        lately.note(at(95_000));
        assert_eq!(lately.count(at(95_000)), 1);
    }
}
