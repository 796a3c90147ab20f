//! Room 1: the kernel, and the only user of aya. Object bytes and settings in; ring events, counters and verdict maps
//! out. The rest of the program sees it through [`EventSource`], [`VerdictMaps`] and [`Sockets`], which [`memory`]
//! implements too, so that everything behind them runs without root.
//!
//! Memory: the sizes of the maps, fixed at load.

#![expect(
    unsafe_code,
    reason = "aya's Pod for the types that cross the boundary, and bpf(2), ioctl(2) and sched_setattr(2) where no crate has a call"
)]

pub mod features;
pub mod interface;
pub mod memory;

mod addresses;
mod bpf;
mod maps;
mod mode;
mod netlink;
mod pins;
mod presence;
mod privilege;
mod program;
mod ring;
mod routes;
mod shape;
mod shared;
mod sockets;
mod steer;
mod table;
mod urgency;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use detector_common::{
    counter::Counter,
    mode::Mode,
    settings::{self, Settings},
    verdict::{Rate, Verdict},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

pub use self::{
    addresses::{AddressWatch, own_addresses},
    maps::{CounterMap, Maps},
    mode::PinnedMode,
    pins::{Pins, detach},
    privilege::may_load,
    program::{Attached, Kernel, LoadOptions, ProgramFacts},
    ring::{KernelLog, Ring, Rings, Waker, wait},
    routes::gateways,
    sockets::SockDiag,
    steer::{Listener, NotAListener, Places, Steering, inherited},
    urgency::{Allowed, Urgency, answer_soon, run_before_ordinary},
};

/// What can go wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// bpf() said EPERM.
    #[error(
        "loading an eBPF program needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; try `sudo detector run`\n  \
         a service uses what another one has loaded: `systemctl status detector-loader`\n  kernel said: {0}"
    )]
    Permission(String),
    /// The verifier or the loader refused the object.
    #[error(
        "the kernel refused detector's eBPF program: {0}\n  \
         this is Linux {1}; detector is tested on 6.1 and 6.18, and needs 5.18 or newer"
    )]
    Load(String, String),
    /// Another XDP program is there.
    #[error(
        "interface `{interface}` already has an XDP program that isn't ours; detector never replaces one\n  \
         see it with `bpftool net show dev {interface}`; if it is yours to remove: `ip link set dev {interface} xdp off`"
    )]
    Foreign {
        /// The interface's name.
        interface: String,
    },
    /// The driver won't.
    #[error("can't attach to `{interface}` in {mode} mode: {reason}{hint}")]
    Attach {
        /// The interface's name.
        interface: String,
        /// The mode that was tried.
        mode: &'static str,
        /// The kernel's words.
        reason: String,
        /// What to try.
        hint: &'static str,
    },
    /// No place for the egress program.
    #[error("can't attach the egress program to `{interface}`: {reason}; it needs Linux 6.6")]
    Egress {
        /// The interface's name.
        interface: String,
        /// The kernel's words.
        reason: String,
    },
    /// The directory of pins, or what is in it, is of no use.
    #[error("can't use the pins in `{}`: {reason}\n  {hint}", directory.display())]
    Pins {
        /// Where.
        directory: PathBuf,
        /// Why.
        reason: String,
        /// What to type.
        hint: String,
    },
    /// Another process has the pins.
    #[error(
        "can't use the pins in `{}`: another detector is using them\n  \
         stop that first; `detector status` shows a daemon's pid",
        directory.display()
    )]
    InUse {
        /// Where.
        directory: PathBuf,
    },
    /// No program is there, and this process may not attach one.
    #[error(
        "`{interface}` has no program of detector's, and this process may not attach one\n  \
         `detector attach` does, as root; of services: `systemctl restart detector`"
    )]
    Unattached {
        /// The interface's name.
        interface: String,
    },
    /// No program at the look-up of listening sockets.
    #[error("this kernel takes no program that chooses sockets: {0}; it needs Linux 5.9")]
    Steering(String),
    /// A name that isn't a port to attach to.
    #[error(transparent)]
    Interface(#[from] interface::Error),
    /// A map the object should have isn't there, or has another shape: the build is broken.
    #[error("the eBPF object has no usable map `{0}`: {1}\n  this build of detector is broken; build it again")]
    Map(&'static str, String),
    /// A map is full.
    #[error("the table of {0} is full; remove entries, or raise `limits.{0}` and restart")]
    Full(&'static str),
    /// Anything else the kernel says about a map or file descriptor.
    #[error("{0}: {1}")]
    System(&'static str, String),
}

/// A place in the verdict maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// A single source address.
    Address(IpAddr),
    /// A source prefix.
    Prefix(IpNet),
    /// A source prefix that always passes.
    Allow(IpNet),
    /// A source prefix that nothing may be dropped of, whoever wants it.
    NeverBlock(IpNet),
    /// A TCP connection.
    Connection {
        /// Client first.
        source: SocketAddr,
        /// The server.
        destination: SocketAddr,
        /// The client's initial sequence number.
        initial_seq: u32,
    },
    /// A QUIC or DTLS connection: every datagram of a 4-tuple.
    Datagrams {
        /// Client first.
        source: SocketAddr,
        /// The server.
        destination: SocketAddr,
    },
    /// QUIC Initial packets from one unit, and nothing else of it.
    Initials(IpNet),
    /// A fingerprint, by [`detector_common::key::Keys::key`].
    Fingerprint(u64),
    /// A fingerprint, by [`detector_common::key::Keys::stable`].
    Stable(u64),
    /// A fingerprint from one unit only (an IPv4 address, an IPv6 /64), by its key.
    Pair(IpNet, u64),
    /// The same by its stable key; or from an IPv6 prefix of [`detector_common::table::WIDE_BITS`].
    StablePair(IpNet, u64),
}

impl Slot {
    /// The configuration's word for the table it is in.
    #[must_use]
    pub const fn table(&self) -> &'static str {
        match self {
            Self::Address(_) => "addresses",
            Self::Prefix(_) => "prefixes",
            Self::Allow(_) => "allow",
            Self::Connection { .. } | Self::Datagrams { .. } => "connections",
            Self::Initials(_) => "quic_sources",
            Self::Fingerprint(_) | Self::Stable(_) | Self::Pair(..) | Self::StablePair(..) => "ja4_rules",
            Self::NeverBlock(_) => "never_block",
        }
    }

    /// The bit of [`Settings::in_use`] that stands for its kind; 0 if it is looked up whatever there is.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        match self {
            Self::Address(IpAddr::V4(_)) => settings::IN_USE_IPV4,
            Self::Address(IpAddr::V6(_)) => settings::IN_USE_IPV6,
            Self::Prefix(prefix) => match (Self::whole(prefix), prefix) {
                (Some(address), _) => Self::Address(address).in_use(),
                (None, _) if Self::is_unit(prefix) => settings::IN_USE_SUBNETS,
                (None, IpNet::V4(_)) => settings::IN_USE_PREFIXES_IPV4,
                (None, IpNet::V6(_)) if table::is_filtered(prefix) => settings::IN_USE_PREFIXES_IPV6,
                (None, IpNet::V6(_)) => settings::IN_USE_PREFIXES_SHORT,
            },
            Self::Connection { .. } | Self::Datagrams { .. } => settings::IN_USE_CONNECTIONS,
            Self::Initials(_) => settings::IN_USE_INITIALS,
            Self::Fingerprint(_) => settings::IN_USE_KEYS,
            Self::Stable(_) => settings::IN_USE_STABLE,
            Self::Pair(..) => settings::IN_USE_KEY_PAIRS,
            Self::StablePair(prefix, _) if Self::is_unit(prefix) => settings::IN_USE_STABLE_PAIRS,
            Self::StablePair(..) => settings::IN_USE_WIDE_PAIRS,
            Self::Allow(_) | Self::NeverBlock(_) => 0,
        }
    }

    /// The one address of a prefix of full length.
    fn whole(prefix: &IpNet) -> Option<IpAddr> {
        (prefix.prefix_len() == prefix.max_prefix_len()).then(|| prefix.addr())
    }

    /// Whether a prefix is what automatic verdicts are about: an IPv4 address, an IPv6 /64.
    fn is_unit(prefix: &IpNet) -> bool {
        prefix.prefix_len() == if matches!(prefix, IpNet::V4(_)) { 32 } else { 64 }
    }
}

/// Where verdicts go.
pub trait VerdictMaps {
    /// Puts a verdict in force, or replaces it.
    ///
    /// # Errors
    /// [`Error::Full`] if the table takes no more.
    fn put(&mut self, slot: &Slot, verdict: Verdict) -> Result<(), Error>;
    /// Ends those verdicts of the table, automatic ones or all others, that stand in none of these slots: an earlier process
    /// put them there, and nobody knows of them any more. How many.
    ///
    /// # Errors
    /// The kernel's, which has none for these maps.
    fn sweep(&mut self, known: &mut dyn Iterator<Item = &Slot>, automatic: bool) -> Result<usize, Error>;
    /// How fast new connections may come of a slot whose verdict limits them; before that verdict is put.
    ///
    /// # Errors
    /// [`Error::Full`] if there are too many such verdicts.
    fn set_rate(&mut self, slot: &Slot, rate: Rate) -> Result<(), Error>;
    /// Ends a verdict and its rate; nothing if there is none.
    ///
    /// # Errors
    /// The kernel's, which has none for a valid slot.
    fn remove(&mut self, slot: &Slot) -> Result<(), Error>;
    /// What stands in a slot, whoever put it there; `None` if nothing does.
    fn verdict(&self, slot: &Slot) -> Option<Verdict>;
    /// Packets a verdict decided; `None` if there is none.
    fn hits(&self, slot: &Slot) -> Option<u64> {
        self.verdict(slot).map(|verdict| verdict.hits)
    }
    /// Replaces the settings.
    ///
    /// # Errors
    /// The kernel's, which has none for this map.
    fn set(&mut self, settings: Settings) -> Result<(), Error>;
    /// Says whether verdicts that aren't an operator's hold.
    ///
    /// # Errors
    /// The kernel's, which has none for this map.
    fn set_mode(&mut self, mode: Mode) -> Result<(), Error>;
    /// What was said so last.
    ///
    /// # Errors
    /// As above.
    fn mode(&self) -> Result<Mode, Error>;
    /// A sign of life: without one automatic verdicts end (threats.md T47).
    ///
    /// # Errors
    /// As above.
    fn beat(&mut self, now: Timestamp) -> Result<(), Error>;
    /// Does what can wait, some milliseconds of work at most.
    fn tidy(&mut self);
    /// Tells the program that a connection's hello is over: nothing more of it need come.
    fn end_follow(&mut self, source: SocketAddr, destination: SocketAddr);
}

/// Where events come from.
pub trait EventSource {
    /// Hands over up to `budget` events, oldest first, and returns how many there were.
    fn drain(&mut self, budget: usize, each: &mut dyn FnMut(&[u8])) -> usize;
}

/// What the host has for a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lookup {
    /// A socket on which the connection is, or was and isn't over: its client has the address it sends from.
    Established,
    /// A listening or half-open socket, or the rest of a connection that is over.
    Other,
    /// Nothing.
    Absent,
    /// The kernel didn't say.
    Failed,
}

impl Lookup {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Established, Self::Other, Self::Absent, Self::Failed];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Other => "other",
            Self::Absent => "absent",
            Self::Failed => "failed",
        }
    }
}

/// Where this host's sockets are asked for.
pub trait Sockets {
    /// What the host has for the connection between `client` and `server`, IPv4 addresses in their plain form. Never
    /// waits.
    fn look_up(&mut self, client: SocketAddr, server: SocketAddr) -> Lookup;
}

/// The program's counters, summed over the CPUs.
#[derive(Clone, Debug)]
pub struct Counters(Vec<u64>);

impl Counters {
    /// From values in index order; missing ones are zero.
    #[must_use]
    pub fn new(values: Vec<u64>) -> Self {
        Self(values)
    }

    /// One of them.
    #[must_use]
    pub fn of(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    /// All of them, in index order.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.iter().map(|&counter| (counter, self.of(counter)))
    }
}
