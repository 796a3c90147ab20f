//! The daemon's metrics, read from Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! In: the answer of `/metrics`. Out: samples by name and labels, and the sums over them. Label values here come from
//! closed sets without quotes or commas, so a comma always parts two labels; anything else is an error.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

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

    /// The sum of a metric's samples that have these labels. A missing metric sums to 0, so that a counter that a
    /// daemon shows only once it counted is read right; [`Metrics::types`] tells whether it exists.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        };
        self.samples.iter().filter(matches).map(|sample| sample.value).sum()
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
        assert_eq!(metrics.sum("c", &[]), 0.0);
        assert_eq!(metrics.types()["a_total"], "counter");
    }

    #[test]
    fn refuses_what_is_no_sample() {
        for text in ["a", "a{x=1} 2", "a{x=\"1\" 2", "{x=\"1\"} 2", "a b", "a\u{1b} 1"] {
            assert!(Metrics::parse(text).is_err(), "{text}");
        }
    }
}
