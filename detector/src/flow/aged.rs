//! A map from flows, or from other keys, that knows which entry is the oldest and lets it go when there are too many.
//!
//! Each operation is O(1), not only on average over many: the table of hashes is as large from the beginning as it may
//! ever become, so that no insertion moves it, and nothing is swept. A hello that waits for its verdict never waits for
//! the housekeeping of a flood. Memory: 34 bytes for each entry there may be, and those that there are.

use std::hash::Hash;
use std::num::NonZeroUsize;

use foldhash::fast::RandomState;
use lru::LruCache;

use crate::capture::Flow;

/// Values by key, in the order of their insertion.
// `peek` and its like leave the order of use as it is: that of the insertions.
#[derive(Debug)]
pub struct Aged<V, K: Eq + Hash = Flow>(LruCache<K, V, RandomState>);

impl<V, K: Copy + Eq + Hash> Aged<V, K> {
    /// Empty, with room for `most` entries, 1 at least.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(LruCache::with_hasher(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN), RandomState::default()))
    }

    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.peek(key)
    }

    /// The value of `key`, to be changed. Its age stays.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.peek_mut(key)
    }

    /// Makes `value` the youngest, in place of what `key` had. If there is no room for it, the oldest comes out.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        self.0.push(key, value).filter(|(out, _)| *out != key)
    }

    /// Takes the value of `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.0.pop(key)
    }

    /// The oldest entry.
    #[must_use]
    pub fn oldest(&self) -> Option<(&K, &V)> {
        self.0.peek_lru()
    }

    /// Takes the oldest entry out.
    pub fn pop_oldest(&mut self) -> Option<(K, V)> {
        self.0.pop_lru()
    }

    /// All keys, the youngest first.
    pub fn keys(&self) -> impl Iterator<Item = K> {
        self.0.iter().map(|(key, _)| *key)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn flow(port: u16) -> Flow {
        let destination = SocketAddr::from(([10, 0, 0, 1], 443));
        Flow { source: SocketAddr::from(([10, 0, 0, 2], port)), destination }
    }

    #[test]
    fn the_oldest_goes_first_and_replaced_ones_are_young() {
        let mut aged = Aged::new(9);
        for port in 0..4 {
            aged.insert(flow(port), port);
        }
        aged.insert(flow(0), 40);
        aged.remove(&flow(1));
        let order: Vec<u16> = std::iter::from_fn(|| aged.pop_oldest().map(|(_, value)| value)).collect();
        assert_eq!(order, [2, 3, 40]);
    }

    #[test]
    fn beyond_the_bound_the_oldest_goes() {
        let mut aged = Aged::new(2);
        for port in 0..4 {
            assert_eq!(aged.get_mut(&flow(1)).is_some(), port == 2 || port == 3, "being looked at keeps nobody young");
            aged.insert(flow(port), port);
        }
        assert_eq!(aged.len(), 2);
        assert_eq!(aged.oldest(), Some((&flow(2), &2)));
    }
}
