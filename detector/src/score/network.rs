//! What a client's networks and its fingerprint do.

use super::evidence::EvidenceList;
use super::facts::Facts;

/// What an operator can change of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {}

pub(super) fn assess(_facts: &Facts<'_>, _settings: &super::Settings, _evidence: &mut EvidenceList) {}
