//! Log lines on stderr: text for a person at a terminal, one JSON object a line for anything else. Every value is
//! escaped by the writer, so that one event is one line (threats.md T23). Bound: [`Limited`] holds a place in the
//! program to so many lines a minute.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::clock::Timestamp;

/// Environment variable with the filter, `info` if unset: `debug`, or `detector::admin=debug,warn`.
pub const FILTER_VARIABLE: &str = "DETECTOR_LOG";

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text if stderr is a terminal, else JSON.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging can't begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The environment names a filter that isn't one.
    #[error(
        "`{FILTER_VARIABLE}={text}` is not a log filter: {reason}; type for example `debug` or `detector::admin=debug,info`"
    )]
    Filter {
        /// What it says.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging was begun before.
    #[error("logging was begun twice: {0}")]
    Twice(Box<dyn std::error::Error + Send + Sync>),
}

/// Begins logging to stderr.
///
/// # Errors
/// When the filter in the environment is wrong, or logging has begun already.
pub fn init(format: LogFormat) -> Result<(), LogError> {
    let text = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let text = if text.is_empty() { "info" } else { &text };
    let filter = EnvFilter::try_new(text)
        .map_err(|error| LogError::Filter { text: text.to_owned(), reason: error.to_string() })?;
    let terminal = io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    match format {
        LogFormat::Auto if terminal => lines.with_target(false).try_init(),
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Auto | LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(LogError::Twice)
}

/// Lines left out by every [`Limited`].
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Lines left out since the start.
#[must_use]
pub fn suppressed() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

/// Holds one place in the program to so many log lines a minute.
///
/// ```
/// # use detector::{clock::Timestamp, telemetry::logs::Limited};
/// static FULL: Limited = Limited::per_minute(6);
/// # let now = Timestamp::from_nanos(1);
/// if let Some(suppressed) = FULL.admit(now) {
///     tracing::warn!(suppressed, "a table is full");
/// }
/// ```
#[derive(Debug)]
pub struct Limited {
    per_minute: u32,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    start: Option<Timestamp>,
    lines: u32,
    suppressed: u64,
}

impl Limited {
    /// At most `lines` a minute, one at least.
    #[must_use]
    pub const fn per_minute(lines: u32) -> Self {
        let per_minute = if lines == 0 { 1 } else { lines };
        Self { per_minute, window: Mutex::new(Window { start: None, lines: 0, suppressed: 0 }) }
    }

    /// `Some` if a line may be written at `now`, with the number of lines left out since the last one.
    pub fn admit(&self, now: Timestamp) -> Option<u64> {
        const MINUTE: Duration = Duration::from_secs(60);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.start.is_none_or(|start| now.since(start) >= MINUTE) {
            window.start = Some(now);
            window.lines = 0;
        }
        if window.lines < self.per_minute {
            window.lines += 1;
            return Some(std::mem::take(&mut window.suppressed));
        }
        window.suppressed += 1;
        SUPPRESSED.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_line_says_how_many_were_left_out() {
        let limited = Limited::per_minute(2);
        let at = |secs: u64| Timestamp::from_nanos(secs * 1_000_000_000);
        assert_eq!(limited.admit(at(1)), Some(0));
        assert_eq!(limited.admit(at(2)), Some(0));
        let before = suppressed();
        for secs in 3..10 {
            assert_eq!(limited.admit(at(secs)), None);
        }
        assert!(suppressed() >= before + 7);
        assert_eq!(limited.admit(at(61)), Some(7));
        assert_eq!(limited.admit(at(62)), Some(0));
        assert_eq!(limited.admit(at(63)), None);
    }
}
