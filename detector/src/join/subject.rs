//! Whom a request is from, and where a verdict on them may be carried out.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::fingerprint::Ja4;

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Who is at the other end of the connection.
    Client {
        /// Its address.
        address: IpAddr,
        /// What its hello said, without what resumption changes.
        ja4_stable: Ja4,
        /// So many kinds of programs send from there with that hello that it may be a proxy nobody told us of.
        proxy_suspected: bool,
    },
    /// Somebody behind a trusted proxy, whose hello and SYN say nothing about them.
    Forwarded {
        /// As the proxy says.
        address: IpAddr,
        /// A hash of the User-Agent, 0 without one; means something in this process only.
        agent: u64,
        /// The same of the names of the headers in their order.
        headers: u64,
    },
}

/// Where a verdict may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// In the kernel too: its packets are its own.
    Packets,
    /// In answers to the web server only: its packets are those of others too.
    Inline,
}

impl Subject {
    /// Where it is.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        match self {
            Self::Client { address, .. } | Self::Forwarded { address, .. } => *address,
        }
    }

    /// Where a verdict on it may be carried out.
    #[must_use]
    pub const fn reach(&self) -> Reach {
        match self {
            Self::Client { proxy_suspected: false, .. } => Reach::Packets,
            Self::Client { proxy_suspected: true, .. } | Self::Forwarded { .. } => Reach::Inline,
        }
    }
}
