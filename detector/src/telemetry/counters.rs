//! Families of Prometheus counters and gauges over closed sets of labels, in atomics: added to, or set to what was counted
//! elsewhere. Bound: one `u64` and its labels for each series, fixed when its family is registered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Error, Registry};

/// One series. Cheap to clone; clones share the value.
#[derive(Clone, Debug, Default)]
pub struct Count(Arc<AtomicU64>);

impl Count {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Sets it to an absolute value. That of a counter was counted elsewhere and never falls.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The series of one question: of a family, or of a part of one, told apart by a label. Cheap to clone; clones share the
/// values.
#[derive(Clone, Debug)]
pub struct Counters(Arc<[(&'static str, Count)]>);

impl Counters {
    /// Adds `count` to the series of `key`. A key outside the closed set is a mistake in this program: it stops a debug
    /// build, and counts nothing in a release.
    pub fn add(&self, key: &str, count: u64) {
        if let Some(series) = self.series(key) {
            series.add(count);
        }
    }

    /// Sets the series of `key` to an absolute value, as [`Count::set`] does.
    pub fn set(&self, key: &str, value: u64) {
        if let Some(series) = self.series(key) {
            series.set(value);
        }
    }

    /// The value of the series of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> u64 {
        self.series(key).map_or(0, Count::value)
    }

    /// Every series: what tells it apart, and its value.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(key, series)| (*key, series.value()))
    }

    /// Of all series.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.rows().map(|(_, value)| value).sum()
    }

    fn series(&self, key: &str) -> Option<&Count> {
        let found = self.0.iter().find(|(known, _)| *known == key);
        debug_assert!(found.is_some(), "no series `{key}` beside {:?}", self.0.first());
        found.map(|(_, series)| series)
    }
}

impl FromIterator<(&'static str, Count)> for Counters {
    fn from_iter<I: IntoIterator<Item = (&'static str, Count)>>(series: I) -> Self {
        Self(series.into_iter().collect())
    }
}

/// A family that gets its series, until it is registered.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    series: Vec<(Vec<String>, Count)>,
}

impl Family {
    /// One that counts up; each series has a value for each of `labels`.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: MetricType::COUNTER, labels, series: Vec::new() }
    }

    /// One that tells how many or how much there is now.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: MetricType::GAUGE, labels, series: Vec::new() }
    }

    /// A series with these values of the labels, in their order.
    pub fn count(&mut self, values: &[&str]) -> Count {
        let series = Count::default();
        self.series.push((values.iter().map(|&value| value.to_owned()).collect(), series.clone()));
        series
    }

    /// Series that `first` is common to, told apart by the value of the last label.
    pub fn counts(&mut self, first: &[&str], last: impl IntoIterator<Item = &'static str>) -> Counters {
        let series = |key: &'static str| (key, self.count(&[first, &[key]].concat()));
        last.into_iter().map(series).collect()
    }

    /// Has it served.
    ///
    /// # Errors
    /// When Prometheus refuses a name, another family has it, a series lacks the value of a label, or two have the same.
    pub fn register(self, registry: &Registry) -> prometheus::Result<()> {
        let Self { name, help, kind, labels, series } = self;
        for (place, (values, _)) in series.iter().enumerate() {
            let again = series.iter().take(place).any(|(before, _)| before == values);
            if again || values.len() != labels.len() {
                return Err(Error::Msg(format!("{name}: {values:?} of {labels:?}")));
            }
        }
        let names = labels.iter().map(|&label| label.to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, Default::default())?;
        let pairs = |values: Vec<String>| labels.iter().zip(values).map(|(name, value)| pair(name, value)).collect();
        let series = series.into_iter().map(|(values, count)| (pairs(values), count)).collect();
        registry.register(Box::new(Registered { desc, kind, series }))
    }
}

fn pair(name: &str, value: String) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

/// What Prometheus asks.
#[derive(Debug)]
struct Registered {
    desc: Desc,
    kind: MetricType,
    series: Vec<(Vec<LabelPair>, Count)>,
}

impl Collector for Registered {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metric = |(labels, series): &(Vec<LabelPair>, Count)| {
            // Prometheus counts in floating point: exact up to 2^53.
            let value = series.value() as f64;
            let mut metric = Metric::from_label(labels.clone());
            if self.kind == MetricType::COUNTER {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        };
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(self.kind);
        family.set_metric(self.series.iter().map(metric).collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder as _, TextEncoder};

    use super::*;

    fn text(registry: &Registry) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn series_are_added_to_and_set() {
        let registry = Registry::new();
        let mut family = Family::counter("detector_test_things_total", "Things.", &["kind", "way"]);
        let things = family.counts(&["big"], ["a", "b"]);
        let lone = family.count(&["small", "a"]);
        family.register(&registry).unwrap();
        let clone = things.clone();
        clone.add("a", 2);
        clone.add("a", 3);
        clone.set("b", 7);
        lone.add(1);
        assert_eq!(things.rows().collect::<Vec<_>>(), [("a", 5), ("b", 7)]);
        assert_eq!((things.value("a"), things.sum(), lone.value()), (5, 12, 1));
        let text = text(&registry);
        assert!(text.contains("# TYPE detector_test_things_total counter"), "{text}");
        for line in ["{kind=\"big\",way=\"a\"} 5", "{kind=\"big\",way=\"b\"} 7", "{kind=\"small\",way=\"a\"} 1"] {
            assert!(text.contains(&format!("detector_test_things_total{line}\n")), "{text}");
        }
    }

    #[test]
    fn a_gauge_without_labels() {
        let registry = Registry::new();
        let mut family = Family::gauge("detector_test_length", "Length.", &[]);
        let length = family.count(&[]);
        family.register(&registry).unwrap();
        length.set(9);
        length.set(8);
        let text = text(&registry);
        assert!(text.contains("# TYPE detector_test_length gauge\ndetector_test_length 8\n"), "{text}");
    }

    #[test]
    fn two_series_of_the_same_labels_are_refused() {
        let mut family = Family::counter("detector_test_things_total", "Things.", &["kind"]);
        family.counts(&[], ["a", "b"]);
        family.count(&["b"]);
        assert!(family.register(&Registry::new()).is_err());
        let mut family = Family::counter("detector_test_things_total", "Things.", &["kind"]);
        family.count(&["a", "b"]);
        assert!(family.register(&Registry::new()).is_err());
    }
}
