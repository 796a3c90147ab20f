//! What is done with a report: its client found by [`Join`], its request added to the client's session and to the signals
//! of the client's JA4. By two threads: that of the reports, and for one that came before its hello that of the hellos.
//!
//! Memory: the bounds of [`Join`] and [`Histories`], and of each report that waits [`KEPT`] bytes of each text.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    assessor::{Asked, Assessor},
    histories::Histories,
    reports::Recent,
    shards::Shards,
    signals::Watch,
    suspects::Suspects,
};
use crate::{
    clock::{Timestamp, monotonic},
    join::{Bounds, End, Join, Miss, Outcome, Proxies, Subject, Trusted},
    policy::families,
    report::Report,
    session::{Key, Paths, Summary},
    signals::Request,
    telemetry::Metrics,
};

/// Of a text of a report that waits; no path that says something is longer.
const KEPT: usize = 512;

/// How late a report may be, by what came before it, and still be assessed: what a client did is kept up with first, and
/// its next request tells as much.
const LATE: Duration = Duration::from_millis(100);

/// Labels of `detector_join_reports_total` beside those of [`Miss`].
const JOINED: &str = "joined";
const FORWARDED: &str = "forwarded";

/// A report that waits for its hello.
struct Waiting {
    report: Report<'static>,
    arrived: Timestamp,
    /// Its number in [`Recent`], if it is kept there.
    kept: Option<u64>,
}

/// Where reports go. What is found of them, and what is known of clients, stand behind locks of their own: none is
/// held while another is brought up to date.
pub(super) struct Joiner {
    join: Mutex<Join<Waiting>>,
    sessions: Histories,
    signals: Arc<Watch>,
    recent: Recent,
    suspects: Suspects,
    /// Absent in tests of other things.
    assessor: Option<Arc<Assessor>>,
}

/// Reports that had waited, and what they are about.
type Late = Vec<(Waiting, Outcome)>;

impl Joiner {
    pub(super) fn new(
        bounds: Bounds,
        proxies: Proxies,
        sessions: Histories,
        signals: Arc<Watch>,
        recent: Recent,
        suspects: Suspects,
        assessor: Option<Arc<Assessor>>,
    ) -> Self {
        let join = Join::new(bounds, proxies);
        Self { join: Mutex::new(join), sessions, signals, recent, suspects, assessor }
    }

    /// One to which nobody reports.
    #[cfg(test)]
    pub(super) fn idle(metrics: &Arc<Metrics>) -> Self {
        let signals = Watch::open(std::path::Path::new("/nonexistent"), 1, Arc::clone(metrics));
        let proxies = Proxies::new(Trusted::new([]));
        let sessions = crate::session::Limits::default();
        let sessions = Histories::new(sessions, Paths::default());
        let (recent, suspects) = (Recent::new(1), Suspects::new(1));
        Self::new(Bounds::default(), proxies, sessions, Arc::new(signals), recent, suspects, None)
    }

    /// Trusts these proxies, and watches these paths, from now on.
    pub(super) fn configure(&self, trusted: Trusted, paths: Paths) {
        self.join().trust(trusted);
        self.sessions.watch(paths);
    }

    /// A report came. `number`: of [`Recent`], if it is kept there.
    pub(super) fn report(
        &self,
        mut connections: &Shards,
        report: &Report<'_>,
        arrived: Timestamp,
        number: Option<u64>,
    ) {
        let keep = || Waiting { report: kept(report), arrived, kept: number };
        let mut late = Late::new();
        let mut later = |waiting, outcome| late.push((waiting, outcome));
        let outcome = self.join().report(&mut connections, report, arrived, keep, &mut later);
        self.note_late(late);
        if let Some(outcome) = outcome {
            let now = monotonic();
            self.note(report, arrived, number, &outcome, (now.since(arrived) > LATE, now));
        }
    }

    /// The hello of a client's connection came.
    pub(super) fn begun(&self, mut connections: &Shards, client: &End) {
        let mut late = Late::new();
        self.join().begun(&mut connections, client, &mut |waiting, outcome| late.push((waiting, outcome)));
        self.note_late(late);
    }

    /// Time has passed: connections and sessions end, and reports have waited long enough.
    pub(super) fn due(&self, mut connections: &Shards, now: Timestamp) {
        let mut late = Late::new();
        self.join().due(&mut connections, now, &mut |waiting, outcome| late.push((waiting, outcome)));
        self.note_late(late);
        self.sessions.expire(now);
        if let Some(assessor) = &self.assessor {
            assessor.tick(now);
        }
    }

    /// What a client did within the last hour, and the key of that.
    pub(super) fn summary(&self, subject: &Subject, report: &Report<'_>, now: Timestamp) -> (Option<Summary>, Key) {
        self.sessions.summary(subject, report, now)
    }

    /// Brings the metrics up to date.
    pub(super) fn publish(&self, metrics: &Metrics) {
        let (counts, waiting) = {
            let join = self.join();
            (*join.counts(), join.waiting())
        };
        metrics.requests.joined.set(JOINED, counts.joined);
        metrics.requests.joined.set(FORWARDED, counts.forwarded);
        for why in Miss::ALL {
            metrics.requests.joined.set(why.label(), counts.missed(why));
        }
        let (sessions, evicted) = self.sessions.count();
        metrics.resources.entries.waiting_reports.set(waiting as u64);
        metrics.resources.entries.sessions.set(sessions as u64);
        metrics.resources.evicted.sessions.set(evicted);
    }

    fn join(&self) -> MutexGuard<'_, Join<Waiting>> {
        self.join.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_late(&self, late: Late) {
        if late.is_empty() {
            return;
        }
        let now = monotonic();
        for (Waiting { report, arrived, kept }, outcome) in late {
            self.note(&report, arrived, kept, &outcome, (false, now));
        }
    }

    /// `behind`: so many reports wait that there is no time to assess this one. `now` is when it is noted: one that has waited
    /// for its hello came long before others that were assessed already.
    fn note(
        &self,
        report: &Report<'_>,
        arrived: Timestamp,
        kept: Option<u64>,
        outcome: &Outcome,
        (behind, now): (bool, Timestamp),
    ) {
        if let Some(number) = kept {
            let ja4 = match outcome {
                Outcome::Joined(_, found) => Some(found.identity.ja4),
                Outcome::Forwarded(_) | Outcome::Missed(_) => None,
            };
            self.recent.joined(number, label(outcome), ja4);
        }
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
            let request = Request { again: found.again, ..Request::of(report, ja4, *address, false, browser) };
            self.signals.note(&request, arrived);
        }
        let began = arrived.before(report.duration.unwrap_or(Duration::ZERO));
        let reader = self.sessions.reader();
        let key = reader.key(subject, report);
        let request = reader.request(report, began, connection);
        let request = match outcome {
            Outcome::Joined(_, found) => request.with_hello(&found.identity),
            Outcome::Forwarded(_) | Outcome::Missed(_) => request,
        };
        let assessor = self.assessor.as_ref().filter(|assessor| assessor.has_time(behind, now));
        let summary = self.sessions.note(key, &request, arrived, assessor.is_some());
        let Some(assessor) = assessor else { return };
        let identity = if let Outcome::Joined(_, found) = outcome { Some(&*found.identity) } else { None };
        let asked = Asked {
            report,
            subject,
            identity,
            session: summary.as_ref(),
            key: Some(key),
            request: Some(&request),
            now: arrived,
        };
        assessor.assess(&asked, assessor.id());
    }
}

const fn label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Joined(..) => JOINED,
        Outcome::Forwarded(_) => FORWARDED,
        Outcome::Missed(why) => why.label(),
    }
}

/// Labels of what becomes of a report.
pub(super) fn outcomes() -> Vec<&'static str> {
    [JOINED, FORWARDED].into_iter().chain(Miss::ALL.map(Miss::label)).collect()
}

/// As much of a report as is made use of when its hello has come.
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
        connection: report.connection,
        server_name: text(&report.server_name),
        path: text(&report.path),
        protocol: text(&report.protocol),
        status: report.status,
        cache: text(&report.cache),
        user_agent: text(&report.user_agent),
        referer: report.referer.as_ref().map(|_| Cow::Borrowed("")),
        method: text(&report.method),
        accept: text(&report.accept),
        accept_language: text(&report.accept_language),
        accept_encoding: text(&report.accept_encoding),
        client_hints: text(&report.client_hints),
        client_hints_mobile: text(&report.client_hints_mobile),
        client_hints_platform: text(&report.client_hints_platform),
        fetch_site: text(&report.fetch_site),
        fetch_mode: text(&report.fetch_mode),
        fetch_dest: text(&report.fetch_dest),
        fetch_user: text(&report.fetch_user),
        header_names: text(&report.header_names),
        cookie: report.cookie,
        session: text(&report.session),
        ..Report::default()
    }
}
