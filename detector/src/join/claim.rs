//! What a report says of the connection its request came over: ends and times.

use std::net::IpAddr;

use super::tuple::End;
use crate::clock::Timestamp;
use crate::report::Report;

/// The connection that a report is about, as far as it says. Its times are on the kernel's clock: the server's own
/// durations, counted back from the report's arrival. They are late by as much as the report was on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The client's end.
    pub client: End,
    /// The server's address; absent where the server can't tell.
    pub server: Option<IpAddr>,
    /// The server's port.
    pub server_port: Option<u16>,
    /// When the report came.
    pub arrived: Timestamp,
    /// When the request began; its arrival, if the server doesn't say how long it took.
    pub request: Timestamp,
    /// When the server took the connection, if it says.
    pub connection: Option<Timestamp>,
    /// Which request of its connection it is, from 1.
    pub number: Option<u64>,
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
        })
    }
}
