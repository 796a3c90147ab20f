//! What a signal found. Memory: 16 pieces without an allocation, 32 at most.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize};
use smallvec::SmallVec;

use super::settings::Settings;
use super::signal::Signal;
use crate::fingerprint::Ja4;

/// Pieces of evidence of one assessment; what comes beyond adds nothing.
const MOST: usize = 32;

/// A word of ours. By this name serde doesn't take it for one that is borrowed from what is read.
type Known = &'static str;

/// Words that are read back, each once; and the longest. An earlier daemon wrote them, there are some dozen.
static WORDS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
const WORDS_MOST: usize = 4096;
const WORD_MOST: usize = 64;

fn word<'de, D: Deserializer<'de>>(from: D) -> Result<&'static str, D::Error> {
    let text = String::deserialize(from)?;
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(word) = words.get(text.as_str()) {
        return Ok(word);
    }
    if text.len() > WORD_MOST || words.len() >= WORDS_MOST {
        return Err(serde::de::Error::custom("no word of a signal's"));
    }
    let word: &'static str = String::leak(text);
    words.insert(word);
    Ok(word)
}

/// Something seen, or what it should have been: text only when somebody asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Nothing.
    #[default]
    Nothing,
    /// A word of ours.
    Word(#[serde(deserialize_with = "word")] Known),
    /// A number.
    Count(u64),
    /// 0 to 1.
    Share(f32),
    /// A number with a fraction.
    Number(f32),
    /// So many a minute.
    PerMinute(f32),
    /// A product, by a word of ours, and its version.
    Version(#[serde(deserialize_with = "word")] Known, u16),
    /// A fingerprint.
    Ja4(Ja4),
    /// An autonomous system.
    Asn(u32),
    /// A country, ISO 3166-1.
    Country([u8; 2]),
    /// At least so many.
    AtLeast(f32),
    /// At most so many.
    AtMost(f32),
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => out.write_str("none"),
            Self::Word(word) => out.write_str(word),
            Self::Count(count) => write!(out, "{count}"),
            Self::Share(share) => write!(out, "{:.0} %", share * 100.0),
            Self::Number(number) => write!(out, "{number:.2}"),
            Self::PerMinute(rate) => write!(out, "{rate:.0}/min"),
            Self::Version(product, version) => write!(out, "{product} {version}"),
            Self::Ja4(ja4) => write!(out, "{ja4}"),
            Self::Asn(number) => write!(out, "AS{number}"),
            Self::Country(letters) => {
                letters.iter().try_for_each(|letter| write!(out, "{}", char::from(*letter).escape_default()))
            }
            Self::AtLeast(least) => write!(out, "{least} or more"),
            Self::AtMost(most) => write!(out, "{most} or less"),
        }
    }
}

/// What a signal found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Which.
    pub signal: Signal,
    /// Log-odds that it adds: over 0 it speaks for a program, below for a person.
    pub weight: f32,
    /// What was seen.
    pub observed: Value,
    /// What a person's browser shows.
    pub expected: Value,
}

impl Evidence {
    /// What a person's browser shows, in the unit of what was seen.
    #[must_use]
    pub fn expected_text(&self) -> String {
        let (bound, which) = match self.expected {
            Value::AtLeast(least) => (least, "or more"),
            Value::AtMost(most) => (most, "or less"),
            other => return other.to_string(),
        };
        match self.observed {
            Value::Share(_) => format!("{} {which}", Value::Share(bound)),
            Value::PerMinute(_) => format!("{} {which}", Value::PerMinute(bound)),
            _ => self.expected.to_string(),
        }
    }
}

/// The evidence of one assessment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<Evidence>", into = "Vec<Evidence>")]
pub struct EvidenceList(SmallVec<[Evidence; 16]>);

impl From<Vec<Evidence>> for EvidenceList {
    fn from(evidence: Vec<Evidence>) -> Self {
        Self(evidence.into_iter().take(MOST).collect())
    }
}

impl From<EvidenceList> for Vec<Evidence> {
    fn from(list: EvidenceList) -> Self {
        list.0.into_vec()
    }
}

impl EvidenceList {
    /// A signal found something; nothing if the settings have it off.
    pub fn add(&mut self, settings: &Settings, signal: Signal, observed: Value, expected: Value) {
        self.add_share(settings, signal, 1.0, observed, expected);
    }

    /// The same with a part of its weight, 0 to 1: what was found is weaker than it could be.
    pub fn add_share(&mut self, settings: &Settings, signal: Signal, share: f32, observed: Value, expected: Value) {
        if let Some(weight) = settings.weight(signal)
            && self.0.len() < MOST
        {
            self.0.push(Evidence { signal, weight: weight * share.clamp(0.0, 1.0), observed, expected });
        }
    }

    /// All of it, layer by layer.
    pub fn iter(&self) -> impl Iterator<Item = &Evidence> {
        self.0.iter()
    }

    /// The heaviest first.
    #[must_use]
    pub fn by_weight(&self) -> SmallVec<[Evidence; 16]> {
        let mut sorted = self.0.clone();
        sorted.sort_by(|a, b| b.weight.abs().total_cmp(&a.weight.abs()));
        sorted
    }

    /// Whether a signal found something.
    #[must_use]
    pub fn has(&self, signal: Signal) -> bool {
        self.0.iter().any(|evidence| evidence.signal == signal)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
