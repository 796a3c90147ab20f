//! How requests follow each other: of one connection, or of a whole session. Mean and variance as Welford (1962) keeps
//! them.

use super::request::Request;
use crate::clock::Timestamp;

/// How requests followed each other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Steps {
    /// Requests.
    pub requests: u32,
    /// Requests of the busiest minute.
    pub peak_per_minute: u32,
    /// Pages of the minute with most of them.
    pub peak_pages: u32,
    /// Pauses between pages that were measured.
    pub intervals: u32,
    /// Their mean, seconds.
    pub interval_mean_s: f32,
    /// Their standard deviation as a share of the mean: 0 is a clock. 0 with less than two.
    pub interval_variation: f32,
    /// The most pages in a row whose paths differ by a number only, which grew by the same each time: 0 if none did.
    pub sequence: u32,
}

/// The requests so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Track {
    pub(super) connection: u64,
    pub(super) last: Timestamp,
    requests: u32,
    minute_began: Timestamp,
    minute: u32,
    peak: u32,
    minute_pages: u32,
    peak_pages: u32,
    last_page: Option<Timestamp>,
    intervals: u32,
    mean: f32,
    squares: f32,
    shape: u64,
    number: Option<u64>,
    stride: i64,
    run: u32,
    longest: u32,
}

const MINUTE: u64 = 60;

impl Track {
    pub(super) fn new(connection: u64) -> Self {
        Self { connection, ..Self::default() }
    }

    pub(super) fn note(&mut self, request: &Request) {
        self.requests = self.requests.saturating_add(1);
        if self.requests == 1 || request.at.since(self.minute_began).as_secs() >= MINUTE {
            (self.minute_began, self.minute, self.minute_pages) = (request.at, 0, 0);
        }
        self.minute = self.minute.saturating_add(1);
        self.peak = self.peak.max(self.minute);
        self.last = self.last.max(request.at);
        if request.is_page() {
            self.minute_pages = self.minute_pages.saturating_add(1);
            self.peak_pages = self.peak_pages.max(self.minute_pages);
            self.page(request);
        }
    }

    pub(super) fn steps(&self) -> Steps {
        let variance = self.squares / self.intervals.saturating_sub(1).max(1) as f32;
        let measured = self.intervals > 1 && self.mean > 0.0;
        Steps {
            requests: self.requests,
            peak_per_minute: self.peak,
            peak_pages: self.peak_pages,
            intervals: self.intervals,
            interval_mean_s: self.mean,
            interval_variation: if measured { variance.sqrt() / self.mean } else { 0.0 },
            sequence: self.longest,
        }
    }

    fn page(&mut self, request: &Request) {
        // Reports come at the end of requests: one that began earlier says nothing about a pause.
        if let Some(last) = self.last_page.filter(|last| *last <= request.at) {
            let interval = request.at.since(last).as_secs_f32();
            self.intervals = self.intervals.saturating_add(1);
            let before = interval - self.mean;
            self.mean += before / self.intervals as f32;
            self.squares += before * (interval - self.mean);
        }
        self.last_page = self.last_page.max(Some(request.at));
        self.follow(request);
    }

    fn follow(&mut self, request: &Request) {
        let last = self.number.filter(|_| self.shape == request.shape);
        (self.shape, self.number) = (request.shape, request.number);
        let (Some(last), Some(number)) = (last, request.number) else {
            (self.stride, self.run) = (0, 0);
            return;
        };
        let stride = number.wrapping_sub(last).cast_signed();
        self.run = match stride {
            0 => 0,
            stride if stride == self.stride => self.run.saturating_add(1),
            _ => 2,
        };
        self.stride = stride;
        self.longest = self.longest.max(self.run);
    }
}

impl Steps {
    /// The more telling of two, each for itself.
    pub(super) fn or_worse(self, other: Self) -> Self {
        // Of pauses those say more of which there are enough, and then the more regular ones.
        let (regular, irregular) =
            if (self.is_telling(), -self.interval_variation) >= (other.is_telling(), -other.interval_variation) {
                (self, other)
            } else {
                (other, self)
            };
        Self {
            requests: self.requests.max(other.requests),
            peak_per_minute: self.peak_per_minute.max(other.peak_per_minute),
            peak_pages: self.peak_pages.max(other.peak_pages),
            sequence: self.sequence.max(other.sequence),
            ..if regular.intervals > 0 { regular } else { irregular }
        }
    }

    /// Whether there are enough pauses to say that they are regular.
    const fn is_telling(self) -> bool {
        self.intervals >= 10
    }
}
