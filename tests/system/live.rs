//! `detector fingerprint --interface`: what is live on an interface, without a daemon and without a verdict; and what it
//! says is what the same packets say from tcpdump's file.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use detector_tests::capture::Tcpdump;
use detector_tests::clients::{Kind, Report, Target, batch};
use detector_tests::daemon::offline;
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::hello::by_place;
use detector_tests::lab::{Lab, LabOptions, SERVER_INTERFACE, SERVER_V4};
use detector_tests::link::xdp;
use detector_tests::process::Process;
use detector_tests::programs;
use detector_tests::server::Nginx;
use serde_json::Value;

#[test]
fn an_interface_is_read_like_a_capture_and_left_as_it_was() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let tcpdump = Tcpdump::start(&lab)?;
    let printed = lab.file("live.json");
    let mut command = lab.server().command(programs::detector()?);
    command.args(["fingerprint", "--interface", SERVER_INTERFACE, "--port", "443", "--format", "json"]);
    command.args(["--count", "6"]).stdin(Stdio::null()).stdout(std::fs::File::create(&printed)?);
    let mut live = Process::start("detector fingerprint", &mut command)?;
    until("the program on the interface", PATIENCE, || {
        ensure!(live.ended()?.is_none(), "it ended at once");
        xdp(lab.server(), SERVER_INTERFACE)
    })?;
    let reports = batch(&lab, &Target { parallel: 2, ..Target::new(SERVER_V4) }, &Kind::ALL, 6)?;
    ensure!(reports.iter().all(Report::answered), "{reports:?}");
    let ended = live.wait(PATIENCE)?;
    assert_eq!(ended.code(), Some(0));
    assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, None, "a program stayed");
    let lines = std::fs::read_to_string(&printed)?;
    let lines: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(lines.len(), 6);
    for line in &lines {
        ensure!(line["confirmed"] == "acknowledged" && line["syn_class"] == "linux", "{line}");
        ensure!(line["ja3s"].is_string() && line["syn_to_hello_us"].is_u64() && line["void"].is_null(), "{line}");
    }
    let recorded = offline(&tcpdump.finish(&lab)?)?;
    assert_eq!(by_place(&lines)?, by_place(&recorded)?);
    Ok(())
}

#[test]
fn without_permission_it_says_what_to_type() -> Result<()> {
    let detector = programs::detector()?;
    let done = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"])
        .arg(detector)
        .args(["fingerprint", "--interface", "lo"])
        .output()
        .context("setpriv is part of util-linux")?;
    assert_eq!(done.status.code(), Some(77), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
