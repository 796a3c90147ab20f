//! Which connections told of which program within a minute: most reports say of that what the one before them said, and to
//! count it again changes nothing.
//!
//! Memory: 1 MiB. Each is at its hash's place, until another one has that; who isn't found is counted again.

use detector_common::key::mix;

use crate::clock::Timestamp;

const PLACES: usize = 65_536;
const PLACES_MASK: u64 = PLACES as u64 - 1;
const MINUTE_S: u64 = 60;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Of connection and program.
    hash: u64,
    minute: u32,
    /// Of [`Lately::age`].
    age: u32,
}

impl Place {
    const fn index(&self) -> usize {
        (self.hash & PLACES_MASK) as usize
    }
}

/// What was told within a minute.
#[derive(Debug)]
pub(super) struct Lately {
    places: Box<[Place]>,
    /// What was told before this changed counts no more.
    age: u32,
}

impl Default for Lately {
    fn default() -> Self {
        Self { places: vec![Place::default(); PLACES].into(), age: 1 }
    }
}

impl Lately {
    /// Whether a connection told of a program in this minute; `program`: a hash.
    pub(super) fn has(&self, connection: u64, program: u64, now: Timestamp) -> bool {
        let told = self.place(connection, program, now);
        self.places.get(told.index()) == Some(&told)
    }

    /// It did.
    pub(super) fn note(&mut self, connection: u64, program: u64, now: Timestamp) {
        let told = self.place(connection, program, now);
        if let Some(place) = self.places.get_mut(told.index()) {
            *place = told;
        }
    }

    fn place(&self, connection: u64, program: u64, now: Timestamp) -> Place {
        let minute = now.since(Timestamp::default()).as_secs().checked_div(MINUTE_S).unwrap_or(0) as u32;
        Place { hash: mix(connection ^ program), minute, age: self.age }
    }

    /// All is news again.
    pub(super) const fn forget_all(&mut self) {
        self.age = self.age.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_told_counts_for_a_minute_and_until_all_is_forgotten() {
        let at = |seconds: u64| Timestamp::default().plus(Duration::from_secs(60_000 + seconds));
        let mut lately = Lately::default();
        assert!(!lately.has(7, 1, at(0)));
        lately.note(7, 1, at(0));
        assert!(lately.has(7, 1, at(59)));
        assert!(!lately.has(7, 2, at(59)), "another program");
        assert!(!lately.has(8, 1, at(59)), "another connection");
        assert!(!lately.has(7, 1, at(60)), "another minute");
        lately.note(7, 1, at(60));
        lately.forget_all();
        assert!(!lately.has(7, 1, at(60)));
    }
}
