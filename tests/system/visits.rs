//! What detector makes of whole visits of real clients to a real site, some of the kinds of `cargo xtask lab`.

use anyhow::{Context as _, Result, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, control};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{Lab, LabOptions};
use detector_tests::reporters::Reporter;
use detector_tests::visits::{Plan, Visits};
use detector_tests::{figures::show, site};
use serde_json::Value;

const CONFIG: &str = "[signals]\ngroup = \"www-data\"\n";

/// In order: what nobody may be taken for who isn't.
const CONFIDENCES: [&str; 5] = ["definitely_human", "likely_human", "suspicious", "likely_bot", "definitely_bot"];

#[test]
fn tools_with_the_name_of_a_browser_are_told_from_browsers() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let pages = lab.file("site");
    site::write(&pages)?;
    let daemon = Daemon::start(&lab, DaemonOptions { config: CONFIG, ..DaemonOptions::default() })?;
    let _server = Reporter::nginx_serving(&lab, &pages)?;
    // Kind, and from which to which confidence it may be.
    let expected = [
        ("curl-forged", 3..=4),
        ("wget-forged", 3..=4),
        ("urllib-forged", 3..=4),
        ("curl", 2..=4),
        ("imitator-chrome142", 2..=4),
        ("chromium-headless", 3..=4),
        ("health-check", 0..=1),
    ];
    let visits = Visits::new(&lab, &lab.file("nginx").join("certificate.pem"), 16)?;
    let mut told = Vec::new();
    for (number, (kind, range)) in expected.into_iter().enumerate() {
        let plan = Plan { kind, number: u16::try_from(number)?, pages: 6, pace: 0.05 };
        let visit = visits.make(&plan)?;
        ensure!(visit.error.is_none() && visit.pages > 0, "{kind}: {visit:?}");
        let address = plan.address().to_string();
        let explained: Value = until(&format!("what is made of {kind}"), PATIENCE, || {
            let done = control(&lab, &["explain", &address, "--format", "json"])?;
            Ok(done.status.success().then(|| serde_json::from_slice(&done.stdout)).transpose()?)
        })
        .with_context(|| daemon.log())?;
        let confidence = explained["confidence"].as_str().context("a confidence")?;
        let place = CONFIDENCES.iter().position(|known| *known == confidence).context("a known one")?;
        ensure!(range.contains(&place), "{kind} is {confidence}: {explained}");
        told.push(format!("{kind} {confidence}"));
    }
    show(&told.join(", "));
    Ok(())
}
