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

/// A snapshot that is being made, some values at a time: nobody else has to wait until it is whole.
#[derive(Debug)]
pub struct Draft {
    left: Vec<Ja4>,
    values: usize,
    bytes: Vec<u8>,
}

/// What stands before the values, of the moment when the last of them was written.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Header {
    keys: (u64, u64),
    seconds: u64,
    /// Seconds since 1970: how long nobody counted is known by them alone.
    wall: u64,
}

impl Draft {
    /// The whole, as bytes.
    #[must_use]
    pub fn finish(self, header: Header) -> Vec<u8> {
        let rest = [encoded(&header), encoded(&self.values), self.bytes].concat();
        [&MAGIC[..], &Sha256::digest(&rest), &rest].concat()
    }
}

/// Writing to memory can't fail, and there is nothing here that has no form.
fn encoded(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap_or_default()
}

/// A header, then the number of values and each of them.
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
        let mut draft = self.draft();
        self.add_to(&mut draft, usize::MAX);
        draft.finish(self.header(now, wall))
    }

    /// The begin of a snapshot.
    #[must_use]
    pub fn draft(&self) -> Draft {
        Draft { left: self.values.keys().copied().collect(), values: 0, bytes: Vec::new() }
    }

    /// Adds so many values to a snapshot. Whether there are more.
    pub fn add_to(&self, draft: &mut Draft, most: usize) -> bool {
        let rest = draft.left.split_off(draft.left.len().saturating_sub(most));
        for ja4 in rest {
            // One that was given up since has no place in it.
            let Some(value) = self.values.get(&ja4) else { continue };
            draft.bytes.extend(encoded(&(ja4, value)));
            draft.values = draft.values.saturating_add(1);
        }
        !draft.left.is_empty()
    }

    /// What stands before the values of a snapshot that has all of them at `now`; `wall` is the same moment in seconds
    /// since 1970.
    #[must_use]
    pub fn header(&self, now: Timestamp, wall: u64) -> Header {
        // The latest that was counted, if `now` is the time of another thread.
        let seconds = self.seconds(now).max(self.minute.saturating_mul(60));
        Header { keys: self.keys, seconds, wall }
    }

    /// What [`Signals::snapshot`] or [`Draft::finish`] wrote, some time ago: of `most` JA4 values, those with most requests.
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
        signals.shift = seconds.wrapping_sub(now.since(Timestamp::default()).as_secs()).cast_signed();
        Ok(signals)
    }
}

impl Value {
    fn restore(&mut self, minute: u64) -> bool {
        let sketches = [&self.ips, &self.uas, &self.paths].iter().all(|sketch| sketch.is_sound());
        self.minutes.restore(minute) && sketches && self.hours.len() <= WEEK
    }
}
