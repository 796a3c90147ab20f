//! DTLS: what a datagram brings of a hello, and the cookie exchange (RFC 6347 section 4.2, RFC 9147 section 5).

use std::hash::BuildHasher as _;

use smallvec::SmallVec;

use super::{
    Cause, Datagram, Datagrams, Effect, Ignored, Kind, Outcome, Partial, Progress, Proof, SECRET_MIN, Source, Stream,
    Tell, add, claimed, lost, put,
};
use crate::tls::Parsed;
use crate::tls::dtls::{CLIENT_HELLO, Fragment, HELLO_VERIFY_REQUEST, SERVER_HELLO, fragments, handshake_records};

/// legacy_version and random: two hellos of which these are the same are one, sent twice.
const TELLING: usize = 34;

/// Type and length, which a message that was put together begins with.
const HEADER: usize = 4;

/// Message numbers that a hello may have: the first, and the one with the server's cookie.
const MESSAGES: usize = 2;

/// What is known about a flow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    hellos: [Message; MESSAGES],
    /// A digest of the cookie that the server sent.
    cookie: Option<u64>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Default)]
enum Message {
    /// It isn't whole.
    #[default]
    Open,
    /// It was a hello; a digest of how it began.
    Told(u64),
    /// It was lost for cause, and its bytes mustn't make another one.
    Void,
}

impl Known {
    fn is_told(&self) -> bool {
        self.hellos.iter().any(|message| matches!(message, Message::Told(_)))
    }
}

impl Datagrams {
    /// Takes a datagram that begins with a record.
    pub(super) fn take_dtls(&mut self, datagram: &Datagram<'_>, tell: &mut Tell<'_, impl FnMut(Outcome)>) {
        let flow = datagram.flow;
        let mut pieces = SmallVec::<[Fragment<'_>; 4]>::new();
        let mut records = 0_u32;
        for record in handshake_records(datagram.payload) {
            let before = pieces.len();
            for fragment in fragments(record) {
                match fragment.kind {
                    CLIENT_HELLO if pieces.first().is_none_or(|first| first.message_seq == fragment.message_seq) => {
                        pieces.push(fragment);
                    }
                    SERVER_HELLO | HELLO_VERIFY_REQUEST => {
                        self.note_cookie(datagram, &fragment);
                        return tell.ignored(Ignored::NotHello);
                    }
                    _ => {}
                }
            }
            records = records.saturating_add(u32::from(pieces.len() > before));
        }
        let known = self.dtls.get(&flow).copied();
        match pieces.first() {
            Some(first) if usize::from(first.message_seq) < MESSAGES => {
                self.pieces(datagram, known.unwrap_or_default(), (&pieces, records), tell);
            }
            _ if datagram.payload_len > datagram.payload.len() => tell.ignored(Ignored::Cut),
            _ if known.is_some_and(|known| known.is_told()) => tell.ignored(Ignored::AfterHello),
            _ => tell.ignored(Ignored::NotHello),
        }
    }

    /// The server sends its cookie, to a client that is known.
    fn note_cookie(&mut self, datagram: &Datagram<'_>, fragment: &Fragment<'_>) {
        if let Some(known) = self.dtls.get_mut(&datagram.flow.reversed())
            && let Some(cookie) = fragment.cookie()
            && cookie.len() >= SECRET_MIN
        {
            known.cookie = Some(self.hasher.hash_one(cookie));
        }
    }

    /// Gives the pieces of one hello to its stream.
    fn pieces(
        &mut self,
        datagram: &Datagram<'_>,
        mut known: Known,
        (pieces, records): (&[Fragment<'_>], u32),
        tell: &mut Tell<'_, impl FnMut(Outcome)>,
    ) {
        let Some(first) = pieces.first() else { return };
        let flow = datagram.flow;
        let stream = Stream { flow, kind: Kind::Dtls(first.message_seq) };
        let place = usize::from(first.message_seq);
        match known.hellos.get(place).copied().unwrap_or_default() {
            Message::Open => {}
            Message::Void => return tell.ignored(Ignored::AfterLost),
            Message::Told(digest) => {
                let start = pieces.iter().find(|piece| piece.offset == 0).and_then(|piece| piece.bytes.get(..TELLING));
                if start.is_none_or(|start| self.hasher.hash_one(start) == digest) {
                    return tell.ignored(Ignored::Duplicate);
                }
                // Another handshake on the same 4-tuple.
                known = Known::default();
            }
        }
        let index = u32::from(first.message_seq);
        let mut new = Partial::new(0, datagram.at, Progress { index, ..Progress::default() });
        let [_, high, middle, low] = first.length.to_be_bytes();
        new.assembler.insert(0, &[CLIENT_HELLO, high, middle, low], self.limits.bytes_per_flow);
        let bytes = pieces.iter().map(|piece| {
            let offset = usize::try_from(piece.offset).unwrap_or(usize::MAX);
            (offset.saturating_add(HEADER), piece.bytes)
        });
        let (effect, partial) = put(&mut self.partials, stream, new, |partial| {
            partial.state.cut |= datagram.payload_len > datagram.payload.len();
            let whole = claimed(partial.assembler.prefix());
            let length = |piece: &Fragment<'_>| usize::try_from(piece.length).unwrap_or(usize::MAX);
            if pieces.iter().any(|piece| length(piece).saturating_add(HEADER) != whole) {
                partial.state.segments = partial.state.segments.saturating_add(1);
                return Effect::Lost(Cause::Malformed);
            }
            add(partial, stream, bytes, records, &self.limits)
        });
        match (effect, partial) {
            (Effect::Done, Some(partial)) => self.whole_dtls(stream, known, &partial, tell),
            (Effect::Lost(cause), Some(partial)) => self.void(stream, known, (&partial, cause), tell),
            (Effect::NotHello, Some(partial)) => self.void(stream, known, (&partial, Cause::Malformed), tell),
            (Effect::Waits, _) => {
                self.remember(stream, known, tell);
                self.evict(Source::from(flow.source.ip()), tell.out);
            }
            _ => tell.ignored(Ignored::Duplicate),
        }
    }

    fn void(
        &mut self,
        stream: Stream,
        mut known: Known,
        (partial, cause): (&Partial<Progress>, Cause),
        tell: &mut Tell<'_, impl FnMut(Outcome)>,
    ) {
        set(&mut known, stream, Message::Void);
        self.remember(stream, known, tell);
        lost(stream, partial, cause, tell.out);
    }

    fn remember(&mut self, stream: Stream, known: Known, tell: &mut Tell<'_, impl FnMut(Outcome)>) {
        if let Some(place) = self.dtls.get_mut(&stream.flow) {
            *place = known;
            return;
        }
        if let Some((flow, _)) = self.dtls.insert(stream.flow, known) {
            for message in [0, 1] {
                self.abandon(&Stream { flow, kind: Kind::Dtls(message) }, Cause::Evicted, tell.out);
            }
        }
    }

    /// The hello of `stream` is whole.
    fn whole_dtls(
        &mut self,
        stream: Stream,
        mut known: Known,
        partial: &Partial<Progress>,
        tell: &mut Tell<'_, impl FnMut(Outcome)>,
    ) {
        let message = partial.assembler.prefix();
        let Parsed::Complete(hello) = stream.parse(message) else { return };
        let echoes = !hello.cookie.is_empty() && known.cookie == Some(self.hasher.hash_one(hello.cookie));
        let proof = echoes.then_some(Proof::DtlsCookie);
        if let Some(proof) = proof
            && known.is_told()
        {
            (tell.out)(Outcome::Proven { flow: stream.flow, stream: None, proof });
        }
        let start = message.get(HEADER..).and_then(|body| body.get(..TELLING)).unwrap_or_default();
        set(&mut known, stream, Message::Told(self.hasher.hash_one(start)));
        self.remember(stream, known, tell);
        let mut partial = Partial::new(partial.base, partial.started, partial.state);
        // The one with a cookie is the second, whatever its number.
        partial.state.index = partial.state.index.max(u32::from(!hello.cookie.is_empty()));
        tell.hello((stream, 0), &partial, (&hello, claimed(message)), proof);
    }
}

fn set(known: &mut Known, stream: Stream, message: Message) {
    if let Kind::Dtls(number) = stream.kind
        && let Some(place) = known.hellos.get_mut(usize::from(number))
    {
        *place = message;
    }
}
