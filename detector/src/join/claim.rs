//! What a report says of the connection its request came over: ends and times.

use std::net::IpAddr;

use super::tuple::{Carrier, End};
use crate::clock::Timestamp;
use crate::report::Report;

/// The connection that a report is about, as far as it says. Its times are on the kernel's clock: the server's own
/// durations, counted back from when it sent the report. Of one that is relayed they are late by as much as that took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The client's end.
    pub client: End,
    /// The server's address; absent where the server can't tell.
    pub server: Option<IpAddr>,
    /// The server's port.
    pub server_port: Option<u16>,
    /// When the report was sent.
    pub arrived: Timestamp,
    /// When the request began; its arrival, if the server doesn't say how long it took.
    pub request: Timestamp,
    /// When the server took the connection, if it says.
    pub connection: Option<Timestamp>,
    /// Which request of its connection it is, from 1.
    pub number: Option<u64>,
    /// What the server calls the connection: those that follow each other on its ports have different names.
    pub name: Option<u64>,
    /// Another program than the server sent the report, some time after it was written.
    pub relayed: bool,
}

impl Claim {
    /// Of a report that came at `arrived`; `None` if it doesn't name the client's address and port.
    #[must_use]
    pub fn of(report: &Report<'_>, arrived: Timestamp) -> Option<Self> {
        Some(Self {
            client: End::of(report)?,
            server: report.server.map(|server| server.to_canonical()),
            server_port: report.server_port,
            arrived,
            request: arrived.before(report.duration.unwrap_or_default()),
            connection: report.connection_age.map(|age| arrived.before(age)),
            number: report.connection_requests.filter(|number| *number > 0),
            name: report.connection,
            relayed: report.relayed == Some(true),
        })
    }

    /// Of the client's own connection with a proxy before the web server, as the PROXY protocol names it. How old the
    /// web server's connection is, and how many requests it had, says nothing about that one.
    #[must_use]
    pub fn proxied(report: &Report<'_>, arrived: Timestamp) -> Option<Self> {
        let port = report.proxied_client_port.filter(|port| *port != 0)?;
        Some(Self {
            client: End::new(report.proxied_client?, port, Carrier::Tcp),
            server: report.proxied_server.map(|server| server.to_canonical()),
            server_port: report.proxied_server_port,
            arrived,
            request: arrived.before(report.duration.unwrap_or_default()),
            connection: None,
            number: None,
            name: None,
            relayed: report.relayed == Some(true),
        })
    }
}
