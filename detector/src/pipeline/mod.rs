//! Room 6: [`Packet`]s in, [`Outcome`]s out. Puts the rooms before it together and nothing else: no clock, no files,
//! no tasks, so that a live interface and a capture file give the same answer. Memory: [`Limits`], 64 KiB,
//! and that of `datagram`.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod answer;
mod datagram;
mod digest;
mod follow;
mod handshake;
mod outcome;
mod start;

pub use crate::flow::Limits;
pub use answer::{answer, fits};
pub use outcome::{Answer, Cause, Facts, Hello, Ignored, KeyCheck, Offer, Outcome, Syn, Void};

use detector_common::key::{Keys, Seeds};

use crate::capture::{Flow, KernelKeys, Packet, Proof, Segment};
use crate::clock::Timestamp;
use crate::fingerprint::{Fingerprinter, Transport, key};
use crate::flow::Aged;
use crate::flow::partials::{Partial, Partials};
use crate::tls::grease::is_grease;
use crate::tls::hello::{self, ClientHello, extension};
use crate::tls::record::{self, Deframer, Extent};
use crate::tls::{Parsed, Reason};

use digest::{Digest, Digester};
use handshake::Handshakes;

/// How far behind a hello, in bytes of the stream, what follows it on the same connection may be: enough for the
/// early data between two hellos, and too little for another connection's initial sequence number to hit by chance.
const NEAR: u32 = 64 * 1024;

/// Hellos that a packet may end beside its own: more than one begins with each, so that they go as fast as they come, and
/// few, so that no packet waits long.
pub(crate) const SWEEP: usize = 4;

/// Answers that wait for their hello.
const EARLY_ANSWERS: usize = 1024;

/// Finds the ClientHellos in the segments of many connections.
#[derive(Debug)]
pub struct Pipeline {
    limits: Limits,
    partials: Partials<Progress>,
    /// Flows known by their SYN only: the sequence number of their first byte.
    opened: Aged<u32>,
    finished: Aged<Finished>,
    /// Of each finished flow whose first hello was complete: its bytes, digested.
    digests: Aged<Digest>,
    digester: Digester,
    handshakes: Handshakes,
    /// Answers to hellos that are yet to come: live, the two come by different ways.
    early: Aged<Answer>,
    /// Packets that came after this are still to be taken.
    taken_until: Option<Timestamp>,
    fingerprinter: Fingerprinter,
    scratch: Vec<u8>,
    datagrams: datagram::Datagrams,
}

/// What is known about a hello in progress, beside its bytes.
#[derive(Clone, Copy, Debug)]
struct Progress {
    deframer: Deframer,
    /// Of the hello on its connection.
    index: u32,
    /// The stream begins at `base` for sure: a SYN or the hello before said so.
    certain: bool,
    /// The capture cut bytes off one of its segments.
    cut: bool,
    /// Why the client's address is sure.
    proof: Option<Proof>,
    /// Segments that brought bytes.
    segments: u32,
    /// Segments that came, repetitions included.
    touches: u32,
}

/// A flow after its hello, or after what it began with instead.
#[derive(Clone, Copy, Debug)]
struct Finished {
    /// Sequence number of the first byte of the first hello.
    start: u32,
    /// Sequence number after the last byte of the latest hello.
    end: u32,
    /// Of the latest hello.
    index: u32,
    then: Then,
}

/// What may follow a hello on its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Nothing did yet: it may be a second hello.
    Open,
    /// Something else did.
    Closed,
    /// There was no hello: the flow began with something else, from `start` to `end`.
    Other,
    /// Nothing: the hello was lost for cause, and its bytes mustn't make another one.
    Void,
}

/// Where a hello's stream begins and what it will be.
#[derive(Clone, Copy, Debug)]
struct Beginning {
    base: u32,
    index: u32,
    certain: bool,
}

impl Pipeline {
    /// With nothing remembered, and keys of its own.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::seeded(limits, key::random_seeds())
    }

    /// With nothing remembered, and the keys that `seeds` give.
    #[must_use]
    pub fn seeded(limits: Limits, seeds: Seeds) -> Self {
        Self {
            limits,
            partials: Partials::new(limits),
            opened: Aged::new(limits.finished_flows),
            finished: Aged::new(limits.finished_flows),
            digests: Aged::new(recent(limits)),
            digester: Digester::default(),
            handshakes: Handshakes::new(recent(limits)),
            early: Aged::new(EARLY_ANSWERS),
            taken_until: None,
            fingerprinter: Fingerprinter::new(seeds),
            scratch: Vec::new(),
            datagrams: datagram::Datagrams::new(limits),
        }
    }

    /// Hellos in progress.
    #[must_use]
    pub fn partial_hellos(&self) -> usize {
        self.partials.len().saturating_add(self.datagrams.partials())
    }

    /// Bytes allocated for hellos in progress.
    #[must_use]
    pub fn partial_bytes(&self) -> usize {
        self.partials.allocated().saturating_add(self.datagrams.allocated())
    }

    /// Takes one packet.
    pub fn take(&mut self, packet: &Packet<'_>, out: &mut impl FnMut(Outcome)) {
        match packet {
            Packet::Segment(segment) => self.push(segment, out),
            Packet::Datagram(datagram) => {
                self.expire(datagram.at, SWEEP, out);
                self.datagrams.take(datagram, &mut self.fingerprinter, out);
            }
        }
    }

    /// Takes one segment.
    pub fn push(&mut self, segment: &Segment<'_>, out: &mut impl FnMut(Outcome)) {
        self.expire(segment.at, SWEEP, out);
        let flags = segment.flags;
        if flags.syn {
            let client = if flags.ack {
                self.handshakes.syn_ack(segment);
                segment.flow.reversed()
            } else {
                self.handshakes.syn(segment);
                segment.flow
            };
            self.open(client, out);
        }
        let proof = self.proof(segment);
        if segment.payload.is_empty() {
            let cut = segment.payload_len > 0 && !flags.syn;
            if cut {
                self.partials.update(&segment.flow, |partial| partial.state.cut = true);
            }
            out(Outcome::Ignored(if cut { Ignored::Cut } else { Ignored::NoPayload }));
        } else if !flags.ack && !flags.syn {
            out(Outcome::Ignored(Ignored::NoAck));
        } else {
            // A SYN takes a sequence number itself; with TCP Fast Open data follows (RFC 7413).
            let seq = segment.seq.wrapping_add(u32::from(flags.syn));
            if self.partials.get(&segment.flow).is_some() {
                self.follow(segment, seq, out);
            } else {
                self.start(segment, seq, out);
            }
            self.answered(segment, out);
        }
        if let Some((proof, stream)) = proof
            && self.finished.get(&segment.flow).is_some()
        {
            out(Outcome::Proven { flow: segment.flow, stream, proof });
        }
        if flags.rst || flags.fin {
            self.close(segment, out);
        }
    }

    /// Takes what a server sends, if it begins like an answer to a hello.
    fn answered(&mut self, segment: &Segment<'_>, out: &mut impl FnMut(Outcome)) {
        if !segment.payload.starts_with(&[22, 3]) {
            return;
        }
        let Some(answer) = answer(segment.flow, segment.at, segment.payload) else { return };
        let Some(finished) = self.finished.get(&answer.flow) else {
            self.early.insert(answer.flow, answer);
            return;
        };
        // A server that answers a hello has received all of it.
        if segment.ack.wrapping_sub(finished.end) >= 1 << 31 {
            let why = Void::Desync;
            out(Outcome::Void { flow: answer.flow, stream: finished.start, why });
        }
        out(Outcome::Answer(Box::new(answer)));
    }

    /// What `segment` proves of its sender's address; the hello in progress on its flow has it from then on.
    fn proof(&mut self, segment: &Segment<'_>) -> Option<(Proof, Option<u32>)> {
        let (proof, stream) = self.handshakes.proof(segment)?;
        self.partials.update(&segment.flow, |partial| {
            if stream.is_none_or(|stream| stream == partial.base || partial.state.index > 0) {
                partial.state.proof = partial.state.proof.or(Some(proof));
                partial.proven = true;
            }
        });
        Some((proof, stream))
    }

    /// Packets that came after `time` are still to be taken, and what they would add to has time until then, whatever comes
    /// before them; `None`: all were taken.
    pub fn behind(&mut self, time: Option<Timestamp>) {
        self.taken_until = time;
    }

    /// Ends the hellos that began too long before `now`, `most` of each kind at a time. Whether there may be more.
    pub fn expire(&mut self, now: Timestamp, most: usize, out: &mut impl FnMut(Outcome)) -> bool {
        let now = self.taken_until.map_or(now, |taken| taken.min(now));
        for _ in 0..most {
            let Some((flow, partial)) = self.partials.expire(now) else { return self.datagrams.expire(now, most, out) };
            let cause = if partial.state.cut { Cause::Truncated } else { Cause::Timeout };
            self.lose(flow, &partial, cause, out);
        }
        self.datagrams.expire(now, most, out);
        true
    }

    /// Ends all hellos in progress: no segment will come any more.
    pub fn finish(&mut self, out: &mut impl FnMut(Outcome)) {
        while let Some((flow, partial)) = self.partials.pop_oldest() {
            self.lose(flow, &partial, Cause::Truncated, out);
        }
        self.datagrams.finish(out);
    }

    /// A SYN or SYN-ACK of the client `flow`: what is known about its 4-tuple ends, unless it is one of the same
    /// connection once more, or a SYN that nobody but the server can tell from a forged one.
    fn open(&mut self, flow: Flow, out: &mut impl FnMut(Outcome)) {
        let flow = &flow;
        let Some(base) = self.handshakes.base(flow).filter(|_| !self.handshakes.is_undecided(flow)) else { return };
        if self.finished.get(flow).is_some_and(|finished| finished.start == base)
            || self.partials.get(flow).is_some_and(|partial| partial.base == base)
        {
            return;
        }
        if let Some(partial) = self.partials.remove(flow) {
            self.lose(*flow, &partial, Cause::Replaced, out);
        }
        self.finished.remove(flow);
        if self.opened.get(flow) != Some(&base) {
            self.opened.insert(*flow, base);
        }
    }

    /// RST or FIN: what the hello in progress still lacks can't come any more. Only at the place where the server
    /// stands, as Linux demands of an RST (RFC 5961 section 3); one elsewhere would end our view and not the connection.
    fn close(&mut self, segment: &Segment<'_>, out: &mut impl FnMut(Outcome)) {
        let flow = &segment.flow;
        let Some(partial) = self.partials.get(flow) else { return };
        let whole = u32::try_from(partial.assembler.prefix().len()).unwrap_or(u32::MAX);
        let length = u32::try_from(segment.payload_len).unwrap_or(u32::MAX);
        if segment.seq.wrapping_add(length) != partial.base.wrapping_add(whole) {
            return;
        }
        if let Some(partial) = self.partials.remove(flow) {
            let cause = if segment.flags.rst { Cause::Reset } else { Cause::Truncated };
            self.lose(*flow, &partial, cause, out);
        }
    }

    /// Says that `partial`, taken out of the table, is lost.
    fn lose(&mut self, flow: Flow, partial: &Partial<Progress>, cause: Cause, out: &mut impl FnMut(Outcome)) {
        let Progress { deframer, index, segments, .. } = partial.state;
        // What came after a hello may have been another one. If nothing shows that it was, nothing is lost.
        if index > 0 && !deframer.is_hello() {
            self.ignore(segments, Ignored::AfterHello, out);
            return;
        }
        if matches!(cause, Cause::Malformed | Cause::Oversize | Cause::Evasive | Cause::OverlapConflict) {
            let start = self.first_start(&flow, partial);
            self.remember(flow, Finished { start, end: partial.base, index, then: Then::Void });
        }
        out(Outcome::Lost { flow, cause, segments });
    }

    /// Where the first hello of the connection of `partial` began: its retransmission is told from a new connection
    /// also after the second hello.
    fn first_start(&self, flow: &Flow, partial: &Partial<Progress>) -> u32 {
        let before = self.finished.get(flow).filter(|_| partial.state.index > 0);
        before.map_or(partial.base, |finished| finished.start)
    }

    fn ignore(&self, segments: u32, why: Ignored, out: &mut impl FnMut(Outcome)) {
        for _ in 0..segments {
            out(Outcome::Ignored(why));
        }
    }

    fn remember(&mut self, flow: Flow, finished: Finished) {
        self.opened.remove(&flow);
        self.finished.insert(flow, finished);
    }

    /// With `segment`, the message at `extent` of `stream` is whole: reads it.
    fn complete(
        &mut self,
        segment: &Segment<'_>,
        partial: &Partial<Progress>,
        (stream, extent): (&[u8], Extent),
        out: &mut impl FnMut(Outcome),
    ) {
        let flow = segment.flow;
        let Progress { index, segments, .. } = partial.state;
        let start = self.first_start(&flow, partial);
        let message = record::message(stream, &extent, &mut self.scratch);
        let hello = match hello::parse(message) {
            Parsed::Complete(hello) => hello,
            Parsed::Incomplete | Parsed::Rejected(_) => return self.lose(flow, partial, Cause::Malformed, out),
        };
        let fingerprint = self.fingerprinter.fingerprint(&hello, Transport::Tcp);
        let at = |offset: usize| partial.base.wrapping_add(u32::try_from(offset).unwrap_or(u32::MAX));
        let first_seq = at(extent.start);
        let hello = Hello {
            flow,
            at: partial.started,
            completed_at: segment.at,
            first_seq,
            stream_seq: start,
            index,
            segments,
            bytes: u32::try_from(extent.message).unwrap_or(u32::MAX),
            transport: Transport::Tcp,
            keys: check(segment.keys.filter(|kernel| kernel.first_seq == first_seq), fingerprint.keys),
            fingerprint,
            facts: facts(&hello, extent.records),
            offer: offer(&hello),
            syn: self.handshakes.signature(&flow, start),
            proof: partial.state.proof.or_else(|| self.handshakes.proven(&flow)),
        };
        let then = if index > 0 { Then::Closed } else { Then::Open };
        if index == 0 {
            let bytes = stream.get(..extent.end).unwrap_or(stream);
            self.digests.insert(flow, self.digester.digest(bytes));
        }
        self.remember(flow, Finished { start, end: at(extent.end), index, then });
        out(Outcome::Hello(Box::new(hello)));
        if let Some(answer) = self.early.remove(&flow) {
            out(Outcome::Answer(Box::new(answer)));
        }
    }
}

/// Handshakes and digests matter until shortly after their hello: a quarter of the flows that are remembered.
fn recent(limits: Limits) -> usize {
    limits.finished_flows.div_ceil(4)
}

fn check(kernel: Option<KernelKeys>, ours: Keys) -> KeyCheck {
    match kernel {
        None => KeyCheck::Absent,
        Some(kernel) if kernel.keys == ours => KeyCheck::Equal,
        Some(_) => KeyCheck::Mismatch,
    }
}

fn offer(hello: &ClientHello<'_>) -> Offer {
    Offer { session_id: hello.session_id.into(), cipher_suites: hello.cipher_suites.iter().collect() }
}

fn facts(hello: &ClientHello<'_>, records: u32) -> Facts {
    let mut facts = Facts {
        legacy_version: hello.legacy_version,
        cipher_suites: u32::try_from(hello.cipher_suites.len()).unwrap_or(u32::MAX),
        grease: hello.cipher_suites.iter().any(is_grease),
        records,
        ..Facts::default()
    };
    for item in hello.extensions.iter() {
        facts.extensions = facts.extensions.saturating_add(1);
        facts.grease |= is_grease(item.code);
        facts.resumption |=
            item.code == extension::PRE_SHARED_KEY || (item.code == extension::SESSION_TICKET && !item.body.is_empty());
        facts.early_data |= item.code == extension::EARLY_DATA;
    }
    facts
}

/// What becomes of a stream that turns out to be `reason`.
fn rejected(reason: Reason, index: u32) -> Result<Cause, Ignored> {
    match reason.into() {
        Err(_) if index > 0 => Err(Ignored::AfterHello),
        fate => fate,
    }
}
