//! What systemd thinks of the units: that it understands each line of them, and how much a service is exposed.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{path, read};

/// The most exposure of each service, from 0 to 10 (systemd-analyze(1), security).
const MOST: [(&str, f64); 4] = [
    ("detector.service", 1.0),
    ("detector-sockets.service", 1.2),
    ("detector-loader.service", 1.7),
    ("detector-feeds.service", 1.3),
];
/// The daemon's, with what Linux 5.18 needs.
const MOST_WITH_CAP_BPF: f64 = 1.0;

fn exposure(unit: &Path) -> Result<f64> {
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--no-pager"]).arg(unit);
    let said = command.output().context("systemd-analyze doesn't run: `cargo xtask setup` installs it")?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let level = text.lines().find_map(|line| line.split_once("exposure level for ")?.1.split_whitespace().nth(1));
    level
        .with_context(|| format!("{}: {text}{}", unit.display(), String::from_utf8_lossy(&said.stderr)))?
        .parse()
        .context(text)
}

#[test]
fn each_service_is_exposed_as_little_as_was_measured() -> Result<()> {
    for (unit, most) in MOST {
        let found = exposure(&path("dist/systemd").join(unit))?;
        ensure!(found > 0.0 && found <= most, "{unit}: {found}, and not {most} at most");
        println!("{unit}: {found}");
    }
    Ok(())
}

#[test]
fn an_older_kernel_exposes_the_daemon_little_more() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let unit = directory.path().join("detector.service");
    let text = read("dist/systemd/detector.service")? + &read("dist/drop-ins/linux-5.18.conf")?;
    fs::write(&unit, text)?;
    let found = exposure(&unit)?;
    ensure!(found > exposure(&path("dist/systemd/detector.service"))?, "the drop-in changes nothing: {found}");
    ensure!(found <= MOST_WITH_CAP_BPF, "{found}, and not {MOST_WITH_CAP_BPF} at most");
    Ok(())
}

/// A key that systemd doesn't know it leaves out with a warning, and what it should have kept out comes in.
#[test]
fn systemd_understands_every_line() -> Result<()> {
    for unit in [
        "detector.service",
        "detector-loader.service",
        "detector-loader.path",
        "detector-sockets.service",
        "detector-sockets.socket",
        "detector-feeds.service",
        "detector-feeds.timer",
    ] {
        let said = Command::new("systemd-analyze").arg("verify").arg(path("dist/systemd").join(unit)).output()?;
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        // What else is installed here doesn't matter.
        let about: Vec<_> = said.lines().filter(|line| line.contains("dist/systemd/")).collect();
        ensure!(about.is_empty(), "{about:#?}");
    }
    Ok(())
}
