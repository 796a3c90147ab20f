//! Room 8: what a web server says of one HTTP request. A *report* is one JSON object, the schema of which is
//! `docs/reports.md`; what a server can't give is absent.
//!
//! Text is borrowed from the bytes it came in, and is the client's: it goes nowhere unescaped.

use std::{borrow::Cow, net::IpAddr, time::Duration};

/// The version of the schema that this build reads.
pub const VERSION: u32 = 1;

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
}
