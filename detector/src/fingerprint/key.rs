//! A hello's keys, and a cache from them to `ja4` and `ja4_stable`: a client seen before costs no sorting and no SHA-256.
//! The keys themselves are `detector_common`'s, the same in the kernel. Memory: 4,096 entries of 96 bytes.

use std::hash::{BuildHasher, RandomState};

use detector_common::key::{Keys, Seeds, Sums};

use super::ja4::{Ja4, Transport, alpn, version};
use crate::tls::hello::ClientHello;

/// Seeds that nobody else knows.
#[must_use]
pub fn random_seeds() -> Seeds {
    // std seeds it from the system; it needs no further dependency.
    let state = RandomState::new();
    let [cipher, extension, signature, rest] = [1_u8, 2, 3, 4].map(|which| state.hash_one(which));
    Seeds { cipher, extension, signature, rest }
}

/// The keys of `hello`.
#[must_use]
#[inline]
pub fn keys(hello: &ClientHello<'_>, transport: Transport, seeds: &Seeds) -> Keys {
    let mut sums = Sums::new(seeds);
    hello.cipher_suites.iter().for_each(|code| sums.cipher(seeds, code));
    hello.extensions.iter().for_each(|extension| sums.extension(seeds, extension.code));
    hello.signature_algorithms.iter().for_each(|code| sums.signature(code));
    sums.keys(seeds, transport.letter(), version(hello), alpn(hello))
}

/// What the cache knows about a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its keys. Both: counts end at 99, so that two hellos with one JA4 can have two of the other.
    pub keys: Keys,
    /// JA4.
    pub ja4: Ja4,
    /// JA4 without what resumption changes.
    pub ja4_stable: Ja4,
}

const SETS: usize = 1024;
const WAYS: usize = 4;

/// Youngest first.
type Set = [Option<Known>; WAYS];

/// Keys and their values, a bounded number. A set that is full forgets the one added longest ago.
#[derive(Debug)]
pub struct KeyCache {
    sets: Box<[Set]>,
}

impl Default for KeyCache {
    fn default() -> Self {
        Self { sets: vec![[None; WAYS]; SETS].into_boxed_slice() }
    }
}

impl KeyCache {
    /// What is known of the hello with `keys`.
    #[must_use]
    #[inline]
    pub fn find(&self, keys: Keys) -> Option<Known> {
        let set = self.sets.get(index(keys))?;
        set.iter().flatten().find(|known| known.keys == keys).copied()
    }

    /// Remembers a hello.
    pub fn insert(&mut self, known: Known) {
        if let Some(set) = self.sets.get_mut(index(known.keys)) {
            set.rotate_right(1);
            if let Some(first) = set.first_mut() {
                *first = Some(known);
            }
        }
    }
}

#[inline]
fn index(keys: Keys) -> usize {
    // Any ten bits of a key are as good as any other.
    usize::from(keys.key as u16) & (SETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_set_forgets_the_oldest() {
        let keys = |turn: u64| Keys { key: 1 + turn * 0x1_0000, stable: 1 };
        let value = |turn: u64| {
            let text = format!("t13d1516h2_8daaf6152771_d8a2da3f94c{turn}");
            let ja4: Ja4 = text.parse().unwrap();
            Known { keys: keys(turn), ja4, ja4_stable: ja4 }
        };
        let mut cache = KeyCache::default();
        (0..=4).for_each(|turn| cache.insert(value(turn)));
        assert_eq!(cache.find(keys(0)), None);
        assert_eq!(cache.find(keys(4)), Some(value(4)));
        assert_eq!(cache.find(Keys { stable: 2, ..keys(4) }), None);
    }
}
