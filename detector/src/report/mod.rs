//! Room 8: what a web server says of one HTTP request. A *report* is one JSON object, the schema of which is
//! `docs/reports.md`; what a server can't give is absent.
//!
//! In: a frame, which is NDJSON's line or syslog's message. Out: a [`Report`] and what of it could not be used, or why it
//! is none ([`read`]). Text is borrowed from the bytes it came in, and is the client's: it goes nowhere unescaped.
//! Memory: none of its own but for text with escapes in it; a frame has at most [`FRAME_MAX`] bytes.

mod caddy;
mod frame;
mod object;
mod schema;
mod value;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, net::IpAddr, time::Duration};

pub use self::{frame::read, object::DEPTH_MAX, schema::KEYS};

/// The version of the schema that this build reads.
pub const VERSION: u32 = 1;

/// The most bytes of a frame.
pub const FRAME_MAX: usize = 64 * 1024;

/// What a frame says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame<'a> {
    /// The request.
    pub report: Report<'a>,
    /// Fields that the schema doesn't have.
    pub unknown: u32,
    /// Fields that hold something else than the schema says; they are absent.
    pub wrong: u32,
}

/// Why a frame is no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Over [`FRAME_MAX`] bytes.
    Long,
    /// Not JSON, or cut off.
    Malformed,
    /// JSON, and no object.
    NotObject,
    /// Values within values within values, beyond [`DEPTH_MAX`].
    Deep,
    /// Of another version of the schema than [`VERSION`], or without one.
    Version,
}

impl Rejected {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Long, Self::Malformed, Self::NotObject, Self::Deep, Self::Version];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::Malformed => "malformed",
            Self::NotObject => "not_object",
            Self::Deep => "deep",
            Self::Version => "version",
        }
    }
}

/// One HTTP request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report<'a> {
    /// The client's end of the connection, as the server's socket has it.
    pub client: Option<IpAddr>,
    /// Its port.
    pub client_port: Option<u16>,
    /// The server's end.
    pub server: Option<IpAddr>,
    /// Its port.
    pub server_port: Option<u16>,
    /// Wall-clock seconds since 1970 when the server wrote this: for display only.
    pub time: Option<f64>,
    /// From the request's first byte to this report.
    pub duration: Option<Duration>,
    /// From the connection's begin to this report.
    pub connection_age: Option<Duration>,
    /// Which request of its connection this is, from 1.
    pub connection_requests: Option<u64>,
    /// A number of the connection's own: the server's next one on the same ports has another.
    pub connection: Option<u64>,
    /// What the client asked for (Host, `:authority`), else the server's own name.
    pub server_name: Option<Cow<'a, str>>,
    /// The method.
    pub method: Option<Cow<'a, str>>,
    /// Path and query, as the client sent it.
    pub path: Option<Cow<'a, str>>,
    /// As `HTTP/2.0`.
    pub protocol: Option<Cow<'a, str>>,
    /// The answer's status.
    pub status: Option<u16>,
    /// Bytes of the answer.
    pub bytes: Option<u64>,
    /// As the server's cache says: `HIT`, `MISS` and the like.
    pub cache: Option<Cow<'a, str>>,
    /// Headers of the request, by their names.
    pub user_agent: Option<Cow<'a, str>>,
    /// `Referer`.
    pub referer: Option<Cow<'a, str>>,
    /// `Accept`.
    pub accept: Option<Cow<'a, str>>,
    /// `Accept-Language`.
    pub accept_language: Option<Cow<'a, str>>,
    /// `Accept-Encoding`.
    pub accept_encoding: Option<Cow<'a, str>>,
    /// `Sec-CH-UA`.
    pub client_hints: Option<Cow<'a, str>>,
    /// `Sec-CH-UA-Mobile`.
    pub client_hints_mobile: Option<Cow<'a, str>>,
    /// `Sec-CH-UA-Platform`.
    pub client_hints_platform: Option<Cow<'a, str>>,
    /// `Sec-Fetch-Site`.
    pub fetch_site: Option<Cow<'a, str>>,
    /// `Sec-Fetch-Mode`.
    pub fetch_mode: Option<Cow<'a, str>>,
    /// `Sec-Fetch-Dest`.
    pub fetch_dest: Option<Cow<'a, str>>,
    /// `Sec-Fetch-User`.
    pub fetch_user: Option<Cow<'a, str>>,
    /// Names of the request's headers in the order they came, as the client wrote them, a comma between two.
    pub header_names: Option<Cow<'a, str>>,
    /// Whether the request had a cookie.
    pub cookie: Option<bool>,
    /// The site's own, signed id of the session.
    pub session: Option<Cow<'a, str>>,
    /// `X-Forwarded-For`.
    pub forwarded_for: Option<Cow<'a, str>>,
    /// Whether another program than the server sent this, some time after it was written.
    pub relayed: Option<bool>,
    /// The client's end of its connection with a proxy before the web server, as the PROXY protocol says.
    pub proxied_client: Option<IpAddr>,
    /// Its port.
    pub proxied_client_port: Option<u16>,
    /// The proxy's end of that connection.
    pub proxied_server: Option<IpAddr>,
    /// Its port.
    pub proxied_server_port: Option<u16>,
}
