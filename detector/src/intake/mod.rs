//! Room 9: the signal sockets, on which web servers tell of requests. In: datagrams and lines of those who may send them.
//! Out: each [`Report`], with who told it and when it came, to a callback on the thread `reports`; all else is counted.
//!
//! A web server must never wait for this: it sends datagrams without blocking, and what the queue can't hold is dropped by
//! the kernel, where only gaps in the requests' numbers tell of it ([`loss`]). Bounds: one frame of 64 KiB for all
//! datagrams and one for each stream, `signals.connections` streams, `signals.tracked_connections` connections.

mod datagram;
pub mod loss;
mod peer;
mod serve;
mod sink;
mod stream;

#[cfg(test)]
mod tests;

use std::{
    os::unix::net::{UnixDatagram, UnixListener},
    sync::Arc,
    thread,
};

use nix::unistd::Gid;
use tracing::warn;

pub use self::peer::{Peer, Refused};
pub use self::stream::Closed;
pub(crate) use self::stream::Lines;
use self::{serve::Server, sink::Sink};
use crate::{
    clock::Timestamp,
    config::Signals,
    door::socket::{SIGNAL, Socket, SocketError, group},
    kernel::{Waker, run_before_ordinary},
    report::Report,
    telemetry::Metrics,
};

/// Beyond the queue's default of 10 datagrams only a server that does little is heard in full.
pub const QUEUE_WANTED: u64 = 1024;
/// Datagrams that wait for a socket at most (unix(7), `max_dgram_qlen`); it counts when the socket is made.
const QUEUE: &str = "/proc/sys/net/unix/max_dgram_qlen";

/// Why there are no signal sockets. At most three lines.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The system refuses the thread or what wakes it.
    #[error("can't serve the signal sockets: {0}")]
    System(String),
}

impl Error {
    /// The system refused for want of permission (exit code 77).
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Socket(error) if error.is_permission())
    }
}

/// How many datagrams may wait for a socket that is made now.
#[must_use]
pub fn queue_length() -> Option<u64> {
    std::fs::read_to_string(QUEUE).ok()?.trim().parse().ok()
}

/// The sockets, bound, with nobody who reads them. Their files go when this does.
#[derive(Debug)]
pub struct Intake {
    datagrams: Vec<Socket<UnixDatagram>>,
    listeners: Vec<Socket<UnixListener>>,
    group: Option<Gid>,
    settings: Signals,
}

impl Intake {
    /// Makes the sockets, and their directories if they are missing.
    ///
    /// # Errors
    /// When somebody has one of them, or the system refuses.
    pub fn bind(settings: &Signals) -> Result<Self, Error> {
        let datagram = |path| Socket::datagram(SIGNAL, path, &settings.group);
        let listener = |path| Socket::listener(SIGNAL, path, &settings.group);
        let intake = Self {
            datagrams: settings.sockets.iter().map(|path| datagram(path)).collect::<Result<_, _>>()?,
            listeners: settings.streams.iter().map(|path| listener(path)).collect::<Result<_, _>>()?,
            group: group(&settings.group),
            settings: settings.clone(),
        };
        if !intake.datagrams.is_empty() || !intake.listeners.is_empty() {
            warn_of_short_queue();
        }
        Ok(intake)
    }

    /// Begins to read them. `take` gets each report with who told it and when it came (on the packets' clock); `alive` is
    /// called each second at least.
    ///
    /// # Errors
    /// Out of file descriptors or threads.
    pub fn start(
        self,
        metrics: Arc<Metrics>,
        take: impl FnMut(&Report<'_>, Peer, Timestamp) + Send + 'static,
        alive: impl Fn() + Send + 'static,
    ) -> Result<Reading, Error> {
        let system = |error: &dyn std::fmt::Display| Error::System(error.to_string());
        if !self.datagrams.is_empty() {
            metrics.requests.queue_length.set(queue_length().unwrap_or(0));
        }
        let waker = Waker::new().map_err(|error| system(&error))?;
        let sink = Sink::new(&self.settings, self.group, metrics, take);
        let mut server = Server::new(self, waker.clone(), sink).map_err(|error| system(&error))?;
        let thread = thread::Builder::new().name("reports".to_owned()).spawn(move || {
            run_before_ordinary();
            server.run(alive);
        });
        Ok(Reading { waker, thread: Some(thread.map_err(|error| system(&error))?) })
    }
}

fn warn_of_short_queue() {
    if let Some(queue) = queue_length().filter(|queue| *queue < QUEUE_WANTED) {
        warn!(
            queue,
            "net.unix.max_dgram_qlen is below {QUEUE_WANTED}: a busy web server's reports get lost; \
             run `sysctl -w net.unix.max_dgram_qlen={QUEUE_WANTED}` and restart detector"
        );
    }
}

/// The thread that reads. It ends with this.
#[derive(Debug)]
pub struct Reading {
    waker: Waker,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
