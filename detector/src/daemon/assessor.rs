//! What is made of a request once its client is known: how sure it is that a program sent it, what is to be done about the
//! client, and why. By the thread of the reports, and by those that answer web servers; each holds a lock for a moment.
//!
//! Memory: [`Bounds::held`] decisions and twice [`Bounds::remembered`] assessments, of some 2 KiB each.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use detector_common::mode::WHOLE_SHARE;
use foldhash::fast::RandomState;
use lru::LruCache;
use tracing::{info, warn};

use super::reputation::Reputation;
use super::requests::Requests;
use super::wanted::{Target, Wanted, Wishes};
use crate::breaker::{Breaker, Change, Permit, Scope, Seen, State};
use crate::clock::{Timestamp, monotonic};
use crate::fingerprint::Ja4;
use crate::inline::Id;
use crate::join::{Identity, Reach, Subject};
use crate::network::{Network, Observation};
use crate::policy::decide::{Action, Decision, Policy, Unit};
use crate::report::Report;
use crate::reputation::{Country, Standing};
use crate::score::{Assessment, Engine, Facts, Settles, has_credit, is_shown};
use crate::session::{Key, Request, Summary};
use crate::telemetry::Metrics;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Clients about whom something is decided.
    pub(super) held: usize,
    /// Assessments; and as many of those that decided something.
    pub(super) remembered: usize,
}

/// A request to assess.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) report: &'a Report<'a>,
    pub(super) subject: &'a Subject,
    pub(super) identity: Option<&'a Identity>,
    pub(super) session: Option<&'a Summary>,
    /// Of the session.
    pub(super) key: Option<Key>,
    /// What is counted of it, if it is told by a report: questions are about requests of which a report comes.
    pub(super) request: Option<&'a Request>,
    pub(super) now: Timestamp,
}

/// What came of a request, and why.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) id: Id,
    pub(super) at: Timestamp,
    pub(super) address: IpAddr,
    /// As the client's hello has it; `None` behind a proxy.
    pub(super) ja4: Option<Ja4>,
    pub(super) standing: Standing,
    pub(super) assessment: Arc<Assessment>,
    /// The hardest that holds for the client.
    pub(super) decision: Decision,
    /// The end of that, if it has one.
    pub(super) until: Option<Timestamp>,
    /// Whether it is carried out, or only counts.
    pub(super) in_force: bool,
    /// It was decided by an earlier request of the client.
    pub(super) earlier: Option<Id>,
}

/// A decision that a client would notice.
struct Held {
    decision: Decision,
    until: Timestamp,
    site: u64,
    target: Option<Target>,
    id: Id,
    assessment: Arc<Assessment>,
}

struct Memory {
    held: LruCache<Unit, Held, RandomState>,
    all: VecDeque<Arc<Record>>,
    /// Those that decided something newly.
    decisive: VecDeque<Arc<Record>>,
    most: usize,
}

/// Assesses.
pub(super) struct Assessor {
    engine: Engine,
    policy: Policy,
    reputation: Reputation,
    requests: Arc<Requests>,
    wishes: Wishes,
    /// Whether the mode is enforce.
    enforcing: Arc<AtomicBool>,
    breaker: Mutex<Breaker>,
    network: Mutex<Network>,
    memory: Mutex<Memory>,
    random: RandomState,
    daemon: u64,
    number: AtomicU64,
    metrics: Arc<Metrics>,
}

/// What an assessor works with.
pub(super) struct Parts {
    pub(super) engine: Engine,
    pub(super) policy: Policy,
    pub(super) breaker: Breaker,
    pub(super) network: Network,
    pub(super) reputation: Reputation,
    pub(super) requests: Arc<Requests>,
    pub(super) wishes: Wishes,
    pub(super) enforcing: Arc<AtomicBool>,
    pub(super) bounds: Bounds,
    /// Any secret: what tells this daemon's decisions from another's.
    pub(super) daemon: u64,
    pub(super) metrics: Arc<Metrics>,
}

impl Assessor {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { engine, policy, breaker, network, reputation, requests, wishes, enforcing, .. } = parts;
        let Parts { bounds, daemon, metrics, .. } = parts;
        let held = NonZeroUsize::new(bounds.held).unwrap_or(NonZeroUsize::MIN);
        let memory = Memory {
            held: LruCache::with_hasher(held, RandomState::default()),
            all: VecDeque::new(),
            decisive: VecDeque::new(),
            most: bounds.remembered.max(1),
        };
        Self {
            engine,
            policy,
            reputation,
            requests,
            wishes,
            enforcing,
            breaker: Mutex::new(breaker),
            network: Mutex::new(network),
            memory: Mutex::new(memory),
            random: RandomState::default(),
            daemon,
            number: AtomicU64::new(0),
            metrics,
        }
    }

    /// What names the next decision.
    pub(super) fn id(&self) -> Id {
        Id { daemon: self.daemon, number: self.number.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observation(&self, asked: &Asked<'_>, standing: &Standing) -> Option<Observation> {
        let request = asked.request?;
        let agent = asked.report.user_agent.as_deref();
        Some(Observation {
            session: asked.key.filter(|key| key.by_id).map(|key| key.hash()),
            asn: standing.asn,
            country: standing.country.map(Country::letters),
            ..Observation::of(asked.subject, agent, request.is_page(), request.at, &self.random)
        })
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Assesses a request, and has done what is decided about its client.
    pub(super) fn assess(&self, asked: &Asked<'_>, id: Id) -> Arc<Record> {
        let Asked { report, subject, identity, session, key, now, .. } = *asked;
        let address = subject.address();
        let spared = self.requests.spares(address, now);
        let standing = self.reputation.standing(address, report.user_agent.as_deref(), spared, now);
        let observation = self.observation(asked, &standing);
        let network = observation.map(|seen| self.network().note(&seen));
        let facts = Facts {
            now,
            report,
            subject,
            identity,
            session,
            by_id: key.is_some_and(|key| key.by_id),
            network: network.as_ref(),
            standing: Some(&standing),
        };
        let assessment = self.engine.assess(&facts);
        let decision = self.policy.decide(&assessment, subject);
        self.metrics.score.assessments.add(assessment.confidence.label(), 1);
        let (credit, shown) = (has_credit(&facts, &assessment), is_shown(&assessment));
        let judged = Judged { id, asked, standing, credit, assessment: Arc::new(assessment), decision };
        let record = self.carry_out(judged);
        self.metrics.score.decisions.add(record.decision.action.label(), 1);
        match observation {
            Some(seen) if record.decision.action >= Action::Challenge => self.network().stopped(&seen),
            Some(seen) if shown => self.network().shown(&seen),
            _ => {}
        }
        record
    }

    /// What holds for the client now: what was just decided, or what was decided earlier, if that is harder.
    fn carry_out(&self, judged: Judged<'_>) -> Arc<Record> {
        let Judged { id, asked, standing, credit, assessment, mut decision } = judged;
        let now = asked.now;
        let site = self.random.hash_one(asked.report.server_name.as_deref());
        let welcome = assessment.settled.is_some_and(|signal| signal.settles() == Some(Settles::Good));
        let mut memory = self.memory();
        if welcome && let Some(held) = memory.held.pop(&decision.unit) {
            held.target.into_iter().for_each(|target| self.wishes.want(Wanted::Lift(target)));
        }
        let earlier = memory.held.get(&decision.unit).filter(|held| now < held.until);
        let earlier_action = earlier.map(|held| held.decision.action);
        let is_new = decision.action.is_felt() && earlier_action.is_none_or(|action| action < decision.action);
        let permit = self.tell_breaker((credit, is_new), &mut decision, site, now);
        if let Some(held) = earlier.filter(|held| held.decision.action > decision.action) {
            let record = Record {
                id,
                at: now,
                address: asked.subject.address(),
                ja4: asked.identity.map(|identity| identity.ja4),
                standing,
                assessment: Arc::clone(&held.assessment),
                decision: held.decision,
                until: Some(held.until),
                in_force: self.is_in_force(&held.decision, permit),
                earlier: Some(held.id),
            };
            return memory.remember(record, false);
        }
        let until = decision.action.is_felt().then(|| now.plus(decision.ttl));
        if let Some(until) = until {
            let target = target(asked, &decision);
            let due = is_new || earlier.is_none_or(|held| held.until.since(now) < decision.ttl / 2);
            if due && let Some(target) = target.filter(|_| self.is_permitted(&decision.unit, permit)) {
                let rate = (decision.action == Action::RateLimit).then_some(self.policy.rate);
                self.wishes.want(Wanted::Verdict { target, rate, ttl: decision.ttl });
            }
            let held = Held { decision, until, site, target, id, assessment: Arc::clone(&assessment) };
            memory.held.put(decision.unit, held);
        }
        let record = Record {
            id,
            at: now,
            address: asked.subject.address(),
            ja4: asked.identity.map(|identity| identity.ja4),
            standing,
            assessment,
            decision,
            until,
            in_force: decision.action.is_felt() && self.is_in_force(&decision, permit),
            earlier: None,
        };
        memory.remember(record, is_new)
    }

    /// Tells the breaker of a request, and what its verdict may do.
    fn tell_breaker(
        &self,
        (credit, is_new): (bool, bool),
        decision: &mut Decision,
        site: u64,
        now: Timestamp,
    ) -> Permit {
        let mut breaker = self.breaker();
        let stops = is_new && decision.action >= Action::Challenge;
        let rule = decision.reason.map_or(u16::MAX, |signal| signal as u16);
        if credit {
            let client = self.random.hash_one(decision.unit);
            breaker.note(Seen { client, site, stopped_by: stops.then_some(rule) }, now);
        } else if stops {
            breaker.verdict(now);
            if breaker.is_alarmed(now) && decision.action == Action::Block {
                (decision.action, decision.ttl) = (Action::Challenge, self.policy.challenge_ttl);
            }
        }
        breaker.permits(rule, site)
    }

    fn is_permitted(&self, unit: &Unit, permit: Permit) -> bool {
        match permit {
            Permit::Enforce => true,
            Permit::Share(share) => (self.random.hash_one(unit) >> 40) as f32 / ((1 << 24) as f32) < share,
            Permit::Observe => false,
        }
    }

    fn is_in_force(&self, decision: &Decision, permit: Permit) -> bool {
        self.enforcing.load(Ordering::Relaxed) && self.is_permitted(&decision.unit, permit)
    }

    /// What is held of a client of whom nothing else is to be assessed.
    pub(super) fn held(&self, subject: &Subject, id: Id) -> Option<Arc<Record>> {
        let (now, address) = (monotonic(), subject.address());
        if self.requests.spares(address, now) {
            return None;
        }
        let mut memory = self.memory();
        let held = memory.held.get(&Unit::of(subject)).filter(|held| now < held.until)?;
        let rule = held.decision.reason.map_or(u16::MAX, |signal| signal as u16);
        let permit = self.breaker().permits(rule, held.site);
        let record = Record {
            id,
            at: now,
            address,
            ja4: held.target.map(|target| target.ja4),
            standing: Standing::default(),
            assessment: Arc::clone(&held.assessment),
            decision: held.decision,
            until: Some(held.until),
            in_force: self.is_in_force(&held.decision, permit),
            earlier: Some(held.id),
        };
        Some(memory.remember(record, false))
    }

    /// Time has passed. Once a second is often enough.
    pub(super) fn tick(&self, now: Timestamp) {
        let mut changes = Vec::new();
        let mut breaker = self.breaker();
        breaker.tick(now, &mut |change| changes.push(change));
        let permit = breaker.permits_any();
        self.metrics.score.set_troubled(breaker.troubled().count());
        drop(breaker);
        for change in changes {
            self.changed(change, permit);
        }
        self.metrics.score.set_held(self.memory().held.len());
        self.reputation.publish();
    }

    fn changed(&self, change: Change, permit: Permit) {
        self.metrics.score.breaker.add(change.state.label(), 1);
        if change.state == State::Open {
            warn!(scope = ?change.scope, "too many people were newly stopped: automatic verdicts only count; see docs/scoring.md");
        } else {
            info!(scope = ?change.scope, state = change.state.label(), "a circuit breaker changed");
        }
        if change.scope == Scope::All {
            let share = match permit {
                Permit::Enforce => WHOLE_SHARE,
                Permit::Share(share) => (share * WHOLE_SHARE as f32) as u32,
                Permit::Observe => 0,
            };
            self.wishes.want(Wanted::Share(share));
        } else if change.state == State::Open {
            self.lift(change.scope);
        }
    }

    /// Ends what is in force by a rule, or on a site's clients: of those the kernel knows nothing.
    fn lift(&self, scope: Scope) {
        let memory = self.memory();
        let concerned = memory.held.iter().filter(|(_, held)| match scope {
            Scope::All => true,
            Scope::Rule(rule) => held.decision.reason.map(|signal| signal as u16) == Some(rule),
            Scope::Site(site) => held.site == site,
        });
        concerned.filter_map(|(_, held)| held.target).for_each(|target| self.wishes.want(Wanted::Lift(target)));
    }

    /// What was assessed last of whom an operator asks for: what decided something before what didn't. And how many
    /// assessments of them are remembered.
    pub(super) fn find(&self, of: impl Fn(&Record) -> bool) -> Option<(Arc<Record>, usize)> {
        let memory = self.memory();
        let now = monotonic();
        let holds = |record: &&Arc<Record>| record.until.is_some_and(|until| now < until);
        let decisive = memory.decisive.iter().rev().filter(|record| of(record));
        let all = memory.all.iter().rev().filter(|record| of(record));
        let count = all.clone().count();
        let found = decisive.clone().find(holds).or_else(|| all.clone().next()).or_else(|| decisive.clone().next());
        found.map(|record| (Arc::clone(record), count.max(1)))
    }

    /// The names of lists.
    pub(super) fn list_names(&self, lists: u64) -> Vec<String> {
        self.reputation.names(lists)
    }

    /// Breakers that aren't closed.
    pub(super) fn troubled(&self) -> usize {
        self.breaker().troubled().count()
    }

    /// Whether the mode is enforce.
    pub(super) fn enforces(&self) -> bool {
        self.enforcing.load(Ordering::Relaxed)
    }
}

struct Judged<'a> {
    id: Id,
    asked: &'a Asked<'a>,
    standing: Standing,
    /// It has shown to be a person, or a welcome crawler.
    credit: bool,
    assessment: Arc<Assessment>,
    decision: Decision,
}

impl Memory {
    fn remember(&mut self, record: Record, decisive: bool) -> Arc<Record> {
        let record = Arc::new(record);
        push(&mut self.all, &record, self.most);
        if decisive {
            push(&mut self.decisive, &record, self.most);
        }
        record
    }
}

fn push(ring: &mut VecDeque<Arc<Record>>, record: &Arc<Record>, most: usize) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(Arc::clone(record));
}

/// Whom the kernel is to stop: a client of its own, by address and fingerprint.
fn target(asked: &Asked<'_>, decision: &Decision) -> Option<Target> {
    let stops = matches!(decision.action, Action::Block | Action::RateLimit);
    let (Unit::Pair(unit, ja4), Reach::Packets, true) = (decision.unit, decision.reach, stops) else { return None };
    let identity = asked.identity.filter(|identity| !identity.void)?;
    Some(Target { unit, key: identity.keys.stable, ja4 })
}
