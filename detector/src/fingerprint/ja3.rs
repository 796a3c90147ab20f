//! JA3 and JA3N (rule 15): a hello's lists in decimal, and the MD5 of that. JA3 is by Salesforce, BSD-3-Clause.

use std::ops::Range;

use md5::{Digest, Md5};

use super::digits::{Text, decimal, decimal_list, hex, string};
use super::ja4::Parts;
use crate::tls::grease::is_grease;
use crate::tls::hello::ClientHello;

/// The 32 hex digits of an MD5.
pub type Md5Hex = [u8; 32];

/// JA3 of `hello`, whose lists `parts` holds.
#[must_use]
pub fn ja3(hello: &ClientHello<'_>, parts: &Parts) -> Md5Hex {
    md5(&Ja3::new(hello, parts).text)
}

/// The JA3 string, JA3 and JA3N.
pub(super) fn all(hello: &ClientHello<'_>, parts: &Parts) -> (String, String, String) {
    let ja3 = Ja3::new(hello, parts);
    let digest = md5(&ja3.text);
    let in_order = parts.extensions == parts.sorted_extensions;
    let normal = if in_order { digest } else { md5(&ja3.with_extensions(&parts.sorted_extensions)) };
    (string(&ja3.text), string(&digest), string(&normal))
}

/// A JA3 string.
struct Ja3 {
    text: Text,
    /// Where its extensions stand in it.
    extensions: Range<usize>,
}

impl Ja3 {
    fn new(hello: &ClientHello<'_>, parts: &Parts) -> Self {
        let mut text = Text::new();
        decimal(&mut text, hello.legacy_version);
        text.push(b',');
        decimal_list(&mut text, parts.ciphers.iter().copied());
        text.push(b',');
        let start = text.len();
        decimal_list(&mut text, parts.extensions.iter().copied());
        let extensions = start..text.len();
        text.push(b',');
        decimal_list(&mut text, hello.supported_groups.iter().filter(|code| !is_grease(*code)));
        text.push(b',');
        decimal_list(&mut text, hello.ec_point_formats.iter().copied().map(u16::from));
        Self { text, extensions }
    }

    /// The same with other extensions.
    fn with_extensions(&self, extensions: &[u16]) -> Text {
        let part = |range| self.text.get(range).unwrap_or_default();
        let mut text = Text::from_slice(part(0..self.extensions.start));
        decimal_list(&mut text, extensions.iter().copied());
        text.extend_from_slice(part(self.extensions.end..self.text.len()));
        text
    }
}

pub(super) fn md5(text: &[u8]) -> Md5Hex {
    let digest: [u8; 16] = Md5::digest(text).into();
    let mut digits = [b'0'; 32];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = hex(byte);
    }
    digits
}
