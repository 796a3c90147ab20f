//! What the signals take of one request.

use std::net::IpAddr;

use crate::fingerprint::Ja4;
use crate::report::Report;

/// A request, as far as the signals are about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// JA4 of its connection's hello.
    pub ja4: Ja4,
    /// Whom it is from.
    pub address: IpAddr,
    /// Its User-Agent.
    pub user_agent: Option<&'a str>,
    /// Its path, without a query.
    pub path: Option<&'a str>,
    /// It came over HTTP/2 or HTTP/3.
    pub h2h3: bool,
    /// A cache may keep the answer.
    pub cacheable: bool,
    /// A heuristic caught it.
    pub heuristic: bool,
    /// It looks like a browser's.
    pub browser: bool,
    /// Its address and User-Agent were counted within the last minute: it adds nothing to those.
    pub again: bool,
}

/// What caches say of an answer that they won't keep; nginx and its like write them in capitals.
const UNCACHEABLE: [&str; 4] = ["BYPASS", "DYNAMIC", "NONE", "UNCACHEABLE"];

impl<'a> Request<'a> {
    /// That a report tells of, of a connection with this JA4.
    #[must_use]
    pub fn of(report: &'a Report<'_>, ja4: Ja4, address: IpAddr, heuristic: bool, browser: bool) -> Self {
        let protocol = report.protocol.as_deref().unwrap_or_default();
        let cacheable = |cache: &str| !UNCACHEABLE.iter().any(|word| word.eq_ignore_ascii_case(cache));
        Self {
            ja4,
            address,
            user_agent: report.user_agent.as_deref(),
            path: report.path.as_deref().map(|path| path.split(['?', '#']).next().unwrap_or(path)),
            h2h3: protocol.starts_with("HTTP/2") || protocol.starts_with("HTTP/3"),
            cacheable: report.cache.as_deref().is_some_and(cacheable),
            heuristic,
            browser,
            again: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_counted() {
        let ja4: Ja4 = "t13d1516h2_8daaf6152771_e5627efa2ab1".parse().unwrap();
        let request = |protocol: &'static str, path: &'static str, cache: Option<&'static str>| {
            let report = Report {
                protocol: Some(protocol.into()),
                path: Some(path.into()),
                cache: cache.map(Into::into),
                ..Report::default()
            };
            let request = Request::of(&report, ja4, IpAddr::from([192, 0, 2, 7]), false, true);
            (request.h2h3, request.path.unwrap().to_owned(), request.cacheable)
        };
        assert_eq!(request("HTTP/2.0", "/a?b=1#c", Some("HIT")), (true, "/a".into(), true));
        assert_eq!(request("HTTP/3", "/", Some("MISS")), (true, "/".into(), true));
        assert_eq!(request("HTTP/1.1", "", Some("Bypass")), (false, String::new(), false));
        assert_eq!(request("HTTP/1.1", "/a", None), (false, "/a".into(), false));
    }
}
