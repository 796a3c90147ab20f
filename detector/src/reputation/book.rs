//! Everything that lists and databases say, for look-ups: an address in, its [`Standing`] out. Made once from what the
//! files say, then only read; another one takes its place when they change.
//!
//! Memory: some 100 bytes for each prefix, and the databases.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use maxminddb::Reader;
use prefix_trie::PrefixMap;
use serde::Deserialize;

use super::class::{Class, Classes, Country};
use super::confirm::{Answer, Check};
use super::crawlers::{CrawlerId, Crawlers};

/// Lists in a book: a bit each.
const LISTS_MAX: usize = 64;

/// Whether who claims to be a crawler is it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crawler {
    /// It claims to be none.
    #[default]
    None,
    /// Its address is in the ranges that the operator publishes.
    InRanges(CrawlerId),
    /// DNS leads from its address to a name of the operator's and back.
    ByName(CrawlerId),
    /// Not known yet, or DNS didn't answer.
    Unknown(CrawlerId),
    /// It isn't.
    Forged(CrawlerId),
}

impl Crawler {
    /// The one that it is, beyond doubt.
    #[must_use]
    pub const fn verified(self) -> Option<CrawlerId> {
        match self {
            Self::InRanges(id) | Self::ByName(id) => Some(id),
            Self::None | Self::Unknown(_) | Self::Forged(_) => None,
        }
    }
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What the lists that name it say.
    pub classes: Classes,
    /// Which those are: [`Book::names`] has their names.
    pub lists: u64,
    /// The autonomous system that it belongs to.
    pub asn: Option<u32>,
    /// Its country.
    pub country: Option<Country>,
    /// Whether it is the crawler that its User-Agent claims.
    pub crawler: Crawler,
}

/// An address database in MaxMind's format.
pub type Database = Arc<Reader<Vec<u8>>>;

/// Address databases. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Databases {
    /// With autonomous systems.
    pub asn: Option<Database>,
    /// With countries.
    pub country: Option<Database>,
    /// Autonomous systems that are data centres, sorted.
    pub hosting: Vec<u32>,
}

/// What databases call these, by their makers.
#[derive(Deserialize)]
struct AsnRecord {
    autonomous_system_number: Option<u32>,
}

#[derive(Deserialize)]
struct CountryRecord<'a> {
    #[serde(borrow)]
    country: Option<Iso<'a>>,
    country_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Iso<'a> {
    iso_code: Option<&'a str>,
}

/// All lists and databases.
#[derive(Debug, Default)]
pub struct Book {
    lists: Vec<(String, Class)>,
    ipv4: PrefixMap<Ipv4Net, u64>,
    ipv6: PrefixMap<Ipv6Net, u64>,
    databases: Databases,
    crawlers: Crawlers,
}

impl Book {
    /// With the ranges of crawlers that are shipped, but for those that `lists` names anew.
    pub fn new<L: IntoIterator<Item = IpNet>>(
        lists: impl IntoIterator<Item = (String, Class, L)>,
        databases: Databases,
    ) -> Self {
        let mut book = Self { databases, ..Self::default() };
        for (name, class, prefixes) in lists {
            book.add(name, class, prefixes);
        }
        for ranges in Crawlers::ranges() {
            if !book.lists.iter().any(|(name, _)| *name == ranges.name) {
                book.add(ranges.name.clone(), Class::Crawler, ranges.prefixes.iter().copied());
            }
        }
        book
    }

    /// A list more than there are bits is left out; the configuration has fewer.
    fn add(&mut self, name: String, class: Class, prefixes: impl IntoIterator<Item = IpNet>) {
        let number = self.lists.len();
        let Some(bit) = u32::try_from(number).ok().and_then(|number| 1_u64.checked_shl(number)) else { return };
        if number >= LISTS_MAX {
            return;
        }
        self.lists.push((name, class));
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => *self.ipv4.entry(prefix).or_default() |= bit,
                IpNet::V6(prefix) => *self.ipv6.entry(prefix).or_default() |= bit,
            }
        }
    }

    /// The names of these lists, and what they say.
    pub fn names(&self, lists: u64) -> impl Iterator<Item = (&str, Class)> {
        let named = self.lists.iter().enumerate();
        named.filter(move |(number, _)| lists >> number & 1 == 1).map(|(_, (name, class))| (name.as_str(), *class))
    }

    /// How many prefixes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ipv4.len().saturating_add(self.ipv6.len())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of an address, and of what its User-Agent claims. `spared`: the operator allows it, or nothing may be
    /// blocked there; then no list says anything against it (threats.md T38). `confirmed`: what DNS said of a claim.
    pub fn standing(
        &self,
        address: IpAddr,
        user_agent: Option<&str>,
        spared: bool,
        confirmed: impl FnOnce(Check) -> Option<Answer>,
    ) -> Standing {
        let lists = self.lists_of(address);
        let asn = self.asn(address);
        let claimed = user_agent.and_then(|user_agent| self.crawlers.claimed(user_agent));
        let crawler = claimed.map_or(Crawler::None, |id| self.crawler(id, address, lists, confirmed));
        let country = self.country(address);
        if spared {
            let classes = Classes::default().with(Class::Trusted);
            return Standing { classes, lists: 0, asn, country, crawler };
        }
        let mut classes: Classes = self.names(lists).map(|(_, class)| class).collect();
        if asn.is_some_and(|asn| self.databases.hosting.binary_search(&asn).is_ok()) {
            classes = classes.with(Class::Hosting);
        }
        Standing { classes, lists, asn, country, crawler }
    }

    fn lists_of(&self, address: IpAddr) -> u64 {
        let any = |all: u64, lists: &u64| all | lists;
        match address {
            IpAddr::V4(address) => self.ipv4.cover_values(&Ipv4Net::from(address)).fold(0, any),
            IpAddr::V6(address) => self.ipv6.cover_values(&Ipv6Net::from(address)).fold(0, any),
        }
    }

    fn crawler(
        &self,
        id: CrawlerId,
        address: IpAddr,
        lists: u64,
        confirmed: impl FnOnce(Check) -> Option<Answer>,
    ) -> Crawler {
        if id.ranges().is_some_and(|ranges| self.names(lists).any(|(name, _)| name == ranges)) {
            return Crawler::InRanges(id);
        }
        if !id.has_domains() {
            return Crawler::Forged(id);
        }
        match confirmed(Check { address, crawler: id }) {
            Some(Answer::Confirmed) => Crawler::ByName(id),
            Some(Answer::Denied) => Crawler::Forged(id),
            Some(Answer::Failed) | None => Crawler::Unknown(id),
        }
    }

    fn asn(&self, address: IpAddr) -> Option<u32> {
        let found = self.databases.asn.as_ref()?.lookup(address).ok()?;
        found.decode::<AsnRecord>().ok()??.autonomous_system_number
    }

    fn country(&self, address: IpAddr) -> Option<Country> {
        let found = self.databases.country.as_ref()?.lookup(address).ok()?;
        let record = found.decode::<CountryRecord<'_>>().ok()??;
        Country::new(record.country.and_then(|country| country.iso_code).or(record.country_code)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOGLE: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";

    fn book(lists: &[(&str, Class, &[&str])]) -> Book {
        let lists = lists.iter().map(|(name, class, prefixes)| {
            ((*name).to_owned(), *class, prefixes.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>())
        });
        Book::new(lists, Databases::default())
    }

    fn standing(book: &Book, address: &str) -> Vec<String> {
        let standing = book.standing(address.parse().unwrap(), None, false, |_| unreachable!("it claims nothing"));
        book.names(standing.lists).map(|(name, class)| format!("{name} {}", class.label())).collect()
    }

    #[test]
    fn every_list_around_an_address_counts() {
        let lists: &[(&str, Class, &[&str])] = &[
            ("wide", Class::Hosting, &["198.51.100.0/24", "2001:db8::/32"]),
            ("narrow", Class::Abuse, &["198.51.100.7/32", "2001:db8:1::/48"]),
            ("both", Class::Tor, &["198.51.100.7/32"]),
        ];
        let book = book(lists);
        assert_eq!(standing(&book, "198.51.100.7"), ["wide hosting", "narrow abuse", "both tor"]);
        assert_eq!(standing(&book, "198.51.100.8"), ["wide hosting"]);
        assert_eq!(standing(&book, "2001:db8:1::5"), ["wide hosting", "narrow abuse"]);
        assert_eq!(standing(&book, "203.0.113.1"), Vec::<String>::new());
    }

    /// threats.md T38: whatever a publisher says.
    #[test]
    fn nothing_is_held_against_what_is_never_blocked() {
        let book = book(&[("bad", Class::Abuse, &["198.51.100.0/24"])]);
        let standing = |spared| book.standing("198.51.100.17".parse().unwrap(), None, spared, |_| None);
        assert!(standing(false).classes.has(Class::Abuse));
        assert_eq!(standing(true).classes, Classes::default().with(Class::Trusted));
        assert_eq!(standing(true).lists, 0);
    }

    /// threats.md T6.
    #[test]
    fn only_an_address_makes_a_claim_true() {
        let book = book(&[]);
        let claim = |address: &str, says: Option<Answer>| {
            let standing = book.standing(address.parse().unwrap(), Some(GOOGLE), false, |_| says);
            (standing.crawler, standing.crawler.verified().map(CrawlerId::name))
        };
        let id = Crawlers::default().claimed(GOOGLE).unwrap();
        for ranges in Crawlers::ranges().iter().filter(|ranges| Some(ranges.name.as_str()) == id.ranges()) {
            for prefix in &ranges.prefixes {
                for address in [prefix.network(), prefix.broadcast()] {
                    let standing = book.standing(address, Some(GOOGLE), false, |_| None);
                    assert_eq!(standing.crawler, Crawler::InRanges(id), "{address}");
                }
            }
        }
        assert_eq!(claim("192.0.2.1", None), (Crawler::Unknown(id), None));
        assert_eq!(claim("192.0.2.1", Some(Answer::Denied)), (Crawler::Forged(id), None));
        assert_eq!(claim("192.0.2.1", Some(Answer::Failed)), (Crawler::Unknown(id), None));
        assert_eq!(claim("192.0.2.1", Some(Answer::Confirmed)), (Crawler::ByName(id), Some("googlebot")));
        // Another operator's ranges prove nothing, nor does an address without a claim.
        let open_ai = Crawlers::ranges().iter().find(|ranges| ranges.name == "openai-gptbot").unwrap();
        assert_eq!(claim(&open_ai.prefixes[0].addr().to_string(), None).1, None);
        assert_eq!(book.standing(open_ai.prefixes[0].addr(), Some("curl/8"), false, |_| None).crawler, Crawler::None);
    }

    #[test]
    fn newer_ranges_take_the_place_of_those_shipped() {
        let google = Crawlers::default().claimed(GOOGLE).unwrap();
        let name = google.ranges().unwrap();
        let old = Crawlers::ranges().iter().find(|ranges| ranges.name == name).unwrap().prefixes[0].addr();
        let book = book(&[(name, Class::Crawler, &["192.0.2.0/24"])]);
        assert_eq!(book.standing(old, Some(GOOGLE), false, |_| None).crawler.verified(), None);
        let new = "192.0.2.9".parse().unwrap();
        assert_eq!(book.standing(new, Some(GOOGLE), false, |_| None).crawler, Crawler::InRanges(google));
    }
}
