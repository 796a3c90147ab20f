//! Whole clients: what people do is never held against them, and what an imitation with a browser's own hello does is
//! noticed by its tenth page.

use anyhow::Result;
use detector_tests::replay::{Line, Scene};
use serde_json::json;

use crate::clients::{CLIENT, browser, carrier_nat, letters, page, person, read_at, view, view_with};

fn replayed(build: impl FnOnce(&mut Scene) -> Result<()>) -> Result<Vec<Line>> {
    let mut scene = Scene::default();
    build(&mut scene)?;
    scene.replay("", "")
}

#[test]
fn nobody_who_reads_is_suspected() -> Result<()> {
    type Build = fn(&mut Scene) -> Result<()>;
    let people: [(&str, Build); 5] = [
        ("a reader", |scene| person(scene, CLIENT, 0.0, 30)),
        ("fifty people with one browser behind one address", carrier_nat),
        ("private mode", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            read_at(12).enumerate().for_each(|(number, at)| {
                view_with(scene, over, at, &letters(number), json!({ "ref": "-" }));
            });
            Ok(())
        }),
        ("a VPN turned on", |scene| {
            for (number, at) in read_at(10).enumerate() {
                let over = scene.connect(&browser()?, [198, 18, u8::from(number > 4), 7], at);
                view_with(scene, over, at + 0.1, &letters(number), json!({ "sid": "4711" }));
            }
            Ok(())
        }),
        ("twenty tabs at once", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            (0..20_usize).for_each(|tab| view(scene, over, 1.0 + tab as f64 * 0.2, &letters(tab)));
            Ok(())
        }),
    ];
    for (who, build) in people {
        for line in replayed(build)? {
            assert!(line.new.confidence.ends_with("_human"), "{who}: {line:#?}");
            assert_eq!(line.new.action, "allow", "{who}");
        }
    }
    Ok(())
}

/// With a browser's hello and headers, at uneven times, over one connection.
#[test]
fn imitations_are_suspected_by_their_tenth_page() -> Result<()> {
    type Send = fn(&mut Scene) -> Result<()>;
    let imitations: [(&str, Send); 4] = [
        ("pages alone", |scene| imitate(scene, json!({}), letters)),
        ("with a forged referer", |scene| imitate(scene, json!({ "ref": "https://shop.test/" }), letters)),
        ("through numbers", |scene| imitate(scene, json!({}), |number| format!("/item/{number}"))),
        ("by the clock", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            (0..12_usize).for_each(|number| page(scene, over, 1.0 + number as f64 * 3.0, &letters(number)));
            Ok(())
        }),
    ];
    for (how, build) in imitations {
        let lines = replayed(build)?;
        let tenth = &lines[9].new;
        assert!(!tenth.confidence.ends_with("_human"), "{how}: {tenth:#?}");
        let last = lines.last().map(|line| line.new.action.as_str());
        assert_ne!(last, Some("block"), "{how}: by one axis");
    }
    Ok(())
}

fn imitate(scene: &mut Scene, keys: serde_json::Value, path: fn(usize) -> String) -> Result<()> {
    let over = scene.connect(&browser()?, CLIENT, 0.0);
    for (number, at) in read_at(12).enumerate() {
        let mut report = json!({ "path": path(number), "sf_dest": "document" });
        if let (Some(report), Some(keys)) = (report.as_object_mut(), keys.as_object()) {
            report.extend(keys.clone());
        }
        scene.request(over, at, report);
    }
    Ok(())
}
