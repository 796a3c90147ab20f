//! A fresh Debian 12, with systemd and nothing else: a tree in the target directory, which the suite `package` boots.
//!
//! In: the distribution's archive. Out: `target/tools/debian`. It takes root to make one, and only that suite wants it.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use super::{State, announce};
use crate::shell;

const SUITE: &str = "bookworm";
const ARCHIVE: &str = "http://deb.debian.org/debian";

/// The step.
pub(super) fn install() -> Result<State> {
    let tools = shell::tools()?;
    let (tree, new) = (tools.join("debian"), tools.join("debian.new"));
    if let Ok(version) = fs::read_to_string(tree.join("etc/debian_version")) {
        return Ok(State::Present(version.trim().to_owned()));
    }
    if !shell::is_root() {
        return Ok(State::Present("none: making one needs root, as does the suite that wants it".to_owned()));
    }
    announce("Debian 12");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    let mut command = Command::new(shell::find_program("debootstrap").context("no `debootstrap`")?);
    command.args(["--variant=minbase", "--include=systemd,systemd-sysv", SUITE]).arg(&new).arg(ARCHIVE);
    shell::run_to_log(&mut command, &tools.join("setup-debian.log"))?;
    let archives = new.join("var/cache/apt/archives");
    fs::remove_dir_all(&archives).with_context(|| format!("can't remove `{}`", archives.display()))?;
    fs::rename(&new, &tree)?;
    Ok(State::Done(fs::read_to_string(tree.join("etc/debian_version"))?.trim().to_owned()))
}
