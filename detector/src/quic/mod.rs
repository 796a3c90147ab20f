//! Room 4: one UDP datagram of a QUIC client in, the pieces of its CRYPTO stream out (RFC 9000, 9001, 9369). Keys, AEAD
//! and header protection are rustls's; anybody who sees an Initial packet can open it, so nothing here is a secret.
//! Every length in the bytes is hostile: nothing here indexes, allocates by a claim or panics.

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

mod frame;
pub mod header;
mod initial;

pub use header::{ConnectionId, Kind, LongHeader, Version, has_initial};
pub use initial::{Known, Opened, Opener, Piece};

/// A server discards Initial packets in UDP datagrams with less payload, in bytes (RFC 9000 section 14.1).
pub const DATAGRAM_MIN: usize = 1200;

/// A client's first destination connection ID has at least this many bytes (RFC 9000 section 7.2).
pub const FIRST_ID_MIN: usize = 8;

/// Takes `length` bytes off the front of `bytes`.
fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// Takes a variable-length integer off the front of `bytes` (RFC 9000 section 16).
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let field = take(bytes, 1_usize.checked_shl(u32::from(first >> 6))?)?;
    Some(field.iter().skip(1).fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
}

/// Takes a vector with a length of one byte off the front of `bytes`.
fn vector8<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = *take(bytes, 1)?.first()?;
    take(bytes, usize::from(length))
}
