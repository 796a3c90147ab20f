//! Real clients in the lab's client namespace: `tests/clients/clients.py` drives them, and tells each connection's
//! fate. In: which kinds, how many, where to. Out: one [`Report`] for each connection.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::deadline::until;
use crate::lab::Lab;
use crate::process::{Process, output};
use crate::programs;
use crate::server::SERVER_NAME;

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// curl with the system's OpenSSL.
    Curl,
    /// `openssl s_client`.
    Openssl,
    /// Python's ssl module.
    Python,
    /// curl_cffi imitating Chrome.
    Chrome,
    /// curl_cffi imitating Firefox.
    Firefox,
    /// curl_cffi imitating Safari.
    Safari,
    /// Python's ssl module over TCP Fast Open, offering ALPN.
    Fastopen,
    /// The same without Fast Open; before its own hello it sends another one with a wrong checksum.
    DecoyChecksum,
    /// The same, with a timestamp long past.
    DecoyTimestamp,
    /// Python's ssl module with few cipher suites, asking twice over one connection on whose 4-tuple hellos like
    /// [`Kind::Python`]'s are forged meanwhile.
    Takeover,
    /// aioquic: HTTP/3 over QUIC.
    Aioquic,
    /// The same over version 2 of QUIC.
    #[serde(rename = "aioquic_v2")]
    AioquicV2,
}

impl Kind {
    /// Those that speak TCP as clients do; the rest are for tests of their own.
    pub const ALL: [Self; 6] = [Self::Curl, Self::Openssl, Self::Python, Self::Chrome, Self::Firefox, Self::Safari];

    fn argument(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Openssl => "openssl",
            Self::Python => "python",
            Self::Chrome => "chrome",
            Self::Firefox => "firefox",
            Self::Safari => "safari",
            Self::Fastopen => "fastopen",
            Self::DecoyChecksum => "decoychecksum",
            Self::DecoyTimestamp => "decoytimestamp",
            Self::Takeover => "takeover",
            Self::Aioquic => "aioquic",
            Self::AioquicV2 => "aioquic_v2",
        }
    }
}

/// The fate of one connection.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// The client.
    pub kind: Kind,
    /// Its port, if it could tell.
    pub port: Option<u16>,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// Why there is none.
    pub error: Option<String>,
    /// CLOCK_MONOTONIC seconds before the connection.
    pub started: f64,
    /// And after the answer or the error.
    pub ended: f64,
}

impl Report {
    /// The client got its page.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.status == Some(200)
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub address: IpAddr,
    /// The client's address; by default the kernel's choice.
    pub source: Option<IpAddr>,
    /// What one connection gets before it is given up.
    pub timeout: Duration,
    /// Connections at the same time.
    pub parallel: u32,
}

impl Target {
    /// One connection at a time, ten seconds each.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self { address, source: None, timeout: Duration::from_secs(10), parallel: 1 }
    }
}

/// Makes `count` connections in all, the kinds in turn, and waits for their end.
///
/// # Errors
/// When the driver fails; a connection that fails is a report.
pub fn batch(lab: &Lab, target: &Target, kinds: &[Kind], count: u32) -> Result<Vec<Report>> {
    let mut command = driver(lab, "batch", target, kinds)?;
    let printed = output(command.args(["--count", &count.to_string()]))?;
    printed.lines().map(read).collect()
}

/// Connections of one kind that go on until they are stopped.
#[derive(Debug)]
pub struct Loop {
    process: Process,
    stdin: Option<ChildStdin>,
    reports: Arc<Mutex<Vec<Report>>>,
    reader: Option<JoinHandle<Result<()>>>,
}

impl Loop {
    /// Starts `target.parallel` threads of one kind, each pausing between two connections.
    ///
    /// # Errors
    /// When the driver can't be started.
    pub fn start(lab: &Lab, target: &Target, kind: Kind, pause: Duration) -> Result<Self> {
        let mut command = driver(lab, "loop", target, &[kind])?;
        command.args(["--pause", &pause.as_secs_f64().to_string()]);
        Self::run(&mut command)
    }

    /// Starts one single connection without waiting for its end.
    ///
    /// # Errors
    /// When the driver can't be started.
    pub fn one(lab: &Lab, target: &Target, kind: Kind) -> Result<Self> {
        Self::run(driver(lab, "loop", target, &[kind])?.args(["--limit", "1"]))
    }

    fn run(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start("clients.py", command)?;
        let stdin = process.child().stdin.take();
        let stdout = process.child().stdout.take().context("no pipe")?;
        let reports = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&reports);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let report = read(&line?)?;
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(report);
            }
            Ok(())
        });
        Ok(Self { process, stdin, reports, reader: Some(reader) })
    }

    /// The connections that have ended so far.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until as many connections as `wanted` that began after `since` (CLOCK_MONOTONIC seconds) have ended, and
    /// returns them.
    ///
    /// # Errors
    /// When fewer have ended within `limit`.
    pub fn since(&self, since: f64, wanted: usize, limit: Duration) -> Result<Vec<Report>> {
        until(&format!("{wanted} connections"), limit, || {
            let late: Vec<Report> = self.reports().into_iter().filter(|report| report.started >= since).collect();
            Ok((late.len() >= wanted).then_some(late))
        })
    }

    /// Waits until a connection that began after `since` got its page, and returns it.
    ///
    /// # Errors
    /// When none did within `limit`.
    pub fn answered_since(&self, since: f64, limit: Duration) -> Result<Report> {
        until("a connection that gets its page", limit, || {
            Ok(self.reports().into_iter().find(|report| report.started >= since && report.answered()))
        })
    }

    /// Stops after the connections under way, and returns all reports.
    ///
    /// # Errors
    /// When the driver doesn't end within `limit` or printed nonsense.
    pub fn stop(mut self, limit: Duration) -> Result<Vec<Report>> {
        drop(self.stdin.take());
        let status = self.process.wait(limit)?;
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| anyhow::anyhow!("the reader of clients.py panicked"))??;
        }
        if !status.success() {
            bail!("clients.py: {status}");
        }
        Ok(self.reports())
    }
}

fn driver(lab: &Lab, mode: &str, target: &Target, kinds: &[Kind]) -> Result<Command> {
    let kinds: Vec<&str> = kinds.iter().map(|kind| kind.argument()).collect();
    let mut command = lab.client().command(programs::python()?);
    // -B: no byte code beside the sources.
    command.arg("-B").arg(programs::clients()).args([mode, "--name", SERVER_NAME]);
    command.args(["--address", &target.address.to_string(), "--kinds", &kinds.join(",")]);
    command.args(["--timeout", &target.timeout.as_secs_f64().to_string()]);
    command.args(["--parallel", &target.parallel.to_string()]);
    if let Some(source) = target.source {
        command.args(["--source", &source.to_string()]);
    }
    Ok(command)
}

fn read(line: &str) -> Result<Report> {
    serde_json::from_str(line).with_context(|| format!("clients.py printed `{line}`"))
}
