//! A BPF file system of the test's own, in the lab's directory: what is pinned there goes with it, so that no two tests
//! meet, nor a test and the machine's own daemon. And what gets past the programs, as the host's stack sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::daemon;
use crate::lab::{Lab, SERVER_INTERFACE};
use crate::process::output;

/// Where it is mounted, in the lab's directory.
const MOUNT: &str = "bpf";

/// The directory of pins in a lab, whether or not there is a file system for it.
#[must_use]
pub fn directory(lab: &Lab) -> PathBuf {
    lab.file(MOUNT).join("detector")
}

/// A mounted BPF file system. Dropping it removes what is pinned there: make it after the lab, so that it goes before.
#[derive(Debug)]
pub struct BpfMount(PathBuf);

impl BpfMount {
    /// Mounts it.
    ///
    /// # Errors
    /// Without root.
    pub fn new(lab: &Lab) -> Result<Self> {
        let path = lab.file(MOUNT);
        fs::create_dir(&path)?;
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("can't mount a bpf file system")?;
        Ok(Self(path))
    }

    /// The directory of its mount.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for BpfMount {
    fn drop(&mut self) {
        // A namespace that still holds it lets go of it at its own end.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Runs `detector attach`, `detach` or `mode`, of any build, whatever it exits with.
///
/// # Errors
/// When it can't be started.
pub fn pins(lab: &Lab, detector: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = lab.server().command(detector);
    command.args(arguments).arg("--config").arg(daemon::configuration(lab));
    command.env("DETECTOR_PINS", directory(lab)).env("DETECTOR_CONTROL_SOCKET", daemon::control_socket(lab));
    command.env("NO_COLOR", "1").env_remove("RUST_LOG");
    Ok(command.output()?)
}

/// Likewise, where it must succeed: returns what it printed.
///
/// # Errors
/// When it exits other than 0.
pub fn pins_ok(lab: &Lab, detector: &Path, arguments: &[&str]) -> Result<String> {
    let done = pins(lab, detector, arguments)?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "`detector {}`: {}: {said}", arguments.join(" "), done.status);
    Ok(String::from_utf8(done.stdout)?)
}

/// Counts the packets from a network to port 443 that the programs let pass, and keeps them from the stack.
#[derive(Debug)]
pub struct Passed<'a>(&'a Lab);

impl<'a> Passed<'a> {
    /// Begins to count those of `network`.
    ///
    /// # Errors
    /// When nft refuses.
    pub fn of(lab: &'a Lab, network: &str) -> Result<Self> {
        let rules = format!(
            "table netdev passed {{ counter past {{ }}; chain in {{ type filter hook ingress device {SERVER_INTERFACE} \
             priority 0; ip saddr {network} tcp dport 443 counter name past drop; }}; }}"
        );
        output(lab.server().command("nft").arg(rules))?;
        Ok(Self(lab))
    }

    /// How many since the last time, and from now on anew.
    ///
    /// # Errors
    /// When nft says something else.
    pub fn take(&self) -> Result<u64> {
        let said = output(self.0.server().command("nft").args(["reset", "counter", "netdev", "passed", "past"]))?;
        let mut words = said.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).and_then(|count| count.parse().ok()).with_context(|| format!("nft said `{said}`"))
    }
}
