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
    let two = |name: &str, first: (&str, &str), second: (&str, &str)| metrics.sum(name, &[first, second]);
    let events = |class, outcome| two("detector_capture_events_total", ("class", class), ("outcome", outcome));
    let lines = |outcome| two("detector_queue_items_total", ("queue", "hello_lines"), ("outcome", outcome));
    let seen = |kinds: &str| one("detector_kernel_seen_total", "kind", kinds);
    let standings = |standings: &str| one("detector_hello_standings_total", "standing", standings);
    let complete = one("detector_hello_outcomes_total", "outcome", "complete");
    let mut sums = vec![
        ("packets == pass + drop".to_owned(), seen("packets"), all("detector_kernel_packets_total")),
        (
            "first data == hello + partial + not_tls + unparsed".to_owned(),
            seen("first_data"),
            seen("first_hello|first_partial|first_not_tls|first_unparsed"),
        ),
        (
            "complete == confirmed + pending_expired + unconfirmed + pending".to_owned(),
            complete,
            standings("confirmed|pending_expired|unconfirmed")
                + one("detector_table_entries", "table", "pending_hellos"),
        ),
        (
            "confirmed <= judged + void".to_owned(),
            0.0,
            (standings("confirmed") - standings("judged") - standings("void")).max(0.0),
        ),
        ("queued == written + dropped".to_owned(), lines("queued"), lines("written") + lines("dropped")),
        ("malformed events == 0".to_owned(), one("detector_capture_events_total", "outcome", "malformed"), 0.0),
        ("mismatched keys == 0".to_owned(), one("detector_hello_keys_total", "outcome", "mismatch"), 0.0),
    ];
    for class in ["confirmed", "unconfirmed"] {
        let [captured, submitted, lost] = ["captured", "submitted", "lost"].map(|outcome| events(class, outcome));
        sums.push((format!("{class}: captured == submitted + lost"), captured, submitted + lost));
        sums.push((format!("{class}: submitted == received"), submitted, events(class, "received")));
    }
    let wrong = sums.into_iter().filter(|(_, left, right)| left != right);
    wrong.map(|(sum, left, right)| format!("{sum}: {left} against {right}")).collect()
}
