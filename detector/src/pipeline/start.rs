//! The first segment of what may be a hello: whether its flow is new, remembered by its SYN, or after its hello.

use super::{Beginning, Finished, Ignored, NEAR, Outcome, Pipeline, Progress, Then, Void, rejected};
use crate::capture::{Flow, Segment};
use crate::flow::Source;
use crate::flow::assembler::Inserted;
use crate::flow::partials::Partial;
use crate::pipeline::Cause;
use crate::tls::Parsed;
use crate::tls::record::{Deframer, Start, start};

impl Pipeline {
    /// Takes a segment with payload, the first byte at `seq`, of a flow without a hello in progress.
    pub(super) fn start(&mut self, segment: &Segment<'_>, seq: u32, out: &mut impl FnMut(Outcome)) {
        let flow = &segment.flow;
        if let Some(finished) = self.finished.get(flow).copied() {
            return self.after(finished, segment, seq, out);
        }
        if self.handshakes.is_foreign(flow, seq) && start(segment.payload) == Start::Hello {
            return out(Outcome::Ignored(Ignored::OutOfWindow));
        }
        if let Some(base) = self.opened.get(flow).copied()
            && let Ok(offset) = usize::try_from(seq.wrapping_sub(base))
            && offset < self.limits.bytes_per_flow
        {
            return self.begin(Beginning { base, index: 0, certain: true }, segment, seq, segment.payload, out);
        }
        self.begin_anywhere(segment, seq, out);
    }

    /// A flow of which nothing is known, or nothing that fits: the segment must look like a hello by itself.
    pub(super) fn begin_anywhere(&mut self, segment: &Segment<'_>, seq: u32, out: &mut impl FnMut(Outcome)) {
        match start(segment.payload) {
            Start::Other if segment.payload.starts_with(&[22, 3]) => out(Outcome::Ignored(Ignored::NotHello)),
            Start::Other => out(Outcome::Ignored(Ignored::NotTls)),
            Start::Hello | Start::Perhaps => {
                self.begin(Beginning { base: seq, index: 0, certain: false }, segment, seq, segment.payload, out);
            }
        }
    }

    /// A flow whose hello was there: a retransmission, what follows, or a new connection.
    fn after(&mut self, finished: Finished, segment: &Segment<'_>, seq: u32, out: &mut impl FnMut(Outcome)) {
        let looks_like = start(segment.payload);
        let from_start = seq.wrapping_sub(finished.start);
        let from_end = seq.wrapping_sub(finished.end);
        if looks_like == Start::Hello && self.handshakes.is_foreign(&segment.flow, seq) {
            // A whole hello far from where the connection began: forged, or long past what matters here.
            return out(Outcome::Ignored(Ignored::OutOfWindow));
        }
        if finished.then == Then::Void {
            if from_start < NEAR || looks_like != Start::Hello {
                return out(Outcome::Ignored(Ignored::AfterLost));
            }
            return self.begin_anywhere(segment, seq, out);
        }
        if from_start < finished.end.wrapping_sub(finished.start) {
            let known = usize::try_from(finished.end.wrapping_sub(seq)).unwrap_or(usize::MAX);
            if self.conflicts(finished, segment, from_start) {
                let why = Void::OverlapConflict;
                self.digests.remove(&segment.flow);
                out(Outcome::Void { flow: segment.flow, stream: finished.start, why });
            }
            return match segment.payload.get(known..) {
                Some(rest) if !rest.is_empty() && finished.then == Then::Open => {
                    self.then(finished, segment, finished.end, rest, out);
                }
                _ => out(Outcome::Ignored(Ignored::Duplicate)),
            };
        }
        if finished.then == Then::Other {
            return self.begin_anywhere(segment, seq, out);
        }
        let open = finished.then == Then::Open
            && usize::try_from(from_end).is_ok_and(|offset| offset < self.limits.bytes_per_flow);
        match looks_like {
            _ if open => self.then(finished, segment, seq, segment.payload, out),
            Start::Hello if from_end >= NEAR => self.begin_anywhere(segment, seq, out),
            // Early data may stand between two hellos (RFC 8446 section 4.2.10).
            Start::Hello if finished.index == 0 => {
                let beginning = Beginning { base: seq, index: 1, certain: false };
                self.begin(beginning, segment, seq, segment.payload, out);
            }
            _ => out(Outcome::Ignored(Ignored::AfterHello)),
        }
    }

    /// Whether a segment brings other bytes for places of the first hello than those it was read from, in a way that the
    /// server may have taken them.
    fn conflicts(&self, finished: Finished, segment: &Segment<'_>, from_start: u32) -> bool {
        let Some(digest) = self.digests.get(&segment.flow) else { return false };
        let length = usize::try_from(finished.end.wrapping_sub(finished.start)).unwrap_or(usize::MAX);
        let offset = usize::try_from(from_start).unwrap_or(usize::MAX);
        finished.index == 0
            && matches!(finished.then, Then::Open | Then::Closed)
            && self.digester.differs(digest, length, offset, segment.payload)
            && self.handshakes.discarded(segment).is_none()
    }

    /// The first bytes after a hello, in whatever order they come, may be a second one.
    fn then(
        &mut self,
        finished: Finished,
        segment: &Segment<'_>,
        seq: u32,
        payload: &[u8],
        out: &mut impl FnMut(Outcome),
    ) {
        let beginning = Beginning { base: finished.end, index: finished.index.saturating_add(1), certain: true };
        self.begin(beginning, segment, seq, payload, out);
    }

    /// Starts a stream with `payload`, the first byte at `seq`.
    pub(super) fn begin(
        &mut self,
        beginning: Beginning,
        segment: &Segment<'_>,
        seq: u32,
        payload: &[u8],
        out: &mut impl FnMut(Outcome),
    ) {
        if let Some(why) = self.handshakes.discarded(segment) {
            return out(Outcome::Ignored(why));
        }
        let Beginning { base, index, certain } = beginning;
        let flow = segment.flow;
        let deframer = if index > 0 { Deframer::after_retry() } else { Deframer::new() };
        let cut = segment.payload_len > segment.payload.len();
        let state = Progress { deframer, index, certain, cut, proof: segment.proof, segments: 1, touches: 1 };
        let mut partial = Partial::new(base, segment.at, state);
        let offset = usize::try_from(seq.wrapping_sub(base)).unwrap_or(usize::MAX);
        let limit = self.limits.bytes_per_flow;
        if offset == 0 {
            // A hello in one segment is read where it lies.
            let stream = payload.get(..limit).unwrap_or(payload);
            match partial.state.deframer.advance(stream) {
                Parsed::Complete(extent) => {
                    return self.complete(segment, &partial, (stream, extent), out);
                }
                Parsed::Rejected(reason) => {
                    self.opened.remove(&flow);
                    match rejected(reason, index) {
                        Ok(cause) => self.lose(flow, &partial, cause, out),
                        Err(ignored) => self.not_a_hello(flow, &partial, stream.len(), ignored, out),
                    }
                    return;
                }
                Parsed::Incomplete if stream.len() >= limit || partial.state.deframer.needs() > limit => {
                    return self.lose(flow, &partial, Cause::Evasive, out);
                }
                Parsed::Incomplete => {}
            }
        }
        if partial.assembler.insert(offset, payload, limit) == Inserted::Nothing {
            return out(Outcome::Ignored(Ignored::OutOfWindow));
        }
        self.opened.remove(&flow);
        partial.state.proof = partial.state.proof.or_else(|| self.handshakes.proven(&flow));
        partial.proven = partial.state.proof.is_some();
        self.partials.insert(flow, partial);
        self.evict(Source::from(flow.source.ip()), out);
    }

    /// A stream turned out to be none of ours, by its first `seen` bytes. Those are remembered where it is sure that
    /// they were the first: the server took them, so that later bytes for their places count for nothing.
    pub(super) fn not_a_hello(
        &mut self,
        flow: Flow,
        partial: &Partial<Progress>,
        seen: usize,
        why: Ignored,
        out: &mut impl FnMut(Outcome),
    ) {
        let Progress { index, certain, segments, .. } = partial.state;
        if index > 0 {
            if let Some(finished) = self.finished.get_mut(&flow) {
                finished.then = Then::Closed;
            }
        } else if certain {
            let end = partial.base.wrapping_add(u32::try_from(seen).unwrap_or(u32::MAX));
            self.remember(flow, Finished { start: partial.base, end, index, then: Then::Other });
        }
        self.ignore(segments, why, out);
    }

    /// Makes room, if a bound is passed.
    pub(super) fn evict(&mut self, source: Source, out: &mut impl FnMut(Outcome)) {
        while let Some((flow, partial)) = self.partials.evict(source) {
            self.lose(flow, &partial, Cause::Evicted, out);
        }
    }
}
