//! The packages that `cargo xtask package` makes, on a fresh Debian 12 with systemd as its first process: installed,
//! upgraded under traffic, purged; what its daemon may not do; and there is typed what the pages say. `cargo xtask setup`
//! makes that Debian, and `cargo xtask test` the packages.

mod first;
mod installed;
mod journal;
mod machine;
mod pages;
mod privileges;
mod scratch;
mod sockets;
mod tutorial;
mod watchdog;

use std::path::PathBuf;

use anyhow::Result;
use detector_tests::programs;

/// The version of this build.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// An older one; its program is the same.
const OLDER: &str = "0.0.9";

/// The .deb of a version.
fn deb(version: &str) -> Result<PathBuf> {
    programs::package(&format!("detector_{version}_amd64.deb"))
}

/// The .rpm of a version.
fn rpm(version: &str) -> Result<PathBuf> {
    programs::package(&format!("detector-{version}-1.x86_64.rpm"))
}
