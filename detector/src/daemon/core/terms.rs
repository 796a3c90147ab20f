//! Verdicts that aren't plain blocks: limits, what only counts, fingerprints from one place, and what programs ask for.

use detector_common::verdict::{Action, REASON_EXTERNAL};

use super::{Verdicts, end};
use crate::{
    admin::protocol::{Changed, Response},
    clock::{Timestamp, wall},
    enforce::automatic::{AUTOMATIC_TTL_MAX, Automatic, Placed, unit, unit_slot},
    kernel::{Error, Slot, VerdictMaps},
    policy::{
        rules::Origin,
        subject::Subject,
        terms::{Measure, Terms},
        ttl::Ttl,
    },
};

impl<M: VerdictMaps> Verdicts<M> {
    /// Where the verdict on a subject stands, unless it is a rule.
    pub(super) fn slot_of(&self, subject: &Subject) -> Option<Slot> {
        match subject {
            Subject::Address(address) => Some(Slot::Address(*address)),
            Subject::Prefix(prefix) => Some(Slot::Prefix(*prefix)),
            Subject::Pair(unit, fingerprint) => self.enforcer.slots_of(fingerprint.as_ja4()?, Some(*unit)).next(),
            fingerprint => self.enforcer.slots_of(fingerprint.as_ja4()?, None).next(),
        }
    }

    /// On which terms a subject is blocked.
    pub(super) fn terms(&self, subject: &Subject) -> Terms {
        let told = self.slot_of(subject).and_then(|slot| self.enforcer.told(&slot));
        let Some((action, rate, origin)) = told else { return Terms::default() };
        let measure = match (action, rate) {
            (Action::RateLimit, Some(rate)) => Measure::RateLimit(rate),
            (Action::Observe, _) => Measure::Observe,
            _ => Measure::Block,
        };
        Terms { measure, automatic: origin == Origin::Automatic, ..Terms::default() }
    }

    /// Puts in force what isn't a plain block.
    pub(super) fn order(
        &mut self,
        subject: Subject,
        ttl: Ttl,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Response, Error> {
        let refuse = |reason: String, hint: &str| Ok(Response::Refused { reason, hint: hint.to_owned() });
        let keys = subject.fingerprint().map(|fingerprint| match fingerprint {
            Subject::Ja4Raw(raw) => Some(raw.keys(self.enforcer.seeds())),
            known => known.as_ja4().and_then(|ja4| self.seen.peek(&ja4)).map(|seen| seen.keys),
        });
        let keys = match keys {
            Some(None) => {
                let reason =
                    format!("this host hasn't seen `{}` lately, and detector doesn't know it", subject.clone().short());
                return refuse(reason, "type its JA4_r, which `detector fingerprint --format json` prints");
            }
            known => known.flatten(),
        };
        let (slot, subject) = match (subject, keys) {
            (Subject::Address(address), _) if terms.automatic => (unit_slot(address), Subject::from(unit(address))),
            (Subject::Address(address), _) => (Slot::Address(address), Subject::Address(address)),
            (Subject::Prefix(prefix), _) => (Slot::Prefix(prefix), Subject::Prefix(prefix)),
            (Subject::Pair(place, fingerprint), Some(keys)) => {
                let slot =
                    if terms.automatic { Slot::StablePair(place, keys.stable) } else { Slot::Pair(place, keys.key) };
                (slot, Subject::Pair(place, fingerprint))
            }
            (_, _) if terms.automatic && terms.measure == Measure::Block => {
                return refuse(
                    "an automatic verdict on a fingerprint alone drops nobody: browsers share fingerprints with bots"
                        .to_owned(),
                    "put the client's address before `--ja4`, or `--limit` to it",
                );
            }
            (fingerprint, Some(keys)) => {
                (if terms.automatic { Slot::Stable(keys.stable) } else { Slot::Fingerprint(keys.key) }, fingerprint)
            }
            (_, None) => return Ok(Response::NotFound),
        };
        let (action, rate) = match terms.measure {
            Measure::Block => (Action::Block, None),
            Measure::Observe => (Action::Observe, None),
            Measure::RateLimit(limit) => (Action::RateLimit, Some(limit)),
        };
        let ja4 = subject.as_ja4();
        let mut ttl = ttl;
        if terms.automatic {
            let most = Ttl::For(AUTOMATIC_TTL_MAX);
            ttl = if ttl.as_secs().is_some_and(|secs| secs <= AUTOMATIC_TTL_MAX.as_secs()) { ttl } else { most };
            let lasts = if let Ttl::For(lasts) = ttl { lasts } else { AUTOMATIC_TTL_MAX };
            let verdict = Automatic { action, reason: REASON_EXTERNAL, rate, ja4, ttl: lasts };
            match self.enforcer.automatic(slot, verdict, now)? {
                Placed::InForce => {}
                Placed::Overruled => {
                    let reason = format!("an operator has said what to do with `{}`", subject.short());
                    return refuse(reason, "see it: detector list");
                }
                Placed::TooFast => {
                    let reason = "more automatic verdicts are new in this second than may be".to_owned();
                    return refuse(reason, "send fewer, or raise `limits.automatic_per_second` and restart detector");
                }
            }
        } else {
            self.enforcer.order(slot, (action, rate), ja4, end(ttl, now))?;
        }
        let mut changed = Changed::on(terms.measure.into(), subject, terms, ttl, wall());
        if terms.automatic && !self.is_enforcing() {
            changed.note = Some("the mode is observe: it only counts".to_owned());
        }
        Ok(Response::Changed(changed))
    }
}
