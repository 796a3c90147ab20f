//! What a signal looks at. Two that look at different things can't be wrong for one and the same reason.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a signal looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// The hello.
    Tls,
    /// The system that sent the SYN.
    Syn,
    /// Headers.
    Http,
    /// How requests follow each other.
    Behaviour,
    /// Where else the same is seen.
    Network,
    /// What others say of the address.
    Reputation,
}

impl Axis {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Tls, Self::Syn, Self::Http, Self::Behaviour, Self::Network, Self::Reputation];

    /// The word for it in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Syn => "syn",
            Self::Http => "http",
            Self::Behaviour => "behaviour",
            Self::Network => "network",
            Self::Reputation => "reputation",
        }
    }
}

/// A set of axes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Axis>", into = "Vec<Axis>")]
pub struct Axes(u8);

impl Axes {
    /// Adds one.
    #[must_use]
    pub const fn with(self, axis: Axis) -> Self {
        Self(self.0 | 1 << axis as u8)
    }

    /// Whether it is in it.
    #[must_use]
    pub const fn has(self, axis: Axis) -> bool {
        self.0 & 1 << axis as u8 != 0
    }

    /// How many there are.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Those that are in it.
    pub fn iter(self) -> impl Iterator<Item = Axis> {
        Axis::ALL.into_iter().filter(move |axis| self.has(*axis))
    }
}

impl FromIterator<Axis> for Axes {
    fn from_iter<I: IntoIterator<Item = Axis>>(axes: I) -> Self {
        axes.into_iter().fold(Self::default(), Self::with)
    }
}

impl From<Vec<Axis>> for Axes {
    fn from(axes: Vec<Axis>) -> Self {
        axes.into_iter().collect()
    }
}

impl From<Axes> for Vec<Axis> {
    fn from(axes: Axes) -> Self {
        axes.iter().collect()
    }
}

impl fmt::Display for Axes {
    /// As `tls, http`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, axis) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(out, "{comma}{}", axis.label())?;
        }
        Ok(())
    }
}
