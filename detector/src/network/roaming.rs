//! Where the requests of one session came from within ten minutes.

use std::time::Duration;

use smallvec::SmallVec;

use crate::clock::Timestamp;

const WINDOW: Duration = Duration::from_secs(600);

/// Places that are remembered: nobody is at more within ten minutes.
const MOST: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Place {
    network: u64,
    country: Option<[u8; 2]>,
    at: Timestamp,
}

/// The places of one session.
#[derive(Debug, Default)]
pub(super) struct Roaming(SmallVec<[Place; 2]>);

impl Roaming {
    /// A request came from there.
    pub(super) fn note(&mut self, network: u64, country: Option<[u8; 2]>, now: Timestamp) {
        self.0.retain(|place| now.since(place.at) < WINDOW);
        if let Some(place) = self.0.iter_mut().find(|place| place.network == network) {
            (place.country, place.at) = (country, now);
        } else if self.0.len() < MOST {
            self.0.push(Place { network, country, at: now });
        }
    }

    /// How many networks and how many countries there were.
    pub(super) fn count(&self, now: Timestamp) -> (u32, u32) {
        let lately = || self.0.iter().filter(|place| now.since(place.at) < WINDOW);
        let mut countries: SmallVec<[[u8; 2]; MOST]> = lately().filter_map(|place| place.country).collect();
        countries.sort_unstable();
        countries.dedup();
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        (count(lately().count()), count(countries.len()))
    }
}
