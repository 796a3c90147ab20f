//! Whose request it is: the address at the other end of the web server's connection, or, where that is a trusted
//! proxy's, whom the proxies name (threats.md T7). The only place where `X-Forwarded-For` is read.
//!
//! Memory: the configured prefixes.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Proxies in a row that are looked at: nobody has more.
pub const HOPS_MAX: usize = 16;

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Of the client at the other end of the connection.
    Client(IpAddr),
    /// Of the client that a trusted proxy names: the connection, its hello and its address are the proxy's.
    Forwarded(IpAddr),
    /// Of a trusted proxy, which names no client.
    Proxy,
}

/// The proxies that an operator trusts.
#[derive(Clone, Debug)]
pub struct Trusted {
    prefixes: HashSet<IpNet>,
    /// Of IPv4 and IPv6 prefixes.
    lengths: [BTreeSet<u8>; 2],
}

impl Trusted {
    /// These.
    #[must_use]
    pub fn new(prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        let prefixes: HashSet<IpNet> = prefixes.into_iter().map(|prefix| prefix.trunc()).collect();
        let lengths = |v4| prefixes.iter().filter(|net| net.addr().is_ipv4() == v4).map(IpNet::prefix_len).collect();
        let lengths = [lengths(true), lengths(false)];
        Self { prefixes, lengths }
    }

    /// Whether this is one's address. IPv4 in its plain form.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        let [v4, v6] = &self.lengths;
        let lengths = if address.is_ipv4() { v4 } else { v6 };
        let within =
            |length: &u8| IpNet::new(address, *length).is_ok_and(|prefix| self.prefixes.contains(&prefix.trunc()));
        lengths.iter().any(within)
    }

    /// Whose request it is that came from `peer`; `hops`: by whom, as proxies say, the nearest first. They are believed
    /// only as far as those that say so are trusted: what stands behind that anybody can have written. One that is no
    /// address ends the way.
    #[must_use]
    pub fn source(&self, peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>) -> Source {
        let peer = peer.to_canonical();
        if !self.has(peer) {
            return Source::Client(peer);
        }
        let named = hops.take(HOPS_MAX).find(|hop| hop.is_none_or(|hop| !self.has(hop)));
        named.flatten().map_or(Source::Proxy, Source::Forwarded)
    }
}

/// The addresses of `X-Forwarded-For`, the nearest first: each proxy writes at the right end. Several lines of it are one
/// list. What is no address is `None`.
pub fn hops<'a>(lines: impl DoubleEndedIterator<Item = &'a str>) -> impl Iterator<Item = Option<IpAddr>> {
    lines.rev().flat_map(|line| line.rsplit(',')).map(|hop| address(hop.trim()))
}

/// An address as proxies write it: some put one of IPv6 in brackets, or add the port.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse().or_else(|_| hop.parse::<SocketAddr>().map(|end| end.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a connection from `peer` with these lines of `X-Forwarded-For`.
    fn source(peer: &str, lines: &[&str]) -> Source {
        let trusted = Trusted::new(["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        trusted.source(peer.parse().unwrap(), hops(lines.iter().copied()))
    }

    #[test]
    fn the_client_is_the_nearest_that_no_trusted_proxy_is() {
        let stranger = Source::Forwarded("192.0.2.7".parse().unwrap());
        let far = ["192.0.2.7", &", 10.0.0.2".repeat(HOPS_MAX - 1)].concat();
        let too_far = ["192.0.2.7", &", 10.0.0.2".repeat(HOPS_MAX)].concat();
        let table: &[(&str, &[&str], Source)] = &[
            ("192.0.2.9", &[], Source::Client("192.0.2.9".parse().unwrap())),
            ("192.0.2.9", &["192.0.2.7"], Source::Client("192.0.2.9".parse().unwrap())),
            ("::ffff:192.0.2.9", &["10.0.0.1"], Source::Client("192.0.2.9".parse().unwrap())),
            ("10.0.0.1", &["192.0.2.7"], stranger),
            ("::ffff:10.0.0.1", &["192.0.2.7"], stranger),
            ("2001:db8::5", &["192.0.2.7"], stranger),
            // What stands left of a stranger is that one's own word.
            ("10.0.0.1", &["203.0.113.9, 192.0.2.7"], stranger),
            ("10.0.0.1", &["10.0.0.9, 192.0.2.7"], stranger),
            ("10.0.0.1", &["203.0.113.9,192.0.2.7 , 10.2.3.4,2001:db8::5"], stranger),
            ("10.0.0.1", &["203.0.113.9", "192.0.2.7, 10.2.3.4"], stranger),
            ("10.0.0.1", &["192.0.2.7", "10.2.3.4"], stranger),
            ("10.0.0.1", &["192.0.2.7:4711,[2001:db8::1]:443,[2001:db8::2]"], stranger),
            ("10.0.0.1", &["::ffff:192.0.2.7, ::ffff:10.0.0.4"], stranger),
            ("10.0.0.1", &[&far], stranger),
            ("10.0.0.1", &[&too_far], Source::Proxy),
            // Nobody knows who wrote what is left of these.
            ("10.0.0.1", &["192.0.2.7, unknown"], Source::Proxy),
            ("10.0.0.1", &["192.0.2.7, _hidden, 10.0.0.1"], Source::Proxy),
            ("10.0.0.1", &["192.0.2.7,"], Source::Proxy),
            ("10.0.0.1", &["192.0.2.7", ""], Source::Proxy),
            ("10.0.0.1", &["192.0.2.7", "\n"], Source::Proxy),
            ("10.0.0.1", &["10.0.0.3, 10.9.9.9"], Source::Proxy),
            ("10.0.0.1", &[], Source::Proxy),
        ];
        for (peer, lines, expected) in table {
            assert_eq!(source(peer, lines), *expected, "{peer} {lines:?}");
        }
    }
}
