//! The layers of the engine, in the order they are asked.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A group of signals that is switched, capped and explained as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// What is known of the address.
    Reputation,
    /// Whether hello, SYN and headers are of one client.
    Coherence,
    /// What the client does.
    Behaviour,
    /// What its networks and its fingerprint do.
    Network,
    /// What a person does on a page; abstains until pages tell.
    Interaction,
    /// What was learned; abstains until there is a model.
    Model,
    /// What came of challenges; abstains until there are pages for them.
    Challenge,
}

impl Layer {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Reputation,
        Self::Coherence,
        Self::Behaviour,
        Self::Network,
        Self::Interaction,
        Self::Model,
        Self::Challenge,
    ];

    /// The word for it in output and in the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reputation => "reputation",
            Self::Coherence => "coherence",
            Self::Behaviour => "behaviour",
            Self::Network => "network",
            Self::Interaction => "interaction",
            Self::Model => "model",
            Self::Challenge => "challenge",
        }
    }
}

/// What a layer's evidence is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It isn't asked.
    Off,
    /// It tells, and the score is as if it hadn't.
    Shadow,
    /// It counts.
    #[default]
    On,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Off, Self::Shadow, Self::On];

    /// The word for it in output and in the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::On => "on",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = Self::ALL.into_iter().find(|mode| mode.label() == text);
        mode.ok_or_else(|| format!("`{text}` is no mode of a layer; type `off`, `shadow` or `on`"))
    }
}

/// What came of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerScore {
    /// Which.
    pub layer: Layer,
    /// What it was for.
    pub mode: Mode,
    /// The sum of its evidence in log-odds, capped; `None`: it had nothing to say.
    pub sum: Option<f32>,
}
