//! Counts that fade: what was counted ten minutes ago weighs a third of what is counted now.

use super::view::Rates;
use crate::clock::Timestamp;

/// Seconds after which a count weighs 1/e.
const FADES_S: f32 = 600.0;

/// Fewer requests than these say nothing about a share.
const FEW: f32 = 20.0;

/// Requests, and those of them that were stopped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Decayed {
    at: Timestamp,
    since: Option<Timestamp>,
    requests: f32,
    stopped: f32,
}

impl Decayed {
    pub(super) fn add(&mut self, now: Timestamp) {
        self.since.get_or_insert(now);
        self.fade(now);
        self.requests += 1.0;
    }

    pub(super) fn stop(&mut self, now: Timestamp) {
        self.fade(now);
        self.stopped += 1.0;
    }

    pub(super) fn rates(mut self, now: Timestamp) -> Rates {
        self.fade(now);
        let age = self.since.map_or(0.0, |since| now.since(since).as_secs_f32());
        // Of a steady rate so much has been counted after that time, and not all faded away: a minute at least.
        let window = FADES_S * (1.0 - (-age / FADES_S).exp());
        let share = if self.requests < FEW { 0.0 } else { (self.stopped / self.requests).min(1.0) };
        Rates { per_minute: self.requests * 60.0 / window.max(60.0), stopped: share }
    }

    fn fade(&mut self, now: Timestamp) {
        let passed = now.since(self.at).as_secs_f32();
        if passed > 0.0 {
            let left = (-passed / FADES_S).exp();
            (self.requests, self.stopped) = (self.requests * left, self.stopped * left);
        }
        self.at = self.at.max(now);
    }
}
