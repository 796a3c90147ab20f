//! The file of the catalogue. Read strictly: a key that isn't known is an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Kind;

/// What stands above the file.
pub(super) const HEAD: &str = "\
# What clients show in their hellos and headers. Made by `detector families learn`, of captures and their labels; the one
# that is shipped of those in tests/fixtures/captures. Don't edit: record what is missing, and learn again.
#
# [[browser]]: what the browsers themselves showed, of the version that was recorded. `since`: the first version that has
# a trait, as those show who copy earlier versions byte by byte; `permutes`: the first that sends its extensions in
# another order each time. Lengths are bytes of an extension's body. `headers` are those of a page that is navigated to,
# in their order; `always` are in every request that was recorded.
#
# [[value]]: a JA4 value, and who sends it. An exact copy of a browser's hello counts as the browser's, which it can't be
# told from here; `versions` are those that say so of themselves. JA4 and JA4_r values are facts.

";

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) as_of: Option<String>,
    #[serde(default)]
    pub(super) browser: Vec<Browser>,
    #[serde(default)]
    pub(super) value: Vec<Value>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Browser {
    pub(super) family: String,
    pub(super) version: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) permutes: Option<u16>,
    pub(super) resumes: bool,
    pub(super) ech: Vec<u16>,
    pub(super) trust_anchors: Vec<u16>,
    pub(super) application_settings: Vec<u16>,
    pub(super) grease_extension: Vec<u16>,
    pub(super) headers: Vec<String>,
    pub(super) always: Vec<String>,
    pub(super) since: BTreeMap<String, u16>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Value {
    pub(super) family: String,
    pub(super) kind: Kind,
    pub(super) ja4: String,
    pub(super) ja4_stable: String,
    pub(super) ja4_r: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) versions: Option<[u16; 2]>,
    pub(super) seen: Vec<String>,
}
