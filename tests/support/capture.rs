//! tcpdump on the server's end of the wire: a second witness of every hello.
//!
//! In: a lab. Out: a pcap file that holds every packet to port 443 of the time between [`Tcpdump::start`] and
//! [`Tcpdump::finish`]; that none was lost is checked, not hoped. Memory: tcpdump's buffer of 64 MiB.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::deadline::{PATIENCE, until};
use crate::lab::{Lab, SERVER_INTERFACE, SERVER_V4};
use crate::process::{Process, output};

/// RFC 863's port: nothing listens there, and nothing else is sent to it.
const MARKER_PORT: u16 = 9;
const MARKER: &str = "the last packet of this capture";

/// A running tcpdump.
#[derive(Debug)]
pub struct Tcpdump {
    process: Process,
    file: PathBuf,
    messages: PathBuf,
}

impl Tcpdump {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When tcpdump is missing or can't listen.
    pub fn start(lab: &Lab) -> Result<Self> {
        let (file, messages) = (lab.file("capture.pcap"), lab.file("tcpdump.stderr"));
        let mut command = lab.server().command("tcpdump");
        // -Z root: it may not give up root, the directory is root's. Whole packets, a large buffer, written at once.
        command.args(["-i", SERVER_INTERFACE, "-Q", "in", "-s", "0", "-B", "65536", "-U", "-Z", "root", "-w"]);
        command.arg(&file).arg(format!("dst port 443 or udp dst port {MARKER_PORT}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&messages)?);
        let process = Process::start("tcpdump", &mut command)?;
        let mut tcpdump = Self { process, file, messages };
        until("tcpdump to listen", PATIENCE, || {
            if tcpdump.process.ended()?.is_some() {
                bail!("tcpdump ended at once: {}", fs::read_to_string(&tcpdump.messages)?);
            }
            Ok(fs::read_to_string(&tcpdump.messages)?.contains("listening on").then_some(()))
        })?;
        Ok(tcpdump)
    }

    /// Sends one last packet, waits until it is in the file, and ends tcpdump.
    ///
    /// # Errors
    /// When the kernel dropped a packet that was to be captured.
    pub fn finish(mut self, lab: &Lab) -> Result<PathBuf> {
        let send = format!("echo '{MARKER}' > /dev/udp/{SERVER_V4}/{MARKER_PORT}");
        output(lab.client().command("bash").args(["-c", &send]))?;
        until("the marker in the capture", PATIENCE, || Ok(ends_with_marker(&self.file)?.then_some(())))?;
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(PATIENCE)?;
        let said = fs::read_to_string(&self.messages)?;
        if !said.lines().any(|line| line == "0 packets dropped by kernel") {
            bail!("tcpdump missed packets: {said}");
        }
        Ok(self.file)
    }
}

fn ends_with_marker(file: &Path) -> Result<bool> {
    let bytes = fs::read(file).with_context(|| format!("can't read `{}`", file.display()))?;
    Ok(bytes.windows(MARKER.len()).rev().take(1024).any(|window| window == MARKER.as_bytes()))
}
