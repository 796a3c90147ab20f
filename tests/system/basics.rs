//! What the daemon is for, on whatever kernel this runs: a page is served and its hello told with the right JA4, a
//! blocked JA4 and a blocked address get nothing and leave nothing on the server, their neighbours aren't hurt, and an
//! unblock restores them. `cargo xtask test` runs it a second time on Debian's Linux 6.1, in a virtual machine that is
//! many times slower: nothing here measures a speed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::deadline::until;
use detector_tests::lab::{CLIENT_V4, CLIENT_V6, Lab, LabOptions, SERVER_INTERFACE, SERVER_V4, SERVER_V6};
use detector_tests::link::{XdpMode, xdp};
use detector_tests::process::output;
use detector_tests::server::Nginx;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{expected, samples_of};
use crate::scene::{LONG, SHORT, script};

/// A hello of Chromium's: two segments.
const CAPTURE: &str = "chromium-h2.pcap";

/// The server's address and the client's, in each family.
const FAMILIES: [(IpAddr, IpAddr); 2] = [(SERVER_V4, CLIENT_V4), (SERVER_V6, CLIENT_V6)];

#[test]
fn it_tells_and_blocks_in_native_mode() -> Result<()> {
    play(XdpMode::Native)
}

#[test]
fn it_tells_and_blocks_in_generic_mode() -> Result<()> {
    play(XdpMode::Generic)
}

fn play(mode: XdpMode) -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions { mode: Some(mode), ..DaemonOptions::default() })?;
    assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, Some(mode));

    let status: Value = serde_json::from_str(&control_ok(&lab, &["status", "--format", "json"])?)?;
    assert_eq!(status["egress"], has_tcx()?, "{}", daemon.log());

    let browser = expected()[CAPTURE].first().context("a capture with a hello")?.ja4.clone();
    let mut curl = Vec::new();
    for (server, client) in FAMILIES {
        let told = browse(&lab, &daemon, server, client)?;
        ensure!(told == browser, "{told} was told for {browser}");
        curl.push(daemon.hello_from(page(&lab, server, client, &[], LONG)?.context("no page")?)?.forms.ja4);
    }
    ensure!(curl[0] == curl[1] && curl[0] != browser, "curl is {curl:?} by its family");

    control_ok(&lab, &["block", "--ja4", &curl[0]])?;
    refused(&lab, &daemon, "fingerprint")?;
    for (server, client) in FAMILIES {
        let neighbour = page(&lab, server, client, &["--tls-max", "1.2"], LONG)?;
        ensure!(neighbour.is_some(), "a client at {client} with another JA4 got no page");
    }
    control_ok(&lab, &["unblock", "--ja4", &curl[0]])?;
    for (server, client) in FAMILIES {
        answered(&lab, server, client)?;
    }

    for ((server, client), (other_server, other)) in [(FAMILIES[0], FAMILIES[1]), (FAMILIES[1], FAMILIES[0])] {
        let (before, subject) = (dropped(&lab, &daemon, "address")?, client.to_string());
        control_ok(&lab, &["block", &subject])?;
        ensure!(page(&lab, server, client, &[], SHORT)?.is_none(), "{client} is blocked and got its page");
        ensure!(dropped(&lab, &daemon, "address")? > before, "no drop of {client} was counted");
        answered(&lab, other_server, other)?;
        control_ok(&lab, &["unblock", &subject])?;
        answered(&lab, server, client)?;
    }
    assert_eq!(daemon.stop(Signal::SIGTERM)?.code(), Some(0));
    assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, None);
    Ok(())
}

/// Whether this kernel has the place for the egress program; the daemon does without.
fn has_tcx() -> Result<bool> {
    const SINCE: [u32; 2] = [6, 6];
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let numbers = release.split('.').take(2).map(str::parse).collect::<Result<Vec<u32>, _>>();
    Ok(numbers.with_context(|| format!("a kernel called `{release}`"))?.as_slice() >= SINCE.as_slice())
}

/// Asks for a page with curl: the client's port, if it came within `limit`.
fn page(lab: &Lab, server: IpAddr, client: IpAddr, more: &[&str], limit: Duration) -> Result<Option<u16>> {
    let host = if server.is_ipv6() { format!("[{server}]") } else { server.to_string() };
    let (url, source, limit) = (format!("https://{host}/"), client.to_string(), limit.as_secs().to_string());
    let options = ["-sk", "--noproxy", "*", "--max-time", &limit, "--interface", &source, "-o", "/dev/null"];
    let mut curl = lab.client().command("curl");
    let done =
        curl.args(options).args(more).args(["-w", "%{http_code} %{local_port}", &url]).stdin(Stdio::null()).output()?;
    let said = String::from_utf8(done.stdout)?;
    let (code, port) = said.split_once(' ').with_context(|| format!("curl said `{said}`"))?;
    Ok(if code == "200" { Some(port.parse()?) } else { None })
}

/// Sends the browser's hello: the JA4 that was told for it.
fn browse(lab: &Lab, daemon: &Daemon, server: IpAddr, client: IpAddr) -> Result<String> {
    let file = lab.file("hello");
    fs::write(&file, &samples_of(CAPTURE).first().context("a capture with a hello")?.stream)?;
    let (server, client) = (server.to_string(), client.to_string());
    let arguments = ["hellos", "--server", &server, "--source", &client, "--count", "1", "--hello"];
    let arguments = [&arguments[..], &[file.to_str().context("a path")?]].concat();
    let mut process = script(lab.client(), "resets.py", &arguments)?;
    let mut lines = BufReader::new(process.child().stdout.take().context("no pipe")?).lines();
    let sent: Vec<(u16, f64)> = serde_json::from_str(&lines.next().context("resets.py ended")??)?;
    Ok(daemon.hello_from(sent.first().context("a connection")?.0)?.forms.ja4)
}

/// The client gets its page.
fn answered(lab: &Lab, server: IpAddr, client: IpAddr) -> Result<()> {
    ensure!(page(lab, server, client, &[], LONG)?.is_some(), "{client} got no page");
    Ok(())
}

/// Neither family gets its page, both are counted as dropped for `reason`, and the server is rid of the connections.
fn refused(lab: &Lab, daemon: &Daemon, reason: &str) -> Result<()> {
    for (server, client) in FAMILIES {
        let before = dropped(lab, daemon, reason)?;
        ensure!(page(lab, server, client, &[], SHORT)?.is_none(), "{client} is blocked and got its page");
        ensure!(dropped(lab, daemon, reason)? > before, "no drop of {client} was counted");
        let filter = ["-Htn", "state", "connected", "exclude", "time-wait", "sport", "=", ":443"];
        until("the server to have no connection left", LONG, || {
            Ok(output(lab.server().command("ss").args(filter))?.trim().is_empty().then_some(()))
        })?;
    }
    Ok(())
}

/// Packets dropped so far, for a reason.
fn dropped(lab: &Lab, daemon: &Daemon, reason: &str) -> Result<f64> {
    let labels = [("verdict", "drop"), ("reason", reason)];
    Ok(daemon.metrics(lab)?.sum("detector_kernel_packets_total", &labels))
}
