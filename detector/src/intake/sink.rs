//! What becomes of a frame: counted, and if it is a report of one who may tell, handed on.

use std::sync::Arc;

use nix::unistd::Gid;
use tracing::warn;

use super::{
    loss::Losses,
    peer::{Peer, Peers, Refused, Way},
    stream::Closed,
};
use crate::{
    clock::Timestamp,
    config::Signals,
    report::{self, Report},
    telemetry::{Metrics, logs::Limited},
};

static REFUSED: Limited = Limited::per_minute(6);
static REJECTED: Limited = Limited::per_minute(6);
static CLOSED: Limited = Limited::per_minute(6);

/// Everything that a frame changes.
pub(super) struct Sink<F> {
    peers: Peers,
    losses: Losses,
    metrics: Arc<Metrics>,
    /// Of the last frame that was no JSON as it stood.
    mended: String,
    take: F,
}

impl<F: FnMut(&Report<'_>, Peer, Timestamp)> Sink<F> {
    pub(super) fn new(settings: &Signals, group: Option<Gid>, metrics: Arc<Metrics>, take: F) -> Self {
        Self {
            peers: Peers::new(group, settings.datagrams_per_second, settings.lines_per_second),
            losses: Losses::new(settings.tracked_connections as usize, crate::clock::monotonic()),
            metrics,
            mended: String::new(),
            take,
        }
    }

    /// Whether somebody may report at all.
    pub(super) fn may_report(&mut self, peer: Peer, now: Timestamp) -> bool {
        self.peers.may_report(peer, now)
    }

    /// One frame of `peer`, that came `now`.
    pub(super) fn frame(&mut self, frame: &[u8], peer: Peer, way: Way, now: Timestamp) {
        if let Err(why) = self.peers.admit(peer, way, now) {
            return self.refused(why, peer, now);
        }
        let mut read = match report::read(frame, &mut self.mended) {
            Ok(read) => read,
            Err(why) => {
                self.metrics.requests.rejected.add(why.label(), 1);
                if let Some(suppressed) = REJECTED.admit(now) {
                    let Peer { uid, pid, .. } = peer;
                    warn!(reason = why.label(), uid, pid, bytes = frame.len(), suppressed, "a frame is no report");
                }
                return;
            }
        };
        self.metrics.requests.reports.add(1);
        for (label, count) in [("unknown", read.unknown), ("wrong", read.wrong)] {
            if count > 0 {
                self.metrics.requests.fields.add(label, count.into());
            }
        }
        if way == Way::Stream {
            // Whoever may wait has no hurry.
            read.report.relayed = Some(true);
        }
        self.losses.note(&read.report, now);
        (self.take)(&read.report, peer, now);
    }

    /// A frame that isn't read.
    pub(super) fn refused(&self, why: Refused, peer: Peer, now: Timestamp) {
        self.metrics.requests.refused.add(why.label(), 1);
        if let Some(suppressed) = REFUSED.admit(now) {
            let Peer { uid, gid, pid } = peer;
            warn!(reason = why.label(), uid, gid, pid, suppressed, "a report is refused");
        }
    }

    /// A stream that isn't read on.
    pub(super) fn closed(&self, why: Closed, peer: Option<Peer>, now: Timestamp) {
        self.metrics.resources.streams.add(why.label(), 1);
        if let Some(suppressed) = CLOSED.admit(now) {
            let (uid, pid) = (peer.map(|peer| peer.uid), peer.and_then(|peer| peer.pid));
            warn!(reason = why.label(), uid, pid, suppressed, "a stream of reports is closed");
        }
    }

    /// Tells what is known of losses.
    pub(super) fn publish(&self) {
        self.metrics.requests.lost.set(self.losses.estimate());
    }
}
