//! What networks and fingerprints do: pairs of the network layer.

use std::net::Ipv4Addr;

use anyhow::Result;
use detector::score::Signal;
use detector_tests::replay::Scene;
use serde_json::json;

use crate::Pair;
use crate::clients::{CLIENT, browser, carrier_nat, letters, page, pauses, person, tool, view_with};

const TRAP: &str = "[behaviour]\ntrap_paths = [\"/trap\"]\n";

pub(crate) const PAIRS: &[Pair] = &[
    Pair { signal: Signal::PrefixRate, policy: "", fires: a_busy_network, silent: a_corporate_proxy },
    Pair {
        signal: Signal::PrefixBlocked,
        policy: TRAP,
        fires: |scene| beside_bad_ones(scene, [198, 51, 100, 200]),
        silent: beside_trapped_ones_elsewhere,
    },
    Pair { signal: Signal::FingerprintSpread, policy: "", fires: rotates, silent: a_popular_browser },
    Pair { signal: Signal::NetworkChanged, policy: "", fires: wanders, silent: turns_a_vpn_on },
    Pair { signal: Signal::Crowd, policy: "", fires: a_corporate_proxy, silent: many_names },
];

fn a_busy_network(scene: &mut Scene) -> Result<()> {
    for client in 1..=20 {
        let over = scene.connect(&tool()?, [198, 51, 100, client], 0.0);
        (0..40_usize).for_each(|number| page(scene, over, 1.0 + number as f64, &letters(number)));
    }
    Ok(())
}

/// As busy, with the many browsers of a company's people behind one address.
fn a_corporate_proxy(scene: &mut Scene) -> Result<()> {
    for client in 0..20_u8 {
        let over = scene.connect(&browser()?, CLIENT, 0.0);
        let system = format!("X11; Linux {} x86_64", char::from(b'A' + client));
        let agent =
            format!("Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36");
        for (number, pause) in pauses().take(6).enumerate() {
            let at = 1.0 + number as f64 * 9.0 + pause / 5.0 + f64::from(client) * 0.1;
            view_with(scene, over, at, &letters(number), json!({ "ua": agent }));
        }
    }
    Ok(())
}

/// A program with another User-Agent for each page, and people with one.
fn many_names(scene: &mut Scene) -> Result<()> {
    for number in 0..40_u32 {
        let at = f64::from(number);
        let over = scene.connect(&tool()?, CLIENT, at);
        let agent = format!("Mozilla/5.0 (X11; Linux x86_64; rv:{number}.0) Gecko/20100101 Firefox/{number}.0");
        scene.request(over, at + 0.1, json!({ "path": letters(number as usize), "ua": agent }));
    }
    carrier_nat(scene)
}

/// Somebody comes from there, when forty requests from 198.51.100.0/24 went into a trap.
fn beside_bad_ones(scene: &mut Scene, client: [u8; 4]) -> Result<()> {
    for bad in 1..=20 {
        let over = scene.connect(&tool()?, [198, 51, 100, bad], f64::from(bad));
        (0..2).for_each(|number| page(scene, over, f64::from(bad) + 0.1 + f64::from(number), "/trap"));
    }
    let over = scene.connect(&browser()?, client, 60.0);
    page(scene, over, 61.0, "/");
    Ok(())
}

/// Those who fall into the trap are in a network each.
fn beside_trapped_ones_elsewhere(scene: &mut Scene) -> Result<()> {
    for bad in 1..=20 {
        let over = scene.connect(&tool()?, [198, 18, bad, 7], f64::from(bad));
        page(scene, over, f64::from(bad) + 0.1, "/trap");
    }
    person(scene, [198, 51, 101, 200].into(), 60.0, 5)
}

fn rotates(scene: &mut Scene) -> Result<()> {
    for number in 0..60_u8 {
        let at = f64::from(number);
        let over = scene.connect(&tool()?, [198, 18, number, 7], at);
        page(scene, over, at + 0.1, &letters(number.into()));
    }
    Ok(())
}

/// Readers in sixty networks, who don't know of each other.
fn a_popular_browser(scene: &mut Scene) -> Result<()> {
    for (number, (pause, other)) in pauses().zip(pauses().skip(3)).take(60).enumerate() {
        let client = Ipv4Addr::new(198, 18, u8::try_from(number)?, 7);
        person(scene, client, number as f64 * 0.7 + pause * other / 10.0, 3)?;
    }
    Ok(())
}

fn wanders(scene: &mut Scene) -> Result<()> {
    from_networks(scene, 5)
}

fn turns_a_vpn_on(scene: &mut Scene) -> Result<()> {
    from_networks(scene, 2)
}

/// One session from so many networks within two minutes.
fn from_networks(scene: &mut Scene, networks: u8) -> Result<()> {
    for (number, pause) in pauses().take(10).enumerate() {
        let network = u8::try_from(number)? % networks;
        let at = number as f64 * 10.0 + pause / 5.0;
        let over = scene.connect(&browser()?, [198, 18, network, 7], at);
        view_with(scene, over, at + 0.1, &letters(number), json!({ "sid": "4711" }));
    }
    Ok(())
}
