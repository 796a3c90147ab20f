//! What the decision endpoint answers: a question in; the verdict that holds for its client, and the client's JA4, out.
//! Until there are scores, operators' verdicts alone decide.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tracing::debug;

use super::{
    known::{Knowledge, Known},
    requests::Requests,
};
use crate::{
    clock::monotonic,
    fingerprint::{Ja4, key::random_seeds},
    inline::{Answer, Connection, Decide, Id, Question},
    join::{Claim, Source, Trusted},
    policy::requests::Ruling,
    telemetry::Metrics,
};

/// Whether a question's fingerprint was known, or why not: labels of `detector_inline_fingerprints_total`.
pub(super) const KNOWLEDGE: [&str; 9] =
    ["known", "waited", "no_tuple", "no_hello", "busy", "ambiguous", "void", "proxied", "proxy"];

/// Decides.
pub(super) struct Decider {
    requests: Arc<Requests>,
    known: Known,
    trusted: Trusted,
    metrics: Arc<Metrics>,
    daemon: u64,
    decisions: AtomicU64,
}

impl Decider {
    pub(super) fn new(requests: Arc<Requests>, known: Known, trusted: Trusted, metrics: Arc<Metrics>) -> Self {
        // Any secret does.
        Self { requests, known, trusted, metrics, daemon: random_seeds().rest, decisions: AtomicU64::new(0) }
    }

    /// The fingerprint of the connection that a question is about, or why there is none.
    async fn fingerprint(&self, question: &Question<'_>) -> (Option<Ja4>, &'static str) {
        let Some(claim) = Claim::of(&question.report(), monotonic()) else { return (None, "no_tuple") };
        let (identity, label) = match self.known.find(claim).await {
            Knowledge::Known(identity) => (identity, "known"),
            Knowledge::Waited(identity) => (identity, "waited"),
            Knowledge::NoHello => return (None, "no_hello"),
            Knowledge::Busy => return (None, "busy"),
            Knowledge::Ambiguous => return (None, "ambiguous"),
        };
        if identity.void { (None, "void") } else { (Some(identity.ja4), label) }
    }
}

impl Decide for Decider {
    async fn decide(&self, question: &Question<'_>) -> Answer {
        let (address, (ja4, label)) = match question.source(&self.trusted) {
            Some(Source::Client(address)) => (Some(address), self.fingerprint(question).await),
            // The connection is the proxy's: its hello says nothing about the client, nor its address.
            Some(Source::Forwarded(address)) => (Some(address), (None, "proxied")),
            Some(Source::Proxy) => (None, (None, "proxy")),
            None => (None, (None, "no_tuple")),
        };
        let ruling = address.map_or(Ruling::Allow, |address| self.requests.decide(address, ja4));
        self.metrics.decisions.add(ruling.label(), 1);
        self.metrics.decision_fingerprints.add(label, 1);
        let number = self.decisions.fetch_add(1, Ordering::Relaxed) + 1;
        let id = Id { daemon: self.daemon, number };
        debug!(
            target: "detector::inline",
            %id, decision = ruling.label(), fingerprint = label, ?address, ?ja4, asked = ?question.report(),
            "decided"
        );
        Answer { ruling, ja4, id }
    }

    fn connection(&self, what: Connection) {
        self.metrics.decision_connections.add(what.label(), 1);
    }
}
