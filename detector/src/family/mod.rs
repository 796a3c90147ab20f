//! Room 10: the catalogue of client families, `data/clients.toml`: a hello's JA4 and [`Traits`] in, what sends such hellos
//! out. It knows values of JA4 and of their parts, and of each browser engine what its own hellos and headers show
//! beside them, and since which version. [`learn`] makes it from labelled captures. Pure; memory: some 200 KiB, once.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod catalogue;
mod file;
pub mod learn;
mod rarity;

use std::sync::LazyLock;

pub use catalogue::{Catalogue, Expected, Known, Verdict};
pub use rarity::{Rarity, Share};

use crate::agent::Engine;

/// What kind of program sends a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A browser, driven by a person or not; or an exact copy of one's hello.
    Browser,
    /// An HTTP library.
    Library,
    /// A tool that one types a request into.
    Tool,
    /// What looks for holes.
    Scanner,
    /// Something that opens TLS connections on behalf of others, people's browsers among them.
    Proxy,
    /// An imitation of a browser that isn't exact.
    Imitator,
}

impl Kind {
    /// The word for it in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::Library => "library",
            Self::Tool => "tool",
            Self::Scanner => "scanner",
            Self::Proxy => "proxy",
            Self::Imitator => "imitator",
        }
    }
}

/// What browsers with an engine are called here.
#[must_use]
pub const fn browser(engine: Engine) -> &'static str {
    match engine {
        Engine::Chromium => "chrome",
        Engine::Gecko => "firefox",
        Engine::WebKit => "safari",
    }
}

const TEXT: &str = include_str!("../../data/clients.toml");

// A test reads the same text: what doesn't parse is never shipped.
static SHIPPED: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::read(TEXT).unwrap_or_default());

/// The catalogue that this build has.
#[must_use]
pub fn shipped() -> &'static Catalogue {
    &SHIPPED
}
