//! JA3 and JA3N (rule 15): a hello's lists in decimal, and the MD5 of that. JA3 is by Salesforce, BSD-3-Clause.

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
    md5(&text(hello, parts, &parts.extensions))
}

/// The JA3 string, JA3 and JA3N.
pub(super) fn all(hello: &ClientHello<'_>, parts: &Parts) -> (String, String, String) {
    let raw = text(hello, parts, &parts.extensions);
    let ja3n = text(hello, parts, &parts.sorted_extensions());
    (string(&raw), string(&md5(&raw)), string(&md5(&ja3n)))
}

fn text(hello: &ClientHello<'_>, parts: &Parts, extensions: &[u16]) -> Text {
    let mut text = Text::new();
    decimal(&mut text, hello.legacy_version);
    text.push(b',');
    decimal_list(&mut text, parts.ciphers.iter().copied());
    text.push(b',');
    decimal_list(&mut text, extensions.iter().copied());
    text.push(b',');
    decimal_list(&mut text, hello.supported_groups.iter().filter(|code| !is_grease(*code)));
    text.push(b',');
    decimal_list(&mut text, hello.ec_point_formats.iter().copied().map(u16::from));
    text
}

pub(super) fn md5(text: &[u8]) -> Md5Hex {
    let digest: [u8; 16] = Md5::digest(text).into();
    let mut digits = [b'0'; 32];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = hex(byte);
    }
    digits
}
