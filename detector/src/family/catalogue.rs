//! The catalogue, and how a hello is looked up in it.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{Kind, browser, file};
use crate::agent::Engine;
use crate::fingerprint::traits::ExtensionSet;
use crate::fingerprint::{Ja4, Ja4Raw, Trait, Traits};

/// What the catalogue says of a JA4 value.
#[derive(Clone, Debug)]
pub struct Known {
    /// The family: of browsers `chrome`, `firefox`, `safari`, else the program's.
    pub family: String,
    /// Its kind.
    pub kind: Kind,
    /// A browser's engine.
    pub engine: Option<Engine>,
    /// Unhashed.
    pub ja4_r: Ja4Raw,
    /// The first and the last major version that said to be it.
    pub versions: Option<(u16, u16)>,
}

/// What browsers with an engine show beside their JA4.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The engine.
    pub engine: Engine,
    /// The version that was recorded.
    pub version: u16,
    /// The first version whose extensions stand in another order in each hello over TCP; `None`: no version's do.
    pub permutes: Option<u16>,
    /// It resumes sessions.
    pub resumes: bool,
    /// Bytes of encrypted_client_hello's body when it is GREASE.
    pub ech: Vec<u16>,
    /// Bytes of trust_anchors' body.
    pub trust_anchors: Vec<u16>,
    /// Bytes of application_settings' body.
    pub application_settings: Vec<u16>,
    /// Bytes of the last GREASE extension's body.
    pub grease_extension: Vec<u16>,
    /// Headers of a page that is navigated to, in their order, in lower case.
    pub headers: Vec<String>,
    /// Headers of every request that was recorded.
    pub always: Vec<String>,
    since: Vec<(Trait, u16)>,
}

impl Expected {
    /// Traits of its hellos over TCP, each with the first version that has it.
    pub fn since(&self) -> impl Iterator<Item = (Trait, u16)> {
        self.since.iter().copied()
    }
}

/// What a hello is to the catalogue.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// One of these sends it.
    Known(&'a Known),
    /// Nobody known does, but this browser's have the same ciphers and fewer extensions: it may be its next release.
    Drift(&'a Known),
    /// Nobody known does.
    Unknown,
}

impl<'a> Verdict<'a> {
    /// The family's name, and the word for its kind; `drift` for what may be a browser's next release.
    #[must_use]
    pub fn named(&self) -> Option<(&'a str, &'static str)> {
        match self {
            Self::Known(known) => Some((&known.family, known.kind.label())),
            Self::Drift(known) => Some((&known.family, "drift")),
            Self::Unknown => None,
        }
    }
}

/// Bytes of a JA4 that ALPN, server_name and counts don't change: transport, ciphers, and the rest.
type Tail = [u8; 26];

/// The catalogue.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    values: Vec<Known>,
    exact: HashMap<Ja4, usize, RandomState>,
    stable: HashMap<Ja4, usize, RandomState>,
    tails: HashMap<Tail, usize, RandomState>,
    /// Of browsers, by transport and ciphers: what extensions they have.
    ciphers: HashMap<[u8; 13], Vec<(ExtensionSet, usize)>, RandomState>,
    browsers: Vec<Expected>,
}

/// Why a text is no catalogue.
#[derive(Debug, thiserror::Error)]
#[error("no catalogue of clients: {0}")]
pub struct NotCatalogue(String);

impl Catalogue {
    /// Reads `data/clients.toml`.
    ///
    /// # Errors
    /// The text isn't one that `learn` wrote.
    pub fn read(text: &str) -> Result<Self, NotCatalogue> {
        let file: file::File = toml::from_str(text).map_err(|error| NotCatalogue(error.to_string()))?;
        let mut catalogue = Self::default();
        for value in file.value {
            let wrong = |what: &dyn std::fmt::Display| NotCatalogue(format!("{}: {what}", value.ja4));
            let ja4: Ja4 = value.ja4.parse().map_err(|error| wrong(&error))?;
            let stable: Ja4 = value.ja4_stable.parse().map_err(|error| wrong(&error))?;
            let ja4_r: Ja4Raw = value.ja4_r.parse().map_err(|error| wrong(&error))?;
            let engine = (value.kind == Kind::Browser).then(|| engine(&value.family)).flatten();
            let versions = value.versions.map(|[first, last]| (first, last));
            catalogue.add(ja4, stable, Known { family: value.family, kind: value.kind, engine, ja4_r, versions });
        }
        for entry in file.browser {
            let engine = engine(&entry.family).ok_or_else(|| NotCatalogue(format!("browser `{}`", entry.family)))?;
            let since = |(name, since): (&String, &u16)| {
                let one = Trait::ALL.iter().find(|one| one.label() == name);
                one.map(|one| (*one, *since)).ok_or_else(|| NotCatalogue(format!("trait `{name}`")))
            };
            catalogue.browsers.push(Expected {
                engine,
                version: entry.version,
                permutes: entry.permutes,
                resumes: entry.resumes,
                ech: entry.ech,
                trust_anchors: entry.trust_anchors,
                application_settings: entry.application_settings,
                grease_extension: entry.grease_extension,
                headers: entry.headers,
                always: entry.always,
                since: entry.since.iter().map(since).collect::<Result<_, _>>()?,
            });
        }
        Ok(catalogue)
    }

    fn add(&mut self, ja4: Ja4, stable: Ja4, known: Known) {
        let place = self.values.len();
        // What a browser sends is a browser's, whoever sends it too.
        let values = &self.values;
        let better = |old: &usize| {
            let old = values.get(*old).map(|old| old.kind);
            old.is_none_or(|old| known.kind < old)
        };
        for (map, key) in [(&mut self.exact, ja4), (&mut self.stable, stable)] {
            if map.get(&key).is_none_or(better) {
                map.insert(key, place);
            }
        }
        if self.tails.get(&tail(stable)).is_none_or(better) {
            self.tails.insert(tail(stable), place);
        }
        if known.kind == Kind::Browser {
            let set = extensions(&known.ja4_r);
            self.ciphers.entry(ciphers(stable)).or_default().push((set, place));
        }
        self.values.push(known);
    }

    /// What has exactly this JA4.
    #[must_use]
    pub fn exact(&self, ja4: Ja4) -> Option<&Known> {
        self.values.get(*self.exact.get(&ja4)?)
    }

    /// What sends a hello with these.
    #[must_use]
    pub fn find(&self, ja4_stable: Ja4, traits: &Traits) -> Verdict<'_> {
        let known = self.stable.get(&ja4_stable).or_else(|| self.tails.get(&tail(ja4_stable)));
        if let Some(known) = known.and_then(|place| self.values.get(*place)) {
            return Verdict::Known(known);
        }
        let near = self.ciphers.get(&ciphers(ja4_stable)).into_iter().flatten();
        let fewer = near.rev().find(|(set, _)| traits.extensions.has_all(*set));
        fewer.and_then(|(_, place)| self.values.get(*place)).map_or(Verdict::Unknown, Verdict::Drift)
    }

    /// What browsers with an engine show, if one was recorded.
    #[must_use]
    pub fn expected(&self, engine: Engine) -> Option<&Expected> {
        self.browsers.iter().find(|expected| expected.engine == engine)
    }

    /// Whether a browser with this engine sends another hello since a later version than `known`, one not after `major`.
    #[must_use]
    pub fn has_newer(&self, known: &Known, major: u16) -> bool {
        let last = known.versions.map_or(u16::MAX, |(_, last)| last);
        let letter = |value: &Known| value.ja4_r.as_str().as_bytes().first().copied();
        self.values.iter().any(|value| {
            value.engine == known.engine
                && letter(value) == letter(known)
                && value.versions.is_some_and(|(first, _)| last < first && first <= major)
        })
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &Known> {
        self.values.iter()
    }
}

fn engine(family: &str) -> Option<Engine> {
    Engine::ALL.iter().copied().find(|engine| browser(*engine) == family)
}

fn tail(ja4: Ja4) -> Tail {
    let mut tail = [0; size_of::<Tail>()];
    let bytes = ja4.as_bytes();
    let kept = bytes.iter().take(1).chain(bytes.iter().skip(11));
    tail.iter_mut().zip(kept).for_each(|(place, byte)| *place = *byte);
    tail
}

fn ciphers(ja4: Ja4) -> [u8; 13] {
    let mut ciphers = [0; 13];
    ciphers.iter_mut().zip(tail(ja4)).for_each(|(place, byte)| *place = byte);
    ciphers
}

/// The extensions of a JA4_r that a browser has however it is used: in its private windows Firefox resumes nothing, and
/// doesn't say how it would.
fn extensions(raw: &Ja4Raw) -> ExtensionSet {
    let list = raw.as_str().split('_').nth(2).unwrap_or_default();
    let codes = list.split(',').filter_map(|code| u16::from_str_radix(code, 16).ok());
    codes.filter(|code| *code != ExtensionSet::PSK_KEY_EXCHANGE_MODES).fold(ExtensionSet::default(), ExtensionSet::with)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::shipped;

    /// Of Firefox 153 in a private window, recorded on Debian; and the same without key shares.
    #[test]
    fn a_private_window_is_the_browsers() {
        let stable = "t13d1615h2_86a278354501_a54fffd0eb61".parse().unwrap();
        let all = [0, 5, 0xa, 0xb, 0xd, 0x10, 0x12, 0x17, 0x1b, 0x1c, 0x22, 0x2b, 0x33, 0xfe0d, 0xff01];
        let find = |codes: &[u16]| {
            let extensions = codes.iter().fold(ExtensionSet::default(), |set, code| set.with(*code));
            shipped().find(stable, &Traits { extensions, ..Traits::default() })
        };
        let found = find(&all);
        assert!(matches!(found, Verdict::Drift(known) if known.engine == Some(Engine::Gecko)), "{found:?}");
        let others: Vec<u16> = all.into_iter().filter(|code| *code != 0x33).collect();
        assert!(matches!(find(&others), Verdict::Unknown));
    }
}
