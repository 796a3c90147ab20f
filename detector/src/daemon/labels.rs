//! The label sets of the metrics, from the rooms that own them.

use super::{inline::KNOWLEDGE, joiner};
use crate::{
    admin::protocol::Outcome,
    breaker,
    capture::Proof,
    door::seats::End,
    inline as endpoint,
    intake::{Closed, Refused},
    kernel::Lookup,
    pipeline::{Cause, Ignored, KeyCheck, Void},
    policy::{decide::Action, never_block::Why, requests::Ruling},
    report::Rejected,
    reputation::{Answer, Refused as ListRefused},
    score::Confidence,
    telemetry::{hellos::HelloLabels, metrics::Labels, requests::RequestLabels, resources::ResourceLabels},
};

/// All of them.
pub(super) fn labels() -> Labels {
    Labels {
        keys: KeyCheck::ALL.iter().map(|check| check.label()).collect(),
        hellos: HelloLabels {
            causes: Cause::ALL.iter().map(|cause| cause.label()).collect(),
            ignored: Ignored::ALL.iter().map(|reason| reason.label()).collect(),
            proofs: Proof::ALL.iter().map(|proof| proof.label()).collect(),
            void: Void::ALL.iter().map(|why| why.label()).collect(),
        },
        requests: RequestLabels {
            rejected: Rejected::ALL.iter().map(|why| why.label()).collect(),
            refused: Refused::ALL.iter().map(|why| why.label()).collect(),
            joined: joiner::outcomes(),
            rulings: Ruling::ALL.iter().map(|ruling| ruling.label()).collect(),
            knowledge: KNOWLEDGE.to_vec(),
            confidences: Confidence::ALL.iter().map(|confidence| confidence.label()).collect(),
            actions: Action::ALL.iter().map(|action| action.metric_label()).collect(),
            states: breaker::State::ALL.map(breaker::State::label).to_vec(),
        },
        resources: ResourceLabels {
            never_block: Why::ALL.iter().map(|why| why.label()).collect(),
            reloads: Outcome::ALL.map(Outcome::label).to_vec(),
            lists: ["read", "unreadable"].into_iter().chain(ListRefused::LABELS).collect(),
            sockets: Lookup::ALL.iter().map(|found| found.label()).collect(),
            crawlers: Answer::ALL.iter().map(|answer| answer.label()).collect(),
            askers: endpoint::Connection::ALL.iter().map(|what| what.label()).collect(),
            ends: End::ALL.iter().map(|end| end.label()).collect(),
            streams: Closed::ALL.iter().map(|why| why.label()).collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{config::Mode, telemetry::Metrics};

    const DOCS: &str = include_str!("../../../docs/metrics.md");
    /// Of a version and of a histogram's bounds not each value is named.
    const OPEN: [&str; 2] = ["version", "le"];

    const RULES: &str = include_str!("../../../dist/prometheus/detector.rules.yml");
    const DASHBOARD: &str = include_str!("../../../dist/grafana/detector.json");
    /// What Prometheus adds to what it scrapes.
    const TARGET: [&str; 2] = ["instance", "job"];

    fn page() -> String {
        Metrics::new(Mode::Observe, labels()).unwrap().encode().unwrap()
    }

    #[test]
    fn series_are_bounded() {
        let page = page();
        assert!(page.lines().filter(|line| !line.starts_with('#')).count() <= 500, "{page}");
    }

    /// Whoever sees a value on a dashboard finds it in its family's row.
    #[test]
    fn every_label_value_is_documented() {
        let mut missing = BTreeSet::new();
        for series in page().lines().filter(|line| !line.starts_with('#')) {
            let Some((name, rest)) = series.split_once('{') else { continue };
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            let row = DOCS.lines().find(|line| line.starts_with(&format!("| `{name}`"))).unwrap_or_default();
            let words: BTreeSet<&str> = row.split('`').skip(1).step_by(2).collect();
            let pairs = rest.split_once('}').unwrap().0.split(',').map(|pair| pair.split_once('=').unwrap());
            let values = pairs.filter(|(label, _)| !OPEN.contains(label)).map(|(_, value)| value.trim_matches('"'));
            missing.extend(values.filter(|value| !words.contains(value)).map(|value| format!("{name} {value}")));
        }
        assert_eq!(missing, BTreeSet::new());
    }

    /// The labels of a series or of what chooses one: name, operator, values.
    fn pairs(labels: &str) -> impl Iterator<Item = (&str, &str, Vec<&str>)> {
        labels.split(',').map(|pair| {
            let (label, rest) = pair.trim().split_at(pair.trim().find(['=', '!']).unwrap());
            let (operator, values) = rest.split_once('"').unwrap();
            (label, operator, values.trim_end_matches('"').split('|').collect())
        })
    }

    /// Since a family has several labels, a value that is one of its words need not be one of that label beside another.
    #[test]
    fn alerts_and_panels_choose_series_that_are_there() {
        let (page, mut looked) = (page(), 0);
        for text in [RULES.to_owned(), DASHBOARD.replace("\\\"", "\"")] {
            for (start, _) in text.match_indices("detector_") {
                let Some((name, rest)) = text[start..].split_once('{') else { continue };
                if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
                    continue;
                }
                let chosen: Vec<_> = pairs(rest.split_once('}').unwrap().0)
                    .filter(|(label, operator, _)| !TARGET.contains(label) && !operator.starts_with('!'))
                    .collect();
                let series =
                    page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once('}'));
                let series: Vec<Vec<_>> = series.map(|(labels, _)| pairs(labels).collect()).collect();
                let has = |series: &[(&str, &str, Vec<&str>)], label: &str, wanted: &[&str]| {
                    series.iter().any(|(name, _, value)| *name == label && wanted.contains(&value[0]))
                };
                let left: Vec<_> = series
                    .iter()
                    .filter(|series| chosen.iter().all(|(label, _, any)| has(series, label, any)))
                    .collect();
                for (label, _, values) in &chosen {
                    for value in values {
                        assert!(left.iter().any(|series| has(series, label, &[*value])), "{name} {chosen:?}: {value}");
                    }
                }
                looked += 1;
            }
        }
        assert!(looked > 60, "{looked}");
    }
}
