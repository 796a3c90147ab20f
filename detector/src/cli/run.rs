//! `detector run`: flags in, the daemon in the foreground.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure, Format, attach::PinsArgs, print};
use crate::{
    config::{Loaded, LogFormat, MetricsAddress, Overrides, Port, XdpMode},
    daemon, kernel,
    telemetry::logs,
};

/// Watch interfaces, and enforce verdicts
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    detector run --interface eth0             observe: a line a hello\n  \
    detector run --interface eth0 --enforce   apply deny.ja4 too\n  \
    detector run --format csv > hellos.csv    on the port of the default route\n\
    Nothing is dropped before `detector block`, or --enforce and rules in the file.\n\
    Environment: DETECTOR_CONFIG _XDP_MODE _CONTROL_SOCKET _METRICS _PINS _LOG, and \
    every key of the file, like DETECTOR_POLICY_BLOCK_TTL")]
pub struct RunArgs {
    /// A port to attach to; repeatable [default: that of the default route]
    #[arg(long = "interface", short = 'i', value_name = "IFACE")]
    pub interfaces: Vec<String>,
    /// Apply the rules of the file, not only count what they would do
    #[arg(long)]
    pub enforce: bool,
    /// Where the program runs [default: native if the driver can]
    #[arg(
        long,
        value_name = "auto|native|generic",
        env = "DETECTOR_XDP_MODE",
        hide_env = true,
        hide_possible_values = true
    )]
    pub xdp_mode: Option<XdpMode>,
    /// A protected TCP port; may be repeated [default: 443]
    #[arg(long = "port", value_name = "PORT")]
    pub ports: Vec<Port>,
    /// How lines look [default: table on a terminal, json otherwise]
    #[arg(long, value_enum, value_name = print::CHOICE, hide_possible_values = true)]
    pub format: Option<Format>,
    /// How log lines look [default: text on a terminal, json otherwise]
    #[arg(long, value_enum, value_name = "text|json|journald", hide_possible_values = true)]
    pub log_format: Option<LogFormat>,
    /// The configuration [default: /etc/detector/detector.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "DETECTOR_CONFIG", hide_env = true)]
    pub config: Option<PathBuf>,
    /// The control socket [default: /run/detector/control.sock]
    #[arg(long, value_name = "PATH", env = "DETECTOR_CONTROL_SOCKET", hide_env = true)]
    pub control_socket: Option<PathBuf>,
    /// Where operators' orders are kept [default: /var/lib/detector]
    #[arg(long, value_name = "PATH", env = "STATE_DIRECTORY", hide = true)]
    pub state_directory: Option<PathBuf>,
    /// Where metrics are served [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDRESS:PORT|off", env = "DETECTOR_METRICS", hide_env = true)]
    pub metrics: Option<MetricsAddress>,
    /// Where the pins are.
    #[command(flatten)]
    pub pins: PinsArgs,
}

/// Runs the daemon; returns the exit code.
#[must_use]
pub fn run(args: RunArgs) -> Exit {
    let format = match args.format.unwrap_or_else(Format::of_stdout) {
        Format::Table => daemon::Format::Table,
        Format::Json => daemon::Format::Json,
        Format::Csv => daemon::Format::Csv,
    };
    let overrides = Overrides {
        // A reload reads it again, from wherever the process stands then.
        file: args.config.map(|path| std::path::absolute(&path).unwrap_or(path)),
        interfaces: args.interfaces,
        ports: args.ports,
        enforce: args.enforce,
        xdp_mode: args.xdp_mode,
        control_socket: args.control_socket,
        state_directory: args.state_directory,
        metrics: args.metrics,
        pins: args.pins.pins,
        log_format: args.log_format,
    };
    let usage = |error: &dyn std::error::Error| Failure::new(Exit::Usage, error.to_string()).report();
    let loaded = match Loaded::read(&overrides) {
        Ok(loaded) => loaded,
        Err(error) => return usage(&error),
    };
    if let Err(error) = logs::init(&loaded.config.log) {
        return usage(&error);
    }
    match daemon::run(loaded, overrides, format) {
        Ok(()) => Exit::Done,
        Err(error) => Failure::new(exit(&error), error.to_string()).report(),
    }
}

/// How a failure of the daemon, or of the kernel, ends the process.
pub(super) fn exit(error: &daemon::Error) -> Exit {
    match error {
        daemon::Error::Kernel(kernel::Error::Permission(_)) => Exit::Permission,
        daemon::Error::Socket(error) if error.is_permission() => Exit::Permission,
        daemon::Error::Intake(error) if error.is_permission() => Exit::Permission,
        daemon::Error::Kernel(kernel::Error::Interface(_)) => Exit::Usage,
        _ => Exit::Failed,
    }
}
