//! The languages asked for, against the country of the address. People travel and move: it says little, and only of
//! languages that are at home in few countries.

use super::super::evidence::{EvidenceList, Value};
use super::super::facts::Facts;
use super::super::settings::Settings;
use super::super::signal::Signal;
use super::Said;

/// Languages (ISO 639-1) and the countries (ISO 3166-1) where many speak them.
const AT_HOME: [(&str, &str); 14] = [
    ("cs", "CZ SK"),
    ("da", "DK GL FO DE"),
    ("el", "GR CY"),
    ("fi", "FI SE"),
    ("hu", "HU RO SK RS UA"),
    ("id", "ID"),
    ("ja", "JP"),
    ("ko", "KR"),
    ("pl", "PL"),
    ("ru", "RU BY KZ KG UA MD AM AZ GE UZ TJ TM LV LT EE IL DE"),
    ("th", "TH"),
    ("tr", "TR CY BG DE"),
    ("vi", "VN"),
    ("zh", "CN TW HK MO SG MY"),
];

/// Languages of a request that are looked at.
const MOST: usize = 8;

pub(super) fn assess(facts: &Facts<'_>, said: &Said<'_>, settings: &Settings, evidence: &mut EvidenceList) {
    // Who is behind a relay is elsewhere.
    if said.relayed || evidence.has(Signal::UaOsMismatch) {
        return;
    }
    let country = facts.standing.and_then(|standing| standing.country);
    let (Some(country), Some(languages)) = (country, facts.report.accept_language.as_deref()) else { return };
    let letters = country.letters();
    let mut foreign = None;
    for tag in languages.split(',').take(MOST) {
        let tag = tag.split(';').next().unwrap_or_default().trim();
        let (language, region) = tag.split_once('-').unwrap_or((tag, ""));
        if region.as_bytes().eq_ignore_ascii_case(&letters) {
            return;
        }
        let Some((known, home)) = AT_HOME.iter().find(|(known, _)| known.eq_ignore_ascii_case(language)) else {
            // English goes with any; of any other it isn't known where it is spoken.
            if language.eq_ignore_ascii_case("en") && foreign.is_some() {
                continue;
            }
            return;
        };
        if home.split(' ').any(|country| country.as_bytes() == letters) {
            return;
        }
        foreign = foreign.or(Some(*known));
    }
    if let Some(language) = foreign {
        evidence.add(settings, Signal::LanguageMismatch, Value::Word(language), Value::Country(letters));
    }
}
