//! The daemon's metrics, read from Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! In: the answer of `/metrics`. Out: samples by name and labels, and the sums over them. Label values here come from
//! closed sets without quotes or commas, so a comma always parts two labels; anything else is an error.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

/// The outcomes of `detector_score_requests_total` of requests that were assessed.
pub const ASSESSED: &str = "definitely_human|likely_human|suspicious|likely_bot|definitely_bot";

/// One moment's samples.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
    types: BTreeMap<String, String>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Metrics {
    /// Reads the text.
    ///
    /// # Errors
    /// When a line is neither a comment nor a sample.
    pub fn parse(text: &str) -> Result<Self> {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, kind) = typed.split_once(' ').with_context(|| format!("malformed `{line}`"))?;
                metrics.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                metrics.samples.push(sample(line).with_context(|| format!("malformed `{line}`"))?);
            }
        }
        Ok(metrics)
    }

    /// The type each metric was declared with, by name.
    #[must_use]
    pub fn types(&self) -> &BTreeMap<String, String> {
        &self.types
    }

    /// All samples.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The sum of a metric's samples that have these labels, of which a value may be several: `a|b`.
    ///
    /// # Panics
    /// If there is none of a value: the daemon serves each series from its start, so the test names what isn't there, and
    /// would take it for 0.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &Sample, key: &str, values: &str| {
            sample.labels.get(key).is_some_and(|value| values.split('|').any(|wanted| wanted == value))
        };
        let matches =
            |sample: &&Sample| sample.name == name && labels.iter().all(|(key, values)| has(sample, key, values));
        let found: Vec<&Sample> = self.samples.iter().filter(matches).collect();
        for (key, values) in labels {
            for value in values.split('|') {
                assert!(found.iter().any(|sample| has(sample, key, value)), "no {name} of {key} {value} in {labels:?}");
            }
        }
        assert!(!found.is_empty(), "no {name}");
        found.iter().map(|sample| sample.value).sum()
    }

    /// What came on the signal sockets and was no report, or was not read; and fields of reports that were of no use.
    #[must_use]
    pub fn unread(&self) -> f64 {
        let frames = |labels: &[(&str, &str)]| self.sum("detector_intake_frames_total", labels);
        frames(&[]) - frames(&[("outcome", "report")]) + self.sum("detector_intake_fields_total", &[])
    }
}

/// `name{label="value",…} 1.5`.
fn sample(line: &str) -> Result<Sample> {
    let (series, value) = line.rsplit_once(' ').context("no value")?;
    let (name, labels) = match series.split_once('{') {
        None => (series, BTreeMap::new()),
        Some((name, rest)) => (name, pairs(rest.strip_suffix('}').context("no closing brace")?)?),
    };
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':') {
        bail!("bad name");
    }
    Ok(Sample { name: name.to_owned(), labels, value: value.parse()? })
}

fn pairs(text: &str) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (key, quoted) = pair.split_once('=').context("a label without a value")?;
        let value = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).context("an unquoted value")?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn sums_the_samples_with_the_labels() {
        let text = "# HELP a_total Things.\n# TYPE a_total counter\na_total{verdict=\"pass\",reason=\"x\"} 3\n\
                    a_total{verdict=\"pass\",reason=\"y\"} 4\na_total{verdict=\"drop\",reason=\"z\"} 5\nb 1.5\n";
        let metrics = Metrics::parse(text).expect("valid");
        assert_eq!(metrics.sum("a_total", &[("verdict", "pass")]), 7.0);
        assert_eq!(metrics.sum("a_total", &[]), 12.0);
        assert_eq!(metrics.sum("b", &[]), 1.5);
        assert_eq!(metrics.sum("a_total", &[("reason", "x|z")]), 8.0);
        for (name, value) in [("c", "x"), ("a_total", "w"), ("a_total", "x|w")] {
            let sum = std::panic::catch_unwind(|| metrics.sum(name, &[("reason", value)]));
            assert!(sum.is_err(), "{name} {value}");
        }
        assert_eq!(metrics.types()["a_total"], "counter");
    }

    #[test]
    fn refuses_what_is_no_sample() {
        for text in ["a", "a{x=1} 2", "a{x=\"1\" 2", "{x=\"1\"} 2", "a b", "a\u{1b} 1"] {
            assert!(Metrics::parse(text).is_err(), "{text}");
        }
    }
}
