//! The shipped catalogue `data/crawlers.toml`: a User-Agent in, the crawler that it claims to be out, with what makes the
//! claim true: its operator's address ranges, its domains.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use ipnet::IpNet;
use serde::Deserialize;

const TEXT: &str = include_str!("../../data/crawlers.toml");

/// Bytes of a User-Agent that are read.
const READ: usize = 512;

/// One of the catalogue's crawlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CrawlerId(u16);

impl CrawlerId {
    #[cfg(test)]
    pub(super) const fn new(id: u16) -> Self {
        Self(id)
    }

    fn entry(self) -> Option<&'static Entry> {
        CATALOGUE.crawlers.get(usize::from(self.0))
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().map_or("", |entry| &entry.name)
    }

    /// The name of its ranges, if its operator publishes any.
    #[must_use]
    pub fn ranges(self) -> Option<&'static str> {
        self.entry()?.ranges.as_deref()
    }

    /// Whether DNS can tell.
    #[must_use]
    pub fn has_domains(self) -> bool {
        self.entry().is_some_and(|entry| !entry.domains.is_empty())
    }

    /// Whether a host with this name is one of its.
    #[must_use]
    pub fn is_host(self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let below = |domain: &String| {
            name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.entry().is_some_and(|entry| entry.domains.iter().any(below))
    }
}

/// Prefixes that an operator publishes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranges {
    /// What crawlers and lists call them.
    pub name: String,
    /// Where they are published.
    pub url: String,
    /// The day on which they were.
    pub fetched: String,
    /// They.
    pub prefixes: Vec<IpNet>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(rename = "operator")]
    _operator: String,
    agent: String,
    ranges: Option<String>,
    #[serde(default)]
    domains: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "as_of")]
    _as_of: String,
    #[serde(rename = "crawler")]
    crawlers: Vec<Entry>,
    ranges: Vec<Ranges>,
}

// A test reads the same text: what doesn't parse is never shipped.
static CATALOGUE: LazyLock<File> = LazyLock::new(|| toml::from_str(TEXT).unwrap_or_default());

/// What finds their names.
#[derive(Clone, Debug)]
pub struct Crawlers {
    names: Option<AhoCorasick>,
}

impl Default for Crawlers {
    fn default() -> Self {
        let agents = CATALOGUE.crawlers.iter().map(|crawler| crawler.agent.as_bytes());
        let mut finder = AhoCorasick::builder();
        finder.ascii_case_insensitive(true).match_kind(MatchKind::LeftmostLongest);
        Self { names: finder.build(agents).ok() }
    }
}

impl Crawlers {
    /// The crawler that a User-Agent claims to be: of several names the longest, for some contain others.
    #[must_use]
    pub fn claimed(&self, user_agent: &str) -> Option<CrawlerId> {
        let bytes = user_agent.as_bytes();
        let read = bytes.get(..READ).unwrap_or(bytes);
        let longest = self.names.as_ref()?.find_iter(read).max_by_key(aho_corasick::Match::len)?;
        Some(CrawlerId(u16::try_from(longest.pattern().as_usize()).ok()?))
    }

    /// The ranges that are shipped.
    #[must_use]
    pub fn ranges() -> &'static [Ranges] {
        &CATALOGUE.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(user_agent: &str) -> Option<&'static str> {
        Crawlers::default().claimed(user_agent).map(CrawlerId::name)
    }

    #[test]
    fn the_catalogue_holds_together() {
        let file: File = toml::from_str(TEXT).unwrap();
        assert!(file.crawlers.len() > 30 && file.ranges.len() > 10);
        for crawler in &file.crawlers {
            assert!(crawler.ranges.is_some() || !crawler.domains.is_empty(), "{}: nothing proves it", crawler.name);
            let known = |name: &String| file.ranges.iter().any(|ranges| ranges.name == *name);
            assert!(crawler.ranges.as_ref().is_none_or(known), "{}", crawler.name);
            assert!(crawler.domains.iter().all(|domain| domain.contains('.') && *domain == domain.to_lowercase()));
        }
    }

    #[test]
    fn a_claim_is_the_longest_name() {
        let google = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
        assert_eq!(claimed(google), Some("googlebot"));
        assert_eq!(claimed("googlebot-image/1.0"), Some("googlebot-image"));
        assert_eq!(claimed("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"), Some("bingbot"));
        assert_eq!(claimed("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/140.0.0.0 Safari/537.36"), None);
        assert_eq!(claimed(""), None);
        assert_eq!(claimed(&format!("{}Googlebot", "x".repeat(READ))), None, "beyond what is read");
    }

    #[test]
    fn hosts_are_below_the_domain_not_beside_it() {
        let google = Crawlers::default().claimed("Googlebot").unwrap();
        assert!(google.has_domains());
        for (name, is) in [
            ("crawl-66-249-66-1.googlebot.com.", true),
            ("CRAWL.GoogleBot.com", true),
            ("googlebot.com", true),
            ("evilgooglebot.com", false),
            ("googlebot.com.example", false),
            ("", false),
        ] {
            assert_eq!(google.is_host(name), is, "{name}");
        }
    }
}
