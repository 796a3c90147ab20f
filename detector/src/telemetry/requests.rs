//! Requests: told by reports or asked about, put together with their hellos, assessed.

use prometheus::Registry;

use super::counters::{Count, Counters, Family};

/// The closed label sets of requests, which other rooms own.
#[derive(Clone, Debug, Default)]
pub struct RequestLabels {
    /// Of why a frame is no report.
    pub rejected: Vec<&'static str>,
    /// Of why a frame isn't read.
    pub refused: Vec<&'static str>,
    /// Of what becomes of a report.
    pub joined: Vec<&'static str>,
    /// Of what is decided about a request.
    pub rulings: Vec<&'static str>,
    /// Of whether a fingerprint was known for that.
    pub knowledge: Vec<&'static str>,
    /// Of how sure an assessment is.
    pub confidences: Vec<&'static str>,
    /// Of what is done about it.
    pub actions: Vec<&'static str>,
    /// Of a breaker's states.
    pub states: Vec<&'static str>,
}

/// Requests from what tells of them to what is to be done about their client.
#[derive(Debug)]
pub struct RequestMetrics {
    /// Reports that web servers told.
    pub reports: Count,
    /// Frames that are no report, by why.
    pub rejected: Counters,
    /// Frames of those who may not tell, or tell too much.
    pub refused: Counters,
    /// Fields of reports that were of no use: `unknown` or `wrong`.
    pub fields: Counters,
    /// How many reports got lost, as far as can be told.
    pub lost: Count,
    /// How many datagrams may wait for a signal socket, as it was when the sockets were made.
    pub queue_length: Count,
    /// Reports by what they were found to be about.
    pub joined: Counters,
    /// Questions of web servers by the answer: `allow`, `challenge` or `deny`.
    pub rulings: Counters,
    /// The same by whether the client's fingerprint was known, or why not.
    pub knowledge: Counters,
    /// Assessments by confidence.
    pub assessed: Counters,
    /// Requests that were told of and not assessed, since reports waited for too long.
    pub behind: Count,
    /// The same, since enough were in their second.
    pub over_budget: Count,
    /// Decisions about clients by what is to be done; of those in force and those that only count.
    pub decisions: Counters,
    /// Circuit breakers by the state that they are in.
    pub breakers: Counters,
    /// Changes of breakers, by the state that they came to.
    pub breaker_changes: Counters,
}

impl RequestMetrics {
    /// With every series at zero.
    pub(super) fn new(registry: &Registry, labels: RequestLabels) -> prometheus::Result<Self> {
        let mut frames = Family::counter(
            "detector_intake_frames_total",
            "Frames on the signal sockets: reports, what is none, and what was not read.",
            &["outcome"],
        );
        let mut fields = Family::counter(
            "detector_intake_fields_total",
            "Fields of reports that were of no use: not in the schema, or of a wrong type.",
            &["fault"],
        );
        let mut lost = Family::gauge(
            "detector_intake_lost_reports_estimate",
            "Reports that got lost before they were read, estimated from gaps in the requests' numbers.",
            &[],
        );
        let mut queue_length = Family::gauge(
            "detector_intake_queue_length",
            "Datagrams that may wait for a signal socket, as it was when the sockets were made.",
            &[],
        );
        let mut joined = Family::counter(
            "detector_join_reports_total",
            "Reports by whether they were found to be of a connection whose hello is known.",
            &["outcome"],
        );
        let mut rulings = Family::counter(
            "detector_inline_decisions_total",
            "Questions of web servers, by the answer.",
            &["decision"],
        );
        let mut knowledge = Family::counter(
            "detector_inline_fingerprints_total",
            "Questions of web servers, by whether the client's fingerprint was known, or why not.",
            &["outcome"],
        );
        let mut requests = Family::counter(
            "detector_score_requests_total",
            "Requests by how sure it is that a program sent them, or why they were not assessed.",
            &["outcome"],
        );
        let mut decisions = Family::counter(
            "detector_score_decisions_total",
            "Assessed requests by what is to be done about the client, in force or only counted.",
            &["action"],
        );
        let mut breakers =
            Family::gauge("detector_breakers", "Circuit breakers, by the state that they are in.", &["state"]);
        let mut changes = Family::counter(
            "detector_breaker_changes_total",
            "Changes of circuit breakers, by the state that they came to.",
            &["state"],
        );
        let metrics = Self {
            reports: frames.count(&["report"]),
            rejected: frames.counts(&[], labels.rejected),
            refused: frames.counts(&[], labels.refused),
            fields: fields.counts(&[], ["unknown", "wrong"]),
            lost: lost.count(&[]),
            queue_length: queue_length.count(&[]),
            joined: joined.counts(&[], labels.joined),
            rulings: rulings.counts(&[], labels.rulings),
            knowledge: knowledge.counts(&[], labels.knowledge),
            assessed: requests.counts(&[], labels.confidences),
            behind: requests.count(&["behind"]),
            over_budget: requests.count(&["budget"]),
            decisions: decisions.counts(&[], labels.actions),
            breakers: breakers.counts(&[], labels.states.iter().copied()),
            breaker_changes: changes.counts(&[], labels.states),
        };
        let intake = [frames, fields, lost, queue_length, joined];
        for family in intake.into_iter().chain([rulings, knowledge, requests, decisions, breakers, changes]) {
            family.register(registry)?;
        }
        Ok(metrics)
    }
}
