//! What operators are given beside the program: alert rules, the dashboard, and the pages that say what to type. Each
//! name in them is compared with what is documented, and each query read by promtool, which `cargo xtask setup` brings.

mod alerts;
mod commands;
mod config;
mod dashboard;
mod events;
mod queries;
mod units;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// A file of the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// Its text.
fn read(name: &str) -> Result<String> {
    let path = path(name);
    fs::read_to_string(&path).with_context(|| format!("can't read `{}`", path.display()))
}

/// A YAML file of the repository.
fn yaml(name: &str) -> Result<Value> {
    let program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let printed = Command::new("/usr/bin/python3").args(["-c", program]).arg(path(name)).output()?;
    let printed = successful(printed).with_context(|| format!("{name}: is python3-yaml there? `cargo xtask setup`"))?;
    Ok(serde_json::from_str(&printed)?)
}

/// What promtool prints; an error if it finds anything.
fn promtool(arguments: &[&str], file: &Path) -> Result<String> {
    let printed = Command::new("promtool").args(arguments).arg(file).output();
    successful(printed.context("promtool doesn't run: `cargo xtask setup` installs it")?)
}

fn successful(output: Output) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}
