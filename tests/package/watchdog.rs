//! threats.md T50: a part of the daemon hangs, one after another. The service manager restarts it in time, the log says
//! which part it was, and who is blocked stays blocked all the while.

use std::time::Duration;

use anyhow::{Result, ensure};
use detector_tests::{
    clients::{Kind, Loop, Report},
    deadline::{PATIENCE, monotonic_seconds, until},
    figures::show,
    lab::{CLIENT_V4, OTHER_CLIENT_V4},
    programs,
    server::Nginx,
};

use crate::{
    VERSION,
    installed::{from, install, lab, property},
    machine::Machine,
};

/// The parts, as the log names them.
const PARTS: [&str; 5] = [
    "the packet path",
    "the signal sockets",
    "the joiner of hellos and reports",
    "operators' orders",
    "the control socket",
];
/// In place of the 30 s that are shipped, so that five of them pass within a minute.
const WATCHDOG: Duration = Duration::from_secs(6);
/// From then until the daemon is ready again.
const RESTART: Duration = Duration::from_secs(5);
/// Where the service may write, and what it loses with its restart.
const FAULT: &str = "/run/detector/fault";

/// The installed service, with the build that hangs when it is told to.
fn hanging(machine: &Machine) -> Result<()> {
    install(machine, VERSION)?;
    assert_eq!(property(machine, "WatchdogUSec")?, "30s");
    machine.run("! grep -q DETECTOR_FAULT /usr/bin/detector")?;
    machine.bring(&programs::detector_wide()?, "/usr/bin/detector.hangs")?;
    let drop_in = format!("[Service]\\nWatchdogSec={}\\nEnvironment=DETECTOR_FAULT={FAULT}\\n", WATCHDOG.as_secs());
    machine.run(&format!(
        "mv /usr/bin/detector.hangs /usr/bin/detector && grep -q DETECTOR_FAULT /usr/bin/detector \
         && mkdir /etc/systemd/system/detector.service.d \
         && printf '{drop_in}' >/etc/systemd/system/detector.service.d/test.conf \
         && systemctl daemon-reload && systemctl restart detector"
    ))?;
    Ok(())
}

#[test]
fn whatever_part_hangs_the_daemon_is_restarted_and_blocks_hold() -> Result<()> {
    let lab = lab()?;
    let _nginx = Nginx::start(&lab)?;
    let machine = Machine::boot(&lab)?;
    hanging(&machine)?;
    machine.run(&format!("detector block {OTHER_CLIENT_V4} --ttl 1h"))?;
    let began = monotonic_seconds()?;
    let good = Loop::start(&lab, &from(CLIENT_V4), Kind::Python, Duration::from_millis(50))?;
    let bad = Loop::start(&lab, &from(OTHER_CLIENT_V4), Kind::Python, Duration::from_millis(50))?;
    bad.since(began, 1, PATIENCE)?;
    let mut took = Vec::new();
    for (restarts, part) in (1..).zip(PARTS) {
        let pid = property(&machine, "MainPID")?;
        machine.run(&format!("echo \"{part}\" >{FAULT}"))?;
        let file = machine.file(FAULT);
        until(&format!("{part} to hang"), PATIENCE, || Ok((!file.exists()).then_some(())))?;
        let hung = monotonic_seconds()?;
        until(&format!("a restart after {part} hung"), WATCHDOG + RESTART, || {
            let another = property(&machine, "MainPID")? != pid;
            Ok((another && property(&machine, "SubState")? == "running").then_some(()))
        })?;
        took.push(format!("{part} {:.1} s", monotonic_seconds()? - hung));
        assert_eq!(property(&machine, "NRestarts")?, restarts.to_string(), "{part}");
        let log = machine.run("journalctl --unit detector --output cat --no-pager")?;
        let named = format!("\"still\":\"{part}\"");
        ensure!(log.contains(&named), "the log doesn't say that {part} hung:\n{log}");
        ensure!(log.matches("Watchdog timeout").count() == restarts, "not by the watchdog:\n{log}");
        ensure!(machine.run("detector list")?.contains(&OTHER_CLIENT_V4.to_string()), "the order is forgotten");
    }
    let restarted = monotonic_seconds()?;
    good.since(restarted, 3, PATIENCE)?;
    bad.since(restarted, 1, PATIENCE)?;
    let (good, bad) = (good.stop(PATIENCE)?, bad.stop(PATIENCE)?);
    let failed: Vec<_> = good.iter().filter(|report| !report.answered()).collect();
    ensure!(failed.is_empty(), "{} of {} connections failed: {failed:?}", failed.len(), good.len());
    ensure!(!bad.iter().any(Report::answered), "the blocked address got through");
    show(&format!(
        "ready again, with a watchdog of {} s, after the hang of {}; meanwhile {} connections, 0 failed, and {} of the \
         blocked address, 0 through",
        WATCHDOG.as_secs(),
        took.join(", "),
        good.len(),
        bad.len()
    ));
    Ok(())
}
