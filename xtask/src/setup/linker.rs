//! bpf-linker, which must read the bitcode of the eBPF half's compiler: built against that compiler's own libLLVM, so
//! the two always agree and no LLVM development package is needed (it asks only for `lib/libLLVM.so` below a prefix).

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow};

use super::{State, announce, compiler};
use crate::{
    shell,
    toolchain::{self, Compiler},
};

/// The version that is known to work; a newer one is left in place.
const VERSION: (u32, u32, u32) = (0, 13, 0);

/// The step.
pub(super) fn install() -> Result<State> {
    let compiler = compiler::chosen()?;
    if let Some(present) = present(&compiler) {
        return Ok(State::Present(present));
    }
    let (major, minor, patch) = VERSION;
    let version = format!("{major}.{minor}.{patch}");
    announce(&format!("bpf-linker {version}, compiled for LLVM {}: a minute or two", compiler.llvm));
    let prefix = llvm_prefix(&compiler)?;
    let mut cargo = shell::cargo(&["install", "--locked", "--force", "--debug", "bpf-linker", "--version", &version]);
    cargo
        .args(["--no-default-features", "--features", &format!("llvm-{}", compiler.llvm)])
        .env("LLVM_PREFIX", &prefix)
        // LLVM does the work and is compiled already: an optimised build takes three times as long and gains nothing.
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    shell::run_to_log(&mut cargo, &shell::tools()?.join("setup-bpf-linker.log"))?;
    let installed =
        present(&compiler).context("bpf-linker was installed, but doesn't run: is another one before it on PATH?")?;
    Ok(State::Done(installed))
}

/// The bpf-linker that the build would use, if it runs, is new enough and reads this compiler's bitcode.
fn present(compiler: &Compiler) -> Option<String> {
    let path = toolchain::linker(env::var_os("BPF_LINKER").map(PathBuf::from), toolchain::linker_directories()).ok()?;
    let version = shell::output(Command::new(&path).arg("--version")).ok()?;
    let libraries = shell::output(Command::new("ldd").arg(&path)).unwrap_or_default();
    let fits = is_new_enough(&version) && llvm_of(&libraries).is_none_or(|llvm| llvm == compiler.llvm);
    fits.then(|| format!("{} at `{}`", version.trim(), path.display()))
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.trim().trim_start_matches("bpf-linker ").split('.').map_while(|part| part.parse().ok());
    let version = (|| Some((numbers.next()?, numbers.next()?, numbers.next()?)))();
    version.is_some_and(|version: (u32, u32, u32)| version >= VERSION)
}

/// The LLVM that a program is linked to, by `ldd`'s output: `22` of `libLLVM.so.22.1-rust-1.97.0-nightly`. One that is
/// linked statically shows none; then its release says which, and its own checks have to do.
fn llvm_of(libraries: &str) -> Option<&str> {
    libraries.lines().find_map(|line| line.trim().strip_prefix("libLLVM.so.")?.split(['.', '-', ' ']).next())
}

/// A directory with `lib/libLLVM.so` in it, and the same under the name that the finished program asks for.
fn llvm_prefix(compiler: &Compiler) -> Result<PathBuf> {
    let rustc = compiler.sysroot.join("bin/rustc");
    let libraries = shell::output(Command::new("ldd").arg(&rustc))?;
    let library = library_path(&libraries).ok_or_else(|| {
        anyhow!("`{}` has no libLLVM.so of its own: install bpf-linker by `cargo binstall bpf-linker`", rustc.display())
    })?;
    let library = fs::canonicalize(library)?;
    let name = Path::new(library_path(&libraries).unwrap_or_default()).file_name().context("libLLVM has no name")?;
    let home = toolchain::linker_directories().last().context("there is no cargo home")?;
    let prefix = home.parent().context("there is no cargo home")?.join("bpf-linker-llvm");
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib)?;
    for link in [lib.join("libLLVM.so"), lib.join(name)] {
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link)?;
        }
        symlink(&library, &link)?;
    }
    Ok(prefix)
}

/// The path after `=>` in the line about libLLVM.
fn library_path(libraries: &str) -> Option<&str> {
    let line = libraries.lines().find(|line| line.trim().starts_with("libLLVM"))?;
    line.split("=> ").nth(1)?.split(" (").next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str =
        "\tlinux-vdso.so.1 (0x0)\n\tlibLLVM.so.22.1 => /usr/lib/x86_64-linux-gnu/libLLVM.so.22.1 (0x7f)\n";
    const RUSTUP: &str =
        "\tlibLLVM.so.22.1-rust-1.95.0-stable => /r/bin/../lib/libLLVM.so.22.1-rust-1.95.0-stable (0x7f)\n";

    #[test]
    fn reads_what_ldd_says_about_llvm() {
        assert_eq!((llvm_of(DEBIAN), llvm_of(RUSTUP)), (Some("22"), Some("22")));
        assert_eq!(library_path(DEBIAN), Some("/usr/lib/x86_64-linux-gnu/libLLVM.so.22.1"));
        assert_eq!(library_path(RUSTUP), Some("/r/bin/../lib/libLLVM.so.22.1-rust-1.95.0-stable"));
        assert_eq!(llvm_of("\tstatically linked\n"), None);
    }

    #[test]
    fn compares_versions_by_number() {
        assert!(is_new_enough("bpf-linker 0.13.0\n") && is_new_enough("bpf-linker 0.14.2"));
        assert!(!is_new_enough("bpf-linker 0.9.15") && !is_new_enough("bpf-linker") && !is_new_enough(""));
    }
}
