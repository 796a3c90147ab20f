//! The hello, against the family that the User-Agent names.

use super::super::evidence::{EvidenceList, Value};
use super::super::facts::Facts;
use super::super::settings::Settings;
use super::super::signal::Signal;
use super::{Said, traits};
use crate::agent::{Agent, Engine, Kind as Says};
use crate::family::{self, Expected, Kind, Known, Verdict};
use crate::fingerprint::traits::ExtensionSet;
use crate::fingerprint::{Trait, Transport};
use crate::join::Identity;

/// Versions of a browser by which a hello may be off: catalogues are behind, and rollouts take their time.
const TOLERANCE: u16 = 6;
/// Versions of two years.
const STALE: u16 = 26;
/// The first version of Chromium and Firefox about whose hellos something is known.
const KNOWN_SINCE: u16 = 100;
/// The part of a mismatch that remains where an interceptor (a company's proxy, an antivirus) may have sent the hello.
const INTERCEPTED: f32 = 0.35;
/// Connections in one order that are no coincidence.
const CONNECTIONS: u32 = 3;
/// Connections of one session among which a browser resumes.
const RESUMABLE: u32 = 12;

pub(super) fn assess(facts: &Facts<'_>, said: &Said<'_>, settings: &Settings, evidence: &mut EvidenceList) {
    let Some(identity) = said.identity else { return };
    let verdict = family::shipped().find(identity.ja4_stable, &identity.traits);
    match said.agent.kind {
        Says::Browser if said.agent.is_plain_browser() => plain(facts, said, identity, verdict, settings, evidence),
        Says::Browser => embedded(said, verdict, settings, evidence),
        Says::Library | Says::Tool | Says::Unknown => script(facts, said, identity, verdict, settings, evidence),
        // They have libraries, and say who they are.
        Says::App | Says::Service | Says::Crawler => {}
    }
    alpn(facts, said, identity, settings, evidence);
}

/// A browser, as it says.
fn plain(
    facts: &Facts<'_>,
    said: &Said<'_>,
    identity: &Identity,
    verdict: Verdict<'static>,
    settings: &Settings,
    evidence: &mut EvidenceList,
) {
    let agent = &said.agent;
    let Some(engine) = agent.engine else { return };
    let mut mismatch = |share: f32, observed: Value| {
        let share = if said.relayed { share.min(INTERCEPTED) } else { share };
        evidence.add_share(settings, Signal::UaTlsMismatch, share, observed, claimed(agent));
    };
    match verdict {
        Verdict::Known(known) if known.kind == Kind::Browser && known.engine == Some(engine) => {
            version(agent, known, settings, evidence);
        }
        Verdict::Known(known) if known.kind == Kind::Proxy => return mismatch(INTERCEPTED, Value::Word(&known.family)),
        Verdict::Known(known) if known.kind != Kind::Imitator => return mismatch(1.0, Value::Word(&known.family)),
        Verdict::Known(known) => {
            evidence.add(settings, Signal::KnownImitator, Value::Word(&known.family), claimed(agent));
        }
        Verdict::Drift(known) if known.engine == Some(engine) => {
            evidence.add(settings, Signal::FamilyDrift, Value::Ja4(identity.ja4), Value::Ja4(known.ja4_r.ja4()));
        }
        // Its ciphers are another engine's.
        Verdict::Drift(known) => return mismatch(1.0, Value::Word(&known.family)),
        Verdict::Unknown => {
            let is_known = family::shipped().expected(engine).is_some() && agent.major >= Some(KNOWN_SINCE);
            if is_known && identity.transport == Transport::Tcp {
                mismatch(INTERCEPTED, Value::Ja4(identity.ja4));
            }
            return;
        }
    }
    let Some(expected) = family::shipped().expected(engine) else { return };
    // A release that the catalogue doesn't know yet may have changed anything.
    let is_newer = matches!(verdict, Verdict::Drift(_)) && agent.major > Some(expected.version);
    if !is_newer {
        traits::assess(said, identity, expected, settings, evidence);
    }
    connections(facts, said, identity, expected, settings, evidence);
}

/// The version that the User-Agent names, against those that send this hello.
fn version(agent: &Agent, known: &'static Known, settings: &Settings, evidence: &mut EvidenceList) {
    let (Some(major), Some((first, last)), Some(engine)) = (agent.major, known.versions, agent.engine) else { return };
    // Of Safari there are copies only.
    if family::shipped().expected(engine).is_none() {
        return;
    }
    let name = family::browser(engine);
    if major < first.saturating_sub(TOLERANCE) {
        evidence.add(settings, Signal::UaVersionMismatch, Value::Version(name, first), claimed(agent));
    }
    let behind = major.saturating_sub(last);
    if behind > TOLERANCE && family::shipped().has_newer(known, major) {
        let signal = if behind >= STALE { Signal::StaleHello } else { Signal::UaVersionMismatch };
        evidence.add(settings, signal, Value::Version(name, last), claimed(agent));
    }
}

/// What the connections of a session have in common.
fn connections(
    facts: &Facts<'_>,
    said: &Said<'_>,
    identity: &Identity,
    expected: &Expected,
    settings: &Settings,
    evidence: &mut EvidenceList,
) {
    let Some(hellos) = facts.session.map(|session| session.hellos) else { return };
    let seen = Value::Count(u64::from(hellos.connections));
    let enough = hellos.connections >= CONNECTIONS;
    let fixed = hellos.in_first_order == hellos.connections;
    let permutes = expected.permutes.is_some_and(|since| said.agent.major > Some(since));
    if enough && permutes && fixed {
        evidence.add(settings, Signal::OrderFixed, seen, Value::Word("another order each time"));
    }
    // Over QUIC Firefox permutes.
    let keeps = expected.permutes.is_none() && identity.transport == Transport::Tcp;
    if enough && keeps && hellos.in_first_order == 1 {
        evidence.add(settings, Signal::OrderPermuted, seen, Value::Word("one order"));
    }
    // Each of many people behind one key begins without a ticket; a private window never has one.
    let modes = ExtensionSet::default().with(ExtensionSet::PSK_KEY_EXCHANGE_MODES);
    let may_resume = identity.traits.extensions.has_all(modes);
    if facts.by_id && expected.resumes && may_resume && hellos.connections >= RESUMABLE && hellos.resumed == 0 {
        evidence.add(settings, Signal::NeverResumes, seen, Value::Word("some resumed"));
    }
}

/// An engine in another program: which version and which build of it nobody knows, but it is that engine.
fn embedded(said: &Said<'_>, verdict: Verdict<'static>, settings: &Settings, evidence: &mut EvidenceList) {
    let Verdict::Known(known) = verdict else { return };
    let foreign = matches!(known.kind, Kind::Library | Kind::Tool | Kind::Scanner);
    if said.agent.engine == Some(Engine::Chromium) && foreign {
        let share = if said.relayed { INTERCEPTED } else { 1.0 };
        let observed = Value::Word(&known.family);
        evidence.add_share(settings, Signal::UaTlsMismatch, share, observed, claimed(&said.agent));
    }
}

/// A library or a tool, as it says, or something that doesn't say what it is.
fn script(
    facts: &Facts<'_>,
    said: &Said<'_>,
    identity: &Identity,
    verdict: Verdict<'static>,
    settings: &Settings,
    evidence: &mut EvidenceList,
) {
    let Verdict::Known(known) = verdict else { return };
    let silent = said.names.is_some() && facts.report.user_agent.is_none();
    match known.kind {
        Kind::Browser if said.is_script() => {
            let observed = Value::Word(&known.family);
            evidence.add(settings, Signal::UaTlsMismatch, observed, claimed(&said.agent));
        }
        Kind::Browser | Kind::Proxy => {}
        Kind::Imitator => evidence.add(settings, Signal::KnownImitator, Value::Ja4(identity.ja4), Value::Nothing),
        Kind::Library | Kind::Tool | Kind::Scanner => {
            // Many a program has a library's hello and a name of its own.
            let sure = said.is_script() || silent || known.kind == Kind::Scanner;
            let share = if sure { 1.0 } else { 0.4 };
            let observed = Value::Word(&known.family);
            evidence.add_share(settings, Signal::KnownTool, share, observed, Value::Word("a browser"));
        }
    }
}

/// The protocol that is spoken, against those that the hello offers.
fn alpn(facts: &Facts<'_>, said: &Said<'_>, identity: &Identity, settings: &Settings, evidence: &mut EvidenceList) {
    let has = |one: Trait| identity.traits.has.has(one);
    let protocol = facts.report.protocol.as_deref().unwrap_or_default();
    if identity.transport != Transport::Tcp || has(Trait::OffersHttp2) {
        return;
    }
    if protocol.starts_with("HTTP/2") {
        evidence.add(
            settings,
            Signal::AlpnMismatch,
            Value::Word("HTTP/2, not offered"),
            Value::Word("what is offered"),
        );
        return;
    }
    let websocket = said.names.is_none_or(super::Names::ask_for_websocket) || facts.report.status == Some(101);
    let modern = said.agent.is_plain_browser() && said.agent.major >= Some(KNOWN_SINCE);
    // What is another family's altogether was said before.
    if modern && !websocket && !said.relayed && !evidence.has(Signal::UaTlsMismatch) {
        evidence.add(settings, Signal::AlpnMismatch, Value::Word("HTTP/1 alone"), Value::Word("HTTP/2 offered"));
    }
}

/// What a User-Agent says, for people.
fn claimed(agent: &Agent) -> Value {
    match agent.major {
        Some(major) => Value::Version(agent.product, major),
        None => Value::Word(agent.product),
    }
}
