//! Sessions by their keys.

use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::time::Duration;

use foldhash::fast::RandomState;
use lru::LruCache;

use super::history::{History, Summary};
use super::paths::Paths;
use super::request::Request;
use crate::clock::Timestamp;
use crate::join::Subject;
use crate::report::Report;

/// Bytes of one session, its key and what the table needs for it included.
pub const BYTES: usize = size_of::<(Key, Session)>() + 64;

const _: () = assert!(BYTES <= 2048, "two KiB are what a session may take");

/// A session becomes the first in the table's order no more often: to move it is to write to its neighbours, which no
/// cache has.
const PLACED: Duration = Duration::from_secs(10);

/// The bounds of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at one time.
    pub sessions: usize,
    /// How long a silent one is kept.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sessions: 100_000, idle: Duration::from_secs(3600) }
    }
}

/// Whose session it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    hash: u64,
    /// It is the site's own session id; else there may be many people behind it.
    pub by_id: bool,
}

impl Key {
    /// A hash that means something to the table of the key only.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }
}

#[derive(Debug)]
struct Session {
    history: History,
    heard: Timestamp,
    /// When it became the first in the table's order.
    placed: Timestamp,
}

/// What makes keys and requests of reports. A key means something to tables whose reader is a copy of the one that made it.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    paths: Paths,
    random: RandomState,
}

impl Reader {
    /// Watches these paths.
    #[must_use]
    pub fn watching(paths: Paths) -> Self {
        Self { paths, ..Self::default() }
    }

    /// One that watches other paths, with the same keys.
    #[must_use]
    pub fn rewatching(&self, paths: Paths) -> Self {
        Self { paths, ..self.clone() }
    }

    /// The key of a report's client: the session id of its site, or else of `subject` and the User-Agent.
    #[must_use]
    pub fn key(&self, subject: &Subject, report: &Report<'_>) -> Key {
        let hash = match (report.session.as_deref(), subject) {
            (Some(id), _) => self.random.hash_one((report.server_name.as_deref(), id)),
            (None, Subject::Client { address, ja4_stable, .. }) => {
                self.random.hash_one((unit(*address), ja4_stable, report.user_agent.as_deref()))
            }
            (None, Subject::Forwarded { address, agent, headers }) => {
                self.random.hash_one((unit(*address), agent, headers))
            }
        };
        Key { hash, by_id: report.session.is_some() }
    }

    /// The request that a report tells of, which began at `at` on this connection.
    #[must_use]
    pub fn request(&self, report: &Report<'_>, at: Timestamp, connection: u64) -> Request {
        Request::of(report, at, connection, &self.paths, &self.random)
    }
}

/// The sessions of all clients.
#[derive(Debug)]
pub struct Sessions {
    limits: Limits,
    /// The one heard of last comes first, but for [`PLACED`].
    sessions: LruCache<Key, Session, RandomState>,
    reader: Reader,
    evicted: u64,
    expired: u64,
}

impl Sessions {
    /// Without any.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let most = NonZeroUsize::new(limits.sessions).unwrap_or(NonZeroUsize::MIN);
        let sessions = LruCache::with_hasher(most, RandomState::default());
        Self { limits, sessions, reader: Reader::default(), evicted: 0, expired: 0 }
    }

    /// Watches these paths.
    #[must_use]
    pub fn watching(self, paths: Paths) -> Self {
        Self { reader: Reader { paths, ..self.reader }, ..self }
    }

    /// With the keys of this reader.
    #[must_use]
    pub fn read_by(self, reader: Reader) -> Self {
        Self { reader, ..self }
    }

    /// Sessions kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Sessions forgotten before their time, for want of room.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Sessions forgotten since they were silent.
    #[must_use]
    pub const fn expired(&self) -> u64 {
        self.expired
    }

    /// [`Reader::key`].
    #[must_use]
    pub fn key(&self, subject: &Subject, report: &Report<'_>) -> Key {
        self.reader.key(subject, report)
    }

    /// [`Reader::request`].
    #[must_use]
    pub fn request(&self, report: &Report<'_>, at: Timestamp, connection: u64) -> Request {
        self.reader.request(report, at, connection)
    }

    /// A request was told of at `now`.
    pub fn note(&mut self, key: Key, request: &Request, now: Timestamp) {
        self.expire(now);
        let Some(session) = self.sessions.peek_mut(&key) else { return self.begin(key, request, now) };
        session.heard = session.heard.max(now);
        session.history.note(request);
        if now.since(session.placed) >= PLACED {
            session.placed = now;
            self.sessions.promote(&key);
        }
    }

    fn begin(&mut self, key: Key, request: &Request, now: Timestamp) {
        let mut history = History::new(request.at);
        history.note(request);
        if self.sessions.push(key, Session { history, heard: now, placed: now }).is_some() {
            self.evicted = self.evicted.saturating_add(1);
        }
    }

    /// What a client did within the hour before `now`.
    pub fn summary(&mut self, key: Key, now: Timestamp) -> Option<Summary> {
        self.sessions.peek_mut(&key).map(|session| session.history.summary(now))
    }

    /// Forgets the silent ones.
    pub fn expire(&mut self, now: Timestamp) {
        let idle = self.limits.idle;
        while self.sessions.peek_lru().is_some_and(|(_, session)| session.heard.plus(idle) <= now) {
            self.sessions.pop_lru();
            self.expired = self.expired.saturating_add(1);
        }
    }
}

/// The prefix within which a client can choose any address.
fn unit(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests;
