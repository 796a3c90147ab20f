//! A fresh Debian 12, with systemd and nothing else: a tree in the target directory, which the suite `package` boots. No
//! network is there, so apt finds in its cache what is to be installed there: a web server, and what a page takes to be there.
//!
//! In: the distribution's archive. Out: `target/tools/debian`. It takes root to make one, and only that suite wants it.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{State, announce};
use crate::shell;

const SUITE: &str = "bookworm";
const ARCHIVE: &str = "http://deb.debian.org/debian";

/// What is only kept ready to be installed; the last of these tells that all are there.
const READY: [&str; 5] = ["nginx", "ssl-cert", "curl", "tcpdump", "procps"];
const CACHE: &str = "var/cache/apt/archives";

/// The step.
pub(super) fn install() -> Result<State> {
    let tools = shell::tools()?;
    let (tree, new) = (tools.join("debian"), tools.join("debian.new"));
    if let Ok(version) = fs::read_to_string(tree.join("etc/debian_version"))
        && is_ready(&tree)
    {
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
    let log = tools.join("setup-debian.log");
    shell::run_to_log(&mut command, &log)?;
    let archives = new.join(CACHE);
    fs::remove_dir_all(&archives).with_context(|| format!("can't remove `{}`", archives.display()))?;
    let mut command = Command::new("chroot");
    command.arg(&new).args(["apt-get", "install", "--quiet", "--yes", "--download-only"]).args(READY);
    shell::run_to_log(&mut command, &log)?;
    if tree.exists() {
        // Of an older checkout, without those.
        fs::remove_dir_all(&tree)?;
    }
    fs::rename(&new, &tree)?;
    Ok(State::Done(fs::read_to_string(tree.join("etc/debian_version"))?.trim().to_owned()))
}

fn is_ready(tree: &Path) -> bool {
    let names = fs::read_dir(tree.join(CACHE)).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let wanted = format!("{}_", READY[READY.len() - 1]);
    names.into_iter().any(|name| name.to_string_lossy().starts_with(&wanted))
}
