//! The contract across the kernel boundary, and nothing else: what the XDP program writes and userspace reads
//! ([`event`], [`counter`]), what userspace writes and the XDP program reads ([`verdict`], [`settings`]), and the
//! names of the maps between them ([`maps`]).
//!
//! Every type here is `repr(C)`, has no padding (its zerocopy derive refuses any), and says the byte order of each
//! field. A size assertion below each type makes a change of layout a compile error, not a wrong verdict.

#![no_std]

pub mod counter;
pub mod event;
pub mod flow;
pub mod key;
pub mod maps;
pub mod mode;
pub mod settings;
pub mod steer;
pub mod table;
pub mod verdict;
