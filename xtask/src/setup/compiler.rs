//! The toolchain that compiles the eBPF half. Which one will do is `detector/build/toolchain.rs`'s answer; this installs
//! one when that finds none: Debian's, where its archive has one that is new enough, else rustup's nightly.

use std::{env, process::Command};

use anyhow::{Result, anyhow, bail};

use super::{State, announce, packages};
use crate::{
    shell,
    toolchain::{self, Candidate, Compiler},
};

/// Compiler, cargo and library sources that belong together; Debian keeps them current for building browsers.
const DEBIAN: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// The compiler that `cargo build` will use for the eBPF half.
pub(super) fn chosen() -> Result<Compiler> {
    let wanted = env::var(toolchain::OVERRIDE).ok();
    toolchain::choose(wanted.as_deref(), toolchain::building(), Candidate::probe).map_err(|reason| anyhow!(reason))
}

/// The step.
pub(super) fn install() -> Result<State> {
    if let Ok(compiler) = chosen() {
        return Ok(State::Present(describe(&compiler)));
    }
    if env::var(toolchain::OVERRIDE).is_ok_and(|name| !name.is_empty()) {
        return chosen().map(|compiler| State::Present(describe(&compiler))); // its error: a choice by hand is never replaced
    }
    if is_debian() {
        packages::apt_install(&DEBIAN)?;
    } else if shell::find_program("rustup").is_some() {
        announce("rustup's nightly with rust-src");
        let mut rustup = Command::new("rustup");
        rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
        shell::run_to_log(&mut rustup, &shell::tools()?.join("setup-rustup.log"))?;
    } else {
        bail!("{:#}", chosen().expect_err("none was found above"));
    }
    chosen().map(|compiler| State::Done(describe(&compiler)))
}

fn describe(compiler: &Compiler) -> String {
    format!("{}, rustc {}, LLVM {}", compiler.candidate, compiler.release, compiler.llvm)
}

fn is_debian() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=debian")
}
