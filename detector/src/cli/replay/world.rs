//! One policy at work: requests in the order they came in, what it says of each out. The rooms of the daemon, with nothing
//! behind them.

use foldhash::fast::FixedState;

use super::joined::Joined;
use crate::config::Config;
use crate::family::Rarity;
use crate::feeds::{self, store};
use crate::network::{self, Network, Observation};
use crate::policy::decide::{Action, Decision, Policy};
use crate::reputation::Book;
use crate::score::{Assessment, Engine, Facts, is_shown};
use crate::session::{self, Sessions};

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
    hasher: FixedState,
}

impl World {
    /// What lists and databases say now. DNS isn't asked.
    pub(super) fn new(config: &Config) -> Result<Self, feeds::Error> {
        let limits = &config.limits;
        let sessions = session::Limits { sessions: limits.sessions as usize, ..session::Limits::default() };
        let bounds = network::Limits {
            addresses: limits.network_addresses as usize,
            fingerprints: limits.network_fingerprints as usize,
        };
        Ok(Self {
            sessions: Sessions::new(sessions).watching(config.engine.paths.clone()),
            network: Network::new(bounds),
            book: store::book(&config.feeds, &config.reputation)?,
            rarity: Rarity::default(),
            engine: Engine::new(config.engine.score.clone()),
            policy: config.engine.policy,
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
        let decision = self.policy.decide(&assessment, &subject);
        if decision.action >= Action::Challenge {
            self.network.stopped(&seen);
        } else if is_shown(&assessment) {
            self.network.shown(&seen);
        }
        Judged { assessment, decision }
    }
}
