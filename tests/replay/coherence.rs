//! What clients show: pairs of the coherence layer.

use std::net::Ipv4Addr;

use anyhow::Result;
use detector::score::Signal;
use detector_tests::replay::{Recorded, Scene};
use serde_json::{Value, json};

use crate::Pair;
use crate::clients::{CLIENT, carrier_nat, feed_reader, health_check};

const WINDOWS: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36";
const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0";
const SCRIPT: &str = "python-requests/2.34.2";
/// What Chromium sends of a page, in its order.
const NAMES: &str = "sec-ch-ua,sec-ch-ua-mobile,sec-ch-ua-platform,upgrade-insecure-requests,user-agent,accept,\
    sec-fetch-site,sec-fetch-mode,sec-fetch-user,sec-fetch-dest,accept-encoding,accept-language,priority";
/// The same, without what says where a request comes from.
const BARE: &str = "user-agent,accept-encoding,accept,connection";

pub(crate) const PAIRS: &[Pair] = &[
    Pair {
        signal: Signal::UaTlsMismatch,
        policy: "",
        fires: |scene| one(scene, "py-requests", page()),
        silent: own_hellos,
    },
    Pair { signal: Signal::UaVersionMismatch, policy: "", fires: a_later_hello, silent: next_release },
    Pair { signal: Signal::StaleHello, policy: "", fires: an_old_hello, silent: an_old_browser },
    Pair {
        signal: Signal::KnownTool,
        policy: "",
        fires: |scene| one(scene, "py-requests", says(SCRIPT)),
        silent: services,
    },
    Pair { signal: Signal::KnownImitator, policy: "", fires: an_imitation, silent: own_hellos },
    Pair {
        signal: Signal::AlpnMismatch,
        policy: "",
        fires: |scene| one(scene, "curl-noalpn", says("curl/8.5.0")),
        silent: a_websocket,
    },
    Pair { signal: Signal::OrderFixed, policy: "", fires: one_order, silent: carrier_nat_of_chromium },
    Pair {
        signal: Signal::OrderPermuted,
        policy: "",
        fires: many_orders,
        silent: |scene| times(scene, "firefox-esr", 6, says(FIREFOX)),
    },
    Pair { signal: Signal::NeverResumes, policy: "", fires: never_resumes, silent: carrier_nat },
    Pair {
        signal: Signal::NoPostQuantum,
        policy: "",
        fires: |scene| one(scene, "curl_cffi-chrome120", page()),
        silent: a_phone,
    },
    Pair {
        signal: Signal::GreaseMismatch,
        policy: "",
        fires: |scene| one(scene, "impit-chrome151", page()),
        silent: an_old_browser,
    },
    Pair {
        signal: Signal::LengthMismatch,
        policy: "",
        fires: |scene| one(scene, "curl_cffi-firefox147", says(FIREFOX)),
        silent: own_hellos,
    },
    Pair {
        signal: Signal::UaOsMismatch,
        policy: "",
        fires: |scene| one(scene, BROWSER, says(WINDOWS)),
        silent: a_companys_proxy,
    },
    Pair { signal: Signal::HintsMismatch, policy: "", fires: hints_of_another, silent: own_hellos },
    Pair { signal: Signal::HeadersMismatch, policy: "", fires: without_fetch, silent: a_websocket },
    Pair { signal: Signal::HeaderOrderMismatch, policy: "", fires: in_disorder, silent: with_an_extension },
    Pair { signal: Signal::RareBrowser, policy: "", fires: one_of_its_kind, silent: carrier_nat },
    Pair { signal: Signal::AutomationMark, policy: "", fires: headless, silent: own_hellos },
    Pair { signal: Signal::NoUserAgent, policy: "", fires: nameless, silent: a_server_that_tells_little },
    Pair {
        signal: Signal::ToolUserAgent,
        policy: "",
        fires: |scene| one(scene, "py-requests", says(SCRIPT)),
        silent: services,
    },
    Pair { signal: Signal::FamilyDrift, policy: "", fires: drift, silent: own_hellos },
];

const BROWSER: &str = "chromium-headful-h2";

/// The reports of a browser's page.
fn page() -> Value {
    json!({
        "path": "/", "acc": "text/html,application/xhtml+xml", "enc": "gzip, deflate, br, zstd", "lang": "en-US,en;q=0.9",
        "ch": "\"Chromium\";v=\"156\", \"Not)A;Brand\";v=\"24\"", "ch_mobile": "?0", "ch_platform": "\"Linux\"",
        "sf_site": "none", "sf_mode": "navigate", "sf_dest": "document", "sf_user": "?1", "hdr": NAMES,
    })
}

/// Keys of a report with others in their place.
fn with(mut keys: Value, others: Value) -> Value {
    if let (Some(keys), Value::Object(others)) = (keys.as_object_mut(), others) {
        keys.extend(others);
    }
    keys
}

/// A page, asked for by who says so.
fn says(user_agent: &str) -> Value {
    json!({ "path": "/", "ua": user_agent })
}

/// So many connections as one recorded, with a request on each.
fn times(scene: &mut Scene, recorded: &str, connections: u32, keys: Value) -> Result<()> {
    for number in 0..connections {
        let over = scene.connect(&Recorded::read(recorded)?, CLIENT, f64::from(number) * 20.0);
        scene.request(over, f64::from(number) * 20.0 + 1.0, keys.clone());
    }
    Ok(())
}

fn one(scene: &mut Scene, recorded: &str, keys: Value) -> Result<()> {
    times(scene, recorded, 1, keys)
}

/// A request of each browser that was recorded, a text browser, an app, and a company's proxy.
fn own_hellos(scene: &mut Scene) -> Result<()> {
    one(scene, BROWSER, page())?;
    one(scene, "firefox-esr", says(FIREFOX))?;
    one(scene, "firefox-headful-h2", says(FIREFOX))?;
    let qt = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) QtWebEngine/5.15.8 Chrome/87.0.4280.144 Safari/537.36";
    one(scene, "qutebrowser", says(qt))?;
    one(scene, "lynx", with(says("Lynx/2.9.0dev.12 libwww-FM/2.14 GNUTLS/3.7.8"), json!({ "proto": "HTTP/1.1" })))?;
    one(scene, "wreq-OkHttp4_12", says("okhttp/4.12.0"))
}

/// Its first connection is its library's own.
fn an_imitation(scene: &mut Scene) -> Result<()> {
    let over = scene.connect(&Recorded::nth("node-got-scraping", 1)?, CLIENT, 0.0);
    scene.request(over, 1.0, page());
    Ok(())
}

fn services(scene: &mut Scene) -> Result<()> {
    feed_reader(scene)?;
    health_check(scene)?;
    one(scene, "curl-openssl", says("git/2.45.1"))?;
    own_hellos(scene)
}

fn chrome(major: u16) -> Value {
    let agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/";
    says(&format!("{agent}{major}.0.0.0 Safari/537.36"))
}

fn a_later_hello(scene: &mut Scene) -> Result<()> {
    one(scene, BROWSER, chrome(120))
}

/// One that nobody recorded yet.
fn next_release(scene: &mut Scene) -> Result<()> {
    one(scene, BROWSER, chrome(170))?;
    own_hellos(scene)
}

fn an_old_hello(scene: &mut Scene) -> Result<()> {
    one(scene, "curl_cffi-chrome110", chrome(156))
}

/// A hello of 2023, by who says so.
fn an_old_browser(scene: &mut Scene) -> Result<()> {
    one(scene, "curl_cffi-chrome110", chrome(110))?;
    next_release(scene)
}

/// Browsers ask for it over HTTP/1.1, and without most headers.
fn a_websocket(scene: &mut Scene) -> Result<()> {
    let names = "Host,Connection,Pragma,Cache-Control,User-Agent,Upgrade,Origin,Sec-WebSocket-Version,Accept-Encoding,\
        Accept-Language,Sec-WebSocket-Key,Sec-WebSocket-Extensions";
    one(scene, BROWSER, json!({ "path": "/live", "proto": "HTTP/1.1", "status": 101, "hdr": names }))?;
    own_hellos(scene)
}

/// Of a program that repeats one hello of Chromium's.
fn one_order(scene: &mut Scene) -> Result<()> {
    let recorded = Recorded::nth(BROWSER, 0)?;
    for number in 0..3 {
        let over = scene.connect(&recorded, CLIENT, f64::from(number));
        scene.request(over, f64::from(number) + 0.5, page());
    }
    Ok(())
}

/// Browsers of several people with one User-Agent, each with an order of its own.
fn carrier_nat_of_chromium(scene: &mut Scene) -> Result<()> {
    for recorded in ["chromium-h2", "chromium-headful-h2", "chromium-headful-resume", "puppeteer-core"] {
        times(scene, recorded, 2, page())?;
    }
    times(scene, "firefox-esr", 6, says(FIREFOX))
}

/// Two extensions that stand side by side in every hello of Firefox, exchanged.
fn many_orders(scene: &mut Scene) -> Result<()> {
    let [secret, renegotiation] = [&[0x00, 0x17, 0, 0][..], &[0xff, 0x01, 0, 1, 0]];
    let own = Recorded::nth("firefox-esr", 0)?;
    let other = own.replaced(&[secret, renegotiation].concat(), &[renegotiation, secret].concat())?;
    for (number, recorded) in [own, other.clone(), other].iter().enumerate() {
        let over = scene.connect(recorded, CLIENT, number as f64);
        scene.request(over, number as f64 + 0.5, says(FIREFOX));
    }
    Ok(())
}

fn never_resumes(scene: &mut Scene) -> Result<()> {
    times(scene, BROWSER, 14, with(page(), json!({ "sid": "7" })))
}

/// Chromium on a phone began years later with it.
fn a_phone(scene: &mut Scene) -> Result<()> {
    let agent = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/134.0.0.0 Mobile Safari/537.36";
    one(scene, "curl_cffi-chrome131_android", says(agent))?;
    own_hellos(scene)
}

/// One that reads what its people ask for, one that only carries it, and a browser on Linux.
fn a_companys_proxy(scene: &mut Scene) -> Result<()> {
    one(scene, "mitmproxy-upstream", says(WINDOWS))?;
    one(scene, BROWSER, with(says(WINDOWS), json!({ "hdr": format!("{NAMES},via") })))?;
    own_hellos(scene)
}

fn hints_of_another(scene: &mut Scene) -> Result<()> {
    one(scene, BROWSER, with(page(), json!({ "ch": "\"Chromium\";v=\"131\"" })))
}

fn without_fetch(scene: &mut Scene) -> Result<()> {
    one(scene, BROWSER, with(page(), json!({ "hdr": BARE })))
}

fn in_disorder(scene: &mut Scene) -> Result<()> {
    let names = NAMES.replace("user-agent,accept,", "accept,user-agent,");
    one(scene, BROWSER, with(page(), json!({ "hdr": names })))
}

/// Whose header comes first, and one that comes last.
fn with_an_extension(scene: &mut Scene) -> Result<()> {
    one(scene, BROWSER, with(page(), json!({ "hdr": format!("dnt,{NAMES},x-extension") })))?;
    own_hellos(scene)
}

/// Languages in an order of its own, among a thousand addresses.
fn one_of_its_kind(scene: &mut Scene) -> Result<()> {
    let recorded = Recorded::read(BROWSER)?;
    for number in 0..1100_u32 {
        let (at, client) = (f64::from(number), Ipv4Addr::from(0x0a00_0000 + number));
        let over = scene.connect(&recorded, client, at);
        scene.request(over, at + 0.5, page());
    }
    let over = scene.connect(&recorded, CLIENT, 1200.0);
    scene.request(over, 1201.0, with(page(), json!({ "lang": "tlh,eo;q=0.3" })));
    Ok(())
}

fn headless(scene: &mut Scene) -> Result<()> {
    let agent =
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36";
    one(scene, "chromium-h2", with(page(), json!({ "ua": agent })))
}

fn nameless(scene: &mut Scene) -> Result<()> {
    one(scene, "py-requests", json!({ "path": "/", "ua": null, "hdr": "accept-encoding,accept" }))
}

fn a_server_that_tells_little(scene: &mut Scene) -> Result<()> {
    one(scene, BROWSER, json!({ "path": "/", "ua": null }))?;
    own_hellos(scene)
}

/// Chromium's hello with an extension that nobody knows in place of one.
fn drift(scene: &mut Scene) -> Result<()> {
    let trust_anchors = [0xca, 0x34, 0, 186];
    let recorded = Recorded::read(BROWSER)?.replaced(&trust_anchors, &[0xbe, 0xef, 0, 186])?;
    let over = scene.connect(&recorded, CLIENT, 0.0);
    scene.request(over, 1.0, page());
    Ok(())
}
