//! What the programs in the kernel count, and what userspace makes of their events.

use detector_common::counter::Counter;
use prometheus::Registry;

use super::counters::{Count, Counters, Family};

/// What the program did with the packets a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Passed to the stack.
    Pass,
    /// Dropped.
    Drop,
}

impl Fate {
    const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
        }
    }
}

/// Whether `counter` counts packets of one fate, and which.
#[must_use]
pub const fn fate(counter: Counter) -> Option<Fate> {
    match place(counter) {
        Place::Packets(fate) => Some(fate),
        Place::Seen | Place::Responses(..) | Place::Events(..) | Place::Keys(_) => None,
    }
}

/// In which family a counter is served, and its labels there beside its own.
#[derive(Clone, Copy)]
enum Place {
    Packets(Fate),
    Seen,
    Responses(&'static str, &'static str),
    Events(&'static str, &'static str),
    Keys(&'static str),
}

const fn place(counter: Counter) -> Place {
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
        | Counter::PassNeverBlock => Place::Packets(Fate::Pass),
        Counter::DropAddress
        | Counter::DropPrefix
        | Counter::DropConnection
        | Counter::DropFingerprint
        | Counter::DropPair
        | Counter::DropInitial
        | Counter::DropRateLimit => Place::Packets(Fate::Drop),
        Counter::Packets
        | Counter::EgressPackets
        | Counter::Syns
        | Counter::SynsTaken
        | Counter::SynAcks
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
        | Counter::ConnectionsReplaced => Place::Seen,
        Counter::ResetsMade => Place::Responses("reset", "made"),
        Counter::ResetsLimited => Place::Responses("reset", "limited"),
        Counter::ResetsFailed => Place::Responses("reset", "failed"),
        Counter::Steered => Place::Responses("steer", "steered"),
        Counter::SteerSpared => Place::Responses("steer", "spared"),
        Counter::SteerUnhealthy => Place::Responses("steer", "unhealthy"),
        Counter::SteerFailed => Place::Responses("steer", "failed"),
        Counter::CapturedConfirmed => Place::Events("confirmed", "captured"),
        Counter::SubmittedConfirmed => Place::Events("confirmed", "submitted"),
        Counter::LostConfirmed => Place::Events("confirmed", "lost"),
        Counter::CapturedUnconfirmed => Place::Events("unconfirmed", "captured"),
        Counter::SubmittedUnconfirmed => Place::Events("unconfirmed", "submitted"),
        Counter::LostUnconfirmed => Place::Events("unconfirmed", "lost"),
        Counter::KeysComputed => Place::Keys("computed"),
        Counter::KeysDisordered => Place::Keys("disordered"),
        Counter::KeysEvicted => Place::Keys("evicted"),
        Counter::KeysBeyond => Place::Keys("beyond"),
        Counter::KeysMalformed => Place::Keys("malformed"),
    }
}

/// From the frame to the event, and the keys that both sides compute.
#[derive(Debug)]
pub struct KernelMetrics {
    counters: Vec<(Counter, Count)>,
    /// Events that the reader took out of the rings: of confirmed clients, of others.
    pub received: [Count; 2],
    /// Of those, what no program of ours writes.
    pub malformed: [Count; 2],
    /// Complete hellos over TCP by whether the kernel had their keys too.
    pub keys: Counters,
    /// Interfaces that have the program.
    pub attached: Count,
    /// Those that should have it and don't.
    pub detached: Count,
}

impl KernelMetrics {
    /// With every series at zero. `keys`: what userspace finds of the kernel's keys.
    pub(super) fn new(registry: &Registry, keys: Vec<&'static str>) -> prometheus::Result<Self> {
        let mut packets = Family::counter(
            "detector_kernel_packets_total",
            "Packets that came in, by what the XDP program did with them and why.",
            &["verdict", "reason"],
        );
        let mut seen = Family::counter(
            "detector_kernel_seen_total",
            "What the programs in the kernel saw: packets, handshakes, the beginnings of connections and hellos.",
            &["kind"],
        );
        let mut responses = Family::counter(
            "detector_kernel_responses_total",
            "Dropped segments that should free the server's socket, and connections to be challenged, by what became of them.",
            &["response", "outcome"],
        );
        let mut events = Family::counter(
            "detector_capture_events_total",
            "Packets for userspace, by whether their client's address is proven: captured = submitted + lost.",
            &["class", "outcome"],
        );
        let mut hello_keys = Family::counter(
            "detector_hello_keys_total",
            "Hellos over TCP by what the kernel made of their keys, and what userspace found of those; mismatch stays 0.",
            &["side", "outcome"],
        );
        let mut interfaces =
            Family::gauge("detector_kernel_interfaces", "Interfaces by whether the program is on them.", &["state"]);
        let mut series = |counter: Counter| match place(counter) {
            Place::Packets(fate) => packets.count(&[fate.label(), counter.label()]),
            Place::Seen => seen.count(&[counter.label()]),
            Place::Responses(response, outcome) => responses.count(&[response, outcome]),
            Place::Events(class, outcome) => events.count(&[class, outcome]),
            Place::Keys(outcome) => hello_keys.count(&["kernel", outcome]),
        };
        let counters = Counter::ALL.iter().map(|&counter| (counter, series(counter))).collect();
        let metrics = Self {
            counters,
            received: ["confirmed", "unconfirmed"].map(|class| events.count(&[class, "received"])),
            malformed: ["confirmed", "unconfirmed"].map(|class| events.count(&[class, "malformed"])),
            keys: hello_keys.counts(&["userspace"], keys),
            attached: interfaces.count(&["attached"]),
            detached: interfaces.count(&["detached"]),
        };
        for family in [packets, seen, responses, events, hello_keys, interfaces] {
            family.register(registry)?;
        }
        Ok(metrics)
    }

    /// Takes over what the kernel has counted: for each counter its sum over all CPUs.
    pub fn set(&self, value: impl Fn(Counter) -> u64) {
        for (counter, series) in &self.counters {
            series.set(value(*counter));
        }
    }
}
