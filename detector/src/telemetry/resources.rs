//! What the daemon keeps, waits for, reads and asks: tables, queues, files, sockets, and the answers of others.

use prometheus::Registry;

use super::counters::{Count, Counters, Family};

/// The closed label sets that other rooms own.
#[derive(Clone, Debug, Default)]
pub struct ResourceLabels {
    /// Of why an address is never blocked.
    pub never_block: Vec<&'static str>,
    /// Of how a reload of the configuration ends.
    pub reloads: Vec<&'static str>,
    /// Of what becomes of a list or database that is read.
    pub lists: Vec<&'static str>,
    /// Of what a look-up of a socket finds.
    pub sockets: Vec<&'static str>,
    /// Of what becomes of a claim to be a crawler.
    pub crawlers: Vec<&'static str>,
    /// Of what becomes of a connection of those who ask.
    pub askers: Vec<&'static str>,
    /// Of how a connection of a monitor or an operator ends.
    pub ends: Vec<&'static str>,
    /// Of why a stream of reports is closed.
    pub streams: Vec<&'static str>,
}

/// How many entries each table has. A table that has a key in [limits] is called as that.
#[derive(Debug)]
pub struct Entries {
    /// Complete hellos that wait for the proof of their client's address, or for an answer.
    pub pending_hellos: Count,
    /// JA4 values of which signals are kept.
    pub signal_fingerprints: Count,
    /// Reports that wait for their hello.
    pub waiting_reports: Count,
    /// Clients of which the last hour is remembered.
    pub sessions: Count,
    /// Client ends that are remembered with their hellos.
    pub known_connections: Count,
    /// Clients about whom something is decided that they would notice.
    pub held_decisions: Count,
    /// Operators' orders that are kept over restarts.
    pub orders: Count,
    /// Prefixes of all lists.
    pub list_prefixes: Count,
    /// Addresses that may be proxies that nobody configured.
    pub suspected_proxies: Count,
    /// Addresses and prefixes that are never blocked, by why.
    pub never_block: Counters,
}

/// How many entries of each table were given up for others.
#[derive(Debug)]
pub struct Evicted {
    /// JA4 values whose signals were kept.
    pub signal_fingerprints: Count,
    /// Clients whose hour was not over.
    pub sessions: Count,
    /// Connections that had not ended.
    pub known_connections: Count,
    /// Verdicts on connections.
    pub connections: Count,
    /// Automatic verdicts.
    pub automatic: Count,
}

/// The rest of what the daemon has to do with.
#[derive(Debug)]
pub struct ResourceMetrics {
    /// Tables.
    pub entries: Entries,
    /// What they had no room for.
    pub evicted: Evicted,
    /// Hellos, and ends of connections, for requests to be put together with, that went into their queue.
    pub known_queued: Count,
    /// Those that did not.
    pub known_dropped: Count,
    /// Lines of hellos for standard output.
    pub lines_queued: Count,
    /// Those that were written.
    pub lines_written: Count,
    /// Those that were not: the queue was full, or nobody read any more.
    pub lines_dropped: Count,
    /// Log lines left out.
    pub(super) log_suppressed: Count,
    /// Reloads of the configuration: `applied`, `unchanged` or `refused`.
    pub reloads: Counters,
    /// Files of lists and databases by whether they were taken.
    pub lists: Counters,
    /// How many seconds ago the list was fetched for which that is longest.
    pub list_age: Count,
    /// Snapshots of the signals of JA4 values that reached the disk.
    pub snapshots_written: Count,
    /// Those that did not.
    pub snapshots_failed: Count,
    /// Look-ups of this host's sockets, by what was found.
    pub sockets: Counters,
    /// Claims to be a crawler that were looked up, by the answer.
    pub crawlers: Counters,
    /// Claims that were not: too many waited.
    pub crawlers_dropped: Count,
    /// Checks of challenge listeners: `passed`, `failed` or `late`.
    pub challenges: Counters,
    /// Connections of web servers that ask, by what became of them.
    pub askers: Counters,
    /// Connections to the metrics page by how they ended.
    pub page: Counters,
    /// Connections to the control and the status socket likewise.
    pub control: Counters,
    /// Streams of reports closed before their end, by why.
    pub streams: Counters,
}

impl ResourceMetrics {
    /// With every series at zero.
    pub(super) fn new(registry: &Registry, labels: ResourceLabels) -> prometheus::Result<Self> {
        let ResourceLabels { never_block, reloads, lists, sockets, crawlers, askers, ends, streams } = labels;
        let mut queues = Family::counter(
            "detector_queue_items_total",
            "Items of the daemon's queues, by whether they came through.",
            &["queue", "outcome"],
        );
        let mut files = Family::counter(
            "detector_files_total",
            "Files read or written, by whether that went well.",
            &["file", "outcome"],
        );
        let mut checks = Family::counter(
            "detector_checks_total",
            "What the daemon asked others: the kernel for sockets, DNS for crawlers, challenge listeners; by the answer.",
            &["check", "outcome"],
        );
        let mut connections = Family::counter(
            "detector_connections_total",
            "Connections to the daemon's own sockets, by what became of them.",
            &["socket", "outcome"],
        );
        let mut list_age = Family::gauge(
            "detector_reputation_list_age_seconds",
            "How long ago the list was fetched for which that is longest.",
            &[],
        );
        let metrics = Self {
            entries: entries(registry, never_block)?,
            evicted: evicted(registry)?,
            known_queued: queues.count(&["known", "queued"]),
            known_dropped: queues.count(&["known", "dropped"]),
            lines_queued: queues.count(&["hello_lines", "queued"]),
            lines_written: queues.count(&["hello_lines", "written"]),
            lines_dropped: queues.count(&["hello_lines", "dropped"]),
            log_suppressed: queues.count(&["log", "suppressed"]),
            reloads: files.counts(&["config"], reloads),
            lists: files.counts(&["reputation"], lists),
            list_age: list_age.count(&[]),
            snapshots_written: files.count(&["signals", "written"]),
            snapshots_failed: files.count(&["signals", "failed"]),
            sockets: checks.counts(&["socket"], sockets),
            crawlers: checks.counts(&["crawler"], crawlers),
            crawlers_dropped: checks.count(&["crawler", "dropped"]),
            challenges: checks.counts(&["challenge_listener"], ["passed", "failed", "late"]),
            askers: connections.counts(&["decision"], askers),
            page: connections.counts(&["metrics"], ends.iter().copied()),
            control: connections.counts(&["control"], ends),
            streams: connections.counts(&["signals"], streams),
        };
        for family in [queues, files, list_age, checks, connections] {
            family.register(registry)?;
        }
        Ok(metrics)
    }
}

fn entries(registry: &Registry, never_block: Vec<&'static str>) -> prometheus::Result<Entries> {
    let mut tables = Family::gauge("detector_table_entries", "Entries of the daemon's tables, now.", &["table"]);
    let entries = Entries {
        pending_hellos: tables.count(&["pending_hellos"]),
        signal_fingerprints: tables.count(&["signal_fingerprints"]),
        waiting_reports: tables.count(&["waiting_reports"]),
        sessions: tables.count(&["sessions"]),
        known_connections: tables.count(&["known_connections"]),
        held_decisions: tables.count(&["held_decisions"]),
        orders: tables.count(&["orders"]),
        list_prefixes: tables.count(&["list_prefixes"]),
        suspected_proxies: tables.count(&["suspected_proxies"]),
        never_block: never_block.into_iter().map(|why| (why, tables.count(&[&format!("never_block_{why}")]))).collect(),
    };
    tables.register(registry)?;
    Ok(entries)
}

fn evicted(registry: &Registry) -> prometheus::Result<Evicted> {
    let mut tables = Family::counter(
        "detector_table_evicted_total",
        "Entries of the daemon's tables that were given up for others.",
        &["table"],
    );
    let evicted = Evicted {
        signal_fingerprints: tables.count(&["signal_fingerprints"]),
        sessions: tables.count(&["sessions"]),
        known_connections: tables.count(&["known_connections"]),
        connections: tables.count(&["connections"]),
        automatic: tables.count(&["automatic"]),
    };
    tables.register(registry)?;
    Ok(evicted)
}
