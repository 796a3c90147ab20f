//! The checks of the engine by name. Each has a pair of tests: one where it speaks, and one where what looks alike
//! doesn't make it (`tests/replay`).

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::axis::Axis;
use super::layer::Layer;

/// Evidence that needs no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settles {
    /// The client is known and welcome.
    Good,
    /// An operator's list has its address.
    Bad,
}

macro_rules! signals {
    ($($signal:ident = $name:literal, $layer:ident, $axis:ident, $weight:literal, $meaning:literal;)*) => {
        /// A named check.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Signal {
            $(#[doc = $meaning] #[serde(rename = $name)] $signal,)*
        }

        impl Signal {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$signal),*];

            /// Its name in output and in the configuration.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$signal => $name,)* }
            }

            /// The layer that asks.
            #[must_use]
            pub const fn layer(self) -> Layer {
                match self { $(Self::$signal => Layer::$layer,)* }
            }

            /// What it looks at.
            #[must_use]
            pub const fn axis(self) -> Axis {
                match self { $(Self::$signal => Axis::$axis,)* }
            }

            /// Its log-odds unless the configuration says otherwise: below 0 it speaks for a person.
            #[must_use]
            pub const fn weight(self) -> f32 {
                match self { $(Self::$signal => $weight,)* }
            }

            /// What it means, in one line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$signal => $meaning,)* }
            }
        }
    };
}

signals! {
    AllowListed = "allow-listed", Reputation, Reputation, -6.0, "the address is on an operator's allow list";
    DenyListed = "deny-listed", Reputation, Reputation, 6.0, "the address is on an operator's deny list";
    VerifiedBot = "verified-bot", Reputation, Reputation, -6.0, "a welcome crawler, by its published ranges or by its name and back";
    FalseBot = "false-bot", Reputation, Reputation, 3.5, "says that it is a crawler, and its address says that it isn't";
    FeedListed = "feed-listed", Reputation, Reputation, 2.0, "the address is in a feed of bad ones";
    TorExit = "tor-exit", Reputation, Reputation, 0.5, "the address is an exit of Tor";
    HostingNetwork = "hosting-network", Reputation, Reputation, 0.8, "the address is a data centre's, where few people browse";

    UaTlsMismatch = "ua-tls-mismatch", Coherence, Tls, 3.5, "the hello is of another family than the User-Agent says";
    UaVersionMismatch = "ua-version-mismatch", Coherence, Tls, 1.8, "the hello is of another version than the User-Agent says";
    StaleHello = "stale-hello", Coherence, Tls, 2.5, "the hello is years older than the version that the User-Agent says";
    KnownTool = "known-tool", Coherence, Tls, 2.5, "the hello is a library's, a tool's or a scanner's";
    KnownImitator = "known-imitator", Coherence, Tls, 3.0, "the hello is a known imitation of a browser's";
    AlpnMismatch = "alpn-mismatch", Coherence, Tls, 1.5, "the protocol spoken isn't one that the hello offers first";
    OrderFixed = "extension-order-fixed", Coherence, Tls, 2.0, "extensions come in one order always, and the family permutes them";
    OrderPermuted = "extension-order-permuted", Coherence, Tls, 2.5, "extensions come in another order each time, which the family never does";
    NeverResumes = "never-resumes", Coherence, Tls, 0.8, "no connection resumes an earlier one, as the family does";
    NoPostQuantum = "no-post-quantum", Coherence, Tls, 2.0, "no post-quantum key share, which the version claimed sends";
    GreaseMismatch = "grease-mismatch", Coherence, Tls, 2.5, "GREASE isn't where the version claimed has it";
    LengthMismatch = "extension-length-mismatch", Coherence, Tls, 2.5, "lengths inside extensions aren't those of the version claimed";
    UaOsMismatch = "ua-os-mismatch", Coherence, Syn, 1.8, "the SYN is of another system than the User-Agent says";
    HintsMismatch = "client-hints-mismatch", Coherence, Http, 2.5, "client hints and User-Agent contradict each other";
    HeadersMismatch = "headers-mismatch", Coherence, Http, 2.2, "Accept headers or Sec-Fetch headers aren't those of the family";
    HeaderOrderMismatch = "header-order-mismatch", Coherence, Http, 1.5, "headers don't come in the family's order";
    LanguageMismatch = "language-mismatch", Coherence, Http, 0.4, "the languages asked for are not those of the address's country";
    RareBrowser = "rare-browser", Coherence, Http, 0.4, "browser characteristics that hardly anybody else has";
    AutomationMark = "automation-mark", Coherence, Http, 4.0, "headers name a tool that drives browsers";
    NoUserAgent = "no-user-agent", Coherence, Http, 2.5, "no User-Agent";
    ToolUserAgent = "tool-user-agent", Coherence, Http, 2.8, "the User-Agent is a library's or a tool's";
    FamilyDrift = "family-drift", Coherence, Tls, 0.0, "a known browser's ciphers with new extensions: a new release, only noted";

    TrapPath = "trap-path", Behaviour, Behaviour, 4.0, "asked for a path that no page links to";
    RobotsDisobeyed = "robots-disobeyed", Behaviour, Behaviour, 2.5, "asked for what robots.txt forbids, after it read that";
    RequestRate = "request-rate", Behaviour, Behaviour, 1.8, "more pages a minute than a person reads";
    RegularTiming = "regular-timing", Behaviour, Behaviour, 2.2, "pages follow each other like a clock";
    SequentialPaths = "sequential-paths", Behaviour, Behaviour, 2.2, "counts through the site's numbers";
    MissingReferers = "missing-referers", Behaviour, Behaviour, 1.0, "pages aren't found on pages";
    DeepFirstPage = "deep-first-page", Behaviour, Behaviour, 0.6, "begins deep in the site, from nowhere";
    NoAssets = "no-assets", Behaviour, Behaviour, 2.0, "takes pages without what belongs to them";
    ErrorRatio = "error-ratio", Behaviour, Behaviour, 1.5, "most of what it asks for isn't there";
    ConnectionPerRequest = "connection-per-request", Behaviour, Behaviour, 1.2, "a new connection for each request";
    PathSpread = "path-spread", Behaviour, Behaviour, 1.0, "hardly a page is asked for twice, of very many";
    BrowsesLikeAPerson = "browses-like-a-person", Behaviour, Behaviour, -1.5, "pages with their assets, found on pages, at a reader's pace";

    PrefixRate = "prefix-rate", Network, Network, 0.8, "its network asks far more than networks do";
    PrefixBlocked = "prefix-blocked", Network, Network, 1.2, "much of what its network asks is already stopped";
    FingerprintSpread = "fingerprint-spread", Network, Network, 1.5, "one fingerprint over many networks, at a machine's pace in each";
    NetworkChanged =
        "network-changed", Network, Network, 1.5, "one session from several networks or countries within minutes";
    Crowd = "crowd", Network, Network, -1.5, "many kinds of clients are behind this address";
}

impl Signal {
    /// Whether it only says how much: of many people behind one key that is no evidence by itself.
    #[must_use]
    pub const fn is_volume(self) -> bool {
        matches!(self, Self::RequestRate | Self::PrefixRate | Self::PathSpread | Self::FingerprintSpread)
    }

    /// Whether it needs no other evidence.
    #[must_use]
    pub const fn settles(self) -> Option<Settles> {
        match self {
            Self::AllowListed | Self::VerifiedBot => Some(Settles::Good),
            Self::DenyListed => Some(Settles::Bad),
            _ => None,
        }
    }
}

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let signal = Self::ALL.into_iter().find(|signal| signal.name() == text);
        signal.ok_or_else(|| format!("`{text}` is no signal; docs/signals.md lists them"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_documentation_lists_each_as_it_is() {
        let docs = include_str!("../../../docs/signals.md");
        for signal in Signal::ALL {
            let (layer, axis, weight) = (signal.layer().label(), signal.axis().label(), signal.weight());
            let row = format!("| `{}` | {layer} | {axis} | {weight:.1} | {} |", signal.name(), signal.meaning());
            assert!(docs.contains(&row), "docs/signals.md lacks: {row}");
        }
        assert_eq!(docs.lines().filter(|line| line.starts_with("| `")).count(), Signal::ALL.len());
    }

    #[test]
    fn every_signal_has_a_name_of_its_own_and_is_found_by_it() {
        let names: BTreeSet<&str> = Signal::ALL.iter().map(|signal| signal.name()).collect();
        assert_eq!(names.len(), Signal::ALL.len());
        for (index, signal) in Signal::ALL.into_iter().enumerate() {
            assert_eq!(signal as usize, index, "weights are found by place");
            assert_eq!(signal.name().parse(), Ok(signal));
            assert!(!signal.meaning().is_empty());
        }
        assert!("ua-tls".parse::<Signal>().is_err());
    }
}
