//! Colours where they help: on a terminal, unless NO_COLOR is set (no-color.org) or the terminal is none that has any.

use std::env;
use std::io::{self, IsTerminal as _};

/// Whether standard output is to have colours.
#[must_use]
pub(super) fn wanted() -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let none = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    !refused && !none && io::stdout().is_terminal()
}

/// Select Graphic Rendition (ECMA-48 section 8.3.117).
pub(super) const RED: u8 = 31;
/// The same.
pub(super) const GREEN: u8 = 32;
/// The same.
pub(super) const YELLOW: u8 = 33;

/// A text in a colour, and what comes after it in none.
#[must_use]
pub(super) fn paint(colour: u8, text: &str) -> String {
    format!("\u{1b}[{colour}m{text}\u{1b}[0m")
}
