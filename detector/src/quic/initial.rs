//! Takes the protection off the Initial packets of one datagram (RFC 9001 section 5).

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use rustls::Side;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{Keys, Version as KeyVersion};
use smallvec::SmallVec;

use super::frame::{Frame, frames};
use super::header::{ConnectionId, Kind, Packet, Version, packets};

/// The sample for header protection begins as if the packet number had all of its four bytes (RFC 9001 section 5.4.2).
const NUMBER_MAX: usize = 4;

/// A connection whose keys may open a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The destination connection ID of its first packet, which its Initial keys are made of.
    pub id: ConnectionId,
    /// The largest packet number received.
    pub largest: u64,
}

/// A part of the CRYPTO stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of its first byte in the stream.
    pub offset: u64,
    /// Where its bytes lie in [`Opener::bytes`].
    place: Range<usize>,
}

/// What was in the Initial packets of a datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The connection whose keys opened them; `largest` counts them in.
    pub known: Known,
    /// How many were opened.
    pub packets: u32,
    /// One of them had a token: the server's, from a Retry packet or an earlier connection (RFC 9000 section 8.1).
    pub token: bool,
    /// Their CRYPTO frames, in order.
    pub pieces: SmallVec<[Piece; 4]>,
    /// There was a CONNECTION_CLOSE frame.
    pub close: bool,
    /// There was something that the server closes the connection over.
    pub illegal: bool,
}

/// Opens datagrams, one after the other. Memory: the largest datagram, and the keys of 32 connections, some 2 KB each.
#[derive(Debug, Default)]
pub struct Opener {
    bytes: Vec<u8>,
    ring: KeyRing,
}

impl Opener {
    /// The bytes of `piece`, which came from the last datagram.
    #[must_use]
    pub fn bytes(&self, piece: &Piece) -> &[u8] {
        self.bytes.get(piece.place.clone()).unwrap_or_default()
    }

    /// Opens what can be opened of `datagram` with the keys of its own connection ID, or of one of `others`: after the
    /// server's first packet the client uses the server's ID, but keeps the keys (RFC 9001 section 5.2).
    ///
    /// `None` if no key opens any Initial packet in it.
    pub fn open(&mut self, datagram: &[u8], others: impl Iterator<Item = Known> + Clone) -> Option<Opened> {
        self.bytes.clear();
        let mut first = None;
        let mut result: Option<Opened> = None;
        for packet in packets(datagram) {
            let id = *first.get_or_insert(packet.header.destination);
            // RFC 9000 section 12.2: what follows for another connection ID is ignored.
            if packet.header.destination != id || packet.header.kind != Kind::Initial {
                continue;
            }
            let found = if let Some(opened) = &result {
                self.decrypt(&packet, opened.known)
            } else {
                // Those of its own ID last, unless it is known: an ID of the server's needs no keys to be made.
                let own = others.clone().find(|other| other.id == id);
                let others = others.clone().filter(|other| other.id != id);
                let new = own.is_none().then_some(Known { id, largest: 0 });
                own.into_iter().chain(others).chain(new).find_map(|known| self.decrypt(&packet, known))
            };
            let Some((known, payload)) = found else { continue };
            let opened = result.get_or_insert_with(Opened::default);
            opened.known = known;
            opened.packets = opened.packets.saturating_add(1);
            opened.token |= packet.token;
            self.note(payload, opened);
        }
        result
    }

    /// Opens `packet` at the end of `bytes` with the keys of `known`. What is known then, and where the payload lies, if
    /// it is a legal one.
    fn decrypt(&mut self, packet: &Packet<'_>, known: Known) -> Option<(Known, Option<Range<usize>>)> {
        let keys = self.ring.get(packet.header.version, known.id)?;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(packet.bytes);
        let opened =
            self.bytes.get_mut(start..).and_then(|bytes| unprotect(bytes, packet.number_at, keys, known.largest));
        let Some(Unprotected { number, payload, reserved }) = opened else {
            self.bytes.truncate(start);
            return None;
        };
        let place = start.saturating_add(payload.start)..start.saturating_add(payload.end);
        // RFC 9000 section 17.2: the reserved bits must be zero; and section 12.4: no packet is without frames.
        let legal = !reserved && !place.is_empty();
        Some((Known { largest: known.largest.max(number), ..known }, legal.then_some(place)))
    }

    fn note(&self, payload: Option<Range<usize>>, opened: &mut Opened) {
        let Some(payload) = payload else {
            opened.illegal = true;
            return;
        };
        for frame in frames(self.bytes.get(payload.clone()).unwrap_or_default()) {
            match frame {
                Ok(Frame::Nothing) => {}
                Ok(Frame::Close) => opened.close = true,
                Ok(Frame::Crypto(offset, place)) => {
                    let at = |end: usize| payload.start.saturating_add(end);
                    opened.pieces.push(Piece { offset, place: at(place.start)..at(place.end) });
                }
                Err(_) => opened.illegal = true,
            }
        }
    }
}

struct Unprotected {
    number: u64,
    payload: Range<usize>,
    reserved: bool,
}

/// Opens the packet `bytes` in place, its packet number at `number_at`.
fn unprotect(bytes: &mut [u8], number_at: usize, keys: &Keys, largest: u64) -> Option<Unprotected> {
    let header = keys.remote.header.as_ref();
    let sample_at = number_at.checked_add(NUMBER_MAX)?;
    let sample: SmallVec<[u8; 16]> = bytes.get(sample_at..sample_at.checked_add(header.sample_len())?)?.into();
    let (first, rest) = bytes.split_first_mut()?;
    let field = rest.get_mut(number_at.checked_sub(1)?..sample_at.checked_sub(1)?)?;
    header.decrypt_in_place(&sample, first, field).ok()?;
    let length = usize::from(*first & 3).saturating_add(1);
    let reserved = *first & 0x0c != 0;
    let truncated = field.iter().take(length).fold(0, |number, byte| number << 8 | u64::from(*byte));
    let number = packet_number(truncated, length, largest);
    let payload_at = number_at.checked_add(length)?;
    let (header, payload) = bytes.split_at_mut_checked(payload_at)?;
    let plain = keys.remote.packet.decrypt_in_place(number, header, payload).ok()?.len();
    Some(Unprotected { number, payload: payload_at..payload_at.checked_add(plain)?, reserved })
}

/// The packet number whose last `length` bytes are `truncated`: the one nearest to the next expected (RFC 9000
/// appendix A.3).
fn packet_number(truncated: u64, length: usize, largest: u64) -> u64 {
    let window = 1_u64.wrapping_shl(u32::try_from(length).unwrap_or(1).saturating_mul(8));
    let half = window / 2;
    let expected = largest.saturating_add(1);
    let candidate = (expected & !window.wrapping_sub(1)) | truncated;
    if candidate.saturating_add(half) <= expected {
        candidate.saturating_add(window)
    } else if candidate > expected.saturating_add(half) {
        candidate.checked_sub(window).unwrap_or(candidate)
    } else {
        candidate
    }
}

/// Connections whose keys are kept. Making them costs more than all else about a packet, and the datagrams of a hello,
/// and what its client sends after it, come within a few milliseconds.
const KEYS: usize = 32;

/// The keys that were made last.
#[derive(Default)]
struct KeyRing {
    keys: VecDeque<((Version, ConnectionId), Keys)>,
}

impl KeyRing {
    fn get(&mut self, version: Version, id: ConnectionId) -> Option<&Keys> {
        let name = (version, id);
        if let Some(index) = self.keys.iter().position(|(known, _)| *known == name) {
            return self.keys.get(index).map(|(_, keys)| keys);
        }
        if self.keys.len() >= KEYS {
            self.keys.pop_back();
        }
        self.keys.push_front((name, keys(version, &id)?));
        self.keys.front().map(|(_, keys)| keys)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("keys", &self.keys.len()).finish()
    }
}

/// A server's Initial keys for the client that first used `id`.
fn keys(version: Version, id: &ConnectionId) -> Option<Keys> {
    let version = match version {
        Version::Draft29 => KeyVersion::V1Draft,
        Version::V1 => KeyVersion::V1,
        Version::V2 => KeyVersion::V2,
    };
    // Initial packets always use this one (RFC 9001 section 5).
    let suite = TLS13_AES_128_GCM_SHA256.tls13()?;
    Some(Keys::initial(version, suite, suite.quic?, id.as_bytes(), Side::Server))
}

#[cfg(test)]
mod tests {
    use super::packet_number;

    #[test]
    fn packet_numbers_are_the_nearest() {
        // The example of RFC 9000 appendix A.3.
        assert_eq!(packet_number(0x9b32, 2, 0xa82f_30ea), 0xa82f_9b32);
        assert_eq!(packet_number(0, 1, 255), 256);
        assert_eq!(packet_number(255, 1, 256), 255);
        assert_eq!(packet_number(200, 1, 0), 200);
        assert_eq!(packet_number(u64::from(u32::MAX), 4, 0), u64::from(u32::MAX));
    }
}
