//! What is known of a client's address.

use super::evidence::{EvidenceList, Value};
use super::facts::Facts;
use super::settings::Settings;
use super::signal::Signal;
use crate::reputation::{Class, Crawler};

pub(super) fn assess(facts: &Facts<'_>, settings: &Settings, evidence: &mut EvidenceList) {
    let Some(standing) = facts.standing else { return };
    let nothing = Value::Nothing;
    for (class, signal, listed) in [
        (Class::Trusted, Signal::AllowListed, "allow list"),
        (Class::Denied, Signal::DenyListed, "deny list"),
        (Class::Abuse, Signal::FeedListed, "feed"),
        (Class::Tor, Signal::TorExit, "exit of Tor"),
    ] {
        if standing.classes.has(class) {
            evidence.add(settings, signal, Value::Word(listed), nothing);
        }
    }
    match standing.crawler {
        Crawler::None => {}
        Crawler::InRanges(id) | Crawler::ByName(id) => {
            let way = if matches!(standing.crawler, Crawler::ByName(_)) { "its name and back" } else { "its ranges" };
            evidence.add(settings, Signal::VerifiedBot, Value::Word(id.name()), Value::Word(way));
        }
        Crawler::Forged(id) => {
            evidence.add(settings, Signal::FalseBot, Value::Word("another address"), Value::Word(id.name()));
        }
        // Nothing is held against it until DNS has said so.
        Crawler::Unknown(_) => return,
    }
    if standing.classes.has(Class::Hosting) && standing.crawler.verified().is_none() {
        evidence.add(settings, Signal::HostingNetwork, standing.asn.map_or(Value::Word("feed"), Value::Asn), nothing);
    }
}
