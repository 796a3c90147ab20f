//! What the service manager is told (sd_notify(3)): that the daemon is ready, that it ends, and, for its watchdog, that
//! every part gets on. In: [`Progress`]. Out: datagrams to the socket that NOTIFY_SOCKET names; without one, none.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use sd_notify::NotifyState;
use tracing::{error, warn};

use super::progress::{Part, Progress};
use crate::{clock::monotonic, kernel::Attached};

/// The longest time between two looks: parts tell of themselves each second.
const LOOK: Duration = Duration::from_secs(2);

/// The service manager.
pub(super) struct Manager {
    stop: Sender<()>,
    watchdog: Option<thread::JoinHandle<()>>,
}

impl Manager {
    /// Says that the daemon is ready, and where it is attached; from then on feeds the watchdog, if there is one.
    pub(super) fn ready(attached: &[Attached], progress: Arc<Progress>) -> std::io::Result<Self> {
        let place = |attached: &Attached| format!("{} ({})", attached.interface, attached.mode.label());
        let places = attached.iter().map(place).collect::<Vec<_>>().join(", ");
        tell(&[NotifyState::Ready, NotifyState::Status(&format!("attached to {places}"))]);
        let (stop, stopped) = channel();
        let feed = |patience: Duration| {
            thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
                watch(&progress, patience, |wait| stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout));
            })
        };
        let watchdog = sd_notify::watchdog_enabled().map(feed).transpose()?;
        Ok(Self { stop, watchdog })
    }

    /// Says that the daemon ends. It isn't watched any more.
    pub(super) fn stopping(self) {
        tell(&[NotifyState::Stopping]);
        let Self { stop, watchdog } = self;
        drop(stop);
        if let Some(thread) = watchdog {
            // A thread that panicked has taken the process with it.
            let _ = thread.join();
        }
    }
}

/// Feeds the watchdog as long as `goes_on` after a wait. Who keeps it from being fed is named halfway to `patience`, when
/// the manager kills this process: afterwards nobody can tell.
fn watch(progress: &Progress, patience: Duration, goes_on: impl Fn(Duration) -> bool) {
    let (mut fed, mut said) = (monotonic(), false);
    while goes_on(LOOK.min(patience / 4)) {
        match progress.by_all() {
            Ok(()) => {
                tell(&[NotifyState::Watchdog]);
                if std::mem::take(&mut said) {
                    warn!("all parts get on again");
                }
                fed = monotonic();
            }
            Err(still) if !said && monotonic().since(fed) >= patience / 2 => {
                said = true;
                let still = still.into_iter().map(Part::label).collect::<Vec<_>>().join(", ");
                let in_s = (patience / 2).as_secs();
                error!(still, in_s, "stands still; the service manager is about to restart detector");
            }
            Err(_) => {}
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager can't be told");
    }
}
