//! Seats for connections. A connection in, a [`Seat`] out; when all are taken, that of the peer which has been silent
//! longest goes to the new one, so that those who only hold on keep nobody out (threats.md T31). However fast others come,
//! each has [`EACH`] times the seats to ask; those wait in the listener's queue meanwhile, and an honest peer has asked
//! before it leaves that.
//!
//! Memory: 100 bytes for each seat.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::{Timestamp, monotonic};

/// Between two who take others' seats: 3,300 a second, so that a thousand slow ones pass in a third of one.
const EACH: Duration = Duration::from_micros(300);

/// How a connection ended: metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its peer hung up, or had its answer.
    Done,
    /// Its peer took too long to ask, or to read the answer.
    Slow,
    /// Its peer was silent when another one came, and no seat was free.
    Displaced,
}

impl End {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Done, Self::Slow, Self::Displaced];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Slow => "slow",
            Self::Displaced => "displaced",
        }
    }
}

/// So many connections at one time.
#[derive(Clone, Debug)]
pub struct Seats(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    grace: Duration,
    taken: Mutex<Taken>,
    /// A seat may be had again.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    /// Those of peers that are silent, the longest first, and since when.
    silent: BTreeMap<u64, (Timestamp, CancellationToken)>,
    /// The number of the next silence.
    next: u64,
}

impl Taken {
    fn fall_silent(&mut self, displaced: &CancellationToken) -> u64 {
        let number = self.next;
        self.next += 1;
        self.silent.insert(number, (monotonic(), displaced.clone()));
        number
    }
}

impl Seats {
    /// With all of them free.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self::with_grace(most, EACH * u32::try_from(most).unwrap_or(u32::MAX))
    }

    /// `grace`: how long nobody loses one.
    fn with_grace(most: usize, grace: Duration) -> Self {
        Self(Arc::new(Shared { most, grace, taken: Mutex::default(), freed: Notify::new() }))
    }

    /// How long nobody loses one.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.0.grace
    }

    /// A seat for a connection that has just come: a free one, or that of the peer which has been silent longest. `None`:
    /// all others are being answered, or have just come.
    #[must_use]
    pub fn take(&self) -> Option<Seat> {
        let mut taken = self.taken();
        if taken.count < self.0.most {
            taken.count += 1;
        } else {
            let longest = taken.silent.first_entry()?;
            if monotonic().since(longest.get().0) < self.0.grace {
                return None;
            }
            longest.remove().1.cancel();
        }
        let displaced = CancellationToken::new();
        let number = AtomicU64::new(taken.fall_silent(&displaced));
        Some(Seat { seats: self.clone(), number, displaced })
    }

    /// The same; waits until there is one.
    pub async fn wait(&self) -> Seat {
        loop {
            match self.take() {
                Some(seat) => return seat,
                // One that was freed meanwhile is remembered.
                None => drop(timeout(EACH, self.0.freed.notified()).await),
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's seat, free again when this is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    number: AtomicU64,
    displaced: CancellationToken,
}

impl Seat {
    /// The peer has asked: until [`Seat::release`] its seat goes to nobody else.
    pub fn keep(&self) {
        self.seats.taken().silent.remove(&self.number.load(Ordering::Relaxed));
    }

    /// The rest is the peer's affair: to read its answer, or to ask again.
    pub fn release(&self) {
        let mut taken = self.seats.taken();
        if !self.displaced.is_cancelled() {
            taken.silent.remove(&self.number.load(Ordering::Relaxed));
            self.number.store(taken.fall_silent(&self.displaced), Ordering::Relaxed);
            self.seats.0.freed.notify_one();
        }
    }

    /// What comes of `work`, unless that takes too long or the seat goes to another one.
    ///
    /// # Errors
    /// Which of the two.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T, End> {
        match self.displaced.run_until_cancelled(timeout(limit, work)).await {
            Some(done) => done.map_err(|_| End::Slow),
            None => Err(End::Displaced),
        }
    }

    /// When the seat goes to another one.
    pub async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.silent.remove(&self.number.load(Ordering::Relaxed));
        // One that went to another peer is that one's to give back.
        if !self.displaced.is_cancelled() {
            taken.count -= 1;
            self.seats.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silent_makes_room_and_who_asked_stays() {
        let seats = Seats::with_grace(3, Duration::ZERO);
        let mut held: Vec<Seat> = (0..3).map(|_| seats.take().unwrap()).collect();
        held[0].keep();
        let displaced = |held: &[Seat]| held.iter().map(|seat| seat.displaced.is_cancelled()).collect::<Vec<_>>();
        held.push(seats.take().unwrap());
        assert_eq!(displaced(&held), [false, true, false, false]);
        held[0].release();
        held[2].keep();
        held.push(seats.take().unwrap());
        assert_eq!(displaced(&held), [false, true, false, true, false], "the first one was silent for less time");
        held[0].keep();
        held[4].keep();
        held[1].release();
        assert!(seats.take().is_none(), "who has no seat any more has none to lose");
    }

    #[test]
    fn who_has_just_come_stays() {
        let seats = Seats::with_grace(1, Duration::from_secs(3600));
        let first = seats.take().unwrap();
        assert!(seats.take().is_none());
        drop(first);
        assert!(seats.take().is_some());
    }

    #[test]
    fn each_seat_is_given_back_once() {
        let seats = Seats::with_grace(2, Duration::ZERO);
        for _ in 0..5 {
            let mut held: Vec<Seat> = (0..7).map(|_| seats.take().unwrap()).collect();
            held.iter().for_each(Seat::keep);
            assert!(seats.take().is_none());
            drop(held.split_off(6));
            assert_eq!(seats.taken().count, 1);
        }
        let taken = seats.taken();
        assert_eq!((taken.count, taken.silent.len()), (0, 0));
    }

    #[test]
    fn a_seat_is_waited_for_while_all_are_answered() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let seats = Seats::new(1);
            let first = seats.wait().await;
            first.keep();
            let waiting = seats.clone();
            let second = tokio::spawn(async move { waiting.wait().await });
            tokio::task::yield_now().await;
            assert!(!second.is_finished());
            first.release();
            let second = second.await.unwrap();
            let late = first.within(Duration::from_secs(20), std::future::pending::<()>()).await;
            assert_eq!(late, Err(End::Displaced));
            assert_eq!(second.within(Duration::from_millis(1), std::future::pending::<()>()).await, Err(End::Slow));
        });
    }
}
