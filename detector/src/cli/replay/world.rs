//! One policy at work: requests in the order they came in, what it says of each out. The rooms of the daemon, with nothing
//! behind them.

use std::hash::BuildHasher as _;

use foldhash::fast::FixedState;

use super::joined::Joined;
use super::trial::{Trial, Tried};
use crate::config::Config;
use crate::family::Rarity;
use crate::feeds::{self, store};
use crate::network::{Network, Observation};
use crate::policy::decide::{Action, Decision, Others, Policy};
use crate::reputation::Book;
use crate::score::{Assessment, Engine, Facts, Settles, is_shown};
use crate::session::Sessions;

/// What a policy says of a request.
pub(super) struct Judged {
    pub(super) assessment: Assessment,
    pub(super) decision: Decision,
}

/// What a policy knows of clients.
pub(super) struct World {
    sessions: Sessions,
    network: Network,
    book: Book,
    rarity: Rarity,
    engine: Engine,
    policy: Policy,
    trial: Trial,
    hasher: FixedState,
}

impl World {
    /// What lists and databases say now. DNS isn't asked.
    pub(super) fn new(config: &Config) -> Result<Self, feeds::Error> {
        Ok(Self {
            sessions: Sessions::new(config.limits.session()).watching(config.engine.paths.clone()),
            network: Network::new(config.limits.network()),
            book: store::book(&config.feeds, &config.reputation)?,
            rarity: Rarity::default(),
            engine: Engine::new(config.engine.score.clone()),
            policy: config.engine.policy,
            trial: Trial::new(config),
            hasher: FixedState::default(),
        })
    }

    pub(super) fn judge(&mut self, joined: &Joined<'_>) -> Judged {
        let Joined { at, report, subject, .. } = *joined;
        let began = at.before(report.duration.unwrap_or_default());
        let key = self.sessions.key(&subject, report);
        let connection = joined.found.as_ref().map_or(0, |found| found.connection);
        let identity = joined.found.as_ref().map(|found| &*found.identity);
        let request = self.sessions.request(report, began, connection);
        let request = identity.map_or(request, |identity| request.with_hello(identity));
        self.sessions.note(key, &request, at);
        let session = self.sessions.summary(key, at);
        let agent = report.user_agent.as_deref();
        let mut seen = Observation::of(&subject, agent, request.is_page(), at, &self.hasher);
        let standing = self.book.standing(subject.address(), agent, false, |_| None);
        seen.session = key.by_id.then(|| key.hash());
        (seen.asn, seen.country) = (standing.asn, standing.country.map(|country| country.letters()));
        let view = self.network.note(&seen);
        let address = subject.address();
        let share = identity.and_then(|identity| self.rarity.note(report, identity.ja4_stable, address, at));
        let facts = Facts {
            identity,
            session: session.as_ref(),
            by_id: key.by_id,
            network: Some(&view),
            standing: Some(&standing),
            share,
            ..Facts::new(at, report, &subject)
        };
        let assessment = self.engine.assess(&facts);
        let others = Others { session: key.by_id.then(|| key.hash()), shared: view.shared, identity };
        let (mut decision, _) = self.policy.decide(&assessment, &subject).sparing(&assessment, &others);
        self.trial.note(Tried {
            at,
            hashes: (self.hasher.hash_one(decision.unit), self.hasher.hash_one(report.server_name.as_deref())),
            credit: self.trial.has_credit(&facts, &assessment),
            welcome: assessment.settled.is_some_and(|signal| signal.settles() == Some(Settles::Good)),
            decision: &mut decision,
        });
        if decision.action >= Action::Challenge {
            self.network.stopped(&seen);
        } else if is_shown(&assessment) {
            self.network.shown(&seen);
        }
        Judged { assessment, decision }
    }

    /// When circuit breakers would have opened, if any would have.
    pub(super) fn opened(&mut self) -> Option<String> {
        self.trial.end()
    }
}
