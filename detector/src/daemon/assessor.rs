//! What is made of a request once its client is known: how sure it is that a program sent it, what is to be done about the
//! client, and why. By the thread of the reports, and by those that answer web servers; each holds a lock for a moment.
//!
//! Memory: [`Memory`]'s bounds, and those of what it works with.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use detector_common::{key::mix, mode::WHOLE_SHARE};
use foldhash::fast::RandomState;
use tracing::{info, warn};

use super::budget::Budget;
use super::decided;
use super::memory::{Bounds, Decided, Held, Memory, Record};
use super::reputation::Reputation;
use super::requests::Requests;
use super::wanted::{Target, Wanted, Wishes};
use crate::breaker::{Breaker, Change, Permit, Scope, Seen, State};
use crate::clock::{Timestamp, monotonic};
use crate::config;
use crate::family::{Rarity, Share};
use crate::inline::Id;
use crate::join::{Identity, Reach, Subject};
use crate::network::{Network, Observation};
use crate::policy::decide::{Action, Decision, Others, Policy, Spared, Unit};
use crate::report::Report;
use crate::reputation::{Country, Standing};
use crate::score::{Assessment, Confidence, Engine, Facts, Settles, has_credit, is_shown};
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

/// What a reload changes: each request is assessed by one of them, from its beginning to its end.
struct Live {
    engine: Engine,
    policy: Policy,
    /// When a session's client counts for that.
    returning: Duration,
}

impl Live {
    fn new(settings: &config::Engine) -> Self {
        let engine = Engine::new(settings.score.clone());
        Self { engine, policy: settings.policy, returning: settings.breaker.returning }
    }
}

/// Assesses.
pub(super) struct Assessor {
    live: ArcSwap<Live>,
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
    budget: Budget,
    metrics: Arc<Metrics>,
}

/// What an assessor works with.
pub(super) struct Parts<'a> {
    pub(super) settings: &'a config::Engine,
    pub(super) network: Network,
    pub(super) reputation: Reputation,
    pub(super) requests: Arc<Requests>,
    pub(super) wishes: Wishes,
    pub(super) enforcing: Arc<AtomicBool>,
    pub(super) bounds: Bounds,
    pub(super) budget: Budget,
    /// Any secret: what tells this daemon's decisions from another's.
    pub(super) daemon: u64,
    pub(super) metrics: Arc<Metrics>,
}

impl Assessor {
    pub(super) fn new(parts: Parts<'_>) -> Self {
        let Parts { settings, network, reputation, requests, wishes, enforcing, .. } = parts;
        let Parts { bounds, budget, daemon, metrics, .. } = parts;
        // What is pinned may be as a breaker left it that nobody remembers.
        wishes.want(Wanted::Share(WHOLE_SHARE));
        Self {
            live: ArcSwap::from_pointee(Live::new(settings)),
            reputation,
            requests,
            wishes,
            enforcing,
            breaker: Mutex::new(Breaker::new(settings.breaker)),
            network: Mutex::new(network),
            rarity: Mutex::default(),
            memory: Mutex::new(Memory::new(bounds, settings.policy.siblings)),
            random: RandomState::default(),
            daemon,
            number: AtomicU64::new(0),
            budget,
            metrics,
        }
    }

    /// Works by other settings from now on. What is decided stays, until its end.
    pub(super) fn configure(&self, settings: &config::Engine, assessed_per_second: u32) {
        self.memory().siblings.takes(settings.policy.siblings);
        self.breaker().configure(settings.breaker);
        self.budget.set(assessed_per_second);
        self.live.store(Arc::new(Live::new(settings)));
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

    fn observation(&self, asked: &Asked<'_>, standing: &Standing) -> Observation {
        let (page, at) = asked.request.map_or((false, asked.now), |request| (request.is_page(), request.at));
        let agent = asked.report.user_agent.as_deref();
        Observation {
            session: session_id(asked),
            asn: standing.asn,
            country: standing.country.map(Country::letters),
            ..Observation::of(asked.subject, agent, page, at, &self.random)
        }
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

    /// Whether there is time to assess a request that was told of. `behind`: too many wait for that.
    pub(super) fn has_time(&self, behind: bool, now: Timestamp) -> bool {
        let left_out = match behind {
            true => &self.metrics.requests.behind,
            false if self.budget.take(now) => return true,
            false => &self.metrics.requests.over_budget,
        };
        left_out.add(1);
        false
    }

    /// Assesses a request, and has done what is decided about its client.
    pub(super) fn assess(&self, asked: &Asked<'_>, id: Id) -> Arc<Record> {
        let Asked { report, subject, identity, session, key, now, .. } = *asked;
        let live = self.live.load_full();
        let address = subject.address();
        let spared = self.requests.spares(address, now);
        let standing = self.reputation.standing(address, report.user_agent.as_deref(), spared, now);
        let seen = self.observation(asked, &standing);
        // A question counts no second time, but people around it are as welcome.
        let counts = asked.request.is_some();
        let network = if counts { self.network().note(&seen) } else { self.network().look(&seen) };
        let facts = Facts {
            now,
            report,
            subject,
            identity,
            session,
            by_id: key.is_some_and(|key| key.by_id),
            network: Some(&network),
            standing: Some(&standing),
            share: self.share(asked),
        };
        let assessment = live.engine.assess(&facts);
        let decision = live.policy.decide(&assessment, subject);
        self.metrics.requests.assessed.add(assessment.confidence.label(), 1);
        let (credit, shown) = (has_credit(&facts, &assessment, live.returning), is_shown(&assessment));
        let shared = network.shared;
        let (policy, assessment) = (live.policy, Arc::new(assessment));
        let judged = Judged { id, asked, policy, standing, credit, shared, assessment, decision };
        let record = self.carry_out(judged);
        self.metrics.requests.decisions.add(record.decision.action.metric_label(), 1);
        if counts && record.decision.action >= Action::Challenge {
            self.network().stopped(&seen);
        }
        // Whatever others with its fingerprint did there.
        if counts && shown {
            self.network().shown(&seen);
        }
        record
    }

    /// What holds for the client now: what was just decided, or what was decided earlier, if that is harder.
    fn carry_out(&self, mut judged: Judged<'_>) -> Arc<Record> {
        let site = self.random.hash_one(judged.asked.report.server_name.as_deref());
        let mut memory = self.memory();
        self.settle_unit(&mut memory, &mut judged);
        let Judged { id, asked, policy, standing, credit, assessment, mut decision, .. } = judged;
        let now = asked.now;
        let unit = hardest(&mut memory, asked, &decision);
        let earlier = memory.held(&unit, now);
        let is_new =
            decision.action.is_felt() && earlier.is_none_or(|held| held.record.decision.action < decision.action);
        let client = self.random.hash_one(session(asked).unwrap_or_else(|| Unit::of(asked.subject)));
        self.tell_breaker((credit.then_some(client), is_new), &policy, &mut decision, site, now);
        let ja4 = asked.identity.map(|identity| identity.ja4);
        if let Some(held) = earlier.filter(|held| held.record.decision.action > decision.action) {
            let record = Record { standing, ja4, ..self.still(held, asked.subject.address(), id, now) };
            let too_fast = is_too_fast(&mut memory, asked, &policy, &record.decision);
            let record = Arc::new(Record { too_fast, ..record });
            memory.remember(&record, false);
            return record;
        }
        let permit = self.permit(&decision, site);
        let until = decision.action.is_felt().then(|| now.plus(decision.ttl));
        let mut record = Arc::new(Record {
            id,
            at: now,
            address: asked.subject.address(),
            ja4,
            standing,
            assessment,
            decision,
            until,
            site,
            in_force: until.is_some() && self.is_in_force(&decision, permit),
            earlier: None,
            too_fast: false,
        });
        if let Some(until) = until {
            let target = target(asked, &decision);
            let due = is_new || earlier.is_none_or(|held| held.until.since(now) < decision.ttl / 2);
            if due && let Some(target) = target.filter(|_| self.is_permitted(&decision.unit, permit)) {
                let rate = (decision.action == Action::RateLimit).then_some(policy.rate);
                self.wishes.want(Wanted::Verdict { target, rate, ttl: decision.ttl });
            }
            memory.hold(Held { record: Arc::clone(&record), until, target, next: Timestamp::default() });
        }
        if is_too_fast(&mut memory, asked, &policy, &decision) {
            record = Arc::new(Record { too_fast: true, ..Record::clone(&record) });
        }
        memory.remember(&record, is_new);
        drop(memory);
        if is_new {
            decided::tell(&record, session_id(asked));
        }
        record
    }

    /// Whom a decision is about: what one of a site's own sessions did is held against that alone, and where others are
    /// behind an address (threats.md T44), nothing that they may have done too.
    fn settle_unit(&self, memory: &mut Memory, judged: &mut Judged<'_>) {
        let Judged { asked, assessment, decision, shared, .. } = judged;
        if assessment.settled.is_some_and(|signal| signal.settles() == Some(Settles::Good)) {
            for unit in [Some(decision.unit), session(asked)].into_iter().flatten() {
                self.release(memory, &unit);
            }
        }
        let (spared, whom) = decision.sparing(assessment, &others(asked, *shared));
        *decision = spared;
        match whom {
            Spared::Company => {}
            Spared::Crowd => {
                // From before so many came.
                if memory
                    .held(&decision.unit, asked.now)
                    .is_some_and(|held| held.record.decision.action >= Action::Challenge)
                {
                    self.release(memory, &decision.unit);
                }
            }
            Spared::Nobody => self.widen(memory, asked, assessment, decision),
        }
    }

    /// Ends what is decided about somebody.
    fn release(&self, memory: &mut Memory, unit: &Unit) {
        if let Some(target) = memory.release(unit).and_then(|held| held.target) {
            self.wishes.want(Wanted::Lift(target));
        }
    }

    /// A client that changes its /64 is bad in a wider prefix; somebody there who isn't ends that.
    fn widen(&self, memory: &mut Memory, asked: &Asked<'_>, assessment: &Assessment, decision: &mut Decision) {
        let (Unit::Pair(unit, ja4), now) = (decision.unit, asked.now) else { return };
        let by_hello = decision.is_by_hello(&others(asked, false));
        if decision.action == Action::Block && decision.reach == Reach::Packets && by_hello {
            decision.unit = Unit::Pair(memory.siblings.bad(unit, ja4, now.plus(decision.ttl), now), ja4);
        } else if assessment.confidence <= Confidence::LikelyHuman {
            for prefix in memory.siblings.clean(unit, ja4, now) {
                self.release(memory, &Unit::Pair(prefix, ja4));
            }
        }
    }

    /// What was decided earlier and still holds.
    fn still(&self, held: &Held, address: IpAddr, id: Id, now: Timestamp) -> Record {
        let Record { decision, site, ref assessment, .. } = *held.record;
        let permit = self.permit(&decision, site);
        Record {
            id,
            at: now,
            address,
            ja4: if let Unit::Pair(_, ja4) = decision.unit { Some(ja4) } else { None },
            standing: Standing::default(),
            assessment: Arc::clone(assessment),
            decision,
            until: Some(held.until),
            site,
            in_force: self.is_in_force(&decision, permit),
            earlier: Some(held.record.id),
            too_fast: false,
        }
    }

    /// Tells the breaker of a request. Of too many new verdicts none blocks. `client`: who has credit.
    fn tell_breaker(
        &self,
        (client, is_new): (Option<u64>, bool),
        policy: &Policy,
        decision: &mut Decision,
        site: u64,
        now: Timestamp,
    ) {
        let stops = is_new && decision.action >= Action::Challenge;
        if client.is_none() && !stops {
            return;
        }
        let mut breaker = self.breaker();
        if let Some(client) = client {
            breaker.note(Seen { client, site, stopped_by: stops.then_some(decision.rule()) }, now);
        } else {
            breaker.verdict(now);
            if breaker.is_alarmed(now) && decision.action == Action::Block {
                self.metrics.enforce.held_back.add(1);
                (decision.action, decision.ttl) = (Action::Challenge, policy.challenge_ttl);
            }
        }
    }

    /// What the breaker lets a decision do: what nobody feels asks for none.
    fn permit(&self, decision: &Decision, site: u64) -> Permit {
        if !decision.action.is_felt() {
            return Permit::Observe;
        }
        self.breaker().permits(decision.rule(), site)
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
        let record = Arc::new(self.still(memory.held(&Unit::of(subject), now)?, address, id, now));
        memory.remember(&record, false);
        Some(record)
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
        for state in State::ALL {
            self.metrics.requests.breakers.set(state.label(), breaker.count(state) as u64);
        }
        drop(breaker);
        for change in changes {
            self.changed(change, permit);
        }
        self.metrics.resources.entries.held_decisions.set(self.memory().len() as u64);
        self.reputation.publish();
    }

    fn changed(&self, change: Change, permit: Permit) {
        self.metrics.requests.breaker_changes.add(change.state.label(), 1);
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

    /// What was assessed last of whom an operator asks for, and how many assessments of them are remembered. Whether it is
    /// carried out is said of now: mode and breakers change.
    pub(super) fn find(&self, of: impl Fn(&Record) -> bool) -> Option<(Record, usize)> {
        let (record, count) = self.memory().find(of, monotonic())?;
        let permit = self.permit(&record.decision, record.site);
        let in_force = record.until.is_some() && self.is_in_force(&record.decision, permit);
        Some((Record { in_force, ..record }, count))
    }

    /// The latest decisions that the kernel carries out, `most` of them.
    pub(super) fn decided(&self, most: usize) -> Vec<Decided> {
        self.memory().decided(most, monotonic())
    }

    /// Takes over what an earlier daemon decided, the latest first.
    pub(super) fn take_over(&self, decided: Vec<Decided>) {
        let mut memory = self.memory();
        decided.into_iter().rev().for_each(|decided| memory.take_over(decided));
    }

    /// The names of lists.
    pub(super) fn list_names(&self, lists: u64) -> Vec<String> {
        self.reputation.names(lists)
    }

    /// Whether the mode is enforce.
    pub(super) fn enforces(&self) -> bool {
        self.enforcing.load(Ordering::Relaxed)
    }
}

struct Judged<'a> {
    id: Id,
    asked: &'a Asked<'a>,
    /// By which it was.
    policy: Policy,
    standing: Standing,
    /// It has shown to be a person, or a welcome crawler.
    credit: bool,
    /// Somebody at its address browses with its fingerprint.
    shared: bool,
    assessment: Arc<Assessment>,
    decision: Decision,
}

/// Whether a question is about a request of a session that comes faster than those may.
fn is_too_fast(memory: &mut Memory, asked: &Asked<'_>, policy: &Policy, decision: &Decision) -> bool {
    let limited = decision.action == Action::RateLimit && matches!(decision.unit, Unit::Session(_));
    limited && asked.request.is_none() && memory.is_too_fast(&decision.unit, policy.rate, asked.now)
}

/// The share of addresses that a breaker for all lets verdicts hold for.
fn share_of(permit: Permit) -> u32 {
    match permit {
        Permit::Enforce => WHOLE_SHARE,
        Permit::Share(share) => (share * WHOLE_SHARE as f32) as u32,
        Permit::Observe => 0,
    }
}

/// A hash of the session, if it is the site's own.
fn session_id(asked: &Asked<'_>) -> Option<u64> {
    asked.key.filter(|key| key.by_id).map(|key| key.hash())
}

fn session(asked: &Asked<'_>) -> Option<Unit> {
    session_id(asked).map(Unit::Session)
}

/// Of what is held of a request's client, and of its session, whom the harder one is about.
fn hardest(memory: &mut Memory, asked: &Asked<'_>, decision: &Decision) -> Unit {
    let mut action = |unit: &Unit| memory.held(unit, asked.now).map(|held| held.record.decision.action);
    let held = action(&decision.unit);
    session(asked).filter(|session| action(session) > held).unwrap_or(decision.unit)
}

/// Who else may be where a request came from. `shared`: somebody there browses with its fingerprint.
fn others<'a>(asked: &Asked<'a>, shared: bool) -> Others<'a> {
    Others { session: session_id(asked), shared, identity: asked.identity }
}

/// Whom the kernel is to stop: a client of its own, by address and fingerprint.
fn target(asked: &Asked<'_>, decision: &Decision) -> Option<Target> {
    let stops = matches!(decision.action, Action::Block | Action::RateLimit);
    let (Unit::Pair(unit, ja4), Reach::Packets, true) = (decision.unit, decision.reach, stops) else { return None };
    let identity = asked.identity.filter(|identity| !identity.void)?;
    Some(Target { unit, key: identity.keys.stable, ja4 })
}

#[cfg(test)]
mod tests;
