//! The metrics of the daemon, in a registry of their own. `docs/metrics.md` documents each family, and a test compares
//! the two. Bound: the label sets are closed when [`Metrics::new`] returns, some 100 series.

use std::time::Duration;

use detector_common::counter::Counter;
use prometheus::{Encoder, Gauge, Histogram, HistogramOpts, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::counters::Counters;
use super::logs;
use super::score::{ScoreLabels, ScoreMetrics};
use crate::config::Mode;

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

/// What the program did with the packets a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Passed to the stack.
    Pass,
    /// Dropped.
    Drop,
}

/// Whether `counter` counts packets of one fate, and which.
#[must_use]
pub const fn fate(counter: Counter) -> Option<Fate> {
    match counter {
        Counter::PassProtected
        | Counter::PassNotIp
        | Counter::PassFragment
        | Counter::PassOtherProtocol
        | Counter::PassOtherPort
        | Counter::PassOtherAddress
        | Counter::PassMalformed
        | Counter::PassAllowed
        | Counter::PassObserved
        | Counter::PassChallenged
        | Counter::PassLimited
        | Counter::PassNeverBlock => Some(Fate::Pass),
        Counter::DropAddress
        | Counter::DropPrefix
        | Counter::DropConnection
        | Counter::DropFingerprint
        | Counter::DropPair
        | Counter::DropInitial
        | Counter::DropRateLimit => Some(Fate::Drop),
        Counter::Packets
        | Counter::CapturedConfirmed
        | Counter::SubmittedConfirmed
        | Counter::LostConfirmed
        | Counter::CapturedUnconfirmed
        | Counter::SubmittedUnconfirmed
        | Counter::LostUnconfirmed
        | Counter::Syns
        | Counter::SynsTaken
        | Counter::FirstData
        | Counter::FirstHello
        | Counter::FirstPartial
        | Counter::FirstNotTls
        | Counter::FirstUnparsed
        | Counter::FragmentedHellos
        | Counter::SegmentsNoAck
        | Counter::HellosStarted
        | Counter::FollowsExpired
        | Counter::FollowsRefused
        | Counter::KeysComputed
        | Counter::KeysDisordered
        | Counter::KeysEvicted
        | Counter::KeysBeyond
        | Counter::KeysMalformed
        | Counter::ConnectionsReplaced
        | Counter::ResetsMade
        | Counter::ResetsLimited
        | Counter::ResetsFailed
        | Counter::EgressPackets
        | Counter::SynAcks
        | Counter::Steered
        | Counter::SteerSpared
        | Counter::SteerUnhealthy
        | Counter::SteerFailed => None,
    }
}

/// Every metric of the daemon. The fields are the families that the rooms count into.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    info: IntGaugeVec,
    /// Set by [`Metrics::set_kernel`].
    kernel_packets: Counters,
    kernel_frames: Counters,
    kernel_egress: Counters,
    kernel_confirmed: Counters,
    kernel_unconfirmed: Counters,
    kernel_handshakes: Counters,
    kernel_first_segments: Counters,
    kernel_first_data: Counters,
    kernel_uncaptured: Counters,
    kernel_hellos: Counters,
    kernel_follows: Counters,
    kernel_keys: Counters,
    kernel_connections: Counters,
    kernel_resets: Counters,
    kernel_steering: Counters,
    log_suppressed: Counters,
    /// Reloads of the configuration: `applied`, `unchanged` or `refused`.
    pub reloads: Counters,
    /// Events that the reader took out of the rings: `confirmed` or `unconfirmed`.
    pub events_received: Counters,
    /// Hellos by outcome: `complete`, or the label of the cause for which one was lost.
    pub hellos: Counters,
    /// Complete hellos over TCP by whether the kernel had their keys too.
    pub keys: Counters,
    /// Segments that belong to no hello, by reason.
    pub ignored: Counters,
    /// Complete hellos by what is known of their client's address.
    pub standings: Counters,
    /// Confirmed hellos by the proof.
    pub proofs: Counters,
    /// Complete hellos whose fingerprint is void, by why.
    pub void: Counters,
    /// Look-ups of this host's sockets, by what was found.
    pub lookups: Counters,
    /// Servers' answers to hellos.
    pub answers: Counters,
    /// Lines of hellos: `queued`, `written` or `dropped`.
    pub event_lines: Counters,
    /// Events that no program of ours writes.
    pub events_malformed: Counters,
    /// Connection verdicts given up for newer ones, their table being full.
    pub connections_evicted: Counters,
    /// Automatic verdicts that are not in force, by why: `evicted`, `too_fast`.
    pub automatic_lost: Counters,
    /// Verdicts on connections that could not be put in force.
    pub judge_failed: Counters,
    /// What operators asked for and didn't get: `full`, `never_block`, `browsers` or `proxy_suspected`.
    pub refusals: Counters,
    /// Changes of operators' orders by whether they reached the disk: `written` or `failed`.
    pub store_writes: Counters,
    /// Lines of the store that were not as they had been written.
    pub store_damaged: Counters,
    /// Entries that took themselves back, since nobody confirmed them.
    pub reverted: Counters,
    /// Snapshots of the signals of JA4 values by whether they reached the disk: `written` or `failed`.
    pub signals_snapshots: Counters,
    signals_evicted: Counters,
    signals_values: IntGauge,
    orders: IntGauge,
    longest_pause: Gauge,
    never_block: IntGaugeVec,
    /// Decisions about requests: `allow`, `challenge` or `deny`.
    pub decisions: Counters,
    /// The same by whether the client's fingerprint was known, or why not.
    pub decision_fingerprints: Counters,
    /// Connections of web servers that ask, by what became of them.
    pub decision_connections: Counters,
    /// Connections to the metrics page by how they ended.
    pub page_connections: Counters,
    /// Connections to the control and the status socket likewise.
    pub control_connections: Counters,
    /// Hellos, and ends of connections, for requests to be put together with: `queued` or `dropped`.
    pub known_queue: Counters,
    /// Connections forgotten before they ended, for want of room.
    pub known_evicted: Counters,
    known: IntGauge,
    suspected: IntGauge,
    /// Reports by what they were found to be about.
    pub joined: Counters,
    reports_waiting: IntGauge,
    sessions: IntGauge,
    /// Sessions given up for others.
    pub sessions_evicted: Counters,
    /// Checks of challenge listeners: `passed`, `failed` or `late`.
    pub challenge_checks: Counters,
    listeners: IntGaugeVec,
    interfaces: IntGaugeVec,
    verdicts: IntGaugeVec,
    pending: IntGauge,
    latency: Histogram,
    /// Reports that web servers told.
    pub reports: Counters,
    /// Frames that are no report, by why.
    pub reports_rejected: Counters,
    /// Frames of those who may not tell, or tell too much.
    pub reports_refused: Counters,
    /// Fields of reports that were of no use: `unknown` or `wrong`.
    pub report_fields: Counters,
    /// Streams of reports closed before their end, by why.
    pub report_streams_closed: Counters,
    reports_lost: IntGauge,
    reports_queue: IntGauge,
    /// Scoring, and what is known of addresses.
    pub score: ScoreMetrics,
}

/// The closed label sets that other rooms own.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// For which a hello is lost.
    pub causes: Vec<&'static str>,
    /// Of what the kernel made of a hello's keys.
    pub keys: Vec<&'static str>,
    /// For which a packet belongs to no hello.
    pub ignored: Vec<&'static str>,
    /// Of what is known of a client's address.
    pub standings: Vec<&'static str>,
    /// Of why it is sure.
    pub proofs: Vec<&'static str>,
    /// Of why a fingerprint is void.
    pub void: Vec<&'static str>,
    /// Of what a look-up of a socket finds.
    pub lookups: Vec<&'static str>,
    /// Of why an address is never blocked.
    pub never_block: Vec<&'static str>,
    /// Of why a frame is no report.
    pub rejected: Vec<&'static str>,
    /// Of why a frame isn't read.
    pub refused: Vec<&'static str>,
    /// Of why a stream is closed.
    pub closed: Vec<&'static str>,
    /// Of what becomes of a report.
    pub outcomes: Vec<&'static str>,
    /// Of what is decided about a request.
    pub rulings: Vec<&'static str>,
    /// Of whether a fingerprint was known for that.
    pub knowledge: Vec<&'static str>,
    /// Of what becomes of a connection of those who ask.
    pub connections: Vec<&'static str>,
    /// Of how a connection of a monitor or an operator ends.
    pub ends: Vec<&'static str>,
    /// Of scoring.
    pub score: ScoreLabels,
}

impl Metrics {
    /// With every series at zero.
    ///
    /// # Errors
    /// When two families collide, or a name is refused.
    pub fn new(mode: Mode, labels: Labels) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let keep = |counters: prometheus::Result<Counters>| {
            let counters = counters?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let packets = Counter::ALL.iter().filter_map(|&counter| match fate(counter)? {
            Fate::Pass => Some(vec!["pass", counter.label()]),
            Fate::Drop => Some(vec!["drop", counter.label()]),
        });
        let kernel_packets = Counters::new(
            "detector_kernel_packets_total",
            "Frames by what the XDP program did with them and why.",
            &["verdict", "reason"],
            packets.collect(),
        );
        let hellos = Counters::by_label(
            "detector_hello_outcomes_total",
            "Hellos that userspace saw begin, by how they ended.",
            "outcome",
            std::iter::once("complete").chain(labels.causes),
        );
        let metrics = Self {
            score: ScoreMetrics::new(&registry, labels.score)?,
            kernel_packets: keep(kernel_packets)?,
            kernel_frames: keep(Counters::single("detector_kernel_frames_total", "Frames the XDP program saw."))?,
            kernel_egress: keep(Counters::single(
                "detector_kernel_egress_frames_total",
                "Frames the egress program saw.",
            ))?,
            kernel_confirmed: keep(Counters::by_label(
                "detector_kernel_confirmed_events_total",
                "Packets for userspace of clients whose address is proven: captured = submitted + lost.",
                "outcome",
                ["captured", "submitted", "lost"],
            ))?,
            kernel_unconfirmed: keep(Counters::by_label(
                "detector_kernel_unconfirmed_events_total",
                "Packets for userspace of clients whose address is not proven: captured = submitted + lost.",
                "outcome",
                ["captured", "submitted", "lost"],
            ))?,
            kernel_handshakes: keep(Counters::by_label(
                "detector_kernel_handshakes_total",
                "SYNs to protected ports, and SYN-ACKs from them.",
                "kind",
                ["syn", "syn_taken", "syn_ack"],
            ))?,
            kernel_first_segments: keep(Counters::single(
                "detector_kernel_first_segments_total",
                "First data segments of connections whose SYN was seen.",
            ))?,
            kernel_first_data: keep(Counters::by_label(
                "detector_kernel_first_data_total",
                "First data segments by what they are; the sum is detector_kernel_first_segments_total.",
                "kind",
                ["hello", "partial", "not_tls", "unparsed"],
            ))?,
            kernel_uncaptured: keep(Counters::by_label(
                "detector_kernel_uncaptured_total",
                "What looks like a hello or a part of it, and is not captured.",
                "reason",
                ["fragmented", "no_ack"],
            ))?,
            kernel_hellos: keep(Counters::single(
                "detector_kernel_hellos_total",
                "Hellos whose first segment was captured.",
            ))?,
            kernel_follows: keep(Counters::by_label(
                "detector_kernel_follows_ended_total",
                "Flows not followed to the end of their hello.",
                "reason",
                ["expired", "refused"],
            ))?,
            kernel_keys: keep(Counters::by_label(
                "detector_kernel_keys_total",
                "Hellos over TCP by whether the XDP program computed their keys, or why not.",
                "outcome",
                ["computed", "disordered", "evicted", "beyond", "malformed"],
            ))?,
            kernel_connections: keep(Counters::single(
                "detector_kernel_connections_replaced_total",
                "Connection verdicts ended by a SYN with another initial sequence number.",
            ))?,
            kernel_resets: keep(Counters::by_label(
                "detector_kernel_resets_total",
                "Dropped segments by whether they became a RST for the host's own stack, or why not.",
                "outcome",
                ["made", "limited", "failed"],
            ))?,
            kernel_steering: keep(Counters::by_label(
                "detector_kernel_steering_total",
                "New connections under a challenge by whether a challenge listener took them, or why not.",
                "outcome",
                ["steered", "spared", "unhealthy", "failed"],
            ))?,
            events_received: keep(Counters::by_label(
                "detector_capture_events_received_total",
                "Events that userspace took out of the rings.",
                "class",
                ["confirmed", "unconfirmed"],
            ))?,
            hellos: keep(hellos)?,
            keys: keep(Counters::by_label(
                "detector_hello_kernel_keys_total",
                "Complete hellos over TCP by whether the kernel has computed the same keys; mismatch stays 0.",
                "outcome",
                labels.keys,
            ))?,
            ignored: keep(Counters::by_label(
                "detector_hello_segments_ignored_total",
                "Segments that belong to no hello, by reason.",
                "reason",
                labels.ignored,
            ))?,
            standings: keep(Counters::by_label(
                "detector_hello_standings_total",
                "Complete hellos by what is known of their client's address.",
                "standing",
                labels.standings,
            ))?,
            proofs: keep(Counters::by_label(
                "detector_hello_proofs_total",
                "Confirmed hellos by what proved their client's address.",
                "proof",
                labels.proofs,
            ))?,
            void: keep(Counters::by_label(
                "detector_hello_void_total",
                "Complete hellos whose fingerprint says nothing about the client, by why.",
                "reason",
                labels.void,
            ))?,
            lookups: keep(Counters::by_label(
                "detector_kernel_socket_lookups_total",
                "Look-ups of this host's sockets for hellos without proof, by what was found.",
                "outcome",
                labels.lookups,
            ))?,
            answers: keep(Counters::single("detector_hello_answers_total", "Servers' answers to hellos."))?,
            event_lines: keep(Counters::by_label(
                "detector_event_lines_total",
                "Lines of hellos for standard output; dropped when its reader is too slow.",
                "outcome",
                ["queued", "written", "dropped"],
            ))?,
            events_malformed: keep(Counters::single(
                "detector_capture_events_malformed_total",
                "Events of the ring that could not be read.",
            ))?,
            automatic_lost: keep(Counters::by_label(
                "detector_enforce_automatic_lost_total",
                "Automatic verdicts given up for others, or not put in force since too many were new in their second.",
                "reason",
                ["evicted", "too_fast"],
            ))?,
            connections_evicted: keep(Counters::single(
                "detector_enforce_connections_evicted_total",
                "Connection verdicts given up for newer ones, their table being full.",
            ))?,
            judge_failed: keep(Counters::single(
                "detector_enforce_failures_total",
                "Verdicts on connections that could not be put in force; the connections passed.",
            ))?,
            refusals: keep(Counters::by_label(
                "detector_enforce_refusals_total",
                "What operators asked for and did not get, by why.",
                "reason",
                ["full", "never_block", "browsers", "proxy_suspected"],
            ))?,
            store_writes: keep(Counters::by_label(
                "detector_enforce_store_writes_total",
                "Changes of operators' orders by whether they reached the disk.",
                "outcome",
                ["written", "failed"],
            ))?,
            store_damaged: keep(Counters::single(
                "detector_enforce_store_damaged_lines_total",
                "Lines of the stored orders that were not as they had been written.",
            ))?,
            reverted: keep(Counters::single(
                "detector_enforce_reverted_total",
                "Entries that took themselves back, since nobody confirmed them in time.",
            ))?,
            decisions: keep(Counters::by_label(
                "detector_inline_decisions_total",
                "Questions of web servers, by the answer.",
                "decision",
                labels.rulings,
            ))?,
            decision_fingerprints: keep(Counters::by_label(
                "detector_inline_fingerprints_total",
                "Questions of web servers, by whether the client's fingerprint was known, or why not.",
                "outcome",
                labels.knowledge,
            ))?,
            decision_connections: keep(Counters::by_label(
                "detector_inline_connections_total",
                "Connections of web servers that ask, by what became of them.",
                "outcome",
                labels.connections,
            ))?,
            page_connections: keep(Counters::by_label(
                "detector_admin_page_connections_total",
                "Connections to the metrics page, by how they ended.",
                "outcome",
                labels.ends.iter().copied(),
            ))?,
            control_connections: keep(Counters::by_label(
                "detector_admin_control_connections_total",
                "Connections to the control and the status socket, by how they ended.",
                "outcome",
                labels.ends.iter().copied(),
            ))?,
            known_queue: keep(Counters::by_label(
                "detector_join_hellos_total",
                "Hellos and ends of connections on their way to where requests are put together with them.",
                "outcome",
                ["queued", "dropped"],
            ))?,
            joined: keep(Counters::by_label(
                "detector_join_reports_total",
                "Reports by whether they were found to be of a connection whose hello is known.",
                "outcome",
                labels.outcomes.iter().copied(),
            ))?,
            reports_waiting: gauge(&registry, "detector_join_waiting_reports", "Reports that wait for their hello.")?,
            sessions: gauge(&registry, "detector_session_clients", "Clients of which the last hour is remembered.")?,
            sessions_evicted: keep(Counters::single(
                "detector_session_evicted_total",
                "Clients forgotten before their hour was over, for want of room.",
            ))?,
            known_evicted: keep(Counters::single(
                "detector_join_connections_evicted_total",
                "Connections whose hello was forgotten before they ended, for want of room.",
            ))?,
            known: gauge(&registry, "detector_join_connections", "Client ends whose connections' hellos are known.")?,
            suspected: gauge(
                &registry,
                "detector_join_suspected_proxies",
                "Addresses that may be proxies which nobody configured.",
            )?,
            signals_snapshots: keep(Counters::by_label(
                "detector_signals_snapshots_total",
                "Snapshots of the signals of JA4 values by whether they reached the disk.",
                "outcome",
                ["written", "failed"],
            ))?,
            signals_evicted: keep(Counters::single(
                "detector_signals_evicted_total",
                "JA4 values whose signals were given up for another value's.",
            ))?,
            signals_values: gauge(&registry, "detector_signals_ja4_values", "JA4 values of which signals are kept.")?,
            longest_pause: seconds(
                &registry,
                "detector_daemon_longest_pause_seconds",
                "The longest time that packets waited for other work of the packet path.",
            )?,
            orders: gauge(&registry, "detector_enforce_orders", "Operators' orders that are kept over restarts.")?,
            never_block: gauges(
                &registry,
                "detector_enforce_never_block",
                "Addresses and prefixes that are never blocked.",
                &["reason"],
            )?,
            challenge_checks: keep(Counters::by_label(
                "detector_challenge_checks_total",
                "TLS handshakes with challenge listeners, to see whether they are healthy.",
                "outcome",
                ["passed", "failed", "late"],
            ))?,
            listeners: gauges(
                &registry,
                "detector_challenge_listeners",
                "Challenge listeners, by health.",
                &["health"],
            )?,
            interfaces: gauges(
                &registry,
                "detector_kernel_interfaces",
                "Interfaces by whether the program is on them.",
                &["state"],
            )?,
            reloads: keep(Counters::by_label(
                "detector_config_reloads_total",
                "Reloads of the configuration by how they ended; a refused one changes nothing.",
                "outcome",
                ["applied", "unchanged", "refused"],
            ))?,
            log_suppressed: keep(Counters::single(
                "detector_log_lines_suppressed_total",
                "Log lines left out since their place in the program logged too often.",
            ))?,
            verdicts: gauges(&registry, "detector_enforce_verdicts", "Verdicts in force, by table.", &["kind"])?,
            pending: gauge(
                &registry,
                "detector_hello_pending",
                "Complete hellos that wait for the proof of their client's address, or for the server's answer.",
            )?,
            latency: latency(&registry)?,
            reports: keep(Counters::single("detector_intake_reports_total", "Requests that web servers told of."))?,
            reports_rejected: keep(Counters::by_label(
                "detector_intake_rejected_total",
                "Frames on the signal sockets that are no report, by why.",
                "reason",
                labels.rejected,
            ))?,
            reports_refused: keep(Counters::by_label(
                "detector_intake_refused_total",
                "Frames on the signal sockets that were not read, by why.",
                "reason",
                labels.refused,
            ))?,
            report_fields: keep(Counters::by_label(
                "detector_intake_fields_total",
                "Fields of reports that were of no use: not in the schema, or of a wrong type.",
                "fault",
                ["unknown", "wrong"],
            ))?,
            report_streams_closed: keep(Counters::by_label(
                "detector_intake_streams_closed_total",
                "Streams of reports closed before their end, by why.",
                "reason",
                labels.closed,
            ))?,
            reports_lost: gauge(
                &registry,
                "detector_intake_lost_reports_estimate",
                "Reports that got lost before they were read, estimated from gaps in the requests' numbers.",
            )?,
            reports_queue: gauge(
                &registry,
                "detector_intake_queue_length",
                "Datagrams that may wait for a signal socket, as it was when the sockets were made.",
            )?,
            info: gauges(&registry, "detector_daemon_info", "Always 1.", &["version", "mode"])?,
            registry,
        };
        for kind in VerdictKind::ALL {
            metrics.set_verdicts(*kind, 0);
        }
        for reason in labels.never_block {
            metrics.set_never_block(reason, 0);
        }
        metrics.set_listeners(0, 0);
        metrics.set_interfaces(0, 0);
        metrics.set_mode(mode);
        metrics.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Says whether rules drop.
    pub fn set_mode(&self, mode: Mode) {
        self.info.reset();
        self.info.with_label_values(&[env!("CARGO_PKG_VERSION"), mode.label()]).set(1);
    }

    /// Takes over what the kernel has counted: for each counter its sum over all CPUs.
    pub fn set_kernel(&self, value: impl Fn(Counter) -> u64) {
        for &counter in Counter::ALL {
            let (family, key) = match counter {
                Counter::Packets => (&self.kernel_frames, ""),
                Counter::HellosStarted => (&self.kernel_hellos, ""),
                Counter::ConnectionsReplaced => (&self.kernel_connections, ""),
                Counter::ResetsMade => (&self.kernel_resets, "made"),
                Counter::ResetsLimited => (&self.kernel_resets, "limited"),
                Counter::ResetsFailed => (&self.kernel_resets, "failed"),
                Counter::Steered => (&self.kernel_steering, "steered"),
                Counter::SteerSpared => (&self.kernel_steering, "spared"),
                Counter::SteerUnhealthy => (&self.kernel_steering, "unhealthy"),
                Counter::SteerFailed => (&self.kernel_steering, "failed"),
                Counter::FollowsExpired => (&self.kernel_follows, "expired"),
                Counter::FollowsRefused => (&self.kernel_follows, "refused"),
                Counter::KeysComputed => (&self.kernel_keys, "computed"),
                Counter::KeysDisordered => (&self.kernel_keys, "disordered"),
                Counter::KeysEvicted => (&self.kernel_keys, "evicted"),
                Counter::KeysBeyond => (&self.kernel_keys, "beyond"),
                Counter::KeysMalformed => (&self.kernel_keys, "malformed"),
                Counter::EgressPackets => (&self.kernel_egress, ""),
                Counter::CapturedConfirmed => (&self.kernel_confirmed, "captured"),
                Counter::SubmittedConfirmed => (&self.kernel_confirmed, "submitted"),
                Counter::LostConfirmed => (&self.kernel_confirmed, "lost"),
                Counter::CapturedUnconfirmed => (&self.kernel_unconfirmed, "captured"),
                Counter::SubmittedUnconfirmed => (&self.kernel_unconfirmed, "submitted"),
                Counter::LostUnconfirmed => (&self.kernel_unconfirmed, "lost"),
                Counter::Syns => (&self.kernel_handshakes, "syn"),
                Counter::SynsTaken => (&self.kernel_handshakes, "syn_taken"),
                Counter::SynAcks => (&self.kernel_handshakes, "syn_ack"),
                Counter::FirstData => (&self.kernel_first_segments, ""),
                Counter::FirstHello => (&self.kernel_first_data, "hello"),
                Counter::FirstPartial => (&self.kernel_first_data, "partial"),
                Counter::FirstNotTls => (&self.kernel_first_data, "not_tls"),
                Counter::FirstUnparsed => (&self.kernel_first_data, "unparsed"),
                Counter::FragmentedHellos => (&self.kernel_uncaptured, "fragmented"),
                Counter::SegmentsNoAck => (&self.kernel_uncaptured, "no_ack"),
                packets => (&self.kernel_packets, packets.label()),
            };
            family.set(key, value(counter));
        }
    }

    /// How many complete hellos wait for the proof of their client's address, or for an answer.
    pub fn set_pending(&self, count: usize) {
        self.pending.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The longest that packets waited for other work of the packet path.
    pub fn set_longest_pause(&self, pause: Duration) {
        self.longest_pause.set(pause.as_secs_f64());
    }

    /// How many reports got lost, as far as can be told.
    pub fn set_reports_lost(&self, count: u64) {
        self.reports_lost.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The same.
    #[must_use]
    pub fn reports_lost(&self) -> u64 {
        u64::try_from(self.reports_lost.get()).unwrap_or(0)
    }

    /// How many reports may wait for a signal socket.
    pub fn set_reports_queue(&self, length: u64) {
        self.reports_queue.set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// How many operators' orders are kept.
    pub fn set_orders(&self, count: usize) {
        self.orders.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Of how many JA4 values signals are kept, and how many were given up so far.
    pub fn set_signals(&self, values: usize, evicted: u64) {
        self.signals_values.set(i64::try_from(values).unwrap_or(i64::MAX));
        self.signals_evicted.set("", evicted);
    }

    /// How many addresses and prefixes are never blocked for `reason`.
    pub fn set_never_block(&self, reason: &'static str, count: usize) {
        self.never_block.with_label_values(&[reason]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many reports wait for their hello, and of how many clients the last hour is remembered.
    pub fn set_sessions(&self, waiting: usize, clients: usize) {
        self.reports_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.sessions.set(i64::try_from(clients).unwrap_or(i64::MAX));
    }

    /// How many addresses may be proxies that nobody configured.
    pub fn set_suspected(&self, count: usize) {
        self.suspected.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many client ends are remembered with their hellos.
    pub fn set_known(&self, count: usize) {
        self.known.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many challenge listeners there are.
    pub fn set_listeners(&self, healthy: usize, unhealthy: usize) {
        for (label, count) in [("healthy", healthy), ("unhealthy", unhealthy)] {
            self.listeners.with_label_values(&[label]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// How many interfaces have the program, and how many should.
    pub fn set_interfaces(&self, attached: usize, detached: usize) {
        for (label, count) in [("attached", attached), ("detached", detached)] {
            self.interfaces.with_label_values(&[label]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// How many verdicts of `kind` are in force.
    pub fn set_verdicts(&self, kind: VerdictKind, count: u64) {
        self.verdicts.with_label_values(&[kind.label()]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many verdicts are in force, by kind.
    #[must_use]
    pub fn verdict_counts(&self) -> std::collections::BTreeMap<String, u64> {
        let count = |kind: &VerdictKind| self.verdicts.with_label_values(&[kind.label()]).get();
        VerdictKind::ALL.iter().map(|kind| (kind.label().to_owned(), u64::try_from(count(kind)).unwrap_or(0))).collect()
    }

    /// From the frame in the NIC to the verdict in force.
    pub fn observe_latency(&self, latency: Duration) {
        self.latency.observe(latency.as_secs_f64());
    }

    /// The latency that `share` (0 to 1) of the verdicts stayed below, interpolated within its bucket as Prometheus
    /// does it; `None` before the first. Verdicts over the last bound count as that.
    #[must_use]
    pub fn latency_quantile(&self, share: f64) -> Option<Duration> {
        let families = prometheus::core::Collector::collect(&self.latency);
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
        let families = prometheus::core::Collector::collect(&self.latency);
        let metric = families.first().and_then(|family| family.get_metric().first());
        let buckets = metric.into_iter().flat_map(|metric| metric.get_histogram().get_bucket());
        let micros = |seconds: f64| (seconds * 1e6).round() as u64;
        buckets.map(|bucket| (micros(bucket.upper_bound()), bucket.cumulative_count())).collect()
    }

    /// All families in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// When a family can't be written.
    pub fn encode(&self) -> prometheus::Result<String> {
        self.log_suppressed.set("", logs::suppressed());
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn seconds(registry: &Registry, name: &str, help: &str) -> prometheus::Result<Gauge> {
    let gauge = Gauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
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
    use std::collections::BTreeSet;

    use super::*;

    const DOCS: &str = include_str!("../../../docs/metrics.md");

    fn metrics() -> Metrics {
        let labels = Labels {
            causes: vec!["timeout", "malformed"],
            ignored: vec!["not_tls", "duplicate"],
            standings: vec!["confirmed"],
            proofs: vec!["established"],
            void: vec!["desync"],
            lookups: vec!["absent"],
            never_block: vec!["own"],
            keys: vec!["equal"],
            rejected: vec!["long"],
            refused: vec!["peer"],
            closed: vec!["slow"],
            outcomes: vec!["joined"],
            rulings: vec!["allow"],
            knowledge: vec!["known"],
            connections: vec!["taken"],
            ends: vec!["done"],
            score: ScoreLabels {
                confidences: vec!["suspicious"],
                actions: vec!["observe"],
                lists: vec!["read"],
                crawlers: vec!["denied"],
                states: vec!["open"],
            },
        };
        Metrics::new(Mode::Observe, labels).unwrap()
    }

    #[test]
    fn every_family_is_documented_and_none_else() {
        let label = |name: &str| format!("`{name}`");
        let families = metrics().registry.gather();
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
    fn series_are_bounded() {
        let text = metrics().encode().unwrap();
        assert!(text.lines().filter(|line| !line.starts_with('#')).count() <= 500, "{text}");
    }

    #[test]
    fn kernel_counters_have_one_place_each() {
        let metrics = metrics();
        metrics.set_kernel(|counter| 1000 + counter as u64);
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

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let metrics = metrics();
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
