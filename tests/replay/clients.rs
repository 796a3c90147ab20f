//! Clients at work: people in a browser, and programs.

use std::net::Ipv4Addr;

use anyhow::Result;
use detector_tests::replay::{Connection, Line, Recorded, Scene};
use serde_json::{Value, json};

/// The address of whoever is alone in a scene.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// A browser.
pub(crate) fn browser() -> Result<Recorded> {
    Recorded::read("chromium-headful-h2")
}

/// A program.
pub(crate) fn tool() -> Result<Recorded> {
    Recorded::read("curl-openssl")
}

/// Whether a signal speaks of a request.
pub(crate) fn has(line: &Line, signal: &str) -> bool {
    line.new.signals.iter().any(|found| found.name == signal)
}

/// Pauses of a person: seconds, 4 to 26, never even.
pub(crate) fn pauses() -> impl Iterator<Item = f64> {
    [9.0, 4.2, 17.5, 6.1, 25.8, 11.3, 5.0, 14.7].into_iter().cycle()
}

/// Times of so many pages that a person reads.
pub(crate) fn read_at(pages: usize) -> impl Iterator<Item = f64> {
    pauses().take(pages).scan(1.0, |now, pause| {
        *now += pause;
        Some(*now)
    })
}

/// A page.
pub(crate) fn page(scene: &mut Scene, over: Connection, at: f64, path: &str) {
    scene.request(over, at, json!({ "path": path }));
}

/// A page as a person's browser loads it: found on the site's first page, with what belongs to it, all at once.
pub(crate) fn view(scene: &mut Scene, over: Connection, at: f64, path: &str) {
    view_with(scene, over, at, path, json!({}));
}

/// The same, with other keys in its reports.
pub(crate) fn view_with(scene: &mut Scene, over: Connection, at: f64, path: &str, keys: Value) {
    let mut send = |after: f64, own: Value| {
        let mut report = own;
        if let (Some(report), Value::Object(keys)) = (report.as_object_mut(), keys.clone()) {
            report.extend(keys);
        }
        scene.request(over, at + after, report);
    };
    send(0.0, json!({ "path": path, "ref": "https://shop.test/", "sf_dest": "document" }));
    for number in 0..6 {
        let image = format!("/static{path}-{number}.webp");
        let after = 0.1 + f64::from(number) * 0.01;
        send(after, json!({ "path": image, "ref": "https://shop.test/", "sf_dest": "image" }));
    }
}

/// Somebody reads so many pages.
pub(crate) fn person(scene: &mut Scene, client: Ipv4Addr, begin: f64, pages: usize) -> Result<()> {
    let over = scene.connect(&browser()?, client, begin);
    for (number, at) in read_at(pages).enumerate() {
        view(scene, over, begin + at, &format!("/article-{}", (b'a' + number as u8 % 26) as char));
    }
    Ok(())
}

/// A program takes so many pages over one connection, at uneven times.
pub(crate) fn scraper(scene: &mut Scene, pages: usize) -> Result<()> {
    let over = scene.connect(&tool()?, CLIENT, 0.0);
    for (number, at) in read_at(pages).enumerate() {
        page(scene, over, at, &letters(number));
    }
    Ok(())
}

/// A path for a number, without digits: `/ab`.
pub(crate) fn letters(number: usize) -> String {
    let letter = |number: usize| (b'a' + (number % 26) as u8) as char;
    format!("/{}{}", letter(number / 26), letter(number))
}

/// A health check: one path, by the clock.
pub(crate) fn health_check(scene: &mut Scene) -> Result<()> {
    for number in 0..60 {
        let at = f64::from(number) * 10.0;
        let over = scene.connect(&tool()?, CLIENT, at);
        scene.request(over, at + 0.1, json!({ "path": "/health", "ua": "kube-probe/1.31", "status": 503 }));
    }
    Ok(())
}

/// A reader of feeds: two of them, each five minutes.
pub(crate) fn feed_reader(scene: &mut Scene) -> Result<()> {
    for round in 0..15 {
        let at = f64::from(round) * 300.0;
        let over = scene.connect(&tool()?, CLIENT, at);
        for feed in ["/news/all/today/feed.xml", "/blog/atom.xml"] {
            scene.request(over, at + 0.2, json!({ "path": feed, "ua": "FreshRSS/1.26", "status": 304 }));
        }
    }
    Ok(())
}

/// Fifty people with one build of a browser behind one address, four pages each within a minute.
pub(crate) fn carrier_nat(scene: &mut Scene) -> Result<()> {
    for person in 0..50_usize {
        let begin = person as f64 * 1.13 + (person % 7) as f64 * 0.4;
        let over = scene.connect(&browser()?, CLIENT, begin);
        for (number, at) in read_at(4).enumerate() {
            view(scene, over, begin + at, &letters(person * 4 + number));
        }
    }
    Ok(())
}
