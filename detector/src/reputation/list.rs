//! The text of a list in, its prefixes out, or why it is not taken: a publisher may err, or be somebody else by now
//! (threats.md T10, T38). Two forms are read: a prefix or an address at the beginning of each line (comments after `#`
//! or `;`, other columns after a comma or a space), and JSON with them as texts anywhere in it.
//!
//! Memory: [`Bounds::entries`] prefixes, and JSON as long as the text.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

/// What a list may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Prefixes in it.
    pub entries: usize,
    /// Bits of an IPv4 prefix, at least.
    pub widest_ipv4: u8,
    /// The same of an IPv6 prefix.
    pub widest_ipv6: u8,
}

/// Changes that are no matter, however short a list is.
const FEW_CHANGES: usize = 16;

/// Never anybody's on the Internet: private, shared, local, multicast (RFC 6890). Those for documentation hurt nobody.
const SPECIAL: [&str; 13] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
    "::/8",
    "64:ff9b::/96",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// Why a list is not taken; what was there stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// More prefixes than may be.
    #[error("it has more than {0} prefixes; raise `max_entries` in [feeds] if it should")]
    TooMany(usize),
    /// A prefix as wide as nobody's.
    #[error(
        "it names `{0}`, a part of the Internet and nobody's network; `widest_ipv4` and `widest_ipv6` in [feeds] say what may be"
    )]
    TooWide(IpNet),
    /// Mostly something else than prefixes.
    #[error("{0} of its lines are neither an address nor a prefix, {1} are; is that a list?")]
    NotAList(usize, usize),
    /// Nothing in it.
    #[error("there is nothing in it")]
    Empty,
    /// Not what it was.
    #[error(
        "{0} % of it changed, more than the {1} % that `max_change_percent` in [feeds] allows; look at it, then: detector feeds update --accept"
    )]
    Changed(u64, u32),
}

impl Refused {
    /// Each kind's metric label.
    pub const LABELS: [&str; 5] = ["too_many", "too_wide", "not_a_list", "empty", "changed"];

    /// The metric label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooMany(_) => "too_many",
            Self::TooWide(_) => "too_wide",
            Self::NotAList(..) => "not_a_list",
            Self::Empty => "empty",
            Self::Changed(..) => "changed",
        }
    }
}

/// A list that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Sorted, each once, none within another.
    pub prefixes: Vec<IpNet>,
    /// Entries left out since they are never anybody's on the Internet.
    pub special: usize,
    /// Lines that are no prefix.
    pub unread: usize,
}

impl List {
    /// Somebody else's list.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn read(text: &str, bounds: &Bounds) -> Result<Self, Refused> {
        let special: Vec<IpNet> = SPECIAL.iter().filter_map(|text| text.parse().ok()).collect();
        let mut left_out = 0_usize;
        let (found, unread) = entries(text, bounds.entries, |prefix| {
            let widest = if prefix.addr().is_ipv4() { bounds.widest_ipv4 } else { bounds.widest_ipv6 };
            let within = special.iter().any(|special| special.contains(&prefix));
            left_out = left_out.saturating_add(usize::from(within));
            match within {
                true => Ok(false),
                false if prefix.prefix_len() < widest => Err(Refused::TooWide(prefix)),
                false => Ok(true),
            }
        })?;
        Ok(Self { prefixes: found, special: left_out, unread })
    }

    /// The operator's own list: whatever it names is meant.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn read_own(text: &str, most: usize) -> Result<Self, Refused> {
        let (prefixes, unread) = entries(text, most, |_| Ok(true))?;
        Ok(Self { prefixes, special: 0, unread })
    }
}

/// The prefixes of a text that `keep` keeps, and how many lines are none.
fn entries(
    text: &str,
    most: usize,
    mut keep: impl FnMut(IpNet) -> Result<bool, Refused>,
) -> Result<(Vec<IpNet>, usize), Refused> {
    let (mut found, mut read, mut unread) = (Vec::new(), 0_usize, 0_usize);
    let mut entry = |word: &str| -> Result<(), Refused> {
        let Some(prefix) = prefix(word) else {
            unread = unread.saturating_add(1);
            return Ok(());
        };
        read = read.saturating_add(1);
        if read > most {
            return Err(Refused::TooMany(most));
        }
        if keep(prefix)? {
            found.push(prefix);
        }
        Ok(())
    };
    let json = text.trim_start().starts_with(['{', '[']);
    match json.then(|| serde_json::from_str(text).ok()).flatten() {
        Some(value) => texts(&value, &mut entry)?,
        None => {
            let lines = text.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default().trim());
            let words = lines.filter(|line| !line.is_empty());
            words
                .map(|line| line.split([',', ' ', '\t']).next().unwrap_or_default().trim_matches('"'))
                .try_for_each(entry)?;
        }
    }
    if unread > read && !json {
        return Err(Refused::NotAList(unread, read));
    }
    if read == 0 {
        return Err(Refused::Empty);
    }
    Ok((IpNet::aggregate(&found), if json { 0 } else { unread }))
}

/// Each text in a JSON value; the reader has bounded how deep it lies.
fn texts(value: &Value, entry: &mut impl FnMut(&str) -> Result<(), Refused>) -> Result<(), Refused> {
    match value {
        Value::String(text) => entry(text),
        Value::Array(values) => values.iter().try_for_each(|value| texts(value, entry)),
        Value::Object(values) => values.values().try_for_each(|value| texts(value, entry)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// An address, as a prefix of full length, or a prefix.
fn prefix(word: &str) -> Option<IpNet> {
    let prefix: IpNet = match word.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().into(),
        Err(_) => word.parse().ok()?,
    };
    Some(prefix.trunc())
}

/// How many percent of a list are new or gone; 0 for a few. Both sorted.
#[must_use]
pub fn changed_percent(old: &[IpNet], new: &[IpNet]) -> u64 {
    let same = new.iter().filter(|prefix| old.binary_search(prefix).is_ok()).count();
    let changed = old.len().saturating_add(new.len()).saturating_sub(same.saturating_mul(2));
    if changed <= FEW_CHANGES || old.is_empty() {
        return 0;
    }
    let percent = changed.saturating_mul(100).checked_div(old.len()).unwrap_or_default();
    u64::try_from(percent).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { entries: 1000, widest_ipv4: 16, widest_ipv6: 32 };

    fn read(text: &str) -> Result<Vec<String>, Refused> {
        List::read(text, &BOUNDS).map(|list| list.prefixes.iter().map(ToString::to_string).collect())
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_forms_that_publishers_use_are_read() {
        let lines =
            "; DROP list\n198.51.100.0/24 ; SBL1\n# more\n203.0.113.7,2026-11-22,online\n\n2001:db8:1::/48\tx\n";
        assert_eq!(read(lines).unwrap(), ["198.51.100.0/24", "203.0.113.7/32", "2001:db8:1::/48"]);
        let json = r#"{"creationTime": "2026", "prefixes": [{"ipv4Prefix": "192.0.2.0/27"}, {"ipv6Prefix": "2001:db8::/64"}]}"#;
        assert_eq!(read(json).unwrap(), ["192.0.2.0/27", "2001:db8::/64"]);
        assert_eq!(read("192.0.2.1\n192.0.2.0\n192.0.2.1\n").unwrap(), ["192.0.2.0/31"], "sorted, joined, each once");
        assert_eq!(read("ip,seen\n192.0.2.1,now\n").unwrap(), ["192.0.2.1/32"], "a line of titles");
    }

    /// threats.md T38.
    #[test]
    fn a_poisoned_list_is_refused_whole() {
        for wide in ["0.0.0.0/0", "::/0", "8.0.0.0/7", "198.0.0.0/15", "2001::/16"] {
            let text = format!("192.0.2.1\n{wide}\n");
            assert_eq!(read(&text), Err(Refused::TooWide(net(wide))), "{wide}");
        }
        assert_eq!(read("<html>\n<body>\nno\n</body>\n192.0.2.1\n"), Err(Refused::NotAList(4, 1)));
        assert_eq!(read("# nothing\n"), Err(Refused::Empty));
        let many: String = (0..=1000).map(|n| format!("198.51.{}.{}\n", n / 250, n % 250)).collect();
        assert_eq!(read(&many), Err(Refused::TooMany(1000)));
    }

    #[test]
    fn what_is_nobodys_on_the_internet_is_left_out() {
        let text = "10.0.0.0/8\n192.168.1.1\n127.0.0.1\n100.64.0.0/10\nfe80::1\nfc00::/7\n192.0.2.1\n";
        let list = List::read(text, &BOUNDS).unwrap();
        assert_eq!((list.prefixes, list.special), (vec![net("192.0.2.1/32")], 6));
        let own = List::read_own("10.0.0.0/8\n", 10).unwrap();
        assert_eq!(own.prefixes, [net("10.0.0.0/8")], "the operator means it");
    }

    #[test]
    fn a_few_changes_are_none() {
        let list = |range: std::ops::Range<u32>| -> Vec<IpNet> {
            range.map(|n| IpNet::from(IpAddr::from((0xc633_6400_u32 + 2 * n).to_be_bytes()))).collect()
        };
        assert_eq!(changed_percent(&[], &list(0..1000)), 0, "the first time");
        assert_eq!(changed_percent(&list(0..4), &list(4..12)), 0, "twelve of four");
        assert_eq!(changed_percent(&list(0..100), &list(0..119)), 19);
        assert_eq!(changed_percent(&list(0..100), &list(50..150)), 100);
    }

    proptest! {
        #[test]
        fn any_text_is_a_list_or_refused(text: String) {
            if let Ok(list) = List::read(&text, &BOUNDS) {
                prop_assert!(list.prefixes.is_sorted());
                prop_assert!(list.prefixes.iter().all(|prefix| prefix.addr().is_ipv6() || prefix.prefix_len() >= 16));
            }
        }
    }
}
