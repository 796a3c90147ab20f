//! Address databases: what they say of clients, and that one that is broken changes nothing.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use detector_tests::curl::ask;
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4};
use detector_tests::mmdb::{countries, systems};
use detector_tests::reporters::Reporter;
use serde_json::Value;

/// Somebody of IPv6, by the word of a proxy.
const CLIENT_V6: &str = "2001:db8::7";

/// In one step, as whoever fetches one should.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes)?;
    Ok(fs::rename(&draft, path)?)
}

struct Scene {
    daemon: Daemon,
    _server: Reporter,
    lab: Lab,
}

impl Scene {
    /// A request of each client, and what is made of the one at this address.
    fn explained(&self, of: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        until(&format!("what is known of {of}"), PATIENCE, || {
            let (own, proxy) = (CLIENT_V4.to_string(), OTHER_CLIENT_V4.to_string());
            ask(&self.lab, &["/"], &["--interface", &own, "--header", "Accept-Language: ja-JP,ja;q=0.9"])?;
            let header = format!("X-Forwarded-For: {CLIENT_V6}");
            ask(&self.lab, &["/"], &["--interface", &proxy, "--header", &header])?;
            let known = control_ok(&self.lab, &["explain", of, "--format", "json"]);
            let known: Option<Value> = known.ok().map(|known| serde_json::from_str(&known)).transpose()?;
            Ok(known.filter(&is_so))
        })
        .with_context(|| self.daemon.log())
    }

    fn files(&self, outcome: &str) -> Result<f64> {
        Ok(self.daemon.metrics(&self.lab)?.sum("detector_files_total", &[("file", "reputation"), ("outcome", outcome)]))
    }
}

#[test]
fn databases_tell_networks_and_countries_and_a_broken_one_leaves_the_last_good_one() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let (asn, country) = (lab.file("asn.mmdb"), lab.file("country.mmdb"));
    let whole = systems(&[("10.77.0.0/24", 64_500), ("2001:db8::/32", 64_501)])?;
    put(&asn, &whole)?;
    put(&country, &countries(&[("10.77.0.0/24", "BR"), ("2001:db8::/32", "JP")])?)?;
    let config = format!(
        "[signals]\ngroup = \"www-data\"\ntrusted_proxies = [\"{OTHER_CLIENT_V4}\"]\n\
         [reputation]\nasn_database = {asn:?}\ncountry_database = {country:?}\nhosting_asns = [64500]\n"
    );
    let daemon = Daemon::start(&lab, DaemonOptions { config: config.leak(), ..DaemonOptions::default() })?;
    let scene = Scene { _server: Reporter::nginx(&lab, false)?, daemon, lab };
    let own = CLIENT_V4.to_string();
    let known = scene.explained(&own, |known| known["asn"] == 64_500)?;
    ensure!(known["country"] == "BR", "{known}");
    for signal in ["hosting-network", "language-mismatch"] {
        let speaks = known["signals"].as_array().into_iter().flatten().any(|found| found["signal"] == signal);
        ensure!(speaks, "{signal}: {known}");
    }
    let screen = control_ok(&scene.lab, &["explain", &own])?;
    ensure!(screen.contains("  network AS64500, BR\n"), "{screen}");
    let other = scene.explained(CLIENT_V6, |known| known["asn"] == 64_501)?;
    ensure!(other["country"] == "JP", "{other}");
    assert_eq!((scene.files("read")?, scene.files("unreadable")?), (2.0, 0.0));

    let mut damaged = whole.clone();
    // Its first node leads out of the file.
    damaged[..3].fill(0xff);
    for (broken, times) in [(&whole[..whole.len() / 2], 1.0), (&damaged[..], 2.0)] {
        put(&asn, broken)?;
        until("the alarm", PATIENCE, || Ok((scene.files("unreadable")? == times).then_some(())))?;
        scene.explained(&own, |known| known["asn"] == 64_500 && known["ago_s"] == 0)?;
    }
    let log = scene.daemon.log();
    ensure!(log.contains("is no whole address database (MMDB)") && log.contains("get it anew"), "{log}");
    put(&asn, &systems(&[("10.77.0.0/24", 64_502)])?)?;
    scene.explained(&own, |known| known["asn"] == 64_502)?;
    Ok(())
}
