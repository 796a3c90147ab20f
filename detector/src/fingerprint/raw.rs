//! JA4_r read back: the text that stands in files and that operators type in, its JA4 and, under any seeds, the key of
//! the hellos that have it out. The inverse of what [`super::ja4`] writes. Bound: [`LENGTH_MAX`] bytes.

use std::fmt;
use std::str::FromStr;

use detector_common::key::{Keys, Seeds, Sums, extension, is_grease, is_named_in_head};

use super::digits::{List, Text};
use super::ja4::{HEAD, Ja4, Raw, version_named};

/// The most bytes of a JA4_r that is read: some 400 codes, five times as many as any client known sends.
pub const LENGTH_MAX: usize = 2048;

/// JA4 stops counting here (rule 6).
const COUNT_MAX: usize = detector_common::key::COUNT_MAX as usize;

/// A JA4_r value: `t13d0205h2_1301,1302_000a,000d,002b_0403,0804`. Every one that is made has a hello that it stands for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ja4Raw(Box<str>);

/// A text that is no JA4_r value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JA4_r value: {reason}")]
pub struct NotJa4Raw {
    /// The first byte of what is wrong; the text's end if something is missing.
    pub at: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

/// What the text says.
struct Said {
    letter: u8,
    version: u16,
    server_name: bool,
    alpn: [u8; 2],
    /// As counted in the head, 99 at most.
    extension_count: usize,
    ciphers: List,
    ciphers_end: usize,
    extensions: List,
    signatures: List,
}

impl Ja4Raw {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its hashed form.
    #[must_use]
    pub fn ja4(&self) -> Ja4 {
        let ciphers_end = read(&self.0).map_or(0, |said| said.ciphers_end);
        Raw { text: Text::from_slice(self.0.as_bytes()), ciphers_end }.ja4()
    }

    /// The keys of every hello that has it; 0, which are nobody's, for none. `stable` is exact up to 98 extensions: of more,
    /// the text doesn't say how many there are (rule 6).
    #[must_use]
    pub fn keys(&self, seeds: &Seeds) -> Keys {
        let Ok(said) = read(&self.0) else { return Keys::default() };
        let mut sums = Sums::new(seeds);
        said.ciphers.iter().for_each(|code| sums.cipher(seeds, *code));
        said.extensions.iter().for_each(|code| sums.extension(seeds, *code));
        // Those of which the text has no more than their number.
        let mut named = said.extension_count.saturating_sub(said.extensions.len());
        if said.server_name {
            sums.extension(seeds, extension::SERVER_NAME);
            named = named.saturating_sub(1);
        }
        (0..named).for_each(|_| sums.extension(seeds, extension::ALPN));
        said.signatures.iter().for_each(|code| sums.signature(*code));
        sums.keys(seeds, said.letter, said.version, said.alpn)
    }
}

impl FromStr for Ja4Raw {
    type Err = NotJa4Raw;

    fn from_str(text: &str) -> Result<Self, NotJa4Raw> {
        read(text).map(|_| Self(text.into()))
    }
}

fn read(text: &str) -> Result<Said, NotJa4Raw> {
    if text.len() > LENGTH_MAX {
        return Err(NotJa4Raw { at: LENGTH_MAX, reason: "it is longer than 2048 characters" });
    }
    let mut parts = text.split('_');
    let head = parts.next().unwrap_or_default();
    // The grammar of the head is that of JA4's.
    if let Err(error) = format!("{head}_000000000000_000000000000").parse::<Ja4>() {
        let reason = "it begins like `t13d1516h2_`";
        return Err(NotJa4Raw { at: error.at.min(text.len()), reason });
    }
    let (Some(cipher_part), Some(extension_part)) = (parts.next(), parts.next()) else {
        return Err(NotJa4Raw { at: text.len(), reason: "ciphers and extensions follow, each after a `_`" });
    };
    let ciphers_at = HEAD.saturating_add(1);
    let ciphers_end = ciphers_at.saturating_add(cipher_part.len());
    let extensions_at = ciphers_end.saturating_add(1);
    let signatures_at = extensions_at.saturating_add(extension_part.len()).saturating_add(1);
    let ciphers = codes(cipher_part, ciphers_at)?;
    let extensions = codes(extension_part, extensions_at)?;
    for (list, at) in [(&ciphers, ciphers_at), (&extensions, extensions_at)] {
        if !list.is_sorted() {
            return Err(NotJa4Raw { at, reason: "its ciphers and extensions are in ascending order" });
        }
    }
    if extensions.iter().any(|code| is_named_in_head(*code)) {
        return Err(NotJa4Raw { at: extensions_at, reason: "its extensions are without 0000 and 0010" });
    }
    let signatures = match parts.next() {
        None => List::new(),
        Some("") => return Err(NotJa4Raw { at: signatures_at, reason: "nothing follows the last `_`" }),
        Some(part) => codes(part, signatures_at)?,
    };
    if parts.next().is_some() {
        let end = text.rfind('_').unwrap_or_default();
        return Err(NotJa4Raw { at: end, reason: "it has four parts at most" });
    }
    let count = |from: usize, to: usize| -> usize {
        head.get(from..to).and_then(|digits| digits.parse().ok()).unwrap_or_default()
    };
    let (cipher_count, extension_count) = (count(4, 6), count(6, 8));
    let [letter, v0, v1, sni, _, _, _, _, a0, a1] = *head.as_bytes() else {
        return Err(NotJa4Raw { at: 0, reason: "it begins like `t13d1516h2_`" });
    };
    let server_name = sni == b'd';
    let version = version_named([v0, v1]).ok_or(NotJa4Raw { at: 1, reason: "its version is one that JA4 names" })?;
    if cipher_count != ciphers.len().min(COUNT_MAX) {
        return Err(NotJa4Raw { at: 4, reason: "its number of ciphers isn't that of those listed" });
    }
    let least = extensions.len().saturating_add(usize::from(server_name)).min(COUNT_MAX);
    if extension_count < least {
        return Err(NotJa4Raw { at: 6, reason: "its number of extensions is below that of those listed" });
    }
    let alpn = [a0, a1];
    Ok(Said { letter, version, server_name, alpn, extension_count, ciphers, ciphers_end, extensions, signatures })
}

/// The codes of one part, which begins at byte `at` of the text.
fn codes(part: &str, at: usize) -> Result<List, NotJa4Raw> {
    let mut list = List::new();
    if part.is_empty() {
        return Ok(list);
    }
    let mut at = at;
    for group in part.split(',') {
        let digits = group.len() == 4 && group.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let code = digits.then(|| u16::from_str_radix(group, 16).ok()).flatten();
        let reason = "its codes are four lower-case hex digits each, with commas between";
        let code = code.ok_or(NotJa4Raw { at, reason })?;
        if is_grease(code) {
            return Err(NotJa4Raw { at, reason: "it has no GREASE (RFC 8701)" });
        }
        list.push(code);
        at = at.saturating_add(group.len()).saturating_add(1);
    }
    Ok(list)
}

impl serde::Serialize for Ja4Raw {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Ja4Raw {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Ja4Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Ja4Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "t13d0205h2_1301,1302_000a,000d,002b_0403,0804";

    #[test]
    fn its_hash_is_its_ja4() {
        // Of the vectors of the rules: a whole one, no ciphers, no extensions.
        for (raw, ja4) in [
            (GOOD, "t13d0205h2_62ed6f6ca7ad_fbabbea27ee8"),
            ("t13d0005h2__000a,000d,002b_0403,0804", "t13d0005h2_000000000000_fbabbea27ee8"),
            ("t12i020000_1301,1302_", "t12i020000_62ed6f6ca7ad_000000000000"),
        ] {
            assert_eq!(raw.parse::<Ja4Raw>().unwrap().ja4().as_str(), ja4);
        }
    }

    #[test]
    fn errors_point_at_what_is_wrong() {
        let at = |text: &str| text.parse::<Ja4Raw>().unwrap_err().at;
        assert_eq!(at(""), 0);
        assert_eq!(at("x13d0205h2_1301,1302_000a"), 0);
        assert_eq!(at("t13d0205h2"), 10);
        assert_eq!(at("t13d0205h2_1301,1302"), 20);
        assert_eq!(at("t13d0205h2_1301,130_000a,000d,002b"), 16);
        assert_eq!(at("t13d0205h2_1302,1301_000a,000d,002b"), 11);
        assert_eq!(at("t13d0205h2_1301,1302_0000,000a,000d,002b"), 21);
        assert_eq!(at("t13d0205h2_1301,1302_0a0a,000d,002b"), 21);
        assert_eq!(at("t13d0305h2_1301,1302_000a,000d,002b"), 4);
        assert_eq!(at("t13d0203h2_1301,1302_000a,000d,002b"), 6);
        assert_eq!(at("t99d0205h2_1301,1302_000a,000d,002b"), 1);
        assert_eq!(at(&format!("{GOOD}_0403")), 45);
        assert_eq!(at("t13d0205h2_1301,1302_000a,000d,002b_"), 36);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            if let Err(error) = text.parse::<Ja4Raw>() {
                proptest::prop_assert!(error.at <= text.len());
            }
        }
    }
}
