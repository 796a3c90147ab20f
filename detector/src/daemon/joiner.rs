//! What is done with a report: its client found by [`Join`], its request added to the client's session and to the signals
//! of the client's JA4. Behind the lock of the connections ([`super::known`]), since a report that came before its hello is
//! dealt with when that comes.
//!
//! Memory: the bounds of [`Join`] and [`Sessions`], and of each report that waits [`KEPT`] bytes of each text.

use std::{borrow::Cow, sync::Arc, time::Duration};

use super::{signals::Watch, suspects::Suspects};
use crate::{
    clock::Timestamp,
    join::{Bounds, Connections, End, Join, Miss, Outcome, Proxies, Subject},
    policy::families,
    report::Report,
    session::{self, Sessions},
    signals::Request,
    telemetry::Metrics,
};

/// Of a text of a report that waits; no path that says something is longer.
const KEPT: usize = 512;

/// Labels of `detector_join_reports_total` beside those of [`Miss`].
const JOINED: &str = "joined";
const FORWARDED: &str = "forwarded";

/// A report that waits for its hello.
struct Waiting {
    report: Report<'static>,
    arrived: Timestamp,
}

/// Where reports go.
pub(super) struct Joiner {
    join: Join<Waiting>,
    clients: Clients,
}

struct Clients {
    sessions: Sessions,
    signals: Arc<Watch>,
    suspects: Suspects,
}

impl Joiner {
    pub(super) fn new(
        bounds: Bounds,
        proxies: Proxies,
        sessions: session::Limits,
        signals: Arc<Watch>,
        suspects: Suspects,
    ) -> Self {
        let clients = Clients { sessions: Sessions::new(sessions), signals, suspects };
        Self { join: Join::new(bounds, proxies), clients }
    }

    /// One to which nobody reports.
    #[cfg(test)]
    pub(super) fn idle(metrics: &Arc<Metrics>) -> Self {
        let signals = Watch::open(std::path::Path::new("/nonexistent"), 1, Arc::clone(metrics));
        let sessions = session::Limits::default();
        Self::new(Bounds::default(), Proxies::new([]), sessions, Arc::new(signals), Suspects::new(1))
    }

    /// A report came.
    pub(super) fn report(&mut self, connections: &mut Connections, report: &Report<'_>, arrived: Timestamp) {
        let Self { join, clients } = self;
        let keep = || Waiting { report: kept(report), arrived };
        let mut later = |waiting: Waiting, outcome| clients.note(&waiting.report, waiting.arrived, &outcome);
        if let Some(outcome) = join.report(connections, report, arrived, keep, &mut later) {
            clients.note(report, arrived, &outcome);
        }
    }

    /// The hello of a client's connection came.
    pub(super) fn begun(&mut self, connections: &mut Connections, client: &End) {
        let Self { join, clients } = self;
        join.begun(connections, client, &mut |waiting, outcome| {
            clients.note(&waiting.report, waiting.arrived, &outcome);
        });
    }

    /// Time has passed: connections and sessions end, and reports have waited long enough.
    pub(super) fn due(&mut self, connections: &mut Connections, now: Timestamp) {
        let Self { join, clients } = self;
        join.due(connections, now, &mut |waiting, outcome| {
            clients.note(&waiting.report, waiting.arrived, &outcome);
        });
        clients.sessions.expire(now);
    }

    /// Brings the metrics up to date.
    pub(super) fn publish(&self, metrics: &Metrics) {
        let counts = self.join.counts();
        metrics.joined.set(JOINED, counts.joined);
        metrics.joined.set(FORWARDED, counts.forwarded);
        for why in Miss::ALL {
            metrics.joined.set(why.label(), counts.missed(why));
        }
        let sessions = &self.clients.sessions;
        metrics.set_sessions(self.join.waiting(), sessions.len());
        metrics.sessions_evicted.set("", sessions.evicted());
    }
}

/// Labels of what becomes of a report.
pub(super) fn outcomes() -> Vec<&'static str> {
    [JOINED, FORWARDED].into_iter().chain(Miss::ALL.map(Miss::label)).collect()
}

impl Clients {
    fn note(&mut self, report: &Report<'_>, arrived: Timestamp, outcome: &Outcome) {
        let (subject, connection) = match outcome {
            Outcome::Joined(subject, found) => (subject, found.connection),
            // A proxy's connections are not its clients': to each of those it is one.
            Outcome::Forwarded(subject) => (subject, 0),
            Outcome::Missed(_) => return,
        };
        if let Subject::Client { address, proxy_suspected: true, .. } = subject {
            self.suspects.note(*address, arrived);
        }
        if let (Outcome::Joined(_, found), Subject::Client { address, .. }) = (outcome, subject) {
            let ja4 = found.identity.ja4;
            let browser = families::find(ja4).is_some();
            self.signals.note(&Request::of(report, ja4, *address, false, browser), arrived);
        }
        let began = arrived.before(report.duration.unwrap_or(Duration::ZERO));
        let key = self.sessions.key(subject, report);
        let request = self.sessions.request(report, began, connection);
        self.sessions.note(key, &request, arrived);
    }
}

/// As much of a report as its client's session and signals take.
fn kept(report: &Report<'_>) -> Report<'static> {
    let text = |text: &Option<Cow<'_, str>>| {
        text.as_deref()
            .map(|text| Cow::Owned(text.get(..text.floor_char_boundary(KEPT)).unwrap_or_default().to_owned()))
    };
    Report {
        client: report.client,
        client_port: report.client_port,
        server: report.server,
        server_port: report.server_port,
        duration: report.duration,
        connection_age: report.connection_age,
        connection_requests: report.connection_requests,
        server_name: text(&report.server_name),
        path: text(&report.path),
        protocol: text(&report.protocol),
        status: report.status,
        cache: text(&report.cache),
        user_agent: text(&report.user_agent),
        referer: report.referer.as_ref().map(|_| Cow::Borrowed("")),
        fetch_dest: text(&report.fetch_dest),
        session: text(&report.session),
        ..Report::default()
    }
}
