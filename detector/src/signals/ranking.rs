//! How all JA4 values stand at one moment: made in one go, since a rank is about all of them. In: the counts of each.
//! Out: the ten signals of any. Memory: 36 bytes each beside what they share with the table.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::figures::{Ten, Volume, ratio};
use super::minutes::Counts;
use crate::fingerprint::Ja4;

/// The last hour of every JA4 value.
#[derive(Clone, Debug, Default)]
pub struct Ranking {
    values: HashMap<Ja4, (Counts, Volume), RandomState>,
    /// The numbers of all, in order.
    requests: Vec<u64>,
    ips: Vec<u64>,
    uas: Vec<u64>,
    paths: Vec<u64>,
}

impl Ranking {
    pub(super) fn new(values: impl Iterator<Item = (Ja4, Counts, Volume)>) -> Self {
        let values = values.filter(|(_, counts, _)| counts.requests > 0);
        let values: HashMap<_, _, _> = values.map(|(ja4, counts, volume)| (ja4, (counts, volume))).collect();
        let sorted = |number: fn(&Volume) -> u64| {
            let mut numbers: Vec<u64> = values.values().map(|(_, volume)| number(volume)).collect();
            numbers.sort_unstable();
            numbers
        };
        let [requests, ips, uas, paths] = [
            sorted(|volume| volume.requests),
            sorted(|volume| volume.ips),
            sorted(|volume| volume.uas),
            sorted(|volume| volume.paths),
        ];
        Self { values, requests, ips, uas, paths }
    }

    /// Values that have a rank.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The ten signals of a value and what they are made of; `None` if it had no request in the last hour.
    #[must_use]
    pub fn of(&self, ja4: Ja4) -> Option<(Ten, Volume)> {
        let (counts, volume) = self.values.get(&ja4)?;
        let share = |part: u32| ratio(part.into(), counts.requests.into());
        let ten = Ten {
            h2h3_ratio_1h: share(counts.h2h3),
            heuristic_ratio_1h: share(counts.heuristic),
            browser_ratio_1h: share(counts.browser),
            cache_ratio_1h: share(counts.cacheable),
            uas_rank_1h: rank(&self.uas, volume.uas),
            paths_rank_1h: rank(&self.paths, volume.paths),
            reqs_rank_1h: rank(&self.requests, volume.requests),
            ips_rank_1h: rank(&self.ips, volume.ips),
            reqs_quantile_1h: quantile(&self.requests, volume.requests),
            ips_quantile_1h: quantile(&self.ips, volume.ips),
        };
        Some((ten, *volume))
    }
}

fn at_most(sorted: &[u64], number: u64) -> usize {
    sorted.partition_point(|other| *other <= number)
}

/// One more than there are larger ones.
fn rank(sorted: &[u64], number: u64) -> u32 {
    let larger = sorted.len().saturating_sub(at_most(sorted, number));
    u32::try_from(larger).unwrap_or(u32::MAX).saturating_add(1)
}

fn quantile(sorted: &[u64], number: u64) -> f64 {
    at_most(sorted, number) as f64 / sorted.len().max(1) as f64
}
