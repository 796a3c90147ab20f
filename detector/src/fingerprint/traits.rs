//! What a ClientHello shows beside its JA4: where it has GREASE (RFC 8701), which key shares, how long certain extensions
//! are, in which order they stand. Two stacks with one JA4 differ here. In: a hello, out: [`Traits`], 56 bytes on the
//! stack; nothing is allocated, and a body that contradicts itself has no trait.

use std::fmt;

use detector_common::key::{is_grease, is_unstable};

use crate::tls::hello::{ClientHello, Extension, extension};

/// Extension numbers that say something here (IANA registry "TLS ExtensionType Values", and those of Chromium).
const COMPRESS_CERTIFICATE: u16 = 0x001b;
const RECORD_SIZE_LIMIT: u16 = 0x001c;
const DELEGATED_CREDENTIAL: u16 = 0x0022;
const KEY_SHARE: u16 = 0x0033;
const APPLICATION_SETTINGS_OLD: u16 = 0x4469;
const APPLICATION_SETTINGS: u16 = 0x44cd;
const TRUST_ANCHORS: u16 = 0xca34;
const ECH: u16 = 0xfe0d;

/// Groups (IANA registry "TLS Supported Groups"): the hybrids of X25519 with ML-KEM-768 and with its draft.
const X25519_MLKEM768: u16 = 0x11ec;
const X25519_KYBER768: u16 = 0x6399;

/// Key shares that are looked at: no client is known that sends more.
const SHARES: usize = 4;

macro_rules! traits {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// One thing that a hello has or hasn't.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Trait { $($(#[$doc])* $name,)* }

        impl Trait {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As the catalogue of families has it.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

traits! {
    /// GREASE among the cipher suites.
    GreaseCiphers => "grease-ciphers",
    /// GREASE among the extensions.
    GreaseExtensions => "grease-extensions",
    /// GREASE among supported_groups.
    GreaseGroups => "grease-groups",
    /// GREASE among supported_versions.
    GreaseVersions => "grease-versions",
    /// GREASE among signature_algorithms.
    GreaseSignatures => "grease-signatures",
    /// GREASE among the key shares.
    GreaseShares => "grease-shares",
    /// X25519MLKEM768 among supported_groups.
    MlKem => "ml-kem",
    /// A key share of it.
    MlKemShare => "ml-kem-share",
    /// A key share of its draft, X25519Kyber768.
    KyberShare => "kyber-share",
    /// An ML-DSA entry among signature_algorithms.
    MlDsa => "ml-dsa",
    /// encrypted_client_hello, real or GREASE.
    Ech => "ech",
    /// Chromium's trust_anchors.
    TrustAnchors => "trust-anchors",
    /// Chromium's application_settings by its first number.
    SettingsOld => "application-settings-old",
    /// The same by its number since 2025.
    Settings => "application-settings",
    /// delegated_credential.
    DelegatedCredentials => "delegated-credentials",
    /// record_size_limit.
    RecordSizeLimit => "record-size-limit",
    /// compress_certificate.
    CompressCertificate => "compress-certificate",
    /// ALPN has `h2`.
    OffersHttp2 => "offers-http2",
    /// ALPN has `h3`.
    OffersHttp3 => "offers-http3",
    /// ALPN has `http/1.1`.
    OffersHttp1 => "offers-http1",
    /// It resumes a session: a pre-shared key, or a ticket that isn't empty.
    Resumes => "resumes",
    /// early_data.
    EarlyData => "early-data",
}

/// A set of [`Trait`]s.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TraitSet(u32);

impl TraitSet {
    const fn bit(one: Trait) -> u32 {
        // Fewer than 32 of them.
        1_u32.wrapping_shl(one as u32)
    }

    /// Whether `one` is in it.
    #[must_use]
    pub const fn has(self, one: Trait) -> bool {
        self.0 & Self::bit(one) != 0
    }

    /// With `one` in it.
    #[must_use]
    pub const fn with(self, one: Trait) -> Self {
        Self(self.0 | Self::bit(one))
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in it and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in it.
    pub fn iter(self) -> impl Iterator<Item = Trait> {
        Trait::ALL.iter().copied().filter(move |one| self.has(*one))
    }

    fn add_if(&mut self, one: Trait, is: bool) {
        if is {
            *self = self.with(one);
        }
    }
}

impl FromIterator<Trait> for TraitSet {
    fn from_iter<I: IntoIterator<Item = Trait>>(all: I) -> Self {
        all.into_iter().fold(Self::default(), Self::with)
    }
}

impl fmt::Debug for TraitSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.iter().map(Trait::label)).finish()
    }
}

/// Which extensions a hello has, one bit for each that clients in use send and one for all others: enough to tell that one
/// set has everything that another has, and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExtensionSet(u64);

impl ExtensionSet {
    /// How a client resumes, if it does (RFC 8446 section 4.2.9).
    pub const PSK_KEY_EXCHANGE_MODES: u16 = 0x2d;

    const fn bit(code: u16) -> u64 {
        let place: u32 = match code {
            0..=0x37 => code as u32,
            0x39 => 0x38, // quic_transport_parameters
            APPLICATION_SETTINGS_OLD => 0x39,
            APPLICATION_SETTINGS => 0x3a,
            TRUST_ANCHORS => 0x3b,
            ECH => 0x3c,
            0xff01 => 0x3d, // renegotiation_info
            0x3374 => 0x3e, // next_protocol_negotiation
            _ => 0x3f,
        };
        1_u64.wrapping_shl(place)
    }

    /// With an extension of this number in it, unless it comes and goes with resumption (ja4-rules.md rule 17).
    #[must_use]
    pub const fn with(self, code: u16) -> Self {
        if is_unstable(code) { self } else { Self(self.0 | Self::bit(code)) }
    }

    /// Whether everything in `other` is in it.
    #[must_use]
    pub const fn has_all(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }
}

/// What a hello shows beside its JA4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Traits {
    /// What it has.
    pub has: TraitSet,
    /// A hash of the numbers of its extensions in wire order, without GREASE and without what comes and goes with
    /// resumption. The same in every process.
    pub order: u64,
    /// Those extensions.
    pub extensions: ExtensionSet,
    /// A hash of supported_groups in wire order, without GREASE; 0 without any.
    pub groups: u32,
    /// Groups of the key shares in wire order, without GREASE; zeros behind them.
    pub shares: [u16; SHARES],
    /// Bytes of the body of encrypted_client_hello.
    pub ech: Option<u16>,
    /// Bytes of the body of trust_anchors.
    pub trust_anchors: Option<u16>,
    /// Bytes of the body of application_settings, by either number.
    pub application_settings: Option<u16>,
    /// Bytes of the body of the last GREASE extension.
    pub grease_extension: Option<u16>,
    /// Bytes of the body of padding (RFC 7685).
    pub padding: Option<u16>,
}

const _: () = assert!(size_of::<Traits>() <= 64, "one is kept for each connection");

/// The offset of FNV-1a (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>): nobody gains by two orders with one hash.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

const fn fnv(hash: u64, code: u16) -> u64 {
    // The code as one unit: it is a hash of codes, not of bytes.
    (hash ^ code as u64).wrapping_mul(0x0100_0000_01b3)
}

impl Traits {
    /// Of `hello`.
    #[must_use]
    pub fn of(hello: &ClientHello<'_>) -> Self {
        let mut traits = Self { order: FNV_OFFSET, ..Self::default() };
        hello.extensions.iter().for_each(|extension| traits.extension(extension));
        let mut groups = FNV_OFFSET;
        for code in hello.supported_groups.iter() {
            traits.has.add_if(Trait::MlKem, code == X25519_MLKEM768);
            if is_grease(code) {
                traits.has.add_if(Trait::GreaseGroups, true);
            } else {
                groups = fnv(groups, code);
            }
        }
        let any = !hello.supported_groups.is_empty();
        traits.groups = if any { (groups ^ groups.wrapping_shr(32)) as u32 } else { 0 };
        traits.has.add_if(Trait::GreaseCiphers, hello.cipher_suites.iter().any(is_grease));
        traits.has.add_if(Trait::GreaseVersions, hello.supported_versions.iter().any(is_grease));
        for code in hello.signature_algorithms.iter() {
            traits.has.add_if(Trait::GreaseSignatures, is_grease(code));
            // mldsa44, mldsa65 and mldsa87 (draft-ietf-tls-mldsa).
            traits.has.add_if(Trait::MlDsa, matches!(code, 0x0904..=0x0906));
        }
        for protocol in hello.alpn.iter() {
            traits.has.add_if(Trait::OffersHttp2, protocol == b"h2");
            traits.has.add_if(Trait::OffersHttp3, protocol == b"h3");
            traits.has.add_if(Trait::OffersHttp1, protocol == b"http/1.1");
        }
        traits
    }

    fn extension(&mut self, Extension { code, body }: Extension<'_>) {
        let length = Some(u16::try_from(body.len()).unwrap_or(u16::MAX));
        if is_grease(code) {
            self.has.add_if(Trait::GreaseExtensions, true);
            self.grease_extension = length;
            return;
        }
        if !is_unstable(code) {
            self.order = fnv(self.order, code);
            self.extensions = self.extensions.with(code);
        }
        let present = match code {
            extension::PADDING => {
                self.padding = self.padding.or(length);
                return;
            }
            KEY_SHARE => return self.key_shares(body),
            extension::SESSION_TICKET if body.is_empty() => return,
            extension::SESSION_TICKET | extension::PRE_SHARED_KEY => Trait::Resumes,
            extension::EARLY_DATA => Trait::EarlyData,
            COMPRESS_CERTIFICATE => Trait::CompressCertificate,
            RECORD_SIZE_LIMIT => Trait::RecordSizeLimit,
            DELEGATED_CREDENTIAL => Trait::DelegatedCredentials,
            APPLICATION_SETTINGS_OLD | APPLICATION_SETTINGS => {
                self.application_settings = self.application_settings.or(length);
                if code == APPLICATION_SETTINGS { Trait::Settings } else { Trait::SettingsOld }
            }
            TRUST_ANCHORS => {
                self.trust_anchors = self.trust_anchors.or(length);
                Trait::TrustAnchors
            }
            ECH => {
                self.ech = self.ech.or(length);
                Trait::Ech
            }
            _ => return,
        };
        self.has.add_if(present, true);
    }

    /// RFC 8446 section 4.2.8: a list of (group, key). What comes after a length that is wrong isn't looked at.
    fn key_shares(&mut self, body: &[u8]) {
        let Some((_, mut rest)) = body.split_first_chunk::<2>() else { return };
        let mut places = self.shares.iter_mut();
        while let Some(([a, b, high, low], left)) = rest.split_first_chunk() {
            let Some(left) = left.get(usize::from(u16::from_be_bytes([*high, *low]))..) else { return };
            rest = left;
            let group = u16::from_be_bytes([*a, *b]);
            if is_grease(group) {
                self.has.add_if(Trait::GreaseShares, true);
                continue;
            }
            self.has.add_if(Trait::MlKemShare, group == X25519_MLKEM768);
            self.has.add_if(Trait::KyberShare, group == X25519_KYBER768);
            let Some(place) = places.next() else { return };
            *place = group;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tls::{Parsed, hello};

    /// A hello with these extensions.
    fn message(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (code, body) in extensions {
            block.extend(code.to_be_bytes());
            block.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
            block.extend(body);
        }
        let mut body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 0x01, 1, 0]].concat();
        body.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
        body.extend(block);
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    fn traits(extensions: &[(u16, Vec<u8>)]) -> Traits {
        let message = message(extensions);
        let Parsed::Complete(hello) = hello::parse(&message) else { panic!("no hello") };
        Traits::of(&hello)
    }

    #[test]
    fn the_order_is_that_of_what_stays() {
        let plain = traits(&[(0x0a, vec![]), (0x1b, vec![1])]);
        let resumed = traits(&[
            (0x1a1a, vec![]),
            (0x0a, vec![]),
            (0x23, vec![9; 4]),
            (0x1b, vec![1]),
            (0x3a3a, vec![0]),
            (0x15, vec![0; 9]),
            (0x29, vec![5]),
        ]);
        assert_eq!((plain.order, plain.extensions), (resumed.order, resumed.extensions));
        assert_ne!(plain.order, traits(&[(0x1b, vec![1]), (0x0a, vec![])]).order);
        assert_eq!((resumed.grease_extension, resumed.padding), (Some(1), Some(9)));
        assert!(resumed.has.has(Trait::Resumes) && !plain.has.has(Trait::Resumes));
        assert!(!traits(&[(0x23, vec![])]).has.has(Trait::Resumes), "an empty ticket asks for one");
    }

    #[test]
    fn more_extensions_have_all_of_fewer() {
        let known = traits(&[(0x0a, vec![]), (0xfe0d, vec![])]).extensions;
        let more = traits(&[(0x0a, vec![]), (0xbeef, vec![]), (0xfe0d, vec![])]).extensions;
        assert!(more.has_all(known) && !known.has_all(more));
    }

    #[test]
    fn a_key_share_that_contradicts_itself_ends_the_list() {
        let share = |body: &[u8]| traits(&[(0x33, body.to_vec())]).shares;
        assert_eq!(share(&[0, 10, 0, 0x1d, 0, 1, 7, 0x11, 0xec, 0, 0]), [0x1d, 0x11ec, 0, 0]);
        assert_eq!(share(&[0, 10, 0, 0x1d, 0, 1, 7, 0x11, 0xec, 0, 9, 1]), [0x1d, 0, 0, 0]);
        assert_eq!(share(&[0]), [0; 4]);
    }

    proptest! {
        #[test]
        fn any_extensions_have_traits(
            extensions in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 0..40),
            codes in prop::collection::vec(prop::sample::select(vec![0x0a, 0x0d, 0x10, 0x2b, 0x33, 0xfe0d, 0xca34]), 40),
        ) {
            let known: Vec<_> = extensions.iter().zip(codes).map(|((_, body), code)| (code, body.clone())).collect();
            let (traits, known) = (traits(&extensions), traits(&known));
            prop_assert!(traits.extensions.has_all(traits.extensions));
            prop_assert!(known.ech.is_none_or(|length| length < 40));
        }
    }
}
