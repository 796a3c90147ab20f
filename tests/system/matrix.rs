//! Done when 3 of part 1: for each attach mode, protocol and MTU, what the daemon says live about each connection is
//! what `detector fingerprint` reads from tcpdump's file of the same run, in every form; nothing is lost; the sums hold.
//!
//! 102 connections a cell, 10 at a time, 6 kinds of client; 1,002 with `DETECTOR_TEST_FULL=1`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use detector_tests::capture::Tcpdump;
use detector_tests::clients::{Kind, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, offline};
use detector_tests::deadline::PATIENCE;
use detector_tests::figures::show;
use detector_tests::hello::{Forms, Place, by_place};
use detector_tests::lab::{Lab, LabOptions, SERVER_INTERFACE, SERVER_V4, SERVER_V6};
use detector_tests::link::{XdpMode, xdp};
use detector_tests::server::Nginx;
use detector_tests::sums;

macro_rules! cells {
    ($($name:ident: $mode:ident $address:ident $mtu:literal;)*) => {
        $(
            #[test]
            fn $name() -> Result<()> {
                cell(XdpMode::$mode, $address, $mtu)
            }
        )*
    };
}

cells! {
    native_ipv4_mtu_576: Native SERVER_V4 576;
    native_ipv4_mtu_1500: Native SERVER_V4 1500;
    native_ipv4_mtu_9000: Native SERVER_V4 9000;
    native_ipv6_mtu_1280: Native SERVER_V6 1280;
    native_ipv6_mtu_1500: Native SERVER_V6 1500;
    native_ipv6_mtu_9000: Native SERVER_V6 9000;
    generic_ipv4_mtu_576: Generic SERVER_V4 576;
    generic_ipv4_mtu_1500: Generic SERVER_V4 1500;
    generic_ipv4_mtu_9000: Generic SERVER_V4 9000;
    generic_ipv6_mtu_1280: Generic SERVER_V6 1280;
    generic_ipv6_mtu_1500: Generic SERVER_V6 1500;
    generic_ipv6_mtu_9000: Generic SERVER_V6 9000;
}

fn cell(mode: XdpMode, address: IpAddr, mtu: u32) -> Result<()> {
    let count = if env::var_os("DETECTOR_TEST_FULL").is_some_and(|full| full == "1") { 1002 } else { 102 };
    let lab = Lab::new(LabOptions { mtu })?;
    let _nginx = Nginx::start(&lab)?;
    let tcpdump = Tcpdump::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions { mode: Some(mode), ..DaemonOptions::default() })?;
    assert_eq!(xdp(lab.server(), SERVER_INTERFACE)?, Some(mode));

    let reports = batch(&lab, &Target { parallel: 10, ..Target::new(address) }, &Kind::ALL, count)?;
    let failed: Vec<_> = reports.iter().filter(|report| !report.answered()).collect();
    ensure!(failed.is_empty(), "{} connections got no page: {failed:?}", failed.len());
    assert_eq!(u32::try_from(reports.len())?, count);

    let recorded = by_place(&offline(&tcpdump.finish(&lab)?)?)?;
    let hellos: usize = recorded.values().map(Vec::len).sum();
    // A live line may come a little after its packets; one too many would be seen by the comparison.
    let live = daemon.wait_for("a live line for each hello in the capture", PATIENCE, |events| {
        (events.len() >= hellos).then(|| events.to_vec())
    });
    let live = by_place(&live.or_else(|_| daemon.events())?)?;
    ensure_same(&live, &recorded)?;

    // A port may come back within a run, so each counts as often as it was seen.
    let first = live.iter().filter(|(place, _)| place.hello == 0);
    let mut ports: Vec<u16> = first.flat_map(|(place, forms)| forms.iter().map(|_| place.src_port)).collect();
    let mut told: Vec<u16> = reports.iter().filter_map(|report| report.port).collect();
    ports.sort_unstable();
    told.sort_unstable();
    assert_eq!(ports, told, "one connection for each client's report");
    let clients: BTreeSet<&str> = live.values().flatten().map(|forms| forms.ja4.as_str()).collect();
    ensure!(clients.len() >= Kind::ALL.len(), "six kinds of client, but only these JA4 values: {clients:?}");

    ensure_sums(&lab, &daemon, hellos)?;
    show(&format!("{} {address} mtu {mtu}: {count} connections, {hellos} hellos, 0 lost, all alike", mode.argument()));
    Ok(())
}

/// The two must be equal; an error names the first difference and how many there are.
fn ensure_same(live: &BTreeMap<Place, Vec<Forms>>, recorded: &BTreeMap<Place, Vec<Forms>>) -> Result<()> {
    let places: BTreeSet<&Place> = live.keys().chain(recorded.keys()).collect();
    let different: Vec<_> = places.into_iter().filter(|place| live.get(place) != recorded.get(place)).collect();
    if let Some(first) = different.first() {
        let (said, read) = (live.get(first), recorded.get(first));
        anyhow::bail!("{} differences; the first: {first:?}\n live: {said:?}\n tcpdump: {read:?}", different.len());
    }
    Ok(())
}

/// The sums hold, and no hello or line was lost.
fn ensure_sums(lab: &Lab, daemon: &Daemon, hellos: usize) -> Result<()> {
    let metrics = sums::settled(lab, daemon)?;
    let lost = |class| metrics.sum("detector_capture_events_total", &[("class", class), ("outcome", "lost")]);
    let of = |name, label, value| metrics.sum(name, &[(label, value)]);
    // What has no keys of the kernel came out of order, or after a HelloRetryRequest behind another record.
    let keys = |side, outcome| metrics.sum("detector_hello_keys_total", &[("side", side), ("outcome", outcome)]);
    let left = ["disordered", "beyond"].map(|why| keys("kernel", why));
    let equal = keys("userspace", "equal");
    let written = metrics.sum("detector_queue_items_total", &[("queue", "hello_lines"), ("outcome", "written")]);
    ensure!(equal > 0.9 * hellos as f64, "the kernel has the keys of {equal} hellos of {hellos}");
    let sums = [
        ("drop", of("detector_kernel_packets_total", "verdict", "drop"), 0.0),
        ("lost", lost("confirmed") + lost("unconfirmed"), 0.0),
        ("complete", of("detector_hello_outcomes_total", "outcome", "complete"), hellos as f64),
        ("outcomes", metrics.sum("detector_hello_outcomes_total", &[]), hellos as f64),
        ("confirmed", of("detector_hello_standings_total", "standing", "confirmed"), hellos as f64),
        ("keys", equal + left.iter().sum::<f64>(), hellos as f64),
        ("void", metrics.sum("detector_hello_standings_total", &[("standing", "void")]), 0.0),
        ("written", written, hellos as f64),
    ];
    let wrong: Vec<_> = sums.iter().filter(|(_, left, right)| left != right).collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}
