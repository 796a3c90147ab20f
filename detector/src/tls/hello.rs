//! One ClientHello message in (RFC 8446 section 4.1.2), a view of its fields out. Borrows everything, allocates
//! nothing. The lists that hold the message together must add up to its last byte; the body of a single extension may
//! be anything, and a bad one costs only its own value (ja4-rules.md rule 12).

use tls_parser::nom::IResult;
use tls_parser::nom::bytes::complete::take;
use tls_parser::nom::multi::length_data;
use tls_parser::nom::number::complete::{be_u8, be_u16, be_u24};

use super::{Parsed, Reason};

/// Extension numbers (IANA registry "TLS ExtensionType Values").
pub mod extension {
    pub use detector_common::key::extension::*;

    /// supported_groups (RFC 8422, RFC 7919).
    pub const SUPPORTED_GROUPS: u16 = 0x000a;
    /// ec_point_formats (RFC 8422).
    pub const EC_POINT_FORMATS: u16 = 0x000b;
}

/// A list of two-byte codes, big-endian, as it stands in the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codes<'a>(&'a [[u8; 2]]);

impl<'a> Codes<'a> {
    /// `None` if the length is odd.
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let (codes, rest) = bytes.as_chunks();
        rest.is_empty().then_some(Self(codes))
    }

    /// How many, GREASE included.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// In wire order, GREASE included.
    pub fn iter(self) -> impl Iterator<Item = u16> + 'a {
        self.0.iter().map(|code| u16::from_be_bytes(*code))
    }
}

/// One extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Its number.
    pub code: u16,
    /// Its body.
    pub body: &'a [u8],
}

/// The extension block. Its lengths add up: that was tested when the message was parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a>(pub(super) &'a [u8]);

impl<'a> Extensions<'a> {
    /// In wire order, GREASE included.
    pub fn iter(self) -> impl Iterator<Item = Extension<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (next, extension) = extension(rest)?;
            rest = next;
            Some(extension)
        })
    }
}

/// The fields of a ClientHello, by the names of RFC 8446.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// legacy_version.
    pub legacy_version: u16,
    /// legacy_session_id.
    pub session_id: &'a [u8],
    /// cookie, which DTLS has after the session ID (RFC 6347 section 4.2.1); empty for any other.
    pub cookie: &'a [u8],
    /// cipher_suites.
    pub cipher_suites: Codes<'a>,
    /// The whole extension block.
    pub extensions: Extensions<'a>,
    /// Whether a server_name extension is there, whatever is in it.
    pub has_server_name: bool,
    /// Whether a supported_versions extension is there, whatever is in it.
    pub has_supported_versions: bool,
    /// The first host_name of server_name.
    pub server_name: Option<&'a [u8]>,
    /// supported_versions.
    pub supported_versions: Codes<'a>,
    /// supported_groups.
    pub supported_groups: Codes<'a>,
    /// ec_point_formats.
    pub ec_point_formats: &'a [u8],
    /// signature_algorithms.
    pub signature_algorithms: Codes<'a>,
    /// The names in application_layer_protocol_negotiation, each after its length byte.
    pub alpn: Protocols<'a>,
    /// The body of an extension that is read here contradicts itself; its value is absent.
    pub malformed_extension: bool,
}

/// A list of protocol names (RFC 7301 section 3.1). Its lengths add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocols<'a>(&'a [u8]);

impl<'a> Protocols<'a> {
    fn new(list: &'a [u8]) -> Option<Self> {
        let mut rest = list;
        while !rest.is_empty() {
            rest = vector8(rest).ok()?.0;
        }
        Some(Self(list))
    }

    /// In wire order.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (next, name) = vector8(rest).ok()?;
            rest = next;
            Some(name)
        })
    }
}

/// Parses `message`, which begins with its type and length and ends where that length says.
#[must_use]
pub fn parse(message: &[u8]) -> Parsed<ClientHello<'_>> {
    message_of(message, no_cookie)
}

/// Parses a DTLS ClientHello (RFC 6347 section 4.2.1, RFC 9147 section 5.3), put together from its fragments: in front
/// of it stand, as in TLS, only its type and length.
#[must_use]
pub fn parse_dtls(message: &[u8]) -> Parsed<ClientHello<'_>> {
    message_of(message, vector8)
}

/// The cookie of a hello outside DTLS.
fn no_cookie(input: &[u8]) -> Bytes<'_> {
    Ok((input, &[]))
}

fn message_of(message: &[u8], cookie: fn(&[u8]) -> Bytes<'_>) -> Parsed<ClientHello<'_>> {
    let Ok((rest, kind)) = be_u8::<_, ()>(message) else { return Parsed::Incomplete };
    if kind != 1 {
        return Parsed::Rejected(Reason::NotHello);
    }
    let Ok((rest, length)) = be_u24::<_, ()>(rest) else { return Parsed::Incomplete };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > usize::from(u16::MAX) {
        return Parsed::Rejected(Reason::Oversize);
    }
    let Some(body) = rest.get(..length) else { return Parsed::Incomplete };
    match fields(body, cookie) {
        Ok((&[], hello)) => Parsed::Complete(hello),
        _ => Parsed::Rejected(Reason::Malformed),
    }
}

pub(super) type Bytes<'a> = IResult<&'a [u8], &'a [u8], ()>;

#[inline]
pub(super) fn vector8(input: &[u8]) -> Bytes<'_> {
    length_data(be_u8)(input)
}

#[inline]
pub(super) fn vector16(input: &[u8]) -> Bytes<'_> {
    length_data(be_u16)(input)
}

fn fields(body: &[u8], cookie: fn(&[u8]) -> Bytes<'_>) -> IResult<&[u8], ClientHello<'_>, ()> {
    const FAILURE: tls_parser::nom::Err<()> = tls_parser::nom::Err::Error(());
    let (rest, legacy_version) = be_u16(body)?;
    let (rest, _random) = take(32usize)(rest)?;
    let (rest, session_id) = vector8(rest)?;
    let (rest, cookie) = cookie(rest)?;
    let (rest, ciphers) = vector16(rest)?;
    let (rest, _compression_methods) = vector8(rest)?;
    let cipher_suites = Codes::new(ciphers).ok_or(FAILURE)?;
    // RFC 8446 section 4.1.2: legacy_session_id<0..32>.
    if session_id.len() > 32 {
        return Err(FAILURE);
    }
    let mut hello = ClientHello { legacy_version, session_id, cookie, cipher_suites, ..ClientHello::default() };
    // Before TLS 1.3 a hello may end here (RFC 5246 section 7.4.1.2).
    if rest.is_empty() {
        return Ok((rest, hello));
    }
    let (rest, block) = vector16(rest)?;
    hello.extensions = Extensions(block);
    let mut seen = 0;
    let mut left = block;
    while !left.is_empty() {
        let (next, extension) = extension(left).ok_or(FAILURE)?;
        left = next;
        hello.note(extension, &mut seen);
    }
    Ok((rest, hello))
}

#[inline]
pub(super) fn extension(block: &[u8]) -> Option<(&[u8], Extension<'_>)> {
    // As tls-parser's `parse_tls_extension_unknown`, whose result has heap parts that cost a destructor each time.
    let ([a, b, high, low], rest) = block.split_first_chunk()?;
    let (body, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
    Some((rest, Extension { code: u16::from_be_bytes([*a, *b]), body }))
}

impl<'a> ClientHello<'a> {
    /// Reads the value of `extension` if it is one of those needed. Of duplicates the first counts, as `seen` tells.
    fn note(&mut self, extension: Extension<'a>, seen: &mut u32) {
        use extension::{
            ALPN, EC_POINT_FORMATS, SERVER_NAME, SIGNATURE_ALGORITHMS, SUPPORTED_GROUPS, SUPPORTED_VERSIONS,
        };
        let Extension { code, body } = extension;
        if code > SUPPORTED_VERSIONS {
            return;
        }
        let bit = 1_u32.checked_shl(u32::from(code)).unwrap_or(0);
        // Bits 0 to 31 are their own; 0x2b is the only larger one and takes that of 1, which isn't read.
        let bit = if code == SUPPORTED_VERSIONS { 2 } else { bit };
        let good = match code {
            SERVER_NAME | SUPPORTED_GROUPS | EC_POINT_FORMATS | SIGNATURE_ALGORITHMS | ALPN | SUPPORTED_VERSIONS
                if *seen & bit != 0 =>
            {
                return;
            }
            SERVER_NAME => {
                self.has_server_name = true;
                set(&mut self.server_name, server_name(body).map(Some))
            }
            SUPPORTED_GROUPS => set(&mut self.supported_groups, codes16(body)),
            EC_POINT_FORMATS => set(&mut self.ec_point_formats, whole(vector8(body))),
            SIGNATURE_ALGORITHMS => set(&mut self.signature_algorithms, codes16(body)),
            ALPN => set(&mut self.alpn, whole(vector16(body)).and_then(Protocols::new)),
            SUPPORTED_VERSIONS => {
                self.has_supported_versions = true;
                set(&mut self.supported_versions, whole(vector8(body)).and_then(Codes::new))
            }
            _ => return,
        };
        *seen |= bit;
        self.malformed_extension |= !good;
    }
}

fn set<T>(place: &mut T, value: Option<T>) -> bool {
    match value {
        Some(value) => {
            *place = value;
            true
        }
        None => false,
    }
}

/// A vector that fills its extension.
fn whole<'a>(parsed: Bytes<'a>) -> Option<&'a [u8]> {
    match parsed {
        Ok((&[], value)) => Some(value),
        _ => None,
    }
}

fn codes16(body: &[u8]) -> Option<Codes<'_>> {
    whole(vector16(body)).and_then(Codes::new)
}

/// RFC 6066 section 3: a list of (type, name); type 0 is host_name, the only one ever defined.
fn server_name(body: &[u8]) -> Option<&[u8]> {
    let list = whole(vector16(body))?;
    let (name, kind) = be_u8::<_, ()>(list).ok()?;
    let (_, name) = vector16(name).ok()?;
    (kind == 0).then_some(name)
}
