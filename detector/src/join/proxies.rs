//! Reports of connections that are a proxy's: the configured ones in, the client behind one out (`X-Forwarded-For`,
//! read from those only: threats.md T7). And those nobody configured ([`super::suspected`]).
//!
//! Memory: the configured prefixes, and the candidates.

use std::collections::{BTreeSet, HashSet};
use std::hash::BuildHasher as _;
use std::net::{IpAddr, SocketAddr};

use foldhash::fast::RandomState;
use ipnet::IpNet;

use super::agent;
use super::subject::Subject;
use super::suspected::{Candidates, Family};
use crate::clock::Timestamp;
use crate::fingerprint::Ja4;
use crate::report::Report;

/// Clients of which the families are remembered, unless [`Proxies::watching`] says otherwise.
const CANDIDATES: usize = 16_384;

/// Addresses of `X-Forwarded-For` that are looked at, from the right.
const HOPS: usize = 32;

/// The proxies that an operator trusts, and what may be one.
#[derive(Debug)]
pub struct Proxies {
    prefixes: HashSet<IpNet>,
    /// Of IPv4 and IPv6 prefixes.
    lengths: [BTreeSet<u8>; 2],
    candidates: Candidates,
    random: RandomState,
}

impl Proxies {
    /// That trusts these prefixes.
    #[must_use]
    pub fn new(trusted: impl IntoIterator<Item = IpNet>) -> Self {
        let prefixes: HashSet<IpNet> = trusted.into_iter().map(|prefix| prefix.trunc()).collect();
        let lengths = |v4| prefixes.iter().filter(|net| net.addr().is_ipv4() == v4).map(IpNet::prefix_len).collect();
        let lengths = [lengths(true), lengths(false)];
        Self { prefixes, lengths, candidates: Candidates::new(CANDIDATES), random: RandomState::default() }
    }

    /// The same, with so many clients of which the families are remembered.
    #[must_use]
    pub fn watching(self, candidates: usize) -> Self {
        Self { candidates: Candidates::new(candidates), ..self }
    }

    /// Whether a connection from here is a trusted proxy's.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        let [v4, v6] = &self.lengths;
        let lengths = if address.is_ipv4() { v4 } else { v6 };
        let within =
            |length: &u8| IpNet::new(address, *length).is_ok_and(|prefix| self.prefixes.contains(&prefix.trunc()));
        lengths.iter().any(within)
    }

    /// The client behind a trusted proxy: the last address that no trusted proxy is. What stands before it anyone can
    /// have written.
    #[must_use]
    pub fn behind(&self, report: &Report<'_>) -> Option<Subject> {
        let hops = report.forwarded_for.as_deref()?.rsplit(',').take(HOPS).map(|hop| address(hop.trim()));
        let address = hops.take_while(Option::is_some).flatten().find(|address| !self.trusts(*address))?;
        let hash = |text: Option<&str>| text.map_or(0, |text| self.random.hash_one(text));
        let (agent, headers) = (hash(report.user_agent.as_deref()), hash(report.header_names.as_deref()));
        Some(Subject::Forwarded { address, agent, headers })
    }

    /// The family of the program that sent a request, if it says.
    pub(super) fn family(&self, report: &Report<'_>) -> Option<Family> {
        let hash = self.random.hash_one(agent::family(report.user_agent.as_deref()?));
        Some(Family::MIN | (hash >> 32) as u32)
    }

    /// A program of this family sent a request from `address`. Whether that may be a proxy's, which nobody told us of.
    pub(super) fn suspects(
        &mut self,
        address: IpAddr,
        ja4_stable: Ja4,
        family: Option<Family>,
        now: Timestamp,
    ) -> bool {
        self.candidates.note(self.random.hash_one((address, ja4_stable)), family, now)
    }
}

/// An address as it stands in `X-Forwarded-For`: some proxies write the port too.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse().or_else(|_| hop.parse::<SocketAddr>().map(|end| end.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::FAMILIES;

    fn proxies() -> Proxies {
        Proxies::new(["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()])
    }

    fn behind(forwarded_for: &str) -> Option<IpAddr> {
        let report = Report { forwarded_for: Some(forwarded_for.into()), ..Report::default() };
        proxies().behind(&report).map(|subject| match subject {
            Subject::Forwarded { address, .. } | Subject::Client { address, .. } => address,
        })
    }

    #[test]
    fn the_client_is_the_last_that_no_trusted_proxy_is() {
        let client = Some(IpAddr::from([192, 0, 2, 7]));
        assert_eq!(behind("192.0.2.7"), client);
        assert_eq!(behind("203.0.113.9, 192.0.2.7, 10.0.0.3"), client, "what stands before it may be forged");
        assert_eq!(behind("192.0.2.7:4711,2001:db8::1"), client);
        assert_eq!(behind("::ffff:192.0.2.7"), client);
        assert_eq!(behind("[2001:db9::1]:443"), Some("2001:db9::1".parse().unwrap()));
        for nobody in ["", "10.0.0.1, 10.0.0.2", "192.0.2.7, unknown", "192.0.2.7, _hidden, 10.0.0.1", "a\n"] {
            assert_eq!(behind(nobody), None, "{nobody}");
        }
        assert_eq!(proxies().behind(&Report::default()), None);
    }

    #[test]
    fn a_subject_behind_a_proxy_is_told_apart_by_what_it_sends() {
        let proxies = proxies();
        let subject = |agent: &'static str, headers: &'static str| {
            let forwarded_for = Some("192.0.2.7".into());
            let report = Report {
                forwarded_for,
                user_agent: Some(agent.into()),
                header_names: Some(headers.into()),
                ..Report::default()
            };
            proxies.behind(&report).unwrap()
        };
        assert_eq!(subject("curl/8.0", "Host,Accept"), subject("curl/8.0", "Host,Accept"));
        assert_ne!(subject("curl/8.0", "Host,Accept"), subject("curl/8.0", "Accept,Host"));
        assert_ne!(subject("curl/8.0", "Host,Accept"), subject("curl/8.1", "Host,Accept"));
    }

    #[test]
    fn eight_families_on_one_address_and_fingerprint_are_suspected() {
        let mut proxies = proxies();
        let ja4: Ja4 = "t13d1516h2_8daaf6152771_e5627efa2ab1".parse().unwrap();
        let here = IpAddr::from([192, 0, 2, 7]);
        let mut suspects = |address, agent: Option<String>| {
            let report = Report { user_agent: agent.map(Into::into), ..Report::default() };
            let family = proxies.family(&report);
            proxies.suspects(address, ja4, family, Timestamp::default())
        };
        // However many versions of one program: a household, an office.
        assert!(!(0..1000).any(|version| suspects(here, Some(format!("curl/{version}.0")))));
        for number in 1..FAMILIES - 1 {
            assert!(!suspects(here, Some(format!("agent{number}/1.0"))));
        }
        assert!(!suspects(here, None));
        assert!(suspects(here, Some("last/1.0".into())));
        assert!(suspects(here, Some("one more/1.0".into())));
        assert!(suspects(here, None));
        assert!(!suspects(IpAddr::from([192, 0, 2, 8]), Some("last/1.0".into())), "only there");
    }
}
