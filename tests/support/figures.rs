//! Figures that a run has to show whether it passes or not: in goes a sentence, out it comes on standard output, past
//! the test harness, which swallows what a passing test prints.

use std::io::{self, Write as _};

/// Shows a figure.
pub fn show(sentence: &str) {
    // A closed standard output loses a figure, and is no reason for a test to fail.
    let _ = writeln!(io::stdout().lock(), "\n  {sentence}");
}
