//! Verdicts and operators' orders.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::core::Collector as _;
use prometheus::{Histogram, HistogramOpts, Registry};

use super::counters::{Count, Counters, Family};

/// Upper bounds of the latency histogram in seconds, 5 µs to 1 s.
const LATENCY_BUCKETS: &[f64] = &[
    5e-6, 10e-6, 20e-6, 35e-6, 50e-6, 75e-6, 100e-6, 150e-6, 200e-6, 350e-6, 500e-6, 750e-6, 1e-3, 2e-3, 5e-3, 10e-3,
    50e-3, 100e-3, 1.0,
];

/// The tables that hold active verdicts; labels of `detector_enforce_verdicts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VerdictKind {
    /// On single addresses.
    Address,
    /// On prefixes.
    Prefix,
    /// The allow list.
    Allow,
    /// On single connections.
    Connection,
    /// On sources' new QUIC connections.
    QuicSource,
    /// On JA4 values.
    Ja4,
    /// On JA4 values from one place.
    Pair,
    /// Automatic ones, on whatever.
    Automatic,
    /// On requests.
    Request,
}

impl VerdictKind {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Address,
        Self::Prefix,
        Self::Allow,
        Self::Connection,
        Self::QuicSource,
        Self::Ja4,
        Self::Pair,
        Self::Automatic,
        Self::Request,
    ];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Prefix => "prefix",
            Self::Allow => "allow",
            Self::Connection => "connection",
            Self::QuicSource => "quic_source",
            Self::Ja4 => "ja4",
            Self::Pair => "pair",
            Self::Automatic => "automatic",
            Self::Request => "request",
        }
    }
}

/// Verdicts from what wants them to the kernel, and what operators order.
#[derive(Debug)]
pub struct EnforceMetrics {
    verdicts: Counters,
    latency: Histogram,
    /// Verdicts of the engine that went to the packet path.
    pub queued: Count,
    /// Those that did not: too many were waiting.
    pub dropped: Count,
    /// Blocks that only challenge, since so many were new.
    pub held_back: Count,
    /// Automatic verdicts that aren't in force, since too many were new in their second.
    pub too_fast: Count,
    /// Verdicts on connections that could not be put in force.
    pub failed: Count,
    /// What operators asked for and didn't get: `full`, `never_block`, `browsers` or `proxy_suspected`.
    pub orders_refused: Counters,
    /// Changes of operators' orders that reached the disk.
    pub orders_written: Count,
    /// Those that did not.
    pub orders_failed: Count,
    /// Lines of the store that were not as they had been written.
    pub orders_damaged: Count,
    /// Entries that took themselves back, since nobody confirmed them.
    pub orders_reverted: Count,
    /// Challenge listeners to which clients are steered.
    pub healthy: Count,
    /// Those to which nobody is.
    pub unhealthy: Count,
}

impl EnforceMetrics {
    /// With every series at zero.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let mut verdicts = Family::gauge("detector_enforce_verdicts", "Verdicts in force, by table.", &["kind"]);
        let mut outcomes = Family::counter(
            "detector_enforce_outcomes_total",
            "New verdicts by what became of them on their way into force.",
            &["outcome"],
        );
        let mut orders = Family::counter(
            "detector_enforce_orders_total",
            "What operators ordered: by why it was refused, by whether it reached the disk, and what ended or was damaged.",
            &["outcome"],
        );
        let mut listeners =
            Family::gauge("detector_challenge_listeners", "Challenge listeners, by health.", &["health"]);
        let metrics = Self {
            verdicts: verdicts.counts(&[], VerdictKind::ALL.iter().map(|kind| kind.label())),
            latency: latency(registry)?,
            queued: outcomes.count(&["queued"]),
            dropped: outcomes.count(&["dropped"]),
            held_back: outcomes.count(&["held_back"]),
            too_fast: outcomes.count(&["too_fast"]),
            failed: outcomes.count(&["failed"]),
            orders_refused: orders.counts(&[], ["full", "never_block", "browsers", "proxy_suspected"]),
            orders_written: orders.count(&["written"]),
            orders_failed: orders.count(&["failed"]),
            orders_damaged: orders.count(&["damaged"]),
            orders_reverted: orders.count(&["reverted"]),
            healthy: listeners.count(&["healthy"]),
            unhealthy: listeners.count(&["unhealthy"]),
        };
        for family in [verdicts, outcomes, orders, listeners] {
            family.register(registry)?;
        }
        Ok(metrics)
    }

    /// How many verdicts of `kind` are in force.
    pub fn set_verdicts(&self, kind: VerdictKind, count: usize) {
        self.verdicts.set(kind.label(), count as u64);
    }

    /// How many verdicts are in force, by kind.
    #[must_use]
    pub fn verdict_counts(&self) -> BTreeMap<String, u64> {
        self.verdicts.rows().map(|(kind, count)| (kind.to_owned(), count)).collect()
    }

    /// From the frame in the NIC to the verdict in force.
    pub fn observe_latency(&self, latency: Duration) {
        self.latency.observe(latency.as_secs_f64());
    }

    /// The latency that `share` (0 to 1) of the verdicts stayed below, interpolated within its bucket as Prometheus
    /// does it; `None` before the first. Verdicts over the last bound count as that.
    #[must_use]
    pub fn latency_quantile(&self, share: f64) -> Option<Duration> {
        let families = self.latency.collect();
        let histogram = families.first()?.get_metric().first()?.get_histogram();
        let rank = share * histogram.get_sample_count() as f64;
        let (mut floor, mut below) = (0.0, 0.0);
        for bucket in histogram.get_bucket() {
            let upto = bucket.cumulative_count() as f64;
            if upto >= rank && upto > below {
                let within = (rank - below) / (upto - below);
                return Some(Duration::from_secs_f64(floor + (bucket.upper_bound() - floor) * within.max(0.0)));
            }
            (floor, below) = (bucket.upper_bound(), upto);
        }
        (histogram.get_sample_count() > 0).then(|| Duration::from_secs_f64(floor))
    }

    /// How many verdicts took at most so many microseconds, for each bound of the histogram.
    #[must_use]
    pub fn latencies(&self) -> Vec<(u64, u64)> {
        let families = self.latency.collect();
        let metric = families.first().and_then(|family| family.get_metric().first());
        let buckets = metric.into_iter().flat_map(|metric| metric.get_histogram().get_bucket());
        let micros = |seconds: f64| (seconds * 1e6).round() as u64;
        buckets.map(|bucket| (micros(bucket.upper_bound()), bucket.cumulative_count())).collect()
    }
}

fn latency(registry: &Registry) -> prometheus::Result<Histogram> {
    let help = "Seconds from the frame in the NIC to the verdict in force.";
    let options = HistogramOpts::new("detector_enforce_latency_seconds", help).buckets(LATENCY_BUCKETS.to_vec());
    let histogram = Histogram::with_opts(options)?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let metrics = EnforceMetrics::new(&Registry::new()).unwrap();
        assert_eq!(metrics.latency_quantile(0.5), None);
        for _ in 0..99 {
            metrics.observe_latency(Duration::from_micros(60));
        }
        metrics.observe_latency(Duration::from_secs(5));
        let p50 = metrics.latency_quantile(0.5).unwrap().as_micros();
        assert!((50..=75).contains(&p50), "{p50}");
        assert_eq!(metrics.latency_quantile(1.0), Some(Duration::from_secs(1)));
    }
}
