//! `detector log`: what the running daemon logs. A filter in; what holds from then on, and how to take it back, out.

use std::io::Write;

use super::client::{Client, ControlArgs};
use super::{Exit, Failure};
use crate::admin::protocol::{Request, Response};
use crate::config::LogFilter;

const EXAMPLES: &str = "\
Examples:
  detector log                              what is logged
  detector log debug                        more, at once
  detector log detector::inline=debug,info  each answer to a web server, beside the usual

It holds until the daemon ends, or a reload that changes `filter` in [log].";

/// `detector log`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct LogArgs {
    /// off, error, warn, info, debug or trace; for parts of the program PART=LEVEL,… [default: only show it]
    #[arg(value_name = "FILTER")]
    filter: Option<LogFilter>,
    #[command(flatten)]
    control: ControlArgs,
}

/// Shows what is logged, or changes it.
///
/// # Errors
/// When the daemon can't be asked.
pub fn run(args: &LogArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let asks = args.filter.is_none();
    let mut client = if asks { Client::reader(&args.control)? } else { Client::connect(&args.control)? };
    let mut ask = |filter: Option<LogFilter>| match client.ask(&Request::Log { filter })? {
        Response::Log { filter } => Ok(filter),
        _ => Err(Failure::new(Exit::Failed, "the daemon answers something else; is it of another version?")),
    };
    let before = ask(None)?;
    let Some(wanted) = &args.filter else {
        writeln!(out, "log {}", before.as_str())?;
        return Ok(Exit::Done);
    };
    let now = ask(Some(wanted.clone()))?;
    writeln!(out, "log {}\nundo: detector log {}{}", now.as_str(), before.as_str(), args.control.suffix())?;
    Ok(Exit::Done)
}
