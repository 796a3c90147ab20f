//! A question's headers in, what they say out. A header that is absent or says nothing readable is `None`: a web server
//! always gets an answer.

use std::{net::IpAddr, str::FromStr, time::Duration};

use crate::{
    join::{Source, Trusted, hops},
    report::Report,
};
use hyper::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, HeaderMap, HeaderName, REFERER, USER_AGENT};

const CLIENT: HeaderName = HeaderName::from_static("x-detector-client");
const CLIENT_PORT: HeaderName = HeaderName::from_static("x-detector-client-port");
const SERVER: HeaderName = HeaderName::from_static("x-detector-server");
const SERVER_PORT: HeaderName = HeaderName::from_static("x-detector-server-port");
const CONNECTION_AGE: HeaderName = HeaderName::from_static("x-detector-connection-age");
const PROTOCOL: HeaderName = HeaderName::from_static("x-detector-protocol");
const HOST: HeaderName = HeaderName::from_static("x-detector-host");
const PROXIED_CLIENT: HeaderName = HeaderName::from_static("x-detector-proxied-client");
const PROXIED_CLIENT_PORT: HeaderName = HeaderName::from_static("x-detector-proxied-client-port");
const PROXIED_SERVER: HeaderName = HeaderName::from_static("x-detector-proxied-server");
const PROXIED_SERVER_PORT: HeaderName = HeaderName::from_static("x-detector-proxied-server-port");
const HEADER_NAMES: HeaderName = HeaderName::from_static("x-detector-header-names");
const METHOD: HeaderName = HeaderName::from_static("x-detector-method");
const URI: HeaderName = HeaderName::from_static("x-detector-uri");
const SESSION: HeaderName = HeaderName::from_static("x-detector-session");
const CLIENT_HINTS: HeaderName = HeaderName::from_static("sec-ch-ua");
const CLIENT_HINTS_MOBILE: HeaderName = HeaderName::from_static("sec-ch-ua-mobile");
const CLIENT_HINTS_PLATFORM: HeaderName = HeaderName::from_static("sec-ch-ua-platform");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const FETCH_USER: HeaderName = HeaderName::from_static("sec-fetch-user");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The longest connection age that is believed: a year.
const AGE_MAX: f64 = 366.0 * 86_400.0;

/// What a web server asks. Text is the client's, as the server passed it on.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    headers: &'a HeaderMap,
}

impl<'a> Question<'a> {
    /// The question in a request's headers.
    #[must_use]
    pub const fn new(headers: &'a HeaderMap) -> Self {
        Self { headers }
    }

    /// What the request's report would say of it by now, as far as the server has told.
    #[must_use]
    pub fn report(&self) -> Report<'a> {
        let text = |name: &HeaderName| self.text(name).map(Into::into);
        Report {
            client: self.address(&CLIENT),
            client_port: self.read(&CLIENT_PORT),
            server: self.address(&SERVER),
            server_port: self.read(&SERVER_PORT),
            proxied_client: self.address(&PROXIED_CLIENT),
            proxied_client_port: self.read(&PROXIED_CLIENT_PORT),
            proxied_server: self.address(&PROXIED_SERVER),
            proxied_server_port: self.read(&PROXIED_SERVER_PORT),
            connection_age: self.connection_age(),
            server_name: text(&HOST),
            method: text(&METHOD),
            path: text(&URI),
            protocol: text(&PROTOCOL),
            user_agent: text(&USER_AGENT),
            session: text(&SESSION).filter(|id| !id.is_empty() && id != "-"),
            referer: text(&REFERER),
            accept: text(&ACCEPT),
            accept_language: text(&ACCEPT_LANGUAGE),
            accept_encoding: text(&ACCEPT_ENCODING),
            client_hints: text(&CLIENT_HINTS),
            client_hints_mobile: text(&CLIENT_HINTS_MOBILE),
            client_hints_platform: text(&CLIENT_HINTS_PLATFORM),
            fetch_site: text(&FETCH_SITE),
            fetch_mode: text(&FETCH_MODE),
            fetch_dest: text(&FETCH_DEST),
            fetch_user: text(&FETCH_USER),
            header_names: text(&HEADER_NAMES),
            ..Report::default()
        }
    }

    /// The site's name: what the client asked for, without a port.
    #[must_use]
    pub fn site(&self) -> Option<&'a str> {
        let host = self.text(&HOST)?;
        // An IPv6 address has colons of its own, in brackets.
        let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        Some(name.map_or(host, |(name, _)| name))
    }

    /// Whose request it is, if the server says. One that can't set `x-detector-client` has written its own client at the
    /// right end of `x-forwarded-for`. The PROXY protocol's word is nearer than that header's, as in reports.
    #[must_use]
    pub fn source(&self, trusted: &Trusted) -> Option<Source> {
        let lines = self.headers.get_all(FORWARDED_FOR).iter();
        let mut hops = hops(lines.map(|line| line.to_str().unwrap_or_default()));
        let nearest = match self.text(&CLIENT) {
            Some(client) => address(client),
            None => hops.next().flatten(),
        };
        let told = self.address(&PROXIED_CLIENT).map(Some);
        Some(trusted.source(nearest?, told.into_iter().chain(hops)))
    }

    fn text(&self, name: &HeaderName) -> Option<&'a str> {
        self.headers.get(name)?.to_str().ok().filter(|text| !text.is_empty())
    }

    fn read<T: FromStr>(&self, name: &HeaderName) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    fn address(&self, name: &HeaderName) -> Option<IpAddr> {
        address(self.text(name)?)
    }

    /// Seconds, with a fraction.
    fn connection_age(&self) -> Option<Duration> {
        let age: f64 = self.read(&CONNECTION_AGE)?;
        (0.0..=AGE_MAX).contains(&age).then(|| Duration::from_secs_f64(age))
    }
}

/// An address in its plain form; some servers put an IPv6 one in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn source(lines: &[(&'static str, &str)]) -> Option<Source> {
        Question::new(&headers(lines)).source(&Trusted::new(["10.0.0.0/8".parse().unwrap()]))
    }

    fn client(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_question_says_what_its_server_told() {
        let headers = headers(&[
            ("x-detector-client", "::ffff:192.0.2.7"),
            ("x-detector-client-port", "40000"),
            ("x-detector-server", "[2001:db8::1]"),
            ("x-detector-server-port", "443"),
            ("x-detector-connection-age", "1.250"),
            ("x-detector-host", "shop.example:8443"),
            ("x-detector-uri", "/a?b"),
            ("x-detector-proxied-client", "192.0.2.8"),
            ("x-detector-proxied-client-port", "40001"),
            ("x-detector-proxied-server", "2001:db8::2"),
            ("x-detector-proxied-server-port", "8443"),
            ("x-detector-header-names", "Host,User-Agent"),
        ]);
        let question = Question::new(&headers);
        let expected = Report {
            client: Some(client("192.0.2.7")),
            client_port: Some(40_000),
            server: Some(client("2001:db8::1")),
            server_port: Some(443),
            connection_age: Some(Duration::from_millis(1250)),
            server_name: Some("shop.example:8443".into()),
            path: Some("/a?b".into()),
            proxied_client: Some(client("192.0.2.8")),
            proxied_client_port: Some(40_001),
            proxied_server: Some(client("2001:db8::2")),
            proxied_server_port: Some(8443),
            header_names: Some("Host,User-Agent".into()),
            ..Report::default()
        };
        assert_eq!((question.report(), question.site()), (expected, Some("shop.example")));
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        for (name, value) in [
            ("x-detector-client", "unix:"),
            ("x-detector-client-port", "65536"),
            ("x-detector-server", ""),
            ("x-detector-connection-age", "-1"),
            ("x-detector-connection-age", "NaN"),
            ("x-detector-connection-age", "1e300"),
            ("x-detector-host", "caf\u{e9}"),
        ] {
            assert_eq!(Question::new(&headers(&[(name, value)])).report(), Report::default(), "{name}: {value}");
        }
        let site = |host| Question::new(&headers(&[("x-detector-host", host)])).site().map(str::to_owned);
        assert_eq!(site("[2001:db8::1]:443").as_deref(), Some("[2001:db8::1]"));
        assert_eq!(site("shop.example").as_deref(), Some("shop.example"));
    }

    #[test]
    fn a_client_cannot_name_another_one() {
        let forged = ("x-forwarded-for", "198.51.100.1, 198.51.100.2");
        let direct = Some(Source::Client(client("192.0.2.7")));
        assert_eq!(source(&[("x-detector-client", "192.0.2.7"), forged]), direct);
        assert_eq!(source(&[("x-detector-client", "nonsense"), forged]), None);
        let nearest = Some(Source::Client(client("198.51.100.2")));
        assert_eq!(source(&[forged]), nearest, "what a server wrote that sets no more");
        assert_eq!(source(&[]), None);
    }

    /// How the header is read, `join::trusted` has in a table.
    #[test]
    fn behind_a_trusted_proxy_its_client_counts() {
        let proxy = ("x-detector-client", "10.0.0.1");
        let stranger = Some(Source::Forwarded(client("192.0.2.7")));
        let lines = [proxy, ("x-forwarded-for", "198.51.100.9"), ("x-forwarded-for", "192.0.2.7, 10.2.3.4")];
        assert_eq!(source(&lines), stranger, "several lines are one list");
        assert_eq!(source(&[("x-forwarded-for", "192.0.2.7, 10.2.3.4")]), stranger);
        assert_eq!(source(&[proxy, ("x-forwarded-for", "192.0.2.7, caf\u{e9}")]), Some(Source::Proxy));
        assert_eq!(source(&[proxy]), Some(Source::Proxy));
        let told = ("x-detector-proxied-client", "192.0.2.7");
        assert_eq!(source(&[proxy, told, ("x-forwarded-for", "198.51.100.9")]), stranger, "it is nearer");
        let anybody = Some(Source::Client(client("192.0.2.8")));
        assert_eq!(source(&[("x-detector-client", "192.0.2.8"), told]), anybody, "anybody can say so");
    }
}
