//! The beginning of what a server sends in, its ServerHello out (RFC 8446 section 4.1.3, RFC 5246 section 7.4.1.3).
//! Borrows everything, allocates nothing but for a message spread over records.

use tls_parser::TlsRecordType;
use tls_parser::nom::IResult;
use tls_parser::nom::bytes::complete::take;
use tls_parser::nom::multi::length_data;
use tls_parser::nom::number::complete::{be_u8, be_u16, be_u24};

use super::hello::{Extensions, extension, vector8, vector16};
use super::{Parsed, Reason};

const SERVER_HELLO: u8 = 2;

/// The random of a HelloRetryRequest: SHA-256 of that word (RFC 8446 section 4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// The fields of a ServerHello, by the names of RFC 8446.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerHello<'a> {
    /// legacy_version.
    pub legacy_version: u16,
    /// It is a HelloRetryRequest.
    pub retry: bool,
    /// legacy_session_id_echo.
    pub session_id: &'a [u8],
    /// cipher_suite.
    pub cipher_suite: u16,
    /// The whole extension block.
    pub extensions: Extensions<'a>,
    /// The version in supported_versions, if that extension is there and holds one.
    pub selected_version: Option<u16>,
}

impl ServerHello<'_> {
    /// The version that was chosen.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.selected_version.unwrap_or(self.legacy_version)
    }
}

/// The first handshake message of `stream`, which begins with a TLS record, if that message is whole. The message is
/// put together in `scratch` if it is spread over records.
#[must_use]
pub fn first_message<'a>(stream: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let (mut rest, first) = fragment(stream).ok()?;
    if let Some(message) = whole(first) {
        return Some(message);
    }
    scratch.clear();
    scratch.extend_from_slice(first);
    while whole(scratch).is_none() {
        let (next, more) = fragment(rest).ok()?;
        scratch.extend_from_slice(more);
        rest = next;
    }
    whole(scratch)
}

/// The message that `bytes` begin with, header included, if all of it is there.
fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let [_, high, middle, low] = *bytes.first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?;
    bytes.get(..length.checked_add(4)?)
}

/// What one handshake record holds of its fragment; not empty (RFC 8446 section 5.1).
fn fragment(stream: &[u8]) -> IResult<&[u8], &[u8], ()> {
    const FAILURE: tls_parser::nom::Err<()> = tls_parser::nom::Err::Error(());
    let (rest, kind) = be_u8(stream)?;
    let (rest, version) = be_u16(rest)?;
    let (rest, length) = be_u16(rest)?;
    if kind != TlsRecordType::Handshake.0 || version >> 8 != 3 || length == 0 || rest.is_empty() {
        return Err(FAILURE);
    }
    // The record may go on in the next segment.
    take(usize::from(length).min(rest.len()))(rest)
}

/// Parses `message`, which begins with its type and length and ends where that length says.
#[must_use]
pub fn parse(message: &[u8]) -> Parsed<ServerHello<'_>> {
    let Ok((rest, kind)) = be_u8::<_, ()>(message) else { return Parsed::Incomplete };
    if kind != SERVER_HELLO {
        return Parsed::Rejected(Reason::NotHello);
    }
    let Ok((_, body)) = length_data::<_, _, (), _>(be_u24)(rest) else { return Parsed::Incomplete };
    match fields(body) {
        Ok((&[], hello)) => Parsed::Complete(hello),
        _ => Parsed::Rejected(Reason::Malformed),
    }
}

fn fields(body: &[u8]) -> IResult<&[u8], ServerHello<'_>, ()> {
    const FAILURE: tls_parser::nom::Err<()> = tls_parser::nom::Err::Error(());
    let (rest, legacy_version) = be_u16(body)?;
    let (rest, random) = take(32usize)(rest)?;
    let (rest, session_id) = vector8(rest)?;
    let (rest, cipher_suite) = be_u16(rest)?;
    let (rest, _compression_method) = be_u8(rest)?;
    if session_id.len() > 32 {
        return Err(FAILURE);
    }
    let retry = random == RETRY_RANDOM;
    let extensions = Extensions::default();
    let mut hello = ServerHello { legacy_version, retry, session_id, cipher_suite, extensions, selected_version: None };
    // Before TLS 1.3 it may end here (RFC 5246 section 7.4.1.3).
    if rest.is_empty() {
        return Ok((rest, hello));
    }
    let (rest, block) = vector16(rest)?;
    hello.extensions = Extensions(block);
    let mut left = block;
    while !left.is_empty() {
        let (next, extension) = extension(left).ok_or(FAILURE)?;
        left = next;
        if extension.code == extension::SUPPORTED_VERSIONS {
            hello.selected_version = extension.body.try_into().ok().map(u16::from_be_bytes);
        }
    }
    Ok((rest, hello))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(random: [u8; 32], extensions: &[u8]) -> Vec<u8> {
        let body = [&[3, 3][..], &random, &[2, 8, 9], &[0x13, 1, 0], extensions].concat();
        [&[2, 0, 0, u8::try_from(body.len()).unwrap()], &body[..]].concat()
    }

    fn record(payload: &[u8]) -> Vec<u8> {
        [&[22, 3, 3, 0, u8::try_from(payload.len()).unwrap()], payload].concat()
    }

    /// Draft versions and lengths that are none are no version.
    #[test]
    fn every_field_is_read() {
        let message = message([5; 32], &[0, 10, 0, 43, 0, 2, 3, 4, 0x0a, 0x0a, 0, 0]);
        let Parsed::Complete(hello) = parse(&message) else { panic!("{:?}", parse(&message)) };
        assert_eq!((hello.legacy_version, hello.version(), hello.cipher_suite), (0x0303, 0x0304, 0x1301));
        assert_eq!((hello.session_id, hello.retry), (&[8, 9][..], false));
        assert_eq!(hello.extensions.iter().map(|extension| extension.code).collect::<Vec<_>>(), [43, 0x0a0a]);

        let old = self::message([5; 32], &[]);
        let Parsed::Complete(hello) = parse(&old) else { panic!("{:?}", parse(&old)) };
        assert_eq!(hello.version(), 0x0303);
        let retry = self::message(RETRY_RANDOM, &[]);
        assert!(matches!(parse(&retry), Parsed::Complete(hello) if hello.retry));
    }

    #[test]
    fn what_is_no_server_hello_is_refused() {
        let message = message([5; 32], &[0, 6, 0, 43, 0, 2, 3, 4]);
        for length in 0..message.len() {
            assert_eq!(parse(&message[..length]), Parsed::Incomplete);
        }
        assert_eq!(parse(&[1, 0, 0, 0]), Parsed::Rejected(Reason::NotHello));
        // Each length one too large or too small: the extension block, an extension.
        for (at, value) in [(45, 5), (45, 7), (49, 1), (49, 3)] {
            let mut bad = message.clone();
            bad[at] = value;
            assert_eq!(parse(&bad), Parsed::Rejected(Reason::Malformed), "{at}");
        }
        assert_eq!(parse(&[2, 0, 0, 2, 3, 3]), Parsed::Rejected(Reason::Malformed));
    }

    #[test]
    fn any_split_over_records_gives_the_message() {
        let message = message([5; 32], &[]);
        let tail = [22, 3, 3, 0, 4, 11, 0, 0, 0];
        for cut in 1..message.len() {
            let stream = [record(&message[..cut]), record(&message[cut..]), tail.to_vec()].concat();
            assert_eq!(first_message(&stream, &mut Vec::new()), Some(&message[..]));
            let short = &stream[..message.len() + 10 - 1];
            assert_eq!(first_message(short, &mut Vec::new()), None);
        }
        // Several messages in one record, which the segment cuts.
        let stream = record(&[&message[..], &tail].concat());
        assert_eq!(first_message(&stream[..stream.len() - 3], &mut Vec::new()), Some(&message[..]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_their_bounds(
            mut stream in prop::collection::vec(any::<u8>(), 0..200),
            version in 2u8..5,
        ) {
            for (byte, fixed) in stream.iter_mut().zip([22, version, 3, 0]) {
                *byte = fixed;
            }
            let mut scratch = Vec::new();
            if let Some(message) = first_message(&stream, &mut scratch) {
                prop_assert_ne!(parse(message), Parsed::Incomplete);
            }
            let _ = parse(&stream);
        }
    }
}
