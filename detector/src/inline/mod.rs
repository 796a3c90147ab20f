//! Room 15: the decision endpoint. A web server asks over HTTP, on a unix socket or a loopback address, what to do with
//! a request before it answers it; how, is `docs/inline.md`. In: headers that say whose request it is. Out: a status and
//! headers. What is decided is a [`Decide`]'s affair.
//!
//! Bound: as many connections as [`Limits`] says (the one that was silent longest makes room for one more), one question at a time and [`HEADERS_MAX`] bytes each.

mod question;
mod serve;

use std::{fmt, future::Future};

use serde::{Deserialize, Serialize};

use crate::{
    fingerprint::Ja4,
    policy::requests::Ruling,
    score::{Assessment, Confidence, Signal},
};

pub use question::Question;
pub use serve::{Coming, HEADERS_MAX, InlineError, Limits, Listeners, Sites, TcpDoor, serve};

/// What names a decision, once and for all: who decided, and the how manieth it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Id {
    /// Chosen at random when the daemon started.
    pub daemon: u64,
    /// From 1.
    pub number: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}-{:x}", self.daemon, self.number)
    }
}

/// Signals that an answer names.
pub const REASONS: usize = 3;

/// How sure it is that a program asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// As a word.
    pub confidence: Confidence,
    /// 0 to 1.
    pub score: f32,
    /// What weighed most of what speaks for a program, the heaviest first.
    pub reasons: [Option<Signal>; REASONS],
}

impl Scored {
    /// Of an assessment.
    #[must_use]
    pub fn of(assessment: &Assessment) -> Self {
        let heaviest = assessment.heaviest();
        let mut reasons = [None; REASONS];
        for (place, evidence) in reasons.iter_mut().zip(heaviest) {
            *place = Some(evidence.signal);
        }
        Self { confidence: assessment.confidence, score: assessment.score, reasons }
    }
}

/// What a web server is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// What to do.
    pub ruling: Ruling,
    /// The client's JA4, where its hello is known.
    pub ja4: Option<Ja4>,
    /// This decision's.
    pub id: Id,
    /// How sure it is that a program asks, if anything is known to tell by.
    pub scored: Option<Scored>,
}

/// What becomes of a web server's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It was taken.
    Taken,
    /// All others were being answered, and it was closed.
    Refused,
    /// It had been silent longest when another one came, and no room was left.
    Displaced,
}

impl Connection {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Taken, Self::Refused, Self::Displaced];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Refused => "refused",
            Self::Displaced => "displaced",
        }
    }
}

/// What decides.
pub trait Decide: Send + Sync + 'static {
    /// What to do with a request. It may wait a few milliseconds.
    fn decide(&self, question: &Question<'_>) -> impl Future<Output = Answer> + Send;

    /// Something became of a connection.
    fn connection(&self, what: Connection);
}
