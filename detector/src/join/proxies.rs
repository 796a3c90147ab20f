//! Reports of connections that are a proxy's: of one that is trusted in, the client behind it out. And those nobody
//! configured ([`super::suspected`]).
//!
//! Memory: the configured prefixes, the candidates, [`Lately`], and 16 KiB.

use std::hash::BuildHasher as _;
use std::net::IpAddr;

use detector_common::key::mix;
use foldhash::fast::RandomState;

use super::lately::Lately;
use super::subject::Subject;
use super::suspected::{Candidates, Family, Suspicion};
use super::trusted::{Source, Trusted, hops};
use crate::agent;
use crate::clock::Timestamp;
use crate::fingerprint::Ja4;
use crate::report::Report;

/// Clients of which the families are remembered, unless [`Proxies::watching`] says otherwise.
const CANDIDATES: usize = 16_384;

/// User-Agents whose families are remembered: most requests have one of a few.
const AGENTS: usize = 1024;
const AGENTS_MASK: u64 = AGENTS as u64 - 1;

/// What a User-Agent says of the program that sent it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    /// A hash of all of it.
    agent: u64,
    family: Family,
}

/// Tells apart who sends from one address behind a trusted proxy. Clones tell the same clients apart.
#[derive(Clone, Debug, Default)]
pub struct Apart(RandomState);

impl Apart {
    /// Who sends from `address` behind a trusted proxy, by what they send.
    #[must_use]
    pub fn subject(&self, address: IpAddr, report: &Report<'_>) -> Subject {
        let hash = |text: Option<&str>| text.map_or(0, |text| self.0.hash_one(text));
        let (agent, headers) = (hash(report.user_agent.as_deref()), hash(report.header_names.as_deref()));
        Subject::Forwarded { address, agent, headers }
    }
}

/// The proxies that an operator trusts, and what may be one.
#[derive(Debug)]
pub struct Proxies {
    trusted: Trusted,
    candidates: Candidates,
    apart: Apart,
    random: RandomState,
    /// Each at its hash's place, until another one has that.
    agents: Box<[Program]>,
    lately: Lately,
}

impl Proxies {
    /// That trusts these.
    #[must_use]
    pub fn new(trusted: Trusted) -> Self {
        let (candidates, random) = (Candidates::new(CANDIDATES), RandomState::default());
        let agents = vec![Program { agent: 0, family: Family::MIN }; AGENTS].into();
        Self { trusted, candidates, apart: Apart::default(), random, agents, lately: Lately::default() }
    }

    /// The same, with so many clients of which the families are remembered.
    #[must_use]
    pub fn watching(self, candidates: usize) -> Self {
        Self { candidates: Candidates::new(candidates), ..self }
    }

    /// Trusts these from now on.
    pub fn trust(&mut self, trusted: Trusted) {
        self.trusted = trusted;
    }

    /// Whose request it is, if its report names the connection's end. Of a trusted proxy the PROXY protocol's word is
    /// nearer than the request's headers.
    #[must_use]
    pub fn source(&self, report: &Report<'_>) -> Option<Source> {
        let told = report.proxied_client.map(|client| Some(client.to_canonical()));
        let hops = told.into_iter().chain(hops(report.forwarded_for.as_deref().into_iter()));
        Some(self.trusted.source(report.client?, hops))
    }

    /// What tells clients behind a trusted proxy apart.
    #[must_use]
    pub const fn apart(&self) -> &Apart {
        &self.apart
    }

    /// The program that sent a request, if it says.
    pub(super) fn program(&mut self, report: &Report<'_>) -> Option<Program> {
        let agent = report.user_agent.as_deref()?;
        let hash = mix(self.random.hash_one(agent));
        let known = self.agents.get_mut((hash & AGENTS_MASK) as usize)?;
        if known.agent != hash {
            let family = Family::MIN | (self.random.hash_one(agent::family(agent)) >> 32) as u32;
            *known = Program { agent: hash, family };
        }
        Some(*known)
    }

    /// This program sent a request over a connection from `address`. Whether that may be a proxy's, which nobody told us
    /// of; and whether nothing of this is news.
    pub(super) fn suspects(
        &mut self,
        (connection, address): (u64, IpAddr),
        ja4_stable: Ja4,
        program: Option<Program>,
        now: Timestamp,
    ) -> (bool, bool) {
        let agent = program.map_or(0, |program| program.agent);
        if self.lately.has(connection, agent, now) {
            return (false, true);
        }
        let client = self.random.hash_one((address, ja4_stable));
        let suspicion = self.candidates.note(client, program.map(|program| program.family), now);
        match suspicion {
            Suspicion::None => self.lately.note(connection, agent, now),
            // The address's other connections are to be looked at again.
            Suspicion::Begins => self.lately.forget_all(),
            Suspicion::Stays => {}
        }
        (suspicion != Suspicion::None, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::FAMILIES;

    fn proxies() -> Proxies {
        Proxies::new(Trusted::new(["10.0.0.0/8".parse().unwrap()]))
    }

    #[test]
    fn the_proxy_protocol_names_the_client_before_any_header() {
        let source = |client: [u8; 4], proxied: Option<[u8; 4]>| {
            let report = Report {
                client: Some(client.into()),
                proxied_client: proxied.map(IpAddr::from),
                forwarded_for: Some("203.0.113.9".into()),
                ..Report::default()
            };
            proxies().source(&report)
        };
        let forwarded = |address: [u8; 4]| Some(Source::Forwarded(address.into()));
        assert_eq!(source([10, 0, 0, 1], Some([192, 0, 2, 7])), forwarded([192, 0, 2, 7]));
        assert_eq!(source([10, 0, 0, 1], Some([10, 0, 0, 2])), forwarded([203, 0, 113, 9]), "that is a proxy too");
        assert_eq!(source([10, 0, 0, 1], None), forwarded([203, 0, 113, 9]));
        let stranger = Some(Source::Client([192, 0, 2, 8].into()));
        assert_eq!(source([192, 0, 2, 8], Some([192, 0, 2, 7])), stranger, "anybody can say so");
        assert_eq!(proxies().source(&Report::default()), None);
    }

    #[test]
    fn a_subject_behind_a_proxy_is_told_apart_by_what_it_sends() {
        let proxies = proxies();
        let apart = proxies.apart().clone();
        let subject = |agent: &'static str, headers: &'static str| {
            let (user_agent, header_names) = (Some(agent.into()), Some(headers.into()));
            apart.subject([192, 0, 2, 7].into(), &Report { user_agent, header_names, ..Report::default() })
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
        let mut number = 0;
        let mut suspects = |address, agent: Option<String>| {
            number += 1;
            let report = Report { user_agent: agent.map(Into::into), ..Report::default() };
            let program = proxies.program(&report);
            proxies.suspects((number, address), ja4, program, Timestamp::default()).0
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
