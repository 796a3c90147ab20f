//! `detector sockets`: the socket broker, as detector-sockets.service runs it. In: the socket that a service manager hands
//! over. Out: Internet sockets for the daemon, and for nobody else.

use std::env;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::unistd::User;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Exit, Failure};
use crate::broker::serve::{Configured, serve};
use crate::config::{Config, Overrides};
use crate::kernel;
use crate::telemetry::logs;

/// The name of the socket among those that a service manager hands over.
const INHERITED: &str = "sockets";

const EXAMPLES: &str = "\
Opens what `detector run` may not open itself, where DETECTOR_SOCKETS names its socket: the
metrics page, `listen` in [inline], connections to resolvers and to challenge listeners.
Only for that user's processes; anything else is refused, and logged.

Examples:
  detector sockets --user detector             as detector-sockets.service runs it
  detector sockets --config /etc/detector/test.toml
  DETECTOR_SOCKETS=/run/detector-sockets.sock detector run     who asks it

What it refused: journalctl --unit detector-sockets";

/// `detector sockets`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SocketsArgs {
    /// Whose processes it opens sockets for
    #[arg(long, value_name = "NAME", default_value = "detector")]
    user: String,
    /// The configuration [default: /etc/detector/detector.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "DETECTOR_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
}

/// Opens sockets until SIGTERM or SIGINT.
///
/// # Errors
/// When the configuration is wrong, there is no such user, or no socket was handed over.
pub fn run(args: &SocketsArgs, _: &mut impl Write) -> Result<Exit, Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    let overrides = Overrides { file: args.config.clone(), ..Overrides::default() };
    let config = Config::load(&overrides).map_err(|error| usage(error.to_string()))?;
    logs::init(&config.log).map_err(|error| usage(error.to_string()))?;
    let owner = User::from_name(&args.user).ok().flatten().ok_or_else(|| {
        usage(format!("there is no user `{}`\n`systemd-sysusers detector.conf` makes the packages' one", args.user))
    })?;
    let listener = inherited().ok_or_else(|| {
        usage(
            "no socket was handed over\na service manager starts this: systemctl start detector-sockets.socket".into(),
        )
    })?;
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("can't open sockets: {error}"));
    let configured = Configured::new(config, overrides);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let served = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
        });
        serve(listener, owner.uid.as_raw(), move || configured.rules(), shutdown).await
    });
    served.map_err(failed)?;
    Ok(Exit::Done)
}

/// The socket that a service manager handed over.
fn inherited() -> Option<UnixListener> {
    let [pid, count, names] =
        ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(|variable| env::var(variable).unwrap_or_default());
    kernel::inherited(INHERITED, &pid, &count, &names).into_iter().next().map(UnixListener::from)
}
