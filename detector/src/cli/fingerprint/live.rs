//! `detector fingerprint --interface NAME`: hellos as they come in, without a verdict anywhere: the program's tables stay
//! empty, so it drops nothing. Ends at SIGINT, SIGTERM, `--count`, or when the reader goes away.

use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use detector_common::counter::Counter;
use detector_common::settings::Settings;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Exit, FingerprintArgs, Format, Printer, Reading, list};
use crate::capture::event;
use crate::cli::Failure;
use crate::clock::monotonic;
use crate::config::{DEFAULT_PINS, XdpMode};
use crate::kernel::{self, Error, EventSource as _, Kernel, LoadOptions, Rings, VerdictMaps as _, wait};
use crate::pipeline::{Limits, Pipeline};

/// How often time alone is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Events read before signals are looked at.
const BUDGET: usize = 1024;

pub(super) fn run(args: &FingerprintArgs, format: Format, out: impl Write, notes: impl Write) -> anyhow::Result<Exit> {
    // Blocked before anything is attached, so that none ends this process in between.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("blocking signals")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    match watch(args, format, &signals, out, notes) {
        Ok(exit) => Ok(exit),
        Err(error) => match error.downcast_ref::<Error>() {
            Some(Error::Permission(_)) => Ok(Failure::new(Exit::Permission, format!("{error:#}")).report()),
            Some(Error::Interface(_)) => Ok(Failure::new(Exit::Usage, format!("{error:#}")).report()),
            Some(Error::Foreign { interface }) if Path::new(DEFAULT_PINS).exists() => Ok(attached(interface).report()),
            _ => Err(error),
        },
    }
}

/// Nobody's program is replaced, and least of all that of the service.
fn attached(interface: &str) -> Failure {
    let message = format!(
        "a detector is attached to `{interface}` already; what it sees: detector status\n  \
         each hello by itself: systemctl stop detector; detector detach; then this again"
    );
    Failure::new(Exit::Failed, message)
}

fn watch(
    args: &FingerprintArgs,
    format: Format,
    signals: &SignalFd,
    out: impl Write,
    mut notes: impl Write,
) -> anyhow::Result<Exit> {
    for name in &args.interfaces {
        kernel::interface::check(name).map_err(Error::from)?;
    }
    let limits = Limits::default();
    let (mut kernel, mut maps, mut rings, counters, _log) = Kernel::load(&LoadOptions::default())?;
    let every: Vec<u16> = (1..=u16::MAX).collect();
    maps.protect_ports(if args.ports.is_empty() { &every } else { &args.ports })?;
    maps.set(Settings {
        segments_per_flow: limits.segments_per_flow,
        follow_ns: u64::try_from(limits.partial_age.as_nanos()).unwrap_or(u64::MAX),
        syns: 1,
        answers: 1,
        udp: 1,
        ..Settings::default()
    })?;
    for name in &args.interfaces {
        if let Err(error) = kernel.attach_egress(name) {
            writeln!(notes, "warning: {error}; no JA3S, and fewer clients are confirmed")?;
        }
        kernel.attach(name, XdpMode::Auto)?;
    }
    let mut reading = Reading::new(Printer::streaming(format, BufWriter::with_capacity(64 * 1024, out)));
    reading.lines.printer.flush();
    let mut pipeline = Pipeline::new(limits);
    let enough = args.count.unwrap_or(u64::MAX);
    loop {
        let Rings { confirmed, unconfirmed } = &mut rings;
        let [_, _, signalled] = wait([confirmed.as_fd(), unconfirmed.as_fd(), signals.as_fd()], TICK)?;
        let mut take = |bytes: &[u8]| {
            let _whole = event::packets(bytes, &mut |packet| {
                reading.now = packet.at();
                pipeline.take(packet, &mut |outcome| reading.take(outcome));
            });
        };
        confirmed.drain(BUDGET, &mut take);
        unconfirmed.drain(BUDGET, &mut take);
        let now = monotonic();
        reading.now = now;
        pipeline.expire(now, usize::MAX, &mut |outcome| reading.take(outcome));
        reading.expire(now);
        reading.lines.printer.flush();
        if signalled || reading.lines.next >= enough || reading.lines.printer.failed.is_some() {
            break;
        }
    }
    drop(kernel);
    pipeline.finish(&mut |outcome| reading.take(outcome));
    let (counts, written) = reading.finish();
    let counters = counters.read()?;
    let lost = counters.of(Counter::LostConfirmed) + counters.of(Counter::LostUnconfirmed);
    writeln!(
        notes,
        "hellos: {}; lost: {}; frames: {}; events lost: {lost}; confirmed: {}; unconfirmed: {}; void: {}",
        counts.hellos,
        list(&counts.lost),
        counters.of(Counter::Packets),
        counts.confirmed,
        counts.unconfirmed,
        list(&counts.void)
    )?;
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("writing the result"),
        _ => Ok(if counts.hellos > 0 { Exit::Done } else { Exit::Negative }),
    }
}
