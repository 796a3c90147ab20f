//! Where new connections under a challenge go: listening sockets in, handed over by those who accept on them; the kernel's
//! choice of the socket out.
//!
//! The program is attached to this process's network namespace while there is a listener: without one, the look-up of
//! sockets costs the host nothing more. The kernel takes a socket out of its map when the last descriptor of it is closed,
//! so none is kept here: a listener that dies is nobody's choice any more, with this process hung.
//!
//! Memory: an entry for each port and family of a listener, [`CHALLENGERS_MAX`] at most.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, SockHash},
    programs::{ProgramError, ProgramFd, SkLookup},
};
use detector_common::{
    maps,
    steer::{CHALLENGERS_MAX, challenger},
};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::{SocketType, getsockname, ipproto, sockopt},
};

use super::{
    Error, bpf,
    maps::{Source, take},
};
use crate::clock::Timestamp;

/// The first descriptor that a service manager hands over (sd_listen_fds(3)).
const FIRST_INHERITED: RawFd = 3;

/// Why a descriptor is no socket to steer to. What to do about it is part of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the challenge listener's descriptor is {0}")]
pub struct NotAListener(String);

/// What is known of a listener's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it is bound.
    pub address: SocketAddr,
    /// Takes IPv4 connections.
    pub ipv4: bool,
    /// Takes IPv6 connections.
    pub ipv6: bool,
}

impl Listener {
    /// Looks at a socket.
    ///
    /// # Errors
    /// If it isn't a TCP socket that listens.
    pub fn of(socket: BorrowedFd<'_>) -> Result<Self, NotAListener> {
        let refuse = |what: &str| NotAListener(what.to_owned());
        let kind = sockopt::socket_type(socket).map_err(|_| refuse("no socket; send the one that listens"))?;
        if kind != SocketType::STREAM || sockopt::socket_protocol(socket) != Ok(Some(ipproto::TCP)) {
            return Err(refuse("no TCP socket; send one of IPPROTO_TCP (Go: turn MPTCP off)"));
        }
        if sockopt::socket_acceptconn(socket) != Ok(true) {
            return Err(refuse("not listening; call listen() before it is sent"));
        }
        let address = getsockname(socket).ok().and_then(|name| SocketAddr::try_from(name).ok());
        let address = address.ok_or_else(|| refuse("bound to no address; bind it to one, and a port"))?;
        let ipv6 = address.is_ipv6();
        // What is bound to an IPv6 address other than `::` gets no IPv4 from the system, but may be chosen for it.
        let ipv4 = !ipv6 || sockopt::ipv6_v6only(socket) == Ok(false);
        Ok(Self { address, ipv4, ipv6 })
    }

    /// Where a client on this host reaches it.
    #[must_use]
    pub fn reachable_at(&self) -> SocketAddr {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.address.port())
    }

    /// Its keys in the maps, for these protected ports.
    fn keys(&self, ports: &[u16]) -> Vec<u32> {
        let families = [(self.ipv4, false), (self.ipv6, true)];
        let families = families.into_iter().filter_map(|(takes, ipv6)| takes.then_some(ipv6));
        families.flat_map(|ipv6| ports.iter().map(move |port| challenger(*port, ipv6))).collect()
    }
}

/// What the kernel said, without the verifier's pages.
fn refused(error: ProgramError) -> Error {
    Error::Steering(match error {
        ProgramError::LoadError { io_error, .. } => io_error.to_string(),
        error => error.to_string(),
    })
}

/// Loads the program `name` of an object.
pub(super) fn load<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SkLookup, Error> {
    let program = ebpf.program_mut(name).ok_or_else(|| Error::Steering(format!("no program `{name}`")))?;
    let program: &mut SkLookup = program.try_into().map_err(refused)?;
    program.load().map_err(refused)?;
    Ok(program)
}

/// The program that chooses sockets, and its maps.
pub struct Steering {
    program: ProgramFd,
    link: Option<OwnedFd>,
    sockets: SockHash<MapData, u32>,
    healthy_until: HashMap<MapData, u32, u64>,
    taken: BTreeSet<u32>,
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering").field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// The places of one listener in the maps.
#[derive(Debug)]
pub struct Places(Vec<u32>);

impl Steering {
    /// With the program of an object.
    pub(super) fn new(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, Error> {
        let program = load(ebpf, name)?;
        // A descriptor of its own: listeners come and go in other threads than the object's. Not by the program's id, as aya
        // would have it: that takes CAP_SYS_ADMIN.
        let program = program.fd().map_err(refused)?.try_clone();
        let program = program.map_err(|error| Error::Steering(error.to_string()))?;
        Self::with(program, &mut Source::Object(ebpf))
    }

    /// With the program that is pinned at `path`, and the maps that are pinned beside it.
    pub(super) fn pinned(path: &Path) -> Result<Self, Error> {
        if !path.exists() {
            return Err(Error::Steering("it was not taken when the others were loaded".to_owned()));
        }
        let program = SkLookup::from_pin(path).map_err(refused)?;
        let program = program.fd().map_err(refused)?.try_clone();
        let program = program.map_err(|error| Error::Steering(error.to_string()))?;
        Self::with(program, &mut Source::Pinned(path.parent().unwrap_or(path)))
    }

    fn with(program: ProgramFd, source: &mut Source<'_>) -> Result<Self, Error> {
        Ok(Self {
            program,
            link: None,
            sockets: take(source, maps::CHALLENGERS)?,
            healthy_until: take(source, maps::HEALTHY_UNTIL)?,
            taken: BTreeSet::new(),
        })
    }

    /// Makes a socket the choice for these protected ports, once it counts as healthy. `None`: another listener has one
    /// of them.
    ///
    /// # Errors
    /// If there are too many, or the kernel refuses.
    pub fn add(&mut self, socket: BorrowedFd<'_>, listener: Listener, ports: &[u16]) -> Result<Option<Places>, Error> {
        let places = Places(listener.keys(ports));
        if places.0.iter().any(|key| self.taken.contains(key)) {
            return Ok(None);
        }
        if self.taken.len() + places.0.len() > CHALLENGERS_MAX as usize {
            return Err(Error::Full("challenge_listeners"));
        }
        let added = self.put(socket, &places);
        if added.is_err() {
            self.remove(&places);
        }
        added.map(|()| Some(places))
    }

    fn put(&mut self, socket: BorrowedFd<'_>, places: &Places) -> Result<(), Error> {
        for key in &places.0 {
            self.taken.insert(*key);
            let result = self.sockets.insert(key, socket.as_raw_fd(), 0);
            result.map_err(|error| Error::System("taking a listener's socket", error.to_string()))?;
        }
        if self.link.is_none() {
            let namespace = File::open("/proc/thread-self/ns/net");
            let namespace = namespace.map_err(|error| Error::System("opening the namespace", error.to_string()))?;
            let link = bpf::attach_to_lookup(self.program.as_fd(), namespace.as_fd());
            self.link = Some(link.map_err(|error| Error::Steering(error.to_string()))?);
        }
        Ok(())
    }

    /// Counts a listener as healthy until then; with a time that is past, as not healthy.
    ///
    /// # Errors
    /// The kernel's, which has none for this map.
    pub fn set_healthy(&mut self, places: &Places, until: Timestamp) -> Result<(), Error> {
        for key in &places.0 {
            let result = self.healthy_until.insert(key, until.as_nanos(), 0);
            result.map_err(|error| Error::System("writing a listener's health", error.to_string()))?;
        }
        Ok(())
    }

    /// Ends the choice of a listener. With the last one the program goes, too.
    pub fn remove(&mut self, places: &Places) {
        for key in &places.0 {
            self.taken.remove(key);
            // Gone already is as good.
            let _ = self.healthy_until.remove(key);
            let _ = self.sockets.remove(key);
        }
        if self.taken.is_empty() {
            self.link = None;
        }
    }
}

/// The descriptors of this name that a service manager handed over (sd_listen_fds(3)): `listen_pid`, `listen_fds` and
/// `names` are the values of its three variables, and this process's id must be the first. To be called once, since
/// whoever calls it owns them.
#[must_use]
pub fn inherited(name: &str, listen_pid: &str, listen_fds: &str, names: &str) -> Vec<OwnedFd> {
    if listen_pid.parse() != Ok(std::process::id()) {
        return Vec::new();
    }
    let count: RawFd = listen_fds.parse().unwrap_or(0);
    let named = (FIRST_INHERITED..FIRST_INHERITED.saturating_add(count)).zip(names.split(':'));
    let of_it = named.filter(|(_, given)| *given == name).map(|(descriptor, _)| {
        // SAFETY: the service manager has opened these for this process, and nothing else here uses them.
        unsafe { OwnedFd::from_raw_fd(descriptor) }
    });
    // A closed one would be a mistake of the service manager's: it is no socket then.
    of_it.filter(|descriptor| fcntl_setfd(descriptor.as_fd(), FdFlags::CLOEXEC).is_ok()).collect()
}
