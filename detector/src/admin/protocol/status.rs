//! What `detector status` shows, as it goes over the control socket. Bound: the daemon fills in a fixed number of
//! labels and the few JA4 values seen most.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::Action;
use crate::clock::Timestamp;
use crate::config::{Mode, XdpMode};

/// The most JA4 values of a status.
pub const TOP_MAX: usize = 100;

/// The most characters of a server name in it.
pub const NAME_MAX: usize = 96;

/// So many seconds is lately.
pub const LATELY_S: u64 = 10;

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// Of the daemon.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Whether rules drop.
    #[serde(flatten)]
    pub mode: InForce,
    /// Where it looks.
    pub interfaces: Vec<Interface>,
    /// A second program sees what goes out of all of them.
    pub egress: bool,
    /// Protected ports.
    pub ports: Vec<u16>,
    /// Label of each `detector_common::counter::Counter` → its sum over all CPUs.
    pub kernel: BTreeMap<String, u64>,
    /// Hellos by outcome: `complete`, or the cause for which one was lost.
    pub hellos: BTreeMap<String, u64>,
    /// Packets that belong to no hello, by reason.
    pub ignored: BTreeMap<String, u64>,
    /// Complete hellos by what is known of their client's address.
    pub standings: BTreeMap<String, u64>,
    /// Complete hellos whose fingerprint is void, by why.
    pub void: BTreeMap<String, u64>,
    /// The way from the kernel.
    pub ring: Ring,
    /// Challenge listeners.
    #[serde(default)]
    pub challengers: Vec<Challenger>,
    /// What web servers tell.
    #[serde(default)]
    pub signals: Signals,
    /// Label of each `telemetry::enforce::VerdictKind` → verdicts in force.
    pub entries: BTreeMap<String, u64>,
    /// The JA4 values seen most, most first.
    pub fingerprints: Vec<Fingerprint>,
    /// Microseconds from the NIC to the verdict in force: half of them were faster.
    pub enforce_p50_us: Option<u64>,
    /// 99 % were faster.
    pub enforce_p99_us: Option<u64>,
    /// All of them: how many took at most so many microseconds.
    #[serde(default)]
    pub enforce_us: Vec<(u64, u64)>,
}

/// The mode: whether what nobody ordered by hand is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// Now.
    pub mode: Mode,
    /// An operator said so; else the configuration.
    pub mode_by_operator: bool,
    /// Seconds until it is another one; none: it stays.
    pub mode_for_s: Option<u64>,
    /// Which one that is.
    pub mode_afterwards: Mode,
}

impl InForce {
    /// As the kernel sees it.
    #[must_use]
    pub fn new(mode: &detector_common::mode::Mode, now: Timestamp) -> Self {
        let word = |enforce| if enforce { Mode::Enforce } else { Mode::Observe };
        let nanos = now.as_nanos();
        let passes = mode.until != detector_common::verdict::FOREVER && nanos < mode.until;
        Self {
            mode: word(mode.enforces(nanos)),
            mode_by_operator: mode.is_operators(nanos),
            // A second that has begun is one: what is left can be typed again.
            mode_for_s: passes.then(|| (mode.until - nanos).div_ceil(1_000_000_000)),
            mode_afterwards: word(mode.afterwards != 0),
        }
    }
}

/// One interface of [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// As `ip link` calls it.
    pub name: String,
    /// Where in the kernel: native or generic.
    pub xdp_mode: XdpMode,
    /// The program is attached now.
    pub attached: bool,
    /// It stays when the daemon goes.
    #[serde(default)]
    pub pinned: bool,
}

/// One challenge listener of [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenger {
    /// Where it is bound.
    pub address: SocketAddr,
    /// The protected ports whose connections it takes.
    pub ports: Vec<u16>,
    /// The process that handed it over; none: the service manager.
    pub pid: Option<i32>,
    /// What is wrong with it; none: it is healthy.
    pub trouble: Option<String>,
}

/// What came on the signal sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signals {
    /// Their paths.
    pub sockets: Vec<String>,
    /// Datagrams that may wait for one of them; none: the kernel doesn't say.
    pub queue: Option<u64>,
    /// Reports.
    pub reports: u64,
    /// Seconds since the last one.
    pub last_report_s: Option<u64>,
    /// Frames that were none, by why.
    pub rejected: BTreeMap<String, u64>,
    /// Frames that were not read, by why.
    pub refused: BTreeMap<String, u64>,
    /// Fields of no use, by why.
    pub fields: BTreeMap<String, u64>,
    /// Reports that got lost, as far as can be told.
    pub lost_estimate: u64,
    /// Reports by what they were found to be about: labels of `detector_join_reports_total`.
    #[serde(default)]
    pub joined: BTreeMap<String, u64>,
    /// Addresses that may be proxies which nobody configured: the first few.
    #[serde(default)]
    pub suspected: Vec<IpAddr>,
    /// How many there are.
    #[serde(default)]
    pub suspected_total: usize,
}

/// Packets on the way from the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// Put into the ring.
    pub submitted: u64,
    /// Taken out of it.
    pub received: u64,
    /// Not put in, since it was full, of clients whose address is proven.
    pub lost_confirmed: u64,
    /// The same of clients whose address isn't.
    pub lost_unconfirmed: u64,
}

/// One JA4 value of [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The value.
    pub ja4: String,
    /// The family that sends such hellos, if it is known.
    #[serde(default)]
    pub family: Option<String>,
    /// What that is: the label of a `family::Kind`, or `drift`.
    #[serde(default)]
    pub kind: Option<String>,
    /// What is done to all clients with it, if anything.
    #[serde(default)]
    pub verdict: Option<Action>,
    /// Hellos with it.
    pub hellos: u64,
    /// Those of the last [`LATELY_S`] seconds.
    #[serde(default)]
    pub hellos_lately: u64,
    /// Who sent the last one.
    #[serde(default)]
    pub last_client: Option<IpAddr>,
    /// What the last one asked for, its first [`NAME_MAX`] characters.
    pub last_server_name: Option<String>,
    /// Seconds since the last one.
    pub last_seen_s: u64,
}
