//! Whether hello, SYN and headers are of one client.

use super::evidence::EvidenceList;
use super::facts::Facts;
use super::settings::Settings;

pub(super) fn assess(_facts: &Facts<'_>, _settings: &Settings, _evidence: &mut EvidenceList) {}
