//! JA4 in its four forms and `ja4_stable`, by the rules of `ja4-rules.md`. JA4 (TLS client) is by FoxIO, BSD-3-Clause.
//! Computed on the stack; hellos with more than 128 codes of a kind use the heap, bounded by the hello's size.

use std::fmt;
use std::str::FromStr;

use detector_common::key::{COUNT_MAX, NO_ALPN, is_named_in_head, is_unstable, newness};
use sha2::{Digest, Sha256};

use super::digits::{List, Text, hex, hex_list, list, sorted, string};
use crate::tls::grease::is_grease;
use crate::tls::hello::ClientHello;

/// Bytes of a JA4 value.
pub const LENGTH: usize = 36;

/// Bytes before its first underscore.
pub(super) const HEAD: usize = 10;

/// A JA4 value: `t13d1516h2_8daaf6152771_d8a2da3f94cd`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ja4([u8; LENGTH]);

impl Ja4 {
    /// Its 36 ASCII bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The type holds nothing but ASCII: both ways to make one see to that.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Ja4 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Ja4 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is no JA4 value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JA4 value: expected 36 characters like `t13d1516h2_8daaf6152771_d8a2da3f94cd`")]
pub struct NotJa4 {
    /// The first byte that breaks the grammar; the text's end if it is too short.
    pub at: usize,
}

impl FromStr for Ja4 {
    type Err = NotJa4;

    fn from_str(text: &str) -> Result<Self, NotJa4> {
        let fits = |place: usize, byte: u8| match place {
            0 => matches!(byte, b't' | b'q' | b'd'),
            1 | 2 => byte.is_ascii_digit() || byte.is_ascii_lowercase(),
            3 => matches!(byte, b'd' | b'i'),
            4..=7 => byte.is_ascii_digit(),
            8 | 9 => byte.is_ascii_alphanumeric(),
            10 | 23 => byte == b'_',
            11..LENGTH => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            _ => false,
        };
        if let Some(at) = text.bytes().enumerate().position(|(place, byte)| !fits(place, byte)) {
            return Err(NotJa4 { at });
        }
        text.as_bytes().try_into().map(Self).map_err(|_| NotJa4 { at: text.len() })
    }
}

/// How the hello was carried (rule 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TLS over TCP.
    #[default]
    Tcp,
    /// QUIC.
    Quic,
    /// DTLS.
    Dtls,
}

impl Transport {
    /// JA4's letter.
    #[must_use]
    pub const fn letter(self) -> u8 {
        match self {
            Self::Tcp => b't',
            Self::Quic => b'q',
            Self::Dtls => b'd',
        }
    }

    /// The word for it in reports.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Dtls => "dtls",
        }
    }
}

/// Which of the forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `ja4`, `ja4_r`: sorted, without server_name and ALPN.
    Sorted,
    /// `ja4_o`, `ja4_ro`: as sent.
    Wire,
    /// `ja4_stable`: sorted, and as if the extensions of resumption had never been there (rule 17).
    Stable,
}

/// The lists of one hello without their GREASE (rule 3).
#[derive(Debug)]
pub struct Parts {
    transport: Transport,
    version: u16,
    has_server_name: bool,
    alpn: [u8; 2],
    pub(super) ciphers: List,
    pub(super) extensions: List,
    /// In ascending order.
    pub(super) sorted_extensions: List,
    signature_algorithms: List,
}

impl Parts {
    /// Takes `hello` apart.
    #[must_use]
    pub fn new(hello: &ClientHello<'_>, transport: Transport) -> Self {
        let extensions = hello.extensions.iter().map(|extension| extension.code);
        let extensions = list(extensions.filter(|code| !is_grease(*code)));
        Self {
            transport,
            version: version(hello),
            has_server_name: hello.has_server_name,
            alpn: alpn(hello),
            ciphers: list(hello.cipher_suites.iter().filter(|code| !is_grease(*code))),
            sorted_extensions: sorted(&extensions),
            extensions,
            signature_algorithms: list(hello.signature_algorithms.iter().filter(|code| !is_grease(*code))),
        }
    }

    /// Whether an extension is there twice.
    #[must_use]
    pub fn duplicate_extension(&self) -> bool {
        self.sorted_extensions.array_windows().any(|[a, b]| a == b)
    }

    /// The hashed form.
    #[must_use]
    pub fn ja4(&self, order: Order) -> Ja4 {
        self.text(order).ja4()
    }

    /// The raw form.
    #[must_use]
    pub fn raw(&self, order: Order) -> String {
        string(&self.text(order).text)
    }

    /// The hashed and the raw form.
    pub(super) fn both(&self, order: Order) -> (Ja4, String) {
        let raw = self.text(order);
        (raw.ja4(), string(&raw.text))
    }

    fn text(&self, order: Order) -> Raw {
        let mut text = Text::from_slice(&self.head(order));
        text.push(b'_');
        self.cipher_text(order, &mut text);
        let ciphers_end = text.len();
        text.push(b'_');
        self.extension_text(order, &mut text);
        Raw { text, ciphers_end }
    }

    /// The first characters.
    fn head(&self, order: Order) -> [u8; HEAD] {
        let [v0, v1] = *version_name(self.version);
        let sni = if self.has_server_name { b'd' } else { b'i' };
        let extensions = match order {
            Order::Sorted | Order::Wire => self.extensions.len(),
            Order::Stable => self.extensions.iter().filter(|code| !is_unstable(**code)).count(),
        };
        let [c0, c1] = count(self.ciphers.len());
        let [e0, e1] = count(extensions);
        let [a0, a1] = self.alpn;
        [self.transport.letter(), v0, v1, sni, c0, c1, e0, e1, a0, a1]
    }

    fn cipher_text(&self, order: Order, text: &mut Text) {
        if order == Order::Wire {
            hex_list(text, self.ciphers.iter().copied());
        } else {
            hex_list(text, sorted(&self.ciphers).iter().copied());
        }
    }

    fn extension_text(&self, order: Order, text: &mut Text) {
        if order == Order::Wire {
            hex_list(text, self.extensions.iter().copied());
        } else {
            let stable = order == Order::Stable;
            let hashed = |code: &u16| !(is_named_in_head(*code) || stable && is_unstable(*code));
            hex_list(text, self.sorted_extensions.iter().copied().filter(hashed));
        }
        // Rule 9: none, no underscore.
        if !self.signature_algorithms.is_empty() {
            text.push(b'_');
            hex_list(text, self.signature_algorithms.iter().copied());
        }
    }
}

/// The raw form in the making.
pub(super) struct Raw {
    pub(super) text: Text,
    /// The second underscore's place.
    pub(super) ciphers_end: usize,
}

impl Raw {
    /// Its parts, the latter two without the underscore before them, hashed.
    pub(super) fn ja4(&self) -> Ja4 {
        let part = |range| self.text.get(range).unwrap_or_default();
        let (b, c) = (part(HEAD..self.ciphers_end), part(self.ciphers_end..self.text.len()));
        let (b, c) = (hash(b.get(1..).unwrap_or_default()), hash(c.get(1..).unwrap_or_default()));
        let mut value = [b'_'; LENGTH];
        for (at, part) in [(0, part(0..HEAD)), (11, &b), (24, &c)] {
            for (place, byte) in value.iter_mut().skip(at).zip(part) {
                *place = *byte;
            }
        }
        Ja4(value)
    }
}

/// The first twelve hex digits of SHA-256 (rule 11), zeros for an empty list (rules 7, 8).
fn hash(text: &[u8]) -> [u8; 12] {
    if text.is_empty() {
        return [b'0'; 12];
    }
    let digest: [u8; 32] = Sha256::digest(text).into();
    let mut digits = [b'0'; 12];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = hex(byte);
    }
    digits
}

/// Rule 6.
fn count(length: usize) -> [u8; 2] {
    let length = u8::try_from(length).unwrap_or(COUNT_MAX).min(COUNT_MAX);
    [(length / 10).wrapping_add(b'0'), (length % 10).wrapping_add(b'0')]
}

/// Rule 2: the highest non-GREASE value of supported_versions if that is there, else the legacy version.
pub(super) fn version(hello: &ClientHello<'_>) -> u16 {
    if !hello.has_supported_versions {
        return hello.legacy_version;
    }
    let versions = hello.supported_versions.iter().filter(|code| !is_grease(*code));
    versions.max_by_key(|code| newness(*code)).unwrap_or(0)
}

/// A version that JA4 calls so; 0 for `00`, which stands for many.
pub(super) const fn version_named(name: [u8; 2]) -> Option<u16> {
    Some(match &name {
        b"13" => 0x0304,
        b"12" => 0x0303,
        b"11" => 0x0302,
        b"10" => 0x0301,
        b"s3" => 0x0300,
        b"s2" => 0x0002,
        b"d1" => 0xfeff,
        b"d2" => 0xfefd,
        b"d3" => 0xfefc,
        b"00" => 0,
        _ => return None,
    })
}

const fn version_name(version: u16) -> &'static [u8; 2] {
    match version {
        0x0304 => b"13",
        0x0303 => b"12",
        0x0302 => b"11",
        0x0301 => b"10",
        0x0300 => b"s3",
        0x0002 => b"s2",
        0xfeff => b"d1",
        0xfefd => b"d2",
        0xfefc => b"d3",
        _ => b"00",
    }
}

/// Rule 10.
pub(super) fn alpn(hello: &ClientHello<'_>) -> [u8; 2] {
    let ends = hello.alpn.iter().next().and_then(|name| name.first().zip(name.last()));
    ends.map_or(NO_ALPN, |(first, last)| detector_common::key::alpn(*first, *last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ja4_values_are_read_as_ja4_values() {
        let good = "t13d1516h2_8daaf6152771_d8a2da3f94cd";
        assert_eq!(good.parse::<Ja4>().unwrap().to_string(), good);
        let bad = [
            "",
            "x13d1516h2_8daaf6152771_d8a2da3f94cd",
            "t13d1516h2_8daaf6152771_d8a2da3f94cD",
            "t13d1516h2_8daaf6152771_d8a2da3f94c",
            "t13d1516h2-8daaf6152771_d8a2da3f94cd",
            "t13d15a6h2_8daaf6152771_d8a2da3f94cd",
            "t13d1516h _8daaf6152771_d8a2da3f94cd",
            "t13d1516h2_8daaf6152771_d8a2da3f94cé",
        ];
        for text in bad {
            assert!(text.parse::<Ja4>().is_err(), "{text}");
        }
    }

    #[test]
    fn newer_means_higher_for_tls_and_lower_for_dtls() {
        assert!(newness(0x0304) > newness(0x0303));
        assert!(newness(0xfefc) > newness(0xfefd) && newness(0xfefd) > newness(0xfeff));
    }
}
