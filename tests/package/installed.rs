//! The .deb where systemd runs: it observes, an order holds over restarts and an upgrade, and a purge leaves nothing.

use std::{fs, net::IpAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use detector_tests::{
    clients::{Kind, Loop, Report, Target, batch},
    deadline::{PATIENCE, monotonic_seconds, until},
    lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_INTERFACE, SERVER_V4},
    server::Nginx,
};
use serde_json::Value;

use crate::{OLDER, VERSION, deb, machine::Machine};

/// A lab whose server's namespace has a default route, by which the daemon finds its interface. Nobody is there.
pub(crate) fn lab() -> Result<Lab> {
    let lab = Lab::new(LabOptions::default())?;
    lab.server().ip("route add default via 10.77.0.254")?;
    Ok(lab)
}

pub(crate) fn install(machine: &Machine, version: &str) -> Result<String> {
    machine.bring(&deb(version)?, "/root/detector.deb")?;
    machine.run("dpkg --install /root/detector.deb 2>&1")
}

/// A client that gives up soon.
pub(crate) fn from(source: IpAddr) -> Target {
    Target { source: Some(source), timeout: Duration::from_secs(2), ..Target::new(SERVER_V4) }
}

fn answered(lab: &Lab, source: IpAddr) -> Result<bool> {
    Ok(batch(lab, &from(source), &[Kind::Python], 2)?.iter().all(Report::answered))
}

pub(crate) fn ensure_blocked(lab: &Lab, when: &str) -> Result<()> {
    let reports = batch(lab, &from(OTHER_CLIENT_V4), &[Kind::Python], 2)?;
    ensure!(!reports.iter().any(Report::answered), "{when}: the blocked address is answered");
    ensure!(answered(lab, CLIENT_V4)?, "{when}: its neighbour isn't");
    Ok(())
}

pub(crate) fn status(machine: &Machine) -> Result<Value> {
    Ok(serde_json::from_str(&machine.run("detector status --format json")?)?)
}

pub(crate) fn property(machine: &Machine, name: &str) -> Result<String> {
    let said = machine.run(&format!("systemctl show --property {name} --value detector"))?;
    Ok(said.trim().to_owned())
}

/// A line of the daemon's /proc/PID/status.
pub(crate) fn field(machine: &Machine, name: &str) -> Result<String> {
    let status = machine.run(&format!("cat /proc/{}/status", property(machine, "MainPID")?))?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no `{name}`"))?.trim().to_owned())
}

/// What bpftool tells of the maps and links that are pinned: each as `map id N` or `link id N`.
fn pinned(directory: &Path) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            found.extend(pinned(&path)?);
            continue;
        }
        for kind in ["map", "link"] {
            let told = Command::new("bpftool").args(["--json", kind, "show", "pinned"]).arg(&path).output()?;
            let told: Value = serde_json::from_slice(&told.stdout).unwrap_or_default();
            if let Some(id) = told["id"].as_u64() {
                found.push((kind, id.to_string()));
            }
        }
    }
    Ok(found)
}

#[test]
fn it_observes_enforces_and_leaves_nothing_behind() -> Result<()> {
    let lab = lab()?;
    let _nginx = Nginx::start(&lab)?;
    let machine = Machine::boot(&lab)?;
    let before = machine.tree()?;
    let users = machine.run("cat /etc/passwd /etc/group")?;
    let said = install(&machine, VERSION)?;
    ensure!(said.contains("detector observes, and drops nothing"), "dpkg said: {said}");

    // As its user.
    let user = machine.run("id --user detector")?;
    ensure!(field(&machine, "Uid")?.split_whitespace().all(|uid| uid == user.trim()), "not its own user");
    ensure!(property(&machine, "StatusText")?.contains(SERVER_INTERFACE), "no status");

    // Its log is where one looks for it.
    ensure!(machine.run("journalctl --unit detector --no-pager")?.contains("\"ready\""), "no log");

    // It observes.
    ensure!(answered(&lab, CLIENT_V4)?, "a client isn't answered");
    until("the hello to be counted", PATIENCE, || {
        let top = status(&machine)?["fingerprints"].as_array().map_or(0, Vec::len);
        Ok((top > 0).then_some(()))
    })?;
    let queue = status(&machine)?["signals"]["queue"].as_u64();
    ensure!(queue == Some(1024), "the signal socket's queue is {queue:?}: the parameter came too late");

    // It enforces, and holds that over a stop, a restart and its own death.
    machine.run(&format!("detector block {OTHER_CLIENT_V4} --ttl 1h"))?;
    ensure_blocked(&lab, "blocked")?;
    machine.run("systemctl stop detector")?;
    ensure_blocked(&lab, "stopped")?;
    machine.run("systemctl start detector")?;
    ensure_blocked(&lab, "started again")?;
    machine.run("systemctl kill --signal KILL --kill-whom main detector")?;
    until("it to be back", PATIENCE, || Ok((property(&machine, "NRestarts")? == "1").then_some(())))?;
    until("it to be ready", PATIENCE, || Ok((property(&machine, "SubState")? == "running").then_some(())))?;
    ensure_blocked(&lab, "after its death")?;
    ensure!(machine.run("detector list")?.contains(&OTHER_CLIENT_V4.to_string()), "the order is forgotten");

    // Its watchdog is fed.
    let fed = || property(&machine, "WatchdogTimestampMonotonic");
    let first = fed()?;
    until("the watchdog to be fed", PATIENCE, || Ok((fed()? != first).then_some(())))?;

    // It takes a configuration over that is right, and goes on with its own beside a wrong one.
    let pid = property(&machine, "MainPID")?;
    let change = "sed -i 's/^block_ttl = .*/block_ttl = \"2h\"/' /etc/detector/detector.toml";
    machine.run(&format!("{change} && ! detector config diff && systemctl reload detector"))?;
    until("the change to be in force", PATIENCE, || Ok(machine.run("detector config diff").is_ok().then_some(())))?;
    let wrong = "echo 'block_tll = 1' >>/etc/detector/detector.toml && systemctl reload detector";
    ensure!(machine.run(wrong).is_err(), "a wrong configuration is taken");
    ensure!(property(&machine, "MainPID")? == pid && status(&machine).is_ok(), "it didn't go on");

    let all = pinned(&machine.file("/sys/fs/bpf/detector"))?;
    let count = |kind| all.iter().filter(|(found, _)| *found == kind).count();
    ensure!(count("map") > 10 && count("link") == 2, "{all:?}");
    // A daemon that could put nothing in order is no excuse.
    machine.run("systemctl kill --signal KILL --kill-whom main detector && dpkg --purge detector 2>&1")?;
    ensure!(!machine.file("/sys/fs/bpf/detector").exists(), "pins are left");
    let link = lab.server().ip(&format!("link show dev {SERVER_INTERFACE}"))?;
    ensure!(!link.contains("xdp"), "a program is left: {link}");
    for (kind, id) in &all {
        until(&format!("{kind} {id} to be gone"), PATIENCE, || {
            let told = Command::new("bpftool").args([kind, "show", "id", id]).output()?;
            Ok((!told.status.success()).then_some(()))
        })?;
    }
    ensure!(answered(&lab, OTHER_CLIENT_V4)?, "somebody is still blocked");
    assert_eq!(machine.run("cat /etc/passwd /etc/group")?, users);
    let after = machine.tree()?;
    let left: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    let lost: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    ensure!(left.is_empty() && lost.is_empty(), "left: {left:#?}\nlost: {lost:#?}");
    Ok(())
}

/// Connections begin all the while: none fails, and none of the blocked address gets through.
#[test]
fn an_upgrade_under_traffic_costs_nobody_anything() -> Result<()> {
    let lab = lab()?;
    let _nginx = Nginx::start(&lab)?;
    let machine = Machine::boot(&lab)?;
    install(&machine, OLDER)?;
    machine.run(&format!("detector block {OTHER_CLIENT_V4} --ttl 1h"))?;
    // What the operator has changed stays.
    machine.run("echo '# mine' >>/etc/detector/detector.toml")?;
    ensure_blocked(&lab, "before")?;
    let began = monotonic_seconds()?;
    let good = Loop::start(&lab, &Target { parallel: 4, ..from(CLIENT_V4) }, Kind::Python, Duration::from_millis(5))?;
    let bad = Loop::start(&lab, &from(OTHER_CLIENT_V4), Kind::Python, Duration::ZERO)?;
    good.since(began, 20, PATIENCE)?;
    let pid = property(&machine, "MainPID")?;
    install(&machine, VERSION)?;
    ensure!(property(&machine, "MainPID")? != pid, "the old program still runs");
    assert_eq!(machine.run("dpkg-query --show --showformat '${Version}' detector")?, VERSION);
    let upgraded = monotonic_seconds()?;
    good.since(upgraded, 20, PATIENCE)?;
    bad.since(upgraded, 1, PATIENCE)?;
    let (good, bad) = (good.stop(PATIENCE)?, bad.stop(PATIENCE)?);
    let failed: Vec<_> = good.iter().filter(|report| !report.answered()).collect();
    ensure!(failed.is_empty(), "{} of {} connections failed: {failed:?}", failed.len(), good.len());
    ensure!(!bad.iter().any(Report::answered), "the blocked address got through");
    println!(
        "{} connections during the upgrade, 0 failed; {} of the blocked address, 0 through",
        good.len(),
        bad.len()
    );
    ensure!(machine.run("cat /etc/detector/detector.toml")?.ends_with("# mine\n"), "the configuration is lost");
    Ok(())
}
