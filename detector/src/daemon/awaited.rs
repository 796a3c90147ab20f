//! Listeners that the socket broker may not have for the daemon yet. It starts without: that nobody sees its figures must not
//! keep it from watching packets. It says so, and asks again until it has its listener.

use std::{fmt::Display, sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::sleep};
use tracing::{error, info};

use crate::broker::Opener;

/// Between two tries.
const AGAIN: Duration = Duration::from_secs(3);

/// Tries between two lines of the log: one a minute.
const TELL_EVERY: u32 = 20;

/// How one is made.
type Bind<L> = Arc<dyn Fn() -> Result<L, String> + Send + Sync>;

/// A listener, or the way to it.
pub(super) enum Awaited<L> {
    /// It is there.
    There(L),
    /// It isn't yet.
    Missing(Bind<L>),
}

impl<L: Send + 'static> Awaited<L> {
    /// What `bind` makes.
    ///
    /// # Errors
    /// When it makes none, and this process opens its own sockets: another try would do no better.
    pub(super) fn bind<E: Display>(
        opener: &Opener,
        bind: impl Fn(&Opener) -> Result<L, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        match bind(opener) {
            Ok(listener) => Ok(Self::There(listener)),
            Err(error) if *opener == Opener::Own => Err(error),
            Err(error) => {
                tell(&error);
                let opener = opener.clone();
                Ok(Self::Missing(Arc::new(move || bind(&opener).map_err(|error| error.to_string()))))
            }
        }
    }

    /// The listener, as soon as it is there.
    pub(super) async fn listener(self) -> L {
        let bind = match self {
            Self::There(listener) => return listener,
            Self::Missing(bind) => bind,
        };
        let mut tries = 0_u32;
        loop {
            sleep(AGAIN).await;
            let bind = Arc::clone(&bind);
            match spawn_blocking(move || bind()).await {
                Ok(Ok(listener)) => {
                    info!("what was missing is served now");
                    return listener;
                }
                Ok(Err(error)) => {
                    tries = tries.wrapping_add(1);
                    if tries.is_multiple_of(TELL_EVERY) {
                        tell(&error);
                    }
                }
                // The runtime is ending.
                Err(_) => {}
            }
        }
    }
}

fn tell(error: &impl Display) {
    error!(%error, again_s = AGAIN.as_secs(), "something can't be served yet; the daemon goes on without, and tries again");
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[test]
    fn who_opens_its_own_sockets_fails_at_once() {
        let bound = Awaited::bind(&Opener::Own, |_| Err::<(), _>("in use"));
        assert_eq!(bound.err(), Some("in use"));
        assert!(matches!(Awaited::bind(&Opener::Own, |_| Ok::<_, String>(7)), Ok(Awaited::There(7))));
    }

    #[test]
    fn who_has_a_broker_waits_for_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let opener = Opener::Broker(Path::new("/nonexistent").into());
        let tries = AtomicU32::new(0);
        let second = move |_: &Opener| match tries.fetch_add(1, Ordering::Relaxed) {
            0 => Err("not there"),
            tries => Ok(tries),
        };
        let awaited = Awaited::bind(&opener, second).unwrap();
        assert!(matches!(awaited, Awaited::Missing(_)));
        assert_eq!(runtime.block_on(awaited.listener()), 1);
    }
}
