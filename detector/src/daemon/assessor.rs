//! What is made of a request once its client is known: how sure it is that a program sent it, what is to be done about the
//! client, and why. By the thread of the reports, and by those that answer web servers; each holds a lock for a moment.
//!
//! Memory: [`Memory`]'s bounds, and those of what it works with.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use detector_common::{key::mix, mode::WHOLE_SHARE};
use foldhash::fast::RandomState;
use tracing::{info, warn};

use super::memory::{Bounds, Held, Memory, Record, rule};
use super::reputation::Reputation;
use super::requests::Requests;
use super::wanted::{Target, Wanted, Wishes};
use crate::breaker::{Breaker, Change, Permit, Scope, Seen, State};
use crate::clock::{Timestamp, monotonic};
use crate::family::{Rarity, Share};
use crate::inline::Id;
use crate::join::{Identity, Reach, Subject};
use crate::network::{Network, Observation};
use crate::policy::decide::{Action, Decision, Policy, Unit};
use crate::report::Report;
use crate::reputation::{Country, Standing};
use crate::score::{Assessment, Axis, Engine, Facts, Settles, Signal, has_credit, is_shown};
use crate::session::{Key, Request, Summary};
use crate::telemetry::Metrics;

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
    rarity: Mutex<Rarity>,
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
        // What is pinned may be as a breaker left it that nobody remembers.
        wishes.want(Wanted::Share(WHOLE_SHARE));
        Self {
            engine,
            policy,
            reputation,
            requests,
            wishes,
            enforcing,
            breaker: Mutex::new(breaker),
            network: Mutex::new(network),
            rarity: Mutex::default(),
            memory: Mutex::new(Memory::new(bounds)),
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

    /// How many share what a request's browser is like. A question about it counts no second time.
    fn share(&self, asked: &Asked<'_>) -> Option<Share> {
        let (request, identity) = (asked.request?, asked.identity?);
        let mut rarity = self.rarity.lock().unwrap_or_else(PoisonError::into_inner);
        rarity.note(asked.report, identity.ja4_stable, asked.subject.address(), request.at)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request isn't assessed: too many wait.
    pub(super) fn left_out(&self) {
        self.metrics.score.left_out.add("behind", 1);
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
            share: self.share(asked),
        };
        let assessment = self.engine.assess(&facts);
        let decision = self.policy.decide(&assessment, subject);
        self.metrics.score.assessments.add(assessment.confidence.label(), 1);
        let (credit, shown) = (has_credit(&facts, &assessment), is_shown(&assessment));
        let judged = Judged { id, asked, standing, credit, assessment: Arc::new(assessment), decision };
        let record = self.carry_out(judged);
        self.metrics.score.decisions.add(record.decision.action.metric_label(), 1);
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
        if welcome && let Some(target) = memory.release(&decision.unit).and_then(|held| held.target) {
            self.wishes.want(Wanted::Lift(target));
        }
        let earlier = memory.held(&decision.unit, now);
        let is_new = decision.action.is_felt()
            && earlier.is_none_or(|held| held.decision.action < decision.action)
            && !is_personal(asked, &decision);
        self.tell_breaker((credit, is_new), &mut decision, site, now);
        if let Some(held) = earlier.filter(|held| held.decision.action > decision.action) {
            let ja4 = asked.identity.map(|identity| identity.ja4);
            let record = Record { standing, ja4, ..self.still(held, asked.subject.address(), id, now) };
            return memory.remember(record, false);
        }
        let permit = self.permit(&decision, site);
        let holds = decision.action.is_felt() && !is_personal(asked, &decision);
        if holds {
            let until = now.plus(decision.ttl);
            let target = target(asked, &decision, &assessment);
            let due = is_new || earlier.is_none_or(|held| held.until.since(now) < decision.ttl / 2);
            if due && let Some(target) = target.filter(|_| self.is_permitted(&decision.unit, permit)) {
                let rate = (decision.action == Action::RateLimit).then_some(self.policy.rate);
                self.wishes.want(Wanted::Verdict { target, rate, ttl: decision.ttl });
            }
            memory.hold(Held { decision, until, site, target, id, assessment: Arc::clone(&assessment) });
        }
        let record = Record {
            id,
            at: now,
            address: asked.subject.address(),
            ja4: asked.identity.map(|identity| identity.ja4),
            standing,
            assessment,
            decision,
            until: holds.then(|| now.plus(decision.ttl)),
            in_force: holds && self.is_in_force(&decision, permit),
            earlier: None,
        };
        memory.remember(record, is_new)
    }

    /// What was decided earlier and still holds.
    fn still(&self, held: &Held, address: IpAddr, id: Id, now: Timestamp) -> Record {
        let permit = self.permit(&held.decision, held.site);
        Record {
            id,
            at: now,
            address,
            ja4: if let Unit::Pair(_, ja4) = held.decision.unit { Some(ja4) } else { None },
            standing: Standing::default(),
            assessment: Arc::clone(&held.assessment),
            decision: held.decision,
            until: Some(held.until),
            in_force: self.is_in_force(&held.decision, permit),
            earlier: Some(held.id),
        }
    }

    /// Tells the breaker of a request. Of too many new verdicts none blocks.
    fn tell_breaker(&self, (credit, is_new): (bool, bool), decision: &mut Decision, site: u64, now: Timestamp) {
        let mut breaker = self.breaker();
        let stops = is_new && decision.action >= Action::Challenge;
        if credit {
            let client = self.random.hash_one(decision.unit);
            breaker.note(Seen { client, site, stopped_by: stops.then_some(rule(decision)) }, now);
        } else if stops {
            breaker.verdict(now);
            if breaker.is_alarmed(now) && decision.action == Action::Block {
                (decision.action, decision.ttl) = (Action::Challenge, self.policy.challenge_ttl);
            }
        }
    }

    /// What the breaker lets a decision do.
    fn permit(&self, decision: &Decision, site: u64) -> Permit {
        self.breaker().permits(rule(decision), site)
    }

    fn is_permitted(&self, unit: &Unit, permit: Permit) -> bool {
        match permit {
            Permit::Enforce => true,
            // Of a fast hash the bits alone are no lottery.
            Permit::Share(share) => (mix(self.random.hash_one(unit)) >> 40) as f32 / ((1 << 24) as f32) < share,
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
        let record = self.still(memory.held(&Unit::of(subject), now)?, address, id, now);
        Some(memory.remember(record, false))
    }

    /// Time has passed. Once a second is often enough.
    pub(super) fn tick(&self, now: Timestamp) {
        let mut changes = Vec::new();
        let mut breaker = self.breaker();
        breaker.tick(now, &mut |change| changes.push(change));
        let permit = breaker.permits_any();
        if permit != Permit::Enforce {
            // Again and again: an operator's word on the mode takes in all addresses.
            self.wishes.want(Wanted::Share(share_of(permit)));
        }
        self.metrics.score.set_troubled(breaker.troubled().count());
        drop(breaker);
        for change in changes {
            self.changed(change, permit);
        }
        self.metrics.score.set_held(self.memory().len());
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
            self.wishes.want(Wanted::Share(share_of(permit)));
        } else if change.state == State::Open {
            self.lift(change.scope);
        }
    }

    /// Ends what is in force by a rule, or on a site's clients: of those the kernel knows nothing.
    fn lift(&self, scope: Scope) {
        self.memory().targets(scope).for_each(|target| self.wishes.want(Wanted::Lift(target)));
    }

    /// What was assessed last of whom an operator asks for, and how many assessments of them are remembered.
    pub(super) fn find(&self, of: impl Fn(&Record) -> bool) -> Option<(Record, usize)> {
        self.memory().find(of, monotonic())
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

/// The share of addresses that a breaker for all lets verdicts hold for.
fn share_of(permit: Permit) -> u32 {
    match permit {
        Permit::Enforce => WHOLE_SHARE,
        Permit::Share(share) => (share * WHOLE_SHARE as f32) as u32,
        Permit::Observe => 0,
    }
}

/// Whether a decision rests on what one of the site's own sessions did: others may have its address and fingerprint, so
/// nothing is held against those.
fn is_personal(asked: &Asked<'_>, decision: &Decision) -> bool {
    let by_id = asked.key.is_some_and(|key| key.by_id);
    by_id && decision.axes.has(Axis::Behaviour)
}

/// Whom the kernel is to stop: a client of its own, by address and fingerprint. Nobody in a crowd: a limit would be one on
/// all of them (threats.md T44).
fn target(asked: &Asked<'_>, decision: &Decision, assessment: &Assessment) -> Option<Target> {
    let stops = matches!(decision.action, Action::Block | Action::RateLimit);
    let (Unit::Pair(unit, ja4), Reach::Packets, true) = (decision.unit, decision.reach, stops) else { return None };
    let identity = asked.identity.filter(|identity| !identity.void && !assessment.evidence.has(Signal::Crowd))?;
    Some(Target { unit, key: identity.keys.stable, ja4 })
}

#[cfg(test)]
mod tests;
