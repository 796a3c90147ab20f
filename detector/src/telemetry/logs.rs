//! Log lines: text for a person at a terminal, one JSON object a line for anything else on stderr, or fields for the
//! journal. Every value is escaped by the writer, so that one event is one line (threats.md T23). What is logged can be
//! changed while the process runs. Bound: [`Limited`] holds a place in the program to so many lines a minute.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::clock::Timestamp;
use crate::config::{Log, LogFilter, LogFormat};

/// What journald calls this program.
const IDENTIFIER: &str = "detector";

/// The filter that is in force, and what changes it.
static IN_FORCE: OnceLock<(reload::Handle<EnvFilter, Registry>, Mutex<LogFilter>)> = OnceLock::new();

/// Why logging can't begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The journal isn't there.
    #[error("can't write to the journal: {0}; type `--log-format json`, or `format = \"json\"` in [log]")]
    Journal(io::Error),
    /// The filter isn't one, or can't be changed.
    #[error("`{text}` can't be the log's filter: {reason}; type for example `debug` or `detector::admin=debug,info`")]
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

/// Begins logging.
///
/// # Errors
/// When there is no journal to write to, or logging has begun already.
pub fn init(log: &Log) -> Result<(), LogError> {
    let (filter, handle) = reload::Layer::new(read(&log.filter)?);
    let terminal = io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = || fmt::layer().with_writer(io::stderr).with_ansi(colour);
    let lines: Box<dyn Layer<_> + Send + Sync> = match log.format {
        LogFormat::Auto if terminal => lines().with_target(false).boxed(),
        LogFormat::Text => lines().with_target(false).boxed(),
        LogFormat::Auto | LogFormat::Json => lines().json().flatten_event(true).boxed(),
        LogFormat::Journald => journal().map_err(LogError::Journal)?,
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| LogError::Twice(error.into()))?;
    // Nobody but this function sets it, and it has come so far once.
    let _ = IN_FORCE.set((handle, Mutex::new(log.filter.clone())));
    Ok(())
}

/// Fields have no prefix: `journalctl SUBJECT=192.0.2.7` finds what was said of it.
fn journal<S>() -> io::Result<Box<dyn Layer<S> + Send + Sync>>
where
    S: Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let layer = tracing_journald::layer()?.with_field_prefix(None);
    Ok(layer.with_syslog_identifier(IDENTIFIER.to_owned()).boxed())
}

fn read(filter: &LogFilter) -> Result<EnvFilter, LogError> {
    let fail = |reason: String| LogError::Filter { text: filter.as_str().to_owned(), reason };
    EnvFilter::try_new(filter.as_str()).map_err(|error| fail(error.to_string()))
}

/// What is logged now; nothing before [`init`].
#[must_use]
pub fn filter() -> Option<LogFilter> {
    IN_FORCE.get().map(|(_, filter)| filter.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Logs this from now on.
///
/// # Errors
/// Before [`init`].
pub fn set_filter(filter: &LogFilter) -> Result<(), LogError> {
    let fail = |reason: String| LogError::Filter { text: filter.as_str().to_owned(), reason };
    let Some((handle, now)) = IN_FORCE.get() else { return Err(fail("logging has not begun".to_owned())) };
    let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
    handle.reload(read(filter)?).map_err(|error| fail(error.to_string()))?;
    *now = filter.clone();
    Ok(())
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
