//! The metrics of scoring and of what is known of addresses.

use std::time::Duration;

use prometheus::{IntGauge, Registry};

use super::counters::Counters;

/// The closed label sets that other rooms own.
#[derive(Clone, Debug, Default)]
pub struct ScoreLabels {
    /// Of how sure an assessment is.
    pub confidences: Vec<&'static str>,
    /// Of what is done about it.
    pub actions: Vec<&'static str>,
    /// Of what becomes of a list that is read.
    pub lists: Vec<&'static str>,
    /// Of what becomes of a claim to be a crawler.
    pub crawlers: Vec<&'static str>,
    /// Of a breaker's states.
    pub states: Vec<&'static str>,
}

/// Scoring, and what is known of addresses.
#[derive(Debug)]
pub struct ScoreMetrics {
    /// Assessments by confidence.
    pub assessments: Counters,
    /// Requests that were told of and not assessed.
    pub left_out: Counters,
    /// Decisions about clients by what is to be done; of those in force and those that only count.
    pub decisions: Counters,
    /// Verdicts on their way to the kernel: `queued` or `dropped`.
    pub queue: Counters,
    /// Changes of breakers, by the state that they came to.
    pub breaker: Counters,
    /// Files of lists and databases by whether they were taken.
    pub lists: Counters,
    /// Claims to be a crawler that were to be looked up, by the answer.
    pub crawlers: Counters,
    troubled: IntGauge,
    prefixes: IntGauge,
    list_age: IntGauge,
    held: IntGauge,
}

impl ScoreMetrics {
    /// With every series at zero.
    ///
    /// # Errors
    /// When two families collide, or a name is refused.
    pub fn new(registry: &Registry, labels: ScoreLabels) -> prometheus::Result<Self> {
        let keep = |counters: prometheus::Result<Counters>| {
            let counters = counters?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            assessments: keep(Counters::by_label(
                "detector_score_assessments_total",
                "Assessments of requests by how sure it is that a program sent them.",
                "confidence",
                labels.confidences,
            ))?,
            left_out: keep(Counters::by_label(
                "detector_score_left_out_total",
                "Requests that were told of and not assessed, by why.",
                "reason",
                ["behind", "budget"],
            ))?,
            decisions: keep(Counters::by_label(
                "detector_score_decisions_total",
                "The same by what is to be done about the client, in force or only counted.",
                "action",
                labels.actions,
            ))?,
            queue: keep(Counters::by_label(
                "detector_score_verdicts_total",
                "Verdicts of the engine on their way to the kernel.",
                "outcome",
                ["queued", "dropped", "held_back"],
            ))?,
            breaker: keep(Counters::by_label(
                "detector_breaker_changes_total",
                "Changes of circuit breakers, by the state that they came to.",
                "state",
                labels.states,
            ))?,
            troubled: gauge("detector_breaker_troubled", "Circuit breakers that are not closed.")?,
            lists: keep(Counters::by_label(
                "detector_reputation_files_total",
                "Files of lists and address databases that were read, or why not.",
                "outcome",
                labels.lists,
            ))?,
            prefixes: gauge("detector_reputation_prefixes", "Prefixes of all lists.")?,
            list_age: gauge(
                "detector_reputation_list_age_seconds",
                "How long ago the list was fetched for which that is longest.",
            )?,
            crawlers: keep(Counters::by_label(
                "detector_reputation_crawlers_total",
                "Claims to be a crawler that were looked up in DNS, by the answer.",
                "outcome",
                labels.crawlers.into_iter().chain(["dropped"]),
            ))?,
            held: gauge("detector_score_held", "Clients about whom something is decided that they would notice.")?,
        })
    }

    /// How many prefixes there are.
    pub fn set_prefixes(&self, count: usize) {
        self.prefixes.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How long ago the list was fetched for which that is longest.
    pub fn set_list_age(&self, age: Duration) {
        self.list_age.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    }

    /// How many breakers aren't closed.
    pub fn set_troubled(&self, count: usize) {
        self.troubled.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many decisions are held.
    pub fn set_held(&self, count: usize) {
        self.held.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
