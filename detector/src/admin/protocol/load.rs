//! Many entries at once: a load comes in as many frames as it needs, and is one change.

use serde::{Deserialize, Serialize};

use super::{Care, Change};
use crate::policy::subject::Subject;
use crate::policy::ttl::Ttl;

/// Which list a load is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum List {
    /// What is dropped.
    Block,
    /// What passes.
    Allow,
}

impl List {
    /// The command's word.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Allow => "allow",
        }
    }
}

/// A load, or one frame of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// For which list.
    pub list: List,
    /// How long an entry holds that doesn't say so itself.
    pub ttl: Ttl,
    /// As for a single block.
    #[serde(default, skip_serializing_if = "Care::is_default")]
    pub care: Care,
    /// Whether entries that are never blocked are left out, rather than a reason to refuse all.
    #[serde(default)]
    pub skip: bool,
    /// Items of all frames together: a load that is too large is refused by its first frame.
    pub total: usize,
    /// Those of this frame.
    pub items: Vec<Item>,
    /// Whether another frame follows. Nothing is done before the last one.
    #[serde(default)]
    pub more: bool,
}

/// One entry of a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Whom.
    pub subject: Subject,
    /// For how long, if not for the load's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// Where it stands, for people.
    #[serde(default)]
    pub line: u32,
}

/// What a load has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Blocked or allowed.
    pub action: Change,
    /// Entries in force by it.
    pub entries: usize,
    /// Those of them that were not there before.
    pub new: usize,
    /// Those that were left out, with why: the first few.
    pub skipped: Vec<String>,
    /// How many were.
    pub skipped_total: usize,
    /// What the operator should know besides, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
