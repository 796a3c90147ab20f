//! curl in the lab's client namespace. In: the lab, what to ask for. Out: the ports it used.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Lab, Namespace, SERVER_V4};
use crate::process::output;
use crate::server::SERVER_NAME;

/// A curl that knows the server by its name, believes any certificate, and keeps no page.
#[must_use]
pub fn curl(lab: &Lab) -> Command {
    curl_in(lab.client(), &format!("{SERVER_NAME}:443:{SERVER_V4}"))
}

/// Likewise in another namespace, or with another place for the name.
#[must_use]
pub fn curl_in(namespace: &Namespace, resolve: &str) -> Command {
    let mut command = namespace.command("curl");
    command.args(["--silent", "--show-error", "--insecure", "--noproxy", "*", "--max-time", "10"]);
    command.args(["--resolve", resolve]);
    command
}

/// Asks for these paths over one connection, and returns its port. `more`: of curl's arguments.
///
/// # Errors
/// When one isn't answered, or it took several connections.
pub fn ask(lab: &Lab, paths: &[&str], more: &[&str]) -> Result<u16> {
    let mut command = curl(lab);
    command.args(["--write-out", "%{local_port}\n"]).args(more);
    for path in paths {
        command.args(["--output", "/dev/null", &format!("https://{SERVER_NAME}{path}")]);
    }
    let printed = output(&mut command)?;
    let ports: Vec<&str> = printed.lines().collect();
    ensure!(ports.len() == paths.len() && ports.iter().all(|port| *port == ports[0]), "one connection: {ports:?}");
    ports.first().context("no path was given")?.parse().with_context(|| format!("curl's port: {printed}"))
}
