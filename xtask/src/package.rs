//! `cargo xtask package`: a .deb and a .rpm from one list of files ([`files`]) and one set of scripts
//! (`dist/package/lifecycle.sh`).
//!
//! In: the checkout. Out: `target/package/detector_VERSION_ARCH.deb` and `detector-VERSION-1.ARCH.rpm`. Nothing but
//! Debian's own tools makes them: strip, gzip, dpkg-deb, rpmbuild, which `cargo xtask setup` brings.

mod deb;
mod files;
mod rpm;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{arguments::Arguments, shell};

/// The largest package that is still one, bytes.
const LARGEST: u64 = 10 << 20;

/// What both kinds say of it.
const SUMMARY: &str = "Packet-level bot detection for edge hosts";
const DESCRIPTION: &str = "Reads every TLS ClientHello at the network interface, in an XDP program, tells clients apart \
                           by their JA3 and JA4 fingerprints, and drops connections of those that are blocked, inside \
                           the kernel. As installed it observes and drops nothing.";

/// What only a build with faults on purpose has in it (detector/src/daemon/faults.rs).
const FAULTS: &[u8] = b"DETECTOR_FAULT";

/// What happens at the moments of a package's life, as functions of a shell.
const LIFECYCLE: &str = "dist/package/lifecycle.sh";

/// What a package is made of.
struct Package {
    version: String,
    /// The tree as it is installed.
    root: PathBuf,
    /// The program in it.
    program: PathBuf,
    /// Where the package goes.
    directory: PathBuf,
    /// For a test: as fast as can be, not as small.
    quick: bool,
}

/// The verb.
pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let version = arguments.value::<String>("--version")?.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
    let quick = arguments.flag("--debug");
    arguments.finish()?;
    let build: &[&str] = if quick { &["build"] } else { &["build", "--release", "--locked"] };
    shell::run(shell::cargo(build).args(["--package", "detector", "--bin", "detector"]))?;
    make(&version, quick)
}

/// Makes both packages of the program that is built, and tells of them.
pub(crate) fn make(version: &str, quick: bool) -> Result<()> {
    let target = shell::built()?.parent().context("this program isn't in a target directory")?.to_owned();
    let directory = target.join("package");
    let root = directory.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let built = target.join(if quick { "debug" } else { "release" }).join("detector");
    files::stage(&root, &built)?;
    let program = root.join(files::PROGRAM);
    if has_faults(&fs::read(&program)?) {
        bail!("`{}` is built with the feature `faults`, which is for tests: build it without", built.display());
    }
    let package = Package { version: version.to_owned(), root, program, directory, quick };
    for path in [deb::make(&package)?, rpm::make(&package)?] {
        let bytes = fs::metadata(&path)?.len();
        println!("{} ({:.1} MB)", path.display(), bytes as f64 / 1e6);
        if !quick && bytes > LARGEST {
            bail!("`{}` has more than {} MiB", path.display(), LARGEST >> 20);
        }
    }
    Ok(())
}

/// Whether parts of this program stand still when they are told to.
fn has_faults(program: &[u8]) -> bool {
    program.windows(FAULTS.len()).any(|bytes| bytes == FAULTS)
}

/// The text of a script that calls functions of `lifecycle.sh`.
fn script(calls: &str) -> Result<String> {
    let path = shell::root().join(LIFECYCLE);
    let functions = fs::read_to_string(&path).with_context(|| format!("can't read `{}`", path.display()))?;
    Ok(format!("{functions}\n{calls}\nexit 0\n"))
}

/// Every file of the tree, sorted, as paths from its root.
fn installed(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                found.push(path.strip_prefix(root)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What another program says, where there must be one of that name.
fn tool(name: &str) -> Result<Command> {
    match shell::find_program(name) {
        Some(path) => Ok(Command::new(path)),
        None => bail!("no `{name}` here: run `cargo xtask setup`"),
    }
}

/// The processor's name, as the two kinds of package have it.
fn architecture() -> Result<(&'static str, &'static str)> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(("amd64", "x86_64")),
        "aarch64" => Ok(("arm64", "aarch64")),
        other => bail!("packages for `{other}` are untried"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_with_faults_is_known_by_the_name_of_their_variable() {
        assert!(has_faults(include_bytes!("../../detector/src/daemon/faults.rs")));
        assert!(!has_faults(include_bytes!("../../detector/src/daemon/progress.rs")));
    }
}
