//! Both packages where no systemd runs, or none is installed: they install, with the same files and the same users.

use std::process::Command;

use anyhow::{Result, ensure};
use detector_tests::{
    lab::{Lab, LabOptions},
    process::output,
};

use crate::{VERSION, deb, machine::Machine, rpm};

/// Of a package manager's list of files: mode, owner, group, size and name of each, as they are there.
fn listed(machine: &Machine, list: &str) -> Result<Vec<String>> {
    let line = format!("{list} | grep -v '^/\\.$' | xargs stat --format '%a %U:%G %F %n'");
    let mut lines: Vec<String> = machine.run(&line)?.lines().map(str::to_owned).collect();
    // The system's directories are in a .deb's list, and in no .rpm's.
    lines.retain(|line| !line.contains(" directory "));
    lines.sort();
    Ok(lines)
}

fn sums(machine: &Machine, files: &[String]) -> Result<String> {
    let names: Vec<&str> = files.iter().filter_map(|line| line.rsplit(' ').next()).collect();
    machine.run(&format!("sha256sum {}", names.join(" ")))
}

fn users(machine: &Machine) -> Result<String> {
    machine.run("id --name --groups detector; id --name --groups detector-feeds; getent group detector-signal")
}

#[test]
fn deb_and_rpm_install_the_same_without_systemd() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let (of_deb, of_rpm) = (Machine::idle(&lab, "deb")?, Machine::idle(&lab, "rpm")?);
    // One host has systemd, but not running; the other has nothing of it.
    of_rpm.run("rm /usr/bin/systemctl /usr/bin/systemd-*")?;
    of_deb.bring(&deb(VERSION)?, "/root/detector.deb")?;
    of_deb.run("dpkg --install /root/detector.deb 2>&1")?;
    // Debian's packages aren't in rpm's database, and so not what it would need.
    let root = of_rpm.file("/");
    output(Command::new("rpm").arg("--root").arg(&root).args(["--install", "--nodeps"]).arg(rpm(VERSION)?))?;

    let files = listed(&of_deb, "dpkg --listfiles detector")?;
    let said = output(Command::new("rpm").arg("--root").arg(&root).args(["--query", "--list", "detector"]))?;
    let names: Vec<&str> = said.lines().collect();
    assert_eq!(listed(&of_rpm, &format!("printf '%s\\n' {}", names.join(" ")))?, files);
    assert_eq!(sums(&of_rpm, &files)?, sums(&of_deb, &files)?);
    for wanted in ["/usr/bin/detector", "/etc/detector/detector.toml", "/usr/share/man/man1/detector-block.1.gz"] {
        ensure!(files.iter().any(|line| line.ends_with(wanted)), "no `{wanted}`: {files:#?}");
    }
    assert_eq!(
        users(&of_rpm)?.lines().take(2).collect::<Vec<_>>(),
        users(&of_deb)?.lines().take(2).collect::<Vec<_>>()
    );
    // What is installed reads a file, without root and without a configuration.
    ensure!(of_deb.run("detector --version")?.starts_with("detector "), "it doesn't run");

    // The same happens at each moment: the scripts share all but which function is called.
    let scripts = output(Command::new("rpm").args(["--query", "--scripts", "--package"]).arg(rpm(VERSION)?))?;
    let postinst = of_deb.run("cat /var/lib/dpkg/info/detector.postinst")?;
    let functions = postinst.trim_start_matches("#!/bin/sh\n").split("\ncase ").next().unwrap_or_default().trim();
    assert_eq!(scripts.matches(functions).count(), 3, "{scripts}");

    output(Command::new("rpm").arg("--root").arg(&root).args(["--erase", "detector"]))?;
    ensure!(
        !of_rpm.file("/usr/bin/detector").exists() && !of_rpm.file("/usr/share/detector").exists(),
        "files are left"
    );
    of_deb.run("dpkg --purge detector 2>&1")?;
    ensure!(!of_deb.file("/etc/detector").exists(), "the configuration is left");
    Ok(())
}
