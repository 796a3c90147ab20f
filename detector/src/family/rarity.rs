//! How common a browser's characteristics are: its User-Agent without minor versions, its hello, its Accept headers and
//! the order of all its headers, as one SHA-256 that is the same in every process. Requests in, how many addresses share
//! their characteristics within a day out. A hash is computed once for each set of characteristics that is remembered.
//!
//! Memory: 16,384 sets of 100 bytes, and 8 KiB. The set that was seen longest ago makes room; each day begins anew.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use detector_common::key::mix;
use foldhash::fast::RandomState;
use lru::LruCache;
use sha2::{Digest as _, Sha256};

use crate::agent::Agent;
use crate::clock::Timestamp;
use crate::fingerprint::Ja4;
use crate::report::Report;

/// Sets remembered.
const MOST: usize = 16_384;
/// How long addresses are counted.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Bits by which all addresses are counted (linear counting, Whang 1990): right within 5 % up to 200,000.
const BITS: usize = 65_536;
/// Addresses of the day without which nothing is rare.
const LEAST: u32 = 1000;
/// So few of them share what is rare.
const FEW: u32 = 2;

/// What is known of a browser's characteristics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Their SHA-256.
    pub id: [u8; 32],
    /// Addresses that share them, 64 at most: an estimate.
    pub addresses: u32,
    /// Addresses with any: an estimate.
    pub of: u32,
}

impl Share {
    /// Whether hardly anybody has them.
    #[must_use]
    pub const fn is_rare(&self) -> bool {
        self.of >= LEAST && self.addresses <= FEW
    }
}

#[derive(Debug)]
struct Set {
    id: [u8; 32],
    addresses: u64,
}

/// The characteristics of a day.
#[derive(Debug)]
pub struct Rarity {
    sets: LruCache<u64, Set, RandomState>,
    addresses: Box<[u64]>,
    /// Bits of them that are set.
    taken: u32,
    random: RandomState,
    began: Timestamp,
}

impl Default for Rarity {
    /// With nothing counted.
    fn default() -> Self {
        let most = NonZeroUsize::new(MOST).unwrap_or(NonZeroUsize::MIN);
        let addresses = vec![0; BITS / 64].into_boxed_slice();
        let random = RandomState::default();
        Self {
            sets: LruCache::with_hasher(most, RandomState::default()),
            addresses,
            random,
            taken: 0,
            began: Timestamp::default(),
        }
    }
}

impl Rarity {
    /// A request of `address`, over a connection with this JA4. `None` if its User-Agent names no browser.
    pub fn note(&mut self, report: &Report<'_>, ja4_stable: Ja4, address: IpAddr, now: Timestamp) -> Option<Share> {
        let agent = report.user_agent.as_deref().map(Agent::of).filter(Agent::is_plain_browser)?;
        if now.since(self.began) >= DAY {
            self.sets.clear();
            self.addresses.fill(0);
            self.taken = 0;
            self.began = now;
        }
        let key = self.random.hash_one((agent, ja4_stable, headers(report)));
        let set = self.sets.get_or_insert_mut(key, || Set { id: id(&agent, ja4_stable, report), addresses: 0 });
        // Of a fast hash the lower bits alone are no lottery.
        let hash = mix(self.random.hash_one(address));
        set.addresses |= 1_u64.wrapping_shl(hash as u32);
        if let Some(word) = self.addresses.get_mut(hash.wrapping_shr(6) as usize & (BITS / 64).saturating_sub(1)) {
            let bit = 1_u64.wrapping_shl(hash as u32);
            self.taken = self.taken.saturating_add(u32::from(*word & bit == 0));
            *word |= bit;
        }
        let (id, addresses) = (set.id, set.addresses.count_ones());
        let unset = BITS as f32 - self.taken as f32;
        let of = BITS as f32 * (BITS as f32 / unset.max(1.0)).ln();
        Some(Share { id, addresses, of: of.round() as u32 })
    }
}

/// The headers that are a browser's own, and not those of one request.
fn headers<'a>(report: &'a Report<'_>) -> [&'a str; 4] {
    let all = [&report.accept_language, &report.accept_encoding, &report.client_hints, &report.client_hints_platform];
    all.map(|header| header.as_deref().unwrap_or_default())
}

fn id(agent: &Agent, ja4_stable: Ja4, report: &Report<'_>) -> [u8; 32] {
    let os = agent.os.map_or("", |os| os.label());
    let major = agent.major.unwrap_or_default().to_string();
    let mobile = if agent.mobile { "mobile" } else { "" };
    let mut hash = Sha256::new();
    for part in [agent.product, &major, os, mobile, ja4_stable.as_str()].into_iter().chain(headers(report)) {
        // What is in a part is text, so that no two lists of parts read alike.
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JA4: &str = "t13d1517h2_8daaf6152771_cb7bf5808d99";

    fn note(rarity: &mut Rarity, number: u32, language: &'static str, now: Timestamp) -> Share {
        let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0";
        let report =
            Report { user_agent: Some(agent.into()), accept_language: Some(language.into()), ..Report::default() };
        rarity.note(&report, JA4.parse().unwrap(), IpAddr::from(number.to_be_bytes()), now).unwrap()
    }

    #[test]
    fn what_one_address_has_among_many_is_rare_for_a_day() {
        let (mut rarity, now) = (Rarity::default(), Timestamp::default());
        assert!(!note(&mut rarity, 0, "tlh", now).is_rare(), "of one address nothing is");
        let common: Vec<Share> = (1..2000).map(|number| note(&mut rarity, number, "en-US", now)).collect();
        assert!(common.iter().all(|share| share.id == common[0].id));
        assert!(!common[1998].is_rare() && (1900..2100).contains(&common[1998].of), "{:?}", common[1998]);
        let rare = note(&mut rarity, 0, "tlh", now);
        assert!(rare.is_rare() && rare.id != common[0].id, "{rare:?}");
        assert!(!note(&mut rarity, 0, "tlh", now.plus(DAY)).is_rare(), "a new day");
    }

    #[test]
    fn a_flood_of_characteristics_is_bounded_and_scripts_have_none() {
        let mut rarity = Rarity::default();
        for number in 0..2 * MOST {
            let report = Report {
                user_agent: Some("Mozilla/5.0 (X11; Linux) Gecko/20100101 Firefox/153.0".into()),
                accept_language: Some(number.to_string().into()),
                ..Report::default()
            };
            rarity.note(&report, JA4.parse().unwrap(), [192, 0, 2, 7].into(), Timestamp::default()).unwrap();
        }
        assert_eq!(rarity.sets.len(), MOST);
        let curl = Report { user_agent: Some("curl/8.5.0".into()), ..Report::default() };
        assert_eq!(rarity.note(&curl, JA4.parse().unwrap(), [192, 0, 2, 7].into(), Timestamp::default()), None);
    }
}
