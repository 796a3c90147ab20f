//! The words for what lists and databases say of an address.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a list says of the addresses in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The operator knows them: nothing is held against them.
    Trusted,
    /// The operator wants them gone.
    Denied,
    /// Attacks came from them.
    Abuse,
    /// Exits of Tor.
    Tor,
    /// Data centres.
    Hosting,
    /// A crawler's, as its operator publishes.
    Crawler,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Trusted, Self::Denied, Self::Abuse, Self::Tor, Self::Hosting, Self::Crawler];

    /// Whether only the operator's own word makes it so: no publisher's does (threats.md T38).
    #[must_use]
    pub const fn is_own(self) -> bool {
        matches!(self, Self::Trusted | Self::Denied)
    }

    /// The word in the configuration, and the metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Denied => "denied",
            Self::Abuse => "abuse",
            Self::Tor => "tor",
            Self::Hosting => "hosting",
            Self::Crawler => "crawler",
        }
    }
}

/// Several of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Classes(u8);

impl Classes {
    /// Whether it is among them.
    #[must_use]
    pub const fn has(self, class: Class) -> bool {
        self.0 & (1 << class as u8) != 0
    }

    /// These and it.
    #[must_use]
    pub const fn with(self, class: Class) -> Self {
        Self(self.0 | (1 << class as u8))
    }
}

impl FromIterator<Class> for Classes {
    fn from_iter<I: IntoIterator<Item = Class>>(classes: I) -> Self {
        classes.into_iter().fold(Self::default(), Self::with)
    }
}

/// Two letters of ISO 3166-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Country([u8; 2]);

impl Country {
    /// From two letters; `None` for anything else.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let letters: [u8; 2] = text.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_uppercase).then_some(Self(letters))
    }
}

impl Country {
    /// Its letters.
    #[must_use]
    pub const fn letters(self) -> [u8; 2] {
        self.0
    }
}

impl fmt::Display for Country {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|letter| write!(out, "{}", char::from(*letter)))
    }
}
