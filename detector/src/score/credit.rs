//! Who has shown to be human: for the circuit breaker, which counts nobody else. Programs can earn this too, slowly; it
//! says nothing about what is done with their requests.

use std::time::Duration;

use super::assess::Assessment;
use super::confidence::Confidence;
use super::facts::Facts;
use super::signal::Signal;

/// The share of requests for what belongs to pages.
const ASSETS: f32 = 0.3;
/// The share of pages without a referer.
const UNREFERRED: f32 = 0.5;
/// Pages within the last hour.
const PAGES: u32 = 2;

/// Whether a session came back so long after its first request, with assets and referers, or is a verified crawler's.
#[must_use]
pub fn has_credit(facts: &Facts<'_>, assessment: &Assessment, returning: Duration) -> bool {
    let returning = facts.session.is_some_and(|session| {
        session.age >= returning
            && session.pages() >= PAGES
            && session.asset_share() >= ASSETS
            && session.unreferred_share() <= UNREFERRED
            && session.traps == 0
    });
    returning || assessment.settled == Some(Signal::VerifiedBot)
}

/// Whether a request came from somebody who browses as people do, with nothing against them: of such an address's crowd is
/// made.
#[must_use]
pub fn is_shown(assessment: &Assessment) -> bool {
    assessment.confidence <= Confidence::LikelyHuman && assessment.evidence.has(Signal::BrowsesLikeAPerson)
}
