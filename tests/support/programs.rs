//! Where the programs are that this workspace builds or sets up itself: in the target directory that this very test
//! was built into. Out: a path, or an error with the command that makes the file.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The `detector` binary: `DETECTOR_BIN`, or what `cargo build` put beside the tests.
///
/// # Errors
/// When it isn't built.
pub fn detector() -> Result<PathBuf> {
    if let Some(path) = env::var_os("DETECTOR_BIN") {
        return Ok(PathBuf::from(path));
    }
    above_this_program("detector")
        .context("`detector` is not built for this profile: run `cargo build --package detector`, or set DETECTOR_BIN")
}

/// Another build of it, whose verdicts have one more field, and whose parts stand still when they are told to: `cargo xtask
/// test` makes it (see CONTRIBUTING.md).
///
/// # Errors
/// When it isn't built.
pub fn detector_wide() -> Result<PathBuf> {
    above_this_program("detector-wide").context(
        "the other build of detector is not there: run `cargo xtask test`, or `cargo build --package detector --features \
         wide-verdicts,faults`, and copy `target/debug/detector` to `target/debug/detector-wide`",
    )
}

/// The Python that has curl_cffi and aioquic: `DETECTOR_PYTHON`, or what `cargo xtask setup` made.
///
/// # Errors
/// When it isn't set up.
pub fn python() -> Result<PathBuf> {
    if let Some(path) = env::var_os("DETECTOR_PYTHON") {
        return Ok(PathBuf::from(path));
    }
    above_this_program("tools/venv/bin/python")
        .context("the Python with curl_cffi is not set up: run `cargo xtask setup`")
}

/// Envoy or Traefik, which `cargo xtask setup` puts beside that Python.
///
/// # Errors
/// When it isn't set up.
pub fn gateway(name: &str) -> Result<PathBuf> {
    let path = python()?.with_file_name(name);
    if !path.is_file() {
        bail!("no `{}`: run `cargo xtask setup`", path.display());
    }
    Ok(path)
}

/// A package that `cargo xtask test` makes of the debug build, for this and an older version.
///
/// # Errors
/// When it isn't made.
pub fn package(name: &str) -> Result<PathBuf> {
    above_this_program(&format!("package/{name}"))
        .context("run `cargo xtask package --debug` and `cargo xtask package --debug --version 0.0.9`")
}

/// The tree of a fresh Debian 12.
///
/// # Errors
/// When it isn't set up.
pub fn debian() -> Result<PathBuf> {
    let os =
        above_this_program("tools/debian/etc/debian_version").context("no fresh Debian: run `cargo xtask setup`")?;
    Ok(os.ancestors().nth(2).context("a file without a directory")?.to_owned())
}

/// PATH for children: with the directories of nginx and bpftool, which Debian leaves out of a user's own, and so of
/// `sudo -E env "PATH=$PATH"`.
///
/// # Errors
/// When PATH can't be put together.
pub fn search_path() -> Result<OsString> {
    let own = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    Ok(env::join_paths(env::split_paths(&own).chain(system))?)
}

/// The client drivers, in the source tree.
#[must_use]
pub fn clients() -> PathBuf {
    script("clients.py")
}

/// A Python program of `tests/clients`, in the source tree.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// The README, in the source tree.
#[must_use]
pub fn readme() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")
}

/// Looks for a file beside this program and in the directories above, up to the target directory: a test is in
/// `target/<profile>/deps`, a binary in `target/<profile>`.
fn above_this_program(file: &str) -> Result<PathBuf> {
    let program = env::current_exe()?;
    for directory in program.ancestors().skip(1).take(3) {
        let path = directory.join(file);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("no `{file}` in the three directories above `{}`", program.display())
}
