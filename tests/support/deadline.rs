//! Waiting for a condition, never for a time: in goes a question, out comes its answer or an error that names what
//! never happened.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::time::{ClockId, clock_gettime};

/// What a daemon, a server or a client on a busy machine gets to do one thing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at the condition.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Asks until there is an answer.
///
/// # Errors
/// When there is none within `limit`, or when asking fails.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} for {what}, in vain");
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// CLOCK_MONOTONIC in seconds: the clock of the clients' reports.
///
/// # Errors
/// When the kernel has no such clock.
pub fn monotonic_seconds() -> Result<f64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(now).as_secs_f64())
}
