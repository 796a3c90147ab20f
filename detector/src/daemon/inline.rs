//! What the decision endpoint answers: a question in; the verdict that holds for its client, how sure it is that a program
//! asks, and the client's JA4, out. An operator's verdict comes first; then what scoring decides, where that is in force.

use std::sync::Arc;

use tracing::debug;

use super::{
    assessor::{Asked, Assessor},
    known::{Knowledge, Known},
    memory::Record,
    requests::Requests,
};
use crate::{
    clock::monotonic,
    inline::{Answer, Connection, Decide, Question, Scored},
    join::{Claim, Identity, Source, Subject, Trusted},
    policy::{decide::Action, requests::Ruling},
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
    assessor: Arc<Assessor>,
    metrics: Arc<Metrics>,
}

impl Decider {
    pub(super) fn new(
        requests: Arc<Requests>,
        known: Known,
        trusted: Trusted,
        assessor: Arc<Assessor>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { requests, known, trusted, assessor, metrics }
    }

    /// What the hello said of the connection that a question is about, or why that isn't known.
    async fn identity(&self, question: &Question<'_>) -> (Option<Arc<Identity>>, &'static str) {
        let Some(claim) = Claim::of(&question.report(), monotonic()) else { return (None, "no_tuple") };
        let (identity, label) = match self.known.find(claim).await {
            Knowledge::Known(identity) => (identity, "known"),
            Knowledge::Waited(identity) => (identity, "waited"),
            Knowledge::NoHello => return (None, "no_hello"),
            Knowledge::Busy => return (None, "busy"),
            Knowledge::Ambiguous => return (None, "ambiguous"),
        };
        if identity.void { (None, "void") } else { (Some(identity), label) }
    }

    /// What scoring says of a request of a client whose hello is known: without that, nothing does.
    fn scored(&self, question: &Question<'_>, identity: &Identity, record_of: RecordOf) -> Option<Arc<Record>> {
        let RecordOf { address, id } = record_of;
        let subject = Subject::Client { address, ja4_stable: identity.ja4_stable, proxy_suspected: false };
        let (report, now) = (question.report(), monotonic());
        // A server that passes its client's headers on passes this one; else what they lack says nothing.
        if report.user_agent.is_none() {
            return self.assessor.held(&subject, id);
        }
        let (session, key) = self.known.summary(&subject, &report, now);
        let asked = Asked {
            report: &report,
            subject: &subject,
            identity: Some(identity),
            session: session.as_ref(),
            key: Some(key),
            request: None,
            now,
        };
        Some(self.assessor.assess(&asked, id))
    }
}

/// Whose record it is to be.
struct RecordOf {
    address: std::net::IpAddr,
    id: crate::inline::Id,
}

impl Decide for Decider {
    async fn decide(&self, question: &Question<'_>) -> Answer {
        let (address, (identity, label)) = match question.source(&self.trusted) {
            Some(Source::Client(address)) => (Some(address), self.identity(question).await),
            // The connection is the proxy's: its hello says nothing about the client, nor its address.
            Some(Source::Forwarded(address)) => (Some(address), (None, "proxied")),
            Some(Source::Proxy) => (None, (None, "proxy")),
            None => (None, (None, "no_tuple")),
        };
        let ja4 = identity.as_ref().map(|identity| identity.ja4);
        let ordered = address.map_or(Ruling::Allow, |address| self.requests.decide(address, ja4));
        let id = self.assessor.id();
        let known = address.zip(identity.as_deref());
        let record = known.and_then(|(address, identity)| self.scored(question, identity, RecordOf { address, id }));
        let ruling = ordered.max(record.as_ref().map_or(Ruling::Allow, |record| ruling(record)));
        self.metrics.decisions.add(ruling.label(), 1);
        self.metrics.decision_fingerprints.add(label, 1);
        debug!(
            target: "detector::inline",
            %id, decision = ruling.label(), fingerprint = label, ?address, ?ja4, asked = ?question.report(),
            "decided"
        );
        Answer { ruling, ja4, id, scored: record.map(|record| Scored::of(&record.assessment)) }
    }

    fn connection(&self, what: Connection) {
        self.metrics.decision_connections.add(what.label(), 1);
    }
}

/// What a web server is to do of what was decided. New connections are slowed down in the kernel, not requests.
fn ruling(record: &Record) -> Ruling {
    match record.decision.action {
        Action::Block if record.in_force => Ruling::Deny,
        Action::Challenge if record.in_force => Ruling::Challenge,
        _ => Ruling::Allow,
    }
}
