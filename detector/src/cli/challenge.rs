//! `detector challenge`, `unchallenge`: a subject in, what was done, until when and how to undo it out.

use std::io::Write;

use super::change::{Target, change, ttl};
use super::client::ControlArgs;
use super::{Exit, Failure};
use crate::{admin::protocol::Request, policy::terms::Layer};

const CHALLENGE_EXAMPLES: &str = "\
Steered are new connections, while a challenge listener is registered and healthy; else they reach the site.
Clients with a JA4 value are steered in mode enforce, from addresses where they alone were seen for an hour.

Examples:
  detector challenge 192.0.2.7
  detector challenge 2001:db8::/48 --ttl 7d
  detector challenge 192.0.2.7 --at inline
  detector challenge --ja4 t13d1516h2_8daaf6152771_e5627efa2ab1 --ttl 10m";
const UNCHALLENGE_EXAMPLES: &str = "\
Examples:
  detector unchallenge 192.0.2.7
  detector unchallenge --ja4 t13d1516h2_8daaf6152771_e5627efa2ab1
  detector list                       shows what there is to take back";

/// `detector challenge`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = CHALLENGE_EXAMPLES)]
pub struct ChallengeArgs {
    #[command(flatten)]
    target: Target,
    /// For how long: 90s, 1h, 7d or forever
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: String,
    /// `inline`: steer none, challenge requests of web servers that ask
    #[arg(long, value_enum, default_value_t, hide_default_value = true, hide_possible_values = true)]
    at: Layer,
    #[command(flatten)]
    control: ControlArgs,
}

/// `detector unchallenge`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = UNCHALLENGE_EXAMPLES)]
pub struct UnchallengeArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    control: ControlArgs,
}

/// Challenges.
///
/// # Errors
/// When the arguments are wrong, or the daemon doesn't do it.
pub fn challenge(args: &ChallengeArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let request = Request::Challenge { subject: args.target.subject()?, ttl: ttl(&args.ttl)?, at: args.at };
    change(&request, &args.control, out)
}

/// Takes a challenge back.
///
/// # Errors
/// When the arguments are wrong, or the daemon doesn't do it.
pub fn unchallenge(args: &UnchallengeArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    change(&Request::Unchallenge { subject: args.target.subject()? }, &args.control, out)
}
