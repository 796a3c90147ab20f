//! The last reports, for `detector reports`: each in, then which hello it was joined to; a page of them out. Bound:
//! `signals.recent` of some 16 KiB, and as many a second, at least [`KEPT_PER_SECOND`], so that keeping them costs a busy
//! host little.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    admin::protocol::Seen,
    clock::{Timestamp, wall},
    fingerprint::Ja4,
    intake::Peer,
    report::Report,
};

/// Of more only so many are kept.
const KEPT_PER_SECOND: usize = 1000;

/// The last reports.
#[derive(Clone)]
pub(super) struct Recent(Arc<Shared>);

struct Shared {
    kept: Mutex<VecDeque<Seen>>,
    most: usize,
    /// When the last one came; 0: none did.
    last: AtomicU64,
}

impl Recent {
    pub(super) fn new(most: u32) -> Self {
        Self(Arc::new(Shared { kept: Mutex::default(), most: most as usize, last: AtomicU64::new(0) }))
    }

    /// What keeps them: for the thread that reads them. It gives each that it keeps a number, for [`Self::joined`].
    pub(super) fn keeper(&self) -> impl FnMut(&Report<'_>, Peer, Timestamp) -> Option<u64> + Send + 'static {
        let this = self.clone();
        let per_second = this.0.most.max(KEPT_PER_SECOND);
        let (mut number, mut second, mut kept) = (0, Timestamp::default(), 0);
        move |report, peer, arrived| {
            number += 1;
            this.0.last.store(arrived.as_nanos(), Ordering::Relaxed);
            if arrived.since(second) >= Duration::from_secs(1) {
                (second, kept) = (arrived, 0);
            }
            (kept < per_second).then(|| {
                kept += 1;
                this.keep(number, report, peer);
                number
            })
        }
    }

    /// What the join made of a report that was kept, by the metric's label.
    pub(super) fn joined(&self, number: u64, outcome: &'static str, ja4: Option<Ja4>) {
        let mut kept = self.kept();
        if let Ok(place) = kept.binary_search_by_key(&number, |seen| seen.number)
            && let Some(seen) = kept.get_mut(place)
        {
            seen.join = Some(outcome.to_owned());
            seen.ja4 = ja4.map(|ja4| ja4.to_string());
        }
    }

    fn keep(&self, number: u64, report: &Report<'_>, peer: Peer) {
        let Some(report) = Seen::short(report) else { return };
        let arrived = humantime::format_rfc3339_millis(wall()).to_string();
        let mut kept = self.kept();
        if kept.len() >= self.0.most {
            kept.pop_front();
        }
        kept.push_back(Seen { number, arrived, uid: peer.uid, pid: peer.pid, join: None, ja4: None, report });
    }

    /// Some of those after this number, the oldest first.
    pub(super) fn after(&self, number: u64) -> Vec<Seen> {
        Seen::page(self.kept().iter().skip_while(|seen| seen.number <= number))
    }

    /// When the last one came.
    pub(super) fn last(&self) -> Option<Timestamp> {
        let nanos = self.0.last.load(Ordering::Relaxed);
        (nanos > 0).then(|| Timestamp::from_nanos(nanos))
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Seen>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_and_told_in_order() {
        let recent = Recent::new(3);
        let mut keep = recent.keeper();
        let peer = Peer { uid: 33, gid: 33, pid: Some(7) };
        assert_eq!((recent.last(), recent.after(0)), (None, Vec::new()));
        for status in 201..206 {
            let report = Report { status: Some(status), ..Report::default() };
            keep(&report, peer, Timestamp::from_nanos(status.into()));
        }
        let told = recent.after(0).into_iter().map(|seen| (seen.number, seen.report["status"].clone()));
        assert_eq!(told.collect::<Vec<_>>(), [(3, 203.into()), (4, 204.into()), (5, 205.into())]);
        assert_eq!(recent.after(4).len(), 1);
        assert_eq!(recent.after(5), []);
        assert_eq!(recent.last(), Some(Timestamp::from_nanos(205)));
    }

    #[test]
    fn what_a_report_was_joined_to_is_told_with_it() {
        let recent = Recent::new(2);
        let mut keep = recent.keeper();
        let peer = Peer { uid: 33, gid: 33, pid: None };
        let numbers: Vec<u64> =
            (0..3).filter_map(|_| keep(&Report::default(), peer, Timestamp::from_nanos(1))).collect();
        let ja4: Ja4 = "t13d1516h2_8daaf6152771_e5627efa2ab1".parse().unwrap();
        // The first is gone already.
        recent.joined(numbers[0], "no_hello", None);
        recent.joined(numbers[2], "joined", Some(ja4));
        let told: Vec<_> = recent.after(0).into_iter().map(|seen| (seen.number, seen.join, seen.ja4)).collect();
        let joined = (numbers[2], Some("joined".to_owned()), Some(ja4.to_string()));
        assert_eq!(told, [(numbers[1], None, None), joined]);
    }

    #[test]
    fn of_many_only_a_sample_is_kept() {
        let recent = Recent::new(100);
        let mut keep = recent.keeper();
        let peer = Peer { uid: 0, gid: 0, pid: None };
        let numbers =
            (0..5000).map(|nanos| keep(&Report::default(), peer, Timestamp::from_nanos(2_000_000_000 + nanos)));
        assert_eq!(numbers.filter(Option::is_some).count(), KEPT_PER_SECOND);
        keep(&Report::default(), peer, Timestamp::from_nanos(3_000_000_000));
        assert_eq!(recent.kept().back().map(|seen| seen.number), Some(5001), "their numbers tell what was left out");
    }
}
