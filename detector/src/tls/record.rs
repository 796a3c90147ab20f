//! The record layer (RFC 8446 section 5.1): a growing stream prefix in, where the first handshake message lies in it
//! out. The message may be spread over any number of records. State: 32 bytes per stream; each byte of the stream is
//! looked at once, however small the pieces it comes in.

use tls_parser::{TlsRecordType, parse_tls_record_header};

use super::{Parsed, Reason};

const HEADER: usize = 5;
/// RFC 8446 section 5.1 allows 2^14; 256 more is what section 5.2 allows protected records, and what servers accept.
const RECORD_MAX: usize = 16_384 + 256;
/// Bytes of a message without its header. rustls, quiche and Suricata draw the line here too (threats.md T17).
const MESSAGE_MAX: usize = 65_535;
const CLIENT_HELLO: u8 = 1;
/// Type and 24-bit length (RFC 8446 section 4).
const MESSAGE_HEADER: usize = 4;

/// Finds the ClientHello in a stream.
#[derive(Clone, Copy, Debug)]
pub struct Deframer {
    /// Stream bytes behind us.
    at: usize,
    /// Payload bytes of the current record that are still ahead.
    record_left: usize,
    /// Message bytes behind us.
    message: usize,
    /// The first of them.
    head: [u8; MESSAGE_HEADER],
    records: u32,
    /// A ChangeCipherSpec record may come first.
    after_retry: bool,
}

/// Where a whole message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Stream offset of its first record.
    pub start: usize,
    /// Stream offset of the byte after it.
    pub end: usize,
    /// Its bytes, with its own header of four.
    pub message: usize,
    /// The records it is spread over.
    pub records: u32,
}

impl Deframer {
    /// For a stream that begins with a ClientHello.
    #[must_use]
    pub const fn new() -> Self {
        Self { at: 0, record_left: 0, message: 0, head: [0; MESSAGE_HEADER], records: 0, after_retry: false }
    }

    /// For what follows a first hello: after a HelloRetryRequest the client may send a ChangeCipherSpec record before
    /// its second hello (RFC 8446 appendix D.4).
    #[must_use]
    pub const fn after_retry() -> Self {
        Self { after_retry: true, ..Self::new() }
    }

    /// Whether the bytes so far show a ClientHello: the type byte was seen.
    #[must_use]
    pub const fn is_hello(&self) -> bool {
        self.message > 0
    }

    /// The least number of stream bytes that the message can end at, by what it claims so far.
    #[must_use]
    pub fn needs(&self) -> usize {
        let missing = self.claimed().map_or(0, |claimed| claimed.saturating_sub(self.message));
        self.at.saturating_add(missing)
    }

    /// Walks on as far as `stream` goes. It must begin with the bytes that it began with before.
    pub fn advance(&mut self, stream: &[u8]) -> Parsed<Extent> {
        loop {
            let rest = stream.get(self.at..).unwrap_or_default();
            if self.record_left == 0 {
                match self.header(rest) {
                    Parsed::Complete(()) => continue,
                    Parsed::Incomplete => return Parsed::Incomplete,
                    Parsed::Rejected(reason) => return Parsed::Rejected(reason),
                }
            }
            if rest.is_empty() {
                return Parsed::Incomplete;
            }
            if let Err(reason) = self.payload(rest) {
                return Parsed::Rejected(reason);
            }
            if self.claimed() == Some(self.message) {
                return Parsed::Complete(Extent {
                    start: if self.after_retry { change_cipher_spec(stream) } else { 0 },
                    end: self.at,
                    message: self.message,
                    records: self.records,
                });
            }
        }
    }

    /// The length of the message with its header, once that is known.
    fn claimed(&self) -> Option<usize> {
        let [_, high, middle, low] = self.head;
        let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?;
        (self.message >= MESSAGE_HEADER).then_some(length.saturating_add(MESSAGE_HEADER))
    }

    /// Steps over a record header. `rest` begins with it, or with a part of it: then that part is judged.
    fn header(&mut self, rest: &[u8]) -> Parsed<()> {
        let Some((kind, version)) = rest.split_first() else { return Parsed::Incomplete };
        let first = self.records == 0;
        if first && self.after_retry && self.at == 0 && *kind == TlsRecordType::ChangeCipherSpec.0 {
            return self.skip_change_cipher_spec(rest);
        }
        let unexpected = if first { Reason::NotTls } else { Reason::Malformed };
        if *kind != TlsRecordType::Handshake.0 || version.first().is_some_and(|major| *major != 3) {
            return Parsed::Rejected(unexpected);
        }
        let Ok((_, header)) = parse_tls_record_header(rest) else { return Parsed::Incomplete };
        match usize::from(header.len) {
            // "Implementations MUST NOT send zero-length fragments of Handshake types" (RFC 8446 section 5.1).
            0 => Parsed::Rejected(Reason::Malformed),
            length if length > RECORD_MAX => Parsed::Rejected(unexpected),
            length => {
                self.at = self.at.saturating_add(HEADER);
                self.record_left = length;
                self.records = self.records.saturating_add(1);
                Parsed::Complete(())
            }
        }
    }

    fn skip_change_cipher_spec(&mut self, rest: &[u8]) -> Parsed<()> {
        let length = change_cipher_spec(rest);
        if length > 0 {
            self.at = self.at.saturating_add(length);
            return Parsed::Complete(());
        }
        // A part of one, so far.
        let expected = [TlsRecordType::ChangeCipherSpec.0, 3, 3, 0, 1, 1];
        let fits = rest.len() < expected.len()
            && expected.iter().zip(rest).enumerate().all(|(index, (want, is))| {
                // The minor version says nothing.
                index == 2 || want == is
            });
        if fits { Parsed::Incomplete } else { Parsed::Rejected(Reason::NotHello) }
    }

    /// Steps over payload bytes of the current record, up to the end of the message.
    fn payload(&mut self, rest: &[u8]) -> Result<(), Reason> {
        let available = rest.len().min(self.record_left);
        let step = if let Some(claimed) = self.claimed() {
            available.min(claimed.saturating_sub(self.message))
        } else {
            let step = available.min(MESSAGE_HEADER.saturating_sub(self.message));
            for (place, byte) in self.head.iter_mut().skip(self.message).zip(rest.iter().take(step)) {
                *place = *byte;
            }
            step
        };
        self.at = self.at.saturating_add(step);
        self.message = self.message.saturating_add(step);
        self.record_left = self.record_left.saturating_sub(step);
        let [kind, ..] = self.head;
        if kind != CLIENT_HELLO {
            return Err(Reason::NotHello);
        }
        match self.claimed() {
            Some(claimed) if claimed > MESSAGE_MAX.saturating_add(MESSAGE_HEADER) => Err(Reason::Oversize),
            _ => Ok(()),
        }
    }
}

impl Default for Deframer {
    fn default() -> Self {
        Self::new()
    }
}

/// The length of the ChangeCipherSpec record that `stream` begins with, or 0.
fn change_cipher_spec(stream: &[u8]) -> usize {
    match stream {
        [20, 3, _, 0, 1, 1, ..] => 6,
        _ => 0,
    }
}

/// The message at `extent` of `stream`: a part of the stream if it lies in one record, else put together in `scratch`.
#[must_use]
pub fn message<'a>(stream: &'a [u8], extent: &Extent, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let records = stream.get(extent.start..extent.end).unwrap_or_default();
    if extent.records == 1 {
        return records.get(HEADER..).unwrap_or_default();
    }
    scratch.clear();
    let mut rest = records;
    while let Ok((payload, header)) = parse_tls_record_header(rest) {
        let length = usize::from(header.len).min(payload.len());
        let (part, next) = payload.split_at_checked(length).unwrap_or_default();
        scratch.extend_from_slice(part);
        rest = next;
    }
    scratch
}

/// How a piece of a stream begins, for flows whose first bytes were not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Like a handshake record with a ClientHello.
    Hello,
    /// Like one, but it is too short to tell.
    Perhaps,
    /// Like something else.
    Other,
}

/// How `piece` begins.
#[must_use]
pub fn start(piece: &[u8]) -> Start {
    match piece {
        [22, 3, minor, high, low, kind, rest @ ..] if *minor <= 4 => {
            let record = usize::from(u16::from_be_bytes([*high, *low]));
            // The body of a hello begins with a version of major 3; it is in this record if that is not tiny.
            let version = record < 6 || rest.get(3).is_none_or(|major| *major == 3);
            if *kind == CLIENT_HELLO && record <= RECORD_MAX && version { Start::Hello } else { Start::Other }
        }
        [] => Start::Other,
        [22] | [22, 3] => Start::Perhaps,
        [22, 3, minor, ..] if piece.len() < 6 && *minor <= 4 => Start::Perhaps,
        _ => Start::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap();
        [&[kind, 3, 1][..], &length.to_be_bytes(), payload].concat()
    }

    const HELLO: &[u8] = &[1, 0, 0, 6, 3, 3, 9, 8, 7, 6];

    /// What comes out when the stream grows byte by byte.
    fn grow(stream: &[u8], mut deframer: Deframer) -> (usize, Parsed<Extent>) {
        for length in 0..=stream.len() {
            match deframer.advance(&stream[..length]) {
                Parsed::Incomplete => {}
                end => return (length, end),
            }
        }
        (stream.len(), Parsed::Incomplete)
    }

    #[test]
    fn any_split_over_records_gives_the_message() {
        for first in 1..HELLO.len() {
            for second in first + 1..HELLO.len() {
                let parts = [&HELLO[..first], &HELLO[first..second], &HELLO[second..]];
                let stream = parts.map(|part| record(22, part)).concat();
                let (length, end) = grow(&stream, Deframer::new());
                let Parsed::Complete(extent) = end else { panic!("{end:?}") };
                assert_eq!((length, extent.end, extent.records), (stream.len(), stream.len(), 3));
                assert_eq!(Deframer::new().advance(&stream), end);
                assert_eq!(message(&stream, &extent, &mut Vec::new()), HELLO);
            }
        }
    }

    #[test]
    fn what_is_forbidden_is_rejected_at_the_first_byte_that_shows_it() {
        let half = record(22, &HELLO[..5]);
        let cases = [
            (b"GET / HTTP/1.1".to_vec(), 1, Reason::NotTls),
            (vec![0x80, 0x2e, 1, 3, 1], 1, Reason::NotTls),
            (vec![22, 2], 2, Reason::NotTls),
            (record(22, &[2, 0, 0, 6]), 6, Reason::NotHello),
            (record(22, &[]), 5, Reason::Malformed),
            ([half.clone(), record(22, &[])].concat(), 15, Reason::Malformed),
            ([half.clone(), record(21, &[1, 0])].concat(), 11, Reason::Malformed),
            (record(22, &[1, 0xff, 0xff, 0xff]), 9, Reason::Oversize),
            (record(22, &[1, 1, 0, 0]), 9, Reason::Oversize),
        ];
        for (stream, length, reason) in cases {
            assert_eq!(grow(&stream, Deframer::new()), (length, Parsed::Rejected(reason)), "{stream:?}");
        }
    }

    #[test]
    fn a_second_hello_may_follow_a_change_cipher_spec() {
        let stream = [record(20, &[1]), record(22, HELLO)].concat();
        let (_, end) = grow(&stream, Deframer::after_retry());
        let Parsed::Complete(extent) = end else { panic!("{end:?}") };
        assert_eq!(message(&stream, &extent, &mut Vec::new()), HELLO);
        assert_eq!(grow(&stream, Deframer::new()).1, Parsed::Rejected(Reason::NotTls));
        let twice = [record(20, &[1]), record(20, &[1])].concat();
        assert_eq!(grow(&twice, Deframer::after_retry()).1, Parsed::Rejected(Reason::NotTls));
    }
}
