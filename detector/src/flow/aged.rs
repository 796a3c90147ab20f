//! A map from flows, or from other keys, that knows which entry is the oldest. Each operation is O(1) on average.
//! Memory: the entries, and a queue of at most twice as many keys plus 64.

use std::collections::VecDeque;
use std::hash::Hash;

use foldhash::{HashMap, HashMapExt as _};

use crate::capture::Flow;

/// Values by key, in the order of their insertion.
#[derive(Debug)]
pub struct Aged<V, K = Flow> {
    entries: HashMap<K, (u64, V)>,
    /// Insertions, oldest first. One whose serial is no longer that of its key's entry is stale and skipped.
    queue: VecDeque<(u64, K)>,
    serial: u64,
}

impl<V, K> Default for Aged<V, K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), queue: VecDeque::new(), serial: 0 }
    }
}

impl<V, K: Copy + Eq + Hash> Aged<V, K> {
    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// The value of `key`, to be changed. Its age stays.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    /// Makes `value` the youngest, in place of what `key` had.
    pub fn insert(&mut self, key: K, value: V) {
        self.serial = self.serial.wrapping_add(1);
        self.entries.insert(key, (self.serial, value));
        self.queue.push_back((self.serial, key));
        if self.queue.len() > self.entries.len().saturating_mul(2).saturating_add(64) {
            let entries = &self.entries;
            self.queue.retain(|(serial, key)| entries.get(key).is_some_and(|(current, _)| current == serial));
        }
    }

    /// Takes the value of `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// The oldest entry.
    pub fn oldest(&mut self) -> Option<(&K, &V)> {
        // Stale keys at the front are dropped here, each once.
        while let Some((serial, key)) = self.queue.front() {
            if self.entries.get(key).is_some_and(|(current, _)| current == serial) {
                break;
            }
            self.queue.pop_front();
        }
        let (_, key) = self.queue.front()?;
        let (_, value) = self.entries.get(key)?;
        Some((key, value))
    }

    /// Takes the oldest entry out.
    pub fn pop_oldest(&mut self) -> Option<(K, V)> {
        let key = *self.oldest()?.0;
        self.queue.pop_front();
        self.remove(&key).map(|value| (key, value))
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
        let mut aged = Aged::default();
        for port in 0..4 {
            aged.insert(flow(port), port);
        }
        aged.insert(flow(0), 40);
        aged.remove(&flow(1));
        let order: Vec<u16> = std::iter::from_fn(|| aged.pop_oldest().map(|(_, value)| value)).collect();
        assert_eq!(order, [2, 3, 40]);
    }

    #[test]
    fn the_queue_stays_small_however_often_one_flow_returns() {
        let mut aged = Aged::default();
        aged.insert(flow(9), 0);
        for round in 0..10_000 {
            aged.insert(flow(1), round);
            aged.remove(&flow(1));
        }
        assert!(aged.queue.len() <= 70);
        assert_eq!(aged.pop_oldest().map(|(flow, _)| flow), Some(flow(9)));
    }
}
