//! What one client did within the last hour (of 55 to 60 minutes, by the clock), in constant space: counts by stretches of
//! five minutes, the paths as a bitmap (linear counting, Whang 1990), the steps of the latest connections and of those before them.

use std::time::Duration;

use detector_common::key::mix;

use super::hellos::{Followed, Hellos};
use super::request::Request;
use super::track::{Steps, Track};
use crate::clock::Timestamp;

/// Stretches of the window, that which goes on included.
const STRETCHES: u64 = 12;
const STRETCH: u64 = 300;

/// Seconds of the window, in the mean.
const WINDOW_S: f32 = 3450.0;

/// Connections whose steps are followed at one time: a browser opens six to a host over HTTP/1, and uses one with HTTP/2.
const TRACKS: usize = 6;

/// Bits of a path bitmap: right within 5 % up to 300 paths, then less, and of 3,000 or more it says 3,000.
const BITS: usize = 512;
const WORDS: usize = BITS / 64;

/// What is counted of a stretch.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u32,
    assets: u32,
    calls: u32,
    /// Pages that weren't found on one.
    unreferred: u32,
    /// Requests of any kind that were.
    referred: u32,
    traps: u32,
    disobeyed: u32,
    connections: u32,
    /// By class of their status, 2xx to 5xx.
    statuses: [u32; 4],
}

/// A client's last hour.
#[derive(Clone, Copy, Debug)]
pub(super) struct History {
    began: Timestamp,
    first_page_depth: Option<u8>,
    first_page_referred: bool,
    robots_read: bool,
    /// Of stretch `s` at `s % STRETCHES`.
    counts: [Counts; STRETCHES as usize],
    newest: u64,
    /// Of this half hour and the one before.
    paths: [[u64; WORDS]; 2],
    whole: Track,
    tracks: [Option<Track>; TRACKS],
    /// The worst of earlier connections, of this half hour and the one before.
    earlier: [Steps; 2],
    hellos: Followed,
}

/// What one client did within the last hour, by its key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Since its first request, which may be longer ago than an hour.
    pub age: Duration,
    /// Requests.
    pub requests: u32,
    /// Those for what belongs to a page.
    pub assets: u32,
    /// Those of pages' scripts, and for feeds.
    pub calls: u32,
    /// Pages that weren't found on a page: typed in, bookmarked, or asked for by a script.
    pub unreferred: u32,
    /// Requests of any kind that were.
    pub referred: u32,
    /// Requests for what no page links to.
    pub traps: u32,
    /// Requests for what robots.txt forbids, after it was read.
    pub disobeyed: u32,
    /// Connections that were seen first within the hour.
    pub connections: u32,
    /// Answers 2xx, 3xx, 4xx, 5xx.
    pub statuses: [u32; 4],
    /// Different paths with their queries, in the last half hour to hour: an estimate.
    pub paths: u32,
    /// Path segments of the first page it asked for.
    pub first_page_depth: Option<u8>,
    /// That page was found on another.
    pub first_page_referred: bool,
    /// How all its requests followed each other: of one person only if the key is a session id.
    pub whole: Steps,
    /// The worst of its connections, in the last half hour to hour, each figure for itself.
    pub worst_connection: Steps,
    /// What the hellos of its connections have in common, since its first request.
    pub hellos: Hellos,
}

impl Summary {
    /// Requests for pages.
    #[must_use]
    pub const fn pages(&self) -> u32 {
        self.requests.saturating_sub(self.assets).saturating_sub(self.calls)
    }

    /// Requests a minute, over the hour or since the first, a minute at least.
    #[must_use]
    pub fn per_minute(&self) -> f32 {
        self.requests as f32 * 60.0 / self.age.as_secs_f32().clamp(60.0, WINDOW_S)
    }

    /// The share of pages that weren't found on a page, 0 to 1.
    #[must_use]
    pub fn unreferred_share(&self) -> f32 {
        self.unreferred as f32 / self.pages().max(1) as f32
    }

    /// The share of requests for what belongs to a page, 0 to 1.
    #[must_use]
    pub fn asset_share(&self) -> f32 {
        self.assets as f32 / self.requests.max(1) as f32
    }

    /// The share of answers 4xx and 5xx, 0 to 1.
    #[must_use]
    pub fn error_share(&self) -> f32 {
        let [ok, redirect, client, server] = self.statuses.map(|count| count as f32);
        (client + server) / (ok + redirect + client + server).max(1.0)
    }
}

impl History {
    pub(super) fn new(at: Timestamp) -> Self {
        Self {
            began: at,
            first_page_depth: None,
            first_page_referred: false,
            robots_read: false,
            counts: Default::default(),
            newest: stretch(at),
            paths: Default::default(),
            whole: Track::default(),
            tracks: Default::default(),
            earlier: Default::default(),
            hellos: Followed::default(),
        }
    }

    pub(super) fn note(&mut self, request: &Request) {
        self.advance(request.at);
        let is_new = self.track(request);
        self.whole.note(request);
        self.hellos.note(request);
        let page = request.is_page();
        if page && self.first_page_depth.is_none() {
            (self.first_page_depth, self.first_page_referred) = (Some(request.depth), request.referer);
        }
        let disobeyed = self.robots_read && request.forbidden;
        self.robots_read |= request.robots;
        // Of a fast hash the lower bits alone are no lottery.
        let bit = (mix(request.path) as usize) & BITS.saturating_sub(1);
        let [current, _] = &mut self.paths;
        if let Some(word) = current.get_mut(bit / 64) {
            *word |= 1 << (bit & 63);
        }
        let Some(counts) = self.counts.get_mut((self.newest % STRETCHES) as usize) else { return };
        let status = usize::from(request.class).checked_sub(2).and_then(|class| counts.statuses.get_mut(class));
        let unreferred = page && !request.referer;
        let call = request.call && !request.asset;
        let each = [
            (Some(&mut counts.requests), true),
            (Some(&mut counts.assets), request.asset),
            (Some(&mut counts.calls), call),
            (Some(&mut counts.unreferred), unreferred),
            (Some(&mut counts.referred), request.referer),
            (Some(&mut counts.traps), request.trap),
            (Some(&mut counts.disobeyed), disobeyed),
            (Some(&mut counts.connections), is_new),
            (status, true),
        ];
        for count in each.into_iter().filter_map(|(count, counts)| count.filter(|_| counts)) {
            *count = count.saturating_add(1);
        }
    }

    pub(super) fn summary(&mut self, now: Timestamp) -> Summary {
        self.advance(now);
        let sum = |count: fn(&Counts) -> u32| self.counts.iter().map(count).fold(0, u32::saturating_add);
        let recent = self.tracks.iter().flatten().filter(|track| now.since(track.last).as_secs() < STRETCH * STRETCHES);
        let [current, before] = self.earlier;
        let worst = recent.map(Track::steps).fold(current.or_worse(before), Steps::or_worse);
        Summary {
            age: now.since(self.began),
            requests: sum(|counts| counts.requests),
            assets: sum(|counts| counts.assets),
            calls: sum(|counts| counts.calls),
            unreferred: sum(|counts| counts.unreferred),
            referred: sum(|counts| counts.referred),
            traps: sum(|counts| counts.traps),
            disobeyed: sum(|counts| counts.disobeyed),
            connections: sum(|counts| counts.connections),
            statuses: [0, 1, 2, 3].map(|class: usize| {
                let of = |counts: &Counts| counts.statuses.get(class).copied().unwrap_or_default();
                self.counts.iter().map(of).fold(0, u32::saturating_add)
            }),
            paths: self.paths(),
            first_page_depth: self.first_page_depth,
            first_page_referred: self.first_page_referred,
            whole: self.whole.steps(),
            worst_connection: worst,
            hellos: self.hellos.hellos(),
        }
    }

    /// Forgets what is out of the window.
    fn advance(&mut self, at: Timestamp) {
        let stretch = stretch(at);
        let passed = stretch.saturating_sub(self.newest).min(STRETCHES);
        for step in 0..passed {
            if let Some(old) = self.counts.get_mut((stretch.saturating_sub(step) % STRETCHES) as usize) {
                *old = Counts::default();
            }
        }
        let half = |stretch: u64| stretch.checked_div(STRETCHES / 2).unwrap_or(0);
        for _ in 0..half(stretch).saturating_sub(half(self.newest)).min(2) {
            let ([paths, _], [earlier, _]) = (self.paths, self.earlier);
            self.paths = [Default::default(), paths];
            self.earlier = [Steps::default(), earlier];
        }
        self.newest = self.newest.max(stretch);
    }

    /// Follows the request's connection; whether it wasn't followed before. The one that was silent longest makes room.
    fn track(&mut self, request: &Request) -> bool {
        let known = self.tracks.iter_mut().flatten().find(|track| track.connection == request.connection);
        if let Some(track) = known {
            track.note(request);
            return false;
        }
        let mut track = Track::new(request.connection);
        track.note(request);
        let place = self.tracks.iter_mut().min_by_key(|place| place.map(|track| track.last));
        if let Some(old) = place.and_then(|place| place.replace(track)) {
            let [current, _] = &mut self.earlier;
            *current = current.or_worse(old.steps());
        }
        true
    }

    fn paths(&self) -> u32 {
        let [current, before] = &self.paths;
        let unset: u32 = current.iter().zip(before).map(|(a, b)| (a | b).count_zeros()).sum();
        let bits = BITS as f32;
        (bits * (bits / unset.max(1) as f32).ln()).round() as u32
    }
}

fn stretch(at: Timestamp) -> u64 {
    at.since(Timestamp::default()).as_secs().checked_div(STRETCH).unwrap_or(0)
}
