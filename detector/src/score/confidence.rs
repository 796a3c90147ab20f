//! A score as one of five words.

use serde::{Deserialize, Serialize};

/// How sure it is that a program sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// A person, or a program that is known and welcome.
    DefinitelyHuman,
    /// Nothing says otherwise.
    LikelyHuman,
    /// Something does.
    Suspicious,
    /// Much does.
    LikelyBot,
    /// Much does, by two axes at least, or its address is known.
    DefinitelyBot,
}

impl Confidence {
    /// All of them, from person to program.
    pub const ALL: [Self; 5] =
        [Self::DefinitelyHuman, Self::LikelyHuman, Self::Suspicious, Self::LikelyBot, Self::DefinitelyBot];

    /// The word for it in output, headers and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::DefinitelyHuman => "definitely_human",
            Self::LikelyHuman => "likely_human",
            Self::Suspicious => "suspicious",
            Self::LikelyBot => "likely_bot",
            Self::DefinitelyBot => "definitely_bot",
        }
    }
}

/// Scores at which the next confidence begins, rising.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// [`Confidence::LikelyHuman`].
    pub likely_human: f32,
    /// [`Confidence::Suspicious`].
    pub suspicious: f32,
    /// [`Confidence::LikelyBot`].
    pub likely_bot: f32,
    /// [`Confidence::DefinitelyBot`].
    pub definitely_bot: f32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { likely_human: 0.05, suspicious: 0.4, likely_bot: 0.75, definitely_bot: 0.95 }
    }
}

impl Thresholds {
    /// The confidence of a score.
    #[must_use]
    pub fn confidence(&self, score: f32) -> Confidence {
        let steps = [
            (self.definitely_bot, Confidence::DefinitelyBot),
            (self.likely_bot, Confidence::LikelyBot),
            (self.suspicious, Confidence::Suspicious),
            (self.likely_human, Confidence::LikelyHuman),
        ];
        let reached = steps.into_iter().find(|(from, _)| score >= *from);
        reached.map_or(Confidence::DefinitelyHuman, |(_, confidence)| confidence)
    }

    /// Whether they rise from 0 to 1.
    #[must_use]
    pub fn rise(&self) -> bool {
        let steps = [0.0, self.likely_human, self.suspicious, self.likely_bot, self.definitely_bot, 1.0];
        steps.is_sorted_by(|a, b| a < b)
    }
}
