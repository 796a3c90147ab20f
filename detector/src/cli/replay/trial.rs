//! The circuit breaker over a log: what a policy decides of each request in; whether it would have stayed in force, and
//! when a breaker would have opened, out. The daemon's breaker, with the log's clock.
//!
//! Memory: the breaker's, and as many clients as the daemon holds decisions about.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::{Duration, UNIX_EPOCH};

use foldhash::fast::FixedState;
use lru::LruCache;

use crate::breaker::{Breaker, Change, Scope, Seen, State};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::policy::decide::{Action, Decision, Unit};
use crate::score::{Assessment, Facts, Signal, has_credit};

/// How often the daemon's is looked at.
const TICK: Duration = Duration::from_secs(1);
/// After so long without a request, none that was before makes a difference.
const SILENCE: Duration = Duration::from_secs(7200);

/// A breaker at work.
pub(super) struct Trial {
    breaker: Breaker,
    challenge_ttl: Duration,
    /// What is decided about clients, and until when.
    held: LruCache<Unit, (Action, Timestamp), FixedState>,
    ticked: Timestamp,
    opened: BTreeMap<Opened, (Timestamp, u32)>,
}

/// What a breaker was for, in the order it is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Opened {
    All,
    Rule(u16),
    /// Whichever.
    Site,
}

/// A request, and what is decided about its client.
pub(super) struct Tried<'a> {
    pub(super) at: Timestamp,
    /// A hash of the client, and one of the site's name.
    pub(super) hashes: (u64, u64),
    /// Its client has shown to be human.
    pub(super) credit: bool,
    /// Its client is known and welcome.
    pub(super) welcome: bool,
    pub(super) decision: &'a mut Decision,
}

impl Trial {
    pub(super) fn new(config: &Config) -> Self {
        let most = NonZeroUsize::new(config.limits.held_decisions as usize).unwrap_or(NonZeroUsize::MIN);
        Self {
            breaker: Breaker::new(config.engine.breaker),
            challenge_ttl: config.engine.policy.challenge_ttl,
            held: LruCache::with_hasher(most, FixedState::default()),
            ticked: Timestamp::default(),
            opened: BTreeMap::new(),
        }
    }

    /// Whether who sent a request has shown to be human.
    pub(super) fn has_credit(&self, facts: &Facts<'_>, assessment: &Assessment) -> bool {
        has_credit(facts, assessment, self.breaker.settings().returning)
    }

    /// As the daemon does it: who is newly stopped counts if it is a person; of too many others none is blocked.
    pub(super) fn note(&mut self, tried: Tried<'_>) {
        let Tried { at, hashes: (client, site), credit, welcome, decision } = tried;
        self.tick(at);
        if welcome {
            self.held.pop(&decision.unit);
        }
        let held = self.held.get(&decision.unit).filter(|(_, until)| at < *until).map(|(action, _)| *action);
        let lasts = decision.action.is_felt();
        let stops = lasts && held < Some(decision.action) && decision.action >= Action::Challenge;
        if credit {
            self.breaker.note(Seen { client, site, stopped_by: stops.then(|| decision.rule()) }, at);
        } else if stops {
            self.breaker.verdict(at);
            if self.breaker.is_alarmed(at) && decision.action == Action::Block {
                (decision.action, decision.ttl) = (Action::Challenge, self.challenge_ttl);
            }
        }
        if lasts && held <= Some(decision.action) {
            self.held.put(decision.unit, (decision.action, at.plus(decision.ttl)));
        }
    }

    fn tick(&mut self, now: Timestamp) {
        let Self { breaker, ticked, opened, .. } = self;
        *ticked = (*ticked).max(now.before(SILENCE));
        while ticked.plus(TICK) <= now {
            *ticked = ticked.plus(TICK);
            breaker.tick(*ticked, &mut |Change { scope, state }| {
                let what = match scope {
                    Scope::All => Opened::All,
                    Scope::Rule(number) => Opened::Rule(number),
                    Scope::Site(_) => Opened::Site,
                };
                if state == State::Open {
                    opened.entry(what).or_insert((*ticked, 0)).1 += 1;
                }
            });
        }
    }

    /// When breakers would have opened, up to the log's end; `None`: none would have.
    pub(super) fn end(&mut self) -> Option<String> {
        self.tick(self.ticked.plus(TICK * 2));
        let times = self.opened.iter().map(|(what, (first, times))| {
            let what = match what {
                Opened::All => "for all".to_owned(),
                Opened::Rule(number) => match Signal::ALL.get(usize::from(*number)) {
                    Some(signal) => format!("by `{}`", signal.name()),
                    None => "without a reason".to_owned(),
                },
                Opened::Site => "for a site".to_owned(),
            };
            let at = UNIX_EPOCH.checked_add(first.since(Timestamp::default())).unwrap_or(UNIX_EPOCH);
            let first = humantime::format_rfc3339_seconds(at);
            if *times > 1 { format!("{what} {times} times, first at {first}") } else { format!("{what} at {first}") }
        });
        let times: Vec<String> = times.collect();
        (!times.is_empty()).then(|| times.join("; "))
    }
}
