//! A family of Prometheus counters over a closed set of labels, in atomics: added to, or set to an absolute value that
//! the kernel counted. Bound: one `u64` and its labels for each row, fixed when made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};

/// One family. Cheap to clone; clones share the values.
#[derive(Clone, Debug)]
pub struct Counters(Arc<Family>);

#[derive(Debug)]
struct Family {
    desc: Desc,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    labels: Vec<LabelPair>,
    /// The value of the last label: what tells the rows apart.
    key: &'static str,
    value: AtomicU64,
}

impl Counters {
    /// Rows told apart by one label. No two values are the same.
    ///
    /// # Errors
    /// When Prometheus refuses a name.
    pub fn by_label(
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = &'static str>,
    ) -> prometheus::Result<Self> {
        Self::new(name, help, &[label], values.into_iter().map(|value| vec![value]).collect())
    }

    /// A single counter.
    ///
    /// # Errors
    /// When Prometheus refuses the name.
    pub fn single(name: &str, help: &str) -> prometheus::Result<Self> {
        Self::new(name, help, &[], vec![Vec::new()])
    }

    /// Rows of one value for each of `labels`; the last one alone tells them apart.
    ///
    /// # Errors
    /// When Prometheus refuses a name.
    pub fn new(name: &str, help: &str, labels: &[&str], rows: Vec<Vec<&'static str>>) -> prometheus::Result<Self> {
        let names = labels.iter().map(|&label| label.to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, Default::default())?;
        let row = |values: Vec<&'static str>| {
            let pair = |(&name, &value): (&&str, &&'static str)| {
                let mut pair = LabelPair::default();
                pair.set_name(name.to_owned());
                pair.set_value(value.to_owned());
                pair
            };
            let pairs = labels.iter().zip(&values).map(pair).collect();
            Row { labels: pairs, key: values.last().copied().unwrap_or_default(), value: AtomicU64::new(0) }
        };
        Ok(Self(Arc::new(Family { desc, rows: rows.into_iter().map(row).collect() })))
    }

    /// Adds `count` to the row of `key` (`""` for a single counter). A key outside the closed set is a mistake in this
    /// program: it stops a debug build, and counts nothing in a release.
    pub fn add(&self, key: &str, count: u64) {
        if let Some(row) = self.row(key) {
            row.value.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Sets the row of `key` to an absolute value that was counted elsewhere and never falls.
    pub fn set(&self, key: &str, value: u64) {
        if let Some(row) = self.row(key) {
            row.value.store(value, Ordering::Relaxed);
        }
    }

    /// The row of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> u64 {
        self.row(key).map_or(0, |row| row.value.load(Ordering::Relaxed))
    }

    /// Every row: what tells it apart, and its value.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.rows.iter().map(|row| (row.key, row.value.load(Ordering::Relaxed)))
    }

    fn row(&self, key: &str) -> Option<&Row> {
        let row = self.0.rows.iter().find(|row| row.key == key);
        debug_assert!(row.is_some(), "no row `{key}` in {}", self.0.desc.fq_name);
        row
    }
}

impl Collector for Counters {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metric = |row: &Row| {
            let mut counter = Counter::default();
            // Prometheus counts in floating point: exact up to 2^53.
            counter.set_value(row.value.load(Ordering::Relaxed) as f64);
            let mut metric = Metric::from_label(row.labels.clone());
            metric.set_counter(counter);
            metric
        };
        let mut family = MetricFamily::default();
        family.set_name(self.0.desc.fq_name.clone());
        family.set_help(self.0.desc.help.clone());
        family.set_field_type(MetricType::COUNTER);
        family.set_metric(self.0.rows.iter().map(metric).collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_added_to_and_set() {
        let counters = Counters::by_label("detector_test_things_total", "Things.", "kind", ["a", "b"]).unwrap();
        let clone = counters.clone();
        clone.add("a", 2);
        clone.add("a", 3);
        clone.set("b", 7);
        assert_eq!(counters.rows().collect::<Vec<_>>(), [("a", 5), ("b", 7)]);
        assert_eq!(counters.value("a"), 5);
        let family = &counters.collect()[0];
        assert_eq!(family.get_metric()[1].get_counter().get_value(), 7.0);
        assert_eq!(family.get_metric()[1].get_label()[0].value(), "b");
    }

    #[test]
    fn a_single_counter_has_no_labels() {
        let counter = Counters::single("detector_test_lone_total", "Lone.").unwrap();
        counter.add("", 1);
        assert_eq!(counter.value(""), 1);
        assert!(counter.collect()[0].get_metric()[0].get_label().is_empty());
    }
}
