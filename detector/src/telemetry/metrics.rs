//! The metrics of the daemon, in a registry of their own. `docs/metrics.md` documents each family, and a test compares
//! the two. Bound: the label sets are closed when [`Metrics::new`] returns, some 270 series of at most 40 families.

use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, Gauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::enforce::EnforceMetrics;
use super::hellos::{HelloLabels, HelloMetrics};
use super::kernel::KernelMetrics;
use super::logs;
use super::requests::{RequestLabels, RequestMetrics};
use super::resources::{ResourceLabels, ResourceMetrics};
use crate::config::Mode;

/// What the collector of this process tells beside, and nobody asks for.
const LEFT_OUT: [&str; 2] = ["process_threads", "process_virtual_memory_bytes"];

/// The closed label sets that other rooms own.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// Of what userspace finds of the kernel's keys.
    pub keys: Vec<&'static str>,
    /// Of hellos.
    pub hellos: HelloLabels,
    /// Of requests.
    pub requests: RequestLabels,
    /// Of tables, queues, files, sockets and others' answers.
    pub resources: ResourceLabels,
}

/// Every metric of the daemon. The fields are what the rooms count into.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    info: IntGaugeVec,
    longest_pause: Gauge,
    /// The programs, their events, their keys.
    pub kernel: KernelMetrics,
    /// Hellos.
    pub hellos: HelloMetrics,
    /// Requests.
    pub requests: RequestMetrics,
    /// Verdicts and orders.
    pub enforce: EnforceMetrics,
    /// Tables, queues, files, sockets, and others' answers.
    pub resources: ResourceMetrics,
}

impl Metrics {
    /// With every series at zero.
    ///
    /// # Errors
    /// When two families or series collide, or a name is refused.
    pub fn new(mode: Mode, labels: Labels) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let info = IntGaugeVec::new(Opts::new("detector_daemon_info", "Always 1."), &["version", "mode"])?;
        registry.register(Box::new(info.clone()))?;
        let longest_pause = Gauge::new(
            "detector_daemon_longest_pause_seconds",
            "The longest time that packets waited for other work of the packet path.",
        )?;
        registry.register(Box::new(longest_pause.clone()))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let metrics = Self {
            info,
            longest_pause,
            kernel: KernelMetrics::new(&registry, labels.keys)?,
            hellos: HelloMetrics::new(&registry, labels.hellos)?,
            requests: RequestMetrics::new(&registry, labels.requests)?,
            enforce: EnforceMetrics::new(&registry)?,
            resources: ResourceMetrics::new(&registry, labels.resources)?,
            registry,
        };
        metrics.set_mode(mode);
        Ok(metrics)
    }

    /// Says whether rules drop.
    pub fn set_mode(&self, mode: Mode) {
        self.info.reset();
        self.info.with_label_values(&[env!("CARGO_PKG_VERSION"), mode.label()]).set(1);
    }

    /// The longest that packets waited for other work of the packet path.
    pub fn set_longest_pause(&self, pause: Duration) {
        self.longest_pause.set(pause.as_secs_f64());
    }

    /// All families in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// When a family can't be written.
    pub fn encode(&self) -> prometheus::Result<String> {
        self.resources.log_suppressed.set(logs::suppressed());
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }

    fn gather(&self) -> Vec<MetricFamily> {
        let mut families = self.registry.gather();
        families.retain(|family| !LEFT_OUT.contains(&family.name()));
        families
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use detector_common::counter::Counter;

    use super::*;

    const DOCS: &str = include_str!("../../../docs/metrics.md");
    /// What a person can keep in mind.
    const FAMILIES: usize = 40;

    fn metrics() -> Metrics {
        let labels = Labels {
            keys: vec!["equal"],
            hellos: HelloLabels {
                causes: vec!["timeout", "malformed"],
                ignored: vec!["not_tls", "duplicate"],
                proofs: vec!["established"],
                void: vec!["desync"],
            },
            requests: RequestLabels {
                rejected: vec!["long"],
                refused: vec!["peer"],
                joined: vec!["joined"],
                rulings: vec!["allow"],
                knowledge: vec!["known"],
                confidences: vec!["suspicious"],
                actions: vec!["observe"],
                states: vec!["open"],
            },
            resources: ResourceLabels {
                never_block: vec!["own"],
                reloads: vec!["applied"],
                lists: vec!["read"],
                sockets: vec!["absent"],
                crawlers: vec!["denied"],
                askers: vec!["taken"],
                ends: vec!["done"],
                streams: vec!["slow"],
            },
        };
        Metrics::new(Mode::Observe, labels).unwrap()
    }

    #[test]
    fn every_family_is_documented_and_none_else() {
        let label = |name: &str| format!("`{name}`");
        let families = metrics().gather();
        let families: BTreeSet<String> = families
            .iter()
            .map(|family| {
                let kind = format!("{:?}", family.get_field_type()).to_lowercase();
                let labels: Vec<_> = family.get_metric()[0].get_label().iter().map(|pair| label(pair.name())).collect();
                let mut labels: Vec<_> = labels.into_iter().collect();
                labels.sort();
                format!("{} {kind} {}", label(family.name()), labels.join(", "))
            })
            .collect();
        let documented: BTreeSet<String> = DOCS
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                let mut labels: Vec<&str> = cells[3].split(", ").collect();
                labels.sort_unstable();
                format!("{} {} {}", cells[1], cells[2], labels.join(", "))
            })
            .collect();
        assert_eq!(families, documented);
    }

    #[test]
    fn there_are_few_families() {
        let text = metrics().encode().unwrap();
        let families: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        assert!(families.len() <= FAMILIES, "{}: {families:#?}", families.len());
        assert!(families.iter().any(|family| family.starts_with("# TYPE process_")), "{families:#?}");
    }

    #[test]
    fn kernel_counters_have_one_place_each() {
        let metrics = metrics();
        metrics.kernel.set(|counter| 1000 + counter as u64);
        let text = metrics.encode().unwrap();
        for counter in Counter::ALL {
            let value = format!(" {}", 1000 + *counter as u64);
            assert_eq!(text.lines().filter(|line| line.ends_with(&value)).count(), 1, "{}", counter.label());
        }
        let line = format!(
            "detector_kernel_packets_total{{verdict=\"drop\",reason=\"connection\"}} {}",
            1000 + Counter::DropConnection as u64
        );
        assert!(text.contains(&line), "{text}");
    }
}
