//! The log line of a new decision: who is stopped or slowed down, and why, for whoever reads logs and not the daemon.
//! Bound: so many lines a minute; what is left out is counted, and `detector explain` knows of it.

use tracing::info;

use super::memory::Record;
use crate::policy::decide::Unit;
use crate::telemetry::logs::Limited;

/// Under an attack there may be thousands a second.
static LINES: Limited = Limited::per_minute(60);

/// Tells of a decision that its client would notice. `session`: a hash of the site's own session id, if there is one.
pub(super) fn tell(record: &Record, session: Option<u64>) {
    let Some(suppressed) = LINES.admit(record.at) else { return };
    let Record { id, address, ja4, assessment, decision, in_force, .. } = record;
    let subnet = match &decision.unit {
        Unit::Pair(prefix, _) | Unit::Forwarded(prefix, ..) => Some(prefix.to_string()),
        Unit::Session(_) => None,
    };
    let session = session.map(|session| format!("{session:016x}"));
    let ja4 = ja4.map(|ja4| ja4.to_string());
    let (action, reason) = (decision.action.metric_label(), decision.reason.map(|reason| reason.name()));
    let (confidence, score, for_s) = (assessment.confidence.label(), assessment.score, decision.ttl.as_secs());
    info!(
        target: "detector::decision",
        %id, action, in_force, for_s, confidence, score, reason, %address, subnet, ja4, session, suppressed,
        "a client is decided about"
    );
}
