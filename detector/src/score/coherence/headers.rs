//! The headers, against each other and against those of the family that the User-Agent names. A web server that doesn't
//! tell which headers there were says nothing about those that weren't.

use super::super::evidence::{EvidenceList, Value};
use super::super::facts::Facts;
use super::super::settings::Settings;
use super::super::signal::Signal;
use super::{Names, Said};
use crate::agent::{Engine, Os};
use crate::family::{self, Expected, Share};

/// The first version of Chromium and of Firefox that sends all of [`EVERYWHERE`] with every request but a WebSocket's.
const COMPLETE_SINCE: u16 = 100;

/// Headers of every request, as far as the family has them.
const EVERYWHERE: [&str; 5] = ["sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "accept", "accept-encoding"];
/// The same of those that some builds of Chromium leave out.
const HINTS: [&str; 3] = ["sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform"];

/// Headers that no extension for browsers moves by adding one of its own.
const ORDERED: [&str; 11] = [
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "upgrade-insecure-requests",
    "user-agent",
    "accept",
    "sec-fetch-site",
    "sec-fetch-mode",
    "sec-fetch-dest",
    "accept-encoding",
    "accept-language",
];

pub(super) fn assess(facts: &Facts<'_>, said: &Said<'_>, settings: &Settings, evidence: &mut EvidenceList) {
    let report = facts.report;
    if let Some(mark) = said.agent.mark.or(said.hints.mark) {
        evidence.add(settings, Signal::AutomationMark, Value::Word(mark.label()), Value::Nothing);
    }
    if said.is_script() {
        evidence.add(settings, Signal::ToolUserAgent, Value::Word(said.agent.product), Value::Word("a browser"));
    }
    if report.user_agent.is_none() && said.names.is_some_and(|names| !names.has("user-agent")) {
        evidence.add(settings, Signal::NoUserAgent, Value::Nothing, Value::Word("a browser"));
    }
    if let Some(share) = facts.share.filter(Share::is_rare) {
        let addresses = Value::Count(u64::from(share.addresses));
        evidence.add(settings, Signal::RareBrowser, addresses, Value::Word("more addresses"));
    }
    if let Some((observed, expected)) = contradiction(said) {
        evidence.add(settings, Signal::HintsMismatch, observed, expected);
    }
    let engine = said.agent.engine.filter(|_| said.agent.is_plain_browser());
    let expected = engine.and_then(|engine| family::shipped().expected(engine));
    let known = said.agent.major >= Some(COMPLETE_SINCE) && is_secure(facts);
    let Some(expected) = expected.filter(|_| known) else { return };
    if let Some((share, observed, wanted)) = unlike(facts, said, expected) {
        evidence.add_share(settings, Signal::HeadersMismatch, share, observed, wanted);
    }
    let navigates = report.fetch_mode.as_deref() == Some("navigate");
    if let Some(names) = said.names.filter(|_| navigates && !said.relayed)
        && let Some((late, early)) = disorder(names, expected)
    {
        evidence.add(settings, Signal::HeaderOrderMismatch, Value::Word(late), Value::Word(early));
    }
}

/// Whether it came over TLS: without, browsers send neither hints nor Sec-Fetch.
fn is_secure(facts: &Facts<'_>) -> bool {
    let protocol = facts.report.protocol.as_deref().unwrap_or_default();
    facts.identity.is_some() || ["HTTP/2", "HTTP/3"].into_iter().any(|secure| protocol.starts_with(secure))
}

/// What client hints and User-Agent say that can't both be true.
fn contradiction(said: &Said<'_>) -> Option<(Value, Value)> {
    let (agent, hints) = (&said.agent, &said.hints);
    if !agent.is_plain_browser() {
        return None;
    }
    let chromium = agent.engine == Some(Engine::Chromium);
    if hints.brands && !chromium {
        return Some((Value::Word("hints of Chromium"), Value::Word(agent.product)));
    }
    if let (Some(hinted), Some(major)) = (hints.chromium, agent.major)
        && hinted != major
    {
        return Some((Value::Version("hints of Chromium", hinted), Value::Version(agent.product, major)));
    }
    let (hinted, os) = (hints.os?, agent.os?);
    // "Desktop site" on Android says Linux in one of them or in both.
    let alike = |os: Os| if matches!(os, Os::Android | Os::ChromeOs) { Os::Linux } else { os };
    let desk = hints.mobile == Some(true) && matches!(os, Os::Windows | Os::Mac);
    (alike(hinted) != alike(os) || desk).then_some((Value::Word(hinted.label()), Value::Word(os.label())))
}

/// What a browser's headers lack or say that it doesn't: how sure that is, what was seen, what it sends.
fn unlike(facts: &Facts<'_>, said: &Said<'_>, expected: &Expected) -> Option<(f32, Value, Value)> {
    let report = facts.report;
    let names = said.names.filter(|names| !names.ask_for_websocket());
    let lacks = |wanted: &[&'static str]| {
        let known = wanted.iter().copied().filter(|name| expected.always.iter().any(|always| always == name));
        names.and_then(|names| known.into_iter().find(|name| !names.has(name)))
    };
    if let Some(missing) = lacks(&EVERYWHERE) {
        return Some((1.0, Value::Nothing, Value::Word(missing)));
    }
    let navigates = report.fetch_mode.as_deref() == Some("navigate");
    if navigates && report.accept.as_deref().is_some_and(|accept| !accept.starts_with("text/html")) {
        return Some((0.8, Value::Word("another Accept"), Value::Word("text/html first")));
    }
    if let Some(missing) = lacks(&HINTS) {
        return Some((0.6, Value::Nothing, Value::Word(missing)));
    }
    // Players ask for parts of a film as they are; proxies leave out what they can't read.
    let packed = report.accept_encoding.as_deref().filter(|_| !said.relayed)?;
    let odd = !packed.starts_with("identity") && !packed.split(',').any(|way| way.trim_start().starts_with("br"));
    odd.then_some((0.6, Value::Word("Accept-Encoding without br"), Value::Word("br")))
}

/// The first of a page's headers that stands behind one it stands before in the family.
fn disorder(names: Names<'_>, expected: &Expected) -> Option<(&'static str, &'static str)> {
    let place = |name: &str| expected.headers.iter().position(|known| known == name);
    let mut latest: Option<(usize, &'static str)> = None;
    for name in names.iter() {
        let Some(ordered) = ORDERED.into_iter().find(|ordered| ordered.eq_ignore_ascii_case(name)) else { continue };
        let Some(place) = place(ordered) else { continue };
        match latest {
            Some((before, earlier)) if place < before => return Some((earlier, ordered)),
            _ => latest = Some((place, ordered)),
        }
    }
    None
}
