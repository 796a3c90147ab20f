//! What the decision endpoint answers: a question in; the verdict that holds for its client, how sure it is that a program
//! asks, and the client's JA4, out. An operator's verdict comes first; then what scoring decides, where that is in force.

use std::{
    iter,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use tracing::debug;

use super::{
    assessor::{Asked, Assessor},
    known::{Knowledge, Known},
    memory::Record,
    requests::Requests,
    suspects::Suspects,
};
use crate::{
    clock::monotonic,
    door::gather::Gather,
    inline::{Answer, Connection, Decide, Id, Question, Scored},
    join::{Apart, Claim, Identity, Source, Subject, Trusted},
    policy::{decide::Action, requests::Ruling},
    report::Report,
    telemetry::Metrics,
};

/// Whether a question's fingerprint was known, or why not: labels of `detector_inline_fingerprints_total`.
pub(super) const KNOWLEDGE: [&str; 9] =
    ["known", "waited", "no_tuple", "no_hello", "busy", "ambiguous", "void", "proxied", "proxy"];

/// Decides.
pub(super) struct Decider {
    pub(super) requests: Arc<Requests>,
    pub(super) known: Known,
    /// The proxies before web servers, as they are now.
    pub(super) trusted: Arc<ArcSwap<Trusted>>,
    /// That of the reports: what they lead to is held against the clients that ask.
    pub(super) apart: Apart,
    pub(super) suspects: Suspects,
    pub(super) assessor: Arc<Assessor>,
    pub(super) metrics: Arc<Metrics>,
    /// Questions so far: for [`between_questions`].
    pub(super) asked: Arc<AtomicU64>,
}

/// From so many questions a second on, threads that have answered all let some more come, for so long. Below, what that saves
/// isn't worth a tenth of a millisecond of somebody's page.
const MANY: u64 = 10_000;
const LONGEST: Duration = Duration::from_micros(100);

/// What a thread that answers does before it waits for questions. `asked`: how many there were so far.
pub(super) fn between_questions(asked: Arc<AtomicU64>) -> impl Fn() + Send + Sync + 'static {
    let gather = Mutex::new((Gather::new(MANY, LONGEST), 0));
    move || {
        let asked = asked.load(Ordering::Relaxed);
        let pause = {
            // Whoever finds it locked has a colleague who is about to rest.
            let Ok(mut gather) = gather.try_lock() else { return };
            let (gather, before) = &mut *gather;
            gather.pause(asked.saturating_sub(std::mem::replace(before, asked)), u64::MAX, monotonic())
        };
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
    }
}

/// A hello, or why it isn't known.
type Hello = (Option<Arc<Identity>>, &'static str);

impl Decider {
    /// What the hello said of the connection that a question is about.
    async fn identity(&self, report: &Report<'_>) -> Hello {
        let Some(claim) = Claim::of(report, monotonic()) else { return (None, "no_tuple") };
        hello(self.known.find(claim).await)
    }

    /// The same of a client behind a trusted proxy. The connection is the proxy's: only if that takes its clients'
    /// connections on this host, and says which one it is, is the client's own hello known. It isn't waited for.
    fn proxied(&self, report: &Report<'_>, address: IpAddr) -> Hello {
        let claim = Claim::proxied(report, monotonic()).filter(|claim| claim.client.address == address);
        let own = claim.and_then(|claim| self.known.look(&claim)).map(hello);
        own.filter(|(identity, _)| identity.is_some()).unwrap_or((None, "proxied"))
    }

    /// Whose request it is, if that can be said: of a client of its own its hello tells.
    fn subject(&self, source: Option<Source>, identity: Option<&Identity>, report: &Report<'_>) -> Option<Subject> {
        match (source?, identity) {
            (Source::Client(address) | Source::Forwarded(address), Some(identity)) => {
                let proxy_suspected = self.suspects.within(iter::once(address.into())).is_some();
                Some(Subject::Client { address, ja4_stable: identity.ja4_stable, proxy_suspected })
            }
            (Source::Forwarded(address), None) => Some(self.apart.subject(address, report)),
            (Source::Client(_), None) | (Source::Proxy, _) => None,
        }
    }

    /// What scoring says of a request.
    fn scored(
        &self,
        report: &Report<'_>,
        subject: &Subject,
        identity: Option<&Identity>,
        id: Id,
    ) -> Option<Arc<Record>> {
        // A server that passes its client's headers on passes this one; else what they lack says nothing.
        if report.user_agent.is_none() && report.header_names.is_none() {
            return self.assessor.held(subject, id);
        }
        let now = monotonic();
        let (session, key) = self.known.summary(subject, report, now);
        let session = session.as_ref();
        let asked = Asked { report, subject, identity, session, key: Some(key), request: None, now };
        Some(self.assessor.assess(&asked, id))
    }
}

impl Decide for Decider {
    async fn decide(&self, question: &Question<'_>) -> Answer {
        let (report, source) = (question.report(), question.source(&self.trusted.load()));
        let (address, (identity, label)) = match source {
            Some(Source::Client(address)) => (Some(address), self.identity(&report).await),
            Some(Source::Forwarded(address)) => (Some(address), self.proxied(&report, address)),
            Some(Source::Proxy) => (None, (None, "proxy")),
            None => (None, (None, "no_tuple")),
        };
        let ja4 = identity.as_ref().map(|identity| identity.ja4);
        let ordered = address.map_or(Ruling::Allow, |address| self.requests.decide(address, ja4));
        let id = self.assessor.id();
        let subject = self.subject(source, identity.as_deref(), &report);
        let record = subject.and_then(|subject| self.scored(&report, &subject, identity.as_deref(), id));
        let ruling = ordered.max(record.as_ref().map_or(Ruling::Allow, |record| ruling(record)));
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.metrics.requests.rulings.add(ruling.label(), 1);
        self.metrics.requests.knowledge.add(label, 1);
        debug!(
            target: "detector::inline",
            %id, decision = ruling.label(), fingerprint = label, ?address, ?ja4, asked = ?report, "decided"
        );
        Answer { ruling, ja4, id, scored: record.map(|record| Scored::of(&record.assessment)) }
    }

    fn connection(&self, what: Connection) {
        self.metrics.resources.askers.add(what.label(), 1);
    }
}

fn hello(found: Knowledge) -> Hello {
    match found {
        Knowledge::Known(identity) | Knowledge::Waited(identity) if identity.void => (None, "void"),
        Knowledge::Known(identity) => (Some(identity), "known"),
        Knowledge::Waited(identity) => (Some(identity), "waited"),
        Knowledge::NoHello => (None, "no_hello"),
        Knowledge::Busy => (None, "busy"),
        Knowledge::Ambiguous => (None, "ambiguous"),
    }
}

/// What a web server is to do of what was decided. New connections are slowed down in the kernel; requests are only where
/// they are of one session of the site's own.
fn ruling(record: &Record) -> Ruling {
    match record.decision.action {
        Action::Block if record.in_force => Ruling::Deny,
        Action::RateLimit if record.in_force && record.too_fast => Ruling::Deny,
        Action::Challenge if record.in_force => Ruling::Challenge,
        _ => Ruling::Allow,
    }
}
