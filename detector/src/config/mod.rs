//! The configuration: flags, environment and a TOML file in, [`Config`] out. A flag wins over the environment, that over
//! the file, that over the default ([`layers`]). Read at the start, and again by a reload, which takes over the keys of
//! [`is_live`]; a change of any other needs a restart. Bound: a file of 1 MiB.

mod feeds;
mod file;
mod layers;
mod live;
mod number;
mod score;
pub mod value;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use detector_common::maps;
use ipnet::IpNet;
use rustls::pki_types::DnsName;

use crate::fingerprint::Ja4;

pub use feeds::{Checksum, FeedList, FeedSource, Feeds, Reputation};
use layers::Wrong;
pub use layers::{Loaded, Origin, Setting};
pub use live::is_live;
pub use value::{Addresses, LogFilter, LogFormat, MetricsAddress, Mode, Port, XdpMode};

/// Read if it exists and `--config` names no other.
pub const DEFAULT_FILE: &str = "/etc/detector/detector.toml";
/// Where the daemon listens for its operator.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/detector/control.sock";
/// Members may speak to the control socket.
pub const DEFAULT_CONTROL_GROUP: &str = "detector";
/// Where the daemon answers those who may look and change nothing.
pub const DEFAULT_STATUS_SOCKET: &str = "/run/detector/status.sock";
/// Members may: a monitor, say.
pub const DEFAULT_STATUS_GROUP: &str = "detector-status";
/// Where web servers report by datagrams.
pub const DEFAULT_SIGNAL_SOCKET: &str = "/run/detector/signals.sock";
/// Where web servers ask what to do with a request.
pub const DEFAULT_DECISION_SOCKET: &str = "/run/detector/decision.sock";
/// Members may ask: web servers.
pub const DEFAULT_SIGNAL_GROUP: &str = "detector-signal";
/// What operators ordered is kept here.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/detector";
/// Where this host's resolvers stand: those of resolv.conf(5), and those behind systemd-resolved.
pub const DEFAULT_RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// Where `detector attach` pins what outlives the daemon.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/detector";
/// Where the metrics are served.
pub const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

const FILE_BYTES_MAX: u64 = 1 << 20;

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What is looked at.
    pub capture: Capture,
    /// Whether rules drop.
    pub mode: Mode,
    /// Whether what is dropped of a TCP connection to this host resets it there.
    pub reset: bool,
    /// What operators order, and what keeps that from hurting.
    pub orders: Orders,
    /// JA4 values that are blocked (in [`Mode::Observe`]: counted), each valid.
    pub deny_ja4: Vec<Ja4>,
    /// The name that challenge listeners are asked for, and their certificate must be valid for; `None`: any.
    pub challenge_name: Option<DnsName<'static>>,
    /// What web servers tell.
    pub signals: Signals,
    /// What web servers ask.
    pub inline: Inline,
    /// Lists of addresses.
    pub feeds: Feeds,
    /// What else is known of them.
    pub reputation: Reputation,
    /// What clients are judged by.
    pub engine: Engine,
    /// Control socket and metrics.
    pub admin: Admin,
    /// What is logged, and how.
    pub log: Log,
    /// The bounds of every table and queue.
    pub limits: Limits,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Names of interfaces; empty: that of the default route.
    pub interfaces: Vec<String>,
    /// Protected TCP ports, sorted, at least one.
    pub ports: Vec<u16>,
    /// Where in the kernel.
    pub xdp_mode: XdpMode,
    /// Protected addresses.
    pub addresses: Addresses,
    /// Whether UDP to the protected ports is looked into, for QUIC and DTLS.
    pub udp: bool,
    /// Whether SYNs are kept for the hello that follows: the SYN signature, and hellos whose segments overtake each other.
    pub syns: bool,
    /// Whether a program looks at what goes out: SYN-ACKs as proof of address.
    pub egress: bool,
    /// Whether that program captures servers' answers: JA3S, and the check that they fit the hello.
    pub answers: bool,
    /// Whether this host's sockets are looked up for hellos without another proof of address.
    pub sock_diag: bool,
}

/// What operators order, and what keeps that from hurting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// Where it is kept over restarts.
    pub state_directory: PathBuf,
    /// Never blocked, beside what the host itself tells.
    pub never_block: Vec<IpNet>,
    /// Files that name this host's resolvers.
    pub resolv_conf: Vec<PathBuf>,
    /// The most percent of browsers' hellos that a block may hit; 100: any.
    pub max_browser_percent: u32,
}

/// Where web servers report requests, and how much they may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signals {
    /// Paths of the datagram sockets.
    pub sockets: Vec<PathBuf>,
    /// Paths of the stream sockets.
    pub streams: Vec<PathBuf>,
    /// The group they belong to, if that exists.
    pub group: String,
    /// Of one user.
    pub datagrams_per_second: u32,
    /// Of one user, on streams.
    pub lines_per_second: u32,
    /// Streams at one time.
    pub connections: u32,
    /// Connections of which the number of the last request is remembered; of more, a share.
    pub tracked_connections: u32,
    /// Reports kept for `detector reports`.
    pub recent: u32,
    /// Proxies before the web servers: their connections are not their clients'.
    pub trusted_proxies: Vec<IpNet>,
}

/// Where web servers ask what to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inline {
    /// Path of a unix socket, or nowhere.
    pub socket: Option<PathBuf>,
    /// The group it belongs to, if that exists.
    pub group: String,
    /// An address, or nowhere.
    pub listen: Option<SocketAddr>,
    /// By name in lower case: the status of an answer that has that site challenge its client, 200, 401 or 403.
    pub challenge_status: BTreeMap<String, u16>,
}

/// What clients are judged by, and what is done about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Engine {
    /// Signals, layers and thresholds.
    pub score: crate::score::Settings,
    /// Paths that are watched.
    pub paths: crate::session::Paths,
    /// What is done.
    pub policy: crate::policy::decide::Policy,
    /// When nothing is, for people's sake.
    pub breaker: crate::breaker::Settings,
}

/// Control socket and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Path of the control socket.
    pub control_socket: PathBuf,
    /// The group it belongs to, if that exists.
    pub control_group: String,
    /// Path of the socket on which nothing can be changed.
    pub status_socket: PathBuf,
    /// The group it belongs to, if that exists.
    pub status_group: String,
    /// Where the metrics are served, or nowhere.
    pub metrics: Option<SocketAddr>,
    /// Directory of the pins, in a BPF file system.
    pub pins: PathBuf,
}

/// What is logged, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What.
    pub filter: LogFilter,
    /// How.
    pub format: LogFormat,
}

/// The bounds of every table and queue. Entries unless another unit is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the ring between kernel and userspace, a power of two.
    pub ring_bytes: u32,
    /// The same for clients whose address isn't proven.
    pub unconfirmed_ring_bytes: u32,
    /// SYNs, and SYN-ACKs, remembered in the kernel.
    pub handshakes: u32,
    /// Complete hellos that wait for the proof of their client's address or for the server's answer.
    pub pending_hellos: u32,
    /// Look-ups of this host's sockets in a second.
    pub sock_diag_per_second: u32,
    /// Incomplete hellos, in the kernel and in userspace.
    pub partial_hellos: u32,
    /// Incomplete hellos whose segments overtook each other, in the kernel.
    pub disordered_hellos: u32,
    /// Incomplete hellos of one IPv4 address or IPv6 /64.
    pub partials_per_source: u32,
    /// Bytes of all incomplete hellos.
    pub partial_bytes: u64,
    /// Bytes of one incomplete hello.
    pub bytes_per_flow: u32,
    /// Segments of one incomplete hello.
    pub segments_per_flow: u32,
    /// Gaps in one incomplete hello.
    pub holes_per_flow: u32,
    /// Age at which an incomplete hello is given up.
    pub partial_age: Duration,
    /// Flows remembered after their hello.
    pub finished_flows: u32,
    /// Verdicts on addresses.
    pub addresses: u32,
    /// Verdicts on prefixes.
    pub prefixes: u32,
    /// The allow list.
    pub allow: u32,
    /// Verdicts on connections.
    pub connections: u32,
    /// Sources whose QUIC Initial packets are dropped.
    pub quic_sources: u32,
    /// Operators' rules on JA4 values.
    pub ja4_rules: u32,
    /// Automatic verdicts: beyond them the one that would end first goes.
    pub automatic: u32,
    /// New automatic verdicts a second (threats.md T8).
    pub automatic_per_second: u32,
    /// IPv4 addresses and IPv6 /64 of which it is remembered whether their clients are all of one family.
    pub units: u32,
    /// Challenge listeners.
    pub challenge_listeners: u32,
    /// Verdicts that limit a rate.
    pub rates: u32,
    /// Resets that each CPU makes in a second.
    pub resets_per_second: u32,
    /// JA4 values in the table of `detector status`.
    pub fingerprints: u32,
    /// JA4 values of which signals are kept.
    pub signal_fingerprints: u32,
    /// Browsers' hellos sampled of each minute.
    pub browser_hellos: u32,
    /// Lines of hellos that wait to be written.
    pub events: u32,
    /// Operators' verdicts on requests.
    pub request_verdicts: u32,
    /// Connections of web servers that ask.
    pub inline_connections: u32,
    /// Connections whose hello is remembered until they end, in the kernel and in userspace.
    pub known_connections: u32,
    /// Hellos, and ends of connections, on their way there.
    pub known_queue: u32,
    /// Reports that wait for their hello.
    pub waiting_reports: u32,
    /// Clients of which the last hour is remembered.
    pub sessions: u32,
    /// Addresses, networks and sessions whose requests are counted.
    pub network_addresses: u32,
    /// Fingerprints and autonomous systems whose requests are.
    pub network_fingerprints: u32,
    /// Verdicts of the scoring engine on their way to the packet path.
    pub verdict_queue: u32,
    /// Clients about whom something is decided that they would notice.
    pub held_decisions: u32,
    /// Assessments remembered for `detector explain`, and as many of those that decided something.
    pub assessments: u32,
    /// Requests told by reports that are assessed in a second.
    pub assessed_per_second: u32,
    /// Clients whose User-Agents are counted, to find proxies that nobody configured.
    pub proxy_candidates: u32,
}

impl Limits {
    /// What is kept of clients' last hour.
    #[must_use]
    pub fn session(&self) -> crate::session::Limits {
        crate::session::Limits { sessions: self.sessions as usize, ..crate::session::Limits::default() }
    }

    /// What is kept of networks and fingerprints.
    #[must_use]
    pub const fn network(&self) -> crate::network::Limits {
        let (addresses, fingerprints) = (self.network_addresses, self.network_fingerprints);
        crate::network::Limits { addresses: addresses as usize, fingerprints: fingerprints as usize }
    }
}

/// What flags and environment say; they win over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`: must exist.
    pub file: Option<PathBuf>,
    /// `--interface`, if any was given.
    pub interfaces: Vec<String>,
    /// `--port`, if any was given.
    pub ports: Vec<Port>,
    /// `--enforce`: can only turn it on.
    pub enforce: bool,
    /// `--xdp-mode`.
    pub xdp_mode: Option<XdpMode>,
    /// `--control-socket`.
    pub control_socket: Option<PathBuf>,
    /// `--state-directory`.
    pub state_directory: Option<PathBuf>,
    /// `--metrics`.
    pub metrics: Option<MetricsAddress>,
    /// `--pins`.
    pub pins: Option<PathBuf>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
}

/// Why there is no configuration. Exit code 64. At most three lines.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read `{path}`: {source}; `--config` names the configuration file")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is larger than any that a person writes.
    #[error("`{path}` is over 1 MiB: no configuration; `--config` names the configuration file")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file says something wrong: place, what, the line, carets.
    #[error("{0}")]
    Wrong(String),
}

impl ConfigError {
    /// Whether there is no such file.
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capture: Capture {
                interfaces: Vec::new(),
                ports: vec![443],
                xdp_mode: XdpMode::Auto,
                addresses: Addresses::Own,
                udp: true,
                syns: true,
                egress: true,
                answers: true,
                sock_diag: true,
            },
            mode: Mode::Observe,
            reset: true,
            orders: Orders {
                state_directory: DEFAULT_STATE_DIRECTORY.into(),
                never_block: Vec::new(),
                resolv_conf: DEFAULT_RESOLV_CONF.map(PathBuf::from).to_vec(),
                max_browser_percent: 5,
            },
            deny_ja4: Vec::new(),
            challenge_name: None,
            signals: Signals::default(),
            inline: Inline {
                socket: Some(DEFAULT_DECISION_SOCKET.into()),
                group: DEFAULT_SIGNAL_GROUP.to_owned(),
                listen: None,
                challenge_status: BTreeMap::new(),
            },
            feeds: Feeds::default(),
            reputation: Reputation::default(),
            engine: Engine::default(),
            admin: Admin {
                control_socket: DEFAULT_CONTROL_SOCKET.into(),
                control_group: DEFAULT_CONTROL_GROUP.to_owned(),
                status_socket: DEFAULT_STATUS_SOCKET.into(),
                status_group: DEFAULT_STATUS_GROUP.to_owned(),
                metrics: Some(DEFAULT_METRICS),
                pins: DEFAULT_PINS.into(),
            },
            log: Log::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            sockets: vec![DEFAULT_SIGNAL_SOCKET.into()],
            streams: Vec::new(),
            group: DEFAULT_SIGNAL_GROUP.to_owned(),
            datagrams_per_second: 200_000,
            lines_per_second: 50_000,
            connections: 256,
            tracked_connections: 16_384,
            recent: 256,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ring_bytes: maps::RING_BYTES,
            unconfirmed_ring_bytes: maps::UNCONFIRMED_RING_BYTES,
            handshakes: maps::HANDSHAKES_MAX,
            pending_hellos: 65_536,
            sock_diag_per_second: 1280,
            partial_hellos: maps::FOLLOW_MAX,
            disordered_hellos: maps::WAITING_MAX,
            partials_per_source: 64,
            partial_bytes: 64 << 20,
            bytes_per_flow: 16 << 10,
            segments_per_flow: 4096,
            holes_per_flow: 2048,
            partial_age: Duration::from_secs(10),
            finished_flows: 65_536,
            addresses: maps::ADDRESSES_MAX,
            prefixes: maps::PREFIXES_MAX,
            allow: maps::ALLOW_MAX,
            connections: maps::CONNECTIONS_MAX,
            quic_sources: maps::QUIC_SOURCES_MAX,
            ja4_rules: 10_000,
            automatic: 100_000,
            automatic_per_second: 5_000,
            units: 65_536,
            challenge_listeners: 8,
            rates: 10_000,
            resets_per_second: 50_000,
            fingerprints: 4096,
            signal_fingerprints: 2048,
            browser_hellos: 4096,
            events: 8192,
            request_verdicts: 100_000,
            inline_connections: 1024,
            known_connections: maps::OPEN_MAX,
            known_queue: 16_384,
            waiting_reports: 16_384,
            sessions: 100_000,
            assessments: 4096,
            assessed_per_second: 5000,
            held_decisions: 16_384,
            verdict_queue: 16_384,
            network_addresses: 65_536,
            network_fingerprints: 4096,
            proxy_candidates: 16_384,
        }
    }
}

impl Config {
    /// Reads the file, the environment and `overrides`.
    ///
    /// # Errors
    /// When a named file is missing, or anything in it is wrong.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        Loaded::read(overrides).map(|loaded| loaded.config)
    }

    /// Reads the text of a file; `name` is what errors call it.
    ///
    /// # Errors
    /// When anything in it is wrong.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        Loaded::resolve(name, text, &mut Vec::new())
    }

    fn resolve(file: file::File) -> Result<Self, Wrong> {
        let base = Self::default();
        let mut deny_ja4: Vec<Ja4> = file.deny.ja4.unwrap_or_default().into_iter().map(|ja4| ja4.0).collect();
        deny_ja4.sort();
        deny_ja4.dedup();
        Ok(Self {
            capture: Capture {
                interfaces: file.capture.interfaces.unwrap_or_default().into_iter().map(|name| name.0).collect(),
                ports: file.capture.ports.map_or(base.capture.ports, |typed| ports(typed.0)),
                xdp_mode: file.capture.xdp_mode.unwrap_or(base.capture.xdp_mode),
                addresses: file.capture.addresses.unwrap_or(base.capture.addresses),
                udp: file.capture.udp.unwrap_or(base.capture.udp),
                syns: file.capture.syns.unwrap_or(base.capture.syns),
                egress: file.capture.egress.unwrap_or(base.capture.egress),
                answers: file.capture.answers.unwrap_or(base.capture.answers),
                sock_diag: file.capture.sock_diag.unwrap_or(base.capture.sock_diag),
            },
            mode: file.enforce.mode.unwrap_or(base.mode),
            reset: file.enforce.reset.unwrap_or(base.reset),
            orders: Orders::resolve(file.enforce, base.orders),
            deny_ja4,
            challenge_name: file.challenge.server_name.and_then(|name| name.0),
            signals: Signals::resolve(file.signals),
            inline: Inline::resolve(file.inline, base.inline)?,
            feeds: Feeds::resolve(file.feeds)?,
            reputation: Reputation::resolve(file.reputation),
            engine: Engine::resolve(score::Sections {
                score: file.score,
                behaviour: file.behaviour,
                network: file.network,
                policy: file.policy,
                breaker: file.breaker,
            })?,
            admin: Admin {
                control_socket: file.admin.control_socket.unwrap_or(base.admin.control_socket),
                control_group: file.admin.control_group.unwrap_or(base.admin.control_group),
                status_socket: file.admin.status_socket.unwrap_or(base.admin.status_socket),
                status_group: file.admin.status_group.unwrap_or(base.admin.status_group),
                metrics: file.admin.metrics.map_or(base.admin.metrics, |metrics| metrics.0),
                pins: file.admin.pins.unwrap_or(base.admin.pins),
            },
            log: Log {
                filter: file.log.filter.unwrap_or(base.log.filter),
                format: file.log.format.unwrap_or(base.log.format),
            },
            limits: Limits::resolve(&file.limits),
        })
    }
}

fn prefixes(typed: Vec<value::Prefix>) -> Vec<IpNet> {
    typed.into_iter().map(|prefix| prefix.0).collect()
}

impl Inline {
    fn resolve(file: file::Inline, base: Self) -> Result<Self, Wrong> {
        let listen = file.listen.map_or(base.listen, |listen| listen.0);
        if let Some(address) = listen.filter(|address| !address.ip().is_loopback())
            && !file.beyond_loopback.unwrap_or_default()
        {
            let what = format!("others than this host could ask at `{address}`");
            let hint = "type for example `127.0.0.1:9466`; or, behind a firewall, `beyond_loopback = true` beside it";
            return Err(Wrong::new(&["inline", "listen"], format!("{what}; {hint}")));
        }
        let status = |(site, typed): (String, file::Site)| Some((site.to_lowercase(), typed.challenge_status?.0));
        Ok(Self {
            socket: file.socket.map_or(base.socket, |socket| socket.0),
            group: file.group.unwrap_or(base.group),
            listen,
            challenge_status: file.sites.unwrap_or_default().into_iter().filter_map(status).collect(),
        })
    }
}

impl Orders {
    fn resolve(file: file::Enforce, base: Self) -> Self {
        let percent = |typed: value::Count<0, 100>| u32::try_from(typed.0).unwrap_or(u32::MAX);
        Self {
            state_directory: file.state_directory.unwrap_or(base.state_directory),
            never_block: file.never_block.map_or(base.never_block, prefixes),
            resolv_conf: file.resolv_conf.unwrap_or(base.resolv_conf),
            max_browser_percent: file.max_browser_percent.map_or(base.max_browser_percent, percent),
        }
    }
}

impl Signals {
    fn resolve(file: file::Signals) -> Self {
        let base = Self::default();
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self {
            sockets: file.sockets.unwrap_or(base.sockets),
            streams: file.streams.unwrap_or(base.streams),
            group: file.group.unwrap_or(base.group),
            datagrams_per_second: file.datagrams_per_second.map_or(base.datagrams_per_second, |typed| narrow(typed.0)),
            lines_per_second: file.lines_per_second.map_or(base.lines_per_second, |typed| narrow(typed.0)),
            connections: file.connections.map_or(base.connections, |typed| narrow(typed.0)),
            tracked_connections: file.tracked_connections.map_or(base.tracked_connections, |typed| narrow(typed.0)),
            recent: file.recent.map_or(base.recent, |typed| narrow(typed.0)),
            trusted_proxies: file.trusted_proxies.map_or(base.trusted_proxies, prefixes),
        }
    }
}

impl Limits {
    fn resolve(file: &file::Limits) -> Self {
        // The types of the file hold each value below 2^32, but for `partial_bytes`, which stays 64 bits wide.
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let base = Self::default();
        macro_rules! pick {
            ($key:ident) => {
                file.$key.map_or(base.$key, |value| narrow(value.0))
            };
        }
        Self {
            ring_bytes: pick!(ring_bytes),
            unconfirmed_ring_bytes: pick!(unconfirmed_ring_bytes),
            handshakes: pick!(handshakes),
            pending_hellos: pick!(pending_hellos),
            sock_diag_per_second: pick!(sock_diag_per_second),
            partial_hellos: pick!(partial_hellos),
            disordered_hellos: pick!(disordered_hellos),
            partials_per_source: pick!(partials_per_source),
            partial_bytes: file.partial_bytes.map_or(base.partial_bytes, |value| value.0),
            bytes_per_flow: pick!(bytes_per_flow),
            segments_per_flow: pick!(segments_per_flow),
            holes_per_flow: pick!(holes_per_flow),
            partial_age: file.partial_age.map_or(base.partial_age, |value| value.0),
            finished_flows: pick!(finished_flows),
            addresses: pick!(addresses),
            prefixes: pick!(prefixes),
            allow: pick!(allow),
            connections: pick!(connections),
            quic_sources: pick!(quic_sources),
            ja4_rules: pick!(ja4_rules),
            automatic: pick!(automatic),
            automatic_per_second: pick!(automatic_per_second),
            units: pick!(units),
            challenge_listeners: pick!(challenge_listeners),
            rates: pick!(rates),
            resets_per_second: pick!(resets_per_second),
            fingerprints: pick!(fingerprints),
            signal_fingerprints: pick!(signal_fingerprints),
            browser_hellos: pick!(browser_hellos),
            events: pick!(events),
            request_verdicts: pick!(request_verdicts),
            inline_connections: pick!(inline_connections),
            known_connections: pick!(known_connections),
            known_queue: pick!(known_queue),
            waiting_reports: pick!(waiting_reports),
            sessions: pick!(sessions),
            assessments: pick!(assessments),
            assessed_per_second: pick!(assessed_per_second),
            held_decisions: pick!(held_decisions),
            verdict_queue: pick!(verdict_queue),
            network_addresses: pick!(network_addresses),
            network_fingerprints: pick!(network_fingerprints),
            proxy_candidates: pick!(proxy_candidates),
        }
    }
}

fn ports(typed: Vec<Port>) -> Vec<u16> {
    let mut ports: Vec<u16> = typed.into_iter().map(|port| port.0).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let fail = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    fs::File::open(path).map_err(fail)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
