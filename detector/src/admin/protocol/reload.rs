//! What is said of the configuration over the control socket. Bound: settings come in pages that fit a frame, and a reload
//! tells keys, not values.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::FRAME_MAX;
use crate::config::Setting;

/// Some of the settings in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// As many as fit.
    pub settings: Vec<Setting>,
    /// How many there are.
    pub total: usize,
    /// The file that a reload reads, if there is one.
    pub file: Option<PathBuf>,
    /// Seconds since they are in force.
    pub since_s: u64,
}

impl Settings {
    /// As many of `settings` as fit into one response; at least one.
    #[must_use]
    pub fn page(settings: &[Setting], skip: usize, file: Option<PathBuf>, since_s: u64) -> Self {
        // Quotes and what isn't plain take up to six bytes of JSON; the names of the fields some sixty.
        let mut room = FRAME_MAX - 8192;
        let mut fits = |setting: &Setting| {
            let bytes = 6 * setting.value.len() + setting.key.len() + 6 * setting.from.len() + 80;
            room = room.checked_sub(bytes)?;
            Some(())
        };
        let rest = settings.get(skip..).unwrap_or_default();
        let count = rest.iter().map_while(&mut fits).count().max(1);
        let page = rest.get(..count.min(rest.len())).unwrap_or_default();
        Self { settings: page.to_vec(), total: settings.len(), file, since_s }
    }
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Something is otherwise now.
    Applied,
    /// Nothing was to be changed, or nothing that can be without a restart.
    Unchanged,
    /// The new configuration is wrong, or could not be put in force: all is as it was.
    Refused,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Applied, Self::Unchanged, Self::Refused];

    /// The `outcome` of `detector_files_total` for the file `config`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        }
    }
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// How it ended.
    pub outcome: Outcome,
    /// The file that was read, if there is one.
    pub file: Option<PathBuf>,
    /// Keys that have another value now.
    pub changed: Vec<String>,
    /// Keys of which the file says another value than is in force, which takes a restart.
    pub restart: Vec<String>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
