//! A 64-bit key over what `ja4` and `ja4_stable` are made of, and a cache from it to them: a client seen before costs
//! no sorting and no SHA-256. The key doesn't depend on the order of ciphers and extensions. Its seeds are drawn for
//! each process, so nobody outside can choose two hellos with one key. Memory: 4,096 entries of 88 bytes.

use std::hash::{BuildHasher, RandomState};

use super::ja4::{Ja4, Transport, alpn, version};
use crate::tls::grease::is_grease;
use crate::tls::hello::{ClientHello, extension};

/// Makes keys.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher {
    cipher: u64,
    extension: u64,
    signature: u64,
    rest: u64,
}

impl KeyHasher {
    /// With seeds of its own.
    #[must_use]
    pub fn random() -> Self {
        // std seeds it from the system; it needs no further dependency.
        let state = RandomState::new();
        let [cipher, extension, signature, rest] = [1_u8, 2, 3, 4].map(|which| state.hash_one(which));
        Self { cipher, extension, signature, rest }
    }

    /// The key of `hello`.
    #[must_use]
    #[inline]
    pub fn key(&self, hello: &ClientHello<'_>, transport: Transport) -> u64 {
        let (ciphers, cipher_count) = sum(hello.cipher_suites.iter(), self.cipher);
        // server_name and ALPN are no part of JA4's hash, but of its count.
        let codes = hello.extensions.iter().map(|extension| extension.code);
        let mut named = 0_u64;
        let hashed = codes.filter(|code| {
            let in_head = matches!(*code, extension::SERVER_NAME | extension::ALPN);
            named = named.wrapping_add(u64::from(in_head));
            !in_head
        });
        let (extensions, extension_count) = sum(hashed, self.extension);
        let mut signatures = self.signature;
        for code in hello.signature_algorithms.iter().filter(|code| !is_grease(*code)) {
            signatures = mix(signatures.wrapping_add(u64::from(code)));
        }
        let [a0, a1] = alpn(hello).map(u64::from);
        let head = u64::from(version(hello))
            | u64::from(hello.has_server_name) << 16
            | u64::from(transport.letter()) << 17
            | a0 << 25
            | a1 << 33;
        [ciphers, extensions, signatures, cipher_count, extension_count, named, head]
            .into_iter()
            .fold(self.rest, |key, part| mix(key.rotate_left(23) ^ part))
    }
}

/// The sum of the codes' hashes, which is the same in any order, and how many there are.
#[inline]
fn sum(codes: impl Iterator<Item = u16>, seed: u64) -> (u64, u64) {
    codes.filter(|code| !is_grease(*code)).fold((0_u64, 0_u64), |(sum, count), code| {
        (sum.wrapping_add(mix(seed.wrapping_add(u64::from(code)))), count.wrapping_add(1))
    })
}

/// The finisher of splitmix64, shortened by one step.
#[inline]
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 32;
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 32
}

/// What the cache knows about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// JA4.
    pub ja4: Ja4,
    /// JA4 without what resumption changes.
    pub ja4_stable: Ja4,
}

const SETS: usize = 1024;
const WAYS: usize = 4;

/// Youngest first.
type Set = [Option<(u64, Known)>; WAYS];

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
    /// The values of `key`.
    #[must_use]
    #[inline]
    pub fn find(&self, key: u64) -> Option<Known> {
        let set = self.sets.get(index(key))?;
        set.iter().flatten().find(|(entry, _)| *entry == key).map(|(_, known)| *known)
    }

    /// Remembers the values of `key`.
    pub fn insert(&mut self, key: u64, known: Known) {
        if let Some(set) = self.sets.get_mut(index(key)) {
            set.rotate_right(1);
            if let Some(first) = set.first_mut() {
                *first = Some((key, known));
            }
        }
    }
}

#[inline]
fn index(key: u64) -> usize {
    // Any ten bits of the key are as good as any other.
    usize::from(key as u16) & (SETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_set_forgets_the_oldest() {
        let value = |digit: char| {
            let text = format!("t13d1516h2_8daaf6152771_d8a2da3f94c{digit}");
            let ja4: Ja4 = text.parse().unwrap();
            Known { ja4, ja4_stable: ja4 }
        };
        let mut cache = KeyCache::default();
        for (turn, digit) in ('0'..='4').enumerate() {
            cache.insert((turn * 0x1_0000) as u64, value(digit));
        }
        assert_eq!(cache.find(0), None);
        assert_eq!(cache.find(0x4_0000), Some(value('4')));
    }
}
