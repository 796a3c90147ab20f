//! Forged segments, by `tests/clients/forge.py` in the lab's client namespace: from sources that nobody has, each with a
//! whole ClientHello, half of them after a SYN.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::lab::{CLIENT_INTERFACE, Lab, SERVER_INTERFACE, SERVER_V4};
use crate::process::Process;
use crate::programs;
use crate::server::SERVER_NAME;

/// The network of the forged sources (RFC 2544's, so nobody's).
pub const FORGED_NETWORK: &str = "198.18.";

/// What was sent.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Sent {
    /// Hellos.
    pub hellos: u64,
    /// SYNs before some of them.
    pub syns: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Where the server's answers to forged addresses go.
const ROUTER_V4: &str = "10.77.0.4";

/// A forger at work.
#[derive(Debug)]
pub struct Forger(Process);

impl Forger {
    /// Starts it; `arguments` are forge.py's own. The server answers SYNs from anywhere over the wire.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(lab: &Lab, arguments: &[&str]) -> Result<Self> {
        // An address of its own: a gateway is never blocked, and clients are to be.
        lab.client().ip(&format!("address replace {ROUTER_V4}/24 dev {CLIENT_INTERFACE}"))?;
        lab.server().ip(&format!("route replace default via {ROUTER_V4}"))?;
        let macs = [mac(lab.server(), SERVER_INTERFACE)?, mac(lab.client(), CLIENT_INTERFACE)?].join(",");
        let mut command = lab.client().command(programs::python()?);
        command.arg("-B").arg(programs::clients().with_file_name("forge.py"));
        command.args(["--interface", CLIENT_INTERFACE, "--macs", &macs, "--name", SERVER_NAME]);
        command.args(["--server", &SERVER_V4.to_string()]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Process::start("forge.py", &mut command).map(Self)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it fails or goes on.
    pub fn finish(mut self, limit: Duration) -> Result<Sent> {
        let status = self.0.wait(limit)?;
        ensure!(status.success(), "forge.py: {status}");
        let mut said = String::new();
        self.0.child().stdout.take().context("no pipe")?.read_to_string(&mut said)?;
        serde_json::from_str(&said).with_context(|| format!("forge.py printed `{said}`"))
    }
}

fn mac(namespace: &crate::lab::Namespace, interface: &str) -> Result<String> {
    let shown: serde_json::Value = serde_json::from_str(&namespace.ip(&format!("-json link show {interface}"))?)?;
    Ok(shown[0]["address"].as_str().context("a veth has an address")?.to_owned())
}
