//! JA3 and JA3N (rule 15): a hello's lists in decimal, and the MD5 of that. JA3 is by Salesforce, BSD-3-Clause.

use std::num::NonZeroUsize;
use std::ops::Range;

use foldhash::fast::RandomState;
use lru::LruCache;
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

/// Texts whose MD5 is remembered. The sorted JA3 strings of a site's clients are few, whatever order their extensions come in,
/// and MD5 is most of what a fingerprint costs.
const NORMALS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);
/// Longer ones, which no known client has, are not remembered.
const NORMAL_MAX: usize = 2048;

/// MD5 of JA3 strings with sorted extensions. Memory: [`NORMALS`] texts of [`NORMAL_MAX`] bytes at most.
#[derive(Debug)]
pub(super) struct Normals(LruCache<Box<[u8]>, Md5Hex, RandomState>);

impl Default for Normals {
    fn default() -> Self {
        Self(LruCache::with_hasher(NORMALS, RandomState::default()))
    }
}

impl Normals {
    /// The JA3 string, JA3 and JA3N of `hello`, whose lists `parts` holds.
    pub(super) fn all(&mut self, hello: &ClientHello<'_>, parts: &Parts) -> (String, String, String) {
        let ja3 = Ja3::new(hello, parts);
        let (digest, normal) = if parts.extensions == parts.sorted_extensions {
            let digest = self.md5(&ja3.text);
            (digest, digest)
        } else {
            (md5(&ja3.text), self.md5(&ja3.with_extensions(&parts.sorted_extensions)))
        };
        (string(&ja3.text), string(&digest), string(&normal))
    }

    fn md5(&mut self, text: &[u8]) -> Md5Hex {
        if let Some(known) = self.0.get(text) {
            return *known;
        }
        let digest = md5(text);
        if text.len() <= NORMAL_MAX {
            self.0.push(text.into(), digest);
        }
        digest
    }
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
