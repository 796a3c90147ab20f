//! `cargo xtask setup`: installs what is missing, and only that. Every other verb calls it first.
//!
//! In: the machine as it is. Out: a line for each step that tells what it is for and whether it was there. Each step
//! looks before it acts, so a second run changes nothing and takes a second or two. Nothing it installs is left running.

mod compiler;
mod debian;
mod linker;
pub(crate) mod linux;
mod packages;
mod python;

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{
    arguments::Arguments,
    shell,
    toolchain::{Candidate, SYSTEM},
};

/// What a step found or did: `present` or `done`, and what it is now.
enum State {
    Present(String),
    Done(String),
}

/// The verb.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    arguments.finish()?;
    install()?;
    println!("all set: `cargo xtask demo`, `cargo xtask test` and `cargo build` have what they need");
    Ok(())
}

/// A step: its name, what that is needed for, and its code.
type Step = (&'static str, &'static str, fn() -> Result<State>);

/// All steps, in the order in which they need each other.
pub(crate) fn install() -> Result<()> {
    const STEPS: [Step; 7] = [
        ("system packages", "servers, clients and network tools for tests and demo", packages::install),
        (
            "Rust toolchain for eBPF",
            "compiles the kernel's half, for which there is no ready-made `core`",
            compiler::install,
        ),
        ("bpf-linker", "links the kernel's half, with that toolchain's LLVM", linker::install),
        (
            "Python with curl_cffi and aioquic",
            "clients that imitate browsers, and HTTP/3, for tests and demo",
            python::install,
        ),
        ("Debian's Linux 6.1", "an older kernel, for tests in a virtual machine", linux::install),
        ("fresh Debian 12", "what packages are installed into, in tests", debian::install),
        ("kernel", "the programs use what Linux has since 5.18", kernel),
    ];
    take(&STEPS)
}

/// What `cargo xtask lab` needs beside that: browsers, libraries and tools to visit with. Nothing else does.
pub(crate) fn install_for_lab() -> Result<()> {
    take(&[
        ("visitors", "browsers, tools and scanners for the lab", packages::install_for_lab),
        ("Python libraries", "more visitors of the lab", python::install_for_lab),
    ])
}

fn take(steps: &[Step]) -> Result<()> {
    let count = steps.len();
    for (number, (name, why, step)) in steps.iter().enumerate() {
        let start = Instant::now();
        let state = step().with_context(|| format!("setting up the {name} (for: {why}) failed"))?;
        let prefix = format!("[{}/{count}] {name}", number + 1);
        match state {
            State::Present(what) => println!("{prefix}: present ({what})"),
            State::Done(what) => println!("{prefix}: done in {:.0} s ({what})", start.elapsed().as_secs_f64()),
        }
    }
    Ok(())
}

/// Whether the kernel's half is built with a toolchain that isn't rustup's, though rustup is there.
pub(crate) fn builds_outside_rustup() -> bool {
    let outside = compiler::chosen().is_ok_and(|compiler| compiler.candidate == Candidate::Directory(SYSTEM.into()));
    outside && shell::find_program("rustup").is_some()
}

/// Says that a step has something to do, before the minutes in which it does it.
fn announce(what: &str) {
    println!("      installing {what} …");
}

/// The running kernel. It can't be installed from here, and building does without, so an old one is only told.
fn kernel() -> Result<State> {
    const OLDEST: (u32, u32) = (5, 18);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("can't tell the kernel's release")?;
    let release = release.trim();
    let old = version(release).is_none_or(|version| version < OLDEST);
    let note = if old { ": too old to run the programs, though not to build them" } else { "" };
    Ok(State::Present(format!("Linux {release}{note}")))
}

/// `6.18.44-cloud` as `(6, 18)`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kernel_releases() {
        assert_eq!(version("6.18.44"), Some((6, 18)));
        assert_eq!(version("5.4-rc1"), Some((5, 4)));
        assert_eq!(version("what"), None);
    }
}
