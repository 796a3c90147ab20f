//! What the daemon of the package may do (threats.md T61): no capability, and nothing of what somebody would try who had
//! taken it over. And what it leaves to the loader is done without it being started again.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use detector_tests::{
    deadline::{PATIENCE, until},
    lab::{OTHER_CLIENT_V4, SERVER_INTERFACE},
    process::output,
    server::Nginx,
};

use crate::{
    VERSION,
    installed::{ensure_blocked, field, install, lab, property, status},
    machine::Machine,
};

/// How many things are tried.
const FORBIDDEN: usize = 21;
/// As few of them may be refused to root outside of the sandbox, or the attempts would show nothing.
const REFUSED_TO_ROOT: usize = 3;
/// CAP_BPF (linux/capability.h: 39).
const CAP_BPF: u64 = 1 << 39;

/// The daemon's capabilities: effective, permitted, inheritable, ambient, and what it could ever have.
fn capabilities(machine: &Machine) -> Result<Vec<u64>> {
    let set = |name| Ok(u64::from_str_radix(&field(machine, name)?, 16)?);
    ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"].into_iter().map(set).collect()
}

/// The daemon's unit with `attempts` in place of the daemon, which print to `file`: every line that says what it may do is
/// the same.
pub(crate) fn probe(unit: &str, attempts: &str, file: &str) -> String {
    let own = ["Type=", "NotifyAccess=", "WatchdogSec=", "Restart=", "RestartSec=", "ExecReload=", "StandardOutput="];
    let kept = unit.lines().filter(|line| !own.iter().any(|key| line.starts_with(key))).map(|line| {
        if line.starts_with("ExecStart=") {
            format!(
                "Type=oneshot\nStandardOutput=truncate:{file}\nRuntimeDirectoryPreserve=yes\n\
                 ExecStart=/usr/bin/perl {attempts}"
            )
        } else {
            line.to_owned()
        }
    });
    kept.collect::<Vec<_>>().join("\n")
}

fn refused(said: &str) -> Result<usize> {
    ensure!(said.lines().count() == FORBIDDEN, "{said}");
    Ok(said.lines().filter(|line| line.starts_with("refused ")).count())
}

#[test]
fn the_daemon_has_no_capability_and_is_refused_all_it_needs_not() -> Result<()> {
    let lab = lab()?;
    let _nginx = Nginx::start(&lab)?;
    let machine = Machine::boot(&lab)?;
    install(&machine, VERSION)?;
    assert_eq!(capabilities(&machine)?, [0; 5]);
    assert_eq!((field(&machine, "NoNewPrivs")?.as_str(), field(&machine, "Seccomp")?.as_str()), ("1", "2"));

    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("package/forbidden.pl");
    machine.bring(&script, "/usr/local/forbidden.pl")?;
    let unit = fs::read_to_string(machine.file("/lib/systemd/system/detector.service"))?;
    fs::write(
        machine.file("/etc/systemd/system/forbidden.service"),
        probe(&unit, "/usr/local/forbidden.pl /run/detector/pins", "/root/forbidden"),
    )?;
    machine.run("systemctl daemon-reload && systemctl start forbidden")?;
    let said = machine.run("cat /root/forbidden")?;
    ensure!(refused(&said)? == FORBIDDEN, "{said}");
    let said = machine.run("perl /usr/local/forbidden.pl /sys/fs/bpf/detector")?;
    ensure!(refused(&said)? <= REFUSED_TO_ROOT, "refused to root as well: {said}");
    ensure!(status(&machine).is_ok(), "the daemon is gone");

    // Its link is taken off the interface: it asks, and the loader attaches again. Nobody gets through meanwhile who is
    // blocked afterwards.
    machine.run(&format!("detector block {OTHER_CLIENT_V4} --ttl 1h"))?;
    let pid = property(&machine, "MainPID")?;
    let links = machine.file("/sys/fs/bpf/detector/links");
    let link = fs::read_dir(&links)?.filter_map(|entry| Some(entry.ok()?.path()));
    let link =
        link.into_iter().find(|path| !path.ends_with(format!("egress-{SERVER_INTERFACE}"))).context("no link")?;
    output(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(&link))?;
    until("the program to be back", PATIENCE, || {
        let interface = lab.server().ip(&format!("link show dev {SERVER_INTERFACE}"))?;
        Ok(interface.contains("xdp").then_some(()))
    })
    .with_context(|| machine.run("journalctl --no-pager --lines 40").unwrap_or_default())?;
    ensure_blocked(&lab, "attached again")?;
    assert_eq!(property(&machine, "MainPID")?, pid, "it was started again");

    // With what Linux 5.18 needs it has that one capability, and no other.
    let drop_in = "/usr/share/detector/systemd/linux-5.18.conf -t /etc/systemd/system/detector.service.d";
    machine.run(&format!("install -D -m 644 {drop_in} && systemctl daemon-reload && systemctl restart detector"))?;
    assert_eq!(capabilities(&machine)?[..2], [CAP_BPF; 2]);
    assert_eq!(capabilities(&machine)?[4], CAP_BPF);
    ensure_blocked(&lab, "with CAP_BPF")?;
    Ok(())
}
