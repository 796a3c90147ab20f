//! A thread that does one thing now and then, and a last time when it is told to end.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::Error;

/// The thread.
pub(super) struct Every {
    thread: thread::JoinHandle<()>,
    stop: Sender<()>,
}

impl Every {
    /// Starts it; it works first when so long has passed.
    pub(super) fn start(
        name: &str,
        interval: Duration,
        mut work: impl FnMut() + Send + 'static,
    ) -> Result<Self, Error> {
        let (stop, stopped) = channel();
        let run = move || {
            loop {
                let goes_on = stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout);
                work();
                if !goes_on {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::System("starting a thread", error.to_string()))?;
        Ok(Self { thread, stop })
    }

    /// Ends it, when it has worked a last time.
    pub(super) fn stop(self) {
        drop(self.stop);
        // A thread that panicked has taken the process with it.
        let _ = self.thread.join();
    }
}
