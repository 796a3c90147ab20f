//! UDP: hellos in QUIC and DTLS, put together from the pieces in their datagrams. Memory: a quarter of what [`Limits`]
//! allows TCP's hellos in progress, one datagram, and what is known of [`Limits::finished_flows`] flows of each of the
//! two: some 500 bytes a flow, 900 where a client opens as many connections on it as are told apart.

mod dtls;
mod quic;

use std::hash::RandomState;
use std::time::Duration;

use super::{Cause, Hello, Ignored, KeyCheck, Outcome, facts, offer};
use crate::capture::{Datagram, Flow, Proof};
use crate::clock::Timestamp;
use crate::fingerprint::{Fingerprinter, Transport};
use crate::flow::assembler::Inserted;
use crate::flow::partials::{Key, Partial, Partials};
use crate::flow::{Aged, Limits, Source};
use crate::quic::{ConnectionId, LongHeader, Opener};
use crate::tls::hello::{self, ClientHello};
use crate::tls::{Parsed, Reason, dtls as records};

/// How long a hello may take from its first datagram (threats.md T21).
const AGE: Duration = Duration::from_secs(5);

/// Gaps between the bytes of one hello. Chromium sends it as up to 28 pieces over two datagrams, any of which may come
/// first; 32 is what threats.md T21 grants, and this leaves room for them in each datagram.
const HOLES: usize = 64;

/// Secrets of a server that a client must repeat to prove its address have at least this many bytes. RFC 9000 section
/// 8.1 speaks of 64 bits for connection IDs, but widespread servers send 4 bytes (quic-go): guessing takes 2^31 forged
/// packets on average, each within the handshake's few round trips.
const SECRET_MIN: usize = 4;

/// Finds the ClientHellos in the datagrams of many flows.
#[derive(Debug)]
pub(super) struct Datagrams {
    limits: Limits,
    partials: Partials<Progress, Stream>,
    quic: Aged<quic::Known>,
    dtls: Aged<dtls::Known>,
    /// QUIC connections that began.
    begun: u32,
    opener: Opener,
    hasher: RandomState,
}

/// Where a message comes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Stream {
    flow: Flow,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// The CRYPTO stream of the connection that first used this ID.
    Quic(ConnectionId),
    /// The handshake message of this number.
    Dtls(u16),
}

impl Key for Stream {
    fn source(&self) -> Source {
        Source::from(self.flow.source.ip())
    }
}

impl Stream {
    fn parse(self, message: &[u8]) -> Parsed<ClientHello<'_>> {
        match self.kind {
            Kind::Quic(_) => hello::parse(message),
            Kind::Dtls(_) => hello::parse_dtls(message),
        }
    }

    const fn transport(self) -> Transport {
        match self.kind {
            Kind::Quic(_) => Transport::Quic,
            Kind::Dtls(_) => Transport::Dtls,
        }
    }
}

/// What is known about a hello in progress, beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Of the hello on its connection.
    index: u32,
    /// The capture cut one of its datagrams.
    cut: bool,
    /// Datagrams that brought bytes.
    segments: u32,
    /// Datagrams that came, repetitions included.
    touches: u32,
    /// Initial packets, or DTLS records, in those that brought bytes.
    records: u32,
}

/// What a datagram did to a stream.
enum Effect {
    Waits,
    Nothing,
    Done,
    Lost(Cause),
    NotHello,
}

impl Datagrams {
    pub(super) fn new(limits: Limits) -> Self {
        let limits = Limits {
            partial_hellos: limits.partial_hellos.div_ceil(4),
            partial_bytes: limits.partial_bytes.div_ceil(4),
            holes_per_flow: limits.holes_per_flow.min(HOLES),
            partial_age: limits.partial_age.min(AGE),
            ..limits
        };
        Self {
            limits,
            partials: Partials::new(limits),
            quic: Aged::new(limits.finished_flows),
            dtls: Aged::new(limits.finished_flows),
            begun: 0,
            opener: Opener::default(),
            hasher: RandomState::new(),
        }
    }

    /// Hellos in progress.
    pub(super) fn partials(&self) -> usize {
        self.partials.len()
    }

    /// Bytes allocated for them.
    pub(super) const fn allocated(&self) -> usize {
        self.partials.allocated()
    }

    /// Takes one datagram.
    pub(super) fn take(
        &mut self,
        datagram: &Datagram<'_>,
        fingerprinter: &mut Fingerprinter,
        out: &mut impl FnMut(Outcome),
    ) {
        let mut tell = Tell { fingerprinter, at: datagram.at, out };
        if datagram.payload.is_empty() {
            let cut = datagram.payload_len > 0;
            tell.ignored(if cut { Ignored::Cut } else { Ignored::NoPayload });
        } else if let Some(header) = LongHeader::parse(datagram.payload) {
            self.take_quic(datagram, &header, &mut tell);
        } else if records::is_record(datagram.payload) {
            self.take_dtls(datagram, &mut tell);
        } else if self.quic.get(&datagram.flow).is_some() {
            // A short header, or what surrounds QUIC on its port.
            tell.ignored(Ignored::AfterHello);
        } else if self.quic.get(&datagram.flow.reversed()).is_some() {
            tell.ignored(Ignored::NotHello);
        } else {
            tell.ignored(Ignored::NotQuic);
        }
    }

    /// Ends the hellos that began too long before `now`, `most` at a time. Whether there may be more.
    pub(super) fn expire(&mut self, now: Timestamp, most: usize, out: &mut impl FnMut(Outcome)) -> bool {
        for _ in 0..most {
            let Some((stream, partial)) = self.partials.expire(now) else { return false };
            let cause = if partial.state.cut { Cause::Truncated } else { Cause::Timeout };
            lost(stream, &partial, cause, out);
        }
        true
    }

    /// Ends all hellos in progress.
    pub(super) fn finish(&mut self, out: &mut impl FnMut(Outcome)) {
        while let Some((stream, partial)) = self.partials.pop_oldest() {
            lost(stream, &partial, Cause::Truncated, out);
        }
    }

    /// Makes room, if a bound is passed.
    fn evict(&mut self, source: Source, out: &mut impl FnMut(Outcome)) {
        while let Some((stream, partial)) = self.partials.evict(source) {
            lost(stream, &partial, Cause::Evicted, out);
        }
    }

    /// Ends the hello of `stream`, if one is in progress.
    fn abandon(&mut self, stream: &Stream, cause: Cause, out: &mut impl FnMut(Outcome)) {
        if let Some(partial) = self.partials.remove(stream) {
            lost(*stream, &partial, cause, out);
        }
    }
}

fn lost(stream: Stream, partial: &Partial<Progress>, cause: Cause, out: &mut impl FnMut(Outcome)) {
    out(Outcome::Lost { flow: stream.flow, cause, segments: partial.state.segments });
}

/// Lets `change` at the stream in progress, or else at `new`, which is kept if it waits for more. The stream comes out
/// when it has ended.
fn put(
    partials: &mut Partials<Progress, Stream>,
    stream: Stream,
    mut new: Partial<Progress>,
    change: impl FnOnce(&mut Partial<Progress>) -> Effect,
) -> (Effect, Option<Partial<Progress>>) {
    if partials.get(&stream).is_some() {
        let effect = partials.update(&stream, change).unwrap_or(Effect::Nothing);
        let ended = !matches!(effect, Effect::Waits | Effect::Nothing);
        return (effect, ended.then(|| partials.remove(&stream)).flatten());
    }
    let effect = change(&mut new);
    match effect {
        Effect::Waits => partials.insert(stream, new),
        Effect::Nothing => {}
        _ => return (effect, Some(new)),
    }
    (effect, None)
}

/// Puts the `pieces` of a datagram, by their offset from the hello's first byte, into `partial`. `records`: how many
/// packets or records they came in.
fn add<'a>(
    partial: &mut Partial<Progress>,
    stream: Stream,
    pieces: impl Iterator<Item = (usize, &'a [u8])>,
    records: u32,
    limits: &Limits,
) -> Effect {
    let limit = limits.bytes_per_flow;
    let state = &mut partial.state;
    state.touches = state.touches.saturating_add(1);
    let (mut new, mut conflict, mut beyond) = (false, false, state.touches > limits.segments_per_flow);
    for (offset, bytes) in pieces {
        beyond |= offset.saturating_add(bytes.len()) > limit;
        match partial.assembler.insert(offset, bytes, limit) {
            Inserted::New => new = true,
            Inserted::Conflict => conflict = true,
            Inserted::Nothing => {}
        }
        // Told before the next piece may make more of them.
        beyond |= partial.assembler.holes() > limits.holes_per_flow;
    }
    if !new && !conflict && !beyond {
        return Effect::Nothing;
    }
    state.segments = state.segments.saturating_add(1);
    state.records = state.records.saturating_add(records);
    if conflict {
        return Effect::Lost(Cause::OverlapConflict);
    }
    let message = partial.assembler.prefix();
    match stream.parse(message) {
        Parsed::Complete(_) => Effect::Done,
        Parsed::Incomplete if beyond || claimed(message) > limit => Effect::Lost(Cause::Evasive),
        Parsed::Incomplete => Effect::Waits,
        Parsed::Rejected(Reason::Oversize) => Effect::Lost(Cause::Oversize),
        Parsed::Rejected(Reason::Malformed) => Effect::Lost(Cause::Malformed),
        Parsed::Rejected(Reason::NotHello | Reason::NotTls) => Effect::NotHello,
    }
}

/// Bytes of the message that `stream` begins with, by what its header says.
fn claimed(stream: &[u8]) -> usize {
    match stream {
        [_kind, high, middle, low, ..] => {
            let body = u32::from_be_bytes([0, *high, *middle, *low]);
            usize::try_from(body).unwrap_or(usize::MAX).saturating_add(4)
        }
        _ => 0,
    }
}

/// Says what becomes of one datagram.
struct Tell<'a, O: FnMut(Outcome)> {
    fingerprinter: &'a mut Fingerprinter,
    at: Timestamp,
    out: &'a mut O,
}

impl<O: FnMut(Outcome)> Tell<'_, O> {
    fn ignored(&mut self, why: Ignored) {
        (self.out)(Outcome::Ignored(why));
    }

    fn all_ignored(&mut self, partial: &Partial<Progress>, why: Ignored) {
        for _ in 0..partial.state.segments {
            self.ignored(why);
        }
    }

    /// `hello`, which takes up `bytes`, is whole: of its flow's connection `number`.
    fn hello(
        &mut self,
        (stream, number): (Stream, u32),
        partial: &Partial<Progress>,
        (hello, bytes): (&ClientHello<'_>, usize),
        proof: Option<Proof>,
    ) {
        let Progress { index, segments, records, .. } = partial.state;
        (self.out)(Outcome::Hello(Box::new(Hello {
            flow: stream.flow,
            at: partial.started,
            completed_at: self.at,
            first_seq: 0,
            stream_seq: number,
            index,
            segments,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            transport: stream.transport(),
            fingerprint: self.fingerprinter.fingerprint(hello, stream.transport()),
            facts: facts(hello, records),
            offer: offer(hello),
            syn: None,
            proof,
            keys: KeyCheck::Absent,
        })));
    }
}
