//! What a client's networks and its fingerprint do.

use super::evidence::{EvidenceList, Value};
use super::facts::Facts;
use super::signal::Signal;

/// What an operator can change of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Requests a minute of one /24 or /48 from which it stands out.
    pub prefix_per_minute: f32,
    /// The share of a network's requests that is stopped, from which the others are suspicious too.
    pub stopped_share: f32,
    /// Networks over which one fingerprint is spread.
    pub spread_networks: u32,
    /// How regular its pages then follow each other, as a variation, at most.
    pub spread_variation: f32,
    /// Networks of one session within ten minutes.
    pub session_networks: u32,
    /// Countries of one session within ten minutes. Who turns a VPN on is in two.
    pub session_countries: u32,
    /// Kinds of clients that make a crowd.
    pub crowd: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prefix_per_minute: 600.0,
            stopped_share: 0.5,
            spread_networks: 20,
            spread_variation: 0.3,
            session_networks: 4,
            session_countries: 3,
            crowd: 8,
        }
    }
}

pub(super) fn assess(facts: &Facts<'_>, settings: &super::Settings, evidence: &mut EvidenceList) {
    let (Some(view), bounds) = (facts.network, &settings.network) else { return };
    let crowd = view.clients >= bounds.crowd;
    if crowd {
        let expected = Value::AtMost(bounds.crowd as f32);
        // What one of the site's own sessions did, nobody else at its address did.
        let share = if facts.by_id { 0.0 } else { 1.0 };
        evidence.add_share(settings, Signal::Crowd, share, Value::Count(view.clients.into()), expected);
    } else if view.prefix.per_minute > bounds.prefix_per_minute {
        let expected = Value::AtMost(bounds.prefix_per_minute);
        evidence.add(settings, Signal::PrefixRate, Value::PerMinute(view.prefix.per_minute), expected);
    }
    let stopped = view.asn.map_or(0.0, |asn| asn.stopped).max(view.prefix.stopped);
    if stopped >= bounds.stopped_share {
        evidence.add(settings, Signal::PrefixBlocked, Value::Share(stopped), Value::AtMost(bounds.stopped_share));
    }
    if let Some(pace) = view.pace.filter(|pace| *pace < bounds.spread_variation)
        && view.networks >= bounds.spread_networks
    {
        let expected = Value::AtLeast(bounds.spread_variation);
        evidence.add(settings, Signal::FingerprintSpread, Value::Number(pace), expected);
    }
    let (networks, countries) = (view.session_networks, view.session_countries);
    if networks >= bounds.session_networks || countries >= bounds.session_countries {
        let places = networks.max(countries);
        evidence.add(settings, Signal::NetworkChanged, Value::Count(places.into()), Value::Count(1));
    }
}
