//! `detector attach` and `detach`: the programs on interfaces without a daemon, by pins in a BPF file system. In: a
//! configuration. Out: a line for each interface.

use std::io::Write;
use std::path::PathBuf;

use super::{Exit, Failure, client::quoted, printable, run::exit};
use crate::config::{Config, Overrides, Port, XdpMode};
use crate::daemon;
use crate::door;
use crate::kernel::{self, Attached};
use crate::telemetry::logs;

const ATTACH_EXAMPLES: &str = "\
Examples:
  detector attach --interface eth0   attach to eth0, and to nothing else
  detector attach                    after an upgrade: the new program on the same interfaces
  detector attach -i eth0 -i eth1 --xdp-mode native

No packet is without a program while one takes the place of another, and verdicts stay.
`detector run` uses what is pinned. Stop it before an upgrade; it does the same at its start,
unless it runs without capabilities: then `detector attach --group detector` comes first.";
const DETACH_EXAMPLES: &str = "\
Examples:
  detector detach                    no program, map or file is left
  detector detach --pins /sys/fs/bpf/other
  detector detach; detector attach   anew, with nothing of what was in force";

/// Where the pins are.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PinsArgs {
    /// Directory of the pins [default: /sys/fs/bpf/detector]
    #[arg(long, value_name = "DIRECTORY", env = "DETECTOR_PINS", hide_env = true)]
    pub pins: Option<PathBuf>,
}

/// `detector attach`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = ATTACH_EXAMPLES)]
pub struct AttachArgs {
    /// A port to attach to; repeatable [default: those attached, or that of the default route]
    #[arg(long = "interface", short = 'i', value_name = "IFACE")]
    interfaces: Vec<String>,
    /// Where the program runs [default: native if the driver can]
    #[arg(
        long,
        value_name = "auto|native|generic",
        env = "DETECTOR_XDP_MODE",
        hide_env = true,
        hide_possible_values = true
    )]
    xdp_mode: Option<XdpMode>,
    /// A protected TCP port; may be repeated [default: 443]
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<Port>,
    /// The configuration [default: /etc/detector/detector.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "DETECTOR_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    /// Who may use what is pinned, so that `detector run` needs no capability [default: as before; root]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    #[command(flatten)]
    pins: PinsArgs,
}

/// `detector detach`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = DETACH_EXAMPLES)]
pub struct DetachArgs {
    /// The configuration [default: /etc/detector/detector.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "DETECTOR_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    pins: PinsArgs,
}

/// Attaches.
///
/// # Errors
/// When the configuration is wrong, or the kernel refuses.
pub fn attach(args: &AttachArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let overrides = Overrides {
        file: args.config.clone(),
        interfaces: args.interfaces.clone(),
        ports: args.ports.clone(),
        xdp_mode: args.xdp_mode,
        pins: args.pins.pins.clone(),
        ..Overrides::default()
    };
    let config = load(&overrides)?;
    let group = args.group.as_deref().map(|name| {
        let help = "`getent group` lists those there are; `groupadd --system` makes one";
        door::socket::group(name)
            .ok_or_else(|| Failure::new(Exit::Usage, format!("there is no group `{name}`\n{help}")))
    });
    let group = group.transpose()?;
    logs::init(&config.log).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let attached = daemon::attach(&config, group).map_err(|error| Failure::new(exit(&error), error.to_string()))?;
    for line in attached {
        writeln!(out, "attached to {}", place(&line))?;
    }
    writeln!(out, "undo: detector detach{}", args.pins.suffix())?;
    Ok(Exit::Done)
}

/// Detaches.
///
/// # Errors
/// When nothing is pinned, or this process may not.
pub fn detach(args: &DetachArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let overrides = Overrides { file: args.config.clone(), pins: args.pins.pins.clone(), ..Overrides::default() };
    let directory = load(&overrides)?.admin.pins;
    let failed = |error: kernel::Error| {
        let error = daemon::Error::from(error);
        Failure::new(exit(&error), error.to_string())
    };
    let Some(detached) = kernel::detach(&directory).map_err(failed)? else {
        let hint = "the programs of a `detector run` without pins go with it: stop that";
        let what = format!("nothing is pinned in `{}`", directory.display());
        return Err(Failure::new(Exit::Negative, format!("{what}\n{hint}")));
    };
    for line in detached {
        writeln!(out, "detached from {}", place(&line))?;
    }
    writeln!(out, "removed {}", printable::line(&directory.display().to_string()))?;
    Ok(Exit::Done)
}

fn load(overrides: &Overrides) -> Result<Config, Failure> {
    Config::load(overrides).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

fn place(attached: &Attached) -> String {
    format!("{} ({})", printable::line(&attached.interface), attached.mode.label())
}

impl PinsArgs {
    /// What a further command needs to mean the same pins.
    fn suffix(&self) -> String {
        let from_environment = || std::env::var_os("DETECTOR_PINS").map(PathBuf::from);
        match &self.pins {
            Some(path) if self.pins != from_environment() => format!(" --pins {}", quoted(path)),
            _ => String::new(),
        }
    }
}
