//! How many reports got lost on their way: a web server drops what the socket's queue can't hold, and tells nobody. In:
//! reports, with the number that each request has on its connection. Out: an estimate. Of the numbers before the last one
//! seen of a connection, those that are missing are counted; what share they are, is the share of all. The number at which
//! looking began, where that wasn't the connection's begin, is not one of them: it would not have been the one, had it got
//! lost. A request that is still going on (HTTP/2, a download) is missing until it ends. Bound: so many connections, the
//! longest silent one goes; where that was heard of just now, a share of all is looked at from then on, which fits.

use std::{hash::BuildHasher as _, num::NonZeroUsize, time::Duration};

use detector_common::key::mix;
use foldhash::fast::RandomState;
use lru::LruCache;

use crate::{clock::Timestamp, report::Report};

/// Two begins of a connection, told by two reports, are one if they are no further apart: the servers' clocks tick in
/// milliseconds, and a report may wait for its turn.
const SAME_BEGIN: Duration = Duration::from_secs(2);

/// A connection becomes the first in the table's order no more often: to move it is to write to its neighbours, which no
/// cache has.
const PLACED: Duration = Duration::from_secs(10);

/// A connection that was silent for so long may be forgotten: of those that go on, most requests are seen.
const SILENT: Duration = Duration::from_secs(5);

/// Halvings of the share that is looked at; and how long none was needed before one is taken back.
const HALVINGS: u32 = 16;
const ENOUGH: Duration = Duration::from_secs(600);

/// A greater gap is no loss but another counting.
const GAP_MAX: u64 = 1 << 20;

/// What is known of each connection, and in all.
#[derive(Debug)]
pub struct Losses {
    connections: LruCache<u64, Seen, RandomState>,
    hasher: RandomState,
    /// One in two to the power of this is looked at.
    halvings: u32,
    /// When that changed.
    halved: Timestamp,
    /// A connection that began before may have been forgotten, or never known.
    known_since: Timestamp,
    /// Reports with a number.
    received: u64,
    /// Numbers before the last one seen of their connection.
    before_last: u64,
    /// Those of them that were not seen.
    missing: u64,
}

/// What was seen of a connection.
#[derive(Clone, Copy, Debug)]
struct Seen {
    begun: Option<Timestamp>,
    /// Its greatest number.
    last: u64,
    /// That is where looking began, not at the connection's begin.
    first_seen: bool,
    at: Timestamp,
    /// When it became the first in the table's order.
    placed: Timestamp,
}

impl Losses {
    /// Remembers so many connections at most, from `now` on.
    #[must_use]
    pub fn new(most: usize, now: Timestamp) -> Self {
        let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Self {
            connections: LruCache::with_hasher(most, RandomState::default()),
            hasher: RandomState::default(),
            halvings: 0,
            halved: now,
            known_since: now,
            received: 0,
            before_last: 0,
            missing: 0,
        }
    }

    /// One report.
    pub fn note(&mut self, report: &Report<'_>, now: Timestamp) {
        let (Some(client), Some(port), Some(number)) = (report.client, report.client_port, report.connection_requests)
        else {
            return;
        };
        let connection = self.hasher.hash_one((client, port, report.server, report.server_port));
        if !is_in(connection, self.halvings) {
            self.received += 1;
            return;
        }
        let begun = report.connection_age.map(|age| before(now, age));
        match self.connections.peek_mut(&connection) {
            Some(seen) if seen.goes_on(number, begun) => {
                let moves = now.since(seen.placed) >= PLACED;
                seen.at = now;
                if number <= seen.last {
                    // It was missing until now: its request took longer than later ones.
                    self.missing = self.missing.saturating_sub(u64::from(!seen.first_seen));
                } else if number - seen.last <= GAP_MAX {
                    self.missing += number - seen.last - 1;
                    self.before_last += number - seen.last - u64::from(seen.first_seen);
                    seen.first_seen = false;
                } else {
                    return;
                }
                seen.last = seen.last.max(number);
                if moves {
                    seen.placed = now;
                    self.connections.promote(&connection);
                }
            }
            _ => {
                let from_its_begin =
                    begun.is_some_and(|begun| begun > self.known_since) && (1..=GAP_MAX).contains(&number);
                if from_its_begin {
                    self.missing += number - 1;
                    self.before_last += number - 1;
                }
                let gone = self
                    .connections
                    .push(connection, Seen { begun, last: number, first_seen: !from_its_begin, at: now, placed: now });
                let gone = gone.filter(|(other, _)| *other != connection);
                self.made_room(gone.map(|(_, gone)| gone.at), now);
            }
        }
        self.received += 1;
    }

    /// A connection was not known, and another one, last heard of `at`, went for it.
    fn made_room(&mut self, at: Option<Timestamp>, now: Timestamp) {
        self.known_since = self.known_since.max(at.unwrap_or_default());
        if at.is_some_and(|at| now.since(at) < SILENT) {
            self.halvings = (self.halvings + 1).min(HALVINGS);
            self.halved = now;
            let (table, halvings) = (&mut self.connections, self.halvings);
            let out: Vec<u64> = table
                .iter()
                .map(|(connection, _)| *connection)
                .filter(|connection| !is_in(*connection, halvings))
                .collect();
            for connection in out {
                table.pop(&connection);
            }
        } else if self.halvings > 0 && now.since(self.halved) >= ENOUGH {
            self.halvings -= 1;
            // Of those that are looked at again, nothing is known of before.
            (self.halved, self.known_since) = (now, now);
        }
    }

    /// How many reports with numbers got lost, as far as can be told.
    #[must_use]
    pub fn estimate(&self) -> u64 {
        let came = self.before_last.saturating_sub(self.missing);
        if came == 0 {
            return self.missing;
        }
        (self.received as f64 * (self.missing as f64 / came as f64)).round() as u64
    }
}

impl Seen {
    /// Whether a request of this number is one of the same connection, not of another one on the same ports.
    fn goes_on(&self, number: u64, begun: Option<Timestamp>) -> bool {
        match (self.begun, begun) {
            (Some(ours), Some(its)) => ours.since(its).max(its.since(ours)) <= SAME_BEGIN,
            _ => number > self.last,
        }
    }
}

/// Whether a connection is among the one in two to the power of this that are looked at.
const fn is_in(connection: u64, halvings: u32) -> bool {
    mix(connection).trailing_zeros() >= halvings
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::from_nanos(now.as_nanos().saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_nanos(1_000_000_000_000);

    fn at(ms: u64) -> Timestamp {
        START.plus(Duration::from_millis(ms))
    }

    fn report(port: u16, number: u64, age_ms: Option<u64>) -> Report<'static> {
        Report {
            client: Some([192, 0, 2, 7].into()),
            client_port: Some(port),
            connection_requests: Some(number),
            connection_age: age_ms.map(Duration::from_millis),
            ..Report::default()
        }
    }

    #[test]
    fn without_gaps_nothing_is_lost() {
        let mut losses = Losses::new(100, START);
        for number in 1..=10 {
            losses.note(&report(1, number, Some(number)), at(100 + number));
        }
        // Out of order, as requests of HTTP/2 end.
        for number in [3, 1, 2, 5, 4] {
            losses.note(&report(2, number, Some(10)), at(200));
        }
        // Without an age, and not from its begin; another connection on its ports.
        for number in [7, 8, 9, 1, 2] {
            losses.note(&report(3, number, None), at(300));
        }
        losses.note(&Report::default(), at(300));
        assert_eq!(losses.estimate(), 0);
    }

    /// One in `every` gets lost, of connections of ten requests: also of their last ones, which leave no gap.
    #[test]
    fn the_estimate_is_near_what_was_lost() {
        for every in [2, 3, 7, 100] {
            let mut losses = Losses::new(1000, START);
            let (mut lost, mut dice) = (0_u64, 12345_u64);
            for connection in 0..5000_u64 {
                let port = 1 + (connection % 60_000) as u16;
                for number in 1..=10 {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if (dice >> 33) % every == 0 {
                        lost += 1;
                    } else {
                        losses.note(&report(port, number, Some(number)), at(10_000 + connection * 10 + number));
                    }
                }
            }
            let error = (losses.estimate() as f64 / lost as f64 - 1.0).abs();
            assert!(error < 0.1, "1 of {every}: {} estimated, {lost} lost", losses.estimate());
        }
    }

    #[test]
    fn what_was_before_the_start_or_was_forgotten_is_not_lost() {
        let mut losses = Losses::new(2, START);
        losses.note(&report(1, 500, Some(60_000)), at(1000));
        assert_eq!(losses.estimate(), 0, "it began before");
        for port in 2..10 {
            losses.note(&report(port, 1, Some(1)), at(2000));
        }
        losses.note(&report(1, 800, Some(70_000)), at(11_000));
        losses.note(&report(2, 20, Some(9_001)), at(11_000));
        assert_eq!(losses.estimate(), 0, "they had been forgotten");
    }

    /// Of very many connections at one time, a share tells of all: whichever share it is, and on the whole neither too many
    /// nor too few.
    #[test]
    fn more_connections_than_there_is_room_for_are_sampled() {
        const RUNS: u32 = 50;
        let mut sum = 0.0;
        for _ in 0..RUNS {
            let mut losses = Losses::new(1000, START);
            let (mut lost, mut dice) = (0_u64, 12345_u64);
            for number in 1..=20 {
                for port in 1..=30_000 {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if (dice >> 33) % 4 == 0 {
                        lost += 1;
                    } else {
                        losses.note(&report(port, number, Some(number * 1000)), at(10_000 + number * 1000));
                    }
                }
            }
            let error = losses.estimate() as f64 / lost as f64 - 1.0;
            assert!(error.abs() < 0.1, "{} estimated, {lost} lost", losses.estimate());
            sum += error;
        }
        let mean = sum / f64::from(RUNS);
        assert!(mean.abs() < 0.02, "{mean} of all on average");
    }

    #[test]
    fn a_reused_port_is_another_connection() {
        let mut losses = Losses::new(10, START);
        for number in 1..=5 {
            losses.note(&report(1, number, Some(number)), at(10_000 + number));
        }
        for number in 1..=5 {
            losses.note(&report(1, number, Some(number)), at(20_000 + number));
        }
        assert_eq!(losses.estimate(), 0);
        losses.note(&report(1, u64::MAX, Some(6)), at(20_006));
        losses.note(&report(1, 7, Some(7)), at(20_007));
        assert_eq!(losses.estimate(), 1, "an absurd number is passed over; 6 is missing");
    }
}
