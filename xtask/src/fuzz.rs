//! `cargo xtask fuzz`: the fuzz targets of `tests/fuzz`, by cargo-fuzz with rustup's nightly (whose sanitizers it
//! needs). In: seconds for each target, and the corpus in `tests/fuzz/corpus`. Out: libFuzzer's output; a crash fails,
//! and its input stays in `tests/fuzz/artifacts`. What a run learns goes to `tools/corpus` in the target directory, where
//! the next one finds it, so the checkout stays clean; `cargo fuzz cmin` folds it into the corpus that is kept.

use std::fs;

use anyhow::{Result, bail};

use crate::{arguments::Arguments, shell};

const FOLDER: [&str; 2] = ["--fuzz-dir", "tests/fuzz"];

/// The verb.
pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let seconds: u32 = arguments.value("--seconds")?.unwrap_or(60);
    let only = arguments.word();
    arguments.finish()?;
    let mut nightly = std::process::Command::new("rustup");
    if shell::output(nightly.args(["run", "nightly", "rustc", "-V"])).is_err() {
        bail!("fuzzing needs rustup's nightly: `rustup toolchain install nightly --profile minimal`");
    }
    if shell::find_program("cargo-fuzz").is_none() {
        println!("installing cargo-fuzz …");
        shell::run(&mut shell::cargo(&["install", "--locked", "--quiet", "cargo-fuzz"]))?;
    }
    let targets = shell::output(fuzz("list").args(FOLDER))?;
    let targets: Vec<&str> = targets.lines().filter(|name| only.as_deref().is_none_or(|only| only == *name)).collect();
    if targets.is_empty() {
        bail!("there is no such fuzz target: `ls tests/fuzz`");
    }
    for target in targets {
        println!("== {target}, {seconds} s");
        let learned = shell::tools()?.join("corpus").join(target);
        fs::create_dir_all(&learned)?;
        // libFuzzer writes to the first corpus and only reads the others.
        let kept = shell::root().join("tests/fuzz/corpus").join(target);
        let limit = format!("-max_total_time={seconds}");
        shell::run(fuzz("run").args(FOLDER).arg(target).args([learned, kept]).args(["--", &limit]))?;
    }
    Ok(())
}

/// `cargo +nightly fuzz VERB`. The library's build script must not build the kernel's half: no fuzz target loads it.
fn fuzz(verb: &str) -> std::process::Command {
    let mut command = std::process::Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", verb]).current_dir(shell::root()).env("AYA_BUILD_SKIP", "1");
    for key in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC"] {
        command.env_remove(key);
    }
    command
}
