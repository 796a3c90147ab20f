//! What an operator can change of the engine.

use super::behaviour;
use super::confidence::Thresholds;
use super::layer::{Layer, Mode};
use super::network;
use super::signal::Signal;

/// What an operator can change.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Log-odds that a request comes from a program, before anything is known of it.
    pub prior: f32,
    /// Of each layer, in the order of [`Layer::ALL`].
    pub modes: [Mode; Layer::ALL.len()],
    /// The most log-odds that a layer adds or takes away.
    pub caps: [f32; Layer::ALL.len()],
    /// Of each signal, in the order of [`Signal::ALL`]; `None`: off.
    pub weights: [Option<f32>; Signal::ALL.len()],
    /// Log-odds on one axis from which it counts as one of the two that it takes.
    pub axis: f32,
    /// Where confidences begin.
    pub thresholds: Thresholds,
    /// Of the layer of that name.
    pub behaviour: behaviour::Settings,
    /// Of the layer of that name.
    pub network: network::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prior: -2.0,
            modes: [Mode::On; Layer::ALL.len()],
            caps: Layer::ALL.map(|layer| match layer {
                Layer::Reputation | Layer::Behaviour => 4.0,
                Layer::Coherence => 6.0,
                Layer::Network => 2.5,
                Layer::Interaction | Layer::Model | Layer::Challenge => 3.0,
            }),
            weights: Signal::ALL.map(|signal| Some(signal.weight())),
            axis: 1.0,
            thresholds: Thresholds::default(),
            behaviour: behaviour::Settings::default(),
            network: network::Settings::default(),
        }
    }
}

impl Settings {
    /// The weight of a signal, unless it is off.
    #[must_use]
    pub fn weight(&self, signal: Signal) -> Option<f32> {
        self.weights.get(signal as usize).copied().flatten()
    }

    /// Gives a signal another weight, or turns it off.
    pub fn set_weight(&mut self, signal: Signal, weight: Option<f32>) {
        if let Some(place) = self.weights.get_mut(signal as usize) {
            *place = weight;
        }
    }

    /// What a layer is for.
    #[must_use]
    pub fn mode(&self, layer: Layer) -> Mode {
        self.modes.get(layer as usize).copied().unwrap_or_default()
    }

    /// Makes a layer be for something else.
    pub fn set_mode(&mut self, layer: Layer, mode: Mode) {
        if let Some(place) = self.modes.get_mut(layer as usize) {
            *place = mode;
        }
    }

    /// Gives a layer another bound.
    pub fn set_cap(&mut self, layer: Layer, cap: f32) {
        if let Some(place) = self.caps.get_mut(layer as usize) {
            *place = cap;
        }
    }

    /// The most that a layer adds or takes away.
    pub(super) fn cap(&self, layer: Layer) -> f32 {
        self.caps.get(layer as usize).copied().unwrap_or_default()
    }
}
