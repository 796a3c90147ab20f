//! The further segments of a hello in progress.

use super::{Beginning, Cause, Ignored, Outcome, Pipeline, Progress, rejected};
use crate::capture::{Flow, Segment};
use crate::flow::Source;
use crate::flow::assembler::Inserted;
use crate::flow::partials::Partial;
use crate::tls::record::{Deframer, Extent, Start, start};
use crate::tls::{Parsed, Reason};

/// Where a segment lies, seen from the stream in progress.
enum Place {
    /// Within its window: stream offset, and how many payload bytes to leave out.
    Within { offset: usize, skip: usize },
    /// Wholly before it.
    Before { by: u32 },
    /// Elsewhere.
    Far,
}

/// What a segment did to the stream.
enum Effect {
    Waits,
    Nothing,
    Done(Extent),
    Rejected(Reason),
    Lost(Cause),
}

impl Pipeline {
    /// Takes a segment with payload, the first byte at `seq`, of a flow with a hello in progress.
    pub(super) fn follow(&mut self, segment: &Segment<'_>, seq: u32, out: &mut impl FnMut(Outcome)) {
        let Some(partial) = self.partials.get(&segment.flow) else { return };
        let window = u32::try_from(self.limits.bytes_per_flow).unwrap_or(u32::MAX);
        let Progress { certain, index, deframer, .. } = partial.state;
        // Of what follows a hello nothing is known until it shows itself to be another one.
        let sure = certain && (index == 0 || deframer.is_hello());
        match place(partial.base, seq, segment.payload.len(), window) {
            Place::Within { offset, skip } => {
                let payload = segment.payload.get(skip..).unwrap_or_default();
                self.extend(segment, offset, payload, out);
            }
            Place::Before { by } if !certain && start(segment.payload) != Start::Other => {
                // The stream was begun in its middle, by bytes that only looked like a beginning.
                self.rebase(&segment.flow, seq, by);
                self.extend(segment, 0, segment.payload, out);
            }
            Place::Before { .. } => out(Outcome::Ignored(Ignored::Duplicate)),
            Place::Far => self.elsewhere(segment, seq, sure, out),
        }
    }

    /// A segment far from the stream in progress: of another connection on the same 4-tuple, whose SYN wasn't seen, or
    /// forged. A whole hello is reported and takes nothing away; less than that replaces only a guess.
    fn elsewhere(&mut self, segment: &Segment<'_>, seq: u32, sure: bool, out: &mut impl FnMut(Outcome)) {
        let flow = segment.flow;
        if start(segment.payload) != Start::Hello || self.handshakes.is_foreign(&flow, seq) {
            return out(Outcome::Ignored(Ignored::OutOfWindow));
        }
        if let Some(why) = self.handshakes.discarded(segment) {
            return out(Outcome::Ignored(why));
        }
        if self.partials.get(&flow).is_some_and(|partial| !sure && partial.state.index > 0) {
            if let Some(partial) = self.partials.remove(&flow) {
                self.lose(flow, &partial, Cause::Replaced, out);
            }
            return self.begin_anywhere(segment, seq, out);
        }
        let mut deframer = Deframer::new();
        if let Parsed::Complete(extent) = deframer.advance(segment.payload) {
            let state = Progress {
                deframer,
                index: 0,
                certain: false,
                cut: false,
                proof: segment.proof,
                segments: 1,
                touches: 1,
            };
            let partial = Partial::new(seq, segment.at, state);
            return self.complete(segment, &partial, (segment.payload, extent), out);
        }
        if sure {
            return out(Outcome::Ignored(Ignored::OutOfWindow));
        }
        if let Some(partial) = self.partials.remove(&flow) {
            self.lose(flow, &partial, Cause::Replaced, out);
        }
        let beginning = Beginning { base: seq, index: 0, certain: false };
        self.begin(beginning, segment, seq, segment.payload, out);
    }

    fn rebase(&mut self, flow: &Flow, base: u32, by: u32) {
        let limit = self.limits.bytes_per_flow;
        self.partials.update(flow, |partial| {
            partial.assembler.shift(usize::try_from(by).unwrap_or(usize::MAX), limit);
            partial.base = base;
            partial.state.deframer = Deframer::new();
        });
    }

    fn extend(&mut self, segment: &Segment<'_>, offset: usize, payload: &[u8], out: &mut impl FnMut(Outcome)) {
        let flow = segment.flow;
        let limits = self.limits;
        if let Some(why) = self.handshakes.discarded(segment) {
            return out(Outcome::Ignored(why));
        }
        let effect = self.partials.update(&flow, |partial| {
            partial.state.touches = partial.state.touches.saturating_add(1);
            partial.state.cut |= segment.payload_len > segment.payload.len();
            if partial.state.touches > limits.segments_per_flow {
                partial.state.segments = partial.state.segments.saturating_add(1);
                return Effect::Lost(Cause::Evasive);
            }
            let inserted = partial.assembler.insert(offset, payload, limits.bytes_per_flow);
            if inserted == Inserted::Nothing {
                return Effect::Nothing;
            }
            partial.state.segments = partial.state.segments.saturating_add(1);
            if inserted == Inserted::Conflict {
                return Effect::Lost(Cause::OverlapConflict);
            }
            let stream = partial.assembler.prefix();
            match partial.state.deframer.advance(stream) {
                Parsed::Complete(extent) => Effect::Done(extent),
                Parsed::Rejected(reason) => Effect::Rejected(reason),
                Parsed::Incomplete
                    if stream.len() >= limits.bytes_per_flow
                        || partial.state.deframer.needs() > limits.bytes_per_flow
                        || partial.assembler.holes() > limits.holes_per_flow =>
                {
                    Effect::Lost(Cause::Evasive)
                }
                Parsed::Incomplete => Effect::Waits,
            }
        });
        match effect.unwrap_or(Effect::Nothing) {
            Effect::Nothing => out(Outcome::Ignored(Ignored::Duplicate)),
            Effect::Waits => self.evict(Source::from(flow.source.ip()), out),
            ending => {
                if let Some(partial) = self.partials.remove(&flow) {
                    self.end(flow, &partial, ending, segment, out);
                }
            }
        }
    }

    /// `partial` has ended as `effect` says.
    fn end(
        &mut self,
        flow: Flow,
        partial: &Partial<Progress>,
        effect: Effect,
        segment: &Segment<'_>,
        out: &mut impl FnMut(Outcome),
    ) {
        match effect {
            Effect::Done(extent) => {
                self.complete(segment, partial, (partial.assembler.prefix(), extent), out);
            }
            Effect::Lost(cause) => self.lose(flow, partial, cause, out),
            Effect::Rejected(reason) => match rejected(reason, partial.state.index) {
                Ok(cause) => self.lose(flow, partial, cause, out),
                Err(ignored) => {
                    let seen = partial.assembler.prefix().len();
                    self.not_a_hello(flow, partial, seen, ignored, out);
                }
            },
            Effect::Waits | Effect::Nothing => {}
        }
    }
}

/// Sequence numbers wrap around (RFC 9293 section 3.4): distances are taken modulo 2^32.
fn place(base: u32, seq: u32, length: usize, window: u32) -> Place {
    let ahead = seq.wrapping_sub(base);
    let behind = base.wrapping_sub(seq);
    if ahead < window {
        return Place::Within { offset: usize::try_from(ahead).unwrap_or(usize::MAX), skip: 0 };
    }
    if behind >= window {
        return Place::Far;
    }
    match usize::try_from(behind) {
        Ok(skip) if skip < length => Place::Within { offset: 0, skip },
        _ => Place::Before { by: behind },
    }
}
