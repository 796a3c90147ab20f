//! How regular pages follow each other, the latest weighing most. People who don't know of each other come like rain: the
//! pauses vary as much as they last.

use crate::clock::Timestamp;

/// Pauses that are looked back on.
const MEMORY: f32 = 50.0;

/// Fewer say nothing.
const LEAST: u32 = 30;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    last: Option<Timestamp>,
    pauses: u32,
    mean: f32,
    variance: f32,
}

impl Pace {
    pub(super) fn note(&mut self, at: Timestamp) {
        if let Some(last) = self.last.filter(|last| *last <= at) {
            let pause = at.since(last).as_secs_f32();
            self.pauses = self.pauses.saturating_add(1);
            let share = 1.0 / (self.pauses as f32).min(MEMORY);
            let off = pause - self.mean;
            self.mean += share * off;
            self.variance = (1.0 - share) * (self.variance + share * off * off);
        }
        self.last = self.last.max(Some(at));
    }

    /// The pauses' standard deviation as a share of their mean, if there are enough.
    pub(super) fn regularity(&self) -> Option<f32> {
        (self.pauses >= LEAST && self.mean > 0.0).then(|| self.variance.sqrt() / self.mean)
    }
}
