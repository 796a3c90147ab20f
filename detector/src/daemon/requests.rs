//! Operators' orders about requests: in force here, and nowhere in the kernel. In: the same requests that the packet path
//! gets. Memory: see [`Verdicts`].

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ipnet::IpNet;

use super::engine::Handle;
use crate::{
    admin::protocol::{self, Action, Change, Changed, Entry, Origin, PAGE, Request, Response},
    clock::{Timestamp, monotonic, wall},
    fingerprint::Ja4,
    policy::{
        requests::{Kind, Listed, Order, Ruling, Verdicts},
        subject::Subject,
        terms::{Layer, Measure, Terms},
        ttl::Ttl,
    },
};

/// What is in force of requests.
pub(super) struct Requests(RwLock<Verdicts>);

impl Requests {
    pub(super) fn new(most: usize) -> Self {
        Self(RwLock::new(Verdicts::new(most)))
    }

    fn read(&self) -> RwLockReadGuard<'_, Verdicts> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Verdicts> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to become of a request.
    pub(super) fn decide(&self, address: IpAddr, ja4: Option<Ja4>) -> Ruling {
        self.read().decide(address, ja4, monotonic())
    }

    /// Whether the allow list or the never-block set has an address.
    pub(super) fn spares(&self, address: IpAddr, now: Timestamp) -> bool {
        self.read().spares(address, now)
    }

    /// Makes these what is never blocked.
    pub(super) fn never_block(&self, prefixes: Vec<IpNet>) {
        self.write().never_block(prefixes);
    }

    /// Clears what has ended. How many there are then.
    pub(super) fn expire(&self) -> usize {
        let mut verdicts = self.write();
        verdicts.expire(monotonic());
        verdicts.len()
    }

    /// Puts an order about requests in force.
    fn order(&self, request: &Request) -> Response {
        let (subject, ttl, order, change, terms) = match request {
            Request::Block { subject, ttl, terms, .. } => match Order::of(terms.measure) {
                Some(order) if !terms.automatic => (subject, *ttl, order, Change::from(terms.measure), *terms),
                _ => {
                    let reason = "requests are blocked or observed, by operators".to_owned();
                    return Response::Refused { reason, hint: "leave out `--limit` and `--automatic`".to_owned() };
                }
            },
            Request::Challenge { subject, ttl, at } => {
                (subject, *ttl, Order::Challenge, Change::Challenged, Terms { at: *at, ..Terms::default() })
            }
            other => return Response::Error { message: format!("`{}` is not about requests", other.verb()) },
        };
        if let Err(full) = self.write().put(subject, order, end(ttl, monotonic())) {
            let hint = "see what is there: detector list; or raise `limits.request_verdicts` and restart detector";
            return Response::Refused { reason: full.to_string(), hint: hint.to_owned() };
        }
        let note = "it is about requests: for the web servers that ask; no packet is dropped".to_owned();
        Response::Changed(Changed { note: Some(note), ..Changed::on(change, subject.clone(), terms, ttl, wall()) })
    }

    /// Takes such an order back.
    fn take_back(&self, request: &Request) -> Response {
        let now = monotonic();
        let taken = taken_back(request).and_then(|(subject, kind)| self.write().remove(subject, kind, now));
        let Some(taken) = taken else { return Response::NotFound };
        let (change, measure) = match taken.order {
            Order::Block => (Change::Unblocked, Measure::Block),
            Order::Observe => (Change::Unblocked, Measure::Observe),
            Order::Challenge => (Change::Unchallenged, Measure::Block),
        };
        let terms = Terms { measure, at: Layer::Inline, automatic: false };
        let left = taken.left(now);
        Response::Changed(Changed::on(change, taken.subject, terms, left, wall()))
    }

    /// Something else was put in force: an allow entry holds for requests too, and one order about one subject takes
    /// another's place.
    fn note(&self, request: &Request) {
        let now = monotonic();
        match request {
            Request::Allow { subject, ttl } => {
                if let Some(prefix) = subject.as_prefix() {
                    self.write().allow(prefix, end(*ttl, now));
                }
            }
            Request::Unallow { subject } => {
                if let Some(prefix) = subject.as_prefix() {
                    self.write().unallow(prefix);
                }
            }
            Request::Block { subject, terms, .. } if !terms.automatic => {
                self.write().remove(subject, Kind::Block, now);
            }
            Request::Challenge { subject, .. } => {
                self.write().remove(subject, Kind::Challenge, now);
            }
            _ => {}
        }
    }

    /// A page of the packets' entries, with those about requests after the last of them.
    pub(super) fn list(&self, packets: Response, skip: usize) -> Response {
        let Response::Entries { entries, total } = packets else { return packets };
        let now = monotonic();
        let mut own: Vec<Listed> = self.read().list(now).collect();
        let all = total + own.len();
        if !entries.is_empty() || skip < total {
            return Response::Entries { entries, total: all };
        }
        own.sort_unstable_by(|a, b| (&a.subject, a.order).cmp(&(&b.subject, b.order)));
        let page = own.into_iter().skip(skip - total).take(PAGE).map(|listed| entry(listed, now)).collect();
        Response::Entries { entries: protocol::page(page), total: all }
    }
}

/// Has orders carried out where they belong.
pub(super) struct Force {
    engine: Handle,
    requests: Arc<Requests>,
}

impl Force {
    pub(super) fn new(engine: Handle, requests: Arc<Requests>) -> Self {
        Self { engine, requests }
    }

    /// What holds for requests.
    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Carries out one order.
    pub(super) fn carry_out(&self, request: Request) -> Response {
        self.carry_out_all(&[request]).pop().unwrap_or(Response::NotFound)
    }

    /// Carries out many, until the first that is not [`Response::Changed`]. The answers, one for each that was dealt with.
    pub(super) fn carry_out_all(&self, all: &[Request]) -> Vec<Response> {
        let mut answers = Vec::with_capacity(all.len());
        for some in all.chunk_by(|a, b| !self.is_own(a) && !self.is_own(b)) {
            match some {
                [one] if one.layer() == Layer::Inline => answers.push(self.requests.order(one)),
                [one] if self.is_own(one) => answers.push(self.requests.take_back(one)),
                some => {
                    let answered = self.engine.requests(some);
                    let done = some.iter().zip(&answered).filter(|(_, answer)| matches!(answer, Response::Changed(_)));
                    done.for_each(|(request, _)| self.requests.note(request));
                    answers.extend(answered);
                }
            }
            if !matches!(answers.last(), Some(Response::Changed(_))) {
                break;
            }
        }
        answers
    }

    /// Whether an order is about requests, or takes back one that is.
    fn is_own(&self, request: &Request) -> bool {
        let known = |(subject, kind)| self.requests.read().has(subject, kind, monotonic());
        request.layer() == Layer::Inline || taken_back(request).is_some_and(known)
    }
}

/// What a request takes back.
fn taken_back(request: &Request) -> Option<(&Subject, Kind)> {
    match request {
        Request::Unblock { subject } => Some((subject, Kind::Block)),
        Request::Unchallenge { subject } => Some((subject, Kind::Challenge)),
        _ => None,
    }
}

fn end(ttl: Ttl, now: Timestamp) -> Option<Timestamp> {
    match ttl {
        Ttl::For(lasts) => Some(now.plus(lasts)),
        Ttl::Forever => None,
    }
}

fn entry(listed: Listed, now: Timestamp) -> Entry {
    let left = listed.left(now);
    let action = match listed.order {
        Order::Observe => Action::Observe,
        Order::Challenge => Action::Challenge,
        Order::Block => Action::Block,
    };
    Entry {
        action,
        at: Layer::Inline,
        subject: listed.subject,
        ja4_r: None,
        until: protocol::until(left, wall()),
        expires_in_s: left.as_secs(),
        hits: listed.hits,
        origin: Origin::Operator,
    }
}
