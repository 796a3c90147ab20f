//! Addresses that may be proxies nobody configured: told by who puts requests together with hellos, asked by who carries
//! out orders, and shown. Memory: that of [`Suspected`].

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;
use tracing::warn;

use crate::{
    clock::{Timestamp, monotonic},
    join::Suspected,
    telemetry::logs::Limited,
};

static NEWS: Limited = Limited::per_minute(6);

/// The list.
#[derive(Clone)]
pub(super) struct Suspects(Arc<Mutex<Suspected>>);

impl Suspects {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Suspected::new(most))))
    }

    fn list(&self) -> MutexGuard<'_, Suspected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One may be a proxy.
    pub(super) fn note(&self, address: IpAddr, now: Timestamp) {
        if self.list().note(address, now)
            && let Some(suppressed) = NEWS.admit(now)
        {
            warn!(
                %address, suppressed,
                "many kinds of programs send with one fingerprint: a proxy? then name it in `signals.trusted_proxies`; \
                 until then no verdict on its packets but an operator's"
            );
        }
    }

    /// The first of them in one of these prefixes, and how many there are in each of them together.
    pub(super) fn within(&self, prefixes: impl Iterator<Item = IpNet>) -> Option<(IpAddr, usize)> {
        let mut list = self.list();
        list.expire(monotonic());
        if list.is_empty() {
            return None;
        }
        let (mut first, mut count) = (None, 0);
        for address in prefixes.flat_map(|prefix| list.within(prefix)) {
            first.get_or_insert(address);
            count += 1;
        }
        first.map(|first| (first, count))
    }

    /// The first of them, and how many there are.
    pub(super) fn all(&self, most: usize) -> (Vec<IpAddr>, usize) {
        let mut list = self.list();
        list.expire(monotonic());
        (list.iter().take(most).collect(), list.len())
    }
}
