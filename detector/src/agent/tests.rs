use proptest::prelude::*;

use super::*;

/// Product, kind, engine and major version, system.
type Said = (&'static str, Kind, Option<(Engine, Option<u16>)>, Option<Os>);

fn said(user_agent: &str) -> Said {
    let agent = Agent::of(user_agent);
    (agent.product, agent.kind, agent.engine.map(|engine| (engine, agent.major)), agent.os)
}

#[test]
fn browsers_are_known_by_product_engine_version_and_system() {
    use Engine::{Chromium, Gecko, WebKit};
    type Case = (&'static str, &'static str, Engine, Option<u16>, Option<Os>);
    let cases: [Case; 9] = [
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
            "Chrome",
            Chromium,
            Some(156),
            Some(Os::Windows),
        ),
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/146.0.0.0 Safari/537.36 Edg/146.0",
            "Edge",
            Chromium,
            Some(146),
            Some(Os::Linux),
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Mobile Safari/537.36",
            "Chrome",
            Chromium,
            Some(131),
            Some(Os::Android),
        ),
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0",
            "Firefox",
            Gecko,
            Some(153),
            Some(Os::Linux),
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0.1 Safari/605.1.15",
            "Safari",
            WebKit,
            Some(26),
            Some(Os::Mac),
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/120.0 Mobile/15E148 Safari/604.1",
            "Chrome for iOS",
            WebKit,
            None,
            Some(Os::Ios),
        ),
        (
            "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0.0.0 Safari/537.36",
            "Chrome",
            Chromium,
            Some(139),
            Some(Os::ChromeOs),
        ),
        (
            "Mozilla/5.0 (Android 13; Mobile; rv:135.0) Gecko/135.0 Firefox/135.0",
            "Firefox",
            Gecko,
            Some(135),
            Some(Os::Android),
        ),
        (
            "Mozilla/5.0 (Linux; Android 9; CUBOT_X19) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36",
            "Chrome",
            Chromium,
            Some(120),
            Some(Os::Android),
        ),
    ];
    for (text, product, engine, major, os) in cases {
        assert_eq!(said(text), (product, Kind::Browser, Some((engine, major)), os), "{text}");
        assert!(Agent::of(text).is_plain_browser() && Agent::of(text).mark.is_none(), "{text}");
    }
}

#[test]
fn an_engine_in_another_program_is_no_plain_browser() {
    for text in [
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) QtWebEngine/5.15.8 Chrome/87.0.4280.144 Safari/537.36",
        "Mozilla/5.0 (Linux; Android 14; Pixel 8; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/120.0 Mobile Safari/537.36",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Safari/605.1.15",
        "Mozilla/5.0 (Macintosh) AppleWebKit/537.36 (KHTML, like Gecko) App/1 Chrome/120.0.0.0 Electron/28.0 Safari/537.36",
    ] {
        assert!(Agent::of(text).kind == Kind::Browser && !Agent::of(text).is_plain_browser(), "{text}");
    }
}

#[test]
fn programs_that_tell_their_name_have_their_kind() {
    for (text, product, kind) in [
        ("curl/8.5.0", "curl", Kind::Tool),
        ("python-requests/2.34.2", "python-requests", Kind::Library),
        ("Python-urllib/3.11", "Python-urllib", Kind::Library),
        ("Go-http-client/2.0", "Go-http-client", Kind::Library),
        ("Java-http-client/25.0.2", "Java", Kind::Library),
        ("okhttp/4.12.0", "OkHttp", Kind::App),
        ("axios/1.21.1", "axios", Kind::Library),
        ("ApacheBench/2.3", "ApacheBench", Kind::Tool),
        ("HTTP-Tiny/0.080", "HTTP::Tiny", Kind::Library),
        ("lwp-request/6.68 libwww-perl/6.68", "libwww-perl", Kind::Library),
        ("Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1.19041.1682", "PowerShell", Kind::Tool),
        ("Lynx/2.9.0dev.12 libwww-FM/2.14", "Lynx", Kind::Browser),
        ("w3m/0.5.3+git20230121", "w3m", Kind::Browser),
        ("FreshRSS/1.24 (Linux; https://freshrss.org)", "FreshRSS", Kind::Service),
        ("kube-probe/1.30", "kube-probe", Kind::Service),
        ("git/2.45.1", "git", Kind::Service),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "Googlebot", Kind::Crawler),
        ("Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)", "crawler", Kind::Crawler),
        ("Mozilla/5.0 zgrab/0.x", "ZGrab", Kind::Tool),
        ("some program", "", Kind::Unknown),
        ("", "", Kind::Unknown),
    ] {
        let agent = Agent::of(text);
        assert_eq!((agent.product, agent.kind), (product, kind), "{text}");
    }
}

#[test]
fn tools_that_drive_browsers_are_seen() {
    let headless =
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36";
    let agent = Agent::of(headless);
    assert_eq!((agent.mark, agent.major), (Some(Mark::HeadlessChrome), Some(156)));
    for mark in Mark::ALL {
        assert_eq!(Agent::of(&format!("Mozilla/5.0 {} Chrome/120", mark.label())).mark, Some(*mark));
    }
}

#[test]
fn hints_say_version_system_and_form() {
    let brands = "\"Chromium\";v=\"156\", \"Google Chrome\";v=\"156\", \"Not)A;Brand\";v=\"24\"";
    let hints = Hints::of(Some(brands), Some("?0"), Some("\"macOS\""));
    let wanted = Hints { brands: true, chromium: Some(156), os: Some(Os::Mac), mobile: Some(false), mark: None };
    assert_eq!(hints, wanted);
    assert_eq!(Hints::of(Some("\"HeadlessChrome\";v=\"156\""), None, None).mark, Some(Mark::HeadlessChrome));
    assert_eq!(Hints::of(None, Some("maybe"), Some("\"\"")), Hints::default());
    for (platform, os) in [
        ("Windows", Os::Windows),
        ("Android", Os::Android),
        ("Linux", Os::Linux),
        ("Chrome OS", Os::ChromeOs),
        ("iOS", Os::Ios),
    ] {
        assert_eq!(Hints::of(None, None, Some(platform)).os, Some(os), "{platform}");
    }
}

proptest! {
    #[test]
    fn any_text_says_something(text in "\\PC{0,700}", words in prop::collection::vec(prop::sample::select(vec![
        "Mozilla/5.0 ", "Chrome/", "Version/", "Firefox/99999999", "(", ")", "bot", "cu", "Safari/", "é", ";", "iPhone", "; wv)",
    ]), 0..40)) {
        for text in [text, words.concat()] {
            let agent = Agent::of(&text);
            prop_assert_eq!(agent.kind == Kind::Unknown, agent.product.is_empty());
            prop_assert!(agent.engine.is_none() || agent.kind == Kind::Browser);
            let _ = Hints::of(Some(&text), Some(&text), Some(&text));
            prop_assert!(text.contains(family(&text)));
        }
    }
}
