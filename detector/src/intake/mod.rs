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
mod socket;
mod stream;

#[cfg(test)]
mod tests;

use std::{io, path::PathBuf, sync::Arc, thread};

use nix::unistd::{Gid, Group};
use tracing::{info, warn};

pub use self::peer::{Peer, Refused};
pub use self::stream::Closed;
use self::{serve::Server, sink::Sink, socket::Socket};
use crate::{clock::Timestamp, config::Signals, kernel::Waker, report::Report, telemetry::Metrics};

/// Beyond the queue's default of 10 datagrams only a server that does little is heard in full.
pub const QUEUE_WANTED: u64 = 1024;
/// Datagrams that wait for a socket at most (unix(7), `max_dgram_qlen`); it counts when the socket is made.
const QUEUE: &str = "/proc/sys/net/unix/max_dgram_qlen";

/// Why there are no signal sockets. At most three lines.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody receives there.
    #[error("`{path}` is in use; stop the other detector, or name another socket in `[signals]`")]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("`{path}` is there and not a socket; remove it, or name another socket in `[signals]`")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("can't make the signal socket `{path}`: {what}: {source}; `[signals]` names the sockets")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The system refuses the thread or what wakes it.
    #[error("can't serve the signal sockets: {0}")]
    System(String),
}

impl Error {
    /// The system refused for want of permission (exit code 77).
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// How many datagrams may wait for a socket that is made now.
#[must_use]
pub fn queue_length() -> Option<u64> {
    std::fs::read_to_string(QUEUE).ok()?.trim().parse().ok()
}

/// The group of that name.
#[must_use]
pub fn group(name: &str) -> Option<Gid> {
    Group::from_name(name).ok().flatten().map(|group| group.gid)
}

/// The sockets, bound, with nobody who reads them. Their files go when this does.
#[derive(Debug)]
pub struct Intake {
    datagrams: Vec<Socket<std::os::unix::net::UnixDatagram>>,
    listeners: Vec<Socket<std::os::unix::net::UnixListener>>,
    group: Option<Gid>,
    settings: Signals,
}

impl Intake {
    /// Makes the sockets, and their directories if they are missing.
    ///
    /// # Errors
    /// When somebody has one of them, or the system refuses.
    pub fn bind(settings: &Signals) -> Result<Self, Error> {
        let group = group(&settings.group);
        let intake = Self {
            datagrams: settings.sockets.iter().map(|path| Socket::datagram(path, group)).collect::<Result<_, _>>()?,
            listeners: settings.streams.iter().map(|path| Socket::listener(path, group)).collect::<Result<_, _>>()?,
            group,
            settings: settings.clone(),
        };
        if !intake.datagrams.is_empty() || !intake.listeners.is_empty() {
            if group.is_none() {
                info!(group = settings.group, "no such group: only root may use the signal sockets");
            }
            warn_of_short_queue();
        }
        Ok(intake)
    }

    /// Begins to read them. `take` gets each report with who told it and when it came (on the packets' clock).
    ///
    /// # Errors
    /// Out of file descriptors or threads.
    pub fn start(
        self,
        metrics: Arc<Metrics>,
        take: impl FnMut(&Report<'_>, Peer, Timestamp) + Send + 'static,
    ) -> Result<Reading, Error> {
        let system = |error: &dyn std::fmt::Display| Error::System(error.to_string());
        let waker = Waker::new().map_err(|error| system(&error))?;
        let sink = Sink::new(&self.settings, self.group, metrics, take);
        let mut server = Server::new(self, waker.clone(), sink).map_err(|error| system(&error))?;
        let thread = thread::Builder::new().name("reports".to_owned()).spawn(move || server.run());
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
