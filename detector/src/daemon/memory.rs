//! What was assessed lately, and what is decided about clients: for the requests that come after, and for `detector
//! explain`.
//!
//! Memory: [`Bounds::held`] decisions and twice [`Bounds::remembered`] assessments, of some 2 KiB each.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use foldhash::fast::RandomState;
use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::wanted::Target;
use crate::breaker::Scope;
use crate::clock::Timestamp;
use crate::fingerprint::Ja4;
use crate::inline::Id;
use crate::network::Siblings;
use crate::policy::decide::{Decision, Unit};
use crate::policy::terms::RateLimit;
use crate::reputation::{Country, Standing};
use crate::score::Assessment;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Clients about whom something is decided.
    pub(super) held: usize,
    /// Assessments; and as many of those that decided something.
    pub(super) remembered: usize,
    /// IPv6 prefixes wider than a /64, with a fingerprint.
    pub(super) prefixes: usize,
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
    /// A hash of the site's name.
    pub(super) site: u64,
    /// Whether it is carried out, or only counts.
    pub(super) in_force: bool,
    /// It was decided by an earlier request of the client.
    pub(super) earlier: Option<Id>,
    /// A session's requests come faster than they may.
    pub(super) too_fast: bool,
}

/// What the next daemon must know of a decision that the kernel carries out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Decided {
    pub(super) id: Id,
    pub(super) decision: Decision,
    pub(super) until: Timestamp,
    pub(super) target: Target,
    pub(super) assessment: Arc<Assessment>,
    /// When the request came that it was decided by, and of whom.
    pub(super) at: Timestamp,
    pub(super) address: IpAddr,
    pub(super) ja4: Option<Ja4>,
    pub(super) asn: Option<u32>,
    pub(super) country: Option<Country>,
}

/// A decision that a client would notice.
pub(super) struct Held {
    /// What came of the request that it was decided by.
    pub(super) record: Arc<Record>,
    pub(super) until: Timestamp,
    /// Whom the kernel was to stop.
    pub(super) target: Option<Target>,
    /// When the next request of a session is due that may come so fast and no faster.
    pub(super) next: Timestamp,
}

/// All of that.
pub(super) struct Memory {
    held: LruCache<Unit, Held, RandomState>,
    pub(super) siblings: Siblings<Ja4>,
    all: VecDeque<Arc<Record>>,
    /// Those that decided something newly.
    decisive: VecDeque<Arc<Record>>,
    most: usize,
}

impl Memory {
    /// `siblings`: of [`crate::policy::decide::Policy`].
    pub(super) fn new(bounds: Bounds, siblings: usize) -> Self {
        let held = NonZeroUsize::new(bounds.held).unwrap_or(NonZeroUsize::MIN);
        Self {
            held: LruCache::with_hasher(held, RandomState::default()),
            siblings: Siblings::new(bounds.prefixes, siblings),
            all: VecDeque::new(),
            decisive: VecDeque::new(),
            most: bounds.remembered.max(1),
        }
    }

    /// Clients about whom something is decided, ended ones included.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// What is decided about a client.
    pub(super) fn held(&mut self, unit: &Unit, now: Timestamp) -> Option<&Held> {
        self.held.get(unit).filter(|held| now < held.until)
    }

    /// Something is decided about a client.
    pub(super) fn hold(&mut self, held: Held) {
        let unit = held.record.decision.unit;
        let next = self.held.peek(&unit).map_or(held.next, |held| held.next);
        self.held.put(unit, Held { next, ..held });
    }

    /// Whether a request of a limited session comes too fast; else it is counted.
    pub(super) fn is_too_fast(&mut self, unit: &Unit, rate: RateLimit, now: Timestamp) -> bool {
        let Some(held) = self.held.peek_mut(unit) else { return false };
        if held.next > now.plus(rate.tolerance()) {
            return true;
        }
        held.next = held.next.max(now).plus(rate.interval());
        false
    }

    /// Nothing is any more; what it was.
    pub(super) fn release(&mut self, unit: &Unit) -> Option<Held> {
        self.held.pop(unit)
    }

    /// Whom the kernel stops by a rule, or of a site's clients.
    pub(super) fn targets(&self, scope: Scope) -> impl Iterator<Item = Target> {
        let concerned = self.held.iter().filter(move |(_, held)| match scope {
            Scope::All => true,
            Scope::Rule(number) => held.record.decision.rule() == number,
            Scope::Site(site) => held.record.site == site,
        });
        concerned.filter_map(|(_, held)| held.target)
    }

    /// The latest decisions that the kernel carries out, `most` of them.
    pub(super) fn decided(&self, most: usize, now: Timestamp) -> Vec<Decided> {
        let live = self.held.iter().filter(|(_, held)| now < held.until);
        let decided = live.filter_map(|(_, held)| {
            let &Record { id, at, address, ja4, standing, decision, ref assessment, .. } = &*held.record;
            let Standing { asn, country, .. } = standing;
            let (until, target, assessment) = (held.until, held.target?, Arc::clone(assessment));
            Some(Decided { id, decision, until, target, assessment, at, address, ja4, asn, country })
        });
        decided.take(most).collect()
    }

    /// Takes over what an earlier daemon decided; the earliest first. Of which site it was, nobody can tell any more.
    pub(super) fn take_over(&mut self, decided: Decided) {
        let Decided { id, decision, until, target, assessment, at, address, ja4, asn, country } = decided;
        let record = Arc::new(Record {
            id,
            at,
            address,
            ja4,
            standing: Standing { asn, country, ..Standing::default() },
            assessment,
            decision,
            until: Some(until),
            site: 0,
            // Whether it is now is found out when somebody asks.
            in_force: true,
            earlier: None,
            too_fast: false,
        });
        push(&mut self.decisive, &record, self.most);
        self.hold(Held { record, until, target: Some(target), next: Timestamp::default() });
    }

    /// Keeps what came of a request.
    pub(super) fn remember(&mut self, record: &Arc<Record>, decisive: bool) {
        push(&mut self.all, record, self.most);
        if decisive {
            push(&mut self.decisive, record, self.most);
        }
    }

    /// What was assessed last of whom an operator asks for: what still holds before what doesn't. And how many assessments
    /// of them are remembered.
    pub(super) fn find(&self, of: impl Fn(&Record) -> bool, now: Timestamp) -> Option<(Record, usize)> {
        // What was lifted is over, whatever its end.
        let end = |record: &Record| {
            let held = self.held.peek(&record.decision.unit).filter(|held| now < held.until);
            held.filter(|_| record.decision.action.is_felt()).map(|held| held.until)
        };
        let all = || self.all.iter().rev().filter(|record| of(record));
        let decisive = || self.decisive.iter().rev().filter(|record| of(record));
        let holds = |record: &&Arc<Record>| end(record).is_some();
        let found = all().find(holds).or_else(|| decisive().find(holds)).or_else(|| all().next());
        let found = found.or_else(|| decisive().next())?;
        Some((Record { until: end(found), ..Record::clone(found) }, all().count().max(1)))
    }
}

fn push(ring: &mut VecDeque<Arc<Record>>, record: &Arc<Record>, most: usize) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(Arc::clone(record));
}
