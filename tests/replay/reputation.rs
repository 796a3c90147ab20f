//! What is known of addresses: pairs of the reputation layer.

use std::net::Ipv4Addr;

use anyhow::Result;
use detector::score::Signal;
use detector_tests::replay::Scene;
use serde_json::json;

use crate::Pair;
use crate::clients::{CLIENT, browser, person, tool};

/// Lists of the tests, by what they say.
macro_rules! list {
    ($class:literal, $file:literal) => {
        concat!(
            "[feeds]\nlists.own = { class = \"",
            $class,
            "\", file = \"",
            env!("CARGO_MANIFEST_DIR"),
            "/fixtures/lists/",
            $file,
            "\" }\n"
        )
    };
}

pub(crate) const PAIRS: &[Pair] = &[
    Pair { signal: Signal::AllowListed, policy: list!("trusted", "client.txt"), fires: listed, silent: beside_it },
    Pair { signal: Signal::DenyListed, policy: list!("denied", "client.txt"), fires: listed, silent: beside_it },
    Pair { signal: Signal::VerifiedBot, policy: "", fires: a_crawler, silent: a_forged_crawler },
    Pair { signal: Signal::FalseBot, policy: "", fires: a_forged_crawler, silent: a_crawler },
    Pair { signal: Signal::FeedListed, policy: list!("abuse", "client.txt"), fires: listed, silent: beside_it },
    Pair { signal: Signal::TorExit, policy: list!("tor", "client.txt"), fires: listed, silent: beside_it },
    Pair { signal: Signal::HostingNetwork, policy: list!("hosting", "hosting.txt"), fires: listed, silent: a_crawler },
];

/// OpenAI's, of which ranges are published and no domain.
const GPTBOT: &str = "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)";
const GOOGLEBOT: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";

fn listed(scene: &mut Scene) -> Result<()> {
    person(scene, CLIENT, 0.0, 2)
}

/// The next address but one, as another customer's of one provider or VPN.
fn beside_it(scene: &mut Scene) -> Result<()> {
    person(scene, Ipv4Addr::new(192, 0, 2, 9), 0.0, 2)
}

fn crawl(scene: &mut Scene, address: [u8; 4], agent: &str) -> Result<()> {
    let over = scene.connect(&tool()?, address, 0.0);
    scene.request(over, 1.0, json!({ "path": "/", "ua": agent }));
    Ok(())
}

/// From the ranges that Google publishes, and one that isn't a crawler.
fn a_crawler(scene: &mut Scene) -> Result<()> {
    crawl(scene, [66, 249, 66, 1], GOOGLEBOT)?;
    let over = scene.connect(&browser()?, [192, 0, 2, 77], 0.0);
    scene.request(over, 2.0, json!({ "path": "/" }));
    Ok(())
}

/// Says that it is one, from anywhere.
fn a_forged_crawler(scene: &mut Scene) -> Result<()> {
    crawl(scene, [192, 0, 2, 7], GPTBOT)
}
