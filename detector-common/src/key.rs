//! 64-bit keys of ClientHellos, by the same code in the kernel and in userspace.
//!
//! Two hellos have one [`Keys::key`] if and only if they have one `JA4_r`, and one [`Keys::stable`] if and only if
//! they have one raw `ja4_stable` (ja4-rules.md rule 17), but for a chance of 2^-64. So what goes in is what stands in
//! those texts, and no more: the transport's letter, the version as JA4 names it, whether there is a server_name, the
//! counts up to 99, ALPN's two characters, the ciphers and the extensions without GREASE, server_name and ALPN, and the
//! signature algorithms without GREASE.
//!
//! Ciphers and extensions are hashed one by one and added up, so that no order matters and nothing is sorted; signature
//! algorithms are chained, since theirs does. The seeds are secret: nobody outside can choose two hellos with one key.
//! Keys mean nothing under other seeds: what is to last is stored as `JA4_r`.

pub mod parser;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Extension numbers that the rules name (IANA registry "TLS ExtensionType Values").
pub mod extension {
    /// server_name (RFC 6066).
    pub const SERVER_NAME: u16 = 0x0000;
    /// signature_algorithms (RFC 8446).
    pub const SIGNATURE_ALGORITHMS: u16 = 0x000d;
    /// application_layer_protocol_negotiation (RFC 7301).
    pub const ALPN: u16 = 0x0010;
    /// padding (RFC 7685).
    pub const PADDING: u16 = 0x0015;
    /// session_ticket (RFC 5077).
    pub const SESSION_TICKET: u16 = 0x0023;
    /// pre_shared_key (RFC 8446).
    pub const PRE_SHARED_KEY: u16 = 0x0029;
    /// early_data (RFC 8446).
    pub const EARLY_DATA: u16 = 0x002a;
    /// supported_versions (RFC 8446).
    pub const SUPPORTED_VERSIONS: u16 = 0x002b;
}

/// JA4 counts no further (rule 6).
pub const COUNT_MAX: u8 = 99;

/// ALPN's characters where no protocol is offered (rule 10).
pub const NO_ALPN: [u8; 2] = *b"00";

/// Whether `code` is one of the sixteen GREASE values (RFC 8701): both bytes equal, low nibble `a`. 0x1a2a and 0xeeee
/// are not.
#[inline(always)]
#[must_use]
pub const fn is_grease(code: u16) -> bool {
    code & 0x0f0f == 0x0a0a && code >> 8 == code & 0xff
}

/// Whether JA4 only counts the extension, and names it before its hashes (rules 5, 10).
#[inline(always)]
#[must_use]
pub const fn is_named_in_head(code: u16) -> bool {
    matches!(code, extension::SERVER_NAME | extension::ALPN)
}

/// Whether the extension comes and goes when a client resumes: rule 17 leaves it out of `ja4_stable`.
#[inline(always)]
#[must_use]
pub const fn is_unstable(code: u16) -> bool {
    use extension::{EARLY_DATA, PADDING, PRE_SHARED_KEY, SESSION_TICKET};
    matches!(code, SESSION_TICKET | PRE_SHARED_KEY | EARLY_DATA | PADDING)
}

/// Greater for the newer of two versions: among those of DTLS, that is the lower number (rule 4). No two versions are
/// equally new.
#[inline(always)]
#[must_use]
pub const fn newness(version: u16) -> u16 {
    if version >> 8 == 0xfe { version ^ 0x00ff } else { version }
}

/// ALPN's characters, of the first and the last byte of the first protocol (rule 10).
#[inline(always)]
#[must_use]
pub const fn alpn(first: u8, last: u8) -> [u8; 2] {
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [first, last];
    }
    [digit(first >> 4), digit(last & 15)]
}

const fn digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

/// The version, or 0 for all those that JA4 calls `00` (rule 2).
#[inline(always)]
const fn named(version: u16) -> u16 {
    match version {
        0x0300..=0x0304 | 0x0002 | 0xfeff | 0xfefd | 0xfefc => version,
        _ => 0,
    }
}

/// What makes the keys of one host those of no other. Drawn at random, and secret.
///
/// | bytes | field | order |
/// | --- | --- | --- |
/// | 0..8 | `cipher` | host |
/// | 8..16 | `extension` | host |
/// | 16..24 | `signature` | host |
/// | 24..32 | `rest` | host |
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Seeds {
    /// Of cipher suites.
    pub cipher: u64,
    /// Of extensions.
    pub extension: u64,
    /// Of signature algorithms.
    pub signature: u64,
    /// Of everything together.
    pub rest: u64,
}

const _: () = assert!(size_of::<Seeds>() == 32);

/// The keys of a hello. 0 stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Keys {
    /// Of its `JA4_r`.
    pub key: u64,
    /// Of its raw `ja4_stable`: the same number as `key` where the two texts are the same.
    pub stable: u64,
}

/// A hello's lists, added up.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    ciphers: u64,
    extensions: u64,
    unstable: u64,
    signatures: u64,
    cipher_count: u32,
    extension_count: u32,
    unstable_count: u32,
    server_name: u32,
}

impl Sums {
    /// Of empty lists.
    #[inline(always)]
    #[must_use]
    pub const fn new(seeds: &Seeds) -> Self {
        Self {
            ciphers: 0,
            extensions: 0,
            unstable: 0,
            signatures: seeds.signature,
            cipher_count: 0,
            extension_count: 0,
            unstable_count: 0,
            server_name: 0,
        }
    }

    /// Adds a cipher suite.
    #[inline(always)]
    pub const fn cipher(&mut self, seeds: &Seeds, code: u16) {
        if !is_grease(code) {
            self.ciphers = self.ciphers.wrapping_add(mix(seeds.cipher.wrapping_add(code as u64)));
            self.cipher_count += 1;
        }
    }

    /// Adds an extension.
    #[inline(always)]
    pub const fn extension(&mut self, seeds: &Seeds, code: u16) {
        if is_grease(code) {
            return;
        }
        self.extension_count += 1;
        if is_named_in_head(code) {
            self.server_name |= (code == extension::SERVER_NAME) as u32;
            return;
        }
        let hash = mix(seeds.extension.wrapping_add(code as u64));
        self.extensions = self.extensions.wrapping_add(hash);
        if is_unstable(code) {
            self.unstable = self.unstable.wrapping_add(hash);
            self.unstable_count += 1;
        }
    }

    /// Adds a signature algorithm, behind those before it.
    #[inline(always)]
    pub const fn signature(&mut self, code: u16) {
        if !is_grease(code) {
            self.signatures = mix(self.signatures.wrapping_add(code as u64));
        }
    }

    /// The keys of a hello with these lists, carried over what has JA4's `letter` (rule 1), of `version` by rule 2, and
    /// with these two characters for ALPN.
    #[inline(always)]
    #[must_use]
    pub const fn keys(&self, seeds: &Seeds, letter: u8, version: u16, alpn: [u8; 2]) -> Keys {
        let head = named(version) as u64
            | (self.server_name as u64) << 16
            | (letter as u64) << 17
            | (alpn[0] as u64) << 25
            | (alpn[1] as u64) << 33
            | capped(self.cipher_count) << 41;
        let rest = head.wrapping_add(seeds.rest);
        let lists = self.ciphers.wrapping_add(self.signatures);
        let stable_count = self.extension_count.wrapping_sub(self.unstable_count);
        Keys {
            key: finish(rest, self.extension_count, lists.wrapping_add(self.extensions)),
            stable: finish(rest, stable_count, lists.wrapping_add(self.extensions.wrapping_sub(self.unstable))),
        }
    }
}

#[inline(always)]
const fn capped(count: u32) -> u64 {
    if count < COUNT_MAX as u32 { count as u64 } else { COUNT_MAX as u64 }
}

/// All that is added up here are hashes under seeds of their own.
#[inline(always)]
const fn finish(rest: u64, extension_count: u32, lists: u64) -> u64 {
    let rest = rest.wrapping_add(capped(extension_count) << 48);
    let key = mix(mix(rest).wrapping_add(lists));
    // 0 stands for none.
    if key == 0 { 1 } else { key }
}

/// A permutation in which every bit hangs on every other: the finisher of splitmix64 without its first step.
#[inline(always)]
#[must_use]
pub const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 32
}
