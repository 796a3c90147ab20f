//! QUIC: which connection a datagram belongs to, and what it brings of its hello (RFC 9000, 9001).

use std::hash::BuildHasher as _;

use smallvec::SmallVec;

use super::{
    Cause, Datagram, Datagrams, Effect, Ignored, Kind, Outcome, Partial, Progress, Proof, SECRET_MIN, Source, Stream,
    Tell, add, claimed, lost, put,
};
use crate::capture::Flow;
use crate::pipeline::Void;
use crate::quic::{self, ConnectionId, FIRST_ID_MIN, LongHeader, Opened};
use crate::tls::Parsed;

/// Connections of one flow that are remembered, and connection IDs of its server. An honest flow has one, and a second
/// after a Retry packet.
const CONNECTIONS: usize = 4;

/// What is known about a flow.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    connections: SmallVec<[Connection; 1]>,
    /// What the server wants to be called.
    server_ids: SmallVec<[ConnectionId; 1]>,
    /// The one of these that it gave in a Retry packet.
    retry: Option<ConnectionId>,
}

/// One connection, up to a Retry packet or from there.
#[derive(Clone, Copy, Debug)]
struct Connection {
    /// [`crate::pipeline::Hello::stream_seq`].
    number: u32,
    /// The client has used an ID that the server gave since then.
    proven: bool,
    keys: quic::Known,
    /// Stream offset at which its next hello begins.
    next_at: u64,
    /// Of that hello.
    index: u32,
    /// A digest of its first hello, once that was whole.
    first: Option<u64>,
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// There may be another hello.
    Open,
    /// There is none to come.
    Closed,
    /// The hello was lost for cause, and its bytes mustn't make another one.
    Void,
}

impl Known {
    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.keys.id == id)
    }

    /// The digests of the first hellos that were told of the connection `number`.
    fn told(&self, number: u32) -> impl Iterator<Item = u64> {
        self.connections.iter().filter(move |one| one.number == number).filter_map(|one| one.first)
    }

    fn is_told(&self) -> bool {
        self.connections.iter().any(|connection| connection.first.is_some())
    }

    fn of(&self, stream: Stream) -> Option<&Connection> {
        self.connections.iter().find(|connection| stream.kind == Kind::Quic(connection.keys.id))
    }

    /// The connection of `stream` has its first ID from the server.
    fn is_servers(&self, stream: Stream) -> bool {
        matches!(stream.kind, Kind::Quic(id) if self.server_ids.contains(&id))
    }

    /// Likewise, from a Retry packet: the server has read nothing before.
    fn is_retried(&self, stream: Stream) -> bool {
        self.retry.is_some_and(|id| stream.kind == Kind::Quic(id))
    }

    /// What datagrams without a part in a hello are.
    fn rest(known: Option<&Self>) -> Ignored {
        if known.is_some_and(Self::is_told) { Ignored::AfterHello } else { Ignored::NotHello }
    }

    /// The server says what it is called. What follows from what the client sent is no secret of the server's: some
    /// make theirs from the client's.
    fn note_server(&mut self, header: &LongHeader) {
        let id = header.source;
        let (name, told) = (id.as_bytes(), |connection: &Connection| connection.keys.id);
        let guessable = self.connections.iter().map(told).any(|sent| {
            let sent = sent.as_bytes();
            sent.starts_with(name) || name.starts_with(sent)
        });
        if id.len() >= SECRET_MIN && !guessable && !self.server_ids.contains(&id) {
            if self.server_ids.len() >= CONNECTIONS {
                self.server_ids.remove(0);
            }
            self.server_ids.push(id);
            if header.kind == quic::Kind::Retry {
                self.retry = Some(id);
            }
        }
    }
}

impl Datagrams {
    /// Takes a datagram that begins with the long header `header`.
    pub(super) fn take_quic(
        &mut self,
        datagram: &Datagram<'_>,
        header: &LongHeader,
        tell: &mut Tell<'_, impl FnMut(Outcome)>,
    ) {
        let flow = datagram.flow;
        if self.quic.get(&flow).is_none()
            && let Some(known) = self.quic.get_mut(&flow.reversed())
        {
            known.note_server(header);
            return tell.ignored(Ignored::NotHello);
        }
        self.prove(&flow, header.destination, tell);
        let known = self.quic.get(&flow);
        let cut = datagram.payload_len > datagram.payload.len();
        if cut && header.kind == quic::Kind::Initial {
            let ids: SmallVec<[_; CONNECTIONS]> =
                known.iter().flat_map(|known| &known.connections).map(|connection| connection.keys.id).collect();
            for id in ids {
                self.partials.update(&Stream { flow, kind: Kind::Quic(id) }, |partial| partial.state.cut = true);
            }
            return tell.ignored(Ignored::Cut);
        }
        if !quic::has_initial(datagram.payload) {
            return tell.ignored(Known::rest(known));
        }
        if datagram.payload_len < quic::DATAGRAM_MIN {
            return tell.ignored(Ignored::ShortDatagram);
        }
        let others = known.iter().flat_map(|known| &known.connections).rev().map(|connection| connection.keys);
        match self.opener.open(datagram.payload, others) {
            Some(opened) => self.opened(datagram, &opened, tell),
            None => tell.ignored(Ignored::Undecryptable),
        }
    }

    /// The client sent a packet to `destination`.
    fn prove(&mut self, flow: &Flow, destination: ConnectionId, tell: &mut Tell<'_, impl FnMut(Outcome)>) {
        let Some(known) = self.quic.get_mut(flow) else { return };
        if !known.server_ids.contains(&destination) {
            return;
        }
        let mut last = None;
        // Whose answer it uses isn't said: it has its address in each that waits for one.
        for connection in known.connections.iter_mut().filter(|connection| !connection.proven) {
            connection.proven = true;
            let stream = Some(connection.number);
            if connection.first.is_some() && last != stream {
                last = stream;
                (tell.out)(Outcome::Proven { flow: *flow, stream, proof: Proof::QuicPath });
            }
        }
    }

    fn opened(&mut self, datagram: &Datagram<'_>, opened: &Opened, tell: &mut Tell<'_, impl FnMut(Outcome)>) {
        let flow = datagram.flow;
        let id = opened.known.id;
        let known = self.quic.get_mut(&flow);
        let rest = Known::rest(known.as_deref());
        let Some(connection) = known.and_then(|known| known.connection(id)) else {
            if opened.pieces.is_empty() && !opened.illegal {
                return tell.ignored(rest);
            }
            if id.len() < FIRST_ID_MIN && !opened.token {
                return tell.ignored(Ignored::NotQuic);
            }
            let connection = self.connect(flow, opened.known, tell);
            return self.feed(datagram, connection, opened, tell);
        };
        connection.keys = opened.known;
        let connection = *connection;
        self.feed(datagram, connection, opened, tell);
    }

    /// Remembers a new connection.
    fn connect(&mut self, flow: Flow, keys: quic::Known, tell: &mut Tell<'_, impl FnMut(Outcome)>) -> Connection {
        let next = self.begun.wrapping_add(1);
        let mut connection =
            Connection { number: next, proven: false, keys, next_at: 0, index: 0, first: None, then: Then::Open };
        if let Some(known) = self.quic.get_mut(&flow) {
            if let Some(before) = known.connections.last().filter(|_| known.server_ids.contains(&keys.id)) {
                (connection.number, connection.proven) = (before.number, before.proven);
            } else {
                // Not the one before, after a Retry packet: what proved that one's address proves nothing here, and what
                // becomes of this one is nothing to that one's hello.
                self.begun = next;
                known.server_ids.clear();
                known.retry = None;
            }
            known.connections.push(connection);
            if known.connections.len() > CONNECTIONS {
                let oldest = known.connections.remove(0);
                let stream = Stream { flow, kind: Kind::Quic(oldest.keys.id) };
                self.abandon(&stream, Cause::Replaced, tell.out);
            }
            return connection;
        }
        self.begun = next;
        let known = Known { connections: SmallVec::from_slice(&[connection]), ..Known::default() };
        if let Some((flow, known)) = self.quic.insert(flow, known) {
            for connection in known.connections {
                self.abandon(&Stream { flow, kind: Kind::Quic(connection.keys.id) }, Cause::Evicted, tell.out);
            }
        }
        connection
    }

    /// Gives what was `opened` to its connection.
    fn feed(
        &mut self,
        datagram: &Datagram<'_>,
        connection: Connection,
        opened: &Opened,
        tell: &mut Tell<'_, impl FnMut(Outcome)>,
    ) {
        let Connection { keys, next_at, index, then, .. } = connection;
        let stream = Stream { flow: datagram.flow, kind: Kind::Quic(keys.id) };
        let end = |piece: &quic::Piece| piece.offset.saturating_add(self.opener.bytes(piece).len() as u64);
        let furthest = opened.pieces.iter().map(end).max();
        let before = furthest.is_some_and(|end| end <= next_at);
        match then {
            Then::Void => return tell.ignored(Ignored::AfterLost),
            _ if before && index > 0 => return tell.ignored(Ignored::Duplicate),
            Then::Closed => return tell.ignored(Ignored::AfterHello),
            Then::Open => {}
        }
        let pieces = opened.pieces.iter().filter_map(|piece| {
            let bytes = self.opener.bytes(piece);
            // What lies before this hello was taken before.
            let known = usize::try_from(next_at.saturating_sub(piece.offset)).ok()?;
            let offset = usize::try_from(piece.offset.saturating_sub(next_at)).unwrap_or(usize::MAX);
            Some((offset, bytes.get(known..)?))
        });
        let new = Partial::new(0, datagram.at, Progress { index, ..Progress::default() });
        let (effect, partial) = put(&mut self.partials, stream, new, |partial| {
            let held = partial.state.segments > 0;
            let effect = add(partial, stream, pieces, opened.packets, &self.limits);
            let cause = match effect {
                Effect::Lost(_) | Effect::NotHello => return effect,
                _ if opened.illegal && index == 0 => Cause::Malformed,
                Effect::Waits if opened.close => Cause::Reset,
                Effect::Nothing if opened.close && held => Cause::Reset,
                _ => return effect,
            };
            if matches!(effect, Effect::Nothing) {
                partial.state.segments = partial.state.segments.saturating_add(1);
            }
            Effect::Lost(cause)
        });
        match (effect, partial) {
            (Effect::Done, Some(partial)) => self.whole(stream, &partial, tell),
            (Effect::Lost(cause), Some(partial)) => self.lose(stream, &partial, cause, tell),
            (Effect::NotHello, Some(partial)) if index > 0 => {
                self.change(&stream, |connection| connection.then = Then::Closed);
                tell.all_ignored(&partial, Ignored::AfterHello);
            }
            (Effect::NotHello, Some(partial)) => self.lose(stream, &partial, Cause::Malformed, tell),
            (Effect::Waits, _) => self.evict(Source::from(stream.flow.source.ip()), tell.out),
            _ if opened.pieces.is_empty() => tell.ignored(Known::rest(self.quic.get(&stream.flow))),
            _ => tell.ignored(Ignored::Duplicate),
        }
    }

    fn change(&mut self, stream: &Stream, change: impl FnOnce(&mut Connection)) {
        if let Kind::Quic(id) = stream.kind
            && let Some(connection) = self.quic.get_mut(&stream.flow).and_then(|known| known.connection(id))
        {
            change(connection);
        }
    }

    fn lose(
        &mut self,
        stream: Stream,
        partial: &Partial<Progress>,
        cause: Cause,
        tell: &mut Tell<'_, impl FnMut(Outcome)>,
    ) {
        self.change(&stream, |connection| connection.then = Then::Void);
        lost(stream, partial, cause, tell.out);
    }

    /// The hello of `stream` is whole.
    fn whole(&mut self, stream: Stream, partial: &Partial<Progress>, tell: &mut Tell<'_, impl FnMut(Outcome)>) {
        let message = partial.assembler.prefix();
        let length = claimed(message);
        let Parsed::Complete(hello) = stream.parse(message) else { return };
        let digest = self.hasher.hash_one(message.get(..length));
        let known = self.quic.get(&stream.flow);
        let index = partial.state.index;
        // A hello is sent again, with new keys, after a Retry packet, and must be the same one (RFC 9000 section
        // 17.2.5.3). But aioquic sends another, which counts: the server has forgotten the first, if it has read it.
        let of = known.and_then(|known| known.of(stream));
        let number = of.map_or(0, |connection| connection.number);
        let proof = of.filter(|connection| connection.proven).map(|_| Proof::QuicPath);
        let again = known.is_some_and(|known| known.told(number).any(|first| first == digest));
        let changed = known.is_some_and(|known| known.told(number).next().is_some() && known.is_servers(stream));
        let counts = known.is_some_and(|known| known.is_retried(stream));
        self.change(&stream, |connection| {
            connection.next_at = connection.next_at.saturating_add(length as u64);
            connection.index = index.saturating_add(1);
            connection.first.get_or_insert(digest);
            connection.then = if index > 0 { Then::Closed } else { Then::Open };
        });
        if again && index == 0 {
            tell.all_ignored(partial, Ignored::Duplicate);
        } else if changed && index == 0 {
            (tell.out)(Outcome::Void { flow: stream.flow, stream: number, why: Void::OverlapConflict });
            if counts {
                tell.hello((stream, number), partial, (&hello, length), proof);
            } else {
                self.lose(stream, partial, Cause::OverlapConflict, tell);
            }
        } else {
            tell.hello((stream, number), partial, (&hello, length), proof);
        }
    }
}
