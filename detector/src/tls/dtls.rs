//! One datagram in, the handshake fragments of its plaintext DTLS records out: DTLS 1.0 (RFC 4347), 1.2 (RFC 6347
//! sections 4.1 and 4.2.2) and 1.3 (RFC 9147 sections 4 and 5.2). Borrows everything, allocates nothing. What doesn't
//! fit is left out, as DTLS demands of receivers (RFC 6347 section 4.1.2.7).

use tls_parser::nom::IResult;
use tls_parser::nom::bytes::complete::take;
use tls_parser::nom::multi::length_data;
use tls_parser::nom::number::complete::{be_u8, be_u16, be_u24};

/// Type of a ClientHello.
pub const CLIENT_HELLO: u8 = 1;
/// Type of a ServerHello.
pub const SERVER_HELLO: u8 = 2;
/// Type of a HelloVerifyRequest.
pub const HELLO_VERIFY_REQUEST: u8 = 3;

const HANDSHAKE: u8 = 22;
/// Epoch and sequence number.
const COUNTERS: usize = 8;

/// A piece of a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Type of the message.
    pub kind: u8,
    /// Bytes of the whole message, without any header.
    pub length: u32,
    /// Number of the message in its handshake.
    pub message_seq: u16,
    /// Where the piece belongs in the message.
    pub offset: u32,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// The cookie, if this is a whole HelloVerifyRequest (RFC 6347 section 4.2.1).
    #[must_use]
    pub fn cookie(&self) -> Option<&'a [u8]> {
        let whole = usize::try_from(self.length).is_ok_and(|length| length == self.bytes.len());
        if self.kind != HELLO_VERIFY_REQUEST || !whole {
            return None;
        }
        match verify_request(self.bytes) {
            Ok((&[], cookie)) => Some(cookie),
            _ => None,
        }
    }
}

/// Whether `datagram` begins like a plaintext record: a content type, and a version of DTLS.
#[must_use]
pub const fn is_record(datagram: &[u8]) -> bool {
    matches!(datagram, [20..=26, 0xfe, 0xff | 0xfd, ..])
}

/// The payloads of the plaintext handshake records in `datagram`, up to the first thing that is no whole plaintext
/// record. Records of other types and of later epochs are stepped over.
pub fn handshake_records(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        while is_record(rest) {
            let (next, (kind, epoch, payload)) = record(rest).ok()?;
            rest = next;
            if kind == HANDSHAKE && epoch == 0 {
                return Some(payload);
            }
        }
        None
    })
}

/// The fragments in `payload`, that of one record, up to the first that contradicts itself.
pub fn fragments(payload: &[u8]) -> impl Iterator<Item = Fragment<'_>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let (next, fragment) = fragment(rest).ok()?;
        rest = next;
        let end = u64::from(fragment.offset).checked_add(u64::try_from(fragment.bytes.len()).ok()?)?;
        (end <= u64::from(fragment.length)).then_some(fragment)
    })
}

/// Content type, epoch and payload.
fn record(input: &[u8]) -> IResult<&[u8], (u8, u16, &[u8]), ()> {
    let (rest, kind) = be_u8(input)?;
    let (rest, _version) = be_u16(rest)?;
    let (_, epoch) = be_u16(rest)?;
    let (rest, _counters) = take(COUNTERS)(rest)?;
    let (rest, payload) = length_data(be_u16)(rest)?;
    Ok((rest, (kind, epoch, payload)))
}

fn fragment(input: &[u8]) -> IResult<&[u8], Fragment<'_>, ()> {
    let (rest, kind) = be_u8(input)?;
    let (rest, length) = be_u24(rest)?;
    let (rest, message_seq) = be_u16(rest)?;
    let (rest, offset) = be_u24(rest)?;
    let (rest, bytes) = length_data(be_u24)(rest)?;
    Ok((rest, Fragment { kind, length, message_seq, offset, bytes }))
}

fn verify_request(body: &[u8]) -> IResult<&[u8], &[u8], ()> {
    let (rest, _version) = be_u16(body)?;
    length_data(be_u8)(rest)
}
