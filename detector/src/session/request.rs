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
    /// A page's script asks for it, or a reader of feeds: nobody looks at it as a page.
    pub call: bool,
    /// It is robots.txt.
    pub robots: bool,
    /// robots.txt forbids it to programs.
    pub forbidden: bool,
    /// No page links to it.
    pub trap: bool,
    /// It says which page it was found on.
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
        let path = target.split(['?', '#']).next().unwrap_or(target);
        let segments = path.split('/').filter(|segment| !segment.is_empty()).count();
        let (count, sum) = numbers(target);
        Self {
            at,
            connection,
            asset: is_asset(report, path),
            call: is_call(report, path),
            robots: path == "/robots.txt",
            forbidden: paths.is_forbidden(target),
            trap: paths.is_trap(target),
            referer: report.referer.is_some(),
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
fn is_asset(report: &Report<'_>, path: &str) -> bool {
    match report.fetch_dest.as_deref() {
        Some("image" | "style" | "script" | "font" | "audio" | "video" | "track" | "manifest") => true,
        Some("document" | "iframe" | "frame") => false,
        _ => ASSETS.iter().any(|asset| asset.eq_ignore_ascii_case(end(path))),
    }
}

/// What scripts and readers of feeds ask for, by the same two.
fn is_call(report: &Report<'_>, path: &str) -> bool {
    let feed = || FEEDS.iter().any(|feed| feed.eq_ignore_ascii_case(end(path)));
    report.fetch_dest.as_deref().map_or_else(feed, |dest| dest == "empty")
}

/// What stands behind the last dot of a path's name.
fn end(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or("", |(_, end)| end)
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
