//! IPv6 /64 that belong to one client: those of one fingerprint that are bad, in a /56 or a /48 in which that fingerprint
//! does nothing else (threats.md T45). Providers give a customer a /56, or a /48, to take addresses of.
//!
//! Memory: so many prefixes with a fingerprint, some 200 bytes each. The one heard of longest ago goes first.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::time::Duration;

use detector_common::table::WIDE_BITS;
use foldhash::fast::RandomState;
use ipnet::IpNet;
use lru::LruCache;
use smallvec::SmallVec;

use crate::clock::Timestamp;

/// How long somebody in a prefix who does nothing bad is remembered.
const CLEAN: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
struct Children {
    /// Bad ones, and until when; as many as say that all are.
    bad: SmallVec<[(IpNet, Timestamp); 4]>,
    clean: Option<Timestamp>,
}

/// Prefixes wider than a /64, with fingerprints.
#[derive(Debug)]
pub struct Siblings<F: Hash + Eq> {
    prefixes: LruCache<(IpNet, F), Children, RandomState>,
    least: usize,
}

impl<F: Copy + Hash + Eq> Siblings<F> {
    /// Without any; room for `most`. `least`: bad ones within a prefix that make it bad; 0: none do.
    #[must_use]
    pub fn new(most: usize, least: usize) -> Self {
        let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Self { prefixes: LruCache::with_hasher(most, RandomState::default()), least }
    }

    /// So many bad ones within a prefix make it bad from now on; 0: none do.
    pub const fn takes(&mut self, least: usize) {
        self.least = least;
    }

    /// Clients with a fingerprint in a /64 are bad until then. The widest prefix around them that is.
    pub fn bad(&mut self, unit: IpNet, fingerprint: F, until: Timestamp, now: Timestamp) -> IpNet {
        if self.least == 0 || !is_v6_unit(&unit) {
            return unit;
        }
        let mut bad = unit;
        for prefix in wider(unit) {
            let children = self.prefixes.get_or_insert_mut((prefix, fingerprint), Children::default);
            children.bad.retain(|(child, end)| *child != bad && now < *end);
            if children.bad.len() >= self.least {
                children.bad.remove(0);
            }
            children.bad.push((bad, until));
            let is_clean = children.clean.is_none_or(|clean| now.since(clean) >= CLEAN);
            if children.bad.len() < self.least || !is_clean {
                break;
            }
            bad = prefix;
        }
        bad
    }

    /// A client with a fingerprint in a /64 does nothing bad: what is wider isn't bad as a whole. Those that were.
    pub fn clean(&mut self, unit: IpNet, fingerprint: F, now: Timestamp) -> SmallVec<[IpNet; 2]> {
        let mut no_longer = SmallVec::new();
        for prefix in wider(unit).filter(|_| self.least > 0 && is_v6_unit(&unit)) {
            let children = self.prefixes.get_or_insert_mut((prefix, fingerprint), Children::default);
            children.clean = Some(now);
            if children.bad.len() >= self.least {
                children.bad.clear();
                no_longer.push(prefix);
            }
        }
        no_longer
    }
}

fn is_v6_unit(unit: &IpNet) -> bool {
    unit.addr().is_ipv6() && unit.prefix_len() == 64
}

/// From the narrowest.
fn wider(unit: IpNet) -> impl Iterator<Item = IpNet> {
    let prefix = move |bits: u32| IpNet::new(unit.addr(), bits.try_into().ok()?).ok();
    WIDE_BITS.into_iter().filter_map(prefix).map(|prefix| prefix.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(100_000 + seconds))
    }

    fn unit(which: u64) -> IpNet {
        let network = 0x2001_0db8_0001_0000 | which;
        IpNet::new(std::net::Ipv6Addr::from_bits(u128::from(network) << 64).into(), 64).unwrap()
    }

    /// The length of what is bad after these /64 were.
    fn lengths(siblings: &mut Siblings<u8>, units: impl IntoIterator<Item = u64>, now: u64) -> Vec<u8> {
        let bad = |which| siblings.bad(unit(which), 7, at(now + 3600), at(now)).prefix_len();
        units.into_iter().map(bad).collect()
    }

    #[test]
    fn four_bad_ones_make_a_56_bad_and_four_of_those_a_48() {
        let mut siblings = Siblings::new(100, 4);
        assert_eq!(lengths(&mut siblings, [0, 0, 1, 1, 2, 3, 4, 0], 0), [64, 64, 64, 64, 64, 56, 56, 56]);
        assert_eq!(siblings.bad(unit(5), 8, at(3600), at(0)), unit(5), "another fingerprint there");
        let others = (1..4).flat_map(|prefix| (0..4).map(move |child| prefix << 8 | child));
        let grown = lengths(&mut siblings, others, 1);
        assert_eq!(grown, [64, 64, 64, 56, 64, 64, 64, 56, 64, 64, 64, 48]);
    }

    #[test]
    fn what_is_over_doesnt_count() {
        let mut siblings = Siblings::new(100, 4);
        assert_eq!(lengths(&mut siblings, [0, 1, 2], 0), [64, 64, 64]);
        assert_eq!(lengths(&mut siblings, [3, 4, 5], 3601), [64, 64, 64]);
    }

    #[test]
    fn nothing_is_bad_that_a_clean_one_is_in() {
        let mut siblings = Siblings::new(100, 4);
        assert!(siblings.clean(unit(200), 7, at(0)).is_empty());
        assert_eq!(lengths(&mut siblings, 0..20, 1), [64; 20]);
        assert_eq!(lengths(&mut siblings, [20], 3600), [56], "an hour later it is forgotten");
        assert_eq!(siblings.clean(unit(200), 7, at(3601)).to_vec(), [wider(unit(0)).next().unwrap()]);
        assert_eq!(lengths(&mut siblings, 0..20, 3602), [64; 20]);
        let mut never = Siblings::new(100, 0);
        assert_eq!(lengths(&mut never, 0..20, 1), [64; 20]);
    }
}
