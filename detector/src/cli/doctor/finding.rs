//! One thing that was looked at.

use serde::Serialize;

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As it is meant.
    Ok,
    /// It works, and something should be known or done.
    Warning,
    /// Something doesn't work.
    Problem,
}

impl State {
    /// The word for it in output.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at, in a word.
    pub(super) check: &'static str,
    /// How it stands.
    pub(super) state: State,
    /// What was found, and what it means.
    pub(super) what: String,
    /// What to type; none: nothing.
    pub(super) help: Option<String>,
}

pub(super) fn well(check: &'static str, what: impl Into<String>) -> Finding {
    Finding { check, state: State::Ok, what: what.into(), help: None }
}

pub(super) fn warning(check: &'static str, what: impl Into<String>, help: impl Into<String>) -> Finding {
    Finding { check, state: State::Warning, what: what.into(), help: Some(help.into()) }
}

pub(super) fn problem(check: &'static str, what: impl Into<String>, help: impl Into<String>) -> Finding {
    Finding { check, state: State::Problem, what: what.into(), help: Some(help.into()) }
}
