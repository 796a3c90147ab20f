//! What scoring wants of the packet path: verdicts on units, their end, the share that they hold for. By a queue that
//! nobody waits for: what finds no room is dropped and counted, and comes again with its client's next request.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use detector_common::verdict::{Action as KernelAction, REASON_SCORE};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::enforce::automatic::Automatic;
use crate::fingerprint::Ja4;
use crate::kernel::{Slot, Waker};
use crate::policy::terms::RateLimit;
use crate::telemetry::Metrics;

/// Whom a verdict is on: clients of one fingerprint in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) unit: IpNet,
    /// The kernel's key of `ja4`.
    pub(super) key: u64,
    /// Without what resumption changes.
    pub(super) ja4: Ja4,
}

impl Target {
    pub(super) const fn slot(&self) -> Slot {
        Slot::StablePair(self.unit, self.key)
    }
}

/// One wish.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// A verdict; with a rate, new connections are limited to it, else none pass.
    Verdict { target: Target, rate: Option<RateLimit>, ttl: Duration },
    /// No verdict any more.
    Lift(Target),
    /// Automatic verdicts hold for this share of addresses, of [`detector_common::mode::WHOLE_SHARE`].
    Share(u32),
}

impl Wanted {
    /// The verdict, as the maps take it.
    pub(super) const fn automatic(target: &Target, rate: Option<RateLimit>, ttl: Duration) -> Automatic {
        let action = if rate.is_some() { KernelAction::RateLimit } else { KernelAction::Block };
        Automatic { action, reason: REASON_SCORE, rate, ja4: Some(target.ja4), ttl }
    }
}

/// The queue's end of those who want.
#[derive(Clone)]
pub(super) struct Wishes {
    queue: SyncSender<Wanted>,
    waker: Waker,
    /// The share that was asked for last: it must not get lost.
    share: Arc<Mutex<Option<u32>>>,
    metrics: Arc<Metrics>,
}

/// The packet path's end.
pub(super) struct Orderly {
    queue: Receiver<Wanted>,
    share: Arc<Mutex<Option<u32>>>,
}

/// A queue of so many. `waker`: wakes the packet path.
pub(super) fn queue(most: usize, waker: Waker, metrics: Arc<Metrics>) -> (Wishes, Orderly) {
    let (queue, wanted) = sync_channel(most);
    let share = Arc::new(Mutex::new(None));
    (Wishes { queue, waker, share: Arc::clone(&share), metrics }, Orderly { queue: wanted, share })
}

impl Wishes {
    /// Never waits.
    pub(super) fn want(&self, wanted: Wanted) {
        if let Wanted::Share(share) = wanted {
            *self.share.lock().unwrap_or_else(PoisonError::into_inner) = Some(share);
            return self.waker.wake();
        }
        let outcome = match self.queue.try_send(wanted) {
            Ok(()) => &self.metrics.enforce.queued,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => &self.metrics.enforce.dropped,
        };
        outcome.add(1);
        self.waker.wake();
    }
}

impl Orderly {
    /// So many of what is wanted, the share first.
    pub(super) fn take(&self, most: usize) -> impl Iterator<Item = Wanted> {
        let share = self.share.lock().unwrap_or_else(PoisonError::into_inner).take();
        share.map(Wanted::Share).into_iter().chain(self.queue.try_iter().take(most))
    }
}
