//! The harness itself, without the daemon: a fault here would show as a fault of the daemon in every other suite.

use std::time::Duration;

use anyhow::Result;
use detector_tests::capture::Tcpdump;
use detector_tests::clients::{Kind, Loop, Report, Target, batch};
use detector_tests::deadline::{PATIENCE, monotonic_seconds};
use detector_tests::lab::{Lab, LabOptions, SERVER_V4, SERVER_V6, own_names};
use detector_tests::server::Nginx;

/// Every kind of client gets its page over either protocol, and its port is the one that the server saw.
#[test]
fn every_client_gets_its_page() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let nginx = Nginx::start(&lab)?;
    let tcpdump = Tcpdump::start(&lab)?;
    let mut ports = Vec::new();
    for address in [SERVER_V4, SERVER_V6] {
        let reports = batch(&lab, &Target { parallel: 6, ..Target::new(address) }, &Kind::ALL, 6)?;
        assert_eq!(reports.len(), 6);
        for report in reports {
            assert!(report.answered(), "{report:?}");
            assert!(report.ended > report.started, "{report:?}");
            ports.extend(report.port);
        }
    }
    let mut answered = nginx.answered()?;
    ports.sort_unstable();
    answered.sort_unstable();
    assert_eq!(ports, answered);
    tcpdump.finish(&lab)?;
    Ok(())
}

/// A lab removes its namespaces and its directory, with a server still running in it.
#[test]
fn a_lab_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let nginx = Nginx::start(&lab)?;
    assert_eq!(own_names()?.len(), 3);
    drop(lab);
    assert_eq!(own_names()?, Vec::<String>::new());
    drop(nginx);
    Ok(())
}

/// A loop makes connections until it is stopped, and a single connection can be awaited.
#[test]
fn a_loop_goes_on_until_it_is_stopped() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let target = Target { parallel: 10, ..Target::new(SERVER_V4) };
    let bots = Loop::start(&lab, &target, Kind::Python, Duration::from_millis(100))?;
    let browsers = Loop::start(&lab, &target, Kind::Chrome, Duration::from_millis(100))?;
    for clients in [&bots, &browsers] {
        clients.since(monotonic_seconds()?, 100, PATIENCE)?;
    }
    let reports: Vec<Report> = [bots.stop(PATIENCE)?, browsers.stop(PATIENCE)?].concat();
    let failed: Vec<_> = reports.iter().filter(|report| !report.answered()).collect();
    assert!(failed.is_empty(), "{failed:?}");

    let single = Loop::one(&lab, &Target::new(SERVER_V4), Kind::Python)?;
    assert!(single.answered_since(0.0, PATIENCE)?.answered());
    assert_eq!(single.stop(PATIENCE)?.len(), 1);
    Ok(())
}
