//! What is known of a client's address.

use super::evidence::EvidenceList;
use super::facts::Facts;
use super::settings::Settings;

pub(super) fn assess(_facts: &Facts<'_>, _settings: &Settings, _evidence: &mut EvidenceList) {}
