//! What becomes of hellos in userspace.

use prometheus::Registry;

use super::counters::{Count, Counters, Family};

/// The closed label sets of hellos, which other rooms own.
#[derive(Clone, Debug, Default)]
pub struct HelloLabels {
    /// For which a hello is lost.
    pub causes: Vec<&'static str>,
    /// For which a packet belongs to no hello.
    pub ignored: Vec<&'static str>,
    /// Of why a client's address is sure.
    pub proofs: Vec<&'static str>,
    /// Of why a fingerprint is void.
    pub void: Vec<&'static str>,
}

/// Hellos from their first segment to all that will be known of them.
#[derive(Debug)]
pub struct HelloMetrics {
    /// Hellos by outcome: `complete`, or the label of the cause for which one was lost.
    pub outcomes: Counters,
    /// Complete hellos of clients whose address is proven, by the proof.
    pub confirmed: Counters,
    /// Those without a proof in time.
    pub pending_expired: Count,
    /// Those given up before that.
    pub unconfirmed: Count,
    /// Hellos that were judged, by the proof: as soon as there was one.
    pub judged: Counters,
    /// Complete hellos whose fingerprint is void, by why.
    pub void: Counters,
    /// Segments that belong to no hello, by reason.
    pub ignored: Counters,
    /// Servers' answers to hellos.
    pub answers: Count,
}

impl HelloMetrics {
    /// With every series at zero.
    pub(super) fn new(registry: &Registry, labels: HelloLabels) -> prometheus::Result<Self> {
        let HelloLabels { causes, ignored, proofs, void } = labels;
        let mut outcomes = Family::counter(
            "detector_hello_outcomes_total",
            "Hellos that userspace saw begin, by how they ended.",
            &["outcome"],
        );
        let mut standings = Family::counter(
            "detector_hello_standings_total",
            "Complete hellos by what is known of their client's address, and why; judged and void are counted besides.",
            &["standing", "reason"],
        );
        let mut segments = Family::counter(
            "detector_hello_segments_total",
            "Packets that belong to no hello: servers' answers, and what is left out.",
            &["kind"],
        );
        let metrics = Self {
            outcomes: outcomes.counts(&[], ["complete"].into_iter().chain(causes)),
            confirmed: standings.counts(&["confirmed"], proofs.iter().copied()),
            pending_expired: standings.count(&["pending_expired", "time"]),
            unconfirmed: standings.count(&["unconfirmed", "room"]),
            judged: standings.counts(&["judged"], proofs),
            void: standings.counts(&["void"], void),
            ignored: segments.counts(&[], ignored),
            answers: segments.count(&["answer"]),
        };
        for family in [outcomes, standings, segments] {
            family.register(registry)?;
        }
        Ok(metrics)
    }
}
