//! `detector doctor` beside a live daemon: each thing that can go wrong here is made to, is found, and is gone once what
//! the doctor says has been typed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, configuration, control_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{Lab, LabOptions, SERVER_INTERFACE};
use detector_tests::link::XdpMode;
use detector_tests::pins::{self, BpfMount};
use detector_tests::process::output;
use detector_tests::programs;
use nix::sys::signal::Signal;
use serde_json::Value;

/// Groups that any Debian has.
const GROUPS: &str =
    "[admin]\ncontrol_group = \"backup\"\nstatus_group = \"www-data\"\n[signals]\ngroup = \"www-data\"\n";

/// What it looks at beside a daemon, whatever it finds. A web server's configuration it can only look at where one is.
const CHECKS: [&str; 10] = ["kernel", "bpf", "btf", "config", "daemon", "xdp", "pins", "sockets", "losses", "reports"];

/// A finding with this in it.
struct Found {
    state: String,
    what: String,
    help: String,
}

fn look(lab: &Lab) -> Result<(Vec<Value>, Option<i32>)> {
    let done = pins::pins(lab, &programs::detector()?, &["doctor", "--format", "json"])?;
    let findings =
        String::from_utf8(done.stdout)?.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    ensure!(!findings.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    let problems = findings.iter().any(|finding| finding["state"] == "problem");
    ensure!(done.status.code() == Some(i32::from(problems)), "{:?}: {findings:?}", done.status);
    Ok((findings, done.status.code()))
}

/// What is wrong with `check`, in these words.
fn ill(lab: &Lab, check: &str, words: &str) -> Result<Option<Found>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (findings, _) = look(lab)?;
    let found = findings.iter().find(|finding| {
        finding["check"] == check && finding["state"] != "ok" && text(&finding["what"]).contains(words)
    });
    Ok(found.map(|found| Found {
        state: text(&found["state"]),
        what: text(&found["what"]),
        help: text(&found["help"]),
    }))
}

fn wrong(lab: &Lab, check: &str, words: &str) -> Result<Found> {
    let found = until(&format!("`{words}` of {check}"), PATIENCE, || ill(lab, check, words));
    found.with_context(|| format!("{:#?}", look(lab)))
}

/// Types what the doctor says, where the daemon is.
fn type_in(lab: &Lab, help: &str) -> Result<()> {
    let program = programs::detector()?;
    let directory = program.parent().context("a directory")?;
    let mut path = directory.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut shell = lab.server().command("sh");
    shell.args(["-ec", help]).env("PATH", path).env("DETECTOR_CONTROL_SOCKET", control_socket(lab));
    output(&mut shell).with_context(|| help.to_owned())?;
    Ok(())
}

/// Found, put right by the help's own words, and gone.
fn is_put_right(lab: &Lab, check: &str, words: &str, state: &str) -> Result<()> {
    let found = wrong(lab, check, words)?;
    ensure!(found.state == state, "{}: {}", found.what, found.state);
    type_in(lab, &found.help)?;
    until(&format!("`{words}` to be gone"), PATIENCE, || Ok(ill(lab, check, words)?.is_none().then_some(())))
}

fn configure(lab: &Lab, more: &str) -> Result<()> {
    Ok(fs::write(configuration(lab), format!("{GROUPS}{more}"))?)
}

#[test]
fn what_it_says_puts_right_what_it_finds() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    configure(&lab, "")?;
    let _mount = BpfMount::new(&lab)?;
    pins::pins_ok(&lab, &programs::detector()?, &["attach", "--interface", SERVER_INTERFACE])?;
    let daemon = Daemon::start(&lab, DaemonOptions { config: GROUPS, ..DaemonOptions::default() })?;
    let (findings, code) = look(&lab)?;
    ensure!(code == Some(0), "nothing is wrong: {findings:?}");
    for check in CHECKS {
        ensure!(findings.iter().any(|finding| finding["check"] == check), "nothing about {check}: {findings:?}");
    }

    // Sockets.
    let control = control_socket(&lab);
    let status = control.with_extension("status.sock");
    let change = |program: &str, word: &str, path: &Path| output(Command::new(program).arg(word).arg(path));
    change("chmod", "0666", &control)?;
    is_put_right(&lab, "sockets", "anybody on this host may use it", "problem")?;
    change("chmod", "0600", &status)?;
    is_put_right(&lab, "sockets", "has mode 0600, not 0660", "warning")?;
    change("chgrp", "root", &status)?;
    is_put_right(&lab, "sockets", "is not of the group www-data", "warning")?;

    // The interface.
    lab.server().ip(&format!("link set {SERVER_INTERFACE} down"))?;
    is_put_right(&lab, "interface", "is down: nothing comes in there", "problem")?;

    // The configuration: one that a reload takes over, one that takes a restart, one that is wrong.
    configure(&lab, "[policy]\nblock_ttl = \"3h\"\n")?;
    let changed = wrong(&lab, "config", "goes by other values of policy.block_ttl")?;
    let (_, command) = changed.help.rsplit_once(": ").context("a command")?;
    ensure!(command == "detector reload" && changed.help.contains("`detector config diff`"), "{}", changed.help);
    type_in(&lab, command)?;
    ensure!(ill(&lab, "config", "")?.is_none(), "it is taken over");
    configure(&lab, "[policy]\nblock_ttl = \"3h\"\n[capture]\nports = [443, 8443]\n")?;
    ensure!(wrong(&lab, "config", "capture.ports")?.help.ends_with("systemctl restart detector"));
    configure(&lab, "[capture]\nportz = [443]\n")?;
    let found = wrong(&lab, "config", "portz")?;
    ensure!(found.state == "problem" && found.what.contains("detector.toml:"), "{}", found.what);
    configure(&lab, "[policy]\nblock_ttl = \"3h\"\n")?;

    // The pin that keeps the program there. Without it the program is gone, and so is what was in force.
    fs::remove_file(pins::directory(&lab).join("links").join(format!("native-{SERVER_INTERFACE}")))?;
    let found = wrong(&lab, "xdp", "is not on")?;
    ensure!(found.state == "problem" && found.help.contains("detector attach --interface"), "{}", found.help);

    // The daemon.
    daemon.stop(Signal::SIGTERM)?;
    let found = wrong(&lab, "daemon", "can't reach the daemon")?;
    ensure!(found.state == "problem" && found.help.contains("start it with"), "{}", found.help);
    ensure!(ill(&lab, "config", "")?.is_none(), "what needs no daemon is still looked at");
    Ok(())
}

#[test]
fn where_the_program_runs_is_told_and_that_it_is_gone() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _daemon = Daemon::start(
        &lab,
        DaemonOptions { mode: Some(XdpMode::Generic), config: GROUPS, ..DaemonOptions::default() },
    )?;
    let found = wrong(&lab, "xdp", "in generic mode")?;
    ensure!(found.state == "warning" && found.help.contains("--xdp-mode native"), "{}", found.help);
    lab.server().ip(&format!("link delete {SERVER_INTERFACE}"))?;
    let found = wrong(&lab, "xdp", "any more: nothing there is seen or dropped")?;
    ensure!(found.state == "problem", "{}", found.help);
    Ok(())
}
