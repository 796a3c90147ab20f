//! Room 11: people who are newly stopped in, whether automatic verdicts go on out. A circuit breaker for each rule, for each
//! site and for all (threats.md T46): who counts is who has shown to be human ([`Seen`]), so that no flood opens it.
//!
//! Closed, verdicts hold. It opens when a share of the people seen was newly stopped: then verdicts only count. Half-open
//! they hold for a small share of addresses again; some probe periods without harm close it, and any harm opens it anew.
//! What would be stopped is told in every state, so that a probe sees the harm that it doesn't do.
//!
//! Pure; memory: [`Settings::sites`] and as many rules, 24 KiB each at most.

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

mod people;
mod state;

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::time::Duration;

use foldhash::fast::RandomState;
use lru::LruCache;

use crate::clock::Timestamp;
use people::People;
use state::Circuit;
pub use state::State;

/// All numbers of the breaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Since the first request of a session whose client has shown to be human.
    pub returning: Duration,
    /// The slow window.
    pub window: Duration,
    /// The share of people newly stopped within it that opens.
    pub share: f32,
    /// The fast window.
    pub fast_window: Duration,
    /// The share within that.
    pub fast_share: f32,
    /// Fewer people stopped open nothing.
    pub least: u32,
    /// From open to half-open.
    pub open: Duration,
    /// A probe period.
    pub probe: Duration,
    /// Clean ones that close.
    pub probes: u32,
    /// The share of addresses that verdicts hold for meanwhile.
    pub probe_share: f32,
    /// New verdicts on others in a minute from which they are at most challenged.
    pub verdicts_per_minute: u32,
    /// Sites, and rules, that have a breaker of their own.
    pub sites: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            returning: Duration::from_secs(3600),
            window: Duration::from_secs(600),
            share: 0.2,
            fast_window: Duration::from_secs(60),
            fast_share: 0.05,
            least: 5,
            open: Duration::from_secs(300),
            probe: Duration::from_secs(60),
            probes: 3,
            probe_share: 0.01,
            verdicts_per_minute: 1000,
            sites: 256,
        }
    }
}

/// What automatic verdicts may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Permit {
    /// Hold.
    Enforce,
    /// Hold for this share of addresses, 0 to 1.
    Share(f32),
    /// Count.
    Observe,
}

/// What a breaker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All verdicts.
    All,
    /// Those for one reason, by its number.
    Rule(u16),
    /// Those on one site's clients, by a hash of its name.
    Site(u64),
}

/// A breaker changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub scope: Scope,
    /// To this.
    pub state: State,
}

/// A request of somebody who has shown to be human.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who, as a hash that spreads evenly.
    pub client: u64,
    /// A hash of the site's name.
    pub site: u64,
    /// What they are newly blocked or challenged for, or would be, if they are.
    pub stopped_by: Option<u16>,
}

/// The breakers of all rules and sites.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    all: (People, Circuit),
    rules: LruCache<u16, (People, Circuit), RandomState>,
    sites: LruCache<u64, (People, Circuit), RandomState>,
    verdicts: u32,
    minute: Timestamp,
}

impl Breaker {
    /// All closed.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            all: Default::default(),
            rules: table(settings.sites),
            sites: table(settings.sites),
            verdicts: 0,
            minute: Timestamp::default(),
        }
    }

    /// The numbers it works by.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Works by these numbers from now on; but for how many sites have a breaker of their own, which stays.
    pub const fn configure(&mut self, settings: Settings) {
        self.settings = Settings { sites: self.settings.sites, ..settings };
    }

    /// Somebody who has shown to be human sent a request.
    pub fn note(&mut self, seen: Seen, now: Timestamp) {
        let stopped = seen.stopped_by.is_some();
        self.all.0.note(seen.client, stopped, now);
        entry(&mut self.sites, seen.site, now).0.note(seen.client, stopped, now);
        if let Some(rule) = seen.stopped_by {
            entry(&mut self.rules, rule, now).0.note(seen.client, true, now);
        }
    }

    /// A verdict on somebody else. However many, they open nothing.
    pub fn verdict(&mut self, now: Timestamp) {
        if now.since(self.minute) >= MINUTE {
            (self.minute, self.verdicts) = (now, 0);
        }
        self.verdicts = self.verdicts.saturating_add(1);
    }

    /// Whether there are so many new verdicts in this minute that more on addresses should challenge, and not block. The next
    /// minute has as many again, so that a flood that lasts is stopped bit by bit.
    #[must_use]
    pub fn is_alarmed(&self, now: Timestamp) -> bool {
        self.verdicts > self.settings.verdicts_per_minute && now.since(self.minute) < MINUTE
    }

    /// Looks at what was told; once a second is often enough. Tells what changed.
    pub fn tick(&mut self, now: Timestamp, changed: &mut impl FnMut(Change)) {
        let settings = self.settings;
        let mut told = |scope: Scope, state: Option<State>| {
            if let Some(state) = state {
                changed(Change { scope, state });
            }
        };
        let (people, circuit) = &mut self.all;
        for (rule, (stopped, circuit)) in &mut self.rules {
            stopped.forget(now, settings.window);
            // Of a rule only those are told whom it stops: the share is one of all people.
            let share = |since: Timestamp| (stopped.count(since).1, people.count(since).0);
            told(Scope::Rule(*rule), circuit.tick(share, &settings, now));
        }
        for (site, (people, circuit)) in &mut self.sites {
            people.forget(now, settings.window);
            let share = |since: Timestamp| (people.count(since).1, people.count(since).0);
            told(Scope::Site(*site), circuit.tick(share, &settings, now));
        }
        people.forget(now, settings.window);
        let share = |since: Timestamp| (people.count(since).1, people.count(since).0);
        told(Scope::All, circuit.tick(share, &settings, now));
    }

    /// What a verdict for this reason on a client of this site may do.
    #[must_use]
    pub fn permits(&self, rule: u16, site: u64) -> Permit {
        let states = [Some(&self.all), self.rules.peek(&rule), self.sites.peek(&site)];
        self.permit(states.into_iter().flatten().map(|(_, circuit)| circuit.state()))
    }

    /// What any verdict may do: for the kernel, which knows of all only.
    #[must_use]
    pub fn permits_any(&self) -> Permit {
        self.permit([self.all.1.state()].into_iter())
    }

    /// The breakers that aren't closed.
    pub fn troubled(&self) -> impl Iterator<Item = Change> {
        self.states().filter(|Change { state, .. }| *state != State::Closed)
    }

    /// How many breakers are in this state: one for all, and one for each rule and site of which anybody was seen.
    #[must_use]
    pub fn count(&self, state: State) -> usize {
        self.states().filter(|breaker| breaker.state == state).count()
    }

    fn states(&self) -> impl Iterator<Item = Change> {
        let rules = self.rules.iter().map(|(rule, (_, circuit))| (Scope::Rule(*rule), circuit.state()));
        let sites = self.sites.iter().map(|(site, (_, circuit))| (Scope::Site(*site), circuit.state()));
        let all = [(Scope::All, self.all.1.state())].into_iter().chain(rules).chain(sites);
        all.map(|(scope, state)| Change { scope, state })
    }

    fn permit(&self, mut states: impl Iterator<Item = State>) -> Permit {
        match states.try_fold(Permit::Enforce, |permit, state| match state {
            State::Closed => Some(permit),
            State::HalfOpen => Some(Permit::Share(self.settings.probe_share)),
            State::Open => None,
        }) {
            Some(permit) => permit,
            None => Permit::Observe,
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn table<K: Hash + Eq>(most: usize) -> LruCache<K, (People, Circuit), RandomState> {
    LruCache::with_hasher(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN), RandomState::default())
}

fn entry<K: Hash + Eq>(
    table: &mut LruCache<K, (People, Circuit), RandomState>,
    key: K,
    now: Timestamp,
) -> &mut (People, Circuit) {
    table.get_or_insert_mut(key, || (People::default(), Circuit::new(now)))
}

#[cfg(test)]
mod tests;
