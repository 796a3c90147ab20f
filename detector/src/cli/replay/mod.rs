//! `detector replay --policy NEW.toml CAPTURE LOG`: the whole engine over a capture and an access log, by the policy that is
//! in force and by a new one. Nothing is armed, no daemon is asked. Memory: the log, its reports and the hellos.

mod joined;
mod print;
mod trial;
mod world;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::print::{self as format, Format};
use super::{Exit, Failure};
use crate::config::{Config, Overrides};
use crate::join::{Proxies, Trusted};
use joined::{Hellos, Log};
use world::World;

/// Try a policy on a capture and an access log; nothing is blocked
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  detector replay --policy new.toml today.pcap access.log
  detector replay --policy new.toml --format csv a.pcap a.log > hit.csv
  detector replay --requests --format json a.pcap a.log | jq .new.signals

LOG has one report a line (docs/reports.md), each with its time `t` on the
capture's clock. Signals and what they mean: docs/signals.md. Last it says when
a circuit breaker would have opened (docs/scoring.md).

Exit codes: 0 requests were judged, 1 a file can't be read,
2 no request has a hello, 64 wrong usage or configuration")]
pub struct ReplayArgs {
    /// The capture of the connections (pcap or pcapng)
    pub capture: PathBuf,

    /// The requests that came over them
    pub log: PathBuf,

    /// The new policy: a configuration file [default: the old one]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// The old policy [default: /etc/detector/detector.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "DETECTOR_CONFIG", hide_env = true)]
    pub config: Option<PathBuf>,

    /// Each request with its evidence, instead of who would be hit
    #[arg(long)]
    pub requests: bool,

    /// How to print [default: table on a terminal, else json]
    #[arg(long, value_enum, value_name = format::CHOICE, hide_possible_values = true)]
    pub format: Option<Format>,
}

/// Replays and prints.
///
/// # Errors
/// When a file can't be read, or says something wrong.
pub fn run(args: &ReplayArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let old = load(args.config.clone())?;
    let new = match &args.policy {
        Some(path) => load(Some(path.clone()))?,
        None => old.clone(),
    };
    let file = File::open(&args.capture).map_err(|error| unreadable(&args.capture, &error))?;
    let hellos = Hellos::read(file).map_err(|error| unreadable(&args.capture, &error))?;
    let text = fs::read(&args.log).map_err(|error| unreadable(&args.log, &error))?;
    let mut mended = joined::lines(&text);
    let log = Log::read(&text, &mut mended);
    let proxies = Proxies::new(Trusted::new(old.signals.trusted_proxies.iter().copied()));
    let (requests, missed) = joined::join(hellos, &log.reports, proxies);
    let world = |config| World::new(config).map_err(|error| Failure::new(Exit::Failed, error.to_string()));
    let mut worlds = [world(&old)?, world(&new)?];
    let judged = requests.iter().map(|request| (request, worlds.each_mut().map(|world| world.judge(request))));
    let format = args.format.unwrap_or_else(Format::of_stdout);
    if args.requests {
        print::requests(judged, format, out)?;
    } else {
        print::families(judged, format, out)?;
    }
    out.flush()?;
    super::complain(&format!(
        "requests judged: {}; without a hello: {missed}; lines that are no report with a time: {}",
        requests.len(),
        log.unusable
    ));
    for (policy, world) in ["old", "new"].into_iter().zip(&mut worlds) {
        if let Some(opened) = world.opened() {
            super::complain(&format!(
                "by the {policy} policy a circuit breaker would have opened {opened}: from then on it would only count"
            ));
        }
    }
    Ok(if requests.is_empty() { Exit::Negative } else { Exit::Done })
}

fn load(file: Option<PathBuf>) -> Result<Config, Failure> {
    let overrides = Overrides { file, ..Overrides::default() };
    Config::load(&overrides).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

fn unreadable(path: &Path, error: &impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("can't read `{}`: {error}", path.display()))
}
