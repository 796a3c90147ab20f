//! The shipped catalogue `data/families.toml`: a JA4 in, the browser family that has it and its JA4_r out.

use std::collections::HashMap;
use std::sync::LazyLock;

use foldhash::fast::RandomState;
use serde::Deserialize;

use crate::fingerprint::{Ja4, Ja4Raw};

/// What the catalogue says of a JA4 value.
#[derive(Clone, Debug)]
pub struct Known {
    /// The browser: `chrome`, `firefox`, `safari`.
    pub family: String,
    /// Unhashed.
    pub ja4_r: Ja4Raw,
}

#[derive(Deserialize)]
struct File {
    value: Vec<Value>,
}

#[derive(Deserialize)]
struct Value {
    family: String,
    ja4_r: String,
}

static CATALOGUE: LazyLock<HashMap<Ja4, Known, RandomState>> = LazyLock::new(|| {
    // A test reads the same text: what doesn't parse is never shipped.
    let file: File = toml::from_str(TEXT).unwrap_or(File { value: Vec::new() });
    let known = file.value.into_iter().filter_map(|Value { family, ja4_r }| {
        let ja4_r: Ja4Raw = ja4_r.parse().ok()?;
        Some((ja4_r.ja4(), Known { family, ja4_r }))
    });
    known.collect()
});

const TEXT: &str = include_str!("../../data/families.toml");

/// The browser with this JA4 value, if the catalogue has it.
#[must_use]
pub fn find(ja4: Ja4) -> Option<&'static Known> {
    CATALOGUE.get(&ja4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        as_of: String,
        value: Vec<Entry>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        family: String,
        ja4: Ja4Text,
        ja4_r: String,
        seen: String,
    }

    type Ja4Text = String;

    #[test]
    fn every_value_is_found_and_is_the_hash_of_its_lists() {
        let whole: Whole = toml::from_str(TEXT).unwrap();
        assert_eq!(whole.as_of.len(), "2026-11-22".len());
        assert_eq!(whole.value.len(), CATALOGUE.len(), "one entry for each value");
        for entry in whole.value {
            let known = find(entry.ja4.parse().unwrap()).unwrap();
            assert_eq!((known.family.as_str(), known.ja4_r.as_str()), (entry.family.as_str(), entry.ja4_r.as_str()));
            assert!(!entry.seen.is_empty());
        }
    }
}
