//! The part of the configuration that the engine works by: what is typed in, [`score::Settings`], [`Policy`] and
//! [`breaker::Settings`] out.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Engine;
use super::layers::Wrong;
use super::number::{Real, Weight};
use super::value::{Count, Span, Typed};
use crate::breaker;
use crate::policy::decide::{Action, Policy};
use crate::policy::terms::RateLimit;
use crate::score::{self, Layer, Mode, Signal};
use crate::session::{Paths, Pattern};

/// Thousandths of 1: shares are 0 to 1.
type Share = Real<0, 1000>;
/// Log-odds.
type LogOdds = Real<-20_000, 20_000>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Score {
    prior: Option<LogOdds>,
    axis: Option<LogOdds>,
    likely_human: Option<Share>,
    suspicious: Option<Share>,
    likely_bot: Option<Share>,
    definitely_bot: Option<Share>,
    layers: Option<Layers<Typed<Mode>>>,
    caps: Option<Layers<LogOdds>>,
    weights: Option<BTreeMap<Typed<Signal>, Weight>>,
}

/// One value for each layer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layers<T> {
    reputation: Option<T>,
    coherence: Option<T>,
    behaviour: Option<T>,
    network: Option<T>,
    interaction: Option<T>,
    model: Option<T>,
    challenge: Option<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Behaviour {
    trap_paths: Option<Vec<Typed<Pattern>>>,
    robots_disallow: Option<Vec<Typed<Pattern>>>,
    pages_per_minute: Option<Real<1000, 60_000_000>>,
    burst: Option<Count<1, 1_000_000>>,
    least_pages: Option<Count<1, 1_000_000>>,
    intervals: Option<Count<2, 1_000_000>>,
    variation: Option<Share>,
    sequence: Option<Count<3, 1_000_000>>,
    unreferred_share: Option<Share>,
    depth: Option<Count<1, 255>>,
    error_share: Option<Share>,
    paths: Option<Count<1, 3000>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Network {
    prefix_per_minute: Option<Real<1000, 60_000_000>>,
    stopped_share: Option<Share>,
    spread_networks: Option<Count<2, 1000>>,
    spread_variation: Option<Share>,
    session_networks: Option<Count<2, 8>>,
    session_countries: Option<Count<2, 8>>,
    crowd: Option<Count<2, 1000>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Decisions {
    suspicious: Option<Typed<Action>>,
    likely_bot: Option<Typed<Action>>,
    definitely_bot: Option<Typed<Action>>,
    axes: Option<Count<1, 6>>,
    siblings: Option<Count<0, 256>>,
    rate: Option<RateLimit>,
    rate_limit_ttl: Option<Span>,
    challenge_ttl: Option<Span>,
    block_ttl: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Breaker {
    returning: Option<Span>,
    window: Option<Span>,
    share: Option<Share>,
    fast_window: Option<Span>,
    fast_share: Option<Share>,
    least: Option<Count<1, 1_000_000>>,
    open: Option<Span>,
    probe: Option<Span>,
    probes: Option<Count<1, 1000>>,
    probe_share: Option<Share>,
    verdicts_per_minute: Option<Count<1, 1_000_000>>,
    sites: Option<Count<1, 65_536>>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sections {
    pub(super) score: Score,
    pub(super) behaviour: Behaviour,
    pub(super) network: Network,
    pub(super) policy: Decisions,
    pub(super) breaker: Breaker,
}

impl Engine {
    pub(super) fn resolve(typed: Sections) -> Result<Self, Wrong> {
        let paths = Paths {
            traps: list(typed.behaviour.trap_paths.as_deref()),
            forbidden: list(typed.behaviour.robots_disallow.as_deref()),
        };
        let mut score = score::Settings::default();
        let said = typed.score.thresholds_said();
        typed.score.resolve(&mut score);
        typed.behaviour.resolve(&mut score.behaviour);
        typed.network.resolve(&mut score.network);
        let thresholds = &score.thresholds;
        if !thresholds.rise() {
            let score::Thresholds { likely_human, suspicious, likely_bot, definitely_bot } = thresholds;
            return Err(Wrong::new(
                &["score", said],
                format!(
                    "the thresholds don't rise from 0 to 1: `likely_human` {likely_human}, `suspicious` {suspicious}, \
                     `likely_bot` {likely_bot}, `definitely_bot` {definitely_bot}"
                ),
            ));
        }
        Ok(Self { score, paths, policy: typed.policy.resolve(), breaker: typed.breaker.resolve() })
    }
}

fn list(typed: Option<&[Typed<Pattern>]>) -> Vec<Pattern> {
    typed.unwrap_or_default().iter().map(|pattern| pattern.0.clone()).collect()
}

impl<T> Layers<T> {
    fn each(self) -> impl Iterator<Item = (Layer, T)> {
        let values = [
            self.reputation,
            self.coherence,
            self.behaviour,
            self.network,
            self.interaction,
            self.model,
            self.challenge,
        ];
        Layer::ALL.into_iter().zip(values).filter_map(|(layer, value)| Some((layer, value?)))
    }
}

impl Score {
    /// The first threshold that is typed.
    fn thresholds_said(&self) -> &'static str {
        let thresholds = [
            ("likely_human", self.likely_human.is_some()),
            ("suspicious", self.suspicious.is_some()),
            ("likely_bot", self.likely_bot.is_some()),
            ("definitely_bot", self.definitely_bot.is_some()),
        ];
        thresholds.into_iter().find(|(_, said)| *said).map_or("likely_human", |(name, _)| name)
    }

    fn resolve(self, settings: &mut score::Settings) {
        let thresholds = &mut settings.thresholds;
        real(&mut settings.prior, self.prior);
        real(&mut settings.axis, self.axis);
        real(&mut thresholds.likely_human, self.likely_human);
        real(&mut thresholds.suspicious, self.suspicious);
        real(&mut thresholds.likely_bot, self.likely_bot);
        real(&mut thresholds.definitely_bot, self.definitely_bot);
        for (layer, Typed(mode)) in self.layers.into_iter().flat_map(Layers::each) {
            settings.set_mode(layer, mode);
        }
        for (layer, Real(cap)) in self.caps.into_iter().flat_map(Layers::each) {
            settings.set_cap(layer, cap.abs());
        }
        for (Typed(signal), Weight(weight)) in self.weights.into_iter().flatten() {
            settings.set_weight(signal, weight);
        }
    }
}

impl Behaviour {
    fn resolve(self, settings: &mut score::Behaviour) {
        real(&mut settings.pages_per_minute, self.pages_per_minute);
        count(&mut settings.burst, self.burst);
        count(&mut settings.least_pages, self.least_pages);
        count(&mut settings.intervals, self.intervals);
        real(&mut settings.variation, self.variation);
        count(&mut settings.sequence, self.sequence);
        real(&mut settings.unreferred_share, self.unreferred_share);
        count(&mut settings.depth, self.depth);
        real(&mut settings.error_share, self.error_share);
        count(&mut settings.paths, self.paths);
    }
}

impl Network {
    fn resolve(self, settings: &mut score::Network) {
        real(&mut settings.prefix_per_minute, self.prefix_per_minute);
        real(&mut settings.stopped_share, self.stopped_share);
        count(&mut settings.spread_networks, self.spread_networks);
        real(&mut settings.spread_variation, self.spread_variation);
        count(&mut settings.session_networks, self.session_networks);
        count(&mut settings.session_countries, self.session_countries);
        count(&mut settings.crowd, self.crowd);
    }
}

impl Decisions {
    fn resolve(self) -> Policy {
        let base = Policy::default();
        let action = |typed: Option<Typed<Action>>, base| typed.map_or(base, |Typed(action)| action);
        let mut policy = Policy {
            suspicious: action(self.suspicious, base.suspicious),
            likely_bot: action(self.likely_bot, base.likely_bot),
            definitely_bot: action(self.definitely_bot, base.definitely_bot),
            axes: base.axes,
            siblings: base.siblings,
            rate: self.rate.unwrap_or(base.rate),
            rate_limit_ttl: self.rate_limit_ttl.map_or(base.rate_limit_ttl, |span| span.0),
            challenge_ttl: self.challenge_ttl.map_or(base.challenge_ttl, |span| span.0),
            block_ttl: self.block_ttl.map_or(base.block_ttl, |span| span.0),
        };
        count(&mut policy.axes, self.axes);
        count(&mut policy.siblings, self.siblings);
        policy
    }
}

impl Breaker {
    fn resolve(self) -> breaker::Settings {
        let mut settings = breaker::Settings::default();
        let spans = [
            (&mut settings.returning, self.returning),
            (&mut settings.window, self.window),
            (&mut settings.fast_window, self.fast_window),
            (&mut settings.open, self.open),
            (&mut settings.probe, self.probe),
        ];
        spans.into_iter().for_each(|(place, typed)| *place = typed.map_or(*place, |span| span.0));
        real(&mut settings.share, self.share);
        real(&mut settings.fast_share, self.fast_share);
        count(&mut settings.least, self.least);
        count(&mut settings.probes, self.probes);
        real(&mut settings.probe_share, self.probe_share);
        count(&mut settings.verdicts_per_minute, self.verdicts_per_minute);
        count(&mut settings.sites, self.sites);
        settings
    }
}

fn real<const MIN: i64, const MAX: i64>(place: &mut f32, typed: Option<Real<MIN, MAX>>) {
    *place = typed.map_or(*place, |typed| typed.0);
}

fn count<T: TryFrom<u64>, const MIN: u64, const MAX: u64>(place: &mut T, typed: Option<Count<MIN, MAX>>) {
    if let Some(value) = typed.and_then(|typed| T::try_from(typed.0).ok()) {
        *place = value;
    }
}
