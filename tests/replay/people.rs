//! Whole clients: what people do is never held against them, what looks odd about a few of them is never more than a
//! suspicion, and what an imitation with a browser's own hello does is noticed by its tenth page.

use anyhow::Result;
use detector_tests::replay::{Line, Scene};
use serde_json::json;

use crate::clients::{
    CLIENT, browser, carrier_nat, feed_reader, letters, page, person, read_at, tool, view, view_with,
};

fn replayed(build: impl FnOnce(&mut Scene) -> Result<()>) -> Result<Vec<Line>> {
    let mut scene = Scene::default();
    build(&mut scene)?;
    scene.replay("", "")
}

/// Whoever does something, and what.
type Doing = (&'static str, fn(&mut Scene) -> Result<()>);

#[test]
fn nobody_who_reads_is_suspected() -> Result<()> {
    let people: [Doing; 7] = [
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
        ("forty tabs of yesterday at once", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            (0..40_usize).for_each(|tab| view(scene, over, 1.0 + tab as f64 * 0.25, &letters(tab)));
            Ok(())
        }),
        ("pages with frames", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            for (number, at) in read_at(20).enumerate() {
                view(scene, over, at, &letters(number));
                for frame in 0..6 {
                    let path = format!("/frame{}/{frame}", letters(number));
                    scene.request(
                        over,
                        at + 0.2,
                        json!({ "path": path, "ref": "https://shop.test/", "sf_dest": "iframe" }),
                    );
                }
            }
            Ok(())
        }),
        ("twenty tabs at once", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            (0..20_usize).for_each(|tab| view(scene, over, 1.0 + tab as f64 * 0.2, &letters(tab)));
            Ok(())
        }),
    ];
    people.into_iter().try_for_each(is_let_alone)
}

#[test]
fn nobody_is_suspected_for_how_they_read() -> Result<()> {
    let people: [Doing; 9] = [
        ("photos one after the other, no referers", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            read_at(20).enumerate().for_each(|(number, at)| {
                view_with(scene, over, at, &format!("/photo/{number}"), json!({ "ref": "-" }));
            });
            Ok(())
        }),
        ("an extension that takes referers away", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            read_at(20).enumerate().for_each(|(number, at)| {
                view_with(scene, over, at, &letters(number), json!({ "ref": "-", "sf_site": "same-origin" }));
            });
            Ok(())
        }),
        ("addresses typed in", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            for (number, at) in read_at(12).enumerate() {
                let typed = json!({ "path": letters(number), "sf_dest": "document", "sf_site": "none" });
                scene.request(over, at, typed);
                let image = json!({ "path": format!("/a{number}.png"), "sf_dest": "image", "sf_site": "same-origin" });
                scene.request(over, at + 0.2, image);
            }
            Ok(())
        }),
        ("the number in the address typed over, again and again", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            for (number, at) in read_at(20).enumerate() {
                let typed = json!({ "path": format!("/page/{number}"), "sf_dest": "document", "sf_site": "none" });
                scene.request(over, at, typed);
                let image = json!({ "path": format!("/a{number}.png"), "sf_dest": "image", "sf_site": "same-origin" });
                scene.request(over, at + 0.2, image);
            }
            Ok(())
        }),
        ("a page again and again", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            (0..60).for_each(|time| view(scene, over, 1.0 + f64::from(time) * 5.0, "/score"));
            Ok(())
        }),
        ("forty pages in plain text with a style and an icon", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            scene.request(over, 1.0, json!({ "path": "/style.css", "ref": "https://shop.test/", "sf_dest": "style" }));
            scene.request(
                over,
                1.1,
                json!({ "path": "/favicon.ico", "ref": "https://shop.test/", "sf_dest": "image" }),
            );
            for (number, at) in read_at(40).enumerate() {
                let keys = json!({ "path": letters(number), "sf_dest": "document", "ref": "https://shop.test/" });
                scene.request(over, 1.0 + at, keys);
            }
            Ok(())
        }),
        ("a connection that breaks all the time", |scene| {
            for (number, at) in read_at(15).enumerate() {
                let over = scene.connect(&browser()?, CLIENT, at);
                view(scene, over, at + 0.3, &letters(number));
            }
            Ok(())
        }),
        ("a browser in text", |scene| {
            for (number, at) in read_at(20).enumerate() {
                let over = scene.connect(&tool()?, CLIENT, at);
                let agent = "Lynx/2.9.0dev.12 libwww-FM/2.14 SSL-MM/1.4.1 GNUTLS/3.7.8";
                scene.request(
                    over,
                    at + 0.3,
                    json!({ "path": format!("/shop/shoes{}", letters(number)), "ua": agent }),
                );
            }
            Ok(())
        }),
        ("a reader of feeds that takes whole articles", |scene| {
            feed_reader(scene)?;
            for number in 0..20_usize {
                let at = 4600.0 + number as f64 * 1.5 + (number % 3) as f64 * 0.4;
                let over = scene.connect(&tool()?, CLIENT, at);
                scene.request(over, at + 0.2, json!({ "path": letters(number), "ua": "FreshRSS/1.26" }));
            }
            Ok(())
        }),
    ];
    people.into_iter().try_for_each(is_let_alone)
}

/// By the clock, in order, and each time another address.
#[test]
fn nobody_is_suspected_for_what_their_pages_scripts_do() -> Result<()> {
    let people: [Doing; 4] = [
        ("an open tab that polls", |scene| {
            asks(scene, 40, |number| json!({ "path": format!("/api/news?since={number}"), "sf_dest": "empty" }))
        }),
        ("the same of an old browser", |scene| {
            asks(scene, 40, |number| json!({ "path": format!("/api/news?since={number}"), "acc": "application/json" }))
        }),
        ("a page without an end", |scene| {
            asks(scene, 30, |number| json!({ "path": format!("/list?page={number}"), "sf_dest": "empty" }))
        }),
        ("pages fetched before anybody asks", |scene| {
            asks(scene, 40, |number| {
                let names = "host,sec-ch-ua,sec-ch-ua-mobile,sec-ch-ua-platform,upgrade-insecure-requests,user-agent,\
                             sec-purpose,accept,sec-fetch-site,sec-fetch-mode,sec-fetch-dest,referer,accept-encoding";
                json!({ "path": format!("/page/{number}"), "sf_dest": "document", "hdr": names })
            })
        }),
    ];
    people.into_iter().try_for_each(is_let_alone)
}

/// A page, and what its script asks for every second, not looking at anything else.
fn asks(scene: &mut Scene, times: usize, of: fn(usize) -> serde_json::Value) -> Result<()> {
    let over = scene.connect(&browser()?, CLIENT, 0.0);
    view(scene, over, 1.0, "/app");
    for number in 0..times {
        let mut report = of(number);
        if let Some(report) = report.as_object_mut() {
            report.insert("ref".into(), json!("https://shop.test/app"));
        }
        scene.request(over, 2.0 + number as f64, report);
    }
    Ok(())
}

fn is_let_alone((who, build): Doing) -> Result<()> {
    for line in replayed(build)? {
        assert!(line.new.confidence.ends_with("_human"), "{who}: {line:#?}");
        assert_eq!(line.new.action, "allow", "{who}");
    }
    Ok(())
}

#[test]
fn what_few_people_do_is_no_more_than_suspicious() -> Result<()> {
    let people: [Doing; 3] = [
        ("pages that turn themselves, each ten seconds", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            (0..30_usize).for_each(|slide| view(scene, over, 1.0 + slide as f64 * 10.0, &letters(slide)));
            Ok(())
        }),
        ("a site whose pictures are elsewhere, page by page", |scene| {
            let over = scene.connect(&browser()?, CLIENT, 0.0);
            for (number, at) in read_at(20).enumerate() {
                let keys =
                    json!({ "path": format!("/page/{number}"), "sf_dest": "document", "ref": "https://shop.test/" });
                scene.request(over, at, keys);
            }
            Ok(())
        }),
        ("an app, or a package manager, of nobody's knowledge", |scene| {
            for (number, at) in read_at(20).enumerate() {
                let over = scene.connect(&tool()?, CLIENT, at);
                let at = at + 0.2;
                scene.request(
                    over,
                    at,
                    json!({ "path": format!("/v1/items{}", letters(number)), "ua": "ShopApp/4.2" }),
                );
            }
            Ok(())
        }),
    ];
    for (who, build) in people {
        for line in replayed(build)? {
            assert!(!line.new.confidence.ends_with("_bot"), "{who}: {line:#?}");
            assert!(["allow", "observe"].contains(&line.new.action.as_str()), "{who}: {line:#?}");
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
