//! A daemon without any capability (threats.md T61), on what `detector attach` has pinned for it: it does all that one with
//! capabilities does, by what it writes into maps, and says what it leaves to whoever attaches.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Target, batch};
use detector_tests::daemon::{self, Daemon, DaemonOptions, control_ok, control_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_INTERFACE, SERVER_V4};
use detector_tests::link::program;
use detector_tests::pins::{BpfMount, pins, pins_ok};
use detector_tests::process::Process;
use detector_tests::programs::{clients, detector, python};
use detector_tests::server::Nginx;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{SHORT, ensure_answered, ensure_refused, from, ja4_of};

const ALONE: DaemonOptions = DaemonOptions {
    interface: None,
    mode: None,
    arguments: &[],
    config: "",
    own_clock: false,
    quiet: false,
    unread: false,
    without_capabilities: true,
};

fn scene(interfaces: &[&str]) -> Result<(Lab, BpfMount)> {
    let lab = Lab::new(LabOptions::default())?;
    fs::write(daemon::configuration(&lab), "")?;
    let mount = BpfMount::new(&lab)?;
    if interfaces.contains(&"port7") {
        add_port(&lab)?;
    }
    let named = interfaces.iter().flat_map(|name| ["--interface", name]);
    pins_ok(&lab, &detector()?, &["attach"].into_iter().chain(named).collect::<Vec<_>>())?;
    Ok((lab, mount))
}

fn add_port(lab: &Lab) -> Result<()> {
    lab.server().ip("link add port7 type veth peer name port8").map(drop)
}

fn capabilities(daemon: &Daemon) -> Result<Vec<u64>> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id()))?;
    let sets =
        status.lines().filter(|line| ["CapEff:", "CapPrm:", "CapBnd:"].iter().any(|name| line.starts_with(name)));
    sets.map(|line| Ok(u64::from_str_radix(line.split_whitespace().nth(1).context("no set")?, 16)?)).collect()
}

/// Operators' blocks of an address and of a JA4 value, the mode, and what holds over a stop and a kill.
#[test]
fn it_enforces_and_its_orders_outlive_it() -> Result<()> {
    let (lab, _mount) = scene(&[SERVER_INTERFACE])?;
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, ALONE)?;
    assert_eq!(capabilities(&daemon)?, [0, 0, 0]);
    let attached = program(lab.server(), SERVER_INTERFACE)?;

    let report = batch(&lab, &from(CLIENT_V4), &[Kind::Python], 1)?.remove(0);
    let ja4 = ja4_of(&daemon, &report)?;
    control_ok(&lab, &["block", "--ja4", &ja4])?;
    let target = Target { timeout: SHORT, ..from(CLIENT_V4) };
    let reports = batch(&lab, &target, &[Kind::Python], 4)?;
    ensure!(reports.iter().all(|report| report.status.is_none()), "its JA4 is blocked: {reports:?}");
    let metrics = daemon.metrics(&lab)?;
    ensure!(
        metrics.sum("detector_kernel_responses_total", &[("response", "reset"), ("outcome", "made")]) > 0.0,
        "no reset"
    );
    ensure!(metrics.sum("detector_enforce_outcomes_total", &[("outcome", "failed")]) == 0.0, "verdicts failed");
    control_ok(&lab, &["allow", &CLIENT_V4.to_string()])?;
    ensure_answered(&lab, &from(CLIENT_V4), "allowed, whatever its JA4")?;
    control_ok(&lab, &["unblock", "--ja4", &ja4])?;

    control_ok(&lab, &["block", &OTHER_CLIENT_V4.to_string(), "--ttl", "forever"])?;
    ensure_refused(&lab, &from(OTHER_CLIENT_V4), "blocked")?;
    let said = pins_ok(&lab, &detector()?, &["mode", "enforce", "--for", "1h"])?;
    ensure!(said.contains("enforce"), "{said}");
    daemon.stop(Signal::SIGTERM)?;
    ensure_refused(&lab, &from(OTHER_CLIENT_V4), "blocked, with the daemon stopped")?;
    let daemon = Daemon::start(&lab, ALONE)?;
    ensure_refused(&lab, &from(OTHER_CLIENT_V4), "blocked, with the next daemon")?;
    daemon.stop(Signal::SIGKILL)?;
    ensure_refused(&lab, &from(OTHER_CLIENT_V4), "blocked, with the daemon killed")?;
    let daemon = Daemon::start(&lab, ALONE)?;
    let status: Value = serde_json::from_str(&control_ok(&lab, &["status", "--format", "json"])?)?;
    assert_eq!((&status["mode"], &status["interfaces"][0]["pinned"]), (&"enforce".into(), &true.into()), "{status}");
    control_ok(&lab, &["unblock", &OTHER_CLIENT_V4.to_string()])?;
    ensure_answered(&lab, &from(OTHER_CLIENT_V4), "unblocked")?;
    assert_eq!(program(lab.server(), SERVER_INTERFACE)?, attached, "it isn't what was attached at first");
    daemon.stop(Signal::SIGTERM)?;
    Ok(())
}

/// The listener's socket goes into a map, and a program that is pinned chooses it.
#[test]
fn it_steers() -> Result<()> {
    let (lab, _mount) = scene(&[SERVER_INTERFACE])?;
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, ALONE)?;
    let nginx = lab.file("nginx");
    let mut command = lab.server().command(python()?);
    command.arg("-B").arg(clients().with_file_name("challenger.py")).arg("--control").arg(control_socket(&lab));
    command.arg("--certificate").arg(nginx.join("certificate.pem")).arg("--key").arg(nginx.join("key.pem"));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut listener = Process::start("challenger.py", &mut command)?;
    let mut line = String::new();
    BufReader::new(listener.child().stdout.take().context("no pipe")?).read_line(&mut line)?;
    ensure!(line.contains("listening"), "{line}");
    control_ok(&lab, &["challenge", &CLIENT_V4.to_string()])?;
    let page = || {
        let mut command = lab.client().command("curl");
        command.args(["--silent", "--insecure", "--noproxy", "*", "--max-time", "5", "--interface"]);
        command.arg(CLIENT_V4.to_string()).arg(format!("https://{SERVER_V4}/"));
        detector_tests::process::output(&mut command)
    };
    until("the challenge", PATIENCE, || Ok((page()? == "challenge\n").then_some(()))).with_context(|| daemon.log())?;
    control_ok(&lab, &["unchallenge", &CLIENT_V4.to_string()])?;
    until("the site again", PATIENCE, || Ok((page()? == "hello\n").then_some(())))?;
    ensure!(!daemon.log().contains("no steering"), "{}", daemon.log());
    Ok(())
}

/// An interface that was made anew is told of by metric, status and doctor, and asked for; `detector attach` beside the
/// daemon puts the program there.
#[test]
fn a_lost_interface_is_told_of_and_attached_again() -> Result<()> {
    let (lab, _mount) = scene(&[SERVER_INTERFACE, "port7"])?;
    let daemon = Daemon::start(&lab, DaemonOptions { arguments: &["--interface", "port7"], ..ALONE })?;
    let states = |attached, detached| until_states(&lab, &daemon, [attached, detached]);
    let doctor = || {
        let said = daemon::control(&lab, &["doctor", "--config", &daemon::configuration(&lab).display().to_string()])?;
        Ok::<_, anyhow::Error>(String::from_utf8(said.stdout)?)
    };
    let request = control_socket(&lab).with_file_name("attach-wanted");
    states(2.0, 0.0)?;
    ensure!(!doctor()?.contains("not on port7"), "{}", doctor()?);
    lab.server().ip("link delete port7")?;
    states(1.0, 1.0)?;
    ensure!(!request.exists(), "asked for an interface that isn't there");
    add_port(&lab)?;
    until("the request", PATIENCE, || Ok(request.exists().then_some(()))).with_context(|| daemon.log())?;
    ensure!(doctor()?.contains("the program is not on port7 any more"), "{}", doctor()?);
    let said = pins_ok(&lab, &detector()?, &["attach"])?;
    ensure!(said.contains("attached to port7 (native)"), "{said}");
    states(2.0, 0.0)
}

fn until_states(lab: &Lab, daemon: &Daemon, wanted: [f64; 2]) -> Result<()> {
    until(&format!("attached and detached to be {wanted:?}"), PATIENCE, || {
        let metrics = daemon.metrics(lab)?;
        let found =
            ["attached", "detached"].map(|state| metrics.sum("detector_kernel_interfaces", &[("state", state)]));
        Ok((found == wanted).then_some(()))
    })
    .with_context(|| daemon.log())
}

/// What an operator has taken away is told of, and nobody is asked to put it back.
#[test]
fn who_detaches_is_not_undone() -> Result<()> {
    let (lab, _mount) = scene(&[SERVER_INTERFACE])?;
    let daemon = Daemon::start(&lab, ALONE)?;
    until_states(&lab, &daemon, [1.0, 0.0])?;
    pins_ok(&lab, &detector()?, &["detach"])?;
    until_states(&lab, &daemon, [0.0, 1.0])?;
    ensure!(!control_socket(&lab).with_file_name("attach-wanted").exists(), "{}", daemon.log());
    Ok(())
}

/// What is pinned for other sizes, or for nobody, is refused with the command that mends it.
#[test]
fn pins_of_other_sizes_are_refused() -> Result<()> {
    let (lab, _mount) = scene(&[SERVER_INTERFACE])?;
    let refused = Daemon::start(&lab, DaemonOptions { config: "[limits]\nprefixes = 1000\n", ..ALONE });
    let said = format!("{:#}", refused.err().context("it took pins of another size")?);
    ensure!(said.contains("max_entries") && said.contains("`detector attach`"), "{said}");
    let both = Daemon::start(&lab, ALONE)?;
    let done = pins(&lab, &detector()?, &["attach", "--group", "nosuchgroup"])?;
    let said = String::from_utf8(done.stderr)?;
    ensure!(done.status.code() == Some(64) && said.contains("no group `nosuchgroup`"), "{said}");
    both.stop(Signal::SIGTERM)?;
    pins_ok(&lab, &detector()?, &["detach"])?;
    let refused = Daemon::start(&lab, ALONE);
    let said = format!("{:#}", refused.err().context("it loaded without capabilities")?);
    ensure!(said.contains("needs root, or CAP_BPF") && said.contains("detector-loader"), "{said}");
    Ok(())
}
