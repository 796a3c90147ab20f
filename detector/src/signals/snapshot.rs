//! The signals as bytes and back: eight bytes that say what it is and in which version, SHA-256 of the rest, the rest.
//! What is damaged, or of another version, is refused as a whole.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::table::{Signals, Value, WEEK};
use crate::clock::Timestamp;
use crate::fingerprint::Ja4;

/// The last byte is the version.
const MAGIC: [u8; 8] = *b"dsignal\x01";
const SUM: usize = 32;

/// Bytes that are no snapshot of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotASnapshot {
    /// It begins like none, or like one of another version.
    #[error("it is not a snapshot of this version")]
    Kind,
    /// It isn't what was written.
    #[error("its checksum is wrong: it is damaged or incomplete")]
    Damaged,
}

#[derive(Serialize)]
struct Written<'a> {
    keys: (u64, u64),
    seconds: u64,
    /// Seconds since 1970: how long nobody counted is known by them alone.
    wall: u64,
    values: Vec<(Ja4, &'a Value)>,
}

#[derive(Deserialize)]
struct Read {
    keys: (u64, u64),
    seconds: u64,
    wall: u64,
    values: Vec<(Ja4, Value)>,
}

impl Signals {
    /// Everything, as of `now`; `wall` is the same moment in seconds since 1970.
    #[must_use]
    pub fn snapshot(&self, now: Timestamp, wall: u64) -> Vec<u8> {
        let values = self.values.iter().map(|(ja4, value)| (*ja4, value)).collect();
        let written = Written { keys: self.keys, seconds: self.seconds(now), wall, values };
        // Writing to memory can't fail, and there is nothing here that has no form.
        let rest = postcard::to_allocvec(&written).unwrap_or_default();
        [&MAGIC[..], &Sha256::digest(&rest), &rest].concat()
    }

    /// What [`Signals::snapshot`] wrote, some time ago: of `most` JA4 values, those with most requests.
    ///
    /// # Errors
    /// When `bytes` are something else.
    pub fn restore(bytes: &[u8], most: usize, now: Timestamp, wall: u64) -> Result<Self, NotASnapshot> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(NotASnapshot::Kind)?;
        let (sum, rest) = rest.split_at_checked(SUM).ok_or(NotASnapshot::Damaged)?;
        if Sha256::digest(rest)[..] != *sum {
            return Err(NotASnapshot::Damaged);
        }
        let Read { keys, seconds, wall: then, mut values } =
            postcard::from_bytes(rest).map_err(|_| NotASnapshot::Damaged)?;
        let minute = seconds.checked_div(60).unwrap_or(0);
        if !values.iter_mut().all(|(_, value)| value.restore(minute)) {
            return Err(NotASnapshot::Damaged);
        }
        let mut signals = Self::new(most, keys);
        values.sort_unstable_by_key(|(_, value)| std::cmp::Reverse(value.minutes.sum().requests));
        values.truncate(signals.most);
        signals.values = HashMap::from_iter(values);
        signals.minute = minute;
        // A clock that was set back: no time passed.
        let seconds = seconds.saturating_add(wall.saturating_sub(then));
        signals.shift = seconds.wrapping_sub(now.since(Timestamp::default()).as_secs());
        Ok(signals)
    }
}

impl Value {
    fn restore(&mut self, minute: u64) -> bool {
        let sketches = [&self.ips, &self.uas, &self.paths].iter().all(|sketch| sketch.is_sound());
        self.minutes.restore(minute) && sketches && self.hours.len() <= WEEK
    }
}
