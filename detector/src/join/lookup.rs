//! Where reports find their connections: one table, or several of which each has some of the client ends.

use super::claim::Claim;
use super::connections::{Connections, Fit};
use crate::clock::Timestamp;

/// Connections that are asked for by what a report claims.
pub trait Lookup {
    /// As [`Connections::fit`].
    fn fit(&mut self, claim: &Claim, settle: bool) -> Fit;

    /// As [`Connections::expire`].
    fn expire(&mut self, now: Timestamp);
}

impl Lookup for Connections {
    fn fit(&mut self, claim: &Claim, settle: bool) -> Fit {
        Self::fit(self, claim, settle)
    }

    fn expire(&mut self, now: Timestamp) {
        Self::expire(self, now);
    }
}
