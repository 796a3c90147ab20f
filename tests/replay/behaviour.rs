//! What clients do: pairs of the behaviour layer.

use anyhow::Result;
use detector::score::Signal;
use detector_tests::replay::Scene;
use serde_json::json;

use crate::Pair;
use crate::clients::{
    CLIENT, browser, carrier_nat, feed_reader, health_check, letters, page, person, read_at, scraper, tool, view,
    view_with,
};

/// Of a site with a trap and a robots.txt.
const SITE: &str = "[behaviour]\ntrap_paths = [\"/trap\"]\nrobots_disallow = [\"/private/\"]\n";

pub(crate) const PAIRS: &[Pair] = &[
    Pair { signal: Signal::TrapPath, policy: SITE, fires: into_a_trap, silent: beside_a_trap },
    Pair { signal: Signal::RobotsDisobeyed, policy: SITE, fires: reads_and_disobeys, silent: never_read_it },
    Pair { signal: Signal::RequestRate, policy: "", fires: a_page_a_second, silent: many_assets_and_tabs },
    Pair { signal: Signal::RegularTiming, policy: "", fires: by_the_clock, silent: polls },
    Pair { signal: Signal::SequentialPaths, policy: "", fires: counts, silent: looks_through_photos },
    Pair { signal: Signal::MissingReferers, policy: "", fires: |scene| scraper(scene, 8), silent: private_mode },
    Pair { signal: Signal::DeepFirstPage, policy: "", fires: begins_deep, silent: follows_a_link_in_a_mail },
    Pair { signal: Signal::NoAssets, policy: "", fires: |scene| scraper(scene, 8), silent: an_app_in_a_page },
    Pair { signal: Signal::ErrorRatio, policy: "", fires: guesses, silent: broken_images },
    Pair { signal: Signal::ConnectionPerRequest, policy: "", fires: connects_anew, silent: six_connections },
    Pair { signal: Signal::PathSpread, policy: "", fires: takes_everything, silent: carrier_nat },
    Pair { signal: Signal::BrowsesLikeAPerson, policy: "", fires: reads, silent: |scene| scraper(scene, 8) },
];

fn into_a_trap(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&tool()?, CLIENT, 0.0);
    page(scene, over, 1.0, "/trap/door");
    Ok(())
}

fn beside_a_trap(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&browser()?, CLIENT, 0.0);
    view(scene, over, 1.0, "/travel");
    view(scene, over, 9.0, "/about/trap");
    Ok(())
}

fn reads_and_disobeys(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&tool()?, CLIENT, 0.0);
    ["/robots.txt", "/", "/private/a"].iter().zip(1..).for_each(|(path, at)| page(scene, over, f64::from(at), path));
    Ok(())
}

fn never_read_it(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&browser()?, CLIENT, 0.0);
    view(scene, over, 1.0, "/private/mine");
    let crawler = scene.connect(&tool()?, [192, 0, 2, 8], 0.0);
    ["/robots.txt", "/", "/public"].iter().zip(1..).for_each(|(path, at)| page(scene, crawler, f64::from(at), path));
    Ok(())
}

fn a_page_a_second(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&tool()?, CLIENT, 0.0);
    for number in 0..60_usize {
        page(scene, over, 1.0 + number as f64 + (number % 3) as f64 * 0.3, &letters(number));
    }
    Ok(())
}

/// Hundreds of requests a minute, and twenty pages in new tabs at once.
fn many_assets_and_tabs(scene: &mut Scene) -> Result<()> {
    person(scene, CLIENT, 0.0, 20)?;
    let over = scene.connect(&browser()?, CLIENT, 400.0);
    (0..20_usize).for_each(|tab| view(scene, over, 401.0 + tab as f64 * 0.2, &letters(tab)));
    carrier_nat(scene)
}

fn by_the_clock(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&tool()?, CLIENT, 0.0);
    (0..15_usize).for_each(|number| page(scene, over, 1.0 + number as f64 * 5.0, &letters(number)));
    Ok(())
}

fn polls(scene: &mut Scene) -> Result<()> {
    health_check(scene)?;
    feed_reader(scene)
}

fn counts(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&tool()?, CLIENT, 0.0);
    for (number, at) in read_at(12).enumerate() {
        page(scene, over, at, &format!("/list?page={}", number * 5));
    }
    Ok(())
}

fn looks_through_photos(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&browser()?, CLIENT, 0.0);
    for (number, at) in read_at(12).enumerate() {
        view(scene, over, at, &format!("/photo/{number}"));
    }
    Ok(())
}

/// Of a browser that never tells where it comes from.
fn private_mode(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&browser()?, CLIENT, 0.0);
    for (number, at) in read_at(8).enumerate() {
        view_with(scene, over, at, &letters(number), json!({ "ref": "-" }));
    }
    feed_reader(scene)
}

fn begins_deep(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&tool()?, CLIENT, 0.0);
    for (number, at) in read_at(6).enumerate() {
        page(scene, over, at, &format!("/shop/shoes/summer{}", letters(number)));
    }
    Ok(())
}

fn follows_a_link_in_a_mail(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&browser()?, CLIENT, 0.0);
    view_with(scene, over, 1.0, "/shop/shoes/summer/red", json!({ "ref": "-" }));
    for (number, at) in read_at(6).enumerate() {
        view(scene, over, 2.0 + at, &letters(number));
    }
    Ok(())
}

/// One page whose script asks for all that follows.
fn an_app_in_a_page(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&browser()?, CLIENT, 0.0);
    view(scene, over, 1.0, "/app");
    for (number, at) in read_at(30).enumerate() {
        let path = format!("/api{}", letters(number));
        scene.request(over, 2.0 + at, json!({ "path": path, "ref": "https://shop.test/app", "sf_dest": "empty" }));
    }
    feed_reader(scene)
}

fn guesses(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&tool()?, CLIENT, 0.0);
    for (number, at) in read_at(20).enumerate() {
        scene.request(over, at, json!({ "path": format!("{}.php", letters(number)), "status": 404 }));
    }
    Ok(())
}

/// A site with broken images, and a health check of a site that is down.
fn broken_images(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&browser()?, CLIENT, 0.0);
    for (number, at) in read_at(10).enumerate() {
        view(scene, over, at, &letters(number));
        for image in ["x", "y"] {
            let path = format!("/broken{}-{image}.png", letters(number));
            scene.request(over, at + 0.2, json!({ "path": path, "status": 404, "ref": "https://shop.test/" }));
        }
    }
    health_check(scene)
}

fn connects_anew(scene: &mut Scene) -> Result<()> {
    for (number, at) in read_at(12).enumerate() {
        let over = scene.connect(&tool()?, CLIENT, at);
        page(scene, over, at + 0.1, &letters(number));
    }
    Ok(())
}

/// HTTP/1.1 as a browser speaks it, and who checks one page or two.
fn six_connections(scene: &mut Scene) -> Result<()> {
    let browser = browser()?;
    for (number, at) in read_at(8).enumerate() {
        let page = scene.connect(&browser, CLIENT, at);
        scene.request(page, at + 0.1, json!({ "path": letters(number), "ref": "https://shop.test/" }));
        for image in 0..5 {
            let over = scene.connect(&browser, CLIENT, at + 0.2);
            let path = format!("/static{}-{image}.png", letters(number));
            scene.request(over, at + 0.3, json!({ "path": path, "ref": "https://shop.test/" }));
        }
    }
    health_check(scene)?;
    feed_reader(scene)
}

fn takes_everything(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&tool()?, CLIENT, 0.0);
    for number in 0..150_usize {
        page(scene, over, 1.0 + number as f64 * 2.5 + (number % 5) as f64 * 0.4, &letters(number));
    }
    Ok(())
}

fn reads(scene: &mut Scene) -> Result<()> {
    person(scene, CLIENT, 0.0, 6)
}
