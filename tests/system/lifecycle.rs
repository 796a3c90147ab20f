//! Done when 6 of part 1: how the daemon ends, comes back and gets out of the way. Its links go when it goes; it never
//! replaces another program; a link that flaps doesn't stop it.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Report, Target, batch};
use detector_tests::daemon::{
    Daemon, DaemonOptions, GUESSED, control, control_ok, control_socket, refusal, refusal_of_socket,
};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::hello::Hello;
use detector_tests::lab::{Lab, LabOptions, SERVER_INTERFACE, SERVER_V4, SERVER_V6};
use detector_tests::link::{XdpMode, program, xdp};
use detector_tests::process::output;
use detector_tests::server::Nginx;
use nix::sys::signal::Signal;

#[test]
fn sigterm_ends_it_cleanly() -> Result<()> {
    ends_cleanly(Signal::SIGTERM)
}

#[test]
fn ctrl_c_ends_it_cleanly() -> Result<()> {
    ends_cleanly(Signal::SIGINT)
}

fn ends_cleanly(signal: Signal) -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, Some(XdpMode::Native), "native comes first");
    // A block in force must not outlive the daemon either.
    control_ok(&lab, &["block", "10.77.0.0/24"])?;
    let status = daemon.stop(signal)?;
    assert_eq!(status.code(), Some(0), "after {signal}");
    assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, None, "after {signal}");
    ensure!(!control_socket(&lab).exists(), "the control socket is left after {signal}");
    let (reports, why) = (visit(&lab)?, "with the daemon gone");
    ensure!(reports.iter().all(Report::answered), "{why}: {reports:?}");
    let asked = control(&lab, &["status"])?;
    assert_eq!(asked.status.code(), Some(69), "{}", String::from_utf8_lossy(&asked.stderr));
    Ok(())
}

/// After SIGKILL nobody tidied up: the kernel took the links, the socket's file is still there.
#[test]
fn the_next_start_takes_over_after_sigkill() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    daemon.stop(Signal::SIGKILL)?;
    until("the kernel to take the link", PATIENCE, || {
        Ok(xdp(lab.server(), SERVER_INTERFACE)?.is_none().then_some(()))
    })?;
    ensure!(control_socket(&lab).exists(), "SIGKILL was to leave the socket's file: this tests nothing");
    let next = Daemon::start(&lab, DaemonOptions::default())?;
    captures(&lab, &next)?;
    control_ok(&lab, &["status"])?;
    Ok(())
}

/// The interface goes down and comes back, in either mode: hellos are captured again, without a restart.
#[test]
fn a_link_flap_is_survived() -> Result<()> {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let lab = Lab::new(LabOptions::default())?;
        let _nginx = Nginx::start(&lab)?;
        let mut daemon = Daemon::start(&lab, DaemonOptions { mode: Some(mode), ..DaemonOptions::default() })?;
        captures(&lab, &daemon)?;
        for _ in 0..3 {
            lab.server().ip(&format!("link set {SERVER_INTERFACE} down"))?;
            lab.server().ip(&format!("link set {SERVER_INTERFACE} up"))?;
        }
        until("the link to be up again", PATIENCE, || Ok(visit(&lab)?.iter().all(Report::answered).then_some(())))?;
        captures(&lab, &daemon)?;
        assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, Some(mode));
        ensure!(daemon.ended()?.is_none(), "it ended: {}", daemon.log());
    }
    Ok(())
}

/// Who read its lines has gone: each is counted as dropped, none as written, and all else goes on.
#[test]
fn lines_that_nobody_reads_are_counted_and_hold_up_nothing() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let mut daemon = Daemon::start(&lab, DaemonOptions { unread: true, ..DaemonOptions::default() })?;
    for hellos in [1.0, 2.0, 3.0] {
        visit(&lab)?;
        until("the lines to be dropped", PATIENCE, || {
            let metrics = daemon.metrics(&lab)?;
            let lines =
                |outcome| metrics.sum("detector_queue_items_total", &[("queue", "hello_lines"), ("outcome", outcome)]);
            ensure!(lines("written") == 0.0, "a line that nobody reads counts as written");
            Ok((lines("dropped") >= hellos && lines("dropped") == lines("queued")).then_some(()))
        })?;
    }
    ensure!(!control_ok(&lab, &["status"])?.is_empty());
    ensure!(daemon.ended()?.is_none(), "it ended: {}", daemon.log());
    Ok(())
}

/// A second daemon finds a program that isn't its own on the interface: it refuses, in every mode, and the first goes
/// on. The same for the control socket of a living daemon.
#[test]
fn another_program_is_never_replaced() -> Result<()> {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let lab = Lab::new(LabOptions::default())?;
        let _nginx = Nginx::start(&lab)?;
        let first = Daemon::start(&lab, DaemonOptions { mode: Some(mode), ..DaemonOptions::default() })?;
        let before = lab.server().ip(&format!("-d link show dev {SERVER_INTERFACE}"))?;
        let (code, said) = refusal(&lab, SERVER_INTERFACE)?;
        ensure!(code == Some(1), "exit code {code:?}: {said}");
        ensure!(said.contains(SERVER_INTERFACE) && said.to_lowercase().contains("xdp"), "it says only: {said}");
        assert_eq!(lab.server().ip(&format!("-d link show dev {SERVER_INTERFACE}"))?, before);

        let (code, said) = refusal_of_socket(&lab, SERVER_INTERFACE)?;
        ensure!(code.is_some_and(|code| code != 0), "exit code {code:?}: {said}");
        control_ok(&lab, &["status"])?;
        captures(&lab, &first)?;
    }
    Ok(())
}

/// Nor is one that another tool attached by netlink, which no link of a process holds.
#[test]
fn another_tools_program_is_never_replaced() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    lab.server().ip("link add port7 type veth peer name port8")?;
    // The only program at hand is the daemon's own: bpftool puts it on the wire, and the daemon goes.
    let daemon = Daemon::start(&lab, DaemonOptions { interface: Some("port7"), ..DaemonOptions::default() })?;
    let id = program(lab.server(), "port7")?.context("no program on `port7`")?;
    let attach = ["net", "attach", "xdp", "id", &id.to_string(), "dev", SERVER_INTERFACE];
    output(lab.server().command("bpftool").args(attach))?;
    daemon.stop(Signal::SIGTERM)?;
    assert_eq!(program(lab.server(), SERVER_INTERFACE)?, Some(id));

    let (code, said) = refusal(&lab, SERVER_INTERFACE)?;
    ensure!(code == Some(1), "exit code {code:?}: {said}");
    ensure!(said.contains(SERVER_INTERFACE) && said.to_lowercase().contains("xdp"), "it says only: {said}");
    assert_eq!(program(lab.server(), SERVER_INTERFACE)?, Some(id));
    Ok(())
}

/// A bridge is no place for XDP: the error names the port to use instead.
#[test]
fn a_bridge_is_refused_with_the_name_of_its_port() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    for step in [
        "link add port7 type veth peer name port8",
        "link add bridge0 type bridge",
        "link set port7 master bridge0",
        "link set port7 up",
        "link set bridge0 up",
    ] {
        lab.server().ip(step)?;
    }
    let (code, said) = refusal(&lab, "bridge0")?;
    ensure!(code == Some(64) || code == Some(1), "exit code {code:?}: {said}");
    ensure!(said.contains("bridge0") && said.contains("port7"), "it says only: {said}");
    assert_eq!(xdp(lab.server(), "bridge0")?, None);
    assert_eq!(xdp(lab.server(), "port7")?, None);
    Ok(())
}

#[test]
fn an_unknown_interface_is_refused_by_name() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let (code, said) = refusal(&lab, "sever0")?;
    ensure!(code.is_some_and(|code| code != 0), "exit code {code:?}: {said}");
    ensure!(said.contains("sever0"), "it says only: {said}");
    Ok(())
}

/// The interface of the default route is taken; where there is none, the command is said that names one, and works.
#[test]
fn the_interface_is_guessed_or_the_command_that_names_it_is_said() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let (code, said) = refusal(&lab, GUESSED)?;
    let interface = said.lines().find_map(|line| line.trim().strip_prefix("detector run --interface "));
    ensure!(code == Some(64) && said.lines().count() <= 3, "{code:?}: {said}");
    ensure!(interface == Some(SERVER_INTERFACE), "it says only: {said}");
    let daemon = Daemon::start(&lab, DaemonOptions { interface: Some(SERVER_INTERFACE), ..DaemonOptions::default() })?;
    captures(&lab, &daemon)?;
    daemon.stop(Signal::SIGTERM)?;
    lab.server().ip("route add default via 10.77.0.254")?;
    let daemon = Daemon::start(&lab, DaemonOptions { interface: Some(GUESSED), ..DaemonOptions::default() })?;
    let begun = Instant::now();
    captures(&lab, &daemon)?;
    println!("{} ms from the first of two connections to the line of the second", begun.elapsed().as_millis());
    Ok(())
}

/// One connection by either protocol.
fn visit(lab: &Lab) -> Result<Vec<Report>> {
    let mut reports = batch(lab, &Target::new(SERVER_V4), &[Kind::Python], 1)?;
    reports.extend(batch(lab, &Target::new(SERVER_V6), &[Kind::Python], 1)?);
    Ok(reports)
}

/// Both connections are answered, and the daemon tells both hellos.
fn captures(lab: &Lab, daemon: &Daemon) -> Result<()> {
    for report in visit(lab)? {
        ensure!(report.answered(), "{report:?}");
        let _: Hello = daemon.hello_from(report.port.context("no port")?)?;
    }
    Ok(())
}
