//! What is done about an assessment: an [`Assessment`] and a [`Policy`] in, a [`Decision`] out. Nothing is blocked by one
//! axis alone, nor anybody in a crowd: what would be is challenged, or slowed down.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::families::is_no_browsers;
use super::terms::RateLimit;
use crate::fingerprint::Ja4;
use crate::join::{Identity, Reach, Subject};
use crate::score::{Assessment, Axes, Axis, Confidence, Settles, Signal};

/// Bits of the IPv6 prefix within which a client can choose any address (threats.md T45).
const UNIT_BITS: u8 = 64;

/// What is done with a client's requests, from the mildest to the hardest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing.
    Allow,
    /// They are counted.
    Observe,
    /// They may come so fast and no faster.
    RateLimit,
    /// Their client must show that it is a person's browser.
    Challenge,
    /// They are stopped.
    Block,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Allow, Self::Observe, Self::RateLimit, Self::Challenge, Self::Block];

    /// The word for it in output and in the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Observe => "observe",
            Self::RateLimit => "rate-limit",
            Self::Challenge => "challenge",
            Self::Block => "block",
        }
    }

    /// The metric label.
    #[must_use]
    pub const fn metric_label(self) -> &'static str {
        match self {
            Self::RateLimit => "rate_limit",
            other => other.label(),
        }
    }

    /// Whether a person would notice.
    #[must_use]
    pub const fn is_felt(self) -> bool {
        matches!(self, Self::RateLimit | Self::Challenge | Self::Block)
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let action = Self::ALL.into_iter().find(|action| action.label() == text);
        action.ok_or_else(|| {
            format!("`{text}` is no action; type `allow`, `observe`, `rate-limit`, `challenge` or `block`")
        })
    }
}

/// What an operator wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// With what is suspicious.
    pub suspicious: Action,
    /// With what is likely a bot.
    pub likely_bot: Action,
    /// With what definitely is one.
    pub definitely_bot: Action,
    /// Axes that a block takes.
    pub axes: u32,
    /// Bad IPv6 /64 within a /56, or such /56 within a /48, that make it bad; 0: nothing wider than a /64 ever is.
    pub siblings: usize,
    /// How fast those may come who are slowed down.
    pub rate: RateLimit,
    /// How long a limit lasts after the request that gave it.
    pub rate_limit_ttl: Duration,
    /// The same of a challenge.
    pub challenge_ttl: Duration,
    /// The same of a block.
    pub block_ttl: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            suspicious: Action::Observe,
            likely_bot: Action::Challenge,
            definitely_bot: Action::Block,
            axes: 2,
            siblings: 4,
            rate: RateLimit::per_minute(60),
            rate_limit_ttl: Duration::from_secs(600),
            challenge_ttl: Duration::from_secs(1800),
            block_ttl: Duration::from_secs(3600),
        }
    }
}

/// Whom a decision is about: never an address alone, never a fingerprint alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Clients with a fingerprint in an IPv4 address or an IPv6 /64, or in a wider prefix that is all of one client.
    Pair(IpNet, Ja4),
    /// Clients behind a trusted proxy: their address or /64, and hashes of User-Agent and order of headers.
    Forwarded(IpNet, u64, u64),
    /// One session of a site's own, as a hash: of what only that did.
    Session(u64),
}

impl Unit {
    /// Of a client.
    #[must_use]
    pub fn of(subject: &Subject) -> Self {
        match *subject {
            Subject::Client { address, ja4_stable, .. } => Self::Pair(prefix(address), ja4_stable),
            Subject::Forwarded { address, agent, headers } => Self::Forwarded(prefix(address), agent, headers),
        }
    }
}

/// What is done about a client.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// What.
    pub action: Action,
    /// How long.
    pub ttl: Duration,
    /// Whom it is about.
    pub unit: Unit,
    /// Where it may be carried out.
    pub reach: Reach,
    /// What weighed most, if anything spoke for a program.
    pub reason: Option<Signal>,
    /// The axes it rests on.
    pub axes: Axes,
}

/// Who else may be where a request came from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others<'a> {
    /// The request's session if it is the site's own, as a hash: it is one client's.
    pub session: Option<u64>,
    /// Somebody at its address browses with its fingerprint.
    pub shared: bool,
    /// Its hello.
    pub identity: Option<&'a Identity>,
}

/// Whom a decision isn't about, though it might have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spared {
    /// It holds as it is.
    Nobody,
    /// All but the session.
    Company,
    /// Everybody: it is only observed.
    Crowd,
}

impl Decision {
    /// The number of the rule by which it was decided, for the breaker.
    #[must_use]
    pub fn rule(&self) -> u16 {
        self.reason.map_or(u16::MAX, |signal| signal as u16)
    }

    /// What of it holds where others may be too: what one of the site's own sessions did is held against that alone, and in
    /// a crowd (threats.md T44) nothing that somebody else there may have done.
    #[must_use]
    pub fn sparing(self, assessment: &Assessment, others: &Others<'_>) -> (Self, Spared) {
        let crowd = assessment.counting().any(|evidence| evidence.signal == Signal::Crowd);
        let in_crowd = crowd && assessment.settled.is_none();
        match others.session.filter(|_| self.action.is_felt() && self.axes.has(Axis::Behaviour)) {
            Some(session) => (Self { unit: Unit::Session(session), reach: Reach::Inline, ..self }, Spared::Company),
            None if in_crowd && (others.shared || !self.is_by_hello(others)) => (self.observed(), Spared::Crowd),
            None => (self, Spared::Nobody),
        }
    }

    /// Whether it rests on a hello that is no browser's: with that, no other client of its place is hit.
    #[must_use]
    pub fn is_by_hello(&self, others: &Others<'_>) -> bool {
        self.axes.has(Axis::Tls) && others.identity.is_some_and(is_no_browsers)
    }

    /// The same where nothing is enforced.
    #[must_use]
    pub fn observed(self) -> Self {
        Self { action: self.action.min(Action::Observe), ..self }
    }
}

impl Policy {
    /// What is done about a client after an assessment of one of its requests.
    #[must_use]
    pub fn decide(&self, assessment: &Assessment, subject: &Subject) -> Decision {
        let wanted = match assessment.confidence {
            Confidence::DefinitelyHuman | Confidence::LikelyHuman => Action::Allow,
            Confidence::Suspicious => self.suspicious,
            Confidence::LikelyBot => self.likely_bot,
            Confidence::DefinitelyBot => self.definitely_bot,
        };
        let action = wanted.min(self.most(assessment));
        let ttl = match action {
            Action::Allow | Action::Observe => Duration::ZERO,
            Action::RateLimit => self.rate_limit_ttl,
            Action::Challenge => self.challenge_ttl,
            Action::Block => self.block_ttl,
        };
        Decision {
            action,
            ttl,
            unit: Unit::of(subject),
            reach: subject.reach(),
            reason: assessment.reason(),
            axes: assessment.axes,
        }
    }

    /// The hardest that evidence of this kind allows.
    fn most(&self, assessment: &Assessment) -> Action {
        let by_list = assessment.settled.is_some_and(|signal| signal.settles() == Some(Settles::Bad));
        let only_tls = assessment.axes.iter().all(|axis| axis == Axis::Tls);
        if by_list {
            Action::Block
        } else if assessment.counting().any(|evidence| evidence.signal == Signal::Crowd) {
            // threats.md T44: people stand behind that address.
            Action::RateLimit
        } else if assessment.axes.count() < self.axes || only_tls {
            Action::Challenge
        } else {
            Action::Block
        }
    }
}

/// The prefix within which a client can choose any address.
fn prefix(address: IpAddr) -> IpNet {
    let address = address.to_canonical();
    let bits = if address.is_ipv6() { UNIT_BITS } else { 32 };
    IpNet::new(address, bits).map_or_else(|_| address.into(), |net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::report::Report;
    use crate::score::{EvidenceList, Facts, Settings, Thresholds, Value};

    fn client() -> Subject {
        Subject::Client {
            address: "2001:db8::7".parse().unwrap(),
            ja4_stable: "t13d1516h2_8daaf6152771_d8a2da3f94cd".parse().unwrap(),
            proxy_suspected: false,
        }
    }

    /// What is decided when these signals speak.
    fn decided(signals: &[Signal]) -> Decision {
        let mut settings = Settings { thresholds: Thresholds::default(), ..Settings::default() };
        settings.prior = 2.0;
        let mut evidence = EvidenceList::default();
        signals.iter().for_each(|signal| evidence.add(&settings, *signal, Value::Nothing, Value::Nothing));
        let facts_report = Report::default();
        let subject = client();
        let facts = Facts::new(Timestamp::default(), &facts_report, &subject);
        let assessment = crate::score::Engine::new(settings).weigh(&facts, evidence);
        Policy::default().decide(&assessment, &subject)
    }

    #[test]
    fn a_block_takes_two_axes_and_a_fingerprint_is_one() {
        let tls = decided(&[Signal::UaTlsMismatch, Signal::NoPostQuantum, Signal::OrderFixed]);
        assert_eq!((tls.action, tls.axes.count()), (Action::Challenge, 1));
        let both = decided(&[Signal::UaTlsMismatch, Signal::HeadersMismatch]);
        assert_eq!((both.action, both.reason), (Action::Block, Some(Signal::UaTlsMismatch)));
        assert_eq!(both.axes.to_string(), "tls, http");
        assert_eq!(both.observed().action, Action::Observe);
    }

    #[test]
    fn nobody_in_a_crowd_is_stopped() {
        assert_eq!(decided(&[Signal::UaTlsMismatch, Signal::HeadersMismatch, Signal::Crowd]).action, Action::RateLimit);
    }

    #[test]
    fn lists_need_no_other_evidence() {
        let denied = decided(&[Signal::DenyListed]);
        assert_eq!((denied.action, denied.reason), (Action::Block, Some(Signal::DenyListed)));
        let welcome = decided(&[Signal::VerifiedBot, Signal::ToolUserAgent, Signal::KnownTool, Signal::DenyListed]);
        assert_eq!((welcome.action, welcome.reason), (Action::Allow, Some(Signal::VerifiedBot)));
    }

    #[test]
    fn a_unit_is_where_a_client_can_choose_its_address_and_its_fingerprint() {
        let Unit::Pair(prefix, _) = Unit::of(&client()) else { panic!("a client of its own") };
        assert_eq!(prefix.to_string(), "2001:db8::/64");
        let behind = Subject::Forwarded { address: "::ffff:192.0.2.7".parse().unwrap(), agent: 1, headers: 2 };
        assert_eq!(Unit::of(&behind), Unit::Forwarded("192.0.2.7/32".parse().unwrap(), 1, 2));
        assert_eq!(behind.reach(), Reach::Inline);
    }
}
