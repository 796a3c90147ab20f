//! The engine: facts in, an [`Assessment`] out.

use serde::{Deserialize, Serialize};

use super::axis::{Axes, Axis};
use super::confidence::Confidence;
use super::evidence::{Evidence, EvidenceList};
use super::facts::Facts;
use super::layer::{Layer, LayerScore, Mode};
use super::settings::Settings;
use super::signal::{Settles, Signal};
use super::{behaviour, coherence, network, reputation};

/// What came of an assessment, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// That a program sent the request, 0 to 1.
    pub score: f32,
    /// The same as a word.
    pub confidence: Confidence,
    /// Axes that speak for a program, each loud enough to count.
    pub axes: Axes,
    /// What settled it, whatever else was found.
    pub settled: Option<Signal>,
    /// What came of each layer.
    pub layers: [LayerScore; Layer::ALL.len()],
    /// What was found, of layers in shadow too.
    pub evidence: EvidenceList,
}

impl Assessment {
    /// The heaviest evidence that speaks for a program and counts.
    #[must_use]
    pub fn reason(&self) -> Option<Signal> {
        let counting = self.counting().filter(|evidence| evidence.weight > 0.0);
        let heaviest = counting.max_by(|a, b| a.weight.total_cmp(&b.weight));
        self.settled.or_else(|| heaviest.map(|evidence| evidence.signal))
    }

    /// What counts and speaks for a program, the heaviest first.
    pub fn heaviest(&self) -> impl Iterator<Item = Evidence> {
        let sorted = self.evidence.by_weight().into_iter();
        let on = self.layers;
        sorted.filter(move |evidence| {
            let layer = evidence.signal.layer();
            evidence.weight > 0.0 && on.iter().any(|score| score.layer == layer && score.mode == Mode::On)
        })
    }

    /// The evidence of layers that count.
    pub fn counting(&self) -> impl Iterator<Item = &Evidence> {
        let on = |layer: Layer| self.layers.iter().any(|score| score.layer == layer && score.mode == Mode::On);
        self.evidence.iter().filter(move |evidence| on(evidence.signal.layer()))
    }
}

/// The engine. The same for live requests and for those of a log.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    settings: Settings,
}

impl Engine {
    /// With these settings.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// What it works by.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How sure it is that a program sent a request.
    #[must_use]
    pub fn assess(&self, facts: &Facts<'_>) -> Assessment {
        let mut evidence = EvidenceList::default();
        for layer in Layer::ALL.into_iter().filter(|layer| self.settings.mode(*layer) != Mode::Off) {
            ask(layer, facts, &self.settings, &mut evidence);
        }
        self.weigh(facts, evidence)
    }

    /// The same of evidence that is there.
    #[must_use]
    pub fn weigh(&self, facts: &Facts<'_>, evidence: EvidenceList) -> Assessment {
        let settings = &self.settings;
        let layers = Layer::ALL.map(|layer| {
            let mut own = evidence.iter().filter(|evidence| evidence.signal.layer() == layer).peekable();
            let cap = settings.cap(layer);
            let has_any = own.peek().is_some();
            let sum: f32 = own.map(|evidence| evidence.weight).sum();
            LayerScore { layer, mode: settings.mode(layer), sum: has_any.then(|| sum.clamp(-cap, cap)) }
        });
        let counting = layers.iter().filter(|layer| layer.mode == Mode::On).filter_map(|layer| layer.sum);
        let score = logistic(settings.prior + counting.sum::<f32>());
        let confidence = settings.thresholds.confidence(score);
        let mut assessment = Assessment { score, confidence, axes: Axes::default(), settled: None, layers, evidence };
        assessment.axes = axes(&assessment, settings.axis);
        temper(&mut assessment, facts);
        assessment
    }
}

/// Asks a layer. Those that abstain have nothing to look at yet.
fn ask(layer: Layer, facts: &Facts<'_>, settings: &Settings, evidence: &mut EvidenceList) {
    match layer {
        Layer::Reputation => reputation::assess(facts, settings, evidence),
        Layer::Coherence => coherence::assess(facts, settings, evidence),
        Layer::Behaviour => behaviour::assess(facts, settings, evidence),
        Layer::Network => network::assess(facts, settings, evidence),
        Layer::Interaction | Layer::Model | Layer::Challenge => {}
    }
}

/// Axes with so much against the client.
fn axes(assessment: &Assessment, least: f32) -> Axes {
    let sum = |axis: Axis| {
        let own = assessment.counting().filter(|evidence| evidence.signal.axis() == axis);
        own.map(|evidence| evidence.weight.max(0.0)).sum::<f32>()
    };
    Axis::ALL.into_iter().filter(|axis| sum(*axis) >= least).collect()
}

/// What no sum may say: certainty by one axis, and more than a suspicion by volume where many may be behind one key.
fn temper(assessment: &mut Assessment, facts: &Facts<'_>) {
    let settles = |which| assessment.counting().find(|evidence| evidence.signal.settles() == Some(which));
    let good = settles(Settles::Good).map(|evidence| (evidence.signal, 0.0, Confidence::DefinitelyHuman));
    let bad = settles(Settles::Bad).map(|evidence| (evidence.signal, 1.0, Confidence::DefinitelyBot));
    if let Some((signal, score, confidence)) = good.or(bad) {
        (assessment.settled, assessment.score, assessment.confidence) = (Some(signal), score, confidence);
        return;
    }
    let only_volume =
        assessment.counting().filter(|evidence| evidence.weight > 0.0).all(|evidence| evidence.signal.is_volume());
    let most = if only_volume && !facts.by_id {
        Confidence::Suspicious
    } else if assessment.axes.count() < 2 {
        Confidence::LikelyBot
    } else {
        Confidence::DefinitelyBot
    };
    assessment.confidence = assessment.confidence.min(most);
}

fn logistic(log_odds: f32) -> f32 {
    1.0 / (1.0 + (-log_odds).exp())
}
