//! What an operator names: text in (`192.0.2.7`, `2001:db8::/32`, a JA4 value), [`Subject`] out, or an error that
//! points at the wrong characters. Bound: a subject holds no more than its text, 2 KiB for a JA4_r, 64 bytes for others.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::fingerprint::{Ja4, Ja4Raw, ja4::NotJa4, raw::NotJa4Raw};

/// Bits that the IPv4-mapped form (RFC 4291 section 2.5.5.2) puts before an IPv4 prefix.
const MAPPED_BITS: u8 = 96;

/// Bits of the IPv6 prefix within which a client can choose any address (threats.md T45).
const UNIT_BITS: u8 = 64;

/// What a verdict is about. One thing has one form: `192.0.2.7/32` is the address, and `::ffff:192.0.2.7` is IPv4.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subject {
    /// One source address.
    Address(IpAddr),
    /// A source prefix, shorter than an address, without host bits.
    Prefix(IpNet),
    /// Every client whose ClientHello has this JA4 value.
    Ja4(Ja4),
    /// The same by JA4_r, which says more: the kernel's key of it can be computed before one was seen.
    Ja4Raw(Ja4Raw),
    /// Clients with a JA4 value (one of the two above) from one IPv4 address or IPv6 /64: `192.0.2.7+t13d...`.
    Pair(IpNet, Box<Subject>),
}

/// A text that names nothing. `Display` is one line: what is wrong and what to type instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {hint}")]
pub struct SubjectError {
    /// What was typed.
    pub text: String,
    /// The wrong bytes of it.
    pub span: Range<usize>,
    /// What is wrong with them.
    pub reason: String,
    /// What to type instead.
    pub hint: String,
}

const ADDRESS_HINT: &str = "type an address like `192.0.2.7` or `2001:db8::7`, or a prefix like `192.0.2.0/24`";
const JA4_HINT: &str =
    "a JA4 value looks like `t13d1516h2_8daaf6152771_e5627efa2ab1`; `detector status` lists those seen";

const RAW_HINT: &str = "`detector fingerprint --format json` prints it as `ja4_r`";

impl From<IpNet> for Subject {
    /// A prefix of full length is its address.
    fn from(prefix: IpNet) -> Self {
        if prefix.prefix_len() == prefix.max_prefix_len() { Self::Address(prefix.addr()) } else { Self::Prefix(prefix) }
    }
}

impl Subject {
    /// An address or a prefix.
    ///
    /// # Errors
    /// When `text` is neither, or the prefix has host bits or can't be told from IPv4 in the kernel's tries.
    pub fn source(text: &str) -> Result<Self, SubjectError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Subject::Address(address.to_canonical()));
        }
        if text.parse::<Ja4>().is_ok() || text.parse::<Ja4Raw>().is_ok() {
            let error =
                (0..text.len(), format!("`{text}` is a JA4 value, not an address"), "put `--ja4` before it".to_owned());
            return Err(refuse(text, error));
        }
        match text.parse::<IpNet>() {
            Ok(net) => Self::prefix(text, net),
            Err(_) => Err(refuse(text, diagnose(text))),
        }
    }

    /// A JA4 value, or a JA4_r.
    ///
    /// # Errors
    /// When `text` breaks the grammar `[tqd][0-9a-z]{2}[di][0-9]{4}[0-9A-Za-z]{2}_[0-9a-f]{12}_[0-9a-f]{12}` and that
    /// of [`Ja4Raw`].
    pub fn ja4(text: &str) -> Result<Self, SubjectError> {
        match text.parse() {
            Ok(raw) => return Ok(Subject::Ja4Raw(raw)),
            // Only the raw form has commas.
            Err(NotJa4Raw { at, reason }) if text.contains(',') => {
                let end = text.get(at..).and_then(|rest| rest.chars().next()).map_or(at, |wrong| at + wrong.len_utf8());
                return Err(refuse(
                    text,
                    (at..end, format!("this is not a JA4_r value: {reason}"), RAW_HINT.to_owned()),
                ));
            }
            Err(_) => {}
        }
        text.parse().map(Subject::Ja4).map_err(|NotJa4 { at }| {
            let end = text.get(at..).and_then(|rest| rest.chars().next()).map_or(at, |wrong| at + wrong.len_utf8());
            refuse(text, (at..end, format!("`{text}` is not a JA4 value"), JA4_HINT.to_owned()))
        })
    }

    /// Clients with a JA4 value, or a JA4_r, from one place: an IPv4 address, an IPv6 /64 or any address in it.
    ///
    /// # Errors
    /// When the first is no such place, or the second no JA4 value.
    pub fn pair(source: &str, ja4: &str) -> Result<Self, SubjectError> {
        let unit = match Self::source(source)? {
            Subject::Address(address @ IpAddr::V4(_)) => Some(IpNet::from(address)),
            Subject::Address(address @ IpAddr::V6(_)) => IpNet::new(address, UNIT_BITS).ok().map(|unit| unit.trunc()),
            Subject::Prefix(prefix @ IpNet::V6(_)) if prefix.prefix_len() == UNIT_BITS => Some(prefix),
            _ => None,
        };
        let Some(unit) = unit else {
            let reason = format!("`{source}` is more than one place");
            let hint = "with `--ja4`, type an IPv4 address or an IPv6 /64".to_owned();
            return Err(refuse(source, (0..source.len(), reason, hint)));
        };
        Ok(Subject::Pair(unit, Box::new(Self::ja4(ja4)?)))
    }

    /// The JA4 value of those that have one.
    #[must_use]
    pub fn as_ja4(&self) -> Option<Ja4> {
        match self {
            Subject::Ja4(ja4) => Some(*ja4),
            Subject::Ja4Raw(raw) => Some(raw.ja4()),
            Subject::Pair(_, fingerprint) => fingerprint.as_ja4(),
            Subject::Address(_) | Subject::Prefix(_) => None,
        }
    }

    /// What it says of a fingerprint, if it does: a JA4 value or a JA4_r.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&Subject> {
        match self {
            Subject::Ja4(_) | Subject::Ja4Raw(_) => Some(self),
            Subject::Pair(_, fingerprint) => Some(fingerprint),
            Subject::Address(_) | Subject::Prefix(_) => None,
        }
    }

    /// The source prefix of those that have one; an address is one of full length.
    #[must_use]
    pub fn as_prefix(&self) -> Option<IpNet> {
        match self {
            Subject::Address(address) => Some(IpNet::from(*address)),
            Subject::Prefix(prefix) | Subject::Pair(prefix, _) => Some(*prefix),
            Subject::Ja4(_) | Subject::Ja4Raw(_) => None,
        }
    }

    /// The same thing in its short form: a JA4_r is its JA4.
    #[must_use]
    pub fn short(self) -> Self {
        match self {
            Subject::Ja4Raw(raw) => Subject::Ja4(raw.ja4()),
            Subject::Pair(prefix, fingerprint) => Subject::Pair(prefix, Box::new(fingerprint.short())),
            other => other,
        }
    }

    fn prefix(text: &str, net: IpNet) -> Result<Self, SubjectError> {
        let address_len = text.find('/').unwrap_or(text.len());
        if net.trunc() != net {
            let reason = format!("`{text}` has bits set after its first {}", net.prefix_len());
            return Err(refuse(text, (0..address_len, reason, format!("type `{}`", net.trunc()))));
        }
        let net = match net {
            IpNet::V6(net) => canonical(net).ok_or_else(|| {
                let reason = format!("`{text}` takes in all of IPv4 (`::ffff:0:0/96`)");
                refuse(text, (0..text.len(), reason, "type `2000::/3` for all of the IPv6 internet".to_owned()))
            })?,
            net @ IpNet::V4(_) => net,
        };
        Ok(Subject::from(net))
    }
}

/// An IPv4 prefix in its mapped form becomes IPv4; `None` if `net` reaches beyond the mapped block but holds all of it.
fn canonical(net: Ipv6Net) -> Option<IpNet> {
    const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    match (net.addr().to_ipv4_mapped(), net.prefix_len().checked_sub(MAPPED_BITS)) {
        (Some(address), Some(len)) => Ipv4Net::new(address, len).ok().map(IpNet::V4),
        _ if net.contains(&MAPPED) => None,
        _ => Some(IpNet::V6(net)),
    }
}

fn refuse(text: &str, (span, reason, hint): (Range<usize>, String, String)) -> SubjectError {
    SubjectError { text: text.to_owned(), span, reason, hint }
}

/// Why `text` is neither an address nor a prefix.
fn diagnose(text: &str) -> (Range<usize>, String, String) {
    let whole = 0..text.len();
    if text.is_empty() {
        return (whole, "the address is empty".to_owned(), ADDRESS_HINT.to_owned());
    }
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    if let (Ok(parsed), Some(bits)) = (address.parse::<IpAddr>(), bits) {
        let most = if parsed.is_ipv4() { 32 } else { 128 };
        let reason = format!("`/{bits}` is not a prefix length");
        return (address.len()..text.len(), reason, format!("type a number from 0 to {most} after `{address}/`"));
    }
    if let Some((host, port)) = address.rsplit_once(':')
        && (host.parse::<Ipv4Addr>().is_ok() || (host.starts_with('[') && host.ends_with(']')))
    {
        let reason = format!("`:{port}` is a port; verdicts are about addresses");
        return (host.len()..text.len(), reason, format!("type `{}`", host.trim_matches(['[', ']'])));
    }
    if address.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return diagnose_v4(address);
    }
    if address.contains(':') {
        let wrong = address.char_indices().find(|(_, c)| !(c.is_ascii_hexdigit() || matches!(c, ':' | '.')));
        let span = wrong.map_or(0..address.len(), |(at, c)| at..at + c.len_utf8());
        return (span, format!("`{address}` is not an IPv6 address"), ADDRESS_HINT.to_owned());
    }
    let host =
        address.contains('.') && address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    let hint = if host { format!("for its addresses type `getent ahosts {address}`") } else { ADDRESS_HINT.to_owned() };
    (0..address.len(), format!("`{address}` is not an address"), hint)
}

fn diagnose_v4(address: &str) -> (Range<usize>, String, String) {
    let mut start = 0;
    for (index, octet) in address.split('.').enumerate() {
        let span = start..start + octet.len();
        start = span.end + 1;
        let wrong = match octet.parse::<u16>() {
            _ if index > 3 => "there are more than four numbers".to_owned(),
            Ok(_) if octet.len() > 1 && octet.starts_with('0') => format!("`{octet}` begins with a zero"),
            Ok(0..=255) => continue,
            _ if octet.is_empty() => "a number is missing between the dots".to_owned(),
            _ => format!("`{octet}` is over 255"),
        };
        return (span, format!("`{address}` is not an IPv4 address: {wrong}"), ADDRESS_HINT.to_owned());
    }
    let reason = format!("`{address}` is not an IPv4 address: it has fewer than four numbers");
    (0..address.len(), reason, ADDRESS_HINT.to_owned())
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Address(address) => address.fmt(out),
            Subject::Prefix(net) => net.fmt(out),
            Subject::Ja4(ja4) => write!(out, "{ja4}"),
            Subject::Ja4Raw(raw) => write!(out, "{raw}"),
            Subject::Pair(IpNet::V4(prefix), fingerprint) => write!(out, "{}+{fingerprint}", prefix.addr()),
            Subject::Pair(prefix, fingerprint) => write!(out, "{prefix}+{fingerprint}"),
        }
    }
}

/// All forms; no text is two of them.
impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        match text.split_once('+') {
            Some((source, ja4)) => Self::pair(source, ja4),
            None if text.contains('_') => Self::ja4(text),
            None => Self::source(text),
        }
    }
}

impl TryFrom<String> for Subject {
    type Error = SubjectError;

    fn try_from(text: String) -> Result<Self, SubjectError> {
        text.parse()
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> String {
        subject.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JA4: &str = "t13d1516h2_8daaf6152771_e5627efa2ab1";

    #[test]
    fn one_thing_has_one_form() {
        let same = |a: &str, b: &str| assert_eq!(Subject::source(a).unwrap().to_string(), b);
        same("192.0.2.7", "192.0.2.7");
        same("192.0.2.7/32", "192.0.2.7");
        same("::ffff:192.0.2.7", "192.0.2.7");
        same("::ffff:192.0.2.0/120", "192.0.2.0/24");
        same("2001:DB8:0::7/128", "2001:db8::7");
        same("0.0.0.0/0", "0.0.0.0/0");
        same("2000::/3", "2000::/3");
        assert_eq!(JA4.parse::<Subject>(), Ok(Subject::Ja4(JA4.parse().unwrap())));
    }

    #[test]
    fn a_place_and_a_fingerprint_are_one_subject() {
        let pair = |source: &str| Subject::pair(source, JA4).map(|pair| pair.to_string());
        assert_eq!(pair("192.0.2.7"), Ok(format!("192.0.2.7+{JA4}")));
        for inside in ["2001:db8:0:5::7", "2001:db8:0:5::/64"] {
            assert_eq!(pair(inside), Ok(format!("2001:db8:0:5::/64+{JA4}")), "{inside}");
        }
        for text in [pair("192.0.2.7").unwrap(), pair("2001:db8::").unwrap()] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        for more in ["192.0.2.0/24", "2001:db8::/48", "0.0.0.0/0"] {
            assert!(pair(more).is_err_and(|error| error.to_string().contains("more than one place")), "{more}");
        }
        assert!(Subject::pair("192.0.2.7", "192.0.2.8").is_err());
    }

    #[test]
    fn host_bits_are_an_error_with_the_prefix_to_type() {
        let error = Subject::source("10.0.0.1/8").unwrap_err();
        assert_eq!(error.to_string(), "`10.0.0.1/8` has bits set after its first 8; type `10.0.0.0/8`");
        assert_eq!(error.span, 0..8);
    }

    #[test]
    fn a_prefix_that_swallows_ipv4_is_refused() {
        for text in ["::/0", "::/80", "::/64"] {
            assert!(Subject::source(text).unwrap_err().hint.contains("2000::/3"), "{text}");
        }
        assert!(Subject::source("::ffff:0:0/96").is_ok_and(|all| all.to_string() == "0.0.0.0/0"));
    }

    #[test]
    fn errors_point_at_the_wrong_bytes() {
        let at = |text: &str| {
            let error = Subject::source(text).unwrap_err();
            (error.text[error.span].to_owned(), error.reason, error.hint)
        };
        assert_eq!(at("10.0.0.256").0, "256");
        assert_eq!(at("10.0.0.256").1, "`10.0.0.256` is not an IPv4 address: `256` is over 255");
        assert_eq!(at("10.0.0.0/33").0, "/33");
        assert_eq!(at("10.0.0.0/33").2, "type a number from 0 to 32 after `10.0.0.0/`");
        assert_eq!(at("192.0.2.7:443").2, "type `192.0.2.7`");
        assert_eq!(at("[::1]:443").2, "type `::1`");
        assert_eq!(at("10.01.0.1").0, "01");
        assert_eq!(at("10.0").1, "`10.0` is not an IPv4 address: it has fewer than four numbers");
        assert_eq!(at("2001:db8::xyz").0, "x");
        assert_eq!(at("example.com").2, "for its addresses type `getent ahosts example.com`");
        assert_eq!(at(JA4).2, "put `--ja4` before it");
        assert_eq!(at("").1, "the address is empty");
    }

    #[test]
    fn ja4_errors_point_at_the_first_wrong_byte() {
        let error = Subject::ja4("t13d1516h2_8DAAF6152771_e5627efa2ab1").unwrap_err();
        assert_eq!(error.span, 12..13);
        assert_eq!(Subject::ja4("t13d1516h2_8daaf6152771").unwrap_err().span, 23..23);
        assert!(Subject::ja4(&format!("{JA4}0")).is_err());
        assert!(Subject::ja4("").is_err());
    }

    #[test]
    fn a_ja4_r_is_told_from_its_ja4() {
        const RAW: &str = "t13d0205h2_1301,1302_000a,000d,002b_0403,0804";
        let subject = RAW.parse::<Subject>().unwrap();
        assert_eq!(subject.to_string(), RAW);
        assert_eq!(subject.short().to_string(), "t13d0205h2_62ed6f6ca7ad_fbabbea27ee8");
        let error = Subject::ja4(&RAW.replace("1302", "13x2")).unwrap_err();
        assert_eq!(&error.text[error.span], "1");
        assert!(error.reason.contains("JA4_r"), "{}", error.reason);
        assert_eq!(Subject::source(RAW).unwrap_err().hint, "put `--ja4` before it");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_with_a_span_inside(text in "\\PC{0,50}") {
            for error in [Subject::source(&text).err(), Subject::ja4(&text).err()].into_iter().flatten() {
                proptest::prop_assert!(error.text.get(error.span).is_some());
            }
        }

        #[test]
        fn display_parses_back(bits: u32, len in 0_u8..=32) {
            let net = IpNet::V4(Ipv4Net::new(bits.into(), len).unwrap().trunc());
            let subject = Subject::source(&net.to_string()).unwrap();
            proptest::prop_assert_eq!(subject.to_string().parse::<Subject>(), Ok(subject));
        }
    }
}
