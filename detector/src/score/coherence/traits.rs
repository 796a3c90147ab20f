//! What a hello shows beside its JA4, against what the version that the User-Agent names shows. Copies of a browser's
//! JA4 differ here.

use super::super::evidence::{EvidenceList, Value};
use super::super::settings::Settings;
use super::super::signal::Signal;
use super::Said;
use crate::agent::Engine;
use crate::family::{self, Expected};
use crate::fingerprint::{Trait, Transport};
use crate::join::Identity;

/// Versions until everybody has what a version begins to have: browsers roll things out.
const ROLLOUT: u16 = 2;

pub(super) fn assess(
    said: &Said<'_>,
    identity: &Identity,
    expected: &Expected,
    settings: &Settings,
    evidence: &mut EvidenceList,
) {
    let Some(major) = said.agent.major else { return };
    let lacks = |one: Trait| {
        let since = expected.since().find(|(known, _)| *known == one);
        since.is_some_and(|(_, since)| since.saturating_add(ROLLOUT) <= major) && !identity.traits.has.has(one)
    };
    let missing = |among: &[Trait]| among.iter().copied().find(|one| lacks(*one));
    let word = |one: Trait| Value::Word(one.label());
    // Chromium has none over QUIC.
    let grease = missing(&GREASE).filter(|_| identity.transport == Transport::Tcp);
    if let Some(one) = grease {
        evidence.add(settings, Signal::GreaseMismatch, Value::Nothing, word(one));
    }
    // A company's policy can turn it off; a phone's may be off.
    if let Some(one) = missing(&POST_QUANTUM).filter(|_| said.is_on_desk()) {
        evidence.add_share(settings, Signal::NoPostQuantum, 0.75, Value::Nothing, word(one));
    }
    if let Some((share, seen, wanted)) = length(identity, expected, major) {
        let (seen, wanted) = (Value::Count(u64::from(seen)), Value::Count(u64::from(wanted)));
        evidence.add_share(settings, Signal::LengthMismatch, share, seen, wanted);
    }
}

const GREASE: [Trait; 6] = [
    Trait::GreaseCiphers,
    Trait::GreaseExtensions,
    Trait::GreaseGroups,
    Trait::GreaseVersions,
    Trait::GreaseSignatures,
    Trait::GreaseShares,
];

/// `ml-dsa` is over QUIC not in any browser's hello, and over TCP a sign of the version.
const POST_QUANTUM: [Trait; 1] = [Trait::MlKemShare];

/// The length that fits least: how sure that is, the length, and one that would fit.
fn length(identity: &Identity, expected: &Expected, major: u16) -> Option<(f32, u16, u16)> {
    let traits = &identity.traits;
    let unlike = |seen: Option<u16>, known: &[u16], share: f32| {
        let wanted = *known.first()?;
        seen.filter(|seen| !known.contains(seen)).map(|seen| (share, seen, wanted))
    };
    // One that another engine's GREASE has isn't real ECH; else it may be. A resumed hello is longer within.
    let other = |length: u16| {
        let engines = Engine::ALL.iter().filter(|engine| **engine != expected.engine);
        let mut others = engines.filter_map(|engine| family::shipped().expected(*engine));
        others.any(|other| other.ech.contains(&length))
    };
    let ech = traits.ech.filter(|_| !traits.has.has(Trait::Resumes));
    let of_other = ech.is_some_and(other);
    let found = [
        unlike(ech, &expected.ech, if of_other { 1.0 } else { 0.5 }),
        unlike(traits.application_settings, &expected.application_settings, 1.0),
        unlike(traits.grease_extension, &expected.grease_extension, 1.0),
        // As many anchors as the program trusts, which differs by version.
        unlike(traits.trust_anchors.filter(|_| major == expected.version), &expected.trust_anchors, 0.5),
    ];
    found.into_iter().flatten().max_by(|a, b| a.0.total_cmp(&b.0))
}
