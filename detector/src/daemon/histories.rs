//! The table of sessions in parts, each behind a lock of its own, as that of connections ([`super::shards`]): should the
//! system stop who holds one, questions about clients in the others go on.
//!
//! Memory: that of [`Limits::sessions`], rounded up; by lot a part may be full shortly before the whole is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use detector_common::key::mix;

use crate::clock::Timestamp;
use crate::join::Subject;
use crate::report::Report;
use crate::session::{Key, Limits, Paths, Reader, Request, Sessions, Summary};

/// Parts of a large table.
const PARTS: usize = 64;
/// Sessions that a part has room for at least: in so many lot evens out.
const LEAST: usize = 1024;

/// The sessions of all clients.
pub(super) struct Histories {
    reader: ArcSwap<Reader>,
    parts: Box<[Mutex<Sessions>]>,
}

impl Histories {
    /// Without any; watches these paths.
    pub(super) fn new(limits: Limits, paths: Paths) -> Self {
        let reader = Reader::watching(paths);
        let count = (limits.sessions / LEAST).clamp(1, PARTS);
        let limits = Limits { sessions: limits.sessions.div_ceil(count), ..limits };
        let part = |_| Mutex::new(Sessions::new(limits).read_by(reader.clone()));
        let parts = (0..count).map(part).collect();
        Self { reader: ArcSwap::from_pointee(reader), parts }
    }

    /// What makes keys and requests.
    pub(super) fn reader(&self) -> Arc<Reader> {
        self.reader.load_full()
    }

    /// Watches other paths from now on.
    pub(super) fn watch(&self, paths: Paths) {
        self.reader.store(Arc::new(self.reader().rewatching(paths)));
    }

    /// A request was told of: what its client did until then, if that is wanted.
    pub(super) fn note(&self, key: Key, request: &Request, now: Timestamp, wanted: bool) -> Option<Summary> {
        let mut part = self.part(key);
        part.note(key, request, now);
        wanted.then(|| part.summary(key, now)).flatten()
    }

    /// What a client did within the last hour, and the key of that.
    pub(super) fn summary(&self, subject: &Subject, report: &Report<'_>, now: Timestamp) -> (Option<Summary>, Key) {
        let key = self.reader().key(subject, report);
        (self.part(key).summary(key, now), key)
    }

    /// Forgets the silent ones.
    pub(super) fn expire(&self, now: Timestamp) {
        self.parts.iter().for_each(|part| lock(part).expire(now));
    }

    /// Sessions kept, and those forgotten before their time, for want of room.
    pub(super) fn count(&self) -> (usize, u64) {
        self.parts.iter().map(lock).fold((0, 0), |(len, evicted), part| (len + part.len(), evicted + part.evicted()))
    }

    fn part(&self, key: Key) -> MutexGuard<'_, Sessions> {
        // The lower bits of a fast hash alone are no lottery.
        lock(&self.parts[(mix(key.hash()) % self.parts.len() as u64) as usize])
    }
}

fn lock(part: &Mutex<Sessions>) -> MutexGuard<'_, Sessions> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000_000);

    fn page(histories: &Histories, client: u32) -> Option<Summary> {
        let subject = Subject::Forwarded { address: Ipv4Addr::from(client).into(), agent: 1, headers: 1 };
        let report = Report { path: Some("/".into()), ..Report::default() };
        let key = histories.reader().key(&subject, &report);
        let request = histories.reader().request(&report, NOW, 1);
        let noted = histories.note(key, &request, NOW, true);
        let (asked, same) = histories.summary(&subject, &report, NOW);
        assert_eq!((key, noted.as_ref()), (same, asked.as_ref()), "told and asked find the same");
        noted
    }

    #[test]
    fn each_client_has_a_history_of_its_own() {
        let histories = Histories::new(Limits::default(), Paths::default());
        for client in (0..3000).chain(0..3000) {
            page(&histories, client);
        }
        assert_eq!(page(&histories, 7).map(|summary| summary.requests), Some(3));
        assert_eq!(page(&histories, 3000).map(|summary| summary.requests), Some(1));
        assert_eq!(histories.count(), (3001, 0));
    }

    #[test]
    fn all_parts_are_bounded_and_expire() {
        let limits = Limits { sessions: 10_000, idle: Duration::from_secs(3600) };
        let histories = Histories::new(limits, Paths::default());
        for client in 0..50_000 {
            page(&histories, client);
        }
        let (len, evicted) = histories.count();
        assert!((10_000..10_000 + PARTS).contains(&len) && evicted == 50_000 - len as u64, "{len}, {evicted}");
        histories.expire(NOW.plus(limits.idle));
        assert_eq!(histories.count().0, 0);
    }
}
