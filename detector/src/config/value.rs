//! The words a key of the configuration may hold: text or number in, a checked value out, with a message that says
//! what is wrong, what to type, and never needs the reader to know a type of Rust.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustls::pki_types::DnsName;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Deserialize as DeserializeDerive, Serialize};

use ipnet::IpNet;

use crate::fingerprint::Ja4;
use crate::policy::subject::Subject;

/// Whether rules drop packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, DeserializeDerive, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Rules only count; an operator's own block drops.
    #[default]
    Observe,
    /// Rules drop.
    Enforce,
}

impl Mode {
    /// The word in the configuration, on the wire and in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Mode::Observe => "observe",
            Mode::Enforce => "enforce",
        }
    }
}

/// Where in the kernel the program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, DeserializeDerive, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver, or before the stack when the driver can't.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// Before the stack: slower, works on every interface.
    Generic,
}

impl XdpMode {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, DeserializeDerive, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text if stderr is a terminal, else JSON.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
    /// To systemd's journal, with fields.
    Journald,
}

impl LogFormat {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
            Self::Journald => "journald",
        }
    }
}

/// What is logged: a level, and levels of parts of the program: `debug`, `detector::admin=debug,info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogFilter(String);

impl LogFilter {
    /// As it was typed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

/// The addresses that are protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// Those of this host, as they come and go.
    #[default]
    Own,
    /// Every destination: for a router or a bridge.
    Any,
    /// These.
    Listed(Vec<IpAddr>),
}

/// A TCP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port(pub u16);

/// Ports, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub Vec<Port>);

/// A text that can be the name of a network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceName(pub String);

/// Bytes of a BPF ring buffer: the kernel takes powers of two only (bpf(2), BPF_MAP_TYPE_RINGBUF).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingBytes(pub u64);

/// Where the metrics are served; `None` is nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddress(pub Option<SocketAddr>);

/// Where a unix socket is to be; `None` is nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPath(pub Option<PathBuf>);

/// The status of an answer that has a site challenge its client: 200, 401 or 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChallengeStatus(pub u16);

/// A name that a certificate may be for; `None` is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName(pub Option<DnsName<'static>>);

/// A time from one second to a day, typed as `10s` or `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A JA4 value, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ja4Text(pub(super) Ja4);

/// A source address, as a prefix of full length, or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix(pub(super) IpNet);

/// A word of another room's, by its `FromStr`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Typed<T>(pub T);

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count<const MIN: u64, const MAX: u64>(pub u64);

/// Bytes from `MIN` to `MAX`, typed as a number or as `64KiB`, `16MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size<const MIN: u64, const MAX: u64>(pub u64);

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.parse().ok().filter(|port| *port > 0).map(Port);
        port.ok_or_else(|| format!("`{text}` is not a port; type a number from 1 to 65535"))
    }
}

impl FromStr for InterfaceName {
    type Err = String;

    /// As `dev_valid_name` in the kernel's net/core/dev.c.
    fn from_str(name: &str) -> Result<Self, String> {
        const IFNAMSIZ: usize = 16;
        let shape = !name.is_empty() && name.len() < IFNAMSIZ && name != "." && name != "..";
        if shape && !name.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control()) {
            return Ok(Self(name.to_owned()));
        }
        Err(format!("`{name}` can't be the name of an interface; `ip -brief link` lists those there are"))
    }
}

impl FromStr for RingBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Size(bytes) = text.parse::<Size<{ 64 << 10 }, { 1 << 30 }>>()?;
        if bytes.is_power_of_two() {
            return Ok(Self(bytes));
        }
        Err(format!("`{text}` is not a power of two; type for example `{}`", size(bytes.next_power_of_two())))
    }
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let hint = "type for example `127.0.0.1:9464`, or `off`";
        text.parse()
            .map(|address| Self(Some(address)))
            .map_err(|_| format!("`{text}` is not an address and port; {hint}"))
    }
}

impl FromStr for SocketPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            path if path.starts_with('/') => Ok(Self(Some(path.into()))),
            _ => Err(format!(
                "`{text}` is not an absolute path; type for example `/run/detector/decision.sock`, or `off`"
            )),
        }
    }
}

impl FromStr for ServerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let name = DnsName::try_from(text.to_owned());
        name.map(|name| Self(Some(name)))
            .map_err(|_| format!("`{text}` is not a host's name; type for example `shop.example`"))
    }
}

impl FromStr for LogFilter {
    type Err = String;

    /// Stricter than what reads it afterwards, to which a mistyped level is a part of the program.
    fn from_str(text: &str) -> Result<Self, String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let is_part = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
            !part.is_empty() && part.chars().all(plain)
        };
        for directive in text.split(',').map(str::trim) {
            let (part, level) = directive.rsplit_once('=').unwrap_or(("detector", directive));
            if !LEVELS.contains(&level) {
                let near = LEVELS.into_iter().find(|known| strsim::jaro_winkler(known, level) > 0.8);
                let near = near.map(|near| format!(" did you mean `{near}`?")).unwrap_or_default();
                let hint = format!("type one of {}, or for example `detector::admin=debug,info`", LEVELS.join(", "));
                return Err(format!("`{level}` is not a log level;{near} {hint}"));
            }
            if !is_part(part) {
                return Err(format!(
                    "`{part}` is no part of the program; type for example `detector::admin=debug,info`"
                ));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = humantime::parse_duration(text).ok();
        let span = span.filter(|span| (Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(span));
        span.map(Self).ok_or_else(|| format!("`{text}` is not a time from 1s to 1day; type for example `10s` or `2m`"))
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let prefix = Subject::source(text).map_err(|error| error.to_string())?.as_prefix();
        prefix.map(Self).ok_or_else(|| format!("`{text}` is not an address"))
    }
}

impl FromStr for Ja4Text {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match Subject::ja4(text) {
            Ok(subject) => subject.as_ja4().map(Self).ok_or_else(|| format!("`{subject}` is not a JA4 value")),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Size<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let factor = match text[split..].trim_start() {
            "" | "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1_u64 << 30),
            _ => None,
        };
        let bytes = text[..split].parse::<u64>().ok().zip(factor).and_then(|(count, factor)| count.checked_mul(factor));
        let bytes = bytes.filter(|bytes| (MIN..=MAX).contains(bytes)).map(Self);
        bytes.ok_or_else(|| {
            format!("`{text}` is not a size from {} to {}; type for example `16MiB`", size(MIN), size(MAX))
        })
    }
}

/// Bytes as this file reads them.
fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => bytes.to_string(),
    }
}

/// Reads text by `FromStr`, and numbers by their digits.
struct Word<T> {
    what: &'static str,
    numbers: bool,
    read: PhantomData<T>,
}

impl<T: FromStr<Err = String>> Visitor<'_> for Word<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.what)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        if !self.numbers {
            return Err(E::invalid_type(de::Unexpected::Signed(number), &self));
        }
        number.to_string().parse().map_err(E::custom)
    }
}

macro_rules! words {
    ($($name:ident: $what:literal, numbers $numbers:literal;)*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(Word { what: $what, numbers: $numbers, read: PhantomData })
            }
        }
    )*};
}

words! {
    MetricsAddress: "an address and port in quotes, or \"off\"", numbers false;
    SocketPath: "an absolute path in quotes, or \"off\"", numbers false;
    ServerName: "a host's name in quotes", numbers false;
    LogFilter: "a log level in quotes", numbers false;
    Span: "a time in quotes, like \"10s\"", numbers false;
    Ja4Text: "a JA4 value in quotes", numbers false;
    Prefix: "an address or a prefix in quotes", numbers false;
    InterfaceName: "the name of an interface in quotes", numbers false;
    RingBytes: "a size, like \"16MiB\"", numbers true;
}

impl<T: FromStr<Err = String>> FromStr for Typed<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Typed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Word { what: "a word in quotes", numbers: false, read: PhantomData })
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Size<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Word { what: "a size, like \"16MiB\"", numbers: true, read: PhantomData })
    }
}

/// Whole numbers only: a quoted one is refused, so that a file means the same to every reader of TOML.
struct Number<T> {
    what: &'static str,
    least: u64,
    most: u64,
    make: fn(u64) -> T,
}

impl<T> Visitor<'_> for Number<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a whole number from {} to {}", self.least, self.most)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        let Self { what, least, most, make } = self;
        let fits = u64::try_from(number).ok().filter(|number| (least..=most).contains(number)).map(make);
        fits.ok_or_else(|| E::custom(format!("`{number}` is not {what}; type a number from {least} to {most}")))
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Number { what: "in range", least: MIN, most: MAX, make: Self })
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let make = |port| Port(u16::try_from(port).unwrap_or(u16::MAX));
        from.deserialize_any(Number { what: "a port", least: 1, most: 65_535, make })
    }
}

impl<'de> Deserialize<'de> for ChallengeStatus {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let what = "a status that lets a web server challenge";
        let Status(status) = from.deserialize_any(Number { what, least: 200, most: 403, make: Status })?;
        match u16::try_from(status) {
            Ok(status @ (200 | 401 | 403)) => Ok(Self(status)),
            _ => Err(de::Error::custom(format!("`{status}` is not {what}; type 200, 401 or 403"))),
        }
    }
}

struct Status(u64);

/// A list that must not be empty.
struct PortList;

impl<'de> Visitor<'de> for PortList {
    type Value = Ports;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list of ports, like [443, 8443]")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Ports, A::Error> {
        let mut ports = Vec::new();
        while let Some(port) = items.next_element::<Port>()? {
            ports.push(port);
        }
        if ports.is_empty() {
            return Err(de::Error::custom("there must be one port at least; type for example `[443]`"));
        }
        Ok(Ports(ports))
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PortList)
    }
}

/// A list of addresses, or the word `any`.
struct AddressList;

impl<'de> Visitor<'de> for AddressList {
    type Value = Addresses;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list of addresses in quotes, or \"any\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Addresses, E> {
        let refuse = || E::custom(format!("`{text}` is neither `any` nor a list; type for example `[\"192.0.2.1\"]`"));
        if text == "any" { Ok(Addresses::Any) } else { Err(refuse()) }
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Addresses, A::Error> {
        let mut listed = Vec::new();
        while let Some(OneAddress(address)) = items.next_element()? {
            listed.push(address);
        }
        Ok(if listed.is_empty() { Addresses::Own } else { Addresses::Listed(listed) })
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AddressList)
    }
}

struct OneAddress(IpAddr);

impl FromStr for OneAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match Subject::source(text) {
            Ok(Subject::Address(address)) => Ok(Self(address)),
            Ok(_) => Err(format!("`{text}` is a prefix; list the addresses of this host one by one")),
            Err(error) => Err(error.to_string()),
        }
    }
}

words! { OneAddress: "an address in quotes", numbers false; }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        type Any = Size<1, { 1 << 40 }>;
        let read = |text: &str| text.parse::<Any>().map(|size| size.0);
        assert_eq!(read("16MiB"), Ok(16 << 20));
        assert_eq!(read("1 GiB"), Ok(1 << 30));
        assert_eq!(read("512"), Ok(512));
        for text in ["16MB", "", "MiB", "-1", "1.5KiB", "99999999999GiB", "0"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_flags_parse_as_well() {
        assert_eq!("443".parse(), Ok(Port(443)));
        assert_eq!("0".parse::<Port>(), Err("`0` is not a port; type a number from 1 to 65535".to_owned()));
        assert_eq!("off".parse(), Ok(MetricsAddress(None)));
        assert!("localhost:9464".parse::<MetricsAddress>().is_err());
    }
}
