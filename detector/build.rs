//! Builds detector-ebpf for `bpfel-unknown-none` and leaves the object in `OUT_DIR/detector-ebpf`, where the library
//! embeds it from. Which toolchain does that is `build/toolchain.rs`'s answer; how is aya-build's.
//!
//! In: `DETECTOR_EBPF_TOOLCHAIN`, `BPF_LINKER`, `AYA_BUILD_SKIP`. With `AYA_BUILD_SKIP=1` the object is an empty file,
//! so that checks and lints work on a machine without any BPF toolchain; such a binary says so when it loads.
//!
//! aya-build knows one way to be told things: the environment of its own process, which can't be changed safely from
//! inside. So this program runs itself a second time with the right one, and the second run calls aya-build. It also
//! sets the compiler's flags so that none can be added from outside; a third role, the compiler's wrapper, adds one.

#[path = "build/toolchain.rs"]
mod toolchain;

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya_build::{Package, Toolchain};
use toolchain::{Candidate, Compiler};

/// Set in the second run: the rustup toolchain to use, or empty for the plain `cargo` and `rustc` on PATH.
const SECOND_RUN: &str = "DETECTOR_BUILD_EBPF_WITH";
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The instruction set. LLVM's default is the first one, without 32-bit arithmetic and jumps: each `u32` is then shifted
/// up and down again, which is slower and makes the verifier forget its bounds. Linux knows v3 since 5.1; the programs
/// need 5.18 anyway.
const CPU: &str = "-Ctarget-cpu=v3";

/// bpf-linker by default leaves every memset and memmove to a function that goes byte by byte. Without it LLVM makes
/// loads and stores of those of known size: a packet that is no hello costs a fifth less, and the egress program has a
/// third of the verified instructions.
const COPIES: &str = "-Clink-arg=--disable-expand-memcpy-in-order";

/// Puts one directory in the place of another.
const REMAP: &str = "--remap-path-prefix";

fn main() -> Result<()> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if let [rustc, arguments @ ..] = arguments.as_slice() {
        return wrap(rustc, arguments);
    }
    if let Ok(name) = env::var(SECOND_RUN) {
        return build(&name);
    }
    for key in [toolchain::OVERRIDE, "BPF_LINKER", "AYA_BUILD_SKIP"] {
        println!("cargo::rerun-if-env-changed={key}");
    }
    // aya-build adds detector-ebpf itself. The workspace's manifest holds the profile of the object.
    for path in ["detector/build", "detector-ebpf/src", "detector-common/src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={WORKSPACE}/{path}");
    }
    if env::var("AYA_BUILD_SKIP").is_ok_and(|value| value == "1" || value.eq_ignore_ascii_case("true")) {
        let out = env::var_os("OUT_DIR").context("OUT_DIR is not set: cargo runs build scripts with it")?;
        let mut objects = ["detector-ebpf", "detector-ebpf-bench"].into_iter();
        return objects
            .try_for_each(|name| fs::write(Path::new(&out).join(name), []))
            .context("can't write the empty objects");
    }

    let wanted = env::var(toolchain::OVERRIDE).ok();
    let compiler = toolchain::choose(wanted.as_deref(), toolchain::building(), Candidate::probe);
    let compiler = compiler.map_err(|reason| anyhow!(reason))?;
    let linker = toolchain::linker(env::var_os("BPF_LINKER").map(PathBuf::from), toolchain::linker_directories());
    let linker = linker.map_err(|reason| anyhow!(reason))?.canonicalize().context("can't resolve bpf-linker's path")?;
    // An updated compiler or linker gives another object.
    println!("cargo::rerun-if-changed={}", compiler.sysroot.join("bin/rustc").display());
    println!("cargo::rerun-if-changed={}", linker.display());

    let output = second_run(&compiler, &linker)?.output().context("can't run this build script again")?;
    for line in String::from_utf8_lossy(&output.stdout).lines().filter(|line| !is_progress(line)) {
        println!("{line}");
    }
    if !output.status.success() {
        let details = String::from_utf8_lossy(&output.stderr);
        bail!("building detector-ebpf with {} ({}) failed: {details}", compiler.candidate, compiler.release);
    }
    Ok(())
}

/// Whether a line of aya-build's only says how far cargo is. Passed on, each would be repeated as a warning by every
/// later build of the workspace, and the real ones would drown.
fn is_progress(line: &str) -> bool {
    const VERBS: [&str; 9] = [
        "Adding",
        "Blocking",
        "Compiling",
        "Downloaded",
        "Downloading",
        "Finished",
        "Locking",
        "Updating",
        "which(rustup)=",
    ];
    line.strip_prefix("cargo:warning=").is_some_and(|text| VERBS.iter().any(|verb| text.trim_start().starts_with(verb)))
}

/// This program again, in the environment that makes aya-build use `compiler` and `linker`.
fn second_run(compiler: &Compiler, linker: &Path) -> Result<Command> {
    let this = env::current_exe().context("can't tell this build script's own path")?;
    let mut command = Command::new(&this);
    command
        .env("RUSTC_WRAPPER", &this) // in place of a cache like sccache, which gains nothing here
        .env("CARGO_INCREMENTAL", "0") // it would cut the crates into other pieces, and give another object
        .env("RUSTC_BOOTSTRAP", "1") // -Zbuild-std; set here only, so no userspace crate ever sees it
        // By path, not by PATH: bpf-linker's directory may hold rustup, which Candidate::Directory keeps out.
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_TARGET_BPFEB_UNKNOWN_NONE_LINKER", linker);
    match &compiler.candidate {
        Candidate::Rustup(name) => {
            command.env(SECOND_RUN, name);
        }
        Candidate::Directory(dir) => {
            // aya-build looks for rustup on PATH, and without one runs the first cargo and rustc there.
            let path = env::var_os("PATH").unwrap_or_default();
            let others = env::split_paths(&path).filter(|other| !other.join("rustup").is_file());
            let path = env::join_paths([dir.clone()].into_iter().chain(others)).context("PATH can't be rebuilt")?;
            command.env(SECOND_RUN, "").env("PATH", path);
            // The outer cargo and rustup set these for their own toolchain.
            for key in ["RUSTUP_TOOLCHAIN", "CARGO", "LD_LIBRARY_PATH"] {
                command.env_remove(key);
            }
        }
    }
    Ok(command)
}

/// The second run: lets aya-build build the one package there is.
fn build(rustup: &str) -> Result<()> {
    let root_dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../detector-ebpf");
    let features: &[&str] = if env::var_os("CARGO_FEATURE_WIDE_VERDICTS").is_some() { &["wide-verdicts"] } else { &[] };
    let package = Package { name: "detector-ebpf", root_dir, features, ..Package::default() };
    let toolchain = if rustup.is_empty() { Toolchain::default() } else { Toolchain::Custom(rustup) };
    aya_build::build_ebpf([package], toolchain)
}

/// Cargo runs `RUSTC_WRAPPER rustc arguments…`: becomes that rustc, with [`CPU`], [`COPIES`] and [`paths`] added for the BPF
/// target. What is built for the host on the way (procedural macros, build scripts) stays as it is.
fn wrap(rustc: &OsString, arguments: &[OsString]) -> Result<()> {
    if arguments == ["-vV"] {
        // Cargo builds anew when this answer changes, so no change is lost in its cache.
        println!("{CPU} {COPIES} {REMAP}");
    }
    let mut command = Command::new(rustc);
    command.args(arguments);
    if arguments.iter().any(|argument| argument.to_string_lossy().starts_with("bpfe")) {
        command.args([CPU, COPIES]).args(paths()?);
    }
    Err(command.exec()).with_context(|| format!("can't run `{}`", rustc.display()))
}

/// What keeps this machine's directories out of the object's debug information, so that the same sources give the same
/// object wherever they lie. A crate of the workspace is compiled in the workspace's root and linked there: relative
/// names lead to its lines, which the verifier's log quotes. Any other is compiled in its own directory, cargo's or the
/// compiler's, and has its name and version in place of that.
fn paths() -> Result<Vec<String>> {
    let [directory, name, version] = ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"].map(env::var);
    // Without these cargo asks what the compiler can do, and has no crate compiled.
    let (Ok(directory), Ok(name), Ok(version)) = (directory, name, version) else { return Ok(Vec::new()) };
    let here = env::current_dir().context("can't tell the directory of a crate")?;
    let crate_directory = PathBuf::from(directory);
    if crate_directory.canonicalize().is_ok_and(|directory| directory != here) {
        return Ok(vec![format!("{REMAP}={}=.", here.display())]);
    }
    let named = |directory: &Path| format!("{REMAP}={}=/{name}-{version}", directory.display());
    Ok(vec![named(&here), named(&crate_directory)])
}
