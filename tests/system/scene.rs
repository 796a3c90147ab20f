//! The scene of the suites about blocking: a web server with the daemon before it, clients at several addresses, and
//! what it means to be answered or refused.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Report, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions};
use detector_tests::lab::{CLIENT_V6, Lab, LabOptions, Namespace, SERVER_V4, SERVER_V6};
use detector_tests::process::Process;
use detector_tests::programs;
use detector_tests::server::Nginx;

/// What a client waits that is to be refused.
pub(crate) const SHORT: Duration = Duration::from_secs(1);
/// What a client waits that must not be hurt: only a fault lasts so long.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Starts all three, with the daemon choosing its mode: that must be the native one.
pub(crate) fn start() -> Result<(Lab, Nginx, Daemon)> {
    let lab = Lab::new(LabOptions::default())?;
    let nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    Ok((lab, nginx, daemon))
}

pub(crate) fn from(source: IpAddr) -> Target {
    Target { source: Some(source), ..Target::new(SERVER_V4) }
}

pub(crate) fn over_ipv6() -> Target {
    Target { source: Some(CLIENT_V6), ..Target::new(SERVER_V6) }
}

/// Starts a program of `tests/clients`, with pipes for what it reads and prints.
pub(crate) fn script(namespace: &Namespace, name: &str, arguments: &[&str]) -> Result<Process> {
    let mut command = namespace.command(programs::python()?);
    command.arg("-B").arg(programs::clients().with_file_name(name)).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Process::start(name, &mut command)
}

/// The JA4 that the daemon told for this connection.
pub(crate) fn ja4_of(daemon: &Daemon, report: &Report) -> Result<String> {
    Ok(daemon.hello_from(report.port.context("the client couldn't tell its port")?)?.forms.ja4)
}

pub(crate) fn ensure_answered(lab: &Lab, target: &Target, why: &str) -> Result<()> {
    let reports = batch(lab, target, &[Kind::Curl, Kind::Python], 4)?;
    ensure!(reports.iter().all(Report::answered), "{why}: {reports:?}");
    Ok(())
}

pub(crate) fn ensure_refused(lab: &Lab, target: &Target, why: &str) -> Result<()> {
    let target = Target { timeout: SHORT, parallel: 8, ..target.clone() };
    let reports = batch(lab, &target, &[Kind::Curl, Kind::Python], 4)?;
    ensure!(reports.iter().all(|report| report.status.is_none()), "{why}: {reports:?}");
    Ok(())
}

/// Observe is the default: without an operator's word nothing is dropped and nobody is condemned.
pub(crate) fn nothing_dropped(lab: &Lab, daemon: &Daemon) -> Result<()> {
    let metrics = daemon.metrics(lab)?;
    ensure!(metrics.sum("detector_kernel_packets_total", &[("verdict", "drop")]) == 0.0);
    ensure!(metrics.sum("detector_enforce_verdicts", &[]) == 0.0);
    Ok(())
}
