//! Clients of several kinds that ask at the same time from the lab's client address (`clients/mixed.py`), and what the
//! daemon says of each of their requests. In: which kinds, how much. Out: each connection, with the paths it asked for; each
//! report, by `detector reports --follow`. Memory: both.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::daemon::control_socket;
use crate::deadline::{PATIENCE, until};
use crate::lab::{Lab, SERVER_V4};
use crate::process::{Process, output};
use crate::programs;
use crate::server::SERVER_NAME;

/// One connection. Times are CLOCK_MONOTONIC seconds.
#[derive(Clone, Debug, Deserialize)]
pub struct Connection {
    /// The client: one of `KINDS` of the driver.
    pub kind: String,
    /// What it asked for: no path twice.
    pub paths: Vec<String>,
    /// Why not all was answered.
    pub error: Option<String>,
    /// Before the connection.
    pub began: f64,
    /// After it.
    pub ended: f64,
}

/// Has clients ask, as the driver's arguments say, and waits for their end.
///
/// # Errors
/// When one isn't answered.
pub fn ask(lab: &Lab, arguments: &str) -> Result<Vec<Connection>> {
    let mut command = lab.client().command(programs::python()?);
    command.arg("-B").arg(programs::script("mixed.py")).args(["--name", SERVER_NAME]);
    command.args(["--address", &SERVER_V4.to_string()]).args(arguments.split_whitespace());
    let read = |line: &str| serde_json::from_str(line).with_context(|| format!("mixed.py printed `{line}`"));
    let all: Vec<Connection> = output(&mut command)?.lines().map(read).collect::<Result<_>>()?;
    let failed = all.iter().find(|connection| connection.error.is_some());
    ensure!(failed.is_none(), "not all was answered: {failed:?}");
    Ok(all)
}

/// What `detector reports --follow` prints, from the beginning.
#[derive(Debug)]
pub struct Reports {
    _process: Process,
    printed: PathBuf,
}

/// A report as it is printed.
#[derive(Clone, Debug, Deserialize)]
pub struct Seen {
    /// What became of it: the `outcome` of `detector_join_reports_total`.
    pub join: String,
    /// The JA4 it was joined to.
    pub ja4: Option<String>,
    /// Itself.
    pub report: Value,
}

impl Reports {
    /// Begins to follow them; into a file of that name.
    ///
    /// # Errors
    /// When the binary isn't built.
    pub fn follow(lab: &Lab, name: &str) -> Result<Self> {
        let printed = lab.file(name);
        let mut command = lab.server().command(programs::detector()?);
        command.args(["reports", "--follow", "--lines", "4096", "--format", "json", "--control-socket"]);
        command.arg(control_socket(lab)).stdin(Stdio::null()).stdout(File::create(&printed)?).stderr(Stdio::null());
        Ok(Self { _process: Process::start("detector reports", &mut command)?, printed })
    }

    /// Those of these paths, each once, in the order of the paths.
    ///
    /// # Errors
    /// When one doesn't come in time, or comes twice.
    pub fn of(&self, paths: &[&str]) -> Result<Vec<Seen>> {
        let wanted: std::collections::HashMap<&str, usize> =
            paths.iter().enumerate().map(|(place, path)| (*path, place)).collect();
        let mut found = vec![None; paths.len()];
        let mut read = 0;
        let result = until("the reports", PATIENCE, || {
            let printed = fs::read_to_string(&self.printed)?;
            // The last line may still be written.
            let end = printed.rfind('\n').map_or(0, |end| end + 1);
            for line in printed[read..end].lines() {
                let seen: Seen = serde_json::from_str(line).with_context(|| format!("a report: `{line}`"))?;
                let place = seen.report["path"].as_str().and_then(|path| wanted.get(path));
                if let Some(place) = place {
                    ensure!(found[*place].is_none(), "told twice: {line}");
                    found[*place] = Some(seen);
                }
            }
            read = end;
            Ok(found.iter().all(Option::is_some).then_some(()))
        });
        let missing: Vec<&&str> =
            paths.iter().zip(&found).filter(|(_, seen)| seen.is_none()).map(|(path, _)| path).collect();
        result.with_context(|| format!("{} of {} are missing: {:?}", missing.len(), paths.len(), missing.first()))?;
        Ok(found.into_iter().flatten().collect())
    }
}
