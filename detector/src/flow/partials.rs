//! The table of streams in progress. Bounded in number, in bytes allocated and per source (threats.md T17, T18); over
//! a bound the oldest goes, its own source's oldest first, and those of clients whose address is not proven before others. `S` is what the caller knows about each stream.

use std::collections::VecDeque;
use std::hash::Hash;

use super::{Aged, Limits, Source};
use crate::capture::Flow;
use crate::clock::Timestamp;
use crate::flow::assembler::Assembler;

/// One stream in progress.
#[derive(Debug)]
pub struct Partial<S> {
    /// Sequence number of the stream's first byte.
    pub base: u32,
    /// When its first segment came.
    pub started: Timestamp,
    /// Its bytes.
    pub assembler: Assembler,
    /// What the caller knows.
    pub state: S,
    /// Its client's address is proven: it goes after those of which it isn't.
    pub proven: bool,
    serial: u64,
}

impl<S> Partial<S> {
    /// A stream without bytes.
    #[must_use]
    pub fn new(base: u32, started: Timestamp, state: S) -> Self {
        Self { base, started, assembler: Assembler::default(), state, proven: false, serial: 0 }
    }
}

/// All streams in progress.
#[derive(Debug)]
pub struct Partials<S, K: Eq + Hash = Flow> {
    partials: Aged<Partial<S>, K>,
    /// The streams of each source with a stream in progress.
    sources: Aged<OneSource<K>, Source>,
    /// Those that aren't proven.
    unproven: Aged<(), K>,
    allocated: usize,
    serial: u64,
    limits: Limits,
}

#[derive(Debug)]
struct OneSource<K> {
    count: usize,
    /// Oldest first. One whose serial is no longer that of its key's stream is stale and skipped.
    queue: VecDeque<(u64, K)>,
}

/// What tells streams apart.
pub trait Key: Copy + Eq + Hash {
    /// Who is answerable for the stream.
    fn source(&self) -> Source;
}

impl Key for Flow {
    fn source(&self) -> Source {
        Source::from(self.source.ip())
    }
}

impl<S, K: Key> Partials<S, K> {
    /// What one stream costs beside its bytes: its entries in three tables, each with the links of its neighbours, and its
    /// place in a queue of keys that may be half stale.
    const OVERHEAD: usize = size_of::<(K, Partial<S>)>()
        + size_of::<(Source, OneSource<K>)>()
        + size_of::<K>()
        + 6 * size_of::<usize>()
        + 2 * size_of::<(u64, K)>();

    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            // With a place for the one that makes them too many.
            partials: Aged::new(limits.partial_hellos.saturating_add(1)),
            sources: Aged::new(limits.partial_hellos.saturating_add(1)),
            unproven: Aged::new(limits.partial_hellos.saturating_add(1)),
            allocated: 0,
            serial: 0,
            limits,
        }
    }

    /// Streams in progress.
    #[must_use]
    pub fn len(&self) -> usize {
        self.partials.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partials.is_empty()
    }

    /// Bytes allocated for them.
    #[must_use]
    pub const fn allocated(&self) -> usize {
        self.allocated
    }

    /// The stream of `key`.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&Partial<S>> {
        self.partials.get(key)
    }

    /// Lets `change` at the stream of `key` and keeps the books.
    pub fn update<T>(&mut self, key: &K, change: impl FnOnce(&mut Partial<S>) -> T) -> Option<T> {
        let partial = self.partials.get_mut(key)?;
        let before = partial.assembler.allocated();
        let result = change(partial);
        if partial.proven {
            self.unproven.remove(key);
        }
        self.allocated = self.allocated.saturating_sub(before).saturating_add(partial.assembler.allocated());
        Some(result)
    }

    /// Adds a stream. There must be none of `key`; one that is would be forgotten.
    pub fn insert(&mut self, key: K, mut partial: Partial<S>) {
        self.remove(&key);
        self.serial = self.serial.wrapping_add(1);
        partial.serial = self.serial;
        self.allocated = self.allocated.saturating_add(Self::OVERHEAD).saturating_add(partial.assembler.allocated());
        let (source, place) = (key.source(), (partial.serial, key));
        if !partial.proven {
            self.unproven.insert(key, ());
        }
        self.partials.insert(key, partial);
        let Some(known) = self.sources.get_mut(&source) else {
            self.sources.insert(source, OneSource { count: 1, queue: VecDeque::from([place]) });
            return;
        };
        known.count = known.count.saturating_add(1);
        known.queue.push_back(place);
        // A source has few streams: one sweep is short.
        if known.queue.len() > known.count.saturating_mul(2).saturating_add(4) {
            let partials = &self.partials;
            known.queue.retain(|(serial, key)| partials.get(key).is_some_and(|partial| partial.serial == *serial));
        }
    }

    /// Takes the stream of `key` out.
    pub fn remove(&mut self, key: &K) -> Option<Partial<S>> {
        let partial = self.partials.remove(key)?;
        self.unproven.remove(key);
        self.allocated = self.allocated.saturating_sub(Self::OVERHEAD).saturating_sub(partial.assembler.allocated());
        let source = key.source();
        if let Some(one) = self.sources.get_mut(&source) {
            one.count = one.count.saturating_sub(1);
            if one.count == 0 {
                self.sources.remove(&source);
            }
        }
        Some(partial)
    }

    /// Takes out the stream that has to go, if a bound is passed: the oldest of `source` if that has too many, else
    /// the oldest of all; unproven ones first.
    pub fn evict(&mut self, source: Source) -> Option<(K, Partial<S>)> {
        if self.sources.get(&source).is_some_and(|one| one.count > self.limits.partials_per_source) {
            let key = self.oldest_of(source)?;
            return self.remove(&key).map(|partial| (key, partial));
        }
        if self.partials.len() > self.limits.partial_hellos || self.allocated > self.limits.partial_bytes {
            return self.pop_unproven().or_else(|| self.pop_oldest());
        }
        None
    }

    /// Takes out the oldest stream whose client's address isn't proven.
    fn pop_unproven(&mut self) -> Option<(K, Partial<S>)> {
        let (key, ()) = self.unproven.pop_oldest()?;
        self.remove(&key).map(|partial| (key, partial))
    }

    /// Takes out the oldest stream if it began more than the limit's age before `now`.
    pub fn expire(&mut self, now: Timestamp) -> Option<(K, Partial<S>)> {
        let (_, partial) = self.partials.oldest()?;
        if now.since(partial.started) <= self.limits.partial_age {
            return None;
        }
        self.pop_oldest()
    }

    /// Takes out the oldest stream.
    pub fn pop_oldest(&mut self) -> Option<(K, Partial<S>)> {
        let key = *self.partials.oldest()?.0;
        self.remove(&key).map(|partial| (key, partial))
    }

    fn oldest_of(&mut self, source: Source) -> Option<K> {
        let queue = &mut self.sources.get_mut(&source)?.queue;
        let partials = &self.partials;
        queue.retain(|(serial, key)| partials.get(key).is_some_and(|partial| partial.serial == *serial));
        let unproven = queue.iter().position(|(_, key)| self.unproven.get(key).is_some());
        queue.remove(unproven.unwrap_or(0)).map(|(_, key)| key)
    }
}
