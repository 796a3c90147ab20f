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
    shell::run(&mut shell::cargo(&clippy))
}
