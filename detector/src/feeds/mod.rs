//! Room 12: lists of addresses on their way. [`fetch`] gets one from its publisher, [`update`] checks it and puts it on the
//! disk, [`store`] reads it from there. The daemon only reads: what talks to publishers runs by itself
//! (`detector feeds update`), as another user if wanted.
//!
//! Memory: a list's bytes and prefixes, as [`crate::config::Feeds`] bounds them.

mod fetch;
pub mod store;
mod update;

pub use fetch::{Fetcher, Patience};
pub use update::{Updated, update};

use std::io;
use std::path::PathBuf;

use crate::reputation::Refused;

/// Why a list is not what it could be. At most three lines.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificates by which publishers are known.
    #[error(
        "can't read the certificates in `{path}`: {why}; install ca-certificates, or set `certificates` in [feeds]"
    )]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The publisher didn't give it.
    #[error("can't fetch `{url}`: {why}")]
    Fetch {
        /// From where.
        url: String,
        /// What is wrong.
        why: String,
        /// It may work a moment later.
        transient: bool,
    },
    /// It isn't what its publisher says it is.
    #[error("its SHA-256 is {found}, and should be {wanted}; is it the one that you mean?")]
    Checksum {
        /// In hexadecimal digits.
        found: String,
        /// In hexadecimal digits.
        wanted: String,
    },
    /// A file is no address database, or not all of one.
    #[error("`{path}` is no whole address database (MMDB): {why}; get it anew, and put it in place in one step (mv)")]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It is not to be believed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The disk.
    #[error("can't {what} `{path}`: {source}")]
    Disk {
        /// `read`, `write`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// The metric label of an error of reading.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refused.label(),
            _ => "unreadable",
        }
    }
}
