//! Caddy's access log as it is: that server can't write another. Its request is an object of its own, and its headers a
//! third one, with lists for values and in no order. <https://caddyserver.com/docs/caddyfile/directives/log>

use std::borrow::Cow;

use super::{
    schema::Place,
    value::{self, Scalar},
};

/// How its access loggers' names begin; it says so instead of a version.
pub(super) const LOGGER: &str = "http.log.access";

pub(super) fn field(key: &str) -> Option<Place> {
    Some(match key {
        "logger" => Place::Logger,
        "request" => Place::Object(request),
        "ts" => Place::Field(|report, value| value::time(&mut report.time, value)),
        "duration" => Place::Field(|report, value| value::seconds(&mut report.duration, value)),
        "size" => Place::Field(|report, value| value::whole(&mut report.bytes, value)),
        "level" | "msg" | "user_id" | "bytes_read" | "resp_headers" => Place::Unused,
        _ => return None,
    })
}

fn request(key: &str) -> Option<Place> {
    Some(match key {
        "remote_ip" => Place::Field(|report, value| value::address(&mut report.client, value)),
        "remote_port" => Place::Field(|report, value| value::port(&mut report.client_port, value)),
        "proto" => Place::Field(|report, value| value::text(&mut report.protocol, value)),
        "method" => Place::Field(|report, value| value::text(&mut report.method, value)),
        "host" => Place::Field(|report, value| value::text(&mut report.server_name, value)),
        "uri" => Place::Field(|report, value| value::text(&mut report.path, value)),
        "headers" => Place::Object(header),
        // What a proxy says of the client is no end of the connection.
        "client_ip" | "tls" => Place::Unused,
        _ => return None,
    })
}

/// Go writes every name so: each word with a capital.
fn header(name: &str) -> Option<Place> {
    Some(match name {
        "User-Agent" => Place::Listed(|report, value| value::text(&mut report.user_agent, value)),
        "Referer" => Place::Listed(|report, value| value::text(&mut report.referer, value)),
        "Accept" => Place::Listed(|report, value| value::text(&mut report.accept, value)),
        "Accept-Language" => Place::Listed(|report, value| value::text(&mut report.accept_language, value)),
        "Accept-Encoding" => Place::Listed(|report, value| value::text(&mut report.accept_encoding, value)),
        "Sec-Ch-Ua" => Place::Listed(|report, value| value::text(&mut report.client_hints, value)),
        "Sec-Ch-Ua-Mobile" => Place::Listed(|report, value| value::text(&mut report.client_hints_mobile, value)),
        "Sec-Ch-Ua-Platform" => Place::Listed(|report, value| value::text(&mut report.client_hints_platform, value)),
        "Sec-Fetch-Site" => Place::Listed(|report, value| value::text(&mut report.fetch_site, value)),
        "Sec-Fetch-Mode" => Place::Listed(|report, value| value::text(&mut report.fetch_mode, value)),
        "Sec-Fetch-Dest" => Place::Listed(|report, value| value::text(&mut report.fetch_dest, value)),
        "Sec-Fetch-User" => Place::Listed(|report, value| value::text(&mut report.fetch_user, value)),
        // Each proxy may add a line of its own, and the client's own come first.
        "X-Forwarded-For" => Place::Joined(|report, value| value::text(&mut report.forwarded_for, value)),
        // It says `REDACTED`, unless it is told to log credentials.
        "Cookie" => Place::Listed(|report, _| {
            report.cookie = Some(true);
            true
        }),
        // Every other header of a request stands here too.
        _ => Place::Unused,
    })
}

/// Whether a logger's name is that of an access log.
pub(super) fn is_access(logger: &Scalar<'_>) -> bool {
    matches!(logger, Scalar::Text(Cow::Borrowed(name)) if name.starts_with(LOGGER))
}
