//! `cargo xtask test`: all tests, in the order in which a failure is cheapest to read.
//!
//! In: the checkout. Out: cargo's own output, stage by stage, with times. What needs root is chosen by a feature, so it
//! runs or isn't built; it is left out only when `--no-root` says so, and then the last line says so too.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{arguments::Arguments, guest, package, setup, shell};

/// All packages but the kernel's half, which `detector`'s build script builds: as a host program it doesn't link. The
/// same selection in every stage, so that each dependency is compiled once, with one set of features.
pub(crate) const ALL: [&str; 3] = ["--workspace", "--exclude", "detector-ebpf"];

/// The feature that builds the suites which need root, in the package that has them.
pub(crate) const FEATURE: &str = "detector-tests/root";

/// The suite that installs packages, and the versions of them that it wants: an older one, with the same program, is
/// upgraded.
const PACKAGES: (&str, [&str; 2]) = ("package", ["0.0.9", env!("CARGO_PKG_VERSION")]);

/// What runs a second time on the oldest kernel that is tried, by suite and names: the verifier's word, and each thing
/// that the programs do. Not all, since a test takes some ten times as long there.
const ON_LINUX_6_1: [(&str, &[&str]); 2] = [
    (
        "kernel",
        &[
            "capture::the_kernel_accepts",
            "capture::a_hello_in_one_segment",
            "capture::a_super_frame",
            "fingerprints::a_verdict",
            "framing::one_tag",
            "keys::every_hello",
            "reset::a_blocked_segment",
            "reset::a_frame_of_several_buffers",
            "sockets::a_socket",
            "states::a_server_hello",
            "states::datagrams",
            "states::what_acknowledges",
            "verdicts::a_blocked_address",
            "verdicts::a_source_without_quic",
            "verdicts::a_verdict_on_a_connection",
            "verdicts::a_verdict_on_a_udp_connection",
            "verdicts::automatic",
            "verdicts::the_kernel_ends",
        ],
    ),
    ("system", &["basics::it_tells_and_blocks_in_native"]),
];

/// The verb.
pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let full = arguments.flag("--full");
    let no_root = arguments.flag("--no-root");
    arguments.finish()?;
    if !no_root {
        shell::need_root("test", if full { " --full" } else { "" })
            .context("half of the tests need root; `cargo xtask test --no-root` runs the others")?;
    }
    stage("setup", setup::install)?;
    // The suite `replay` runs it, and cargo builds programs by itself for no suite of another package.
    stage("the program", || cargo(&["build"], &["--bin", "detector"], full))?;
    stage("tests without privileges", || cargo(&["test"], &[], full))?;
    if setup::builds_outside_rustup() {
        // Where rustup's own toolchain builds the kernel's half, that way has just been used.
        let linked = ["--features", "xtask/linked-toolchain", "--bin", "xtask", "linked::"];
        stage("the kernel's half, built through rustup and elsewhere", || cargo(&["test"], &linked, full))?;
    }
    if no_root {
        println!("== left out, by --no-root: the suites that need root");
        return Ok(());
    }
    let suites = root_suites()?;
    stage("another build of detector, for the tests of upgrades and of faults", || {
        let features = "detector/wide-verdicts,detector/faults";
        cargo(&["build"], &["--bin", "detector", "--features", features], full)?;
        // The next stage leaves the real one at that place.
        let built = shell::built()?;
        fs::copy(built.join("detector"), built.join("detector-wide")).context("can't keep the other build")?;
        Ok(())
    })?;
    // With the tests beside them, so that dependencies keep the features, and the builds, that those have.
    let programs = ["--bins", "--tests", "--features", FEATURE];
    stage("programs and suites", || cargo(&["build"], &programs, full))?;
    let (suite, versions) = PACKAGES;
    if suites.iter().any(|found| found == suite) {
        stage("packages", || versions.iter().try_for_each(|version| package::make(version, true)))?;
    }
    for suite in &suites {
        // One at a time: each makes network namespaces and measures what passes through them.
        let name = format!("tests that need root: {suite}");
        let only = ["--features", FEATURE, "--test", suite, "--", "--test-threads=1"];
        stage(&name, || cargo(&["test"], &only, full))?;
    }
    for (suite, names) in ON_LINUX_6_1 {
        stage(&format!("on Debian's Linux 6.1: {suite}"), || guest::test(suite, names))?;
    }
    Ok(())
}

fn stage(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let start = Instant::now();
    work()?;
    println!("== {name}: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(verb: &[&str], only: &[&str], full: bool) -> Result<()> {
    let mut command = shell::cargo(verb);
    command.args(ALL).args(only);
    // What failed is said by its message, at the end of the output: frames of libtest and tokio would bury it.
    command.env("RUST_BACKTRACE", "0");
    if full {
        command.env("DETECTOR_TEST_FULL", "1");
    }
    shell::run(&mut command)
}

/// The suites that ask for the feature `root`.
fn root_suites() -> Result<Vec<String>> {
    let metadata = shell::output(&mut shell::cargo(&["metadata", "--format-version", "1", "--no-deps"]))?;
    let suites = suites_in(&serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?);
    if suites.is_empty() {
        bail!("no test suite asks for `required-features = [\"root\"]`: the half that needs root has gone missing");
    }
    Ok(suites)
}

fn suites_in(metadata: &Value) -> Vec<String> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let targets = list(metadata, "packages").into_iter().flat_map(|package| list(&package, "targets"));
    let wanted = targets.filter(|target| {
        list(target, "kind").contains(&"test".into()) && list(target, "required-features").contains(&"root".into())
    });
    wanted.filter_map(|target| target["name"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_suites_that_ask_for_root_and_no_others() {
        let metadata = serde_json::json!({ "packages": [{ "targets": [
            { "name": "pipeline", "kind": ["test"] },
            { "name": "system", "kind": ["test"], "required-features": ["root"] },
            { "name": "demo", "kind": ["bin"], "required-features": ["root"] },
        ]}]});
        assert_eq!(suites_in(&metadata), ["system"]);
    }
}
