//! What scoring makes of what others write: a client's words in reports, and the lists of publishers.

use std::net::Ipv4Addr;
use std::time::Duration;

use foldhash::fast::FixedState;

use crate::clock::Timestamp;
use crate::family::{self, Rarity};
use crate::fingerprint::{Traits, Transport};
use crate::join::{Identity, Subject};
use crate::network::{self, Network, Observation};
use crate::policy::decide::{Action, Policy};
use crate::report::{self, Report};
use crate::reputation::{Bounds, List, Refused};
use crate::score::{Engine, Facts};
use crate::session::{self, Paths, Sessions};
use crate::signature::Class;

/// Of one client: how many reports.
const MOST: usize = 64;
const BOUNDS: Bounds = Bounds { entries: 1000, widest_ipv4: 16, widest_ipv6: 32 };

/// A client of the catalogue and the reports of what it did, a line each, through all layers: whatever the client says,
/// the score is one, and what is told of it can be printed.
pub fn scoring(script: &[u8]) {
    let Some(([which, system, pause], lines)) = script.split_first_chunk() else { return };
    let mut known = family::shipped().values().map(|known| known.ja4_r.ja4());
    let Some(ja4) = known.nth(usize::from(*which)) else { return };
    let mut world = World::new();
    for (number, line) in lines.split(|&byte| byte == b'\n').take(MOST).enumerate() {
        let mut mended = String::new();
        let Ok(read) = report::read(line, &mut mended) else { continue };
        let now = Timestamp::from_nanos(1 << 50).plus(Duration::from_millis(number as u64 * u64::from(*pause)));
        let identity = Identity {
            ja4,
            ja4_stable: ja4,
            keys: Default::default(),
            traits: Traits::default(),
            syn_class: [None, Some(Class::Windows), Some(Class::Linux)][usize::from(*system) % 3],
            transport: Transport::Tcp,
            syn: None,
            hello: now,
            stream: 0,
            void: false,
        };
        world.request(&read.report, &identity, now);
    }
}

struct World {
    sessions: Sessions,
    network: Network,
    rarity: Rarity,
    engine: Engine,
}

impl World {
    fn new() -> Self {
        let paths = Paths { traps: vec!["/private/".parse().expect("a pattern")], ..Paths::default() };
        Self {
            sessions: Sessions::new(session::Limits::default()).watching(paths),
            network: Network::new(network::Limits::default()),
            rarity: Rarity::default(),
            engine: Engine::default(),
        }
    }

    fn request(&mut self, report: &Report<'_>, identity: &Identity, now: Timestamp) {
        let address = Ipv4Addr::new(192, 0, 2, 1).into();
        let subject = Subject::Client { address, ja4_stable: identity.ja4_stable, proxy_suspected: false };
        let key = self.sessions.key(&subject, report);
        let began = now.before(report.duration.unwrap_or_default());
        let request = self.sessions.request(report, began, 1).with_hello(identity);
        self.sessions.note(key, &request, now);
        let session = self.sessions.summary(key, now);
        let agent = report.user_agent.as_deref();
        let seen = Observation::of(&subject, agent, request.is_page(), request.at, &FixedState::default());
        let view = self.network.note(&seen);
        let share = self.rarity.note(report, identity.ja4_stable, address, now);
        let facts = Facts {
            identity: Some(identity),
            session: session.as_ref(),
            by_id: key.by_id,
            network: Some(&view),
            share,
            ..Facts::new(now, report, &subject)
        };
        let assessment = self.engine.assess(&facts);
        assert!((0.0..=1.0).contains(&assessment.score), "no score: {}", assessment.score);
        for evidence in assessment.evidence.iter() {
            assert!(evidence.weight.is_finite(), "{} weighs {}", evidence.signal.name(), evidence.weight);
            let told = format!("{} {}", evidence.observed, evidence.expected_text());
            assert!(told.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "unprintable: {told:?}");
        }
        let decision = Policy::default().decide(&assessment, &subject);
        let blocks = decision.action == Action::Block && assessment.settled.is_none();
        assert!(!blocks || assessment.axes.count() >= 2, "a block by one axis");
    }
}

/// A publisher's list: what is taken of it is within its bounds, in order, and read again it is the same.
pub fn list(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let list = match List::read(&text, &BOUNDS) {
        Ok(list) => list,
        Err(refused) => return assert!(Refused::LABELS.contains(&refused.label())),
    };
    assert!(list.prefixes.len() <= BOUNDS.entries, "more than it may have");
    assert!(list.prefixes.is_sorted(), "out of order");
    for (at, prefix) in list.prefixes.iter().enumerate() {
        assert!(prefix.trunc() == *prefix, "{prefix} has bits beyond its length");
        let others = list.prefixes.iter().skip(at + 1);
        assert!(others.clone().all(|other| !prefix.contains(other)), "{prefix} has others of the list within it");
    }
    let again: Vec<String> = list.prefixes.iter().map(ToString::to_string).collect();
    if !again.is_empty() {
        let again = List::read_own(&again.join("\n"), BOUNDS.entries).map(|list| list.prefixes);
        assert_eq!(again.as_ref(), Ok(&list.prefixes), "written and read, it is another");
    }
}
