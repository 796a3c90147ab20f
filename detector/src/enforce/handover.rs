//! Automatic verdicts from one daemon to the next, where they stay in the kernel between the two. Names in its table can't
//! be read back: whoever put them there must say what they are about. What nobody can tell of ends: there is no answer to
//! "why was this blocked?" without it.

use std::ops::Bound;

use detector_common::verdict::ORIGIN_AUTOMATIC;
use serde::{Deserialize, Serialize};

use super::{Enforcer, Entry, action_of, automatic::Worth};
use crate::{
    clock::Timestamp,
    fingerprint::Ja4,
    kernel::{Error, Slot, VerdictMaps},
    policy::{rules::Origin, terms::RateLimit},
};

/// What the kernel doesn't say of an automatic verdict that stands in its maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// Where it stands.
    pub slot: Slot,
    /// How fast new connections may come, if it limits them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateLimit>,
    /// Of the fingerprint it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ja4: Option<Ja4>,
}

/// What became of automatic verdicts that an earlier daemon left in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// They hold on.
    pub kept: usize,
    /// Nobody can tell of them: they were ended.
    pub ended: usize,
}

impl<M: VerdictMaps> Enforcer<M> {
    /// The next `most` automatic verdicts, and where to go on; `None` after the last.
    #[must_use]
    pub fn automatics(&self, after: Option<Worth>, most: usize) -> (Vec<Handed>, Option<Worth>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut handed, mut last) = (Vec::new(), None);
        for (worth, slot) in self.automatics.by_worth.range((from, Bound::Unbounded)).take(most) {
            let entry = self.entries.get(slot);
            handed.extend(entry.map(|entry| Handed { slot: *slot, rate: entry.rate, ja4: entry.ja4 }));
            last = Some(*worth);
        }
        let more = handed.len() == most;
        (handed, last.filter(|_| more))
    }

    /// Takes over what an earlier daemon handed on, as far as it is still in force; ends all other automatic verdicts of the
    /// kernel's table.
    ///
    /// # Errors
    /// The maps'.
    pub fn take_over(&mut self, handed: impl IntoIterator<Item = Handed>, now: Timestamp) -> Result<TakenOver, Error> {
        let mut kept = 0;
        for Handed { slot, rate, ja4 } in handed {
            let Some(verdict) = self.maps.verdict(&slot) else { continue };
            let full = self.automatics.len() >= self.limits.automatic && !self.entries.contains_key(&slot);
            if verdict.origin != ORIGIN_AUTOMATIC || verdict.expires_at <= now.as_nanos() || full {
                continue;
            }
            let entry = Entry {
                action: action_of(verdict.action),
                origin: Origin::Automatic,
                reason: verdict.reason,
                rate,
                expires_at: verdict.expires_at,
                id: 0,
                ja4,
                by_rule: false,
            };
            self.enter(slot, entry)?;
            kept += 1;
        }
        let ended = self.maps.sweep(&mut self.entries.keys(), true)?;
        self.automatics.evictions += ended as u64;
        Ok(TakenOver { kept, ended })
    }
}
