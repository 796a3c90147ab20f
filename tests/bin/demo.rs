//! The demo: a browser-like client and a bot visit a shop from one address; the bot is blocked by its JA4, in the
//! kernel, and the browser never notices.
//!
//! In: root, and what `cargo xtask setup` installs. Out: on stdout the transcript that stands in the README. Exit code
//! 0 if every claim held, 1 if one didn't (it says which), 77 without root, 130 when interrupted. All of it happens in
//! network namespaces of its own; whatever way it ends, it removes them.

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Report, Target, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::hello::Hello;
use detector_tests::lab::{
    CLIENT_V4, Lab, LabOptions, SERVER_INTERFACE, SERVER_V4, own_names, remove_own, require_root,
};
use detector_tests::link::xdp;
use detector_tests::server::Nginx;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

const BROWSER: Kind = Kind::Chrome;
const BOT: Kind = Kind::Python;
/// Connections of each client while the bot is blocked, and after.
const VISITS: u32 = 10;

fn main() -> ExitCode {
    if require_root().is_err() {
        eprintln!(
            "The demo makes network namespaces and loads a program into the kernel, so it needs root:\n\n    \
             sudo -E env \"PATH=$PATH\" cargo xtask demo"
        );
        return ExitCode::from(77);
    }
    let (tell, told) = channel();
    let interrupted = tell.clone();
    thread::spawn(move || wait_for_signal().map(|()| interrupted.send(None)));
    thread::spawn(move || tell.send(Some(story())));
    match told.recv() {
        Ok(Some(Ok(()))) => ExitCode::SUCCESS,
        Ok(Some(Err(error))) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
        // The story's values aren't dropped now, so what it made is removed by its name.
        _ => {
            if let Err(error) = remove_own() {
                eprintln!("\nInterrupted, and could not remove everything: {error:#}");
            }
            ExitCode::from(130)
        }
    }
}

fn story() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, DaemonOptions::default())?;
    let processes = [nginx.id(), daemon.id()];

    println!("A shop (nginx with TLS) at {SERVER_V4}, and detector on its interface.");
    println!("A browser and a bot visit it, both from {CLIENT_V4}.\n");

    println!("1. Who is who? detector reads each client's TLS hello, and drops nothing.\n");
    let mut ja4_values = Vec::new();
    for kind in [BROWSER, BOT, BROWSER, BOT] {
        ja4_values.push(introduce(&lab, &daemon, kind)?);
    }
    let (browser_ja4, bot_ja4) = (&ja4_values[0], &ja4_values[1]);
    ensure!(ja4_values[2..] == [browser_ja4.clone(), bot_ja4.clone()], "a client changed its JA4: {ja4_values:?}");
    ensure!(browser_ja4 != bot_ja4, "browser and bot have the same JA4, {bot_ja4}");
    ensure!(dropped(&lab, &daemon)? == 0.0, "packets were dropped before anyone asked for it");

    println!("\n2. Block the bot by its JA4.\n");
    command(&lab, &["block", "--ja4", bot_ja4, "--ttl", "10m"])?;
    let refused = visits(&lab, BOT)?;
    ensure!(answered(&refused) == 0, "the bot got through: {refused:?}");
    let drops = dropped(&lab, &daemon)?;
    ensure!(drops > 0.0, "the bot got no page, but the kernel dropped nothing");
    println!("   {:<29} 0 of {VISITS} pages; the kernel dropped {drops} of its packets", name(BOT));
    all_answered(&lab, BROWSER, "pages, from the same address")?;

    println!("\n3. Undo it.\n");
    command(&lab, &["unblock", "--ja4", bot_ja4])?;
    all_answered(&lab, BOT, "pages again")?;

    daemon.stop(Signal::SIGTERM)?;
    ensure!(xdp(lab.server(), SERVER_INTERFACE)?.is_none(), "the XDP program is still attached");
    drop((nginx, lab));
    let left = own_names()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    for process in processes {
        ensure!(!Path::new(&format!("/proc/{process}")).exists(), "process {process} is left behind");
    }
    println!("\nNothing left behind: no XDP program, no process, no network namespace, no file.");
    Ok(())
}

/// One visit, and what detector says about it. Returns the visitor's JA4.
fn introduce(lab: &Lab, daemon: &Daemon, kind: Kind) -> Result<String> {
    let report = batch(lab, &target(), &[kind], 1)?.remove(0);
    ensure!(report.answered(), "{} got no page: {report:?}", name(kind));
    let hello: Hello = daemon.hello_from(report.port.context("the client has no port")?)?;
    let from = format!("{}:{}", hello.place.src_ip, hello.place.src_port);
    let to = hello.forms.server_name.context("a hello without a server name")?;
    println!("   {:<29} {from}  {}  asks {to}", name(kind), hello.forms.ja4);
    Ok(hello.forms.ja4)
}

/// Shows a command, runs it, and shows what it says.
fn command(lab: &Lab, arguments: &[&str]) -> Result<()> {
    println!("   $ detector {}", arguments.join(" "));
    for line in control_ok(lab, arguments)?.lines() {
        println!("   {line}");
    }
    println!();
    Ok(())
}

fn all_answered(lab: &Lab, kind: Kind, what: &str) -> Result<()> {
    let reports = visits(lab, kind)?;
    ensure!(reports.iter().all(Report::answered), "{} was refused: {reports:?}", name(kind));
    println!("   {:<29} {} of {VISITS} {what}", name(kind), answered(&reports));
    Ok(())
}

fn visits(lab: &Lab, kind: Kind) -> Result<Vec<Report>> {
    let reports =
        batch(lab, &Target { parallel: VISITS, timeout: Duration::from_secs(2), ..target() }, &[kind], VISITS)?;
    ensure!(reports.len() == VISITS as usize, "{} of {VISITS} connections were made", reports.len());
    Ok(reports)
}

fn answered(reports: &[Report]) -> usize {
    reports.iter().filter(|report| report.answered()).count()
}

fn target() -> Target {
    Target { source: Some(CLIENT_V4), ..Target::new(SERVER_V4) }
}

fn name(kind: Kind) -> &'static str {
    if kind == BROWSER { "Chrome-like (curl_cffi)" } else { "bot (Python)" }
}

/// Packets that the kernel dropped so far.
fn dropped(lab: &Lab, daemon: &Daemon) -> Result<f64> {
    Ok(daemon.metrics(lab)?.sum("detector_kernel_packets_total", &[("verdict", "drop")]))
}

/// Returns at Ctrl-C and its friends; `None` if they can't be waited for.
fn wait_for_signal() -> Option<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().ok()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).ok()?;
        let mut terminate = signal(SignalKind::terminate()).ok()?;
        let mut hangup = signal(SignalKind::hangup()).ok()?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        Some(())
    })
}
