//! Whether all clients at an address are one kind: units and the families of their confirmed hellos in, exclusive or not
//! out. A unit is an IPv4 address or an IPv6 /64; a family, for now, one `ja4_stable`.
//!
//! A unit is exclusive to a family that made so many of its hellos in the last hour, while no other made any. Pure;
//! memory: some 100 bytes for each of the units seen last, of which there are so many and no more. One that had to be
//! forgotten begins anew, as not exclusive.

use std::{num::NonZeroUsize, time::Duration};

use ipnet::IpNet;
use lru::LruCache;

use crate::clock::Timestamp;

/// Hellos of one family that make a unit exclusive to it.
pub const HELLOS: u32 = 20;

/// Within so long, in which no other family may be seen.
pub const WITHIN: Duration = Duration::from_secs(3600);

/// Parts of [`WITHIN`] that hellos are counted by.
const PARTS: usize = 12;

#[derive(Debug)]
struct Unit {
    family: u64,
    /// Hellos of the family, by part of the hour; many are as many as fit.
    hellos: [u8; PARTS],
    /// The part of the latest hello, counted from the clock's beginning.
    part: u64,
    latest: Timestamp,
    /// Another family was seen, and counts until then.
    shared_until: Timestamp,
}

/// What is known of units.
#[derive(Debug)]
pub struct Exclusive(LruCache<IpNet, Unit>);

impl Exclusive {
    /// Remembers so many units.
    #[must_use]
    pub fn new(units: usize) -> Self {
        Self(LruCache::new(NonZeroUsize::new(units).unwrap_or(NonZeroUsize::MIN)))
    }

    /// A confirmed hello came. Whether its unit is exclusive to its family.
    pub fn hello(&mut self, unit: IpNet, family: u64, now: Timestamp) -> bool {
        let part = part_of(now);
        let unit = self.0.get_or_insert_mut(unit, || Unit {
            family,
            hellos: [0; PARTS],
            part,
            latest: now,
            shared_until: Timestamp::default(),
        });
        if unit.family != family {
            unit.shared_until = unit.latest.plus(WITHIN);
            (unit.family, unit.hellos) = (family, [0; PARTS]);
        }
        // What was counted an hour ago and more is over.
        for passed in (unit.part + 1..=part).take(PARTS) {
            if let Some(count) = unit.hellos.get_mut(place(passed)) {
                *count = 0;
            }
        }
        (unit.part, unit.latest) = (part, now);
        if let Some(count) = unit.hellos.get_mut(place(part)) {
            *count = count.saturating_add(1);
        }
        now >= unit.shared_until && unit.hellos.iter().map(|count| u32::from(*count)).sum::<u32>() >= HELLOS
    }
}

fn part_of(now: Timestamp) -> u64 {
    now.as_nanos() / (WITHIN.as_nanos() as u64 / PARTS as u64)
}

fn place(part: u64) -> usize {
    (part % PARTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROBOT: u64 = 1;
    const BROWSER: u64 = 2;

    fn minute(minutes: u64) -> Timestamp {
        Timestamp::from_nanos((100_000 + minutes * 60) * 1_000_000_000)
    }

    fn unit(last: u8) -> IpNet {
        IpNet::new([192, 0, 2, last].into(), 32).unwrap()
    }

    /// Whether the last of so many hellos finds its unit exclusive.
    fn hellos(of: &mut Exclusive, count: u32, family: u64, at: u64) -> bool {
        (0..count).fold(false, |_, _| of.hello(unit(7), family, minute(at)))
    }

    #[test]
    fn twenty_hellos_of_one_family_in_an_hour() {
        let mut units = Exclusive::new(8);
        assert!(!hellos(&mut units, 19, ROBOT, 0));
        assert!(!units.hello(unit(8), ROBOT, minute(0)), "a neighbour's hellos are its own");
        assert!(hellos(&mut units, 1, ROBOT, 50));
        assert!(!hellos(&mut units, 1, ROBOT, 70), "those of the first minute are over");
        assert!(hellos(&mut units, 18, ROBOT, 71));
        assert!(!hellos(&mut units, 1, ROBOT, 1_000), "all are over");
    }

    #[test]
    fn another_family_counts_for_an_hour() {
        let mut units = Exclusive::new(8);
        assert!(hellos(&mut units, 20, ROBOT, 0));
        assert!(!hellos(&mut units, 1, BROWSER, 1), "the second family's own first");
        assert!(!hellos(&mut units, 40, ROBOT, 30));
        assert!(!hellos(&mut units, 1, ROBOT, 60), "59 minutes after the browser");
        assert!(hellos(&mut units, 1, ROBOT, 61));
        assert!(!hellos(&mut units, 40, BROWSER, 62), "so says the other side, too");
    }

    #[test]
    fn a_forgotten_unit_begins_anew() {
        let mut units = Exclusive::new(1);
        assert!(hellos(&mut units, 20, ROBOT, 0));
        units.hello(unit(8), ROBOT, minute(0));
        assert!(!hellos(&mut units, 1, ROBOT, 0));
    }
}
