//! Programs by the names they give themselves in User-Agents, in lower case. What isn't here is unknown, and nothing is
//! held against it.

use super::{Agent, Engine, Kind, Os};

/// A program that isn't a browser with an engine of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// Where a name must stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Anywhere,
}

/// The name, where it stands, what we call the program, and its kind. The first that fits counts.
const PROGRAMS: &[(&str, At, &str, Kind)] = &[
    ("googlebot", At::Anywhere, "Googlebot", Kind::Crawler),
    ("bingbot", At::Anywhere, "Bingbot", Kind::Crawler),
    ("duckduckbot", At::Anywhere, "DuckDuckBot", Kind::Crawler),
    ("applebot", At::Anywhere, "Applebot", Kind::Crawler),
    ("yandexbot", At::Anywhere, "YandexBot", Kind::Crawler),
    ("baiduspider", At::Anywhere, "Baiduspider", Kind::Crawler),
    ("facebookexternalhit", At::Anywhere, "facebookexternalhit", Kind::Crawler),
    ("gptbot", At::Anywhere, "GPTBot", Kind::Crawler),
    ("claudebot", At::Anywhere, "ClaudeBot", Kind::Crawler),
    ("ccbot", At::Anywhere, "CCBot", Kind::Crawler),
    ("slurp", At::Anywhere, "Slurp", Kind::Crawler),
    ("uptimerobot", At::Anywhere, "UptimeRobot", Kind::Service),
    ("pingdom", At::Anywhere, "Pingdom", Kind::Service),
    ("statuscake", At::Anywhere, "StatusCake", Kind::Service),
    ("site24x7", At::Anywhere, "Site24x7", Kind::Service),
    ("elb-healthchecker", At::Start, "ELB-HealthChecker", Kind::Service),
    ("kube-probe", At::Start, "kube-probe", Kind::Service),
    ("googlehc", At::Start, "GoogleHC", Kind::Service),
    ("prometheus", At::Start, "Prometheus", Kind::Service),
    ("blackbox exporter", At::Start, "Blackbox Exporter", Kind::Service),
    ("feedly", At::Anywhere, "Feedly", Kind::Service),
    ("feedbin", At::Anywhere, "Feedbin", Kind::Service),
    ("inoreader", At::Anywhere, "Inoreader", Kind::Service),
    ("newsblur", At::Anywhere, "NewsBlur", Kind::Service),
    ("miniflux", At::Anywhere, "Miniflux", Kind::Service),
    ("freshrss", At::Anywhere, "FreshRSS", Kind::Service),
    ("tiny tiny rss", At::Anywhere, "Tiny Tiny RSS", Kind::Service),
    ("netnewswire", At::Anywhere, "NetNewsWire", Kind::Service),
    ("liferea", At::Anywhere, "Liferea", Kind::Service),
    ("newsboat", At::Anywhere, "Newsboat", Kind::Service),
    ("akregator", At::Anywhere, "Akregator", Kind::Service),
    ("feedparser", At::Anywhere, "feedparser", Kind::Service),
    ("thunderbird", At::Anywhere, "Thunderbird", Kind::Service),
    ("debian apt", At::Start, "APT", Kind::Service),
    ("libdnf", At::Start, "libdnf", Kind::Service),
    ("pacman", At::Start, "pacman", Kind::Service),
    ("git/", At::Start, "git", Kind::Service),
    ("pip/", At::Start, "pip", Kind::Service),
    ("npm/", At::Start, "npm", Kind::Service),
    ("cargo", At::Start, "cargo", Kind::Service),
    ("composer/", At::Start, "Composer", Kind::Service),
    ("docker/", At::Start, "Docker", Kind::Service),
    ("certbot", At::Start, "Certbot", Kind::Service),
    ("lynx/", At::Start, "Lynx", Kind::Browser),
    ("w3m/", At::Start, "w3m", Kind::Browser),
    ("elinks", At::Start, "ELinks", Kind::Browser),
    ("links (", At::Start, "Links", Kind::Browser),
    ("dillo/", At::Start, "Dillo", Kind::Browser),
    ("netsurf/", At::Anywhere, "NetSurf", Kind::Browser),
    ("url/emacs", At::Start, "Emacs", Kind::Browser),
    ("nmap", At::Anywhere, "Nmap", Kind::Tool),
    ("zgrab", At::Anywhere, "ZGrab", Kind::Tool),
    ("masscan", At::Anywhere, "masscan", Kind::Tool),
    ("sqlmap", At::Anywhere, "sqlmap", Kind::Tool),
    ("nikto", At::Anywhere, "Nikto", Kind::Tool),
    ("nuclei", At::Anywhere, "Nuclei", Kind::Tool),
    ("wpscan", At::Anywhere, "WPScan", Kind::Tool),
    ("gobuster", At::Anywhere, "gobuster", Kind::Tool),
    ("fuzz faster u fool", At::Anywhere, "ffuf", Kind::Tool),
    ("feroxbuster", At::Start, "feroxbuster", Kind::Tool),
    ("dirbuster", At::Start, "DirBuster", Kind::Tool),
    ("whatweb", At::Start, "WhatWeb", Kind::Tool),
    ("apachebench/", At::Start, "ApacheBench", Kind::Tool),
    ("hey/", At::Start, "hey", Kind::Tool),
    ("vegeta", At::Anywhere, "Vegeta", Kind::Tool),
    ("k6/", At::Start, "k6", Kind::Tool),
    ("siege/", At::Anywhere, "Siege", Kind::Tool),
    ("aria2/", At::Start, "aria2", Kind::Tool),
    ("windowspowershell/", At::Anywhere, "PowerShell", Kind::Tool),
    ("powershell/", At::Anywhere, "PowerShell", Kind::Tool),
    ("curl/", At::Start, "curl", Kind::Tool),
    ("wget", At::Start, "Wget", Kind::Tool),
    ("httpie", At::Start, "HTTPie", Kind::Tool),
    ("postmanruntime", At::Start, "Postman", Kind::Tool),
    ("nghttp2", At::Start, "nghttp2", Kind::Tool),
    ("s_client", At::Start, "OpenSSL", Kind::Tool),
    ("aioquic", At::Start, "aioquic", Kind::Library),
    ("python-requests", At::Start, "python-requests", Kind::Library),
    ("python-urllib", At::Start, "Python-urllib", Kind::Library),
    ("python-httpx", At::Start, "httpx", Kind::Library),
    ("python-http", At::Start, "Python http.client", Kind::Library),
    ("python", At::Start, "Python", Kind::Library),
    ("urllib3", At::Start, "urllib3", Kind::Library),
    ("aiohttp", At::Anywhere, "aiohttp", Kind::Library),
    ("scrapy", At::Start, "Scrapy", Kind::Library),
    ("go-http-client", At::Start, "Go-http-client", Kind::Library),
    ("go-resty", At::Start, "resty", Kind::Library),
    ("colly", At::Start, "Colly", Kind::Library),
    ("fasthttp", At::Start, "fasthttp", Kind::Library),
    ("java", At::Start, "Java", Kind::Library),
    ("apache-httpclient", At::Start, "Apache HttpClient", Kind::Library),
    ("jakarta", At::Start, "Apache HttpClient", Kind::Library),
    ("node", At::Start, "Node.js", Kind::Library),
    ("undici", At::Start, "undici", Kind::Library),
    ("axios", At::Start, "axios", Kind::Library),
    ("got (", At::Start, "got", Kind::Library),
    ("got/", At::Start, "got", Kind::Library),
    ("bun/", At::Start, "Bun", Kind::Library),
    ("deno/", At::Start, "Deno", Kind::Library),
    ("ruby", At::Start, "Ruby", Kind::Library),
    ("faraday", At::Start, "Faraday", Kind::Library),
    ("mechanize", At::Start, "Mechanize", Kind::Library),
    ("guzzlehttp", At::Start, "Guzzle", Kind::Library),
    ("php/", At::Start, "PHP", Kind::Library),
    ("libwww-perl", At::Start, "libwww-perl", Kind::Library),
    ("lwp", At::Start, "libwww-perl", Kind::Library),
    ("http-tiny/", At::Start, "HTTP::Tiny", Kind::Library),
    ("reqwest", At::Start, "reqwest", Kind::Library),
    ("rust-reqwest", At::Start, "reqwest", Kind::Library),
    ("hyper/", At::Start, "hyper", Kind::Library),
    ("okhttp", At::Anywhere, "OkHttp", Kind::App),
    ("cfnetwork", At::Anywhere, "CFNetwork", Kind::App),
    ("dalvik/", At::Start, "Dalvik", Kind::App),
    ("dart/", At::Start, "Dart", Kind::App),
    ("cronet", At::Anywhere, "Cronet", Kind::App),
];

/// The program, if it is one that tells its own name.
pub(super) fn find(text: &str) -> Option<Program> {
    let fits = |name: &str, at: At| if at == At::Start { text.starts_with(name) } else { text.contains(name) };
    let known = PROGRAMS.iter().find(|(name, at, ..)| fits(name, *at));
    let known = known.map(|(_, _, name, kind)| Program { name, kind: *kind });
    known.or_else(|| is_crawler(text).then_some(Program { name: "crawler", kind: Kind::Crawler }))
}

/// Whether it says so by its name: `AhrefsBot/7.0;`. Cubot makes phones.
fn is_crawler(text: &str) -> bool {
    ["bot", "crawler", "spider"].into_iter().any(|word| {
        text.match_indices(word).any(|(at, _)| {
            let before = text.get(..at).unwrap_or_default();
            let after = text.get(at.saturating_add(word.len())..).unwrap_or_default();
            let ends = after.chars().next().is_none_or(|next| matches!(next, '/' | ';' | ')' | ',' | ' ' | '-'));
            ends && !before.ends_with("cu")
        })
    })
}

/// Browsers by a product of theirs, from the more telling to the less, with their engine; whether that is embedded.
const BROWSERS: [(&str, &str, Engine, bool); 22] = [
    ("crios/", "Chrome for iOS", Engine::WebKit, false),
    ("fxios/", "Firefox for iOS", Engine::WebKit, false),
    ("edgios/", "Edge for iOS", Engine::WebKit, false),
    ("electron/", "Electron", Engine::Chromium, true),
    ("qtwebengine/", "QtWebEngine", Engine::Chromium, true),
    ("; wv)", "WebView", Engine::Chromium, true),
    ("edge/", "Edge Legacy", Engine::Chromium, true),
    ("edga/", "Edge", Engine::Chromium, false),
    ("edg/", "Edge", Engine::Chromium, false),
    ("opr/", "Opera", Engine::Chromium, false),
    ("samsungbrowser/", "Samsung Internet", Engine::Chromium, false),
    ("yabrowser/", "Yandex Browser", Engine::Chromium, false),
    ("vivaldi/", "Vivaldi", Engine::Chromium, false),
    ("ucbrowser/", "UC Browser", Engine::Chromium, true),
    ("headlesschrome/", "Chrome", Engine::Chromium, false),
    ("chrome/", "Chrome", Engine::Chromium, false),
    ("chromium/", "Chromium", Engine::Chromium, false),
    ("seamonkey/", "SeaMonkey", Engine::Gecko, true),
    ("palemoon/", "Pale Moon", Engine::Gecko, true),
    ("firefox/", "Firefox", Engine::Gecko, false),
    ("epiphany/", "Epiphany", Engine::WebKit, true),
    ("safari/", "Safari", Engine::WebKit, false),
];

/// A browser with an engine.
pub(super) fn browser(text: &str, os: Option<Os>) -> Option<Agent> {
    // Every one of them says so, since 1994.
    if !text.starts_with("mozilla/") {
        return None;
    }
    let (_, product, engine, embedded) = *BROWSERS.iter().find(|(word, ..)| text.contains(word))?;
    // Whatever its name, on iOS it is Safari's engine, and nowhere but there and on macOS is that engine Safari's own.
    let engine = if os == Some(Os::Ios) { Engine::WebKit } else { engine };
    let foreign = engine == Engine::WebKit && !matches!(os, Some(Os::Ios | Os::Mac));
    let major = match engine {
        Engine::Chromium => ["headlesschrome/", "chrome/", "chromium/"].into_iter().find_map(|word| major(text, word)),
        Engine::Gecko => major(text, "firefox/"),
        Engine::WebKit => major(text, "version/"),
    };
    Some(Agent {
        product,
        kind: Kind::Browser,
        engine: Some(engine),
        major,
        embedded: embedded || foreign,
        ..Agent::UNKNOWN
    })
}

/// The number behind `word`.
pub(super) fn major(text: &str, word: &str) -> Option<u16> {
    let (_, behind) = text.split_once(word)?;
    let end = behind.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(behind.len());
    behind.get(..end)?.parse().ok()
}
