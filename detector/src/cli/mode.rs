//! `detector mode`: whether rules and automatic verdicts drop. A word in; what holds from then on, and how to take it back,
//! out. What is pinned is changed right there, so that it works with the daemon hung.

use std::io::Write;
use std::path::PathBuf;

use detector_common::verdict::FOREVER;

use super::attach::PinsArgs;
use super::client::{Client, ControlArgs};
use super::run::exit;
use super::{Exit, Failure, figures};
use crate::admin::protocol::{InForce, Request, Response};
use crate::clock::monotonic;
use crate::config::{Config, Mode, Overrides};
use crate::daemon;
use crate::kernel::{self, PinnedMode};
use crate::policy::ttl::Ttl;

const EXAMPLES: &str = "\
Examples:
  detector mode                      show it, and where it comes from
  detector mode enforce --for 10m    try it: after ten minutes the kernel itself goes back
  detector mode observe              at once nothing drops but what operators blocked by hand

It stays over restarts; `enforce.mode` of the configuration holds where nobody said otherwise.";

/// `detector mode`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ModeArgs {
    /// What it is to be [default: only show it]
    #[arg(value_name = "observe|enforce", hide_possible_values = true)]
    mode: Option<Mode>,
    /// For how long, like 90s or 10m; then it is what it was [default: until the next word]
    #[arg(long = "for", value_name = "TIME", requires = "mode")]
    time: Option<String>,
    /// The configuration [default: /etc/detector/detector.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "DETECTOR_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    pins: PinsArgs,
    #[command(flatten)]
    control: ControlArgs,
}

/// Shows the mode, or changes it.
///
/// # Errors
/// When nothing is pinned and the daemon doesn't do it.
pub fn run(args: &ModeArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let ttl: Option<Ttl> = args
        .time
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error: crate::policy::ttl::TtlError| Failure::new(Exit::Usage, error.to_string()))?;
    // As with the control socket: an operator must get at the mode while someone edits the configuration.
    let overrides = Overrides { file: args.config.clone(), pins: args.pins.pins.clone(), ..Overrides::default() };
    let pins = Config::load(&overrides).map_or_else(
        |_| overrides.pins.clone().unwrap_or_else(|| crate::config::DEFAULT_PINS.into()),
        |config| config.admin.pins,
    );
    let failed = |error: kernel::Error| {
        let error = daemon::Error::from(error);
        Failure::new(exit(&error), error.to_string())
    };
    let in_force = match PinnedMode::open(&pins).map_err(failed)? {
        Some(mut map) => change(&mut map, args.mode, ttl).map_err(failed)?,
        None => {
            let client = if args.mode.is_some() { Client::connect } else { Client::reader };
            match client(&args.control)?.ask(&Request::Mode { mode: args.mode, ttl })? {
                Response::Mode(in_force) => in_force,
                _ => {
                    let what = "the daemon answers something else; is it of another version?";
                    return Err(Failure::new(Exit::Failed, what));
                }
            }
        }
    };
    writeln!(out, "mode {}", describe(&in_force))?;
    Ok(Exit::Done)
}

fn change(map: &mut PinnedMode, wanted: Option<Mode>, ttl: Option<Ttl>) -> Result<InForce, kernel::Error> {
    let (mut mode, now) = (map.read()?, monotonic());
    if let Some(wanted) = wanted {
        let until = match ttl {
            Some(Ttl::For(duration)) => now.plus(duration).as_nanos(),
            Some(Ttl::Forever) | None => FOREVER,
        };
        mode = mode.ordered(wanted == Mode::Enforce, until);
        map.write(mode)?;
    }
    Ok(InForce::new(&mode, now))
}

/// Which, by whom, until when.
pub(super) fn describe(in_force: &InForce) -> String {
    let InForce { mode, mode_by_operator, mode_for_s, mode_afterwards } = in_force;
    let by = if *mode_by_operator { "by an operator" } else { "configured" };
    let then = mode_for_s.map(|left| format!(", for {}, then {}", figures::seconds(left), mode_afterwards.label()));
    format!("{} ({by}{})", mode.label(), then.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn which_by_whom_until_when() {
        let now = Timestamp::from_nanos(1_000_000_000);
        let mode = detector_common::mode::Mode::default().configured(false, 0);
        assert_eq!(describe(&InForce::new(&mode, now)), "observe (configured)");
        let passing = mode.ordered(true, now.plus(Duration::from_secs(600)).as_nanos());
        assert_eq!(describe(&InForce::new(&passing, now)), "enforce (by an operator, for 10m, then observe)");
        assert_eq!(describe(&InForce::new(&mode.ordered(true, FOREVER), now)), "enforce (by an operator)");
    }
}
