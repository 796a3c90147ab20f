//! Whose connection it is: addresses and ports of both ends, and what carries it.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::capture::{Flow, hash_end};
use crate::fingerprint::Transport;
use crate::report::Report;

/// What carries a connection: one 4-tuple may have one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carrier {
    /// HTTP/1 and HTTP/2.
    Tcp,
    /// HTTP/3, one connection on a 4-tuple.
    Udp,
}

impl From<Transport> for Carrier {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Quic | Transport::Dtls => Self::Udp,
        }
    }
}

/// The client's end of a connection. IPv4 addresses are plain, never the mapped form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// TCP or UDP.
    pub carrier: Carrier,
}

/// A 4-tuple and its carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The client's end.
    pub client: End,
    /// The server's, in its plain form too.
    pub server: SocketAddr,
}

impl Tuple {
    /// Of a connection as its packets have it, client first.
    #[must_use]
    pub fn new(flow: Flow, carrier: Carrier) -> Self {
        let Flow { source, destination } = flow;
        Self {
            client: End::new(source.ip(), source.port(), carrier),
            server: SocketAddr::new(destination.ip().to_canonical(), destination.port()),
        }
    }
}

impl Hash for End {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_end(self.address, self.port, state);
        self.carrier.hash(state);
    }
}

impl End {
    /// An end of a connection; a mapped address becomes plain.
    #[must_use]
    pub fn new(address: IpAddr, port: u16, carrier: Carrier) -> Self {
        Self { address: address.to_canonical(), port, carrier }
    }

    /// The client of a request, if its report tells address and port.
    #[must_use]
    pub fn of(report: &Report<'_>) -> Option<Self> {
        let quic = report.protocol.as_deref().is_some_and(|protocol| protocol.starts_with("HTTP/3"));
        let carrier = if quic { Carrier::Udp } else { Carrier::Tcp };
        Some(Self::new(report.client?, report.client_port.filter(|port| *port != 0)?, carrier))
    }
}
