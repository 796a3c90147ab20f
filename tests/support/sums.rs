//! threats.md, "Counters that make loss visible": the sums that hold exactly whenever no packet is in flight.

use anyhow::Result;

use crate::daemon::Daemon;
use crate::deadline::{PATIENCE, until};
use crate::lab::Lab;
use crate::metrics::Metrics;

/// Reads the metrics until every sum holds, and returns them: a sum that is wrong stays wrong.
///
/// # Errors
/// When one never does; the error names it with both sides.
pub fn settled(lab: &Lab, daemon: &Daemon) -> Result<Metrics> {
    let mut broken = Vec::new();
    let metrics = until("the sums to hold", PATIENCE, || {
        let metrics = daemon.metrics(lab)?;
        broken = broken_sums(&metrics);
        Ok(broken.is_empty().then_some(metrics))
    });
    metrics.map_err(|error| error.context(format!("{broken:?}")))
}

fn broken_sums(metrics: &Metrics) -> Vec<String> {
    let all = |name: &str| metrics.sum(name, &[]);
    let one = |name: &str, label: &str, value: &str| metrics.sum(name, &[(label, value)]);
    let kernel = |class: &str, outcome: &str| one(&format!("detector_kernel_{class}_events_total"), "outcome", outcome);
    let received = |class: &str| one("detector_capture_events_received_total", "class", class);
    let lines = |outcome: &str| one("detector_event_lines_total", "outcome", outcome);
    let complete = one("detector_hello_outcomes_total", "outcome", "complete");
    let mut sums = vec![
        ("frames == pass + drop".to_owned(), all("detector_kernel_frames_total"), all("detector_kernel_packets_total")),
        (
            "first segments == hello + partial + not_tls + unparsed".to_owned(),
            all("detector_kernel_first_segments_total"),
            all("detector_kernel_first_data_total"),
        ),
        (
            "complete == confirmed + pending_expired + unconfirmed + pending".to_owned(),
            complete,
            all("detector_hello_standings_total") + all("detector_hello_pending"),
        ),
        (
            "confirmed <= proofs, which void ones have too".to_owned(),
            0.0,
            (one("detector_hello_standings_total", "standing", "confirmed")
                - all("detector_hello_proofs_total")
                - all("detector_hello_void_total"))
            .max(0.0),
        ),
        ("queued == written + dropped".to_owned(), lines("queued"), lines("written") + lines("dropped")),
        ("malformed events == 0".to_owned(), all("detector_capture_events_malformed_total"), 0.0),
        ("mismatched keys == 0".to_owned(), one("detector_hello_kernel_keys_total", "outcome", "mismatch"), 0.0),
    ];
    for class in ["confirmed", "unconfirmed"] {
        let [captured, submitted, lost] = ["captured", "submitted", "lost"].map(|outcome| kernel(class, outcome));
        sums.push((format!("{class}: captured == submitted + lost"), captured, submitted + lost));
        sums.push((format!("{class}: submitted == received"), submitted, received(class)));
    }
    let wrong = sums.into_iter().filter(|(_, left, right)| left != right);
    wrong.map(|(sum, left, right)| format!("{sum}: {left} against {right}")).collect()
}
