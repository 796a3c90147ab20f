//! The test of building the kernel's half *through rustup*, on a machine whose rustup has no library sources; and somewhere
//! else, for the object must be the same to the byte wherever its sources lie (threats.md T62).
//!
//! In: Debian's compiler in `/usr`, and `detector`'s build script as cargo built it. Out: the object, built of a copy of the
//! checkout, with cargo's home by another name, and with `DETECTOR_EBPF_TOOLCHAIN` naming a toolchain that rustup knows only
//! as a link to `/usr`. The link is removed again. Built by the feature `linked-toolchain`, which `cargo xtask test` asks for where it applies.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    shell,
    toolchain::{OVERRIDE, SYSTEM},
};

/// A name in rustup, for as long as this lives.
struct Link(String);

impl Link {
    fn new() -> Self {
        let name = format!("detector-test-{}", std::process::id());
        let sysroot = PathBuf::from(SYSTEM);
        let sysroot = sysroot.parent().expect("a directory in the root");
        shell::run(Command::new("rustup").args(["toolchain", "link", &name]).arg(sysroot)).unwrap();
        Self(name)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        shell::run(Command::new("rustup").args(["toolchain", "uninstall", &self.0])).unwrap();
    }
}

/// The build script's program and what it left when cargo ran it.
fn build_script() -> (PathBuf, PathBuf) {
    let mut cargo = shell::cargo(&["test", "--workspace", "--exclude", "detector-ebpf", "--no-run", "--quiet"]);
    let messages = shell::output(cargo.arg("--message-format=json")).unwrap();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let (mut program, mut out) = (None, None);
    for message in messages.filter(|message| message["package_id"].as_str().is_some_and(|id| id.contains("/detector#")))
    {
        match message["reason"].as_str() {
            Some("build-script-executed") => out = message["out_dir"].as_str().map(PathBuf::from),
            Some("compiler-artifact") if message["target"]["kind"][0] == "custom-build" => {
                program = message["filenames"][0].as_str().map(PathBuf::from);
            }
            _ => {}
        }
    }
    (program.expect("cargo tells where the build script is"), out.expect("cargo tells what it left"))
}

/// What cargo reads of a checkout to build one package of it; of the tests, no more than what they are called.
const CHECKOUT: [&str; 6] = ["Cargo.toml", "Cargo.lock", "detector", "detector-common", "detector-ebpf", "xtask"];
const TESTS: &str = "tests/Cargo.toml";

/// A copy of the checkout, and another name of cargo's home.
fn elsewhere(directory: &Path) -> (PathBuf, PathBuf) {
    let (checkout, home) = (directory.join("a/copy"), directory.join("home"));
    fs::create_dir_all(checkout.join(TESTS).parent().expect("a file's directory")).unwrap();
    fs::copy(shell::root().join(TESTS), checkout.join(TESTS)).unwrap();
    let from = CHECKOUT.map(|name| shell::root().join(name));
    shell::run(Command::new("cp").arg("-a").args(from).arg(&checkout)).unwrap();
    let usual = || PathBuf::from(env::var_os("HOME").expect("a home")).join(".cargo");
    symlink(env::var_os("CARGO_HOME").map_or_else(usual, PathBuf::from), &home).unwrap();
    (checkout, home)
}

#[test]
fn a_toolchain_that_rustup_knows_builds_the_same_object_elsewhere() {
    let (program, out) = build_script();
    let link = Link::new();
    let mine = tempfile::tempdir().unwrap();
    let (checkout, home) = elsewhere(mine.path());
    let build = |name: &str| {
        let mut script = Command::new(&program);
        script.current_dir(checkout.join("detector")).env(OVERRIDE, name).env("OUT_DIR", mine.path());
        script.env("CARGO_HOME", &home);
        script.env("CARGO_CFG_TARGET_ARCH", env::consts::ARCH).env("CARGO_CFG_TARGET_ENDIAN", "little");
        shell::output(&mut script)
    };
    let printed = build(&link.0).unwrap();
    assert!(printed.contains("cargo::rerun-if-changed="), "{printed}");
    let object = fs::read(mine.path().join("detector-ebpf")).unwrap();
    assert!(object.starts_with(b"\x7fELF"));
    let same = object == fs::read(out.join("detector-ebpf")).unwrap();
    assert!(same, "another way to the compiler, or another directory of the sources, gives another object");

    let name = link.0.clone();
    drop(link);
    let refused = build(&name).unwrap_err().to_string();
    assert!(refused.contains(&format!("`{OVERRIDE}={name}` can't be used: not installed")), "{refused}");
}
