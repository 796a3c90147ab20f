//! Room 4: the beginning of a byte stream in, a [`hello::ClientHello`] that borrows from it out. RFC 8446 (TLS 1.3),
//! RFC 5246 (TLS 1.2). Every length in the bytes is hostile: nothing here indexes, allocates by a claim or panics.

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

pub mod dtls;
pub mod grease;
pub mod hello;
pub mod record;
pub mod server_hello;

/// What hostile bytes turn out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// All of it.
    Complete(T),
    /// So far nothing is wrong, but more bytes are needed.
    Incomplete,
    /// Never, whatever follows.
    Rejected(Reason),
}

/// Why bytes are no ClientHello. Each is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The stream doesn't begin with a TLS handshake record: plain HTTP, an SSLv2 hello, anything.
    NotTls,
    /// A TLS handshake message, but another than a ClientHello.
    NotHello,
    /// Lengths that contradict each other, or records that RFC 8446 section 5.1 forbids.
    Malformed,
    /// The message claims more than 65,535 bytes (threats.md T17).
    Oversize,
}

impl Reason {
    /// All of them.
    pub const ALL: &[Self] = &[Self::NotTls, Self::NotHello, Self::Malformed, Self::Oversize];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::NotHello => "not_hello",
            Self::Malformed => "malformed",
            Self::Oversize => "oversize",
        }
    }
}
