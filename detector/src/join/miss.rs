//! What becomes of a report.

use super::connections::Found;
use super::subject::Subject;

/// What a report was found to be about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A client at the other end of a connection whose hello is known.
    Joined(Subject, Found),
    /// A client behind a trusted proxy.
    Forwarded(Subject),
    /// Nobody knows.
    Missed(Miss),
}

/// Why a report has no hello. Each is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Miss {
    /// It doesn't name the client's address and port.
    NoTuple,
    /// No hello came for its 4-tuple.
    NoHello,
    /// By their times none of its 4-tuple's connections can have carried it.
    Expired,
    /// Several connections may have.
    Ambiguous,
    /// The server may have read another hello than was seen.
    Void,
    /// Its place was needed while it waited.
    Evicted,
    /// It came by a trusted proxy that doesn't say for whom.
    NoClient,
}

impl Miss {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::NoTuple, Self::NoHello, Self::Expired, Self::Ambiguous, Self::Void, Self::Evicted, Self::NoClient];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoTuple => "no_tuple",
            Self::NoHello => "no_hello",
            Self::Expired => "expired",
            Self::Ambiguous => "ambiguous",
            Self::Void => "void",
            Self::Evicted => "evicted",
            Self::NoClient => "no_client",
        }
    }
}

/// How many reports came to which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// With a hello.
    pub joined: u64,
    /// Of clients behind a trusted proxy.
    pub forwarded: u64,
    missed: [u64; Miss::ALL.len()],
}

impl Counts {
    /// Those missed for this reason.
    #[must_use]
    pub fn missed(&self, why: Miss) -> u64 {
        self.missed.get(why as usize).copied().unwrap_or_default()
    }

    pub(super) fn note(&mut self, outcome: &Outcome) {
        let count = match outcome {
            Outcome::Joined(..) => Some(&mut self.joined),
            Outcome::Forwarded(_) => Some(&mut self.forwarded),
            Outcome::Missed(why) => self.missed.get_mut(*why as usize),
        };
        if let Some(count) = count {
            *count = count.saturating_add(1);
        }
    }
}
