//! What is known of one JA4 value, and how it stands among all: counts in, the ten signals out.

use serde::{Deserialize, Serialize};

use super::minutes::Counts;

/// The ten signals of a JA4 value over the last hour, as Cloudflare's "signals intelligence" defines them, from this
/// host's own traffic. A ratio is a share of its requests, 0 to 1. Of ranks 1 is the value with most; those with as many
/// have the same. A quantile is the share of all values that have at most as many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ten {
    /// Requests over HTTP/2 and HTTP/3.
    pub h2h3_ratio_1h: f64,
    /// Requests that a heuristic caught.
    pub heuristic_ratio_1h: f64,
    /// Requests of what looks like a browser.
    pub browser_ratio_1h: f64,
    /// Requests whose answer the server's cache may keep.
    pub cache_ratio_1h: f64,
    /// By different User-Agents.
    pub uas_rank_1h: u32,
    /// By different paths.
    pub paths_rank_1h: u32,
    /// By requests.
    pub reqs_rank_1h: u32,
    /// By different addresses.
    pub ips_rank_1h: u32,
    /// By requests.
    pub reqs_quantile_1h: f64,
    /// By different addresses.
    pub ips_quantile_1h: f64,
}

/// What one JA4 value did in an hour. Requests are exact, the others within [`super::ERROR`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Requests.
    pub requests: u64,
    /// Different addresses; of IPv6, different /64.
    pub ips: u64,
    /// Different User-Agents.
    pub uas: u64,
    /// Different paths, without their queries.
    pub paths: u64,
}

/// Means over past hours, those without a request included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Of how many hours, 24 or 168 at most.
    pub hours: u32,
    /// Of an hour.
    pub requests: f64,
    /// Of an hour.
    pub ips: f64,
    /// Of an hour.
    pub uas: f64,
    /// Of an hour.
    pub paths: f64,
    /// Of all requests.
    pub h2h3_ratio: f64,
    /// Of all requests.
    pub heuristic_ratio: f64,
    /// Of all requests.
    pub browser_ratio: f64,
    /// Of all requests.
    pub cache_ratio: f64,
}

/// Everything about one JA4 value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The value.
    pub ja4: String,
    /// How it stands.
    #[serde(flatten)]
    pub ten: Ten,
    /// What it did in the last hour.
    pub last_hour: Volume,
    /// Values that had a request in the last hour: the last rank there may be.
    pub ranked: u32,
    /// Over a day; absent in its first hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_24h: Option<Baseline>,
    /// Over a week; absent in its first hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_7d: Option<Baseline>,
}

/// One hour of a JA4 value, as it is kept for its baselines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hour {
    pub(super) counts: Counts,
    pub(super) ips: u32,
    pub(super) uas: u32,
    pub(super) paths: u32,
}

impl Baseline {
    /// Of the newest `most` of these hours.
    pub(super) fn of<'a>(hours: impl DoubleEndedIterator<Item = &'a Hour>, most: usize) -> Option<Self> {
        let (mut number, mut sums) = (0_u32, [0_u64; 8]);
        for Hour { counts, ips, uas, paths } in hours.rev().take(most) {
            number = number.saturating_add(1);
            let Counts { requests, h2h3, heuristic, browser, cacheable } = *counts;
            let hour = [requests, *ips, *uas, *paths, h2h3, heuristic, browser, cacheable];
            for (sum, one) in sums.iter_mut().zip(hour) {
                *sum = sum.saturating_add(u64::from(one));
            }
        }
        let [requests, ips, uas, paths, h2h3, heuristic, browser, cacheable] = sums;
        let mean = |sum| ratio(sum, u64::from(number));
        let share = |sum| ratio(sum, requests);
        (number > 0).then(|| Self {
            hours: number,
            requests: mean(requests),
            ips: mean(ips),
            uas: mean(uas),
            paths: mean(paths),
            h2h3_ratio: share(h2h3),
            heuristic_ratio: share(heuristic),
            browser_ratio: share(browser),
            cache_ratio: share(cacheable),
        })
    }
}

/// A share; of nothing it is 0.
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
