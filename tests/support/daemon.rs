//! The daemon under test, in the lab's server namespace, with its control socket and files in the lab's directory.
//!
//! In: how to attach. Out: the events it prints, its metrics, the answers of its command line. Memory: all lines of
//! one test.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::deadline::{PATIENCE, until};
use crate::hello::Hello;
use crate::lab::{Lab, SERVER_INTERFACE};
use crate::link::XdpMode;
use crate::metrics::Metrics;
use crate::pins;
use crate::process::{Process, output};
use crate::programs;

/// Where the daemon serves its metrics: the default address, in a namespace of its own.
const METRICS_ADDRESS: &str = "127.0.0.1:9464";
/// In the place of an interface's name: none is named, and the daemon chooses.
pub const GUESSED: &str = "";
/// The control socket's name in the lab's directory.
const CONTROL_SOCKET: &str = "control.sock";

/// The file that says what its own clock is ahead.
const CLOCK: &str = "clock";
/// Debian's package `libfaketime`.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// How to start the daemon.
#[derive(Clone, Copy, Debug, Default)]
pub struct DaemonOptions {
    /// Where to attach, if not to the server's end of the wire; [`GUESSED`]: the daemon chooses.
    pub interface: Option<&'static str>,
    /// Native or generic; by default the daemon's own choice.
    pub mode: Option<XdpMode>,
    /// Further arguments.
    pub arguments: &'static [&'static str],
    /// The configuration file's text.
    pub config: &'static str,
    /// Whether its wall clock is the one that [`set_clock`] sets, and not the machine's.
    pub own_clock: bool,
    /// Whether it has no capability, and so needs what `detector attach` has pinned.
    pub without_capabilities: bool,
    /// Whether its events go nowhere, as under systemd. A test that has millions of them couldn't hold them.
    pub quiet: bool,
    /// Whether who reads its events has gone.
    pub unread: bool,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    events: Lines,
    log: Lines,
}

impl Daemon {
    /// Starts it on the server's interface and waits until it is ready.
    ///
    /// # Errors
    /// When it isn't ready in time; the error holds its log.
    pub fn start(lab: &Lab, options: DaemonOptions) -> Result<Self> {
        Self::start_build(lab, programs::detector()?, options)
    }

    /// The same with another build of it.
    ///
    /// # Errors
    /// Likewise.
    pub fn start_build(lab: &Lab, program: PathBuf, options: DaemonOptions) -> Result<Self> {
        let mut command = run_command(
            lab,
            if options.without_capabilities { &["setpriv", "--bounding-set=-all", "--inh-caps=-all"] } else { &[] },
            program,
            options.interface.unwrap_or(SERVER_INTERFACE),
            METRICS_ADDRESS,
            &control_socket(lab),
            options.config,
        )?;
        if let Some(mode) = options.mode {
            command.args(["--xdp-mode", mode.argument()]);
        }
        command.args(options.arguments);
        if options.own_clock {
            command.env("LD_PRELOAD", FAKETIME).env("FAKETIME_TIMESTAMP_FILE", lab.file(CLOCK));
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let events = if options.quiet { Stdio::null() } else { Stdio::piped() };
        command.stdin(Stdio::null()).stdout(events).stderr(Stdio::piped());
        let mut process = Process::start("detector run", &mut command)?;
        let events = process.child().stdout.take().filter(|_| !options.unread).map(Lines::collect).unwrap_or_default();
        let log = Lines::collect(process.child().stderr.take().context("no pipe")?);
        let mut daemon = Self { process, events, log };
        until("the daemon to be ready", PATIENCE, || {
            if let Some(status) = daemon.process.ended()? {
                bail!("`detector run` ended at once: {status}");
            }
            Ok(daemon.log.any(is_ready).then_some(()))
        })
        .with_context(|| daemon.log())?;
        Ok(daemon)
    }

    /// The events printed so far.
    ///
    /// # Errors
    /// When a line of its stdout isn't JSON.
    pub fn events(&self) -> Result<Vec<Value>> {
        let read = |line: &String| serde_json::from_str(line).with_context(|| format!("stdout line `{line}`"));
        self.events.all().iter().map(read).collect()
    }

    /// Waits for something in the events: `find` gets all of them each time.
    ///
    /// # Errors
    /// When it finds nothing within `limit`.
    pub fn wait_for<T>(&self, what: &str, limit: Duration, find: impl Fn(&[Value]) -> Option<T>) -> Result<T> {
        until(what, limit, || Ok(find(&self.events()?))).with_context(|| self.log())
    }

    /// Waits for the hello of a connection from this port, and returns it.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn hello_from(&self, port: u16) -> Result<Hello> {
        let line = self.wait_for(&format!("a hello from port {port}"), PATIENCE, |events| {
            events.iter().find(|event| event["src_port"] == port).cloned()
        })?;
        Hello::read(&line)
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        format!("the daemon's log:\n{}", self.log.all().join("\n"))
    }

    /// What it has counted, for a failure's message: one line for each series that isn't 0.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub fn counted(&self, lab: &Lab) -> Result<String> {
        let text = self.metrics_text(lab)?;
        let counted = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
        Ok(counted.filter(|line| !line.contains("_bucket{")).collect::<Vec<_>>().join("\n"))
    }

    fn metrics_text(&self, lab: &Lab) -> Result<String> {
        let url = format!("http://{METRICS_ADDRESS}/metrics");
        output(lab.server().command("curl").args(["-sS", "--fail", "--noproxy", "*", "--max-time", "5", &url]))
            .with_context(|| self.log())
    }

    /// Its metrics now.
    ///
    /// # Errors
    /// When it doesn't answer, or not in Prometheus' format.
    pub fn metrics(&self, lab: &Lab) -> Result<Metrics> {
        Metrics::parse(&self.metrics_text(lab)?)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// When the kernel can't tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// Sends a signal and waits for its end.
    ///
    /// # Errors
    /// When it goes on.
    pub fn stop(mut self, signal: Signal) -> Result<ExitStatus> {
        self.process.signal(signal)?;
        self.process.wait(PATIENCE).with_context(|| self.log())
    }
}

/// Makes the daemon's own wall clock run so much ahead of the machine's (`+365d`) or behind it (`-365d`).
///
/// # Errors
/// When libfaketime isn't installed.
pub fn set_clock(lab: &Lab, ahead: &str) -> Result<()> {
    if !Path::new(FAKETIME).exists() {
        bail!("no `{FAKETIME}`: run `cargo xtask setup`");
    }
    Ok(fs::write(lab.file(CLOCK), ahead)?)
}

/// The configuration file in this lab: one of its own, so that the machine's own /etc/detector/detector.toml plays no
/// part.
#[must_use]
pub fn configuration(lab: &Lab) -> PathBuf {
    lab.file("detector.toml")
}

/// The control socket in this lab.
#[must_use]
pub fn control_socket(lab: &Lab) -> PathBuf {
    lab.file(CONTROL_SOCKET)
}

/// The signal socket in this lab: beside the control socket.
#[must_use]
pub fn signal_socket(lab: &Lab) -> PathBuf {
    control_socket(lab).with_extension("signals.sock")
}

/// Runs `detector run` on an interface beside a daemon, with sockets of its own, where it must refuse to: returns its
/// exit code and what it said.
///
/// # Errors
/// When it is still running after a while.
pub fn refusal(lab: &Lab, interface: &str) -> Result<(Option<i32>, String)> {
    let socket = lab.file("second.sock");
    refused(lab, run_command(lab, &[], programs::detector()?, interface, "127.0.0.1:9465", &socket, "")?)
}

/// Likewise, with the daemon's own control socket.
///
/// # Errors
/// When it is still running after a while.
pub fn refusal_of_socket(lab: &Lab, interface: &str) -> Result<(Option<i32>, String)> {
    let socket = control_socket(lab);
    refused(lab, run_command(lab, &[], programs::detector()?, interface, "127.0.0.1:9465", &socket, "")?)
}

fn refused(lab: &Lab, mut command: Command) -> Result<(Option<i32>, String)> {
    let said = lab.file("refusal.stderr");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said)?);
    let mut process = Process::start("detector run", &mut command)?;
    let status = process.wait(PATIENCE).with_context(|| fs::read_to_string(&said).unwrap_or_default())?;
    Ok((status.code(), fs::read_to_string(&said)?))
}

fn run_command(
    lab: &Lab,
    by: &[&str],
    program: PathBuf,
    interface: &str,
    metrics: &str,
    control_socket: &Path,
    config: &str,
) -> Result<Command> {
    let configuration = configuration(lab);
    fs::write(&configuration, config)?;
    let mut command = match by {
        [by, arguments @ ..] => {
            let mut command = lab.server().command(by);
            command.args(arguments).arg(program);
            command
        }
        [] => lab.server().command(program),
    };
    command.args(["run", "--format", "json", "--metrics", metrics]);
    if interface != GUESSED {
        command.args(["--interface", interface]);
    }
    command.arg("--config").arg(configuration).arg("--control-socket").arg(control_socket);
    // Likewise of its own, in a lab that is gone afterwards.
    command.env("STATE_DIRECTORY", lab.file("state")).env("DETECTOR_PINS", pins::directory(lab));
    command.env("NO_COLOR", "1").env_remove("RUST_LOG");
    Ok(command)
}

/// Runs a command of the daemon's command line (`block …`, `status`), whatever it exits with.
///
/// # Errors
/// When the binary isn't built.
pub fn control(lab: &Lab, arguments: &[&str]) -> Result<Output> {
    let mut command = lab.server().command(programs::detector()?);
    command.args(arguments).env("DETECTOR_CONTROL_SOCKET", control_socket(lab)).stdin(Stdio::null());
    Ok(command.output()?)
}

/// Likewise, for a command that must succeed: returns what it printed.
///
/// # Errors
/// When it exits other than 0.
pub fn control_ok(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let done = control(lab, arguments)?;
    let errors = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        bail!("`detector {}`: {}: {}", arguments.join(" "), done.status, errors.trim());
    }
    Ok(String::from_utf8(done.stdout)?)
}

/// What `detector fingerprint` reads from a capture.
///
/// # Errors
/// When it fails, which includes finding no hello.
pub fn offline(capture: &Path) -> Result<Vec<Value>> {
    let mut command = Command::new(programs::detector()?);
    let printed = output(command.arg("fingerprint").arg(capture).args(["--format", "json"]))?;
    printed.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The log line that says all is attached and listening.
fn is_ready(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|line| line["message"] == "ready")
}

/// The lines of a pipe, collected by a thread of its own so that the writer never waits.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn collect(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self(Arc::default());
        let sink = lines.clone();
        thread::spawn(move || {
            // Ends with the pipe. Bytes that aren't UTF-8 would be a fault of the daemon: the reader of the line says so.
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                sink.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        lines
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn any(&self, matches: impl Fn(&str) -> bool) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|line| matches(line))
    }
}
