//! The test of building the kernel's half *through rustup*, on a machine whose rustup has no library sources.
//!
//! In: Debian's compiler in `/usr`, and `detector`'s build script as cargo built it. Out: the object, built with
//! `DETECTOR_EBPF_TOOLCHAIN` naming a toolchain that rustup knows only as a link to `/usr`. The link is removed again.
//! Built by the feature `linked-toolchain`, which `cargo xtask test` asks for where it applies.

use std::{fs, path::PathBuf, process::Command};

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

#[test]
fn a_toolchain_that_rustup_knows_builds_the_same_object() {
    let (program, out) = build_script();
    let link = Link::new();
    let mine = tempfile::tempdir().unwrap();
    let build = |name: &str| {
        let mut script = Command::new(&program);
        script.current_dir(shell::root().join("detector")).env(OVERRIDE, name).env("OUT_DIR", mine.path());
        script.env("CARGO_CFG_TARGET_ARCH", std::env::consts::ARCH).env("CARGO_CFG_TARGET_ENDIAN", "little");
        shell::output(&mut script)
    };
    let printed = build(&link.0).unwrap();
    assert!(printed.contains("cargo::rerun-if-changed="), "{printed}");
    let object = fs::read(mine.path().join("detector-ebpf")).unwrap();
    assert!(object.starts_with(b"\x7fELF"));
    assert!(object == fs::read(out.join("detector-ebpf")).unwrap(), "rustup's way and the directory's give one object");

    let name = link.0.clone();
    drop(link);
    let refused = build(&name).unwrap_err().to_string();
    assert!(refused.contains(&format!("`{OVERRIDE}={name}` can't be used: not installed")), "{refused}");
}
