//! Room 12: all that is known of a request's client in, how sure it is that a program sent it out, and why. Signals give
//! [`Evidence`], layers add it up, the sum becomes a score of 0 to 1 and one of five [`Confidence`]s.
//!
//! A layer is a function of [`Facts`] and [`Settings`]. It can be off, run in shadow (it tells, and nothing counts), or
//! abstain: one that has nothing to say adds nothing. Weights are log-odds: a weight of 1 makes a program 2.7 times as
//! likely. Pure; memory: an [`Assessment`] is of constant size but for more than 16 pieces of evidence, of 32 at most.

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

mod assess;
mod axis;
mod behaviour;
mod coherence;
mod confidence;
mod credit;
mod evidence;
mod facts;
mod layer;
mod network;
mod reputation;
mod settings;
mod signal;

pub use self::behaviour::Settings as Behaviour;
pub use self::network::Settings as Network;
pub use assess::{Assessment, Engine};
pub use axis::{Axes, Axis};
pub use confidence::{Confidence, Thresholds};
pub use credit::{has_credit, is_shown};
pub use evidence::{Evidence, EvidenceList, Value};
pub use facts::Facts;
pub use layer::{Layer, LayerScore, Mode};
pub use settings::Settings;
pub use signal::{Settles, Signal};

#[cfg(test)]
mod tests;
