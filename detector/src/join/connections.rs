//! Which connections there are, and what the hello of each said. In: hellos, ends of connections. Out: the one that a
//! report or a question is about.
//!
//! **Which connection a request came over.** Of those with its 4-tuple, the one whose times fit:
//!
//! - its hello was there when the request began. A server's clock may be [`Limits::early`] behind: nginx and HAProxy
//!   look at it once for each batch of events. And it was there when the report came, which is exact.
//! - the report was sent before the connection ended, or right after ([`Limits::prompt`]): a server writes its log then. Or
//!   else the request began well before the end: some connections are ended to one side only, and linger. What other
//!   programs relay comes up to [`Limits::late`] after it was written: of that it is enough if the request began by then.
//!   A server that is interrupted between the end and its log may be as late: where no other connection fits, it was;
//! - where the server says how old the connection is: it took it after its SYN, and not long after its hello.
//!
//! And it hasn't told that request yet: no two requests of a connection have one number, so that a second "first
//! request" is of another connection. A server that names its connections needs to be understood once: the name that it
//! gave one is no other's, whatever the times say. Where two connections fit, nobody knows, and nothing is said.
//!
//! Where one fits only if the report is late, or none fits, but there is just one, a connection whose hello is still to
//! come may explain it better: [`Fit::Doubtful`].
//!
//! Memory: [`Limits::connections`] client ends with [`PER_END`] connections at most, usually one: 460 bytes each.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use detector_common::key::Keys;
use foldhash::fast::RandomState;
use lru::LruCache;
use smallvec::SmallVec;

use super::claim::Claim;
use super::tuple::{End, Tuple};
use crate::clock::Timestamp;
use crate::fingerprint::{Ja4, Traits, Transport};
use crate::pipeline::Hello;
use crate::signature::Class;

/// Connections of one client end: a port used again at once, and toward several addresses of the server. Of more, the
/// oldest goes.
pub const PER_END: usize = 8;

/// Servers tell durations in milliseconds, rounded down.
const ROUNDED: Duration = Duration::from_millis(1);

/// A client end becomes the first in the table's order no more often: to move it is to write to its neighbours, which no
/// cache has.
const PLACED: Duration = Duration::from_secs(10);

/// Requests of a connection that are remembered by their number: HTTP/2 tells of them in any order.
const NUMBERS: u64 = 64;

/// Bounds and tolerances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client ends remembered.
    pub connections: usize,
    /// How long a connection is kept after it ended: a server writes its log at a request's end.
    pub grace: Duration,
    /// How long one is kept of which nothing is heard.
    pub idle: Duration,
    /// By how much a server's clock may be behind.
    pub early: Duration,
    /// How long after a connection's end its server may still send a report.
    pub prompt: Duration,
    /// How late a report may be that another program relays.
    pub late: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 131_072,
            grace: Duration::from_secs(10),
            idle: Duration::from_secs(3600),
            early: Duration::from_millis(50),
            prompt: Duration::from_millis(2),
            late: Duration::from_millis(100),
        }
    }
}

/// What a connection's hello said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// JA4.
    pub ja4: Ja4,
    /// JA4 without what resumption changes.
    pub ja4_stable: Ja4,
    /// The kernel's keys of it.
    pub keys: Keys,
    /// What else the hello shows.
    pub traits: Traits,
    /// The kind of system that sent the connection's SYN, if that was seen.
    pub syn_class: Option<Class>,
    /// How the hello was carried.
    pub transport: Transport,
    /// When the connection's SYN came, if it was seen.
    pub syn: Option<Timestamp>,
    /// When the hello was complete.
    pub hello: Timestamp,
    /// Which connection of its 4-tuple it is: [`Hello::stream_seq`].
    pub stream: u32,
    /// The server may have read another hello: the fingerprint says nothing.
    pub void: bool,
}

impl Identity {
    /// Of a connection's first hello; the second one says nothing new (rule 13).
    #[must_use]
    pub fn of(hello: &Hello) -> Option<Self> {
        (hello.index == 0).then(|| Self {
            ja4: hello.fingerprint.ja4,
            ja4_stable: hello.fingerprint.ja4_stable,
            keys: hello.fingerprint.keys,
            traits: hello.fingerprint.traits,
            syn_class: hello.syn.as_ref().map(|syn| syn.signature.class()),
            transport: hello.transport,
            syn: hello.syn.as_ref().map(|syn| syn.at),
            hello: hello.completed_at,
            stream: hello.stream_seq,
            void: false,
        })
    }

    /// When the connection began, as far as is known.
    fn begun(&self) -> Timestamp {
        self.syn.unwrap_or(self.hello)
    }

    fn is_same_connection(&self, other: &Self) -> bool {
        self.transport == Transport::Tcp && self.stream == other.stream
    }

    fn says_the_same(&self, other: &Self) -> bool {
        (self.ja4, self.keys, self.void) == (other.ja4, other.keys, other.void)
    }
}

/// A connection that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which one: no two have the same number.
    pub connection: u64,
    /// What its hello said.
    pub identity: Arc<Identity>,
    /// A report of it told of the same program within the last minute.
    pub again: bool,
}

/// What is known of a request's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// This one.
    Sure(Found),
    /// This one, unless the hello of another is still to come.
    Doubtful(Found),
    /// One of several.
    Ambiguous,
    /// None of those with its 4-tuple.
    Unfitting,
    /// There is none with its 4-tuple.
    Unknown,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    server: SocketAddr,
    identity: Arc<Identity>,
    ended: Option<Timestamp>,
    /// The numbers of its requests that reports told of, 1 in the lowest bit.
    told: u64,
    /// What its server calls it, once a report was sure to be of it.
    name: Option<u64>,
}

#[derive(Debug)]
struct Client {
    connections: SmallVec<[Connection; 1]>,
    /// When it was last heard of.
    heard: Timestamp,
    /// When it became the first in the table's order.
    placed: Timestamp,
}

/// Connections and their hellos.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    /// The one heard of last comes first, but for [`PLACED`].
    clients: LruCache<End, Client, RandomState>,
    /// Connections that ended, and when they are forgotten, in that order.
    ended: VecDeque<(Timestamp, End, u64)>,
    begun: u64,
    evicted: u64,
    now: Timestamp,
}

impl Connections {
    /// Without any.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let most = NonZeroUsize::new(limits.connections).unwrap_or(NonZeroUsize::MIN);
        Self {
            limits,
            clients: LruCache::with_hasher(most, RandomState::default()),
            ended: VecDeque::new(),
            begun: 0,
            evicted: 0,
            now: Timestamp::default(),
        }
    }

    /// Client ends remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Connections forgotten before their time, for want of room.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// A hello was confirmed at `now`. Of two connections on one 4-tuple the earlier has ended when the later began.
    pub fn begin(&mut self, tuple: Tuple, identity: Identity, now: Timestamp) {
        self.expire(now);
        let begun = identity.syn.unwrap_or(identity.hello);
        if let Some(client) = self.clients.peek(&tuple.client)
            && client.on(tuple.server).any(|known| known.identity.is_same_connection(&identity))
        {
            return;
        }
        self.end(&tuple, begun);
        let number = self.begun;
        self.begun = self.begun.wrapping_add(1);
        let connection =
            Connection { number, server: tuple.server, identity: Arc::new(identity), ended: None, told: 0, name: None };
        self.insert(tuple.client, connection);
        // Hellos are not confirmed in the order they came.
        let later = self.clients.peek(&tuple.client).and_then(|client| {
            client.on(tuple.server).map(|known| known.identity.begun()).filter(|other| *other > begun).min()
        });
        if let Some(later) = later {
            self.end(&tuple, later.before(Duration::from_nanos(1)));
        }
    }

    fn insert(&mut self, end: End, connection: Connection) {
        let heard = self.now;
        if let Some(client) = self.clients.get_mut(&end) {
            (client.heard, client.placed) = (heard, heard);
            client.connections.push(connection);
            if client.connections.len() > PER_END {
                client.connections.remove(0);
                self.evicted = self.evicted.saturating_add(1);
            }
            return;
        }
        let client = Client { connections: SmallVec::from_iter([connection]), heard, placed: heard };
        // What comes out was at the end: heard of longest ago.
        if let Some((_, out)) = self.clients.push(end, client) {
            let count = u64::try_from(out.connections.len()).unwrap_or(u64::MAX);
            self.evicted = self.evicted.saturating_add(count);
        }
    }

    /// The connections of a 4-tuple ended at `at`: FIN or RST. Those that began later go on.
    pub fn end(&mut self, tuple: &Tuple, at: Timestamp) {
        let (until, most) = (at.plus(self.limits.grace), self.limits.connections);
        let Some(client) = self.clients.peek_mut(&tuple.client) else { return };
        let live = |known: &&mut Connection| {
            known.server == tuple.server && known.ended.is_none() && known.identity.begun() <= at
        };
        for known in client.connections.iter_mut().filter(live) {
            known.ended = Some(at);
            self.ended.push_back((until, tuple.client, known.number));
        }
        while self.ended.len() > most {
            let gone = self.forget_ended();
            self.evicted = self.evicted.saturating_add(u64::from(gone));
        }
    }

    /// The fingerprint of the connection that a 4-tuple had when that `hello` was complete says nothing about its client.
    pub fn void(&mut self, tuple: &Tuple, hello: Timestamp) {
        let Some(client) = self.clients.peek_mut(&tuple.client) else { return };
        let had = |known: &&mut Connection| known.server == tuple.server && known.identity.hello <= hello;
        let known = client.connections.iter_mut().filter(had);
        if let Some(known) = known.max_by_key(|known| known.identity.hello) {
            Arc::make_mut(&mut known.identity).void = true;
        }
    }

    /// The connection that a 4-tuple had at `when`: for a request that is still going on.
    pub fn at(&mut self, tuple: &Tuple, when: Timestamp) -> Option<Arc<Identity>> {
        let late = self.limits.late;
        let client = self.clients.get_mut(&tuple.client)?;
        client.heard = client.heard.max(when);
        let had = |known: &&Connection| {
            known.identity.hello <= when && known.ended.is_none_or(|ended| when <= ended.plus(late))
        };
        client
            .on(tuple.server)
            .filter(had)
            .max_by_key(|known| known.identity.hello)
            .map(|known| Arc::clone(&known.identity))
    }

    /// The connection that a report is about. What it tells is remembered only of one that is sure, or `settle`d for.
    pub fn fit(&mut self, claim: &Claim, settle: bool) -> Fit {
        let Some(client) = self.clients.peek_mut(&claim.client) else { return Fit::Unknown };
        let fit = client.fit(claim, settle, &self.limits);
        // A report keeps its connection, as one that goes on is in use.
        if claim.arrived.since(client.placed) >= PLACED {
            client.placed = claim.arrived;
            self.clients.promote(&claim.client);
        }
        fit
    }

    /// Forgets what ended long enough ago, and what wasn't heard of for long.
    pub fn expire(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        while self.ended.front().is_some_and(|(until, ..)| *until <= self.now) {
            self.forget_ended();
        }
        let idle = self.limits.idle;
        while self.clients.peek_lru().is_some_and(|(_, client)| client.heard.plus(idle) <= self.now) {
            self.clients.pop_lru();
        }
    }

    /// Forgets the connection that ended first. Whether it was still here.
    fn forget_ended(&mut self) -> bool {
        let Some((_, end, number)) = self.ended.pop_front() else { return false };
        let Some(client) = self.clients.peek_mut(&end) else { return false };
        let before = client.connections.len();
        client.connections.retain(|known| known.number != number);
        let after = client.connections.len();
        if after == 0 {
            self.clients.pop(&end);
        }
        after < before
    }
}

impl Client {
    /// [`Connections::fit`], of those of this client end.
    fn fit(&mut self, claim: &Claim, settle: bool, limits: &Limits) -> Fit {
        if let Some(known) = self.connections.iter_mut().find(|known| known.has_name_of(claim)) {
            known.tell(claim);
            self.heard = self.heard.max(claim.arrived);
            return Fit::Sure(Found { connection: known.number, identity: Arc::clone(&known.identity), again: false });
        }
        let mut fitting = SmallVec::<[usize; PER_END]>::new();
        let mut possible = SmallVec::<[usize; PER_END]>::new();
        for (index, known) in self.connections.iter().enumerate().filter(|(_, known)| known.is_named(claim)) {
            if known.fits(claim, limits) {
                fitting.push(index);
            } else if known.is_possible(claim, limits) {
                possible.push(index);
            }
        }
        if let [index] = fitting.as_slice()
            && self.may_be_late(claim, *index, &possible)
        {
            return Fit::Ambiguous;
        }
        let (index, sure) = match (fitting.as_slice(), possible.as_slice()) {
            ([index], _) => (*index, self.connections.get(*index).is_some_and(|known| known.is_prompt(claim))),
            ([], [index]) => (*index, false),
            ([], []) => return Fit::Unfitting,
            ([], _) if !settle => return Fit::Unfitting,
            ([], several) | (several, _) => match self.alike(several) {
                Some(index) => (index, true),
                None => return Fit::Ambiguous,
            },
        };
        self.heard = self.heard.max(claim.arrived);
        let Some(known) = self.connections.get_mut(index) else { return Fit::Unfitting };
        let found = Found { connection: known.number, identity: Arc::clone(&known.identity), again: false };
        if sure || settle {
            known.tell(claim);
            return Fit::Sure(found);
        }
        Fit::Doubtful(found)
    }

    fn on(&self, server: SocketAddr) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(move |known| known.server == server)
    }

    /// Whether a report that fits one connection may as well be the last of an earlier one, whose server was interrupted
    /// when that had ended: it tells the next number there, and would be the first of the one that fits.
    fn may_be_late(&self, claim: &Claim, fitting: usize, possible: &[usize]) -> bool {
        let (Some(number), Some(later)) = (claim.number, self.connections.get(fitting)) else { return false };
        let next = |earlier: &&Connection| {
            let goes_on =
                if number == 1 { earlier.told == 0 } else { earlier.has_told(Some(number.saturating_sub(1))) };
            goes_on && !earlier.has_told(Some(number)) && !earlier.identity.says_the_same(&later.identity)
        };
        let mut earlier = possible.iter().filter_map(|index| self.connections.get(*index));
        !claim.relayed && later.told == 0 && earlier.any(|earlier| next(&earlier))
    }

    /// The last of these connections, if the hellos of all said the same.
    fn alike(&self, indices: &[usize]) -> Option<usize> {
        let mut identities = indices.iter().map(|index| self.connections.get(*index).map(|known| &known.identity));
        let first = identities.next()??;
        identities.all(|other| other.is_some_and(|other| other.says_the_same(first))).then_some(*indices.last()?)
    }
}

impl Connection {
    /// Whether it is to the server that the report names, and nothing that the server calls by another name.
    fn is_named(&self, claim: &Claim) -> bool {
        let named_otherwise = self.name.is_some() && claim.name.is_some() && self.name != claim.name;
        self.is_to(claim) && !named_otherwise
    }

    /// Whether its server calls it by the name that the report has.
    fn has_name_of(&self, claim: &Claim) -> bool {
        self.name.is_some() && self.name == claim.name && self.is_to(claim)
    }

    fn is_to(&self, claim: &Claim) -> bool {
        let address = |address: IpAddr| address == self.server.ip();
        claim.server.is_none_or(address) && claim.server_port.is_none_or(|port| port == self.server.port())
    }

    /// Whether it carried the request, if the report came in time.
    fn fits(&self, claim: &Claim, limits: &Limits) -> bool {
        let late = if claim.relayed { limits.late } else { limits.prompt };
        let latest = limits.early.saturating_add(late);
        let taken = claim.connection.is_none_or(|taken| {
            let after_syn = self.identity.syn.is_none_or(|syn| syn <= taken.plus(limits.early));
            after_syn && taken <= self.identity.hello.plus(latest)
        });
        let in_time = if claim.relayed {
            self.ended.is_none_or(|ended| claim.request <= ended.plus(late.saturating_add(ROUNDED)))
        } else {
            self.told_in_time(claim, limits.prompt, limits)
        };
        in_time && taken && !self.has_told(claim.number) && self.had_hello(claim, limits)
    }

    /// Whether its server may have sent this of it, `late` after its end at most.
    fn told_in_time(&self, claim: &Claim, late: Duration, limits: &Limits) -> bool {
        self.ended.is_none_or(|ended| claim.arrived <= ended.plus(late) || claim.request.plus(limits.early) <= ended)
    }

    /// Whether no connection that came after it can have carried the request.
    fn is_prompt(&self, claim: &Claim) -> bool {
        !claim.relayed || self.ended.is_none_or(|ended| claim.request <= ended.plus(ROUNDED))
    }

    /// Whether it may have carried the request, if the report is late or the server was slow.
    fn is_possible(&self, claim: &Claim, limits: &Limits) -> bool {
        let in_time = if claim.relayed {
            self.ended.is_none_or(|ended| claim.request <= ended.plus(limits.grace))
        } else {
            self.told_in_time(claim, limits.late, limits)
        };
        in_time && self.had_hello(claim, limits)
    }

    fn had_hello(&self, claim: &Claim, limits: &Limits) -> bool {
        let hello = self.identity.hello;
        hello <= claim.arrived && hello <= claim.request.plus(limits.early)
    }

    fn has_told(&self, number: Option<u64>) -> bool {
        number.is_some_and(|number| self.told & bit(number) != 0)
    }

    fn tell(&mut self, claim: &Claim) {
        self.told |= claim.number.map_or(0, bit);
        self.name = self.name.or(claim.name);
    }
}

/// That of a request's number; 0 for one that isn't remembered.
const fn bit(number: u64) -> u64 {
    if number == 0 || number > NUMBERS { 0 } else { 1 << (number.wrapping_sub(1) & (NUMBERS - 1)) }
}

#[cfg(test)]
mod tests;
