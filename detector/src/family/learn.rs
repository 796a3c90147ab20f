//! Makes the catalogue: hellos with their labels in, the text of `data/clients.toml` out, the same for the same hellos in
//! any order. A browser's own hello is the browser's. So is an imitator's that has what that engine's hellos all have:
//! it was copied byte by byte, and says what versions sent that are no longer to be had. Of any other imitation the
//! hello is the imitator's own.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{Browser, File, HEAD, Value};
use super::{Kind, browser};
use crate::agent::{Agent, Engine, Os};
use crate::fingerprint::{Fingerprint, Trait, TraitSet, Traits, Transport};

/// Who sent a hello, as its label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A browser, driven by a person or by a tool.
    Browser,
    /// What pretends to be another client.
    Imitator,
    /// Any other, of this kind.
    Other(Kind),
}

/// A hello and its label.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Who sent it.
    pub class: Class,
    /// The program's family.
    pub program: String,
    /// The program with its version and, of an imitator, whom it imitates.
    pub seen: String,
    /// The User-Agent of its request, if it had one.
    pub user_agent: Option<String>,
    /// What its hello says.
    pub fingerprint: Fingerprint,
    /// How that was carried.
    pub transport: Transport,
    /// The recording: hellos of one come of one program, one after another.
    pub recording: String,
    /// Names of its request's headers in their order, in lower case; empty if there was none.
    pub headers: Vec<String>,
    /// That was a page which is navigated to.
    pub navigation: bool,
}

impl Observation {
    fn agent(&self) -> Agent {
        self.user_agent.as_deref().map_or(Agent::UNKNOWN, Agent::of)
    }

    fn engine(&self) -> Option<Engine> {
        self.agent().engine
    }

    /// A browser's own hello, or an exact copy of it.
    fn is_browsers(&self) -> bool {
        match self.class {
            Class::Browser => true,
            Class::Imitator => {
                self.engine().is_some_and(|engine| is_copy(engine, self.transport, &self.fingerprint.traits))
            }
            Class::Other(_) => false,
        }
    }

    /// A browser's own, of which the version is known.
    fn is_plain(&self) -> bool {
        self.class == Class::Browser && self.agent().is_plain_browser()
    }
}

/// Whether a hello has what all hellos of an engine have, which those who only resemble it miss.
fn is_copy(engine: Engine, transport: Transport, traits: &Traits) -> bool {
    use Trait::{DelegatedCredentials, GreaseCiphers, GreaseExtensions, GreaseGroups, GreaseVersions, RecordSizeLimit};
    let grease: TraitSet = [GreaseCiphers, GreaseExtensions, GreaseGroups, GreaseVersions].into_iter().collect();
    let wanted = match engine {
        // Over QUIC Chromium and Safari have none.
        Engine::Chromium | Engine::WebKit if transport == Transport::Quic => return traits.has.and(grease).is_empty(),
        Engine::Chromium | Engine::WebKit => grease,
        Engine::Gecko => [DelegatedCredentials, RecordSizeLimit].into_iter().collect(),
    };
    wanted.without(traits.has).is_empty()
}

/// The text of the catalogue.
///
/// # Errors
/// It can't be written as TOML, which is a bug.
pub fn learn(observations: &[Observation], as_of: Option<String>) -> Result<String, toml::ser::Error> {
    let mut by_ja4 = BTreeMap::<_, Vec<&Observation>>::new();
    for observation in observations {
        by_ja4.entry(observation.fingerprint.ja4).or_default().push(observation);
    }
    let mut value: Vec<Value> = by_ja4.values().filter_map(|observed| value(observed)).collect();
    value.sort_by(|a, b| (a.kind, &a.family, &a.ja4).cmp(&(b.kind, &b.family, &b.ja4)));
    let browser = Engine::ALL.iter().filter_map(|engine| expected(*engine, observations)).collect();
    Ok(format!("{HEAD}{}", toml::to_string(&File { as_of, browser, value })?))
}

/// What is known of a JA4 value that these have.
fn value(observed: &[&Observation]) -> Option<Value> {
    let of_browsers: Vec<_> = observed.iter().filter(|observation| observation.is_browsers()).collect();
    let own = of_browsers.iter().find(|observation| observation.class == Class::Browser);
    let engine = own.or(of_browsers.first()).and_then(|observation| observation.engine());
    let kinds = observed.iter().filter_map(|observation| match observation.class {
        Class::Other(kind) => Some((kind, observation.program.clone())),
        Class::Browser | Class::Imitator => None,
    });
    let first = observed.iter().min_by_key(|observation| &observation.program)?;
    let (kind, family) = match engine {
        Some(engine) => (Kind::Browser, browser(engine).to_owned()),
        None => kinds.min().unwrap_or_else(|| (Kind::Imitator, first.program.clone())),
    };
    let majors: BTreeSet<u16> = of_browsers
        .iter()
        .map(|observation| observation.agent())
        .filter(|agent| agent.engine == engine)
        .filter_map(|agent| agent.major)
        .collect();
    let seen: BTreeSet<&str> = match (own, engine) {
        (Some(_), _) => {
            observed.iter().filter(|one| one.class == Class::Browser).map(|one| one.seen.as_str()).collect()
        }
        (None, Some(_)) => of_browsers.iter().map(|one| one.seen.as_str()).collect(),
        (None, None) => observed.iter().map(|one| one.seen.as_str()).collect(),
    };
    Some(Value {
        family,
        kind,
        ja4: first.fingerprint.ja4.to_string(),
        ja4_stable: first.fingerprint.ja4_stable.to_string(),
        ja4_r: first.fingerprint.ja4_r.clone(),
        versions: majors.first().zip(majors.last()).map(|(first, last)| [*first, *last]),
        seen: seen.into_iter().take(SEEN).map(str::to_owned).collect(),
    })
}

/// Programs that are named for a value: enough to find one of them again.
const SEEN: usize = 4;

/// What browsers with an engine show, if one was recorded.
fn expected(engine: Engine, observations: &[Observation]) -> Option<Browser> {
    let own: Vec<&Observation> =
        observations.iter().filter(|one| one.is_plain() && one.engine() == Some(engine)).collect();
    let version = own.iter().filter_map(|one| one.agent().major).max()?;
    let own: Vec<&Observation> = own.into_iter().filter(|one| one.agent().major == Some(version)).collect();
    let over_tcp = || own.iter().filter(|one| one.transport == Transport::Tcp);
    let has = over_tcp().map(|one| one.fingerprint.traits.has).reduce(TraitSet::and)?;
    let copies: Vec<&Observation> = observations.iter().filter(|one| is_desktop(one, engine)).collect();
    let since = |one: Trait| {
        let shown = copies.iter().filter_map(|copy| Some((copy.agent().major?, copy.fingerprint.traits.has.has(one))));
        first_with(version, shown).unwrap_or(version)
    };
    let since = has.iter().map(|one| (one.label().to_owned(), since(one))).collect();
    let lengths = |length: fn(&Traits) -> Option<u16>| {
        let lengths: BTreeSet<u16> = own.iter().filter_map(|one| length(&one.fingerprint.traits)).collect();
        lengths.into_iter().collect::<Vec<u16>>()
    };
    let told: Vec<&[String]> = own.iter().map(|one| &*one.headers).filter(|headers| !headers.is_empty()).collect();
    let navigations = own.iter().filter(|one| one.navigation).map(|one| &one.headers);
    let headers = navigations.max_by_key(|headers| (headers.len(), *headers)).cloned().unwrap_or_default();
    let always = headers.iter().filter(|name| told.iter().all(|told| told.contains(name))).cloned().collect();
    Some(Browser {
        family: browser(engine).to_owned(),
        version,
        permutes: first_with(version, permuting(&copies)),
        resumes: own.iter().any(|one| one.fingerprint.traits.has.has(Trait::Resumes)),
        ech: lengths(|traits| traits.ech),
        trust_anchors: lengths(|traits| traits.trust_anchors),
        application_settings: lengths(|traits| traits.application_settings),
        grease_extension: lengths(|traits| traits.grease_extension),
        headers,
        always,
        since,
    })
}

/// A hello over TCP that is an engine's or an exact copy, on a desk: phones get some things later.
fn is_desktop(one: &Observation, engine: Engine) -> bool {
    let agent = one.agent();
    let on_desk = !agent.mobile && !matches!(agent.os, Some(Os::Android | Os::Ios));
    one.transport == Transport::Tcp
        && one.is_browsers()
        && agent.is_plain_browser()
        && agent.engine == Some(engine)
        && on_desk
}

/// Of each recording with several hellos its version, and whether their extensions are in another order each time.
fn permuting(copies: &[&Observation]) -> impl Iterator<Item = (u16, bool)> {
    let mut recordings = BTreeMap::<&str, (Option<u16>, Vec<u64>)>::new();
    for copy in copies {
        let (major, orders) = recordings.entry(&copy.recording).or_default();
        *major = copy.agent().major;
        orders.push(copy.fingerprint.traits.order);
    }
    recordings.into_values().filter(|(_, orders)| orders.len() > 1).filter_map(|(major, orders)| {
        let distinct: BTreeSet<u64> = orders.iter().copied().collect();
        Some((major?, distinct.len() > 1))
    })
}

/// The first version from which on most show something, up to `version`; none, if that itself doesn't.
fn first_with(version: u16, shown: impl Iterator<Item = (u16, bool)>) -> Option<u16> {
    let mut by_version = BTreeMap::<u16, (usize, usize)>::new();
    for (major, shows) in shown {
        let (with, all) = by_version.entry(major).or_default();
        *with = with.saturating_add(usize::from(shows));
        *all = all.saturating_add(1);
    }
    let most = |(_, (with, all)): &(u16, (usize, usize))| with.saturating_mul(2) > *all;
    let having = by_version.into_iter().rev().skip_while(|(major, _)| *major > version).take_while(most);
    having.last().map(|(major, _)| major)
}
