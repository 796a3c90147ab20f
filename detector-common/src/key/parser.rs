//! The keys of a ClientHello, read from its TCP segments one by one (RFC 8446 sections 4.1.2 and 5.1).
//!
//! A state machine without memory of its own but [`Parser`]: it can stop after any byte, and needs none of the bytes
//! again. A token (a number, or an extension's type and length) that is cut in two is the only thing kept, with the
//! [`KEPT`] bytes before the cut. Each [`Parser::step`] reads one token, so that whoever calls it in a loop bounds the
//! work: the kernel demands such a bound.
//!
//! What comes out is what userspace finds in the same hello, or nothing: what contradicts itself where that counts is
//! [`Step::Malformed`], and a message over several records [`Step::Beyond`]; both are left to userspace. The body of
//! one extension may be anything, as there, and costs only its own value.

use super::{Keys, NO_ALPN, Seeds, Sums, alpn, extension, is_grease, newness};

/// Bytes of the window before those of the segment at hand: the last ones of the segments before it.
pub const KEPT: u32 = 16;

/// Elements of a list that one step reads, at most.
const RUN: u32 = 4;

/// TLS over TCP (rule 1).
const LETTER: u8 = b't';
const CHANGE_CIPHER_SPEC: u8 = 20;
/// Bytes of its record.
const CHANGE_CIPHER_SPEC_LEN: u8 = 6;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// RFC 8446 section 5.1 allows 2^14; 256 more is what section 5.2 allows protected records, and what userspace takes.
const RECORD_MAX: u32 = 16_384 + 256;
/// Type and 24-bit length of a message (RFC 8446 section 4).
const MESSAGE_HEADER: u32 = 4;
const VERSION: u32 = 2;
const RANDOM: u32 = 32;
/// Type and length (RFC 8446 section 4.2).
const EXTENSION_HEADER: u32 = 4;
/// RFC 8446 section 4.1.2: legacy_session_id<0..32>.
const SESSION_ID_MAX: u32 = 32;

/// The bytes at hand: [`KEPT`] ones of the segments before, then those of this one.
pub trait Window {
    /// `N` of them, the first at `at`. The parser asks for none beyond the end that it was told, and for 16 at most.
    fn bytes<const N: usize>(&self, at: u32) -> [u8; N];
}

/// What a step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To the next token.
    On,
    /// To the segment's end.
    More,
    /// To the hello's end.
    Done,
    /// To what makes it no ClientHello that userspace takes.
    Malformed,
    /// To what this parser leaves to userspace.
    Beyond,
}

/// What the next token is. The low four bits are its length in bytes.
mod token {
    /// Record header, message header and legacy_version.
    pub(super) const HEAD: u16 = 0x0b;
    /// Length of legacy_session_id.
    pub(super) const SESSION_ID: u16 = 0x11;
    /// Length of cipher_suites.
    pub(super) const CIPHERS: u16 = 0x22;
    pub(super) const CIPHER: u16 = 0x32;
    /// Length of legacy_compression_methods.
    pub(super) const COMPRESSION: u16 = 0x41;
    /// Length of the extension block.
    pub(super) const EXTENSIONS: u16 = 0x52;
    /// An extension's type and length.
    pub(super) const EXTENSION: u16 = 0x64;
    /// Length of the list in signature_algorithms.
    pub(super) const SIGNATURES: u16 = 0x72;
    pub(super) const SIGNATURE: u16 = 0x82;
    /// Length of the list in supported_versions.
    pub(super) const VERSIONS: u16 = 0x91;
    pub(super) const VERSION: u16 = 0xa2;
    /// Length of the list in application_layer_protocol_negotiation.
    pub(super) const PROTOCOLS: u16 = 0xb2;
    /// Length of a protocol's name.
    pub(super) const PROTOCOL: u16 = 0xc1;
    /// First byte of the first protocol's name.
    pub(super) const FIRST: u16 = 0xd1;
    /// Last byte of it.
    pub(super) const LAST: u16 = 0xe1;
    /// None: the hello ends here.
    pub(super) const END: u16 = 0xf0;

    pub(super) const LENGTH: u16 = 0x0f;
}

/// Of duplicates of these extensions the first counts.
const SEEN_SIGNATURES: u8 = 1;
const SEEN_VERSIONS: u8 = 2;
const SEEN_PROTOCOLS: u8 = 4;
/// A name of the list of protocols was seen.
const SEEN_NAME: u8 = 8;

/// A hello, as far as it was read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Parser {
    sums: Sums,
    /// The last bytes of the segments so far.
    kept: [u8; KEPT as usize],
    /// Where in the window the next token begins; it may be behind its end.
    at: u32,
    /// Bytes of the message after the parts whose length is known.
    message: u32,
    /// Bytes of the extension block after the current extension.
    block: u32,
    /// Bytes of the current list that are yet to be read.
    left: u32,
    /// One of [`token`].
    token: u16,
    /// legacy_version.
    legacy_version: u16,
    /// The newest of supported_versions; 0: none so far.
    version: u16,
    /// ALPN's characters.
    alpn: [u8; 2],
    /// First byte of the first protocol's name.
    first: u8,
    /// Bytes of that name.
    name: u8,
    /// `SEEN_*`.
    seen: u8,
    /// See [`Parser::start`].
    start: u8,
    reserved: [u8; 4],
}

const _: () = assert!(size_of::<Parser>() == 96);

impl Parser {
    /// Before a hello.
    #[inline(always)]
    #[must_use]
    pub const fn new(seeds: &Seeds) -> Self {
        Self {
            sums: Sums::new(seeds),
            kept: [0; KEPT as usize],
            at: KEPT,
            message: 0,
            block: 0,
            left: 0,
            token: token::HEAD,
            legacy_version: 0,
            version: 0,
            alpn: NO_ALPN,
            first: 0,
            name: 0,
            seen: 0,
            start: 0,
            reserved: [0; 4],
        }
    }

    /// What the window of the next segment must begin with.
    #[inline(always)]
    #[must_use]
    pub const fn kept(&self) -> &[u8; KEPT as usize] {
        &self.kept
    }

    /// Bytes before the hello's own record: those of a ChangeCipherSpec, if one came first.
    #[inline(always)]
    #[must_use]
    pub const fn start(&self) -> u32 {
        self.start as u32
    }

    /// The window of the next segment begins with `bytes` that were read before.
    #[inline(always)]
    pub const fn skip(&mut self, bytes: u32) {
        self.at += bytes;
    }

    /// Reads the next token of the window, which ends before `end`; of a list, some elements.
    #[inline(always)]
    pub fn step(&mut self, window: &impl Window, end: u32, seeds: &Seeds) -> Step {
        let at = self.at;
        let after = at + (self.token & token::LENGTH) as u32;
        if after > end {
            // What is there of the token is among the bytes that are kept: tokens are shorter.
            self.kept = window.bytes(end - KEPT);
            self.at = at + KEPT - end;
            return Step::More;
        }
        self.at = after;
        match self.token {
            token::CIPHER => self.codes(window, end, |parser, code| parser.sums.cipher(seeds, code)),
            token::SIGNATURE => self.codes(window, end, |parser, code| parser.sums.signature(code)),
            token::VERSION => self.codes(window, end, Self::version),
            token::EXTENSION => return self.extension(window, at, end, seeds),
            token::HEAD => return self.head(window.bytes(at)),
            token::SESSION_ID => return self.session_id(byte(window, at)),
            token::CIPHERS => return self.ciphers(pair(window, at)),
            token::COMPRESSION => return self.compression(byte(window, at)),
            token::EXTENSIONS => return self.extensions(pair(window, at)),
            token::SIGNATURES => self.list(pair(window, at), 1, token::SIGNATURE),
            token::VERSIONS => self.list(byte(window, at), 1, token::VERSION),
            token::PROTOCOLS => self.list(pair(window, at), 0, token::PROTOCOL),
            token::PROTOCOL => self.protocol(byte(window, at)),
            token::FIRST => self.first(byte(window, at) as u8),
            token::LAST => self.last(byte(window, at) as u8),
            _ => return Step::Done,
        }
        Step::On
    }

    /// The keys, after [`Step::Done`].
    #[inline(always)]
    #[must_use]
    pub const fn keys(&self, seeds: &Seeds) -> Keys {
        // Rule 2: with supported_versions, whatever is in it, legacy_version doesn't count.
        let version = if self.seen & SEEN_VERSIONS != 0 { self.version } else { self.legacy_version };
        self.sums.keys(seeds, LETTER, version, self.alpn)
    }

    /// Takes `length` bytes off those of the message, if it has so many.
    #[inline(always)]
    const fn claim(&mut self, length: u32) -> bool {
        if length > self.message {
            return false;
        }
        self.message -= length;
        true
    }

    #[inline(always)]
    fn head(&mut self, bytes: [u8; 11]) -> Step {
        let [kind, major, _, r0, r1, message, m0, m1, m2, v0, v1] = bytes;
        let record = u16::from_be_bytes([r0, r1]) as u32;
        let length = u32::from_be_bytes([0, m0, m1, m2]);
        // Before its second hello a client may send this one (RFC 8446 appendix D.4): the byte after its header is 1.
        if kind == CHANGE_CIPHER_SPEC && major == 3 && record == 1 && message == 1 && self.start == 0 {
            self.start = CHANGE_CIPHER_SPEC_LEN;
            self.at -= (token::HEAD & token::LENGTH) as u32 - CHANGE_CIPHER_SPEC_LEN as u32;
            return Step::On;
        }
        if kind != HANDSHAKE || major != 3 || record > RECORD_MAX || message != CLIENT_HELLO {
            return Step::Malformed;
        }
        if length + MESSAGE_HEADER > record {
            return Step::Beyond;
        }
        self.message = length;
        if !self.claim(VERSION + RANDOM + 1) {
            return Step::Malformed;
        }
        self.legacy_version = u16::from_be_bytes([v0, v1]);
        self.at += RANDOM;
        self.token = token::SESSION_ID;
        Step::On
    }

    #[inline(always)]
    fn session_id(&mut self, length: u32) -> Step {
        if length > SESSION_ID_MAX || !self.claim(length + 2) {
            return Step::Malformed;
        }
        self.at += length;
        self.token = token::CIPHERS;
        Step::On
    }

    #[inline(always)]
    fn ciphers(&mut self, length: u32) -> Step {
        if length & 1 != 0 || !self.claim(length + 1) {
            return Step::Malformed;
        }
        self.left = length;
        self.token = if length == 0 { token::COMPRESSION } else { token::CIPHER };
        Step::On
    }

    #[inline(always)]
    fn compression(&mut self, length: u32) -> Step {
        if !self.claim(length) {
            return Step::Malformed;
        }
        self.at += length;
        // Before TLS 1.3 a hello may end here (RFC 5246 section 7.4.1.2).
        self.token = if self.message == 0 { token::END } else { token::EXTENSIONS };
        Step::On
    }

    #[inline(always)]
    fn extensions(&mut self, length: u32) -> Step {
        if length + 2 != self.message {
            return Step::Malformed;
        }
        self.block = length;
        self.next_extension();
        Step::On
    }

    #[inline(always)]
    fn next_extension(&mut self) {
        self.token = if self.block == 0 { token::END } else { token::EXTENSION };
    }

    /// Extensions, the first one at `at`, up to one whose body is to be read.
    #[inline(always)]
    fn extension(&mut self, window: &impl Window, mut at: u32, end: u32, seeds: &Seeds) -> Step {
        let (mut block, mut sums) = (self.block, self.sums);
        let mut step = Step::On;
        for _ in 0..RUN {
            if at + EXTENSION_HEADER > end {
                break;
            }
            let [c0, c1, l0, l1] = window.bytes(at);
            let (code, length) = (u16::from_be_bytes([c0, c1]), (l0 as u32) << 8 | l1 as u32);
            if length + EXTENSION_HEADER > block {
                step = Step::Malformed;
                break;
            }
            at += EXTENSION_HEADER;
            block -= length + EXTENSION_HEADER;
            sums.extension(seeds, code);
            let list = self.wanted(code);
            let prefix = (list & token::LENGTH) as u32;
            if list != token::END && length >= prefix {
                self.left = length - prefix;
                self.token = list;
                break;
            }
            at += length;
            if block == 0 {
                self.token = token::END;
                break;
            }
        }
        (self.at, self.block, self.sums) = (at, block, sums);
        step
    }

    /// What the body of an extension begins with, if it is one to be read.
    #[inline(always)]
    fn wanted(&mut self, code: u16) -> u16 {
        let (list, seen) = match code {
            extension::SIGNATURE_ALGORITHMS => (token::SIGNATURES, SEEN_SIGNATURES),
            extension::ALPN => (token::PROTOCOLS, SEEN_PROTOCOLS),
            extension::SUPPORTED_VERSIONS => (token::VERSIONS, SEEN_VERSIONS),
            _ => return token::END,
        };
        let before = self.seen;
        self.seen |= seen;
        if before & seen == 0 { list } else { token::END }
    }

    /// A list that must fill its extension, of elements that `token` begins; a length with one of the bits of `odd`
    /// contradicts itself.
    #[inline(always)]
    fn list(&mut self, length: u32, odd: u32, token: u16) {
        if length != self.left || length & odd != 0 || length == 0 {
            self.end_list();
        } else {
            self.token = token;
        }
    }

    /// Passes over what is left of the current list.
    #[inline(always)]
    fn end_list(&mut self) {
        self.at += self.left;
        self.next_extension();
    }

    /// Two-byte codes of a list, as many as are here, the first one before `self.at`.
    #[inline(always)]
    fn codes(&mut self, window: &impl Window, end: u32, mut each: impl FnMut(&mut Self, u16)) {
        let (first, here) = (self.at - 2, (end - self.at + 2) / 2);
        let count = self.left / 2;
        let count = if count < here { count } else { here };
        let count = if count < RUN { count } else { RUN };
        self.at = first + 2 * count;
        self.left -= 2 * count;
        for place in 0..RUN {
            if place == count {
                break;
            }
            each(self, pair(window, first + 2 * place) as u16);
        }
        if self.left == 0 {
            if self.token == token::CIPHER {
                self.token = token::COMPRESSION;
            } else {
                self.next_extension();
            }
        }
    }

    #[inline(always)]
    fn version(&mut self, code: u16) {
        if !is_grease(code) && newness(code) > newness(self.version) {
            self.version = code;
        }
    }

    #[inline(always)]
    fn protocol(&mut self, length: u32) {
        self.left -= 1;
        if length > self.left {
            // The list contradicts itself, and none of it counts.
            self.alpn = NO_ALPN;
            return self.end_list();
        }
        self.left -= length;
        let first = self.seen & SEEN_NAME == 0;
        self.seen |= SEEN_NAME;
        if first && length > 0 {
            self.name = length as u8;
            self.token = token::FIRST;
        } else {
            self.at += length;
            self.next_protocol();
        }
    }

    #[inline(always)]
    fn next_protocol(&mut self) {
        if self.left == 0 {
            self.next_extension();
        } else {
            self.token = token::PROTOCOL;
        }
    }

    #[inline(always)]
    fn first(&mut self, byte: u8) {
        if self.name == 1 {
            self.alpn = alpn(byte, byte);
            self.next_protocol();
        } else {
            self.first = byte;
            self.at += self.name as u32 - 2;
            self.token = token::LAST;
        }
    }

    #[inline(always)]
    fn last(&mut self, byte: u8) {
        self.alpn = alpn(self.first, byte);
        self.next_protocol();
    }
}

#[inline(always)]
fn byte(window: &impl Window, at: u32) -> u32 {
    let [byte] = window.bytes(at);
    byte as u32
}

#[inline(always)]
fn pair(window: &impl Window, at: u32) -> u32 {
    u16::from_be_bytes(window.bytes(at)) as u32
}
