//! Hello, SYN and headers of one client, by the recorded clients: what a browser shows is its own, what others show of
//! it is not. Each request is the first of a recording, its report made of the headers that the label has.

use std::borrow::Cow;
use std::time::Duration;

use detector::clock::Timestamp;
use detector::join::{Identity, Subject};
use detector::report::Report;
use detector::reputation::{Country, Standing};
use detector::score::{Assessment, Confidence, Engine, Facts, Signal};
use detector::session::{Limits, Sessions, Summary};
use detector::signature::Class;
use serde_json::Value;

use crate::fixture;

/// A recorded client.
struct Client {
    name: String,
    class: String,
    family: String,
    /// Of its connections, as far as they have the transport of the first.
    identities: Vec<Identity>,
    report: Report<'static>,
}

fn clients() -> Vec<Client> {
    let labels: Vec<Value> = serde_json::from_slice(&fixture::bytes("captures/labels.json")).expect("labels.json");
    labels.iter().filter_map(client).collect()
}

fn named(name: &str) -> Client {
    let labels: Vec<Value> = serde_json::from_slice(&fixture::bytes("captures/labels.json")).expect("labels.json");
    labels.iter().find(|label| label["name"] == name).and_then(client).unwrap_or_else(|| panic!("no client {name}"))
}

/// One that made a request.
fn client(label: &Value) -> Option<Client> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let said = fixture::run_capture(&fixture::bytes(&format!("captures/pcaps/{}", text(&label["pcap"]))));
    let flows = label["flows"].as_array()?;
    let flow = flows.iter().find(|flow| flow["http"]["headers"].as_array().is_some_and(|all| !all.is_empty()))?;
    let hellos = || said.hellos.iter().filter(|hello| hello.index == 0);
    let port = flow["sport"].as_u64()?;
    let own = hellos().find(|hello| u64::from(hello.flow.source.port()) == port)?;
    let others = hellos().filter(|hello| hello.transport == own.transport && hello.flow != own.flow);
    let identities = std::iter::once(own).chain(others).filter_map(Identity::of).collect();
    let headers: Vec<(String, String)> = serde_json::from_value(flow["http"]["headers"].clone()).ok()?;
    let protocol = match text(&flow["http"]["proto"]).as_str() {
        "h2" => "HTTP/2.0",
        "h3" => "HTTP/3.0",
        _ => "HTTP/1.1",
    };
    let report = Report { protocol: Some(protocol.into()), ..report(&headers) };
    Some(Client {
        name: text(&label["name"]),
        class: text(&label["class"]),
        family: text(&label["family"]),
        identities,
        report,
    })
}

fn report(headers: &[(String, String)]) -> Report<'static> {
    let header = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| Cow::<'static, str>::Owned(value.clone())).filter(|value| !value.is_empty())
    };
    let names = headers.iter().map(|(name, _)| name.as_str()).filter(|name| !name.starts_with(':'));
    Report {
        user_agent: header("user-agent"),
        accept: header("accept"),
        accept_language: header("accept-language"),
        accept_encoding: header("accept-encoding"),
        client_hints: header("sec-ch-ua"),
        client_hints_mobile: header("sec-ch-ua-mobile"),
        client_hints_platform: header("sec-ch-ua-platform"),
        fetch_site: header("sec-fetch-site"),
        fetch_mode: header("sec-fetch-mode"),
        fetch_dest: header("sec-fetch-dest"),
        fetch_user: header("sec-fetch-user"),
        header_names: Some(names.collect::<Vec<_>>().join(",").into()),
        path: Some("/".into()),
        ..Report::default()
    }
}

fn subject(identity: &Identity) -> Subject {
    Subject::Client { address: [192, 0, 2, 7].into(), ja4_stable: identity.ja4_stable, proxy_suspected: false }
}

/// What its connections did until now, with a request on each.
fn session(client: &Client, by_id: bool) -> Summary {
    let mut sessions = Sessions::new(Limits::default());
    let report = Report { session: by_id.then(|| "7".into()), ..client.report.clone() };
    let subject = subject(&client.identities[0]);
    let key = sessions.key(&subject, &report);
    for (number, identity) in client.identities.iter().enumerate() {
        let at = Timestamp::default().plus(Duration::from_secs(100 + number as u64));
        let identity = Identity { hello: at, ..identity.clone() };
        let request = sessions.request(&report, at, number as u64).with_hello(&identity);
        sessions.note(key, &request, at);
    }
    sessions.summary(key, Timestamp::default().plus(Duration::from_secs(200))).expect("a session")
}

/// The first request, and what the session was by then.
fn assess_in(client: &Client, session: Option<&Summary>) -> Assessment {
    let identity = &client.identities[0];
    let subject = subject(identity);
    let facts = Facts { identity: Some(identity), session, ..Facts::new(identity.hello, &client.report, &subject) };
    Engine::default().assess(&facts)
}

fn assess(client: &Client) -> Assessment {
    assess_in(client, None)
}

/// The signals that speak for a program.
fn against(assessment: &Assessment) -> Vec<&'static str> {
    assessment.evidence.iter().filter(|one| one.weight > 0.0).map(|one| one.signal.name()).collect()
}

fn forged(client: &mut Client, user_agent: &'static str) {
    client.report.user_agent = Some(user_agent.into());
}

const CHROME: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36";
const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0";

#[test]
fn nothing_is_held_against_a_recorded_browser() {
    let mut browsers = 0;
    for mut client in clients() {
        if client.class != "browser" && client.family != "firefox" {
            continue;
        }
        // Recorded without a window: that mark aside, it is the same program.
        let agent = client.report.user_agent.take().expect("a User-Agent").replace("HeadlessChrome", "Chrome");
        client.report.user_agent = Some(agent.into());
        client.report.client_hints =
            client.report.client_hints.map(|list| list.replace("HeadlessChrome", "Chrome").into());
        let session = session(&client, false);
        let assessment = assess_in(&client, Some(&session));
        assert_eq!(against(&assessment), [""; 0], "{}", client.name);
        assert!(assessment.confidence <= Confidence::LikelyHuman, "{}", client.name);
        browsers += 1;
    }
    assert!(browsers >= 17, "{browsers}");
}

#[test]
fn a_library_or_tool_with_a_browsers_user_agent_is_a_bot() {
    let mut forgers = 0;
    for mut client in clients().into_iter().filter(|client| matches!(&*client.class, "library" | "tool" | "scanner")) {
        // That is a proxy, and people may be behind it.
        if client.family == "mitmproxy" {
            continue;
        }
        for agent in [CHROME, FIREFOX] {
            forged(&mut client, agent);
            let assessment = assess(&client);
            assert!(assessment.confidence >= Confidence::LikelyBot, "{} {:?}", client.name, against(&assessment));
            forgers += 1;
        }
    }
    assert!(forgers > 100, "{forgers}");
}

#[test]
fn a_tool_that_drives_a_browser_is_known_by_its_mark() {
    for name in ["puppeteer-core", "rebrowser-puppeteer", "chromium-h2"] {
        let assessment = assess(&named(name));
        assert_eq!(against(&assessment), ["automation-mark"], "{name}");
        assert_eq!(assessment.confidence, Confidence::LikelyBot, "{name}");
    }
}

/// Whether the first request of this client, changed so, has a signal.
fn speaks(signal: Signal, name: &str, change: impl FnOnce(&mut Client)) -> bool {
    let mut client = named(name);
    change(&mut client);
    let session = session(&client, true);
    let by_id = client.report.session.is_some();
    let identity = &client.identities[0];
    let subject = match client.report.relayed {
        Some(true) => Subject::Forwarded { address: [192, 0, 2, 7].into(), agent: 1, headers: 1 },
        _ => subject(identity),
    };
    let facts = Facts {
        identity: Some(identity),
        session: Some(&session),
        by_id,
        ..Facts::new(identity.hello, &client.report, &subject)
    };
    Engine::default().assess(&facts).evidence.has(signal)
}

fn header(client: &mut Client, change: impl FnOnce(&mut Vec<String>)) {
    let names = client.report.header_names.take().unwrap_or_default();
    let mut names: Vec<String> = names.split(',').map(str::to_owned).collect();
    change(&mut names);
    client.report.header_names = Some(names.join(",").into());
}

fn windows(client: &mut Client) {
    let agent = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36";
    forged(client, agent);
}

#[test]
fn hellos_of_another_family_or_version_are_seen() {
    let none = |_: &mut Client| {};
    use Signal::{AlpnMismatch, FamilyDrift, KnownTool, StaleHello, UaTlsMismatch, UaVersionMismatch};
    assert!(speaks(UaTlsMismatch, "py-requests", |client| forged(client, CHROME)));
    assert!(speaks(UaTlsMismatch, "chromium-h2", |client| forged(client, FIREFOX)));
    assert!(speaks(UaTlsMismatch, "curl_cffi-chrome146", |client| forged(client, "python-requests/2.34.2")));
    assert!(!speaks(UaTlsMismatch, "py-requests", none), "it says what it is");
    assert!(!speaks(UaTlsMismatch, "chromium-h2", windows), "Chromium's hello is the same on all systems");
    assert!(speaks(KnownTool, "py-requests", none));
    assert!(!speaks(KnownTool, "py-requests", |client| forged(client, "FreshRSS/1.24 (Linux; https://freshrss.org)")));
    assert!(!speaks(KnownTool, "elinks", none), "people read with it");
    let chrome = |major: u16| {
        move |client: &mut Client| client.report.user_agent = Some(CHROME.replace("156", &major.to_string()).into())
    };
    assert!(speaks(StaleHello, "curl_cffi-chrome110", chrome(156)));
    assert!(!speaks(StaleHello, "curl_cffi-chrome110", chrome(110)), "an old browser with its own hello");
    assert!(speaks(UaVersionMismatch, "chromium-headful-h2", chrome(120)));
    assert!(!speaks(UaVersionMismatch, "chromium-headful-h2", chrome(170)), "a release that nobody recorded yet");
    let unknown = |client: &mut Client| {
        client.identities[0].ja4_stable = "t13d1518h2_8daaf6152771_0123456789ab".parse().expect("a JA4");
    };
    assert!(speaks(FamilyDrift, "chromium-headful-h2", unknown));
    assert!(!speaks(FamilyDrift, "chromium-headful-h2", none));
    assert!(!speaks(UaTlsMismatch, "chromium-headful-h2", unknown), "the next release");
    assert!(speaks(AlpnMismatch, "curl-noalpn", |client| client.report.protocol = Some("HTTP/2.0".into())));
    assert!(!speaks(AlpnMismatch, "curl-noalpn", none));
}

#[test]
fn copies_of_a_browsers_ja4_differ_beside_it() {
    use Signal::{GreaseMismatch, KnownImitator, LengthMismatch, NoPostQuantum, OrderFixed, OrderPermuted};
    assert!(speaks(GreaseMismatch, "impit-chrome151", |_| {}));
    assert!(!speaks(GreaseMismatch, "curl_cffi-chrome146", |_| {}), "the version copied has none there");
    assert!(speaks(LengthMismatch, "curl_cffi-firefox147", |_| {}), "a Chromium's");
    assert!(!speaks(LengthMismatch, "firefox-esr", |_| {}));
    let android = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/146.0.0.0 Mobile Safari/537.36";
    let desk = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/146.0.0.0 Safari/537.36";
    assert!(speaks(NoPostQuantum, "curl_cffi-chrome120", |client| forged(client, desk)));
    assert!(!speaks(NoPostQuantum, "curl_cffi-chrome131_android", |client| forged(client, android)), "a phone");
    assert!(!speaks(NoPostQuantum, "curl_cffi-chrome120", |_| {}), "none in that version");
    assert!(speaks(KnownImitator, "node-got-scraping", |_| {}));
    assert!(!speaks(KnownImitator, "chromium-headful-h2", |_| {}));
    // The same hello three times: of one program that doesn't permute, and of one connection told thrice.
    let again = |client: &mut Client| client.identities = vec![client.identities[0].clone(); 3];
    assert!(speaks(OrderFixed, "chromium-headful-h2", again));
    assert!(!speaks(OrderFixed, "chromium-headful-h2", |_| {}));
    assert!(!speaks(OrderFixed, "firefox-esr", again), "Firefox has one order");
    let other = |client: &mut Client| {
        again(client);
        client.identities.iter_mut().zip(1..).for_each(|(identity, order)| identity.traits.order = order);
    };
    assert!(speaks(OrderPermuted, "firefox-esr", other));
    assert!(!speaks(OrderPermuted, "firefox-esr", |_| {}));
}

#[test]
fn a_session_that_never_resumes_is_noted_where_it_is_one_persons() {
    let many = |client: &mut Client| {
        client.identities = vec![client.identities[0].clone(); 20];
        client.report.session = Some("7".into());
    };
    assert!(speaks(Signal::NeverResumes, "chromium-headful-h2", many));
    let crowd = |client: &mut Client| {
        many(client);
        client.report.session = None;
    };
    assert!(
        !speaks(Signal::NeverResumes, "chromium-headful-h2", crowd),
        "each of fifty people begins without a ticket"
    );
}

#[test]
fn a_syn_of_another_system_is_seen_where_it_is_the_clients() {
    let signal = Signal::UaOsMismatch;
    assert!(speaks(signal, "chromium-headful-h2", windows));
    let own = |client: &mut Client| {
        windows(client);
        client.identities[0].syn_class = Some(Class::Windows);
    };
    assert!(!speaks(signal, "chromium-headful-h2", own), "a VPN carries the client's own SYN");
    let unknown = |client: &mut Client| {
        windows(client);
        client.identities[0].syn_class = Some(Class::Unknown);
    };
    assert!(!speaks(signal, "chromium-headful-h2", unknown));
    let proxy = |client: &mut Client| {
        windows(client);
        header(client, |names| names.push("Via".to_owned()));
    };
    assert!(!speaks(signal, "chromium-headful-h2", proxy), "a company's proxy");
    assert!(!speaks(signal, "mitmproxy-upstream", windows), "what intercepts has its own SYN");
    let mut alone = named("chromium-headful-h2");
    windows(&mut alone);
    alone.report.client_hints_platform = Some("\"Windows\"".into());
    assert_eq!(against(&assess(&alone)), ["ua-os-mismatch"]);
    assert_eq!(assess(&alone).confidence, Confidence::LikelyHuman, "many a person is behind a relay");
}

#[test]
fn headers_that_no_browser_sends_so_are_seen() {
    use Signal::{HeaderOrderMismatch, HeadersMismatch, HintsMismatch, NoUserAgent, ToolUserAgent};
    let name = "chromium-headful-h2";
    let without =
        |gone: &'static str| move |client: &mut Client| header(client, |names| names.retain(|one| one != gone));
    assert!(speaks(HeadersMismatch, name, without("sec-fetch-mode")));
    assert!(!speaks(HeadersMismatch, name, without("sec-fetch-user")), "not every page is asked for by hand");
    assert!(!speaks(HeadersMismatch, name, |client| client.report.header_names = None), "the server doesn't tell");
    assert!(speaks(HeadersMismatch, name, |client| client.report.accept_encoding = Some("gzip, deflate".into())));
    assert!(!speaks(HeadersMismatch, name, |client| client.report.accept_encoding = Some("identity;q=1, *;q=0".into())));
    assert!(speaks(HeaderOrderMismatch, name, |client| header(client, |names| names.reverse())));
    let more = |client: &mut Client| header(client, |names| names.insert(0, "DNT".to_owned()));
    assert!(!speaks(HeaderOrderMismatch, name, more), "an extension's header");
    assert!(speaks(HintsMismatch, name, |client| forged(client, FIREFOX)));
    assert!(speaks(HintsMismatch, name, |client| client.report.client_hints_platform = Some("\"Windows\"".into())));
    assert!(!speaks(HintsMismatch, name, |client| client.report.client_hints_platform = Some("\"Chrome OS\"".into())));
    let nothing = |client: &mut Client| {
        client.report.user_agent = None;
        header(client, |names| names.retain(|one| one != "user-agent"));
    };
    assert!(speaks(NoUserAgent, "py-requests", nothing));
    let untold = |client: &mut Client| (client.report.user_agent, client.report.header_names) = (None, None);
    assert!(!speaks(NoUserAgent, "py-requests", untold), "the server doesn't tell");
    assert!(speaks(ToolUserAgent, "py-requests", |_| {}));
    assert!(!speaks(ToolUserAgent, "py-requests", |client| forged(client, "UptimeRobot/2.0")), "a health check");
}

#[test]
fn languages_of_another_country_are_noted() {
    let client = named("chromium-headful-h2");
    let speaks = |country: &str, languages: &'static str| {
        let report = Report { accept_language: Some(languages.into()), ..client.report.clone() };
        let identity = &client.identities[0];
        let (subject, standing) =
            (subject(identity), Standing { country: Country::new(country), ..Standing::default() });
        let facts = Facts {
            identity: Some(identity),
            standing: Some(&standing),
            ..Facts::new(identity.hello, &report, &subject)
        };
        Engine::default().assess(&facts).evidence.has(Signal::LanguageMismatch)
    };
    assert!(speaks("BR", "ja-JP,ja;q=0.9,en;q=0.8"));
    assert!(!speaks("JP", "ja,en;q=0.8"));
    assert!(!speaks("BR", "en-US,en;q=0.9"), "English is asked for everywhere");
    assert!(!speaks("BR", "de-DE,de;q=0.9"), "it isn't known where all who speak it are");
    assert!(!speaks("BR", "ja-JP,pt-BR;q=0.5"), "somebody who moved");
}

/// How many of the imitators a single request gives away, whoever makes one better must change the figure.
#[test]
fn most_imitators_show_something() {
    let imitators: Vec<Client> = clients().into_iter().filter(|client| client.class == "impersonator").collect();
    let found: Vec<Assessment> = imitators.iter().map(assess).collect();
    let noticed = found.iter().filter(|one| !against(one).is_empty()).count();
    let suspicious = found.iter().filter(|one| one.confidence >= Confidence::Suspicious).count();
    let silent: Vec<&str> = imitators
        .iter()
        .zip(&found)
        .filter(|(_, one)| against(one).is_empty())
        .map(|(client, _)| &*client.name)
        .collect();
    println!("{noticed} of {} show something, {suspicious} are suspicious; nothing: {silent:?}", imitators.len());
    assert!(noticed * 10 >= imitators.len() * 8, "{noticed} of {}: {silent:?}", imitators.len());
}
