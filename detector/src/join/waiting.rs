//! Reports in, each with its hello out, at once or when that has come: [`Join`].
//!
//! A report waits while no hello is there for it, or while one is that it might not be of; and while an earlier one of
//! its client end waits, so that each is looked at knowing what came before it. At the end of its time it gets what
//! is possible, or a reason. Over UDP nobody sees a connection's end: there each report waits until the hello of a next one
//! on its ports would have been proven.
//!
//! Memory: [`Bounds::waiting`] reports, 200 bytes each and what the caller keeps of them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use super::claim::Claim;
use super::connections::{Fit, Found};
use super::lookup::Lookup;
use super::miss::{Counts, Miss, Outcome};
use super::proxies::{Program, Proxies};
use super::subject::Subject;
use super::trusted::{Source, Trusted};
use super::tuple::{Carrier, End};
use crate::clock::Timestamp;
use crate::flow::Aged;
use crate::report::Report;

/// The bounds of what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Reports that wait for their hello.
    pub waiting: usize,
    /// How long one does.
    pub wait: Duration,
    /// How long one over UDP does: longer than a hello waits for its proof.
    pub wait_udp: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { waiting: 16_384, wait: Duration::from_secs(5), wait_udp: Duration::from_millis(1500) }
    }
}

#[derive(Debug)]
struct Waiting<T> {
    claim: Claim,
    /// That sent the request.
    program: Option<Program>,
    until: Timestamp,
    kept: T,
}

/// Finds the hello of each report. `T` is what the caller keeps of one that waits.
#[derive(Debug)]
pub struct Join<T> {
    bounds: Bounds,
    proxies: Proxies,
    /// In the order they came.
    waiting: Aged<Waiting<T>, u64>,
    ends: Aged<VecDeque<u64>, End>,
    came: u64,
    counts: Counts,
}

impl<T> Join<T> {
    /// With none waiting.
    #[must_use]
    pub fn new(bounds: Bounds, proxies: Proxies) -> Self {
        let most = bounds.waiting.max(1);
        let (waiting, ends) = (Aged::new(most), Aged::new(most));
        Self { bounds, proxies, waiting, ends, came: 0, counts: Counts::default() }
    }

    /// Trusts these proxies from now on.
    pub fn trust(&mut self, trusted: Trusted) {
        self.proxies.trust(trusted);
    }

    /// Reports that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What became of the others.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A report came. What it is about, if that is known already; else `keep` is called, and `out` later. The one that
    /// has waited longest makes room.
    pub fn report(
        &mut self,
        connections: &mut impl Lookup,
        report: &Report<'_>,
        arrived: Timestamp,
        keep: impl FnOnce() -> T,
        out: &mut impl FnMut(T, Outcome),
    ) -> Option<Outcome> {
        let program = self.proxies.program(report);
        match self.place(connections, report, program, arrived) {
            Ok(outcome) => {
                self.counts.note(&outcome);
                Some(outcome)
            }
            Err(claim) => {
                if self.waiting.len() >= self.bounds.waiting.max(1) {
                    self.settle_oldest(connections, Miss::Evicted, out);
                }
                self.hold(claim, program, keep());
                None
            }
        }
    }

    /// The hello of a client end was told to `connections`: reports may have waited for it.
    pub fn begun(&mut self, connections: &mut impl Lookup, end: &End, out: &mut impl FnMut(T, Outcome)) {
        while let Some(number) = self.ends.get(end).and_then(|numbers| numbers.front().copied()) {
            let Some(waiting) = self.waiting.get(&number) else { return };
            let (claim, program) = (waiting.claim, waiting.program);
            let Some(outcome) = self.found(connections.fit(&claim, false), &claim, program) else { return };
            self.release(number, outcome, out);
        }
    }

    /// Reports that waited long enough get what is possible.
    pub fn due(&mut self, connections: &mut impl Lookup, now: Timestamp, out: &mut impl FnMut(T, Outcome)) {
        while self.waiting.oldest().is_some_and(|(_, waiting)| waiting.until <= now) {
            self.settle_oldest(connections, Miss::NoHello, out);
        }
        connections.expire(now);
    }

    /// What a report is about, or that it has to wait.
    fn place(
        &mut self,
        connections: &mut impl Lookup,
        report: &Report<'_>,
        program: Option<Program>,
        at: Timestamp,
    ) -> Result<Outcome, Claim> {
        match self.proxies.source(report) {
            Some(Source::Proxy) => return Ok(Outcome::Missed(Miss::NoClient)),
            Some(Source::Forwarded(address)) => return Ok(self.forwarded(connections, report, program, at, address)),
            Some(Source::Client(_)) | None => {}
        }
        let Some(claim) = Claim::of(report, at) else { return Ok(Outcome::Missed(Miss::NoTuple)) };
        if self.ends.get(&claim.client).is_some() || claim.client.carrier == Carrier::Udp {
            return Err(claim);
        }
        self.found(connections.fit(&claim, false), &claim, program).ok_or(claim)
    }

    /// What a report by a trusted proxy is about. If the proxy takes its clients' connections on this host, and says
    /// which one it is, the client's own hello may be known. It isn't waited for: mostly none will come.
    fn forwarded(
        &mut self,
        connections: &mut impl Lookup,
        report: &Report<'_>,
        program: Option<Program>,
        at: Timestamp,
        address: IpAddr,
    ) -> Outcome {
        let claim = Claim::proxied(report, at).filter(|claim| claim.client.address == address);
        let own = claim.and_then(|claim| match connections.fit(&claim, false) {
            fit @ Fit::Sure(_) => self.found(fit, &claim, program),
            _ => None,
        });
        let known = own.filter(|outcome| matches!(outcome, Outcome::Joined(..)));
        known.unwrap_or_else(|| Outcome::Forwarded(self.proxies.apart().subject(address, report)))
    }

    fn hold(&mut self, claim: Claim, program: Option<Program>, kept: T) {
        let number = self.came;
        self.came = self.came.wrapping_add(1);
        match self.ends.get_mut(&claim.client) {
            Some(numbers) => numbers.push_back(number),
            None => drop(self.ends.insert(claim.client, VecDeque::from([number]))),
        }
        let wait = if claim.client.carrier == Carrier::Udp { self.bounds.wait_udp } else { self.bounds.wait };
        let until = claim.arrived.plus(wait);
        self.waiting.insert(number, Waiting { claim, program, until, kept });
    }

    /// Tells what the one that came first is about as well as can be; `unknown`: what it is if there is no hello at all.
    fn settle_oldest(&mut self, connections: &mut impl Lookup, unknown: Miss, out: &mut impl FnMut(T, Outcome)) {
        let Some((&number, waiting)) = self.waiting.oldest() else { return };
        let (claim, program) = (waiting.claim, waiting.program);
        let fit = connections.fit(&claim, true);
        let missed = match fit {
            Fit::Unknown => unknown,
            Fit::Ambiguous => Miss::Ambiguous,
            _ => Miss::Expired,
        };
        let outcome = self.found(fit, &claim, program).unwrap_or(Outcome::Missed(missed));
        self.release(number, outcome, out);
    }

    fn release(&mut self, number: u64, outcome: Outcome, out: &mut impl FnMut(T, Outcome)) {
        let Some(Waiting { claim, kept, .. }) = self.waiting.remove(&number) else { return };
        if let Some(numbers) = self.ends.get_mut(&claim.client) {
            numbers.pop_front(); // the first to come is the first to go
            if numbers.is_empty() {
                self.ends.remove(&claim.client);
            }
        }
        self.counts.note(&outcome);
        out(kept, outcome);
    }

    /// What is sure of a report.
    fn found(&mut self, fit: Fit, claim: &Claim, program: Option<Program>) -> Option<Outcome> {
        match fit {
            Fit::Sure(Found { identity, .. }) if identity.void => Some(Outcome::Missed(Miss::Void)),
            Fit::Sure(mut found) => {
                let (address, ja4_stable) = (claim.client.address, found.identity.ja4_stable);
                let (proxy_suspected, again) =
                    self.proxies.suspects((found.connection, address), ja4_stable, program, claim.arrived);
                found.again = again;
                Some(Outcome::Joined(Subject::Client { address, ja4_stable, proxy_suspected }, found))
            }
            Fit::Ambiguous => Some(Outcome::Missed(Miss::Ambiguous)),
            Fit::Doubtful(_) | Fit::Unfitting | Fit::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests;
