//! The table of connections in parts, each behind a lock of its own: who asks for one never waits for what happens to
//! others. A part's lock is held for one look-up, some hundred nanoseconds; should the system stop its holder just then,
//! the questions about all other parts go on.
//!
//! Memory: [`Limits::connections`], rounded up; by lot a part may be full shortly before the whole is.

use std::{
    hash::BuildHasher as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use foldhash::fast::RandomState;

use crate::{
    clock::Timestamp,
    join::{Claim, Connections, End, Fit, Found, Limits, Lookup},
};

/// Parts of a large table.
const PARTS: usize = 64;
/// Client ends that a part has room for at least: in so many lot evens out.
const LEAST: usize = 1024;

/// All connections.
pub(super) struct Shards {
    parts: Box<[Mutex<Connections>]>,
    random: RandomState,
}

impl Shards {
    /// Without any connection.
    pub(super) fn new(limits: Limits) -> Self {
        let count = (limits.connections / LEAST).clamp(1, PARTS);
        let limits = Limits { connections: limits.connections.div_ceil(count), ..limits };
        let parts = (0..count).map(|_| Mutex::new(Connections::new(limits))).collect();
        Self { parts, random: RandomState::default() }
    }

    /// Changes the part with this client end.
    pub(super) fn with<T>(&self, end: &End, change: impl FnOnce(&mut Connections) -> T) -> T {
        change(&mut lock(&self.parts[self.part(end)]))
    }

    /// What is known of the connection that a claim names: [`Connections::fit`].
    pub(super) fn fit(&self, claim: &Claim, settle: bool) -> Fit {
        let part = self.part(&claim.client);
        let fit = lock(&self.parts[part]).fit(claim, settle);
        // Each part counts for itself: no two connections of all parts may have one number.
        let unique = |found: Found| {
            let number = found.connection.wrapping_mul(self.parts.len() as u64).wrapping_add(part as u64);
            Found { connection: number, ..found }
        };
        match fit {
            Fit::Sure(found) => Fit::Sure(unique(found)),
            Fit::Doubtful(found) => Fit::Doubtful(unique(found)),
            other => other,
        }
    }

    /// Client ends remembered, and connections forgotten before their time, for want of room.
    pub(super) fn count(&self) -> (usize, u64) {
        self.parts.iter().map(lock).fold((0, 0), |(len, evicted), part| (len + part.len(), evicted + part.evicted()))
    }

    fn part(&self, end: &End) -> usize {
        (self.random.hash_one(end) % self.parts.len() as u64) as usize
    }
}

impl Lookup for &Shards {
    fn fit(&mut self, claim: &Claim, settle: bool) -> Fit {
        Shards::fit(self, claim, settle)
    }

    fn expire(&mut self, now: Timestamp) {
        for part in &self.parts {
            lock(part).expire(now);
        }
    }
}

fn lock(part: &Mutex<Connections>) -> MutexGuard<'_, Connections> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{
        fingerprint::Transport,
        join::{Carrier, Identity, Tuple},
    };

    const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000_000);

    fn tuple(number: u32) -> Tuple {
        let client = End::new(std::net::Ipv4Addr::from(number).into(), 40_000, Carrier::Tcp);
        Tuple { client, server: ([198, 51, 100, 1], 443).into() }
    }

    fn begin(shards: &Shards, number: u32) {
        let ja4 = "t13d1516h2_8daaf6152771_e5627efa2ab1".parse().unwrap();
        let identity = Identity {
            ja4,
            ja4_stable: ja4,
            keys: Default::default(),
            traits: Default::default(),
            syn_class: None,
            transport: Transport::Tcp,
            syn: Some(NOW),
            hello: NOW,
            stream: number,
            void: false,
        };
        let tuple = tuple(number);
        shards.with(&tuple.client, |connections| connections.begin(tuple, identity, NOW));
    }

    fn fit(shards: &Shards, number: u32) -> Fit {
        let client = tuple(number).client;
        let (server, server_port, connection) = (None, None, None);
        let claim =
            Claim { client, server, server_port, arrived: NOW, request: NOW, connection, number: None, relayed: false };
        shards.fit(&claim, false)
    }

    #[test]
    fn each_connection_is_found_and_has_a_number_of_its_own() {
        let shards = Shards::new(Limits::default());
        (0..5000).for_each(|number| begin(&shards, number));
        let numbers = (0..5000).map(|number| match fit(&shards, number) {
            Fit::Sure(found) if found.identity.stream == number => found.connection,
            other => panic!("{number}: {other:?}"),
        });
        assert_eq!(numbers.collect::<HashSet<_>>().len(), 5000);
        assert_eq!(fit(&shards, 5000), Fit::Unknown);
        assert_eq!(shards.count(), (5000, 0));
    }

    #[test]
    fn all_parts_are_bounded_and_expire() {
        let limits = Limits { connections: 10_000, ..Limits::default() };
        let shards = Shards::new(limits);
        (0..100_000).for_each(|number| begin(&shards, number));
        let (len, evicted) = shards.count();
        assert!((10_000..10_000 + PARTS).contains(&len) && evicted == 100_000 - len as u64, "{len}, {evicted}");
        (&shards).expire(NOW.plus(limits.idle));
        assert_eq!(shards.count().0, 0);
    }
}
