//! The commands: arguments in, an exit code out. One command per file.

pub mod fingerprint;
