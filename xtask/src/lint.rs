//! `cargo xtask lint`: what must hold of the sources, cheapest first. In: the checkout. Out: the first check that fails.

use anyhow::Result;

use crate::{arguments::Arguments, dependencies, layers, shell};

/// The verb.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    arguments.finish()?;
    println!("== formatting");
    shell::run(&mut shell::cargo(&["fmt", "--all", "--check"]))?;
    println!("== layers");
    layers::check()?;
    println!("== dependencies");
    dependencies::check()?;
    println!("== clippy");
    let clippy = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    // All features are another build than that of the tests: its object isn't needed here, and takes a minute.
    shell::run(shell::cargo(&clippy).env("AYA_BUILD_SKIP", "1"))
}
