//! A report as a session takes it: everything that is text becomes a number.

use std::hash::{BuildHasher, Hash as _, Hasher as _};

use super::paths::Paths;
use crate::clock::Timestamp;
use crate::fingerprint::Trait;
use crate::join::Identity;
use crate::report::Report;

/// One request of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it began.
    pub at: Timestamp,
    /// Which connection it came over.
    pub connection: u64,
    /// It is for what belongs to a page: an image, a style, a script, a font.
    pub asset: bool,
    /// A page's script or frame asks for it, or a reader of feeds: nobody looks at it as a page.
    pub call: bool,
    /// It is robots.txt.
    pub robots: bool,
    /// robots.txt forbids it to programs.
    pub forbidden: bool,
    /// No page links to it.
    pub trap: bool,
    /// It was found on a page: the browser says so (Sec-Fetch-Site), or says on which (Referer).
    pub referer: bool,
    /// The answer's status: 2 for 200 and so on; 0 if it isn't known.
    pub class: u8,
    /// Path segments.
    pub depth: u8,
    /// A hash of path and query.
    pub path: u64,
    /// The same without digits: `/page/1` and `/page/2` have one.
    pub shape: u64,
    /// The sum of the numbers in path and query, if there are any.
    pub number: Option<u64>,
    /// What its connection's hello showed.
    pub hello: Option<Hello>,
}

/// What is kept of a connection's hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// When it came.
    pub at: Timestamp,
    /// The order of its extensions ([`crate::fingerprint::Traits::order`]).
    pub order: u64,
    /// It resumed a session.
    pub resumes: bool,
}

/// Ends of paths that pages are made of.
const ASSETS: [&str; 24] = [
    "css",
    "js",
    "mjs",
    "map",
    "png",
    "jpg",
    "jpeg",
    "gif",
    "webp",
    "avif",
    "svg",
    "ico",
    "bmp",
    "woff",
    "woff2",
    "ttf",
    "otf",
    "eot",
    "mp4",
    "webm",
    "mp3",
    "ogg",
    "wasm",
    "webmanifest",
];

/// Ends of paths that readers of feeds ask for.
const FEEDS: [&str; 3] = ["rss", "atom", "xml"];

/// Headers that say that nobody asked for the page yet (<https://wicg.github.io/nav-speculation/prefetch.html>).
const PREFETCHING: [&str; 3] = ["sec-purpose", "purpose", "x-moz"];

/// Digits of the largest number that is looked at: what has more is an id, not a count.
const DIGITS: usize = 18;

impl Request {
    /// Whether somebody may look at it as a page.
    #[must_use]
    pub const fn is_page(&self) -> bool {
        !self.asset && !self.call
    }

    /// That a report tells of.
    #[must_use]
    pub fn of(report: &Report<'_>, at: Timestamp, connection: u64, paths: &Paths, hasher: &impl BuildHasher) -> Self {
        let target = report.path.as_deref().unwrap_or_default();
        let path = target.find(['?', '#']).and_then(|end| target.get(..end)).unwrap_or(target);
        let segments = path.split('/').filter(|segment| !segment.is_empty()).count();
        let end = end(path);
        let (count, sum) = numbers(target);
        Self {
            at,
            connection,
            asset: is_asset(report, end),
            call: is_call(report, end),
            robots: path == "/robots.txt",
            forbidden: paths.is_forbidden(target),
            trap: paths.is_trap(target),
            referer: is_found(report),
            class: report
                .status
                .and_then(|status| status.checked_div(100))
                .and_then(|class| class.try_into().ok())
                .unwrap_or(0),
            depth: u8::try_from(segments).unwrap_or(u8::MAX),
            path: hasher.hash_one(target),
            shape: shape(target, hasher),
            number: (count > 0).then_some(sum),
            hello: None,
        }
    }

    /// The same, over a connection whose hello said this.
    #[must_use]
    pub fn with_hello(self, identity: &Identity) -> Self {
        let Identity { traits, hello, .. } = identity;
        let hello = Hello { at: *hello, order: traits.order, resumes: traits.has.has(Trait::Resumes) };
        Self { hello: Some(hello), ..self }
    }
}

/// A browser says what for, if it says anything; else the path's end does.
fn is_asset(report: &Report<'_>, end: &str) -> bool {
    match report.fetch_dest.as_deref() {
        Some("image" | "style" | "script" | "font" | "audio" | "video" | "track" | "manifest") => true,
        Some("document" | "iframe" | "frame") => false,
        _ => is_one_of(end, &ASSETS),
    }
}

/// What scripts, frames and readers of feeds ask for, by the same two, and what a browser fetches before anybody asks. One
/// too old to say what for takes a page as HTML before all else.
fn is_call(report: &Report<'_>, end: &str) -> bool {
    let ahead = report
        .header_names
        .as_deref()
        .is_some_and(|names| names.split(',').any(|name| is_one_of(name.trim(), &PREFETCHING)));
    let feed = || is_one_of(end, &FEEDS);
    let data = || report.referer.is_some() && report.accept.as_deref().is_some_and(|accept| !accept.contains("html"));
    ahead || report.fetch_dest.as_deref().map_or_else(|| feed() || data(), |dest| dest != "document")
}

/// What the browser says counts more: extensions take Referer away, and scripts make it up. `none` is who typed an address.
fn is_found(report: &Report<'_>) -> bool {
    report.fetch_site.as_deref().map_or(report.referer.is_some(), |site| site != "none")
}

fn is_one_of(word: &str, words: &[&str]) -> bool {
    !word.is_empty() && words.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// What stands behind the last dot of a path's name.
fn end(path: &str) -> &str {
    // Most paths' last byte of the two is a slash.
    let last = path.bytes().rposition(|byte| matches!(byte, b'/' | b'.'));
    let from = last.filter(|last| path.as_bytes().get(*last) == Some(&b'.'));
    from.and_then(|dot| path.get(dot.saturating_add(1)..)).unwrap_or_default()
}

/// The numbers of a text, and their sum: if one of them counts, the sum does.
fn numbers(text: &str) -> (usize, u64) {
    let runs = text.split(|letter: char| !letter.is_ascii_digit()).filter(|run| (1..=DIGITS).contains(&run.len()));
    let numbers = runs.filter_map(|run| run.parse::<u64>().ok());
    numbers.fold((0, 0), |(count, sum), number| (count.saturating_add(1), sum.saturating_add(number)))
}

/// A hash of a text without its digits.
fn shape(text: &str, hasher: &impl BuildHasher) -> u64 {
    let mut hash = hasher.build_hasher();
    text.split(|letter: char| letter.is_ascii_digit())
        .filter(|piece| !piece.is_empty())
        .for_each(|piece| piece.hash(&mut hash));
    hash.finish()
}

#[cfg(test)]
mod tests {
    use foldhash::fast::FixedState;

    use super::*;

    fn request(path: &'static str, dest: Option<&'static str>) -> Request {
        let report = Report { path: Some(path.into()), fetch_dest: dest.map(Into::into), ..Report::default() };
        Request::of(&report, Timestamp::default(), 0, &Paths::default(), &FixedState::default())
    }

    #[test]
    fn paths_become_numbers() {
        let numbers = ["/page/1", "/page/22", "/a/7/b?x=3&y", "/page/", "", "/9", "/123456789012345678901", "/ä5ö"];
        let numbers: Vec<_> = numbers.map(|path| request(path, None).number).to_vec();
        assert_eq!(numbers, [Some(1), Some(22), Some(10), None, None, Some(9), None, Some(5)]);
        let shape = |path| request(path, None).shape;
        assert_eq!(shape("/page/1"), shape("/page/22"));
        assert_eq!(shape("/list?page=1&q=a"), shape("/list?page=7&q=a"));
        assert_ne!(shape("/page/1"), shape("/pages/1"));
        assert_ne!(request("/page/1", None).path, request("/page/2", None).path);
        assert_eq!(["/", "/a", "/a/b/?c/d", ""].map(|path| request(path, None).depth), [0, 1, 2, 0]);
    }

    #[test]
    fn calls_are_what_nobody_looks_at_as_a_page() {
        let of = |report: Report<'static>| {
            Request::of(&report, Timestamp::default(), 0, &Paths::default(), &FixedState::default()).call
        };
        let empty = Report { path: Some("/api/7".into()), ..Report::default() };
        let accepts = |accept: &'static str| Report { accept: Some(accept.into()), ..empty.clone() };
        let found = |report: Report<'static>| Report { referer: Some("https://shop.test/".into()), ..report };
        assert!(of(Report { fetch_dest: Some("empty".into()), ..empty.clone() }), "a script says so");
        assert!(of(Report { fetch_dest: Some("iframe".into()), ..empty.clone() }), "a page may have ten of them");
        assert!(of(Report { header_names: Some("host, Sec-Purpose,accept".into()), ..empty.clone() }), "fetched ahead");
        assert!(of(found(accepts("application/json"))), "a script of an old browser");
        assert!(!of(accepts("*/*")), "a program without a page");
        assert!(!of(found(accepts("text/html,application/xml;q=0.9"))), "a page of an old browser");
        assert!(!of(Report { header_names: Some("host,accept".into()), ..empty }));
    }

    #[test]
    fn where_a_page_was_found_is_what_the_browser_says() {
        let found = |site: Option<&'static str>, referer: Option<&'static str>| {
            let report =
                Report { fetch_site: site.map(Into::into), referer: referer.map(Into::into), ..Report::default() };
            Request::of(&report, Timestamp::default(), 0, &Paths::default(), &FixedState::default()).referer
        };
        assert!(found(Some("same-origin"), None), "an extension took the referer away");
        assert!(!found(Some("none"), Some("https://shop.test/")), "no browser sends these two");
        assert!(found(None, Some("https://shop.test/")) && !found(None, None), "an old browser");
    }

    #[test]
    fn assets_are_what_pages_are_made_of() {
        for (path, dest, asset) in [
            ("/a.css?v=3", None, true),
            ("/logo.PNG", None, true),
            ("/data", Some("image"), true),
            ("/a.js", Some("document"), false),
            ("/a.b/c", None, false),
            ("/index.html", None, false),
            ("/api.json", Some("empty"), false),
        ] {
            assert_eq!(request(path, dest).asset, asset, "{path}");
        }
    }
}
