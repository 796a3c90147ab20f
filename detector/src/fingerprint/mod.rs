//! Room 5: a ClientHello in, its JA3 and JA4 values and a 64-bit key of its client out; a ServerHello in, its JA3S
//! out. The rules are those of `ja4-rules.md`, named by number where they are applied. The values alone are computed on
//! the stack; strings are made once, for a hello that is reported.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod digits;
pub mod ja3;
pub mod ja3s;
pub mod ja4;
pub mod key;
pub mod raw;
pub mod traits;

use std::fmt::Write as _;

use detector_common::key::{Keys, Seeds};
pub use ja4::{Ja4, Transport};
pub use raw::Ja4Raw;
pub use traits::{Trait, TraitSet, Traits};

use crate::tls::hello::ClientHello;
use ja3::Normals;
use ja4::{Order, Parts};
use key::{KeyCache, Known};

/// Everything that is said about one hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The keys of `ja4_r` and of the raw `ja4_stable`, which mean something under the seeds of this process only.
    pub keys: Keys,
    /// MD5 of `ja3_raw`, lower-case hex.
    pub ja3: String,
    /// The JA3 string.
    pub ja3_raw: String,
    /// MD5 of the JA3 string with its extensions sorted, lower-case hex.
    pub ja3n: String,
    /// JA4.
    pub ja4: Ja4,
    /// JA4 with its lists unhashed.
    pub ja4_r: String,
    /// JA4 in wire order.
    pub ja4_o: Ja4,
    /// JA4 in wire order with its lists unhashed.
    pub ja4_ro: String,
    /// JA4 without the extensions that come and go when a client resumes (rule 17).
    pub ja4_stable: Ja4,
    /// The server's name, escaped.
    pub server_name: Option<String>,
    /// The protocols offered, escaped.
    pub alpn: Vec<String>,
    /// What is odd about the hello.
    pub signals: Signals,
    /// What it shows beside all that.
    pub traits: Traits,
}

/// What is odd about a hello, without making it unreadable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// An extension is there twice (rule 14).
    pub duplicate_extension: bool,
    /// The body of an extension contradicts itself (rule 12).
    pub malformed_extension: bool,
}

impl Signals {
    /// The names of those that are set.
    pub fn labels(self) -> impl Iterator<Item = &'static str> {
        [(self.duplicate_extension, "duplicate_extension"), (self.malformed_extension, "malformed_extension")]
            .into_iter()
            .filter_map(|(set, label)| set.then_some(label))
    }
}

/// Computes fingerprints; remembers the hashes of clients seen before. Memory: see [`KeyCache`] and [`Normals`].
#[derive(Debug)]
pub struct Fingerprinter {
    seeds: Seeds,
    cache: KeyCache,
    normals: Normals,
}

impl Default for Fingerprinter {
    /// With seeds of its own.
    fn default() -> Self {
        Self::new(key::random_seeds())
    }
}

impl Fingerprinter {
    /// That knows no client yet.
    #[must_use]
    pub fn new(seeds: Seeds) -> Self {
        Self { seeds, cache: KeyCache::default(), normals: Normals::default() }
    }

    /// The keys of `hello` and its JA4 values that don't depend on the order of its lists, those from the cache if it
    /// knows them.
    pub fn known(&mut self, hello: &ClientHello<'_>, transport: Transport) -> Known {
        let keys = key::keys(hello, transport, &self.seeds);
        if let Some(known) = self.cache.find(keys) {
            return known;
        }
        let parts = Parts::new(hello, transport);
        let known = Known { keys, ja4: parts.ja4(Order::Sorted), ja4_stable: parts.ja4(Order::Stable) };
        self.cache.insert(known);
        known
    }

    /// Everything about `hello`.
    pub fn fingerprint(&mut self, hello: &ClientHello<'_>, transport: Transport) -> Fingerprint {
        let Known { keys, ja4, ja4_stable } = self.known(hello, transport);
        let parts = Parts::new(hello, transport);
        let (ja3_raw, ja3, ja3n) = self.normals.all(hello, &parts);
        let (ja4_o, ja4_ro) = parts.both(Order::Wire);
        Fingerprint {
            keys,
            ja3,
            ja3_raw,
            ja3n,
            ja4,
            ja4_r: parts.raw(Order::Sorted),
            ja4_o,
            ja4_ro,
            ja4_stable,
            server_name: hello.server_name.map(escape),
            alpn: hello.alpn.iter().map(escape).collect(),
            signals: Signals {
                duplicate_extension: parts.duplicate_extension(),
                malformed_extension: hello.malformed_extension,
            },
            traits: Traits::of(hello),
        }
    }
}

/// `bytes` as printable ASCII: every other byte and the backslash become `\xNN` and `\\`, so that what comes out says
/// exactly what went in and no terminal or log acts on it (threats.md T23).
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                // Writing to a string can't fail.
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_text_is_printable_and_unambiguous() {
        assert_eq!(escape(b"a b\\x0a\n\x1b[31m\xff"), r"a b\\x0a\x0a\x1b[31m\xff");
    }
}
