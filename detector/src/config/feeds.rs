//! What is known of addresses: lists, databases, DNS. The part of the file in, the effective part out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::layers::Wrong;
use super::value::{Count, Size};
use crate::reputation::{Bounds, Class};

/// Where `detector feeds update` puts what it fetches.
const DEFAULT_DIRECTORY: &str = "/var/lib/detector-feeds";
/// Certificates by which publishers are known: Debian's, and others'.
const DEFAULT_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A book has a bit for each list, and those of crawlers' shipped ranges need some.
const LISTS_MAX: usize = 40;

/// Autonomous systems of data centres where servers are let by the hour: Amazon, Google, Microsoft, OVH, Hetzner,
/// DigitalOcean, Linode, Vultr, Scaleway, Contabo, Leaseweb, Oracle, Alibaba, Tencent, Huawei, M247, UpCloud, Netcup.
const HOSTING_ASNS: [u32; 22] = [
    8075, 9009, 12876, 14061, 14618, 16276, 16509, 20473, 24940, 28753, 31898, 37963, 40021, 45090, 45102, 51167,
    60781, 63949, 132_203, 136_907, 197_540, 396_982,
];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FeedsFile {
    directory: Option<PathBuf>,
    certificates: Option<PathBuf>,
    max_bytes: Option<Size<1024, { 256 << 20 }>>,
    max_entries: Option<Count<1, { 1 << 24 }>>,
    max_change_percent: Option<Count<0, 100_000>>,
    widest_ipv4: Option<Count<0, 32>>,
    widest_ipv6: Option<Count<0, 128>>,
    lists: Option<BTreeMap<String, ListFile>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListFile {
    class: Class,
    url: Option<String>,
    file: Option<PathBuf>,
    sha256: Option<String>,
    checksum_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ReputationFile {
    asn_database: Option<PathBuf>,
    country_database: Option<PathBuf>,
    hosting_asns: Option<Vec<u32>>,
    dns_per_second: Option<Count<0, 1000>>,
    crawler_answers: Option<Count<1, { 1 << 24 }>>,
}

/// Lists of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feeds {
    /// Where fetched ones are.
    pub directory: PathBuf,
    /// Certificates by which publishers are known.
    pub certificates: PathBuf,
    /// Bytes of a list.
    pub max_bytes: u64,
    /// What may be in one.
    pub bounds: Bounds,
    /// The most percent of one that may be new or gone at once.
    pub max_change_percent: u32,
    /// By name.
    pub lists: BTreeMap<String, FeedList>,
}

/// One list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedList {
    /// What it says of the addresses in it.
    pub class: Class,
    /// Where it comes from.
    pub source: FeedSource,
}

/// Where a list comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedSource {
    /// The operator writes it here.
    File(PathBuf),
    /// `detector feeds update` fetches it.
    Url {
        /// HTTPS.
        url: String,
        /// What it must be.
        checksum: Option<Checksum>,
    },
}

/// What a list must be: SHA-256, in small hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// This.
    Pinned(String),
    /// What is there, HTTPS.
    Url(String),
}

/// Databases and DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reputation {
    /// With autonomous systems, in MaxMind's format.
    pub asn_database: Option<PathBuf>,
    /// With countries.
    pub country_database: Option<PathBuf>,
    /// Autonomous systems that are data centres, sorted.
    pub hosting_asns: Vec<u32>,
    /// DNS queries a second about who claims to be a crawler; 0: none.
    pub dns_per_second: u32,
    /// Answers to those remembered.
    pub crawler_answers: u32,
}

impl Default for Feeds {
    fn default() -> Self {
        Self {
            directory: DEFAULT_DIRECTORY.into(),
            certificates: DEFAULT_CERTIFICATES.into(),
            max_bytes: 16 << 20,
            bounds: Bounds { entries: 100_000, widest_ipv4: 16, widest_ipv6: 32 },
            max_change_percent: 20,
            lists: BTreeMap::new(),
        }
    }
}

impl Default for Reputation {
    fn default() -> Self {
        Self {
            asn_database: None,
            country_database: None,
            hosting_asns: HOSTING_ASNS.to_vec(),
            dns_per_second: 8,
            crawler_answers: 16_384,
        }
    }
}

fn narrow<T: TryFrom<u64>>(value: u64, base: T) -> T {
    T::try_from(value).unwrap_or(base)
}

impl Feeds {
    pub(super) fn resolve(file: FeedsFile) -> Result<Self, Wrong> {
        let base = Self::default();
        let lists = file.lists.unwrap_or_default();
        if lists.len() > LISTS_MAX {
            let message = format!("there are more than {LISTS_MAX} lists; put some together");
            return Err(Wrong::new(&["feeds", "lists"], message));
        }
        let resolve = |(list, typed): (String, ListFile)| match typed.resolve(&list) {
            Ok(resolved) => Ok((list, resolved)),
            Err(error) => Err(Wrong::new(&["feeds", "lists", &list], error)),
        };
        let bounds = Bounds {
            entries: file.max_entries.map_or(base.bounds.entries, |typed| narrow(typed.0, base.bounds.entries)),
            widest_ipv4: file.widest_ipv4.map_or(base.bounds.widest_ipv4, |typed| narrow(typed.0, 32)),
            widest_ipv6: file.widest_ipv6.map_or(base.bounds.widest_ipv6, |typed| narrow(typed.0, 128)),
        };
        Ok(Self {
            directory: file.directory.unwrap_or(base.directory),
            certificates: file.certificates.unwrap_or(base.certificates),
            max_bytes: file.max_bytes.map_or(base.max_bytes, |typed| typed.0),
            bounds,
            max_change_percent: file.max_change_percent.map_or(base.max_change_percent, |typed| narrow(typed.0, 0)),
            lists: lists.into_iter().map(resolve).collect::<Result<_, _>>()?,
        })
    }
}

impl ListFile {
    fn resolve(self, name: &str) -> Result<FeedList, String> {
        // It is the name of a file, and stands in output.
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(format!("`{}` can't name a list; type small letters, digits and `-`", name.escape_default()));
        }
        let https = |url: String| match url.starts_with("https://") {
            true => Ok(url),
            false => Err(format!("list `{name}`: `{}` is not an HTTPS URL", url.escape_default())),
        };
        let checksum = match (self.sha256, self.checksum_url) {
            (None, None) => None,
            (Some(digits), None) if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Some(Checksum::Pinned(digits.to_ascii_lowercase()))
            }
            (None, Some(url)) => Some(Checksum::Url(https(url)?)),
            (Some(_), None) => return Err(format!("list `{name}`: `sha256` has 64 hexadecimal digits")),
            (Some(_), Some(_)) => return Err(format!("list `{name}`: either `sha256` or `checksum_url`")),
        };
        let source = match (self.url, self.file) {
            (Some(_), None) if self.class.is_own() => {
                let class = self.class.label();
                return Err(format!("list `{name}`: only a `file` of yours can make addresses {class}, no publisher"));
            }
            (Some(url), None) => FeedSource::Url { url: https(url)?, checksum },
            (None, Some(file)) if checksum.is_none() => FeedSource::File(file),
            (None, Some(_)) => return Err(format!("list `{name}`: a `file` has no checksum")),
            _ => return Err(format!("list `{name}`: it needs either `url` or `file`")),
        };
        Ok(FeedList { class: self.class, source })
    }
}

impl Reputation {
    pub(super) fn resolve(file: ReputationFile) -> Self {
        let base = Self::default();
        let named = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        let mut hosting_asns = file.hosting_asns.unwrap_or(base.hosting_asns);
        hosting_asns.sort_unstable();
        Self {
            asn_database: named(file.asn_database),
            country_database: named(file.country_database),
            hosting_asns,
            dns_per_second: file.dns_per_second.map_or(base.dns_per_second, |typed| narrow(typed.0, 0)),
            crawler_answers: file.crawler_answers.map_or(base.crawler_answers, |typed| narrow(typed.0, 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn list(text: &str) -> Result<FeedList, String> {
        let parsed = Config::parse("f.toml", &format!("[feeds.lists.bad]\n{text}\n"));
        parsed.map(|config| config.feeds.lists["bad"].clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_is_a_file_or_https() {
        let url = |checksum| FeedSource::Url { url: "https://a.example/x".to_owned(), checksum };
        let with = |text: &str| list(&format!("class = \"abuse\"\nurl = \"https://a.example/x\"\n{text}"));
        assert_eq!(with("").unwrap().source, url(None));
        let pinned = "Ab".repeat(32);
        let expected = Some(Checksum::Pinned(pinned.to_lowercase()));
        assert_eq!(with(&format!("sha256 = \"{pinned}\"")).unwrap().source, url(expected));
        assert!(with("sha256 = \"ab\"").unwrap_err().contains("64 hexadecimal digits"));
        assert!(with("checksum_url = \"http://a.example\"").unwrap_err().contains("is not an HTTPS URL"));
        assert!(list("class = \"abuse\"\nurl = \"http://a.example\"").unwrap_err().contains("is not an HTTPS URL"));
        assert!(list("class = \"abuse\"").unwrap_err().contains("either `url` or `file`"));
        assert!(list("class = \"abusive\"\nfile = \"/x\"").unwrap_err().contains("did you mean `abuse`?"));
        assert_eq!(list("class = \"trusted\"\nfile = \"/x\"").unwrap().class, Class::Trusted);
    }

    /// threats.md T38: what a publisher says is a hint.
    #[test]
    fn no_publisher_can_allow_or_deny() {
        for class in ["trusted", "denied"] {
            let error = list(&format!("class = \"{class}\"\nurl = \"https://a.example/x\"")).unwrap_err();
            assert!(error.contains("only a `file` of yours"), "{error}");
        }
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let error = Config::parse("f.toml", "[feeds.lists.\"../x\"]\nclass = \"tor\"\nfile = \"/x\"\n").unwrap_err();
        assert!(error.to_string().contains("can't name a list"), "{error}");
    }

    #[test]
    fn data_centres_are_sorted_for_look_ups() {
        assert!(HOSTING_ASNS.is_sorted());
    }
}
